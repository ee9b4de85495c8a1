"""What every driver shares: the command line, the prompt, and the lines it prints.

usage: DRIVER MODEL -p 128,512 -n 64 -D 128 -r 3 -t 2      (-p '': no prompts)

Lines of JSON on standard output:
  {"runtime", "version", "threads"}
  {"check": [the first 12 greedy ids after SEED]}
  {"kind": "pp" | "tg", "n": tokens, "samples": [tokens per second, one for each repetition]}
"""

import argparse
import json
import time

SEED = [6403, 1980, 253, 655, 28, 665, 436, 253, 1838]
CHECK = 12


def arguments(**options):
    p = argparse.ArgumentParser()
    for name, values in options.items():
        p.add_argument(f"--{name}", choices=values, default=values and values[0])
    p.add_argument("model")
    p.add_argument("-p", default="128,512")
    p.add_argument("-n", type=int, default=64)
    p.add_argument("-D", type=int, default=128, help="positions cached before decoding")
    p.add_argument("-r", type=int, default=3)
    p.add_argument("-t", type=int, default=2)
    return p.parse_args()


def say(**line):
    print(json.dumps(line), flush=True)


def prompt(n):
    return [SEED[i % len(SEED)] for i in range(n)]


def bench(a, prefill, decode):
    """`prefill(ids)` -> state, `decode(state, n)`: each timed whole, after one run that is thrown away."""
    for n in (int(x) for x in a.p.split(",") if x):
        samples = []
        for _ in range(a.r + 1):
            t = time.perf_counter()
            state = prefill(prompt(n))
            samples.append(n / (time.perf_counter() - t))
            del state
        say(kind="pp", n=n, samples=samples[1:])
    samples = []
    for _ in range(a.r + 1):
        state = prefill(prompt(a.D))
        t = time.perf_counter()
        decode(state, a.n)
        samples.append(a.n / (time.perf_counter() - t))
        del state
    say(kind="tg", n=a.n, samples=samples[1:])
