"""onnxruntime-genai on a GPU: MODEL is a Hugging Face folder, from which its own model builder makes the graph first, in bf16
and with the last position's logits alone. Every step includes the sampling of its greedy search, which cannot be left out.

--mode graph replays a captured CUDA graph; --mode plain launches kernel by kernel. --package DIR holds onnxruntime_genai
unpacked, --library FILE is the ONNX Runtime to run on, whose CUDA provider lies beside it: this machine needs neither
installed, only torch, transformers and onnx-ir for the builder."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from common import CHECK, SEED, arguments, bench, say

a = arguments(mode=["graph", "plain"], package=None, library=None, keep=None)
work = pathlib.Path(a.keep or tempfile.mkdtemp())
graph = work / "graph"


def build():
    """The builder asks for a tokenizer, which random weights lack and nothing here reads."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    source = work / "source"
    source.mkdir(parents=True)
    for file in pathlib.Path(a.model).resolve().iterdir():
        (source / file.name).symlink_to(file)
    if not (source / "tokenizer.json").exists():
        words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="b", unk_token="a").save_pretrained(source)
    builder = pathlib.Path(a.package) / "onnxruntime_genai/models/builder.py"
    options = ["-m", source, "-o", graph, "-p", "bf16", "-e", "cuda", "-c", work / "cache", "--extra_options", "prune_lm_head=true"]
    done = subprocess.run([sys.executable, builder, *options], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode != 0:
        sys.exit(f"the model builder failed:\n{done.stderr[-3000:]}")


def load():
    """onnxruntime_genai finds its runtime as the files of a Python package of that name."""
    place = work / "site/onnxruntime"
    (place / "capi").mkdir(parents=True, exist_ok=True)
    (place / "__init__.py").touch()
    library = pathlib.Path(a.library).resolve()
    for file in library.parent.glob("libonnxruntime*"):
        link = place / "capi" / file.name
        if not link.exists():
            link.symlink_to(file)
    sys.path[:0] = [str(work / "site"), a.package]
    import onnxruntime_genai

    return onnxruntime_genai


if not graph.exists():
    build()
og = load()
config = og.Config(str(graph))
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"provider_options": [
    {"cuda": {"enable_cuda_graph": "1" if a.mode == "graph" else "0"}}]}}}}))
model = og.Model(config)
longest = max([a.D, *(int(x) for x in a.p.split(",") if x)]) + a.n + CHECK + 16


def prefill(ids):
    params = og.GeneratorParams(model)
    # min_length keeps it from stopping at an end of sequence.
    params.set_search_options(max_length=longest, min_length=longest, do_sample=False)
    g = og.Generator(model, params)
    g.append_tokens(ids)
    g.generate_next_token()
    # Reading the token waits for the device.
    g.get_next_tokens()
    return g


def decode(g, n):
    for _ in range(n):
        g.generate_next_token()
    g.get_next_tokens()


say(runtime=f"onnxruntime-genai {a.mode}", version=og.__version__, threads=a.t, dtype="bf16", provider=model.device_type)
g = prefill(SEED)
decode(g, CHECK - 1)
say(check=[int(x) for x in g.get_sequence(0)][len(SEED):len(SEED) + CHECK])
del g
bench(a, prefill, decode)
