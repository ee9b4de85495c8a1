"""onnxruntime-genai: MODEL is a folder written by its model builder. Prefill and every step include the sampling of
its greedy search, which cannot be left out."""

import json

import onnxruntime_genai as og
from common import CHECK, SEED, arguments, bench, say

a = arguments()
config = og.Config(a.model)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": a.t}}}}))
model = og.Model(config)
longest = max(a.D, *(int(x) for x in a.p.split(","))) + a.n + CHECK + 16


def prefill(ids):
    params = og.GeneratorParams(model)
    # min_length keeps it from stopping at an end of sequence.
    params.set_search_options(max_length=longest, min_length=longest, do_sample=False)
    g = og.Generator(model, params)
    g.append_tokens(ids)
    g.generate_next_token()
    return g


def decode(g, n):
    for _ in range(n):
        g.generate_next_token()


say(runtime="onnxruntime-genai", version=og.__version__, threads=a.t)
g = prefill(SEED)
decode(g, CHECK - 1)
say(check=[int(x) for x in g.get_sequence(0)][len(SEED):len(SEED) + CHECK])
del g
bench(a, prefill, decode)
