//! The program and this machine: `doctor`, `completions`, `man`.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "Example: phase doctor")]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase completions bash > ~/.local/share/bash-completion/completions/phase")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: phase man --out ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// The folder to write, made if it is missing
    #[arg(short, long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
