"""What the drivers of onnxruntime-genai time. Prefill and every step include the sampling of its greedy search, which cannot
be left out."""

from common import CHECK, SEED, bench, say


def run(og, model, a, **facts):
    longest = max([a.D, *(int(x) for x in a.p.split(",") if x)]) + a.n + CHECK + 16

    def prefill(ids):
        params = og.GeneratorParams(model)
        # min_length keeps it from stopping at an end of sequence.
        params.set_search_options(max_length=longest, min_length=longest, do_sample=False)
        g = og.Generator(model, params)
        g.append_tokens(ids)
        decode(g, 1)
        return g

    def decode(g, n):
        for _ in range(n):
            g.generate_next_token()
        # Reading the token waits for the device.
        g.get_next_tokens()

    say(version=og.__version__, threads=a.t, **facts)
    g = prefill(SEED)
    decode(g, CHECK - 1)
    say(check=[int(x) for x in g.get_sequence(0)][len(SEED):len(SEED) + CHECK])
    del g
    bench(a, prefill, decode)
