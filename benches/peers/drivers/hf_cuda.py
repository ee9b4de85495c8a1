"""transformers on a GPU: MODEL is a Hugging Face folder. Logits of the last position only; greedy, on the device.

--mode eager: attention as transformers picks it, a cache that grows. --mode compiled: a static cache, and the decode step
compiled whole and replayed as a CUDA graph. Ids stay on the device until the end of a decode run, in both: the peer at
its best. Compiling and one whole run come before anything is timed."""

import time

import torch
import transformers
from common import CHECK, SEED, arguments, bench, say

a = arguments(mode=["eager", "compiled"])
device = torch.device("cuda")
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype="auto").to(device).eval()
longest = max([a.D, *(int(x) for x in a.p.split(",") if x)]) + max(a.n, CHECK)
slots = -(-longest // 64) * 64
cache = transformers.StaticCache(config=model.config, max_cache_len=slots) if a.mode == "compiled" else None


def forward(ids, past):
    out = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values


def step(token, past):
    return forward(token, past)[0]


compiled_step = torch.compile(step, mode="reduce-overhead", fullgraph=True)


@torch.inference_mode()
def prefill(ids):
    if cache is not None:
        cache.reset()
    state = forward(torch.tensor([ids], device=device), cache)
    torch.cuda.synchronize()
    return state


@torch.inference_mode()
def decode(state, n):
    token, past = state
    ids = [token]
    for _ in range(n):
        if cache is None:
            token, past = forward(token, past)
        else:
            # The graph's own output is overwritten by its next replay.
            token = compiled_step(token, cache).clone()
        ids.append(token)
    return torch.cat(ids, dim=1)[0].tolist()


start = time.perf_counter()
check = decode(prefill(SEED), CHECK - 1)
decode(prefill(SEED), a.n)
say(runtime=f"transformers {a.mode}", version=f"{transformers.__version__}, torch {torch.__version__}", threads=a.t,
    device=torch.cuda.get_device_name(device), dtype=str(model.dtype).removeprefix("torch."), slots=slots if cache is not None else None,
    warm_up_s=round(time.perf_counter() - start, 1))
say(check=check)
bench(a, prefill, decode)
