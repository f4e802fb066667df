//! A local file or tree to the bytes of an archive, a piece at a time.
//!
//! A directory comes twice: before its content, writable by its owner, and after it with its own
//! mode and time. So its content can be unpacked, and its time stays, whether the tar delays
//! setting them or not. What cannot be read is left out, and is a problem.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::reader::{BLOCK_BYTES, Entry, EntryKind};
use crate::unpack::error_text;
use crate::writer::{self, Owner};
use crate::{Item, ItemKind, Problem};

/// How much there is to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The bytes of all regular files.
    pub bytes: u64,
    /// The number of regular files.
    pub files: u64,
}

/// Counts the files at and below a path. What cannot be looked at is not counted.
#[must_use]
pub fn totals(path: &Path) -> Totals {
    let mut totals = Totals::default();
    each_file(path, &mut |_, found| {
        totals.bytes += found.len();
        totals.files += 1;
    });
    totals
}

/// Calls `see` with each regular file at and below a path.
fn each_file(path: &Path, see: &mut dyn FnMut(&Path, &Metadata)) {
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            waiting.extend(entries.map(|entry| entry.path()));
        } else if found.is_file() {
            see(&path, &found);
        }
    }
}

/// What changes when a file's bytes do: while it stays equal, so do the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The file's size in bytes.
    pub size: u64,
    /// The time of the last change of its bytes (mtime), in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// The time of the last change of anything about it (ctime), in seconds and nanoseconds.
    changed: (i64, i64),
}

