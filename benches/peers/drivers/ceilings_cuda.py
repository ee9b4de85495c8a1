"""What the GPU can do at most, by torch: reading memory, and products of bf16 matrices. Run beside what it is compared with.

Lines of JSON: {"kind": "read", "bytes", "samples": [GB/s]} and {"kind": "matmul", "n", "samples": [TFLOP/s]}."""

import torch
from common import say

REPEATS = 30


def seconds(work):
    """Device time of each of REPEATS calls, after some that are thrown away."""
    for _ in range(5):
        work()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return times


say(device=torch.cuda.get_device_name(), version=f"torch {torch.__version__}")
weights = torch.zeros(1 << 31, dtype=torch.bfloat16, device="cuda")
size = weights.numel() * weights.element_size()
say(kind="read", bytes=size, samples=[size / t / 1e9 for t in seconds(lambda: weights.sum())])
del weights
for n in (4096, 8192):
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    say(kind="matmul", n=n, samples=[2 * n**3 / t / 1e12 for t in seconds(lambda: a @ b)])
