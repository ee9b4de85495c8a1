#!/usr/bin/env python3
"""Writes rope.json: cosines and sines as transformers 5.23.0 computes them (torch 2.15.0, CPU, float32)."""

import json
import os

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

POSITIONS = [0, 1, 7, 100, 1023, 2048, 8191]
LLAMA3 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
CASES = [
    ("smollm2", 64, dict(rope_type="default", rope_theta=100000.0)),
    ("llama2", 128, dict(rope_type="default", rope_theta=10000.0)),
    ("qwen", 128, dict(rope_type="default", rope_theta=1000000.0)),
    ("llama-3.2-1b", 64, dict(LLAMA3, rope_theta=500000.0, factor=32.0)),
    ("llama-3.1-8b", 128, dict(LLAMA3, rope_theta=500000.0, factor=8.0)),
    ("linear", 64, dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
]

out = []
for name, head_dim, rope in CASES:
    config = LlamaConfig(hidden_size=head_dim * 2, num_attention_heads=2, num_key_value_heads=2, head_dim=head_dim,
                         max_position_embeddings=131072, rope_parameters=rope)
    module = LlamaRotaryEmbedding(config)
    cos, sin = module(torch.zeros(1, dtype=torch.float32), torch.tensor([POSITIONS]))
    half = head_dim // 2
    out.append(dict(name=name, head_dim=head_dim, rope_parameters=rope, positions=POSITIONS,
                    inv_freq=[float(x) for x in module.inv_freq],
                    cos=[float(x) for x in cos[0, :, :half].flatten()], sin=[float(x) for x in sin[0, :, :half].flatten()]))
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rope.json")
with open(path, "w", encoding="utf-8") as f:
    f.write("[\n" + ",\n".join(json.dumps(c) for c in out) + "\n]\n")
