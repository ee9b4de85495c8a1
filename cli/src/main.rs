//! The program `phase`.
fn main() {}