impl Version {
    /// Returns the version that a file's metadata shows.
    #[must_use]
    pub fn of(found: &Metadata) -> Version {
        Version {
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// Versions of files, by paths below the root.
pub type Versions = HashMap<Vec<u8>, Version>;

/// Reads a local tree as an archive.
#[derive(Debug)]
pub struct Packer {
    /// The open directories from the root down, with the entries still to visit in each.
    stack: Vec<Frame>,
    /// The root, before it is visited.
    root: Option<(PathBuf, Vec<u8>)>,
    existing: Versions,
    sent: Versions,
    /// Everything visited, as it is in the archive or exists already.
    items: BTreeMap<Vec<u8>, Item>,
    directories_only: bool,
    symlinks: u64,
    /// Bytes of headers and padding, and how many of them were read.
    pending: Vec<u8>,
    pending_read: usize,
    file: Option<OpenFile>,
    is_over: bool,
    problems: Vec<Problem>,
    failures: u64,
    /// Names of files that changed while they were read: their bytes mix several versions.
    torn: Vec<Vec<u8>>,
    /// The current file, for progress.
    name: Vec<u8>,
    bytes: u64,
}

#[derive(Debug)]
struct Frame {
    entries: Vec<OsString>,
    path: PathBuf,
    name: Vec<u8>,
    found: Metadata,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    name: Vec<u8>,
    before: Metadata,
    left: u64,
    is_short: bool,
}

impl Packer {
    /// Packs what is at `path` under the name `root`. Files whose version is in `existing` are left
    /// out.
    #[must_use]
    pub fn new(path: &Path, root: &[u8], existing: Versions) -> Packer {
        Packer {
            stack: Vec::new(),
            root: Some((path.to_owned(), root.to_vec())),
            existing,
            sent: Versions::new(),
            items: BTreeMap::new(),
            directories_only: false,
            symlinks: 0,
            pending: Vec::new(),
            pending_read: 0,
            file: None,
            is_over: false,
            problems: Vec::new(),
            failures: 0,
            torn: Vec::new(),
            name: Vec::new(),
            bytes: 0,
        }
    }

    /// Packs the directories alone. Some tars make links last, which changes the times of the
    /// directories that they are in.
    #[must_use]
    pub fn directories(path: &Path, root: &[u8]) -> Packer {
        Packer { directories_only: true, ..Packer::new(path, root, Versions::new()) }
    }

    /// The versions of files when they were opened. The rest of a file may be sent later only if it
    /// still has that version.
    #[must_use]
    pub fn sent(&self) -> &Versions {
        &self.sent
    }

    /// Takes everything that the other side has once the archive is unpacked, by paths below the
    /// root.
    pub fn items(&mut self) -> BTreeMap<Vec<u8>, Item> {
        std::mem::take(&mut self.items)
    }

    /// The number of symbolic links in the archive.
    #[must_use]
    pub fn symlinks(&self) -> u64 {
        self.symlinks
    }

    /// Takes the problems with single files so far.
    pub fn problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    /// The number of files that are not in the archive as they are here.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Names in the archive of files that changed while they were read.
    #[must_use]
    pub fn torn(&self) -> &[Vec<u8>] {
        &self.torn
    }

    /// The name of the current file, and the bytes of all files so far.
    #[must_use]
    pub fn position(&self) -> (&[u8], u64) {
        (&self.name, self.bytes)
    }

    /// Whether the whole archive was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over && self.pending_read == self.pending.len()
    }

    fn problem(&mut self, problem: Problem) {
        self.failures += u64::from(problem.is_failure);
        self.problems.push(problem);
    }

    fn fail(&mut self, path: &Path, error: &io::Error) {
        self.problem(Problem::failure(path.as_os_str().as_bytes(), error_text(error)));
    }

    /// Visits the next path, or ends the archive.
    fn advance(&mut self) {
        let next = match self.root.take() {
            Some(root) => Some(root),
            None => match self.stack.last_mut() {
                None => return self.end(),
                Some(frame) => frame.entries.pop().map(|entry| {
                    let mut name = frame.name.clone();
                    name.push(b'/');
                    name.extend_from_slice(entry.as_bytes());
                    (frame.path.join(entry), name)
                }),
            },
        };
        match next {
            Some((path, name)) => {
                if let Err(error) = self.visit(&path, name) {
                    self.fail(&path, &error);
                }
            }
            None => {
                if let Some(frame) = self.stack.pop() {
                    self.append_header(
                        &frame.found,
                        frame.name,
                        EntryKind::Directory,
                        0,
                        Vec::new(),
                    );
                }
            }
        }
    }

    fn visit(&mut self, path: &Path, name: Vec<u8>) -> io::Result<()> {
        let found = fs::symlink_metadata(path)?;
        let kind = found.file_type();
        if kind.is_dir() {
            let mut entries: Vec<OsString> = Vec::new();
            for entry in fs::read_dir(path)? {
                entries.push(entry?.file_name());
            }
            // In reverse, since they are popped off the end.
            entries.sort_unstable_by(|one, other| other.cmp(one));
            if !self.directories_only {
                self.append_header(&found, name.clone(), EntryKind::Directory, 0o700, Vec::new());
            }
            self.stack.push(Frame { entries, path: path.to_owned(), name, found });
        } else if self.directories_only {
            return Ok(());
        } else if kind.is_symlink() {
            self.symlinks += 1;
            let target = fs::read_link(path)?;
            self.append_header(
                &found,
                name,
                EntryKind::Symlink,
                0,
                target.as_os_str().as_bytes().to_vec(),
            );
        } else if kind.is_file() {
            let root = name.iter().position(|byte| *byte == b'/').map_or(name.len(), |at| at + 1);
            if self.existing.get(&name[root..]) == Some(&Version::of(&found)) {
                self.bytes += found.len();
                self.note(&found, &name, ItemKind::File, found.len());
                return Ok(());
            }
            // The file may have become a pipe meanwhile, and opening that would block.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let flags = i32::try_from(flags.bits()).unwrap_or(0);
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            let before = file.metadata()?;
            if !before.is_file() {
                return Err(io::Error::other("it is no regular file any more"));
            }
            self.append_header(&before, name.clone(), EntryKind::File, 0, Vec::new());
            self.sent.insert(name[root..].to_vec(), Version::of(&before));
            self.name.clone_from(&name);
            self.file = Some(OpenFile {
                path: path.to_owned(),
                file,
                name,
                left: before.len(),
                before,
                is_short: false,
            });
        } else {
            let what = if kind.is_fifo() {
                "a named pipe"
            } else if kind.is_socket() {
                "a socket"
            } else {
                "a device"
            };
            let what = format!("skipping: it is {what}");
            self.problem(Problem::notice(path.as_os_str().as_bytes(), what));
        }
        Ok(())
    }

    /// Appends a header. `more` are permissions in addition to the item's own.
    fn append_header(
        &mut self,
        found: &Metadata,
        name: Vec<u8>,
        kind: EntryKind,
        more: u32,
        link: Vec<u8>,
    ) {
        let size = if kind == EntryKind::File { found.len() } else { 0 };
        let mut name = name;
        if kind == EntryKind::Directory {
            name.push(b'/');
        }
        let (item, length) = match kind {
            EntryKind::File => (ItemKind::File, size),
            EntryKind::Symlink => (ItemKind::Symlink, link.len() as u64),
            _ => (ItemKind::Directory, 0),
        };
        self.note(found, name.strip_suffix(b"/").unwrap_or(&name), item, length);
        let mode = found.mode() & 0o7777 | more;
        let entry = Entry { name, kind, size, mode, mtime: found.mtime(), link };
        let owner = Owner { uid: found.uid(), gid: found.gid() };
        writer::header(&entry, owner, &mut self.pending);
    }

    fn note(&mut self, found: &Metadata, name: &[u8], kind: ItemKind, size: u64) {
        let root = name.iter().position(|byte| *byte == b'/').map_or(name.len(), |at| at + 1);
        let item = Item { kind, size, mtime: Some(found.mtime()) };
        self.items.insert(name[root..].to_vec(), item);
    }

    fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.pending.resize(self.pending.len() + 2 * BLOCK_BYTES, 0);
        }
    }

