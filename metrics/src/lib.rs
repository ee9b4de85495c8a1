#![doc = include_str!("../README.md")]

mod exporter;
mod histogram;
mod http;
mod render;
mod series;
mod server;
mod sink;
mod state;
pub mod table;
mod text;

pub use exporter::Exporter;
pub use server::{ServeError, Server, serve};
pub use sink::MetricsSink;
pub use text::TextFormat;
