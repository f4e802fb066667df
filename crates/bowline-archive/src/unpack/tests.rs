//! Archives to what becomes of them, well-formed and hostile ones.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::filter::Limits;
use crate::pack::{Packer, Versions};
use crate::writer::{self, Owner};

fn entry(name: &str, kind: EntryKind, size: u64, link: &str) -> Entry {
    let (name, link) = (name.as_bytes().to_vec(), link.as_bytes().to_vec());
    Entry { name, kind, size, mode: 0o640, mtime: 1_000_000_000, link }
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (entry, data) in entries {
        writer::entry(entry, Owner::default(), data, &mut bytes);
    }
    writer::end(&mut bytes);
    bytes
}

fn filter() -> EntryFilter {
    EntryFilter::new(b"d", Limits::default(), true)
}

/// Unpacks an archive; returns the result and the texts of its problems.
fn unpack(bytes: &[u8], target: &Path) -> (Result<(), UnpackError>, Vec<String>) {
    let mut unpacker = Unpacker::new(target, true).unwrap();
    unpacker.begin(filter());
    let mut result = Ok(());
    for piece in bytes.chunks(1000) {
        result = result.and_then(|()| unpacker.take(piece, &mut |_| {}));
    }
    let result = result.and_then(|()| unpacker.finish()).and_then(|()| unpacker.publish());
    let problems = unpacker.problems().into_iter().map(|problem| problem.text).collect();
    (result, problems)
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir_all(source.join("a/empty")).unwrap();
    for (name, text) in [("-x", "1"), ("a/new\nline", "22"), ("a/[*]", ""), ("a/b:c", "x")] {
        fs::write(source.join(name), text).unwrap();
    }
    fs::write(source.join("big"), vec![3; 1_000_000]).unwrap();
    symlink("../big", source.join("a/link")).unwrap();
    symlink("/etc/passwd", source.join("out")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, source.join("pipe"), Mode::RWXU).unwrap();
    fs::set_permissions(source.join("a/empty"), PermissionsExt::from_mode(0o555)).unwrap();
    fs::set_permissions(source.join("-x"), PermissionsExt::from_mode(0o4755)).unwrap();
    let mut packer = Packer::new(&source, b"d", Versions::new());
    let mut bytes = Vec::new();
    packer.read_to_end(&mut bytes).unwrap();
    assert_eq!(packer.failures(), 0);
    assert_eq!(packer.problems().len(), 1, "the pipe");
    let target = place.path().join("target");
    let (result, problems) = unpack(&bytes, &target);
    result.unwrap();
    assert_eq!(problems, ["skipping symlink: \"d/out\" -> \"/etc/passwd\""]);
    assert_eq!(fs::read(target.join("big")).unwrap(), vec![3; 1_000_000]);
    assert_eq!(fs::read(target.join("a/new\nline")).unwrap(), b"22");
    assert_eq!(fs::read_link(target.join("a/link")).unwrap(), Path::new("../big"));
    let mode = |path: &str| fs::metadata(target.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("a/empty"), mode("-x")), (0o555, 0o755));
    let mtime = |path: &Path| fs::symlink_metadata(path).unwrap().mtime();
    for name in ["", "a", "a/empty", "a/link", "big"] {
        assert_eq!(mtime(&target.join(name)), mtime(&source.join(name)), "{name}");
    }
    // Once more, into what is there.
    fs::write(target.join("mine"), "stays").unwrap();
    unpack(&bytes, &target).0.unwrap();
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"stays");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "nothing is left beside it");
}

#[test]
fn hard_links_are_links() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("t");
    let bytes = archive(&[
        (entry("d/f", EntryKind::File, 5, ""), b"hello"),
        (entry("d/sub/g", EntryKind::HardLink, 0, "d/f"), b""),
        (entry("d/l", EntryKind::Symlink, 0, "f"), b""),
        (entry("d/m", EntryKind::HardLink, 0, "d/l"), b""),
        (entry("d/x", EntryKind::HardLink, 0, "/etc/passwd"), b""),
    ]);
    let (result, problems) = unpack(&bytes, &target);
    result.unwrap();
    assert_eq!(problems, ["\"x\": a hard link to what is not here"]);
    assert_eq!(fs::read(target.join("sub/g")).unwrap(), b"hello");
    assert_eq!(fs::metadata(target.join("f")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(target.join("m")).unwrap(), Path::new("f"));
}

