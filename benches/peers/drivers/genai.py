"""onnxruntime-genai: MODEL is a folder written by its model builder."""

import json

import onnxruntime_genai as og
from common import arguments
from genai_run import run

a = arguments()
config = og.Config(a.model)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": a.t}}}}))
run(og, og.Model(config), a, runtime="onnxruntime-genai")
