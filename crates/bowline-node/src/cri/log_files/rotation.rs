//! The files of one container's log to its records, across rotations. Everything here blocks.
//!
//! A kubelet rotates a log by renaming it, `0.log` to `0.log.20260131-120000`, and asking the
//! runtime to begin a new `0.log`. Before that, it compresses what it has renamed before, so that
//! at most one renamed file is there as it was. Until the runtime has begun the new file, and for a
//! moment longer, it writes to the renamed one. So that one stays open, and is looked at first, for
//! as long as anything may still come.
//!
//! A reader may be so slow that its file is compressed before it comes to the end. Then the one
//! that is renamed is the next, or comes later: by the times of these files, the reader goes on or
//! is told that it has missed some.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::warn;

use super::file::{Identity, LogFile};
use super::format::Form;
use crate::runtime::LogRecord;

/// For how long a renamed file that does not grow is looked at.
const RENAMED_PATIENCE: Duration = Duration::from_secs(10);

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
    ) -> Rotated {
        Rotated {
            path,
            form,
            renamed: VecDeque::new(),
            renamed_until: now,
            current,
            until,
            has_records: false,
            has_warned: false,
        }
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
        let old = self.current.file().metadata()?;
        // It was renamed and the runtime has not begun another one, or the pod is gone.
        let Some(found) = if_there(fs::metadata(&self.path))? else { return Ok(false) };
        if Identity::of(&found) == Identity::of(&old) {
            return Ok(false);
        }
        let Some(next) = if_there(LogFile::open(&self.path))? else { return Ok(false) };
        let missed = match between(&self.path, &old, next.identity()?)? {
            Between::Nothing => None,
            Between::File(path) => match if_there(LogFile::open(&path))? {
                Some(file) => Some(file),
                None => return Ok(false),
            },
            Between::Rotation => return Ok(false),
            Between::Lost => {
                let why = "its reader was too slow: what it missed is rotated away";
                return Err(io::Error::other(why));
            }
        };
        self.renamed.push_back(std::mem::replace(&mut self.current, next));
        self.renamed.extend(missed);
        self.renamed_until = now + RENAMED_PATIENCE;
        Ok(true)
    }
}

/// What there was between the file that was read and the one that is at the path now.
#[derive(Debug)]
enum Between {
    Nothing,
    /// One file, which is here now.
    File(PathBuf),
    /// Files that are compressed, or gone.
    Lost,
    /// It is being rotated: the path is looked at once more.
    Rotation,
}

/// Looks for what was between the file `old` and the file `next`, which was at the path just now.
fn between(path: &Path, old: &Metadata, next: Identity) -> io::Result<Between> {
    if old.nlink() > 0 {
        // It is compressed, and removed, before another one is renamed.
        return Ok(Between::Nothing);
    }
    let Some(renamed) = latest_renamed(path)? else { return Ok(Between::Nothing) };
    let Some(found) = if_there(fs::metadata(&renamed))? else { return Ok(Between::Lost) };
    if Identity::of(&found) == next {
        return Ok(Between::Rotation);
    }
    // A rotation removes what was renamed before, renames the file at the path, and only then is
    // the next one made. So the next one was made before the old one was removed, a later one not.
    let (Ok(began), Ok(old_began)) = (found.created(), old.created()) else {
        return Ok(Between::Lost);
    };
    Ok(if began <= old_began {
        // It was renamed before the old one was begun. That one was replaced, not rotated.
        Between::Nothing
    } else if began < changed(old) {
        Between::File(renamed)
    } else {
        Between::Lost
    })
}

/// Returns when a file was changed, renamed or removed.
fn changed(file: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(file.ctime()).unwrap_or(0));
    let nanos = Duration::from_nanos(u64::try_from(file.ctime_nsec()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + nanos
}

/// Makes of what is not there any more no error.
fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the latest name to which a kubelet renamed the log at `path`, without what compression
/// adds to it: that file may be there no more.
fn latest_renamed(path: &Path) -> io::Result<Option<PathBuf>> {
    let (Some(directory), Some(base)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let Some(entries) = if_there(fs::read_dir(directory))? else { return Ok(None) };
    let mut latest = None;
    for entry in entries.take(NAMES) {
        let name = entry?.file_name();
        latest = latest.max(renamed(base.as_bytes(), name.as_bytes()).map(<[u8]>::to_vec));
    }
    Ok(latest.map(|name| directory.join(OsStr::from_bytes(&name))))
}

/// Returns what stands in a name before what compression adds to it, if a kubelet gave it to the
/// log that is called `base`: `BASE.20260131-120000`.
fn renamed<'a>(base: &[u8], name: &'a [u8]) -> Option<&'a [u8]> {
    let time = name.strip_prefix(base)?.strip_prefix(b".")?.get(..15)?;
    let is_time = time.iter().enumerate().all(|(index, byte)| match index {
        8 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    is_time.then(|| &name[..base.len() + 1 + time.len()])
}
