"""A load for `phase energy calibrate --load-command "python3 energy/tools/load_torch.py"`: matrix products on one GPU.

Speaks the line protocol of `phase_energy::calibrate::SubprocessLoad` on standard input and output. Options: --device N,
--size N (the products are N x N in bf16), --slice-ms MS (the period at which a level below 1 alternates).
"""
import argparse
import sys
import time

import torch


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--device", type=int, default=0)
    options.add_argument("--size", type=int, default=4096)
    options.add_argument("--slice-ms", type=float, default=10.0)
    options = options.parse_args()
    slice_ns = int(options.slice_ms * 1e6)
    now = time.monotonic_ns

    device = torch.device("cuda", options.device)
    a = torch.randn(options.size, options.size, device=device, dtype=torch.bfloat16)
    b, c = torch.randn_like(a), torch.empty_like(a)
    for _ in range(200):
        torch.mm(a, b, out=c)
    torch.cuda.synchronize()
    begin = now()
    for _ in range(200):
        torch.mm(a, b, out=c)
    torch.cuda.synchronize()
    each_ns = max(1, (now() - begin) // 200)
    # About a millisecond of work is queued at a time: a pulse ends that late at most.
    batch = max(1, 1_000_000 // each_ns)

    def wait(until):
        while True:
            left = until - now()
            if left <= 0:
                return
            if left > 2_000_000:
                time.sleep((left - 1_500_000) / 1e9)

    def work(until, limit):
        done = 0
        while now() < until:
            # Near the end one product at a time, so that short slices keep their length.
            n = batch if until - now() > 2_000_000 else min(limit, batch, 2)
            for _ in range(n):
                torch.mm(a, b, out=c)
            torch.cuda.synchronize()
            done += n
        return done

    def pulse(start, busy, level):
        wait(start)
        begin, done = now(), 0
        if level >= 1.0:
            done = work(start + busy, batch)
        else:
            at = start
            while at < start + busy:
                done += work(min(at + int(slice_ns * level), start + busy), 1)
                at += slice_ns
                wait(min(at, start + busy))
        return begin, now(), done

    def say(line):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    say(f"ready {torch.cuda.get_device_name(device)}: bf16 products of {options.size}, {each_ns / 1e3:.0f} us each")
    for line in sys.stdin:
        words = line.split()
        if not words:
            continue
        if words[0] == "quit":
            return
        if words[0] == "clock":
            say(f"clock {now()}")
        elif words[0] == "pulses" and len(words) == 6:
            start, period, busy, count = (int(word) for word in words[1:5])
            level = float(words[5])
            # Answers come after the last pulse: writing between pulses would move them.
            done = [pulse(start + k * period, busy, level) for k in range(count)]
            for begin, end, units in done:
                say(f"busy {begin} {end} {units}")
            say("done")
        else:
            say(f"error unknown request {line.strip()!r}")


if __name__ == "__main__":
    try:
        main()
    except Exception as failure:  # Whoever asked is told, on the line it waits for.
        print(f"error {type(failure).__name__}: {failure}", flush=True)
        raise
