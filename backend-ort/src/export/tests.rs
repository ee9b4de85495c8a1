//! A small decoder in Optimum's layout: plain operators, keys and values joined to the past ones.

use crate::{
    Ort, OrtConfig,
    graph::Graph,
    onnx::{AttributeProto as Attribute, Dim, data_type},
};
use phase_core::{Backend, CacheSpec, ErrorKind, LoadSpec, Logits, Model, PhaseError, Prefill, PromptBatch, TokenId, conformance};
use prost::Message;
use std::{io::Write, path::Path};

const VOCAB: usize = 24;
const HIDDEN: usize = 16;
const HEADS: usize = 2;
const CONTEXT: usize = 40;

/// Numbers in -0.5..0.5 that look random.
fn values(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap_or_default()) / 65536.0 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn decoder() -> Graph {
    let mut g = Graph::default();
    let (batch, new, total) = (Dim::Named("batch_size"), Dim::Named("sequence_length"), Dim::Named("total_sequence_length"));
    for (name, dims) in [("input_ids", [batch, new]), ("attention_mask", [batch, total]), ("position_ids", [batch, new])] {
        g.input(name, data_type::INT64, &dims);
    }
    let kv = |len| [batch, Dim::Fixed(HEADS), Dim::Named(len), Dim::Fixed(HIDDEN / HEADS)];
    for part in ["key", "value"] {
        g.input(&format!("past_key_values.0.{part}"), data_type::FLOAT, &kv("past_sequence_length"));
    }
    g.output("logits", data_type::FLOAT, &[batch, new, Dim::Fixed(VOCAB)]);
    for part in ["key", "value"] {
        g.output(&format!("present.0.{part}"), data_type::FLOAT, &kv("total_sequence_length"));
    }
    let int = |n: usize| i64::try_from(n).unwrap();
    g.floats("embedding", &[int(VOCAB), int(HIDDEN)], &values(1, VOCAB * HIDDEN));
    g.floats("positions", &[int(CONTEXT), int(HIDDEN)], &values(2, CONTEXT * HIDDEN));
    for (i, name) in (3..).zip(["wq", "wk", "wv"]) {
        g.floats(name, &[int(HIDDEN), int(HIDDEN)], &values(i, HIDDEN * HIDDEN));
    }
    g.floats("head", &[int(HIDDEN), int(VOCAB)], &values(6, HIDDEN * VOCAB));
    g.floats("never", &[], &[-1e9]);
    for (name, dims, numbers) in [
        ("split", &[4][..], &[0, 0, int(HEADS), -1][..]),
        ("join", &[3], &[0, 0, -1]),
        ("zero", &[], &[0]),
        ("one", &[], &[1]),
        ("axes", &[2], &[1, 3]),
    ] {
        g.integers(name, dims, numbers);
    }
    let swap = |perm: &[i64]| vec![Attribute::ints("perm", perm)];
    let e = g.node("Gather", &["embedding", "input_ids"], "e", vec![]);
    let p = g.node("Gather", &["positions", "position_ids"], "p", vec![]);
    let x = g.node("Add", &[&e, &p], "x", vec![]);
    for (weight, out) in [("wq", "q"), ("wk", "k"), ("wv", "v")] {
        let flat = g.node("MatMul", &[&x, weight], &format!("{out}.flat"), vec![]);
        let heads = g.node("Reshape", &[&flat, "split"], &format!("{out}.heads"), vec![]);
        g.node("Transpose", &[&heads], out, swap(&[0, 2, 1, 3]));
    }
    for (part, new) in [("key", "k"), ("value", "v")] {
        let past = format!("past_key_values.0.{part}");
        g.node("Concat", &[&past, new], &format!("present.0.{part}"), vec![Attribute::int("axis", 2)]);
    }
    let keys = g.node("Transpose", &["present.0.key"], "keys", swap(&[0, 1, 3, 2]));
    let scores = g.node("MatMul", &["q", &keys], "scores", vec![]);
    let shape = g.node("Shape", &["attention_mask"], "mask.shape", vec![]);
    let total = g.node("Gather", &[&shape, "one"], "total", vec![]);
    let columns = g.node("Range", &["zero", &total, "one"], "columns", vec![]);
    let rows = g.node("Unsqueeze", &["position_ids", "axes"], "rows", vec![]);
    let visible = g.node("LessOrEqual", &[&columns, &rows], "visible", vec![]);
    let masked = g.node("Where", &[&visible, &scores, "never"], "masked", vec![]);
    let weights = g.node("Softmax", &[&masked], "weights", vec![Attribute::int("axis", -1)]);
    let mixed = g.node("MatMul", &[&weights, "present.0.value"], "mixed", vec![]);
    let back = g.node("Transpose", &[&mixed], "back", swap(&[0, 2, 1, 3]));
    let joined = g.node("Reshape", &[&back, "join"], "joined", vec![]);
    let y = g.node("Add", &[&x, &joined], "y", vec![]);
    g.node("MatMul", &[&y, "head"], "logits", vec![]);
    g
}

