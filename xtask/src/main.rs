//! Set-up, demonstration and tests of the workspace. No dependencies, so that it starts at once.

mod demo;
mod docs;
mod fetch;
mod gpu;
mod peers;
mod run;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo     fetch a model and ONNX Runtime (once), build, measure on three backends, decide, answer a prompt
  test     format, clippy, tests, documentation, examples, benches: what CI runs
  fetch    fetch the model and ONNX Runtime only, and print where they are
  docs     build the documentation site in docs/ into target/book; builds mdBook once
  gpu      build with CUDA, carry it to a GPU machine, prove and measure there

Fetched files are kept in $PHASE_CACHE, else $XDG_CACHE_HOME/phase, else ~/.cache/phase, and checked by digest.
Your own: PHASE_MODEL (a Hugging Face folder or GGUF file), PHASE_ORT_LIBRARY (libonnxruntime, 1.24 or newer).
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["demo"] => demo::demo(),
        ["test"] => test::test(),
        ["fetch"] => fetch::fetch().map(|assets| println!("{assets}")),
        ["docs"] => docs::docs(),
        ["gpu", ref rest @ ..] => gpu::main(rest),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("unknown: `cargo xtask {}`\n\n{HELP}", arguments.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nxtask: {message}");
            ExitCode::FAILURE
        }
    }
}
