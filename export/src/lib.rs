#![doc = include_str!("../README.md")]

mod csv;
mod error;
mod file;
pub mod foreign;
mod llama_bench;
mod llmd;
mod openmetrics;
mod parquet;
mod passes;
mod table;
pub mod tables;
mod write;

pub use csv::csv;
pub use error::ExportError;
pub use foreign::{FOREIGN_SCHEMA, Foreign, Tool};
pub use llama_bench::LlamaBench;
pub use llmd::{LLMD_VERSION, LlmdReport, llmd};
pub use openmetrics::{exporter, openmetrics};
pub use parquet::parquet;
pub use table::{Column, Table, Text, Values};
pub use write::{Format, Written, export, export_with};
