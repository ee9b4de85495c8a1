//! Runnable programs, one per use: see the `.rs` files beside the manifest.
