#!/usr/bin/env python3
"""The distillation step in PyTorch: the peer of `matvlm bench step`. The same sizes, losses and trained tensors; random
weights, bf16, one GPU. Prints milliseconds, tokens/s and peak memory.

    [PYTHONPATH=DIRECTORY_WITH_mamba_ssm] tests/bench/peer_step.py [--compile] [--checkpoint] [--batch 4] [--length 1024]

What a careful user would write: frozen weights held once and shared with the teacher, one vision pass without its last
block, only the mixers on the teacher's inputs, scaled_dot_product_attention, fused AdamW with bf16 states. The mixers use
mamba_ssm's Triton kernels where its Python sources are on PYTHONPATH (its compiled extensions are not needed), else plain
PyTorch, and the output says which. --tiny runs small sizes anywhere, to see that the script works.
"""
import argparse
import importlib
import importlib.util
import json
import math
import os
import statistics
import sys
import time
import types

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.checkpoint import checkpoint
except ImportError:
    print("peer_step: no module torch on this machine: nothing was timed")
    sys.exit(0)

FULL = dict(
    width=2560, layers=32, heads=32, mlp=10240, vocab=51200, rotary=32, every=4,
    vision_width=1152, vision_layers=26, vision_heads=16, vision_mlp=4304, image=384, patch=14,
)
TINY = dict(
    width=64, layers=4, heads=4, mlp=128, vocab=97, rotary=8, every=2,
    vision_width=48, vision_layers=2, vision_heads=4, vision_mlp=96, image=56, patch=14,
)
CONV_TAPS = 4
CHUNK = 256


def triton_kernels():
    """(scan, gated norm) of mamba_ssm, or None; its package __init__, which wants compiled extensions, is not run."""
    wanted = ("triton", "einops", "packaging")
    file = "mamba_ssm/ops/triton/ssd_combined.py"
    root = next((p for p in sys.path if os.path.isfile(os.path.join(p or ".", file))), None)
    if root is None or any(importlib.util.find_spec(name) is None for name in wanted):
        return None
    for package in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.utils"):
        module = types.ModuleType(package)
        module.__path__ = [os.path.join(root or ".", *package.split("."))]
        sys.modules[package] = module
    scan = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    norm = importlib.import_module("mamba_ssm.ops.triton.layernorm_gated").rmsnorm_fn
    # torch.compile stops at these two: traced into, their kernels would be tuned a second time, one compilation after another.
    return torch.compiler.disable(scan), torch.compiler.disable(norm)


def plain_scan(x, dt, a, b, c, d, dt_bias):
    """The recurrence in chunks: inside a chunk by products, between chunks by a loop. x, b, c: [B, L, H, P]."""
    batch, length, heads, width = x.shape
    chunk = min(64, length)
    padded = (length + chunk - 1) // chunk * chunk
    pad = (0, 0, 0, 0, 0, padded - length)
    dt = F.pad(F.softplus(dt.float() + dt_bias), (0, 0, 0, padded - length))
    x32, b32, c32 = (F.pad(t.float(), pad).view(batch, -1, chunk, heads, width) for t in (x, b, c))
    dt = dt.view(batch, -1, chunk, heads)
    total = torch.cumsum(dt * a, dim=2)
    weighted = x32 * dt.unsqueeze(-1)
    decay = total.unsqueeze(3) - total.unsqueeze(2)  # [B, chunks, to, from, H]
    seen = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril().view(1, 1, chunk, chunk, 1)
    decay = torch.exp(decay.masked_fill(~seen, float("-inf")))
    scores = torch.einsum("bqihn,bqjhn->bqijh", c32, b32) * decay
    inside = torch.einsum("bqijh,bqjhp->bqihp", scores, weighted)
    left = torch.exp(total[:, :, -1:] - total)
    states = torch.einsum("bqjhp,bqjhn,bqjh->bqhpn", weighted, b32, left)
    state = torch.zeros_like(states[:, 0])
    before = []
    for q in range(states.shape[1]):
        before.append(state)
        state = state * torch.exp(total[:, q, -1])[..., None, None] + states[:, q]
    across = torch.einsum("bqihn,bqhpn,bqih->bqihp", c32, torch.stack(before, 1), torch.exp(total))
    y = (inside + across).reshape(batch, padded, heads, width)[:, :length]
    return (y + x.float() * d.view(1, 1, heads, 1)).to(x.dtype)