    /// Ends a file: checks that it has not changed, and pads the archive.
    fn close(&mut self, open: &mut OpenFile) {
        // The files of /proc have bytes although their size is 0.
        let is_longer = !open.is_short && open.file.read(&mut [0]).is_ok_and(|read| read > 0);
        let after = open.file.metadata();
        let same = after.is_ok_and(|after| {
            (after.len(), after.mtime(), after.mtime_nsec())
                == (open.before.len(), open.before.mtime(), open.before.mtime_nsec())
        });
        if open.is_short || is_longer || !same {
            let root = open.name.iter().position(|byte| *byte == b'/');
            self.items.remove(&open.name[root.map_or(open.name.len(), |at| at + 1)..]);
            self.torn.push(open.name.clone());
            let path = open.path.as_os_str().as_bytes();
            self.problem(Problem::failure(path, "file changed as we read it"));
        }
        let padding =
            (BLOCK_BYTES as u64 - open.before.len() % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
        self.pending.resize(self.pending.len() + padding as usize, 0);
    }

    fn read_file(&mut self, buffer: &mut [u8]) -> usize {
        let Some(mut open) = self.file.take() else { return 0 };
        let most = buffer.len().min(usize::try_from(open.left).unwrap_or(usize::MAX));
        let read = match open.file.read(&mut buffer[..most]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.file = Some(open);
                return 0;
            }
            Err(error) => {
                self.fail(&open.path, &error);
                0
            }
        };
        let read = if read == 0 {
            // The header has promised more: fill with zeros, and report the file at its end.
            open.is_short = most > 0;
            buffer[..most].fill(0);
            most
        } else {
            read
        };
        open.left -= read as u64;
        self.bytes += read as u64;
        if open.left == 0 {
            self.close(&mut open);
        } else {
            self.file = Some(open);
        }
        read
    }
}

impl Read for Packer {
    /// Reads the archive's next bytes; 0 is its end. Never fails: what is wrong with files is in
    /// [`problems`](Packer::problems).
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.pending_read < self.pending.len() {
                let length = (buffer.len() - filled).min(self.pending.len() - self.pending_read);
                let pending = &self.pending[self.pending_read..self.pending_read + length];
                buffer[filled..filled + length].copy_from_slice(pending);
                self.pending_read += length;
                filled += length;
                if self.pending_read == self.pending.len() {
                    self.pending.clear();
                    self.pending_read = 0;
                }
            } else if self.file.is_some() {
                filled += self.read_file(&mut buffer[filled..]);
            } else if self.is_over {
                break;
            } else {
                self.advance();
            }
        }
        Ok(filled)
    }
}
