//! Leaves one architecture's machine code in a library and zeroes the rest, so that it compresses to a fraction.
//!
//! Sizes and offsets stay as they are. The section `.nv_fatbin` is a row of containers, each a header (magic u32,
//! version u16, header bytes u16, payload bytes u64) and entries (kind u16: 1 PTX, 2 machine code; version u16; header
//! bytes u32; payload bytes u64; architecture u32 at byte 28); found by looking at such files, and held by the checks here.

use crate::run::Result;
use std::ops::Range;

const MAGIC: u32 = 0xBA55_ED50;
const PTX: u16 = 1;
const CODE: u16 = 2;

/// What was done, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Pruned {
    pub kept: usize,
    pub zeroed: usize,
}

struct Entry {
    kind: u16,
    architecture: u32,
    payload: Range<usize>,
}

/// Zeroes what `architecture` (90 for H100 and H200) does not run. A container without code for exactly that keeps what
/// the driver would take instead: older code of the same generation, and PTX.
pub fn prune(library: &mut [u8], architecture: u32) -> Result<Pruned> {
    let section = section(library, b".nv_fatbin").ok_or("not an ELF library with a section .nv_fatbin")?;
    let mut pruned = Pruned { kept: 0, zeroed: 0 };
    let mut at = section.start;
    while at + 16 <= section.end {
        if number::<4>(library, at) != Some(u64::from(MAGIC)) {
            at += 8;
            continue;
        }
        let (entries, end) = container(library, at).filter(|(_, end)| *end <= section.end).ok_or("a damaged container in .nv_fatbin")?;
        let exact = entries.iter().any(|e| e.kind == CODE && e.architecture == architecture);
        for entry in entries {
            let kept = match entry.kind {
                CODE if exact => entry.architecture == architecture,
                CODE => entry.architecture / 10 == architecture / 10 && entry.architecture <= architecture,
                PTX => !exact && entry.architecture <= architecture,
                _ => true,
            };
            if kept {
                pruned.kept += entry.payload.len();
            } else {
                pruned.zeroed += entry.payload.len();
                library[entry.payload].fill(0);
            }
        }
        at = end;
    }
    if pruned.kept == 0 {
        return Err(format!(".nv_fatbin holds nothing for architecture {architecture}"));
    }
    Ok(pruned)
}

/// The entries of the container at `at`, and its end.
fn container(bytes: &[u8], at: usize) -> Option<(Vec<Entry>, usize)> {
    let mut next = at + size::<2>(bytes, at + 6)?;
    let end = next.checked_add(size::<8>(bytes, at + 8)?)?;
    let mut entries = Vec::new();
    while next < end {
        let header = size::<4>(bytes, next + 4)?;
        if header == 0 {
            break;
        }
        let start = next + header;
        let payload = start..start.checked_add(size::<8>(bytes, next + 8)?)?;
        if payload.end > end || payload.end > bytes.len() {
            return None;
        }
        let kind = u16::try_from(number::<2>(bytes, next)?).ok()?;
        let architecture = u32::try_from(number::<4>(bytes, next + 28)?).ok()?;
        next = payload.end;
        entries.push(Entry { kind, architecture, payload });
    }
    Some((entries, end))
}

/// Where a section of a 64-bit little-endian ELF file lies.
fn section(bytes: &[u8], name: &[u8]) -> Option<Range<usize>> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, entry, count) = (size::<8>(bytes, 0x28)?, size::<2>(bytes, 0x3A)?, size::<2>(bytes, 0x3C)?);
    let header = |index: usize| table + index * entry;
    let names = size::<8>(bytes, header(size::<2>(bytes, 0x3E)?) + 0x18)?;
    (0..count).map(header).find_map(|at| {
        let found = bytes.get(names + size::<4>(bytes, at)?..)?;
        if !found.starts_with(name) || found.get(name.len()) != Some(&0) {
            return None;
        }
        let start = size::<8>(bytes, at + 0x18)?;
        let end = start.checked_add(size::<8>(bytes, at + 0x20)?)?;
        (end <= bytes.len()).then_some(start..end)
    })
}

/// The `N`-byte number at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut whole = [0; 8];
    whole[..N].copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(whole))
}

fn size<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(number::<N>(bytes, at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: u16, architecture: u32, byte: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&8u64.to_le_bytes());
        bytes[28..32].copy_from_slice(&architecture.to_le_bytes());
        bytes.extend([byte; 8]);
        bytes
    }

    /// An ELF file with two sections: the names of both, and `.nv_fatbin` with one container for each list of entries.
    fn library(containers: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let mut fatbin = Vec::new();
        for entries in containers {
            let payload = entries.concat();
            fatbin.extend(MAGIC.to_le_bytes());
            fatbin.extend([1, 0, 16, 0]);
            fatbin.extend((payload.len() as u64).to_le_bytes());
            fatbin.extend(payload);
            fatbin.extend([0; 8]);
        }
        let names = b"\0.names\0.nv_fatbin\0\0\0\0\0\0";
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x28] = 64;
        (bytes[0x3A], bytes[0x3C], bytes[0x3E]) = (64, 2, 0);
        for (name, offset, size) in [(1u8, 192, names.len()), (8, 192 + names.len(), fatbin.len())] {
            let mut header = vec![0; 64];
            header[0] = name;
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend(header);
        }
        bytes.extend(names);
        bytes.extend(fatbin);
        bytes
    }

    #[test]
    fn only_what_the_architecture_runs_is_left() {
        let exact = vec![entry(CODE, 80, 1), entry(CODE, 90, 2), entry(PTX, 90, 3), entry(CODE, 120, 4)];
        let nearest = vec![entry(CODE, 75, 5), entry(PTX, 80, 6), entry(PTX, 120, 7)];
        let mut bytes = library(&[exact, nearest]);
        let before = bytes.len();
        assert_eq!(prune(&mut bytes, 90), Ok(Pruned { kept: 16, zeroed: 40 }));
        assert_eq!(bytes.len(), before);
        let left = |byte: u8| bytes.windows(8).any(|w| w == [byte; 8]);
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(left), [false, true, false, false, false, true, false]);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(prune(&mut b"#!/bin/sh\n".to_vec(), 90).unwrap_err().contains("not an ELF"));
        assert!(prune(&mut library(&[vec![entry(CODE, 120, 1)]]), 90).unwrap_err().contains("nothing for architecture 90"));
        let mut cut = library(&[vec![entry(CODE, 90, 1)]]);
        let at = cut.windows(4).position(|w| w == MAGIC.to_le_bytes()).unwrap();
        cut[at + 12] = 0xFF;
        assert!(prune(&mut cut, 90).unwrap_err().contains("damaged"));
    }
}
