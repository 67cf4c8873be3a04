#!/usr/bin/env python3
"""Times of PyTorch's scaled_dot_product_attention in bf16, forward and backward, for one shape of bench_attention.

    peer_attention.py SHAPE [REPETITIONS]        SHAPE 1 to 5, the rows of bench_attention

Back ends: FlashAttention-2 and cuDNN; cuDNN's backward once as it comes and once with deterministic algorithms.
"""
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SHAPES = [(4, 32, 1428, 80, True), (2, 32, 4096, 80, True), (8, 16, 729, 72, False), (4, 32, 2048, 64, True),
          (4, 16, 4096, 128, True)]


def median_ms(call, repetitions):
    for _ in range(5):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
    torch.cuda.synchronize()
    for start, end in pairs:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in pairs)


def time_backend(backend, deterministic, shape, repetitions):
    batch, heads, length, head_dim, causal = shape
    # [B, L, H, P] in memory, as one projection leaves it.
    qkv = torch.randn(batch, length, 3, heads, head_dim, device="cuda", dtype=torch.bfloat16)
    q, k, v = (x.transpose(1, 2).detach().requires_grad_() for x in qkv.unbind(2))
    torch.use_deterministic_algorithms(deterministic)
    with sdpa_kernel(backend):
        def forward():
            return scaled_dot_product_attention(q, k, v, is_causal=causal)

        forward_ms = median_ms(forward, repetitions)
        out = forward()
        grad = torch.randn_like(out)

        def backward():
            torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)

        return forward_ms, median_ms(backward, repetitions)


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in list("12345"):
        sys.exit(__doc__)
    shape = SHAPES[int(sys.argv[1]) - 1]
    repetitions = int(sys.argv[2]) if len(sys.argv) == 3 else 30
    batch, heads, length, head_dim, causal = shape
    flops = 4 * batch * heads * head_dim * length * length * (0.5 if causal else 1)
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
    runs = [("FlashAttention-2", SDPBackend.FLASH_ATTENTION, False), ("cuDNN", SDPBackend.CUDNN_ATTENTION, False),
            ("cuDNN deterministic", SDPBackend.CUDNN_ATTENTION, True)]
    for name, backend, deterministic in runs:
        try:
            forward_ms, backward_ms = time_backend(backend, deterministic, shape, repetitions)
        except RuntimeError as error:
            print(f"{name}: {str(error).splitlines()[0]}")
            continue
        print(f"B {batch} H {heads} L {length} P {head_dim} {'causal' if causal else 'full'}  {name:20} "
              f"forward {forward_ms:.4f} ms {flops / forward_ms * 1e-9:6.1f} TFLOP/s   "
              f"backward {backward_ms:.4f} ms {2.5 * flops / backward_ms * 1e-9:6.1f} TFLOP/s")


if __name__ == "__main__":
    main()
