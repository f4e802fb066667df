//! Entries to the bytes of a tar archive, in GNU's form, which every tar reads.

use tar::{EntryType, Header};

use crate::reader::{BLOCK_BYTES, Entry, EntryKind};

/// The room for a name or a link in a header.
const NAME_BYTES: usize = 100;
/// The size of a record: archives are padded to a multiple of it.
const RECORD_BYTES: usize = 20 * BLOCK_BYTES;

/// The owner of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user's ID.
    pub uid: u32,
    /// The group's ID.
    pub gid: u32,
}

/// Appends an entry's header. Its data must follow, padded to a block with zeros.
pub fn header(entry: &Entry, owner: Owner, out: &mut Vec<u8>) {
    for (kind, value) in
        [(EntryType::GNULongName, &entry.name), (EntryType::GNULongLink, &entry.link)]
    {
        if value.len() > NAME_BYTES {
            let size = value.len() as u64 + 1;
            block(kind, b"././@LongLink", b"", size, 0o644, 0, Owner::default(), out);
            out.extend_from_slice(value);
            out.push(0);
            out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
        }
    }
    let kind = match entry.kind {
        EntryKind::File => EntryType::Regular,
        EntryKind::HardLink => EntryType::Link,
        EntryKind::Symlink => EntryType::Symlink,
        EntryKind::Directory => EntryType::Directory,
        EntryKind::Fifo => EntryType::Fifo,
        EntryKind::Device => EntryType::Char,
        EntryKind::Other(letter) => EntryType::new(letter),
    };
    let short = |value: &[u8]| value[..value.len().min(NAME_BYTES)].to_vec();
    let (name, link) = (short(&entry.name), short(&entry.link));
    block(kind, &name, &link, entry.size, entry.mode, entry.mtime, owner, out);
}

/// Appends an entry with all of its data.
pub fn entry(entry: &Entry, owner: Owner, data: &[u8], out: &mut Vec<u8>) {
    header(entry, owner, out);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
}

#[expect(clippy::too_many_arguments, reason = "the fields of a header")]
fn block(
    kind: EntryType,
    name: &[u8],
    link: &[u8],
    size: u64,
    mode: u32,
    mtime: i64,
    owner: Owner,
    out: &mut Vec<u8>,
) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    if let Some(fields) = header.as_gnu_mut() {
        fields.name[..name.len()].copy_from_slice(name);
        fields.linkname[..link.len()].copy_from_slice(link);
    }
    header.set_size(size);
    header.set_mode(mode);
    // A time before 1970 becomes 0: tars disagree about how to write it.
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_uid(owner.uid.into());
    header.set_gid(owner.gid.into());
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

/// Appends the end of an archive, padded as tar does. `out` must hold all of the archive, or a part
/// that begins at a record.
pub fn end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK_BYTES, 0);
    out.resize(out.len().next_multiple_of(RECORD_BYTES), 0);
}
