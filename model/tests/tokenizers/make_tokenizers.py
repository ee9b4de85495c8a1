#!/usr/bin/env python3
"""Writes reference token ids for tokenizers that GGUF files describe.

sentencepiece.json: a BPE model trained by sentencepiece 0.2.x on a few sentences; ids are sentencepiece's own.
pre.json: the tiny byte-level vocabulary of ../golden under other pre-tokenizers; ids are those of `tokenizers` 0.23.3 (Python)
with the pre-tokenizer that the tokenizer.json of GPT-2, Llama 3 and Qwen 2 have.
"""

import io
import json
import os

import sentencepiece as spm
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
TEXTS = [
    "", " ", "Hello world", " Hello  world ", "the cat and the other 1234567 rings", "it's I'LL we've", "a\n\n\n b\r\n\tc", "   three",
    "naïve café", "e\u0301clair", "日本語 テスト", "🙂👍🏽 emoji", "x=(1+2)*3;//note", "\u2581underline", "ends with space ", "¼ ½ 12.5%",
]
CORPUS = [
    "the cat and the other rings are in the house", "hello world, this is a test of the tokenizer", "we have seen it all before and it was good",
    "it is what it is, naïve or not", "there were 1234 cats in 56 houses and 789 rings", "the quick brown fox jumps over the lazy dog",
    "three blind mice see how they run", "underline the ends with a space",
] * 4


def sentence_piece():
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=400, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, hard_vocab_limit=False, minloglevel=2,
    )
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    n = sp.get_piece_size()
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
    return {
        "tokens": [sp.id_to_piece(i) for i in range(n)], "scores": [sp.get_score(i) for i in range(n)],
        "types": [kind(i) for i in range(n)], "bos": sp.bos_id(), "eos": sp.eos_id(),
        "encode": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in TEXTS],
    }


def pre():
    base = json.load(open(os.path.join(HERE, "../golden/tiny/llama-gqa-tied/tokenizer.json"), encoding="utf-8"))
    # Merges that only some of the splits let happen.
    vocab, merges = base["model"]["vocab"], base["model"]["merges"]
    for left, right in ["12", ("12", "3"), ("123", "4"), "45", ("'", "L"), ("'L", "L"), "ĊĊ", ("ĊĊ", "Ċ"), "ĠĠ", ("ĠĠ", "Ġ"), "čĊ", "'s"]:
        vocab.setdefault(left + right, len(vocab))
        merges.append([left, right])
    head = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    tail = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    level = lambda regex: {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}
    split = lambda digits: {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": head + digits + tail}, "behavior": "Isolated", "invert": False}, level(False)]}
    tokens = sorted(vocab, key=vocab.get)
    assert [vocab[t] for t in tokens] == list(range(len(tokens)))
    added = {t["content"] for t in base["added_tokens"]}
    out = {"tokens": tokens, "types": [3 if t in added else 1 for t in tokens], "merges": [" ".join(m) for m in merges], "encode": {}}
    for name, pre_tokenizer, normalizer, ignore_merges in [
        ("gpt-2", level(True), None, False),
        ("llama-bpe", split(r"\p{N}{1,3}"), None, True),
        ("qwen2", split(r"\p{N}"), {"type": "NFC"}, False),
    ]:
        base.update(pre_tokenizer=pre_tokenizer, normalizer=normalizer)
        base["model"]["ignore_merges"] = ignore_merges
        tokenizer = Tokenizer.from_str(json.dumps(base))
        out["encode"][name] = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in TEXTS]
    return out


for name, value in [("sentencepiece", sentence_piece()), ("pre", pre())]:
    with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
