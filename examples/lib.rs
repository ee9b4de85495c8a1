//! Runnable programs, one per use: see the `.rs` files beside the manifest.

/// The workspace's README, so that its example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
