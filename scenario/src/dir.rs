//! A run directory while it is written: whole blocks, or nothing of them.
//!
//! A block's events go to the end of `events.jsonl`; then one line of `blocks.jsonl` says how long and what that file is
//! now. Whatever lies beyond the last such line was torn off by a kill and is overwritten.

use crate::{
    Manifest, ScenarioError,
    files::{Disk, RealDisk, io_error, json_line, json_text, list, read},
    manifest::RUN_SCHEMA,
    reading::{Work, digest, hash, open},
    record::{BLOCK_SCHEMA, BlockRecord, Record},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const EVENTS: &str = "events.jsonl";
pub(crate) const BLOCKS: &str = "blocks.jsonl";
pub(crate) const PARITY: &str = "parity.json";
pub(crate) const CELLS: &str = "cells.json";
pub(crate) const CELLS_CSV: &str = "cells.csv";
pub(crate) const LOADS: &str = "loads.json";
/// The folder of ceilings.
pub(crate) const CEILINGS: &str = "ceilings/";
pub(crate) const ENERGY: &str = "energy.json";
pub(crate) const DIGESTS: &str = "digests.json";

/// Schema of `digests.json`.
pub const DIGESTS_SCHEMA: &str = "phase.digests/1";

/// The seal of a complete run: written last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Digests {
    pub(crate) schema: String,
    pub(crate) run_id: String,
    /// Lines of `events.jsonl`.
    pub(crate) events: u64,
    pub(crate) files: BTreeMap<String, FileDigest>,
    /// BLAKE3 over all of the above, so that an edit of this file is not taken for one of another.
    pub(crate) seal: String,
}

