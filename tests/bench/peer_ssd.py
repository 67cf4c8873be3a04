#!/usr/bin/env python3
"""Times of mamba_ssm's Triton kernels for the SSD recurrence, forward and backward, on one shape of bench_ssd.

    PYTHONPATH=DIRECTORY_WITH_mamba_ssm tests/bench/peer_ssd.py --shape matvlm [--chunk 256] [--json]

Needs torch, triton, einops and packaging. Only the Python sources of mamba_ssm have to be there: its compiled extensions
are not touched. Without them it says so in one line and ends with 0.
"""
import argparse
import importlib
import importlib.util
import json
import math
import os
import statistics
import sys
import types

WARM_UP = 5  # the first call of each kernel tries its configurations
TIMED = 20
COLD_BYTES = 200 << 20  # inputs in rotation: four times the level-2 cache
MAX_SETS = 16


def packed_lengths():
    return [30 + int(670.0 * ((i * 17 % 40 + 0.5) / 40.0) ** 2.85) for i in range(40)]


# lengths, heads, groups of B and C, P, N, chunk; the same as in bench_ssd.
SHAPES = {
    "matvlm": ([1428] * 4, 32, 32, 80, 80, 256),
    "matvlm-long": ([4096] * 2, 32, 32, 80, 80, 128),
    "mamba2-2.7b": ([2048] * 4, 80, 1, 64, 128, 256),
    "single": ([1428], 32, 32, 80, 80, 256),
    "packed": (packed_lengths(), 32, 32, 80, 80, 256),
    **{f"l{n}": ([n], 32, 32, 80, 80, 256) for n in (512, 2048, 8192, 32768, 65536)},
}


def absent(why):
    print(f"peer_ssd: {why}: nothing was timed")
    sys.exit(0)


def load_scan():
    """The autograd function, without running the package's __init__, which wants compiled extensions."""
    for name in ("torch", "triton", "einops", "packaging"):
        if importlib.util.find_spec(name) is None:
            absent(f"no module {name} on this machine")
    path = "mamba_ssm/ops/triton/ssd_combined.py"
    root = next((p for p in sys.path if os.path.isfile(os.path.join(p or ".", path))), None)
    if root is None:
        absent(f"no {path} on PYTHONPATH")
    for package in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.utils"):
        module = types.ModuleType(package)
        module.__path__ = [os.path.join(root or ".", *package.split("."))]
        sys.modules[package] = module
    return importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined


def make_inputs(torch, shape):
    """Model values at the start of training; x, B and C are column ranges of one tensor, as the convolution leaves them.
    Packed samples are one row with the index of the sample at each position."""
    lengths, heads, groups, width, state, _ = shape
    packed = len(set(lengths)) > 1
    batch, length = (1, sum(lengths)) if packed else (len(lengths), lengths[0])
    inner = heads * width
    device = torch.device("cuda")

    def random(columns, deviation=1.0):
        values = (2 * torch.rand(batch, length, columns, device=device) - 1) * math.sqrt(3) * deviation
        return values.to(torch.bfloat16).requires_grad_()

    step = torch.exp(torch.empty(heads, device=device).uniform_(math.log(0.001), math.log(0.1)))
    weights = {
        "A": -torch.empty(heads, device=device).uniform_(1, 16),
        "D": torch.ones(heads, device=device),
        "dt_bias": torch.log(torch.expm1(step)),
    }
    weights = {name: value.requires_grad_() for name, value in weights.items()}
    row_bytes = 2 * (2 * inner + 2 * groups * state + heads)
    sets = []
    for _ in range(min(MAX_SETS, max(2, COLD_BYTES // (batch * length * row_bytes) + 1))):
        fused = random(inner + 2 * groups * state).detach()
        x, b, c = fused.split([inner, groups * state, groups * state], dim=-1)
        sets.append(
            {
                "x": x.view(batch, length, heads, width).requires_grad_(),
                "B": b.view(batch, length, groups, state).requires_grad_(),
                "C": c.view(batch, length, groups, state).requires_grad_(),
                "dt": random(heads, 0.577),
                "dy": random(inner).detach().view(batch, length, heads, width),
            }
        )
    index = None
    if packed:
        counts = torch.tensor(lengths, device=device)
        index = torch.arange(len(lengths), device=device, dtype=torch.int32).repeat_interleave(counts).view(1, -1)
    return sets, weights, index


def median_ms(torch, run, prepare=lambda i: None):
    """Median over calls run(i, prepare(i)); only run is timed, and the host does not wait between calls."""
    for i in range(WARM_UP):
        run(i, prepare(i))
    torch.cuda.synchronize()
    pairs = []
    for i in range(TIMED):
        prepared = prepare(i)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(i, prepared)
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def time_shape(torch, scan, shape, chunk):
    sets, weights, index = make_inputs(torch, shape)

    def forward(i, _):
        s = sets[i % len(sets)]
        return scan(s["x"], s["dt"], weights["A"], s["B"], s["C"], chunk, D=weights["D"], dt_bias=weights["dt_bias"],
                    seq_idx=index, dt_softplus=True)

    def backward(i, y):
        s = sets[i % len(sets)]
        inputs = [s["x"], s["dt"], s["B"], s["C"], *weights.values()]
        return torch.autograd.grad(y, inputs, s["dy"])

    y = forward(0, None)
    for value in (y, *backward(0, y)):
        if not torch.isfinite(value).all():
            sys.exit("peer_ssd: a result is not finite")
    return median_ms(torch, forward), median_ms(torch, backward, lambda i: forward(i, None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--chunk", type=int, help="tokens of a chunk (default: the shape's)")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    options = parser.parse_args()
    scan = load_scan()
    import torch
    import triton

    if not torch.cuda.is_available():
        absent("torch finds no GPU")
    torch.manual_seed(1)
    shape = SHAPES[options.shape]
    chunk = options.chunk or shape[-1]
    forward, backward = time_shape(torch, scan, shape, chunk)
    card = torch.cuda.get_device_name()
    if options.json:
        print(json.dumps({"shape": options.shape, "chunk": chunk, "card": card, "torch": torch.__version__,
                          "triton": triton.__version__, "forward": {"ms": forward}, "backward": {"ms": backward}}))
    else:
        print(f"{options.shape}, chunk {chunk}: Triton forward {forward:.3f} ms, backward {backward:.3f} ms "
              f"({card}, torch {torch.__version__}, triton {triton.__version__})")


if __name__ == "__main__":
    main()