fn write(folder: &Path, graph: Graph) {
    let (model, _) = graph.finish("test");
    std::fs::write(folder.join("model.onnx"), model.encode_to_vec()).unwrap();
    let config = format!(r#"{{"model_type": "llama", "max_position_embeddings": {CONTEXT}}}"#);
    std::fs::write(folder.join("config.json"), config).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "where the library is, is the tester's to say")]
fn backend() -> Option<Ort> {
    let Some(library) = std::env::var_os("PHASE_ORT_LIBRARY") else {
        let _ = writeln!(std::io::stderr(), "skipped: PHASE_ORT_LIBRARY names no ONNX Runtime library");
        return None;
    };
    Some(Ort::cpu().with_config(OrtConfig::default().with_library(library)))
}

#[test]
fn an_export_in_optimum_layout_passes_the_kit() {
    let Some(backend) = backend() else { return };
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), decoder());
    let spec = LoadSpec::new(folder.path()).with_max_batch(4);
    let load = || backend.load(&spec).unwrap();
    conformance::phase_split_is_invisible(load);
    conformance::chunking_is_invisible(load);
    conformance::rows_are_independent(load);
    conformance::sessions_are_independent(load);
    conformance::same_input_same_output(load);
    conformance::lengths_are_counted(load);
    conformance::truncating_forgets(load);
    conformance::overflow_leaves_the_cache_usable(load);
    conformance::bad_input_is_a_kind(load);
    conformance::the_whole_context_is_usable(load);
    conformance::the_largest_batch_is_usable(load);
    conformance::placement_is_evidenced(load);
    conformance::reloading_changes_nothing(load);
    let info = load().info().clone();
    assert_eq!((info.vocab, info.max_context, info.kv_bytes_per_position), (VOCAB, CONTEXT, 2 * 4 * HIDDEN as u64));
    assert_eq!(info.flops_per_token, 2 * 3 * (HIDDEN * HIDDEN) as u64);
}

#[test]
fn the_file_itself_can_be_named_and_scores_depend_on_the_past() {
    let Some(backend) = backend() else { return };
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), decoder());
    let mut model = backend.load(&LoadSpec::new(folder.path().join("model.onnx"))).unwrap();
    let mut scores = |tokens: &[u32]| {
        let tokens: Vec<_> = tokens.iter().map(|t| TokenId(*t)).collect();
        let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 4 }).unwrap();
        let mut out = Logits::new();
        model.prefill(&mut cache, PromptBatch::single(&tokens).unwrap(), &mut out).unwrap();
        out
    };
    assert_ne!(scores(&[1, 2, 3]), scores(&[2, 1, 3]));
}

#[test]
fn a_graph_that_is_no_decoder_is_refused_with_what_it_has() {
    let Some(backend) = backend() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut graph = Graph::default();
    graph.input("pixels", data_type::FLOAT, &[Dim::Fixed(4)]);
    graph.output("label", data_type::FLOAT, &[Dim::Fixed(4)]);
    graph.node("Relu", &["pixels"], "label", vec![]);
    write(folder.path(), graph);
    let error = backend.load(&LoadSpec::new(folder.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Load);
    for word in ["pixels", "label", "past_key_values.N.key"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_file_that_is_no_graph_and_an_export_without_context_are_refused() {
    let Some(backend) = backend() else { return };
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), decoder());
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = backend.load(&LoadSpec::new(folder.path())).unwrap_err();
    assert!(error.to_string().contains("max_position_embeddings"), "{error}");
    std::fs::write(folder.path().join("model.onnx"), b"\xff\xff\xff").unwrap();
    let error = backend.load(&LoadSpec::new(folder.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Load);
}