def frozen_linear(n_in, n_out):
    layer = nn.Linear(n_in, n_out)
    layer.requires_grad_(False)
    return layer


class Attention(nn.Module):
    def __init__(self, width, heads, rotary=0, causal=True):
        super().__init__()
        self.q, self.k, self.v, self.out = (frozen_linear(width, width) for _ in range(4))
        self.heads, self.rotary, self.causal = heads, rotary, causal

    def turned(self, x, cosine, sine):
        rotated, rest = x[..., : self.rotary], x[..., self.rotary :]
        low, high = rotated.chunk(2, dim=-1)
        swapped = torch.cat((-high, low), dim=-1)
        return torch.cat((rotated * cosine + swapped * sine, rest), dim=-1)

    def forward(self, x, tables=None):
        batch, length, width = x.shape
        q, k, v = (p(x).view(batch, length, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        if self.rotary:
            q, k = (self.turned(t, *tables) for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Mixer(nn.Module):
    def __init__(self, width, heads, kernels):
        super().__init__()
        self.heads, self.head_width, self.kernels = heads, width // heads, kernels
        self.in_proj = nn.Linear(width, 4 * width + heads, bias=False)
        self.conv = nn.Conv1d(3 * width, 3 * width, CONV_TAPS, groups=3 * width, padding=CONV_TAPS - 1)
        self.a_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1, 16)))
        self.d = nn.Parameter(torch.ones(heads))
        step = torch.exp(torch.empty(heads).uniform_(math.log(0.001), math.log(0.1)))
        self.dt_bias = nn.Parameter(torch.log(torch.expm1(step)))
        self.norm = nn.Parameter(torch.ones(width))
        self.out_proj = nn.Linear(width, width, bias=False)

    def start_from(self, attention):
        """v, k and q become the rows of x, B and C; the output projection is taken over."""
        width = self.out_proj.in_features
        with torch.no_grad():
            for i, source in enumerate((attention.v, attention.k, attention.q)):
                self.in_proj.weight[(i + 1) * width : (i + 2) * width].copy_(source.weight)
            self.out_proj.weight.copy_(attention.out.weight)

    def forward(self, u, tables=None):
        batch, length, width = u.shape
        z, xbc, dt = self.in_proj(u).split((width, 3 * width, self.heads), dim=-1)
        xbc = F.silu(self.conv(xbc.transpose(1, 2))[..., :length].transpose(1, 2))
        x, b, c = (t.view(batch, length, self.heads, self.head_width) for t in xbc.chunk(3, dim=-1))
        a = -torch.exp(self.a_log.float())
        if self.kernels is not None:
            scan, norm = self.kernels
            y = scan(x, dt, a, b, c, CHUNK, D=self.d, dt_bias=self.dt_bias.float(), dt_softplus=True)
            y = y.reshape(batch, length, width)
            y = norm(y, self.norm, None, z=z, eps=1e-5, group_size=self.head_width, norm_before_gate=False)
        else:
            y = plain_scan(x, dt, a, b, c, self.d.float(), self.dt_bias.float()).reshape(batch, length, width)
            y = (y.float() * F.silu(z.float())).view(batch, length, self.heads, self.head_width)
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)
            y = (y.view(batch, length, width) * self.norm.float()).to(u.dtype)
        return self.out_proj(y)


