"""onnxruntime-genai on a GPU: MODEL is a Hugging Face folder, from which its own model builder makes the graph first, in bf16
and with the last position's logits alone.

--mode graph replays a captured CUDA graph; --mode plain launches kernel by kernel; --mode host takes the processor and f32, to
try this driver where there is no GPU. --package DIR holds onnxruntime_genai unpacked, --library FILE is the ONNX Runtime to run
on, whose CUDA provider lies beside it: this machine needs neither installed, only torch, transformers and onnx-ir for the
builder. --keep DIR keeps the graph for the next mode."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

from common import arguments
from genai_run import run

a = arguments(mode=["graph", "plain", "host"], package=None, library=None, keep=None)
work = pathlib.Path(a.keep or tempfile.mkdtemp())
precision, provider = ("fp32", "cpu") if a.mode == "host" else ("bf16", "cuda")
graph = work / f"graph-{precision}"


def build():
    """The builder asks for a tokenizer, which random weights lack and nothing here reads."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    source = work / "source"
    source.mkdir(parents=True, exist_ok=True)
    for file in pathlib.Path(a.model).resolve().iterdir():
        link(source / file.name, file)
    if not (source / "tokenizer.json").exists():
        words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="b", unk_token="a").save_pretrained(source)
    builder = pathlib.Path(a.package) / "onnxruntime_genai/models/builder.py"
    # Under another name until it is whole.
    unfinished = work / "unfinished"
    options = ["-m", source, "-o", unfinished, "-p", precision, "-e", provider, "-c", work / "cache", "--extra_options", "prune_lm_head=true"]
    done = subprocess.run([sys.executable, builder, *options], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode != 0:
        sys.exit(f"the model builder failed:\n{done.stderr[-3000:]}")
    unfinished.rename(graph)


def link(place, file):
    if not place.is_symlink():
        place.symlink_to(file)


def load():
    """onnxruntime_genai finds its runtime as the files of a Python package of that name."""
    place = work / "site/onnxruntime"
    (place / "capi").mkdir(parents=True, exist_ok=True)
    (place / "__init__.py").touch()
    library = pathlib.Path(a.library).resolve()
    for file in library.parent.glob("libonnxruntime*"):
        link(place / "capi" / file.name, file)
    sys.path[:0] = [str(work / "site"), a.package]
    import onnxruntime_genai

    return onnxruntime_genai


start = time.perf_counter()
if not graph.exists():
    build()
built = time.perf_counter() - start
og = load()
config = og.Config(str(graph))
config.clear_providers()
if provider == "cuda":
    config.append_provider("cuda")
    config.set_provider_option("cuda", "enable_cuda_graph", "1" if a.mode == "graph" else "0")
model = og.Model(config)
run(og, model, a, runtime=f"onnxruntime-genai {a.mode}", dtype=precision, provider=model.device_type, build_s=round(built, 1))
