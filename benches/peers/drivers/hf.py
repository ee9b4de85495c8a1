"""transformers: MODEL is a Hugging Face folder. Logits of the last position only; greedy."""

import torch
import transformers
from common import CHECK, SEED, arguments, bench, say

a = arguments()
torch.set_num_threads(a.t)
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype="auto").eval()


@torch.inference_mode()
def step(ids, cache):
    out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values


def prefill(ids):
    return step(torch.tensor([ids]), None)


def decode(state, n):
    token, cache = state
    ids = [token.item()]
    for _ in range(n):
        token, cache = step(token, cache)
        ids.append(token.item())
    return ids


say(runtime="transformers", version=f"{transformers.__version__}, torch {torch.__version__}", threads=a.t)
say(check=decode(prefill(SEED), CHECK - 1))
bench(a, prefill, decode)