class Block(nn.Module):
    """Parallel residual on one norm (Phi), or two sequential ones (the tower)."""

    def __init__(self, width, inner, mixer, parallel):
        super().__init__()
        self.norm, self.mixer, self.parallel = nn.LayerNorm(width), mixer, parallel
        self.post_norm = None if parallel else nn.LayerNorm(width)
        self.fc1, self.fc2 = frozen_linear(width, inner), frozen_linear(inner, width)
        for norm in (self.norm, self.post_norm):
            if norm is not None:
                norm.requires_grad_(False)

    def mlp(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))

    def forward(self, h, tables, mixer=None):
        normed = self.norm(h)
        mixed = (mixer or self.mixer)(normed, tables)
        if self.parallel:
            return h + mixed + self.mlp(normed), normed, mixed
        h = h + mixed
        return h + self.mlp(self.post_norm(h)), normed, mixed


class Model(nn.Module):
    def __init__(self, size, kernels):
        super().__init__()
        d, v = size["width"], size["vision_width"]
        self.patches = frozen_linear(3 * size["patch"] ** 2, v)
        self.positions = nn.Parameter(torch.randn((size["image"] // size["patch"]) ** 2, v) * 0.02, requires_grad=False)
        self.tower = nn.ModuleList(
            Block(v, size["vision_mlp"], Attention(v, size["vision_heads"], causal=False), False)
            for _ in range(size["vision_layers"])
        )
        self.connector = nn.Sequential(frozen_linear(v, d), nn.GELU(), frozen_linear(d, d))
        self.own_connector = nn.Sequential(nn.Linear(v, d), nn.GELU(), nn.Linear(d, d))
        self.own_connector.load_state_dict(self.connector.state_dict())
        self.embedding = nn.Embedding(size["vocab"], d)
        self.embedding.requires_grad_(False)
        self.blocks = nn.ModuleList(
            Block(d, size["mlp"], Attention(d, size["heads"], size["rotary"]), True) for _ in range(size["layers"])
        )
        self.mixers = nn.ModuleDict()
        for i in range(0, size["layers"], size["every"]):
            mixer = Mixer(d, size["heads"], kernels)
            mixer.start_from(self.blocks[i].mixer)
            self.mixers[str(i)] = mixer
        self.final_norm = nn.LayerNorm(d)
        self.final_norm.requires_grad_(False)
        self.head = frozen_linear(d, size["vocab"])
        self.size = size

    def see(self, images):
        p = self.size["patch"]
        side = self.size["image"] // p
        x = images[:, :, : side * p, : side * p].unfold(2, p, p).unfold(3, p, p)
        x = x.permute(0, 2, 3, 1, 4, 5).reshape(images.shape[0], side * side, -1)
        h = self.patches(x) + self.positions
        for block in self.tower:
            h = block(h, None)[0]
        return h

    def tables(self, length, device, dtype):
        n = self.size["rotary"]
        speeds = 10000.0 ** (-torch.arange(0, n, 2, device=device).float() / n)
        angles = torch.arange(length, device=device).float()[:, None] * speeds[None]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def student_forward(model, h, tables, recompute):
    for i, block in enumerate(model.blocks):
        mixer = model.mixers[str(i)] if str(i) in model.mixers else None

        def run(x, block=block, mixer=mixer):
            return block(x, tables, mixer)[0]

        h = checkpoint(run, h, use_reentrant=False) if recompute else run(h)
    return model.final_norm(h)


def teacher_forward(model, h, tables):
    kept = {}
    for i, block in enumerate(model.blocks):
        h, normed, mixed = block(h, tables)
        if str(i) in model.mixers:
            kept[str(i)] = (normed, mixed)
    return model.final_norm(h), kept


def losses(model, student_logits, teacher_logits, kept, tables, rows):
    """KL over the masked rows and the Euclidean norm of each layer's difference, per sample, averaged over samples."""
    batch = student_logits.shape[0]
    s = F.log_softmax(student_logits[:, rows].float(), dim=-1)
    t = F.log_softmax(teacher_logits[:, rows].float(), dim=-1)
    total = F.kl_div(s, t, reduction="sum", log_target=True) / batch
    for name, (normed, expected) in kept.items():
        difference = (model.mixers[name](normed, tables) - expected)[:, rows].float()
        total = total + difference.flatten(1).norm(dim=1).sum() / batch
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks of teacher and student")
    parser.add_argument("--checkpoint", action="store_true", help="recompute the student's blocks in backward")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024, help="positions of a sample, the picture's included")
    parser.add_argument("--updates", type=int, default=9, help="timed, after 3 others")
    parser.add_argument("--tiny", action="store_true", help="small sizes, float32, also without a GPU")
    parser.add_argument("--json", help="file for the results")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not args.tiny:
        print("peer_step: no GPU: nothing was timed (--tiny runs anywhere)")
        return
    size = TINY if args.tiny else FULL
    device = torch.device("cuda" if gpu else "cpu")
    dtype = torch.float32 if args.tiny else torch.bfloat16
    kernels = triton_kernels() if gpu else None
    torch.manual_seed(1)
    with device:
        model = Model(size, kernels)
    model.to(dtype)
    for mixer in model.mixers.values():
        for p in (mixer.a_log, mixer.d, mixer.dt_bias):
            p.data = p.data.float()
    tokens = model.positions.shape[0]
    if args.length <= tokens:
        parser.error(f"--length: found {args.length}, expected more than the picture's {tokens} positions")
    if args.compile:
        # Block by block: the whole loops would be unrolled and take minutes.
        for block in [*model.blocks, *model.tower]:
            block.compile()
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in trained if p.dim() > 1]
    plain = [p for p in trained if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-4, betas=(0.9, 0.95), eps=1e-8, fused=gpu)
    generator = torch.Generator(device=device).manual_seed(2)
    images = torch.rand(args.batch, 3, size["image"], size["image"], device=device, dtype=dtype, generator=generator)
    ids = torch.randint(size["vocab"], (args.batch, args.length - tokens), device=device, generator=generator)
    tables = model.tables(args.length, device, dtype)
    rows = torch.arange(args.length, device=device)  # all are valid; indexing is what a mask costs

    def update():
        with torch.no_grad():
            features = model.see(images)
            words = model.embedding(ids)
            final, kept = teacher_forward(model, torch.cat((model.connector(features), words), dim=1), tables)
            teacher_logits = model.head(final)
        hidden = student_forward(model, torch.cat((model.own_connector(features), words), dim=1), tables, args.checkpoint)
        loss = losses(model, model.head(hidden), teacher_logits, kept, tables, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    times = []
    for i in range(3 + args.updates):
        if gpu:
            torch.cuda.synchronize()
            if i == 3:
                torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        loss = update().item()
        if gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        if i >= 3:
            times.append(1e3 * seconds)
        else:  # compilation and tuning take minutes: say how far it is
            print(f"peer_step: warm-up {i + 1} of 3: {seconds:.1f} s", file=sys.stderr, flush=True)
    ms = statistics.median(times)
    result = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0) if gpu else "cpu",
        "mixer": "mamba_ssm Triton" if kernels else "plain PyTorch",
        "compile": args.compile,
        "checkpoint": args.checkpoint,
        "batch": args.batch,
        "length": args.length,
        "ms": ms,
        "tokens_per_second": args.batch * args.length / ms * 1e3,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0,
        "trained": sum(p.numel() for p in trained),
        "loss": loss,
    }
    print(
        f"torch {result['torch']}, {result['device']}, mixers by {result['mixer']}"
        f"{', compiled' if args.compile else ''}{', blocks checkpointed' if args.checkpoint else ''}\n"
        f"B {args.batch}, L {args.length}: {ms:.1f} ms, {result['tokens_per_second']:.0f} tokens/s, "
        f"peak {result['peak_gib']:.2f} GiB, {result['trained']} trained, loss {loss:.4g}"
    )
    if args.json:
        with open(args.json, "w") as out:
            json.dump(result, out, indent=2)


if __name__ == "__main__":
    main()
