//! A target's path to what is there, and to the staging directory of a copy to it.
//!
//! Only a regular file is replaced. A link is followed, a directory gets the copy's files one by
//! one, and a special file, such as a pipe or a device, is written to.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// The most symbolic links that are followed in a row, as in the kernel.
const MAX_LINKS: usize = 40;

/// What a copy is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A path of nothing yet, of a regular file, or of a directory.
    Name(PathBuf),
    /// A pipe, a device, or an open file of this program, which is written to.
    Special(PathBuf),
}

impl Destination {
    /// Follows the links at a path to what the copy is written to.
    ///
    /// # Errors
    /// The system's error, if something on the way cannot be looked at or links go round.
    pub fn of(path: &Path) -> io::Result<Destination> {
        let mut at = path.to_owned();
        for _ in 0..MAX_LINKS {
            let found = match fs::symlink_metadata(&at) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Destination::Name(at));
                }
                // The error of creating a file there is clearer.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    return Ok(Destination::Name(at));
                }
                Err(error) => return Err(error),
            };
            if found.is_file() || found.is_dir() {
                return Ok(Destination::Name(at));
            }
            if !found.is_symlink() {
                return Ok(Destination::Special(path.to_owned()));
            }
            if fs::metadata(&at).is_ok_and(|found| found.is_dir()) {
                return Ok(Destination::Name(at));
            }
            let parent = fs::canonicalize(parent_of(&at))?;
            if is_open_files(&parent) {
                return Ok(Destination::Special(at));
            }
            at = parent.join(fs::read_link(&at)?);
        }
        Err(rustix::io::Errno::LOOP.into())
    }

    /// The destination's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        let (Destination::Name(path) | Destination::Special(path)) = self;
        path
    }
}

/// Whether a directory is a process's `/proc/…/fd`.
fn is_open_files(dir: &Path) -> bool {
    let mut parts = dir.components();
    parts.next() == Some(Component::RootDir)
        && parts.next() == Some(Component::Normal(OsStr::new("proc")))
        && parts.next_back() == Some(Component::Normal(OsStr::new("fd")))
}

/// Opens a [`Destination::Special`] for writing.
///
/// # Errors
/// The system's error, if it cannot be opened.
pub fn open_special(path: &Path) -> io::Result<File> {
    let own = std::process::id().to_string();
    let parent = fs::canonicalize(parent_of(path))?;
    let is_own = is_open_files(&parent)
        && parent.components().any(|part| part.as_os_str().as_bytes() == own.as_bytes());
    // Opened by its name, it would be written from its beginning.
    let open: Option<OwnedFd> = match path.file_name().map(OsStrExt::as_bytes) {
        Some(b"1") if is_own => Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?),
        Some(b"2") if is_own => Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?),
        _ => None,
    };
    match open {
        Some(open) => Ok(File::from(open)),
        None => fs::OpenOptions::new().write(true).open(path),
    }
}

/// Creates a staging directory with a random name: in the destination if that is a directory, else
/// beside it. Where neither is possible, but the destination itself can be written to, it is among
/// the system's temporary files, and the second value says why.
///
/// # Errors
/// The directory in which it cannot be created, and the system's error.
pub fn create_staging(
    destination: &Destination,
) -> Result<(PathBuf, Option<io::Error>), (PathBuf, io::Error)> {
    let name = format!(".bowline-cp-{:016x}", random());
    let make = |dir: &Path| -> io::Result<PathBuf> {
        let staging = dir.join(&name);
        DirBuilder::new().mode(0o700).create(&staging)?;
        Ok(staging)
    };
    let fall_back = |dir: PathBuf, error: io::Error| match make(&std::env::temp_dir()) {
        Ok(staging) => Ok((staging, Some(error))),
        Err(_) => Err((dir, error)),
    };
    let path = match destination {
        Destination::Name(path) => path,
        Destination::Special(path) => {
            let error = io::Error::other("it is no regular file");
            return fall_back(path.clone(), error);
        }
    };
    // An existing directory may be on another disk than its parent, or be the only one that the
    // user may write to.
    let dir = if path.is_dir() { path.clone() } else { parent_of(path) };
    match fs::create_dir_all(&dir).and_then(|()| make(&dir)) {
        Ok(staging) => Ok((staging, None)),
        Err(error) if is_about_the_directory(&error) && path.exists() => fall_back(dir, error),
        Err(error) => Err((dir, error)),
    }
}

/// Whether an error means that names in a directory cannot be created or moved, so that the file
/// itself may still be written to.
pub(crate) fn is_about_the_directory(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let found = error.raw_os_error().map(Errno::from_raw_os_error);
    [Errno::ACCESS, Errno::PERM, Errno::BUSY, Errno::ROFS, Errno::XDEV]
        .into_iter()
        .any(|errno| found == Some(errno))
}

/// The directory that a path is in.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ if path.has_root() => PathBuf::from("/"),
        _ => PathBuf::from("."),
    }
}

/// Returns a random number.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_and_what_is_no_file_is_written_through() {
        let place = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(place.path()).unwrap();
        let path = |name: &str| place.join(name);
        fs::write(path("file"), "x").unwrap();
        fs::create_dir(path("dir")).unwrap();
        symlink("file", path("to-file")).unwrap();
        symlink("../to-file", path("dir/to-link")).unwrap();
        symlink("nothing", path("to-nothing")).unwrap();
        symlink("dir", path("to-dir")).unwrap();
        symlink("loop", path("loop")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RWXU).unwrap();
        symlink("pipe", path("to-pipe")).unwrap();
        let of = |name: &str| Destination::of(&path(name)).unwrap();
        for (name, behind) in [
            ("file", "file"),
            ("absent", "absent"),
            ("dir", "dir"),
            ("to-file", "file"),
            ("dir/to-link", "file"),
            ("to-nothing", "nothing"),
            ("to-dir", "to-dir"),
            ("file/below", "file/below"),
        ] {
            let found = of(name);
            let found = fs::canonicalize(found.path()).map_or(found, Destination::Name);
            let behind = fs::canonicalize(path(behind)).unwrap_or(path(behind));
            assert_eq!(found, Destination::Name(behind), "{name}");
        }
        assert_eq!(of("pipe"), Destination::Special(path("pipe")));
        assert_eq!(of("to-pipe"), Destination::Special(path("to-pipe")));
        assert!(Destination::of(&path("loop")).is_err());
        assert!(matches!(
            Destination::of(Path::new("/dev/null")).unwrap(),
            Destination::Special(_)
        ));
        assert!(matches!(
            Destination::of(Path::new("/proc/self/fd/1")).unwrap(),
            Destination::Special(_)
        ));
    }
}
