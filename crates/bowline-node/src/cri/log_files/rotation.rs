//! The files of one container's log to its records, across rotations. Everything here blocks.
//!
//! A kubelet rotates a log by renaming it, `0.log` to `0.log.20260131-120000`, and asking the
//! runtime to begin a new `0.log`; at each later rotation it compresses what it renamed before.
//! Until the runtime has begun the new file, and for a moment longer, it writes to the renamed one.
//! So the renamed one stays open, and is looked at first, for as long as anything may still come. A
//! reader that is so slow that files come and go meanwhile reads those in between as well, or is
//! told that they are gone.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::file::{Identity, LogFile};
use super::format::Form;
use crate::runtime::LogRecord;

/// For how long a renamed file that does not grow is looked at.
const RENAMED_PATIENCE: Duration = Duration::from_secs(10);

/// How many files between the last one that was read and the newest one are opened. The kubelet
/// itself keeps one that is not compressed.
const MISSED_FILES: usize = 8;

/// How many names of a directory are looked at. A container has a handful.
const NAMES: usize = 4096;

/// A container's log, open.
#[derive(Debug)]
pub(super) struct Rotated {
    path: PathBuf,
    form: Form,
    /// Renamed files that may still have something, the oldest first.
    renamed: VecDeque<LogFile>,
    /// Until when the last of them is looked at.
    renamed_until: Instant,
    current: LogFile,
    /// Where the answer ends in the file, if it does not follow the log.
    until: Option<u64>,
    /// The names that renamed files have had, when the current one was opened.
    known: HashSet<OsString>,
    has_records: bool,
    has_warned: bool,
}

/// What reading on gave.
#[derive(Debug)]
pub(super) enum Batch {
    /// These records, or none of a block that is passed over.
    Records(Vec<LogRecord>),
    /// There is nothing more now.
    AtEnd,
}

impl Rotated {
    /// Takes an open file, and where it is to be read. It is followed unless there is an end to it.
    pub(super) fn new(
        path: PathBuf,
        current: LogFile,
        until: Option<u64>,
        form: Form,
        now: Instant,
    ) -> io::Result<Rotated> {
        let mut known = HashSet::new();
        if until.is_none() {
            let own = current.identity()?;
            known.extend(renamed_names(&path));
            // It may have been renamed since it was opened.
            known.retain(|name| {
                let found = fs::metadata(path.with_file_name(name));
                found.map_or(true, |found| Identity::of(&found) != own)
            });
        }
        Ok(Rotated {
            known,
            path,
            form,
            renamed: VecDeque::new(),
            renamed_until: now,
            current,
            until,
            has_records: false,
            has_warned: false,
        })
    }

    /// Reads the next block.
    ///
    /// # Errors
    /// Those of the system; one for a log in another form, and one for files that are gone before
    /// they were read. None of them goes away by trying again.
    pub(super) fn next(&mut self, now: Instant) -> io::Result<Batch> {
        let mut records = Vec::new();
        while let Some(file) = self.renamed.front_mut() {
            if file.read(u64::MAX, self.form, &mut records)? {
                self.renamed_until = now + RENAMED_PATIENCE;
                return self.judged(records);
            }
            if self.renamed.len() == 1 && now < self.renamed_until {
                break;
            }
            self.renamed.pop_front();
        }
        let until = self.until.unwrap_or(u64::MAX);
        if self.current.read(until, self.form, &mut records)? {
            return self.judged(records);
        }
        if self.until.is_none() && self.renew(now)? {
            // The renamed file may have grown since it was read.
            return Ok(Batch::Records(records));
        }
        Ok(Batch::AtEnd)
    }

    /// Says what became of lines that are none of a CRI log file.
    fn judged(&mut self, records: Vec<LogRecord>) -> io::Result<Batch> {
        let files = self.renamed.iter_mut().chain([&mut self.current]);
        for file in files {
            let Some((line, has_others)) = file.take_malformed() else { continue };
            if !(self.has_records || has_others) {
                let text = format!("unsupported log format: {line:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if !std::mem::replace(&mut self.has_warned, true) {
                warn!(path = %self.path.display(), "passed over a line in another form: {line:?}");
            }
        }
        self.has_records |= !records.is_empty();
        Ok(Batch::Records(records))
    }

    /// Looks whether the path is another file by now, and opens that; returns whether it did.
    fn renew(&mut self, now: Instant) -> io::Result<bool> {
        let found = match fs::metadata(&self.path) {
            Ok(found) => Identity::of(&found),
            // It was renamed, and the runtime has not begun another one, or the pod is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let old = self.current.identity()?;
        if found == old {
            return Ok(false);
        }
        let next = match LogFile::open(&self.path) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        // What was renamed meanwhile is found when the path is looked at again.
        let (missed, known) = missed(&self.path, &self.known, old, next.identity()?)?;
        self.renamed.push_back(std::mem::replace(&mut self.current, next));
        self.renamed.extend(missed);
        self.renamed_until = now + RENAMED_PATIENCE;
        self.known = known;
        Ok(true)
    }
}

/// Opens the files that were renamed after the one that is `old` and before the one that is `next`;
/// and returns the names of all that were renamed before that.
fn missed(
    path: &Path,
    known: &HashSet<OsString>,
    old: Identity,
    next: Identity,
) -> io::Result<(Vec<LogFile>, HashSet<OsString>)> {
    let mut now_known = HashSet::new();
    let mut files = Vec::new();
    // The first of the names that were not there before is the old file's, which was at the path;
    // that file itself may be compressed by now.
    let mut is_first = true;
    for name in renamed_names(path) {
        let is_known = known.contains(&name);
        let file = if is_known { None } else { open_if_there(&path.with_file_name(&name))? };
        let identity = file.as_ref().map(LogFile::identity).transpose()?;
        if identity == Some(next) {
            break;
        }
        now_known.insert(name);
        if is_known {
            continue;
        }
        let is_old = identity == Some(old) || (is_first && file.is_none());
        is_first = false;
        match file {
            _ if is_old => {}
            Some(file) if files.len() < MISSED_FILES => files.push(file),
            _ => {
                let why = "its reader was too slow: what it missed is rotated away";
                return Err(io::Error::other(why));
            }
        }
    }
    Ok((files, now_known))
}

fn open_if_there(path: &Path) -> io::Result<Option<LogFile>> {
    match LogFile::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the names to which a kubelet renamed the log at `path`, in their order: that name, a dot
/// and a time, without what compression adds to it.
fn renamed_names(path: &Path) -> Vec<OsString> {
    let (Some(directory), Some(base)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let entries = fs::read_dir(directory).into_iter().flatten().take(NAMES).flatten();
    let names: HashSet<OsString> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let time = name.as_bytes().strip_prefix(base.as_bytes())?.strip_prefix(b".")?;
            let time = time.get(..15)?;
            let is_time = time.iter().enumerate().all(|(index, byte)| match index {
                8 => *byte == b'-',
                _ => byte.is_ascii_digit(),
            });
            let renamed = [base.as_bytes(), b".", time].concat();
            is_time.then(|| std::os::unix::ffi::OsStringExt::from_vec(renamed))
        })
        .collect();
    let mut names: Vec<OsString> = names.into_iter().collect();
    names.sort_unstable();
    names
}