impl Digests {
    pub(crate) fn own_seal(&self) -> String {
        let Self { schema, run_id, events, files, seal: _ } = self;
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{schema}\n{run_id}\n{events}\n").as_bytes());
        for (name, FileDigest { bytes, blake3 }) in files {
            hasher.update(format!("{name}\n{bytes}\n{blake3}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileDigest {
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunState {
    /// Nothing, or no directory.
    Absent,
    /// A sealed run.
    Complete,
    /// Something else.
    Foreign,
    /// A run that was stopped.
    Resumable {
        /// Blocks done.
        done: usize,
        /// Blocks planned.
        total: usize,
    },
}

/// What `dir` holds, without judging whether it is intact.
///
/// # Errors
/// [`ScenarioError::Io`], and [`ScenarioError::Damaged`] or [`ScenarioError::Schema`] for an unreadable manifest.
pub fn run_state(dir: &Path) -> Result<RunState, ScenarioError> {
    if !dir.exists() {
        return Ok(RunState::Absent);
    }
    let names = list(dir)?;
    if names.iter().any(|n| n == DIGESTS) {
        return Ok(RunState::Complete);
    }
    if names.iter().any(|n| n == MANIFEST) {
        let manifest: Manifest = load(dir, MANIFEST, RUN_SCHEMA)?;
        let (done, _) = intact_blocks(dir, &manifest.run_id, &mut Work::unwatched())?;
        return Ok(RunState::Resumable { done: done.len(), total: manifest.plan.blocks.len() });
    }
    // A kill within the very first write leaves a temporary file and nothing else.
    Ok(if names.iter().all(|n| n.starts_with(".tmp")) { RunState::Absent } else { RunState::Foreign })
}

/// Reads a JSON file of a known schema.
pub(crate) fn load<T: DeserializeOwned>(dir: &Path, file: &str, schema: &'static str) -> Result<T, ScenarioError> {
    let bytes = read(&dir.join(file))?.ok_or_else(|| ScenarioError::damaged(file, None, "the file is missing"))?;
    parse(file, &bytes, schema)
}

pub(crate) fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8], schema: &'static str) -> Result<T, ScenarioError> {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let wrong = |e: serde_json::Error| ScenarioError::damaged(file, e.line(), e.to_string());
    let head: Head = serde_json::from_slice(bytes).map_err(wrong)?;
    if head.schema != schema {
        return Err(ScenarioError::Schema { file: file.to_owned(), found: head.schema, wanted: schema });
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

/// The run directory being written.
#[derive(Debug)]
pub(crate) struct RunDir {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    events: blake3::Hasher,
    events_bytes: u64,
    events_lines: u64,
    blocks_bytes: u64,
    blocks: usize,
}

/// What the runner knows about a finished block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockEnd {
    pub(crate) segment: u32,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) other_load_fraction: Option<f64>,
}

impl RunDir {
    /// An empty directory, made when it is not there.
    pub(crate) fn create(dir: &Path) -> Result<Self, ScenarioError> {
        match run_state(dir)? {
            RunState::Absent => {}
            RunState::Complete => return Err(ScenarioError::AlreadyComplete { dir: dir.to_owned() }),
            RunState::Foreign => return Err(ScenarioError::NotEmpty { dir: dir.to_owned() }),
            RunState::Resumable { done, total } => return Err(ScenarioError::Resumable { dir: dir.to_owned(), done, total }),
        }
        fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        remove_temporary(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            disk: Box::new(RealDisk),
            events: blake3::Hasher::new(),
            events_bytes: 0,
            events_lines: 0,
            blocks_bytes: 0,
            blocks: 0,
        })
    }

    /// A stopped run, after its last whole block.
    pub(crate) fn reopen(dir: &Path) -> Result<(Self, Manifest), ScenarioError> {
        match run_state(dir)? {
            RunState::Complete => return Err(ScenarioError::AlreadyComplete { dir: dir.to_owned() }),
            RunState::Absent | RunState::Foreign => {
                return Err(ScenarioError::damaged(MANIFEST, None, format!("{} holds no run to resume", dir.display())));
            }
            RunState::Resumable { .. } => {}
        }
        remove_temporary(dir)?;
        let manifest: Manifest = load(dir, MANIFEST, RUN_SCHEMA)?;
        let (blocks, blocks_bytes) = intact_blocks(dir, &manifest.run_id, &mut Work::unwatched())?;
        let (events_bytes, events_lines) = blocks.last().map_or((0, 0), |b| (b.events_bytes, b.events_lines));
        let (mut events, path) = (blake3::Hasher::new(), dir.join(EVENTS));
        if let Some(mut kept) = open(&path)? {
            hash(&mut kept, events_bytes, &mut events, |_| {}).map_err(io_error("read", &path))?;
        }
        let run =
            Self { dir: dir.to_owned(), disk: Box::new(RealDisk), events, events_bytes, events_lines, blocks_bytes, blocks: blocks.len() };
        Ok((run, manifest))
    }

    #[cfg(test)]
    pub(crate) fn set_disk(&mut self, disk: Box<dyn Disk>) {
        self.disk = disk;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Blocks that are whole on disk.
    pub(crate) fn blocks_done(&self) -> usize {
        self.blocks
    }

    /// Replaces a file by `value` as JSON.
    pub(crate) fn write_json(&mut self, file: &str, value: &impl Serialize) -> Result<(), ScenarioError> {
        self.write_text(file, &json_text(value)?)
    }

    pub(crate) fn write_text(&mut self, file: &str, text: &str) -> Result<(), ScenarioError> {
        self.write_bytes(file, text.as_bytes())
    }

    pub(crate) fn write_bytes(&mut self, file: &str, bytes: &[u8]) -> Result<(), ScenarioError> {
        let path = self.dir.join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        }
        self.disk.replace(&path, bytes).map_err(io_error("write", &path))
    }

    /// Adds a block. On an error nothing of it counts, and it may be tried again or resumed later.
    pub(crate) fn append_block(&mut self, run_id: &str, end: BlockEnd, records: &[Record]) -> Result<(), ScenarioError> {
        let mut text = String::new();
        for record in records {
            text.push_str(&json_line(record)?);
        }
        let path = self.dir.join(EVENTS);
        self.disk.append(&path, self.events_bytes, text.as_bytes()).map_err(io_error("append to", &path))?;
        let mut events = self.events.clone();
        events.update(text.as_bytes());
        let block = BlockRecord {
            schema: BLOCK_SCHEMA.to_owned(),
            run_id: run_id.to_owned(),
            block: u32::try_from(self.blocks).unwrap_or(u32::MAX),
            segment: end.segment,
            start_ns: end.start_ns,
            end_ns: end.end_ns,
            other_load_fraction: end.other_load_fraction,
            events_lines: self.events_lines + records.len() as u64,
            events_bytes: self.events_bytes + text.len() as u64,
            events_blake3: events.finalize().to_hex().to_string(),
        };
        let line = json_line(&block)?;
        let path = self.dir.join(BLOCKS);
        self.disk.append(&path, self.blocks_bytes, line.as_bytes()).map_err(io_error("append to", &path))?;
        self.events = events;
        (self.events_bytes, self.events_lines) = (block.events_bytes, block.events_lines);
        self.blocks_bytes += line.len() as u64;
        self.blocks += 1;
        Ok(())
    }

    /// Digests every file and writes the seal.
    pub(crate) fn seal(&mut self, run_id: &str) -> Result<(), ScenarioError> {
        remove_temporary(&self.dir)?;
        let digests = digests(&self.dir, run_id, self.events_lines, None, &mut Work::unwatched())?;
        self.write_json(DIGESTS, &digests)
    }
}

/// Digests of all files but the seal. That of the events, which are by far the largest, may be `known` already.
pub(crate) fn digests(
    dir: &Path,
    run_id: &str,
    events: u64,
    known: Option<FileDigest>,
    work: &mut Work<'_>,
) -> Result<Digests, ScenarioError> {
    let mut files = BTreeMap::new();
    for name in list(dir)?.into_iter().filter(|n| n != DIGESTS) {
        let found = match &known {
            Some(known) if name == EVENTS => known.clone(),
            _ => digest(dir, &name, work)?,
        };
        files.insert(name, found);
    }
    let mut digests = Digests { schema: DIGESTS_SCHEMA.to_owned(), run_id: run_id.to_owned(), events, files, seal: String::new() };
    digests.seal = digests.own_seal();
    Ok(digests)
}

/// The block lines whose events are all there, and their length in bytes.
pub(crate) fn intact_blocks(dir: &Path, run_id: &str, work: &mut Work<'_>) -> Result<(Vec<BlockRecord>, u64), ScenarioError> {
    let log = read(&dir.join(BLOCKS))?.unwrap_or_default();
    let events = length(dir, EVENTS)?;
    let (mut blocks, mut ends): (Vec<BlockRecord>, Vec<u64>) = (Vec::new(), vec![0]);
    for (number, line) in (1..).zip(log.split_inclusive(|b| *b == b'\n')) {
        // Only the last line can lack its line feed: a kill tore it.
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let block: BlockRecord = parse(BLOCKS, line, BLOCK_SCHEMA).map_err(|e| at_line(e, number))?;
        if block.run_id != run_id || block.block as usize != blocks.len() {
            let why = format!("block {} of run {} where block {} of run {run_id} belongs", block.block, block.run_id, blocks.len());
            return Err(ScenarioError::damaged(BLOCKS, number, why));
        }
        blocks.push(block);
        ends.push(ends.last().copied().unwrap_or(0) + line.len() as u64 + 1);
    }
    while blocks.last().is_some_and(|b| b.events_bytes > events) {
        blocks.pop();
        ends.pop();
    }
    check_events(dir, &blocks, work)?;
    Ok((blocks, ends.last().copied().unwrap_or(0)))
}

/// Whether the events are what the block lines say, naming the first block that is not.
fn check_events(dir: &Path, blocks: &[BlockRecord], work: &mut Work<'_>) -> Result<(), ScenarioError> {
    let path = dir.join(EVENTS);
    let mut file = open(&path)?.map_or_else(|| Box::new(std::io::empty()) as Box<dyn std::io::Read>, |file| Box::new(file));
    let mut hasher = blake3::Hasher::new();
    let (mut from, mut line) = (0, 1);
    for block in blocks {
        let part = block.events_bytes.checked_sub(from);
        let what = format!("holding block {} of {} against its digest", block.block + 1, blocks.len());
        let read = hash(&mut file, part.unwrap_or(0), &mut hasher, |n| work.did(n, &what)).map_err(io_error("read", &path))?;
        if part != Some(read) {
            return Err(ScenarioError::damaged(EVENTS, None, "it is shorter than blocks.jsonl says"));
        }
        if hasher.finalize().to_hex().as_str() != block.events_blake3 {
            let why = format!("lines {line} to {} (block {}) are not what was recorded", block.events_lines, block.block);
            return Err(ScenarioError::damaged(EVENTS, usize::try_from(line).ok(), why));
        }
        from = block.events_bytes;
        line = block.events_lines + 1;
    }
    Ok(())
}

/// The length of a file, 0 where it is not there.
pub(crate) fn length(dir: &Path, name: &str) -> Result<u64, ScenarioError> {
    let path = dir.join(name);
    match open(&path)? {
        Some(file) => Ok(file.metadata().map_err(io_error("read", &path))?.len()),
        None => Ok(0),
    }
}

pub(crate) fn at_line(error: ScenarioError, line: usize) -> ScenarioError {
    match error {
        ScenarioError::Damaged { file, why, .. } => ScenarioError::Damaged { file, line: Some(line), why },
        other => other,
    }
}

fn remove_temporary(dir: &Path) -> Result<(), ScenarioError> {
    for name in list(dir)? {
        if name.rsplit('/').next().is_some_and(|n| n.starts_with(".tmp")) {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}
