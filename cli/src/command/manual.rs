//! `phase completions` and `phase man`: what a package installs beside the program.

use crate::{
    argument::{self, Arguments},
    exit::{Failure, note, say},
};
use clap::CommandFactory as _;

pub(crate) fn completions(arguments: &argument::Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "phase", &mut script);
    say(&String::from_utf8(script).map_err(|e| Failure::work(&e))?)
}

pub(crate) fn man(arguments: &argument::Man) -> Result<(), Failure> {
    let wrong = |e: std::io::Error| Failure::Check(format!("{}: {e}", arguments.out.display()));
    std::fs::create_dir_all(&arguments.out).map_err(wrong)?;
    clap_mangen::generate_to(Arguments::command(), &arguments.out).map_err(wrong)?;
    note(&format!("wrote {}", arguments.out.display()));
    Ok(())
}