#[test]
fn what_is_cut_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("t");
    let bytes = archive(&[
        (entry("d/a", EntryKind::File, 5, ""), b"hello"),
        (entry("d/b", EntryKind::File, 2000, ""), &[1; 2000]),
    ]);
    for length in [0, 1, 512, 1024, 1100, 4000] {
        let (result, _) = unpack(&bytes[..length], &target);
        assert_eq!(result.unwrap_err().to_string(), "unexpected EOF");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}

/// Each of these would be written elsewhere by a naive reader.
#[test]
fn nothing_leads_out() {
    let place = tempfile::tempdir().unwrap();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let inner = place.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let absolute = outside.join("abs").to_string_lossy().into_owned();
    let attacks: &[&[(Entry, &[u8])]] = &[
        &[(entry("d/../../outside/x", EntryKind::File, 1, ""), b"x")],
        &[(entry(&absolute, EntryKind::File, 1, ""), b"x")],
        &[
            (entry("d/l", EntryKind::Symlink, 0, "../../outside"), b""),
            (entry("d/l/x", EntryKind::File, 1, ""), b"x"),
        ],
        &[
            (entry("d/l", EntryKind::Symlink, 0, "."), b""),
            (entry("d/m", EntryKind::Symlink, 0, "l/../../../outside"), b""),
            (entry("d/m/x", EntryKind::File, 1, ""), b"x"),
        ],
        &[
            (entry("d", EntryKind::Symlink, 0, "../outside"), b""),
            (entry("d/x", EntryKind::File, 1, ""), b"x"),
        ],
        &[(entry("d/h", EntryKind::HardLink, 0, "../outside/secret"), b"")],
        &[(entry("d/dev", EntryKind::Device, 0, ""), b"")],
        &[
            (entry("d/f", EntryKind::File, 1, ""), b"1"),
            (entry("d/f", EntryKind::File, 1, ""), b"2"),
        ],
    ];
    for (number, attack) in attacks.iter().enumerate() {
        let target = inner.join(format!("t{number}"));
        let mut unpacker = Unpacker::new(&target, true).unwrap();
        unpacker.begin(filter());
        unpacker.take(&archive(attack), &mut |_| {}).unwrap();
        unpacker.publish().unwrap();
        assert!(unpacker.failures() > 0, "{number}: {:?}", unpacker.problems());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{number}");
    }
}

#[test]
fn a_second_attempt_goes_on_where_the_first_was_cut() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("t");
    let bytes = archive(&[
        (entry("d/a", EntryKind::File, 5, ""), b"hello"),
        (entry("d/b", EntryKind::File, 2000, ""), &[1; 2000]),
        (entry("d/c", EntryKind::File, 3, ""), b"end"),
    ]);
    let mut unpacker = Unpacker::new(&target, true).unwrap();
    unpacker.begin(filter());
    unpacker.take(&bytes[..2048], &mut |_| {}).unwrap();
    let (path, received) = unpacker.unfinished().unwrap();
    assert_eq!((&path[..], received.size, received.bytes), (&b"b"[..], 2000, 512));
    unpacker.append(&path, &[1; 1488]).unwrap();
    assert!(unpacker.append(&path, &[1]).is_err());
    assert_eq!(unpacker.unfinished(), None);
    unpacker.begin(filter());
    let rest = archive(&[(entry("d/c", EntryKind::File, 3, ""), b"end")]);
    unpacker.take(&rest, &mut |_| {}).unwrap();
    unpacker.finish().unwrap();
    unpacker.publish().unwrap();
    assert_eq!(fs::read(target.join("b")).unwrap(), [1; 2000]);
    assert_eq!(fs::metadata(target.join("b")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read(target.join("a")).unwrap(), b"hello");
}
