//! Entries to the bytes of a tar archive, in GNU's form, which every tar reads.

use tar::{EntryType, Header};

use crate::reader::{BLOCK_BYTES, Entry, Kind};

/// What a name or a link in a header may take.
const NAME_BYTES: usize = 100;
/// Archives are filled up to a multiple of this.
const RECORD_BYTES: usize = 20 * BLOCK_BYTES;

/// Whose an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Appends the head of an entry. Its data must follow, filled up to a block with zeros.
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
        Kind::File => EntryType::Regular,
        Kind::HardLink => EntryType::Link,
        Kind::Symlink => EntryType::Symlink,
        Kind::Directory => EntryType::Directory,
        Kind::Fifo => EntryType::Fifo,
        Kind::Device => EntryType::Char,
        Kind::Other(letter) => EntryType::new(letter),
    };
    let short = |value: &[u8]| value[..value.len().min(NAME_BYTES)].to_vec();
    let (name, link) = (short(&entry.name), short(&entry.link));
    block(kind, &name, &link, entry.size, entry.mode, entry.mtime, owner, out);
}

/// Appends an entry with all of its data.
pub fn whole(entry: &Entry, owner: Owner, data: &[u8], out: &mut Vec<u8>) {
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
    // Before 1970 is as good as at its beginning: tars disagree about how to write it.
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_uid(owner.uid.into());
    header.set_gid(owner.gid.into());
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

/// Appends the end of an archive, filled up as tar does: `out` must hold all of it, or a part that
/// begins at a record.
pub fn end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK_BYTES, 0);
    out.resize(out.len().next_multiple_of(RECORD_BYTES), 0);
}
