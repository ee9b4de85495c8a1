//! "Default to onnxruntime-gpu for decode-heavy traffic." The reports never measured that backend with a KV cache, so
//! the default is a hypothesis here: it is the policy's default-safe backend, and measured total time replaces it.

use crate::constants::Constants;

/// Whether a request is decode-heavy.
pub(super) fn applies(new_tokens: usize, decode_fraction: Option<f64>, constants: &Constants) -> bool {
    new_tokens >= constants.decode_heavy_new_tokens || decode_fraction.is_some_and(|f| f > constants.decode_heavy_fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_condition_is_enough_and_the_edges_are_the_documents() {
        let c = Constants::default();
        for (new_tokens, fraction, expected) in [
            (64, None, true),
            (63, None, false),
            (64, Some(0.0), true),
            (2, Some(0.9), false),
            (2, Some(0.900_001), true),
            (2, Some(f64::NAN), false),
        ] {
            assert_eq!(applies(new_tokens, fraction, &c), expected, "{new_tokens} {fraction:?}");
        }
    }
}
