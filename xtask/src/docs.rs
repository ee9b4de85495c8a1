//! The documentation site: `docs/` by mdBook, into `target/book`. mdBook is built once, from the registry, into the cache.

use crate::{
    fetch,
    run::{Result, cargo, folder, root, step, target},
};
use std::{path::PathBuf, process::Command};

/// Pinned, so that every machine makes the same site.
const VERSION: &str = "0.5.4";

pub fn docs() -> Result<()> {
    let mdbook = mdbook()?;
    let out = target()?.join("book");
    let mut build = Command::new(&mdbook);
    build.args(["build", "--dest-dir"]).arg(&out).arg(root().join("docs"));
    step("the site", &mut build)?;
    println!("\n{}", out.join("index.html").display());
    Ok(())
}

/// The program `mdbook` of the pinned version.
fn mdbook() -> Result<PathBuf> {
    let name = format!("mdbook-{VERSION}");
    let place = fetch::cache()?.join(&name);
    let program = place.join("bin").join(format!("mdbook{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        folder(&place)?;
        let mut install = cargo(&["install", "mdbook", "--version", VERSION, "--locked", "--no-default-features", "--features", "search"]);
        // A folder of its own: the workspace's would be filled with what only mdBook needs.
        install.arg("--root").arg(&place).arg("--target-dir").arg(target()?.join(&name));
        step(&format!("build mdBook {VERSION} (some minutes, once)"), &mut install)?;
    }
    Ok(program)
}
