//! `xtask gpu run`: unpacks the package and runs what proves and measures it, in one go.
//!
//! Everything is written under one folder. A step that fails does not stop the next ones.

use super::{job::Job, pack, parity, plan, profile, watched};
use crate::run::{Result, folder, output, read, write};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What to run, where, and where to put it.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the package's files are.
    pub from: PathBuf,
    /// The folder to write; must not be there yet.
    pub out: PathBuf,
    /// Where to unpack and to make models.
    pub work: PathBuf,
    pub only: Vec<String>,
    pub models: Vec<String>,
    pub backends: Vec<String>,
    /// Of the matrix on a GPU: `full` or `short`.
    pub effort: String,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// After this, nothing is started and what runs is ended.
    pub limit: Duration,
}

/// The unpacked package and all that a step needs to know of it.
pub struct Place {
    pub tree: PathBuf,
    pub model: PathBuf,
    pub library: PathBuf,
    pub cache: PathBuf,
    pub logs: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    if options.out.exists() {
        return Err(format!("{} is there already", options.out.display()));
    }
    let start = Instant::now();
    folder(&options.work)?;
    let work = options.work.canonicalize().map_err(|e| format!("{}: {e}", options.work.display()))?;
    let tree = work.join("tree");
    println!("==> unpack and check digests");
    pack::unpack(&options.from, &tree)?;
    println!("    done in {:.0} s; made from {}", start.elapsed().as_secs_f64(), read(&tree.join("sources/REVISION"))?.trim());
    folder(&options.out.join("logs"))?;
    let out = options.out.canonicalize().map_err(|e| format!("{}: {e}", options.out.display()))?;
    let place = Place {
        model: only_file(&tree.join("model"), "")?,
        library: only_file(&tree.join("lib"), "libonnxruntime.so")?,
        cache: work.join("cache"),
        logs: out.join("logs"),
        tree,
    };
    let _sources = Sources::at_their_place(&place.tree)?;
    let steps = plan::steps(options, &place, &out, &work)?;
    let mut table = String::new();
    let mut failed = 0;
    for step in steps {
        println!("\n==> {}: {}", step.group, step.name);
        let began = Instant::now();
        let verdict = carry_out(step.work, &place, options.limit.saturating_sub(start.elapsed()), &step.name);
        let word = if verdict.is_ok() { "ok" } else { "FAILED" };
        let line = format!(
            "{word:<7} {:<12} {:<44} {:>6.1} s  {}",
            step.group,
            step.name,
            began.elapsed().as_secs_f64(),
            verdict.as_ref().map_or_else(|e| e.lines().next().unwrap_or_default(), String::as_str)
        );
        if let Err(e) = &verdict {
            failed += 1;
            println!("{e}");
        }
        println!("    {line}");
        table.push_str(line.trim_end());
        table.push('\n');
    }
    write(&out.join("summary.txt"), &table)?;
    println!("\n{table}");
    let archive = collect(&out)?;
    println!("all of it: {} ({} kB)", archive.display(), fs::metadata(&archive).map_or(0, |m| m.len() / 1000));
    match failed {
        0 => Ok(()),
        n => Err(format!("{n} steps failed")),
    }
}

/// What a step does.
pub enum Work {
    Run(Box<Job>),
    /// Run tests under compute-sanitizer.
    Watch(Box<Job>),
    Compare(parity::Comparison),
    /// Tell where calls' time goes.
    Tabulate(profile::Tables),
    /// Print a section of a Markdown file.
    Show(PathBuf, &'static str),
}

impl Work {
    pub fn job(job: Job) -> Self {
        Self::Run(Box::new(job))
    }
}

fn carry_out(work: Work, place: &Place, left: Duration, name: &str) -> Result<String> {
    if left.is_zero() {
        return Err("not run: no time left".to_owned());
    }
    let log = place.logs.join(format!("{}.txt", name.replace([' ', '/'], "-")));
    match work {
        Work::Run(job) => job.run(&log, left).map(|()| String::new()),
        Work::Watch(job) => job.run(&log, left).and_then(|()| watched::verdict(&read(&log)?)),
        Work::Compare(comparison) => comparison.verdict(),
        Work::Tabulate(tables) => tables.make(),
        Work::Show(file, heading) => {
            let text = read(&file)?;
            println!("{}", section(&text, heading).ok_or_else(|| format!("{} has no section `{heading}`", file.display()))?);
            Ok(String::new())
        }
    }
}

/// The part of a Markdown text from the heading `## heading` to the next one of its level.
fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let start = text.find(&format!("\n## {heading}\n"))? + 1;
    let end = text[start + 3..].find("\n## ").map_or(text.len(), |at| start + 3 + at);
    Some(text[start..end].trim_end())
}

/// The one file in `folder` whose name starts with `prefix`.
fn only_file(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .ok_or_else(|| format!("{} lacks a file {prefix}*", folder.display()))
}

/// Tests have the place of their sources compiled in: a link there, for as long as this lives, where nothing is yet.
struct Sources(Option<PathBuf>);

impl Sources {
    fn at_their_place(tree: &Path) -> Result<Self> {
        let root = PathBuf::from(read(&tree.join("sources/ROOT"))?);
        if root.exists() {
            return Ok(Self(None));
        }
        folder(root.parent().unwrap_or(&root))?;
        output(Command::new("ln").arg("-s").arg(tree.join("sources")).arg(&root))?;
        Ok(Self(Some(root)))
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            let _ = fs::remove_file(link);
        }
    }
}

/// One file of everything, to bring back where few files may be.
fn collect(out: &Path) -> Result<PathBuf> {
    let (archive, unfinished) = (out.join("results.tar.xz"), out.with_extension("results"));
    // The scores that were compared are large, and the summary says how they compared.
    output(Command::new("tar").args(["--exclude", "./parity", "-cJf"]).arg(&unfinished).arg("-C").arg(out).arg("."))?;
    fs::rename(&unfinished, &archive).map_err(|e| format!("{}: {e}", archive.display()))?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn a_section_ends_where_the_next_one_begins() {
        let text = "# T\n\n## Energy\n\na\n### b\nc\n\n## Next\nd\n";
        assert_eq!(section(text, "Energy"), Some("## Energy\n\na\n### b\nc"));
        assert_eq!(section(text, "Next"), Some("## Next\nd"));
        assert_eq!(section(text, "T"), None);
    }
}
