//! See the files in this folder.
