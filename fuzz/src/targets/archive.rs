//! An archive that may hold anything: however its bytes are cut, its reader says the same; an entry
//! has the data that its head promises; and what is admitted stays in the tree, comes once, and is
//! below no link.

use std::collections::BTreeSet;

use bowline_archive::filter::{EntryFilter, Limits, Verdict};
use bowline_archive::reader::{BLOCK_BYTES, EntryKind, Event, Fault, Reader};
use bytes::BytesMut;

use crate::cuts::choose;

/// The target. With an odd form, each block gets the checksum that a header would need: random
/// alone finds none.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let mut bytes = bytes.to_vec();
    if choices.form & 1 == 1 {
        bytes.chunks_exact_mut(BLOCK_BYTES).for_each(sign);
    }
    let whole = read(vec![BytesMut::from(&bytes[..])]);
    let cut = read(choices.pieces(&bytes));
    assert_eq!(whole, cut, "cut otherwise, it says something else");
}

fn sign(block: &mut [u8]) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// What is read, and how that ends.
fn read(pieces: Vec<BytesMut>) -> (Vec<String>, Result<(), Fault>) {
    let mut reader = Reader::default();
    let limits = Limits { bytes: 1 << 20, entries: 200 };
    let mut filter = EntryFilter::new(b"./d", limits, true);
    let (mut log, mut left, mut over) = (Vec::new(), None, false);
    let (mut taken, mut links) = (BTreeSet::new(), BTreeSet::new());
    for piece in &pieces {
        let mut input = &piece[..];
        loop {
            match reader.next_event(&mut input) {
                Ok(None) => break,
                Err(fault) => {
                    let again = reader.next_event(&mut &b"x"[..]);
                    assert_eq!(again, Err(fault.clone()), "a fault does not go away");
                    return (log, Err(fault));
                }
                Ok(Some(event)) => {
                    assert!(!over, "{event:?} behind the end");
                    match event {
                        Event::Entry(entry) => {
                            assert_eq!(left.replace(entry.size), None, "an entry in another");
                            assert!(entry.name.len() <= 64 * 1024);
                            let verdict = filter.judge(&entry);
                            if let Ok(Verdict::Take(path)) = &verdict {
                                admitted(path, &entry.kind, &mut taken, &mut links);
                            }
                            log.push(format!("{entry:?} {verdict:?}"));
                        }
                        Event::Data(data) => {
                            let more = left.as_mut().expect("data of an entry");
                            assert!(!data.is_empty() && data.len() as u64 <= *more);
                            *more -= data.len() as u64;
                        }
                        Event::Whole => assert_eq!(left.take(), Some(0), "whole without all of it"),
                        Event::End => {
                            assert_eq!(left, None);
                            over = true;
                        }
                    }
                }
            }
        }
        assert!(input.is_empty(), "bytes were left");
    }
    assert_eq!(reader.is_over(), over);
    (log, reader.finish())
}

fn admitted(
    path: &[u8],
    kind: &EntryKind,
    taken: &mut BTreeSet<Vec<u8>>,
    links: &mut BTreeSet<Vec<u8>>,
) {
    assert!(!path.contains(&0));
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    assert!(path.is_empty() || parts.iter().all(|part| !matches!(*part, b"" | b"." | b"..")));
    for length in 0..parts.len() {
        assert!(!links.contains(&parts[..length].join(&b'/')), "below a link");
    }
    assert!(taken.insert(path.to_vec()) || *kind == EntryKind::Directory, "taken twice");
    if *kind == EntryKind::Symlink {
        links.insert(path.to_vec());
    }
}
