//! The way to a GPU machine and back: a toolkit here, one package to carry, one command there.

mod lazy;
mod toolkit;

use crate::run::Result;
pub use toolkit::Toolkit;

/// `cargo xtask gpu toolkit`: the environment that builds with CUDA, for a shell to read.
pub fn toolkit() -> Result<()> {
    let toolkit = Toolkit::obtain()?;
    for (name, value) in toolkit.environment() {
        println!("export {name}='{value}'");
    }
    Ok(())
}
