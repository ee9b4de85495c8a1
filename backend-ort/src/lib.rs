//! ONNX Runtime behind the phase traits: writes its own graph from the checkpoint.
