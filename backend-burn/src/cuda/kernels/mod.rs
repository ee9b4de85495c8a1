//! The decoder's kernels, in CubeCL.

pub(crate) mod attention;
pub(crate) mod few;
pub(crate) mod finish;
pub(crate) mod plain;
pub(crate) mod prompt;
pub(crate) mod rows;
pub(crate) mod share;
pub(crate) mod tile;
mod warpgroup;
pub(crate) mod wide;
pub(crate) mod words;
