//! What the documentation says of the program and of its own files is held against both: every link, every `phase` command line,
//! every flag of the command reference, every name of a schema, a reason or a metric.
//!
//! Rust in the pages is compiled by `examples/lib.rs`; the site is built by `cargo xtask docs`, which no test does.
#![cfg(feature = "export")]
#![expect(clippy::unwrap_used, reason = "it is all test code")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn every_page_is_in_the_summary_and_every_entry_is_a_page() {
    let docs = root().join("docs");
    let listed: BTreeSet<_> = links(&read(&docs.join("SUMMARY.md"))).iter().map(|link| docs.join(link)).collect();
    let pages: BTreeSet<_> = pages().into_iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
    assert!(pages.len() > 10, "the pages were not found");
    assert_eq!(listed, pages);
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in documents() {
        let in_book = page.starts_with(root().join("docs"));
        for link in links(&read(&page)).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            seen += 1;
            let (file, heading) = link.split_once('#').map_or((link.as_str(), None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let Ok(target) = target.canonicalize() else {
                wrong.push(format!("{}: {link}: no such file", page.display()));
                continue;
            };
            // A page of the site can't lead to what is not in the site.
            if in_book && !target.starts_with(root().join("docs").canonicalize().unwrap()) {
                wrong.push(format!("{}: {link}: outside of docs/", page.display()));
            }
            if heading.is_some_and(|heading| !headings(&read(&target)).contains(heading)) {
                wrong.push(format!("{}: {link}: no such heading", page.display()));
            }
        }
    }
    assert!(seen > 20, "the links were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command_line_is_one_that_the_program_knows() {
    let mut program = Program::default();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in documents() {
        for line in command_lines(&read(&page)) {
            seen += 1;
            if let Err(why) = program.knows(&line) {
                wrong.push(format!("{}: `{}`: {why}", page.display(), line.join(" ")));
            }
        }
    }
    assert!(seen > 40, "the command lines were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_xtask_that_is_named_exists() {
    let source = read(&root().join("xtask/src/main.rs"));
    let mut wrong = Vec::new();
    for page in documents() {
        let text = read(&page);
        for rest in text.split("cargo xtask ").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if !name.is_empty() && !source.contains(&format!("[\"{name}\"")) {
                wrong.push(format!("{}: cargo xtask {name}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_with_rust_is_compiled() {
    let compiled = read(&root().join("examples/lib.rs"));
    let with_rust = documents().into_iter().filter(|page| read(page).contains("```rust"));
    let named = |page: &Path| compiled.contains(&format!("include_str!(\"../{}\")", page.strip_prefix(root()).unwrap().display()));
    assert_eq!(with_rust.filter(|page| !named(page)).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    assert_eq!(compiled.matches("\"../docs/").count(), pages().iter().filter(|page| read(page).contains("```rust")).count());
}

#[test]
fn the_command_reference_has_every_command_and_every_flag() {
    let mut program = Program::default();
    let page = read(&root().join("docs/reference/cli.md"));
    let sections: BTreeMap<_, _> = page.split("\n## ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    let global: BTreeSet<_> = flags(sections["Everywhere"]);
    let ours: BTreeSet<_> = sections.keys().filter_map(|title| title.strip_prefix('`')?.strip_suffix('`')).map(str::to_owned).collect();
    let leaves = program.leaves();
    assert_eq!(ours, leaves, "the sections are not the program's commands");
    for command in leaves {
        let words: Vec<_> = command.split(' ').skip(1).map(str::to_owned).collect();
        let known = program.help(&words).flags.iter().filter(|f| f.starts_with("--") && !global.contains(*f)).cloned().collect();
        assert_eq!(flags(sections[format!("`{command}`").as_str()]), known, "flags of `{command}`");
    }
}

#[test]
fn names_of_schemas_reasons_and_metrics_are_the_program_s() {
    let page = read(&root().join("docs/reference/run-directory.md"));
    let schemas = [
        phase_scenario::RUN_SCHEMA,
        phase_scenario::EVENT_SCHEMA,
        phase_scenario::BLOCK_SCHEMA,
        phase_scenario::CELLS_SCHEMA,
        phase_scenario::LOADS_SCHEMA,
        phase_scenario::PARITY_SCHEMA,
        phase_scenario::EVIDENCE_SCHEMA,
        phase_scenario::ENERGY_SITTING_SCHEMA,
        phase_scenario::ENERGY_SCHEMA,
        phase_scenario::DIGESTS_SCHEMA,
    ];
    for schema in schemas {
        assert!(page.contains(&format!("`{schema}`")), "run-directory.md has no {schema}");
    }
    let page = read(&root().join("docs/explanation/energy.md"));
    for reason in phase_core::NoData::ALL {
        assert!(page.contains(&format!("`{}`", reason.as_str())), "energy.md has no {}", reason.as_str());
    }
    let page = read(&root().join("docs/howto/dashboards.md"));
    let known: BTreeSet<_> = phase_metrics::table::METRICS.iter().map(|metric| metric.name).collect();
    let code = page.split('`').skip(1).step_by(2).map(|span| span.split('{').next().unwrap_or_default());
    let named: BTreeSet<_> = code.filter(|n| (n.starts_with("phase_") || n.starts_with("gen_ai_")) && !n.contains('(')).collect();
    assert!(named.len() > 5 && named.is_subset(&known), "dashboards.md names {:?}", named.difference(&known));
}

/// The program's commands and flags, by its own help.
#[derive(Default)]
struct Program(BTreeMap<Vec<String>, Help>);

#[derive(Clone)]
struct Help {
    commands: BTreeSet<String>,
    flags: BTreeSet<String>,
}

impl Program {
    fn help(&mut self, command: &[String]) -> Help {
        let ask = || {
            let out = Command::new(env!("CARGO_BIN_EXE_phase")).args(command).arg("--help").output().unwrap();
            assert!(out.status.success(), "phase {} --help: {}", command.join(" "), String::from_utf8_lossy(&out.stderr));
            let text = String::from_utf8(out.stdout).unwrap();
            let listed = text.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or_default());
            // A command begins two columns in; what its description needs more lines for is further in.
            let named = listed.lines().filter_map(|line| line.strip_prefix("  ").filter(|l| !l.starts_with(' ')));
            let commands = named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
            let options = text.split_once("\nOptions:\n").map_or("", |(_, rest)| rest);
            let flags = options.lines().filter(|line| line.trim_start().starts_with('-')).flat_map(|line| {
                let names = line.trim_start().split("  ").next().unwrap_or_default();
                names.split([' ', ',']).filter(|word| word.starts_with('-')).map(str::to_owned).collect::<Vec<_>>()
            });
            Help { commands: commands.map(str::to_owned).collect(), flags: flags.filter(|f| f != "--help" && f != "--version").collect() }
        };
        self.0.entry(command.to_vec()).or_insert_with(ask).clone()
    }

    /// Commands that have none below them, and those that also work by themselves.
    fn leaves(&mut self) -> BTreeSet<String> {
        let mut leaves = BTreeSet::new();
        let mut open = vec![Vec::new()];
        while let Some(command) = open.pop() {
            let Help { commands, flags } = self.help(&command);
            if commands.is_empty() || flags.contains("--out") {
                leaves.insert(format!("phase {}", command.join(" ")));
            }
            open.extend(commands.into_iter().map(|name| command.iter().cloned().chain([name]).collect()));
        }
        leaves
    }

    fn knows(&mut self, line: &[String]) -> Result<(), String> {
        let mut command = Vec::new();
        let mut help = self.help(&command);
        let mut words = line.iter().skip(1).peekable();
        while let Some(word) = words.next_if(|word| help.commands.contains(*word)) {
            command.push(word.clone());
            help = self.help(&command);
        }
        let top = command.is_empty();
        for word in words {
            let flag = word.split('=').next().unwrap_or_default();
            let is_flag = flag.len() > 1 && flag.starts_with('-') && !flag[1..].starts_with(|c: char| c.is_ascii_digit());
            if is_flag && !["--help", "-h", "--version", "-V"].contains(&flag) && !help.flags.contains(flag) {
                return Err(format!("`phase {}` has no {flag}", command.join(" ")));
            }
            if !is_flag && top {
                return Err(format!("there is no command {word}"));
            }
        }
        Ok(())
    }
}

/// The long flags in the first column of a section's tables.
fn flags(section: &str) -> BTreeSet<String> {
    let first = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = first.flat_map(|cell| cell.split(['`', ' ']));
    words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

/// Every call of `phase`, as words: lines of shell blocks, and code in the text that has an argument.
fn command_lines(page: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    let mut block: Option<bool> = None;
    for line in page.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = block.is_none().then(|| ["sh", "console", "yaml", "bash"].contains(&language));
            continue;
        }
        match block {
            Some(true) => lines.extend(line.split("&&").flat_map(|part| words(part.trim().trim_start_matches("$ ")))),
            Some(false) => {}
            None => lines.extend(line.split('`').skip(1).step_by(2).flat_map(words).filter(|words| words.len() > 1)),
        }
    }
    lines
}

/// `phase ...` as words, up to what belongs to the shell. Nothing for other programs.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("target/release/").unwrap_or(line);
    if line != "phase" && !line.starts_with("phase ") {
        return None;
    }
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    let end = words.iter().position(|w| ["|", "||", ">", "2>", ";", "&", "#"].contains(&w.as_str())).unwrap_or(words.len());
    words.truncate(end);
    // Optional arguments are written in brackets, left out ones as an ellipsis.
    Some(words.iter().map(|w| w.trim_matches(['[', ']']).to_owned()).filter(|w| w != "..." && !w.is_empty()).collect())
}

/// Targets of the links and pictures outside of code blocks.
fn links(page: &str) -> Vec<String> {
    let mut code = false;
    let prose = page.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    let targets = prose.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split_once(')')));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The headings of a page as links name them.
fn headings(page: &str) -> BTreeSet<String> {
    let titles = page.lines().filter_map(|line| line.strip_prefix('#')).map(|title| title.trim_start_matches('#').trim());
    let slug = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    titles.map(|title| title.chars().filter_map(slug).collect()).collect()
}

/// The pages of the site, and the documents at the root.
fn documents() -> Vec<PathBuf> {
    let others = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root().join(name));
    pages().into_iter().chain(others).collect()
}

fn pages() -> Vec<PathBuf> {
    let (mut pages, mut open) = (Vec::new(), vec![root().join("docs")]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}
