//! A directory of this user's alone, with the socket of its holder.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::geteuid;

use crate::error::HoldError;

/// What the names of programs in a directory begin with.
const PROGRAM: &[u8] = b"hold-";
/// How many connections may wait for the holder.
const BACKLOG: i32 = 128;

/// A directory that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    path: PathBuf,
}

/// Which socket it is that has the socket's name. Its holder keeps the file, and nothing else is
/// this one meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    device: u64,
    file: u64,
}

/// Whoever has it is the only one that begins or ends a holder.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the lock goes with it")] File);

impl Directory {
    /// The directory at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// [`HoldError::Directory`] if it is no directory, or another user can reach what is in it.
    pub(crate) fn make(path: &Path) -> Result<Directory, HoldError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(HoldError::Directory { path: path.to_owned(), why: error.to_string() })
            }
            _ => Directory::open(path),
        }
    }

    /// The directory at `path`.
    ///
    /// # Errors
    /// As [`make`](Self::make).
    pub(crate) fn open(path: &Path) -> Result<Directory, HoldError> {
        let fail = |why: String| HoldError::Directory { path: path.to_owned(), why };
        let found = fs::symlink_metadata(path).map_err(|error| fail(error.to_string()))?;
        match fault(&found) {
            Some(why) => Err(fail(why.to_owned())),
            None => Ok(Directory { path: path.to_owned() }),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Connects to the holder; `None` if there is none.
    pub(crate) fn dial(&self) -> Result<Option<OwnedFd>, HoldError> {
        let (socket, address) = self.endpoint()?;
        match rustix::io::retry_on_intr(|| connect(&socket, &address)) {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(HoldError::system("connect to the holder", error)),
        }
    }

    /// Listens in place of a holder that is gone. Only who has the lock may.
    pub(crate) fn listen(&self, _: &Lock) -> Result<OwnedFd, HoldError> {
        let (socket, address) = self.endpoint()?;
        let _ = fs::remove_file(self.socket());
        let listening = bind(&socket, &address).and_then(|()| listen(&socket, BACKLOG));
        listening.map_err(|error| HoldError::system(self.socket().display().to_string(), error))?;
        Ok(socket)
    }

    fn endpoint(&self) -> Result<(OwnedFd, SocketAddrUnix), HoldError> {
        let named = |error| HoldError::system(self.socket().display().to_string(), error);
        let address = SocketAddrUnix::new(self.socket()).map_err(named)?;
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(named)?;
        Ok((socket, address))
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> Result<Lock, HoldError> {
        let named =
            |error: io::Error| HoldError::system(self.lock_file().display().to_string(), error);
        loop {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).mode(0o600).open(self.lock_file());
            let file = file.map_err(named)?;
            rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
                .map_err(|error| named(error.into()))?;
            // A holder that has ended has removed the file, and whoever comes makes another.
            let (ours, there) = (file.metadata(), fs::symlink_metadata(self.lock_file()));
            if let (Ok(ours), Ok(there)) = (ours, there)
                && (ours.dev(), ours.ino()) == (there.dev(), there.ino())
            {
                return Ok(Lock(file));
            }
        }
    }

    /// What has the socket's name now.
    pub(crate) fn named(&self) -> Option<Named> {
        let found = fs::symlink_metadata(self.socket()).ok()?;
        Some(Named { device: found.dev(), file: found.ino() })
    }

    /// Takes the socket's name away, so that nobody comes any more.
    pub(crate) fn hide(&self, _: &Lock) -> bool {
        fs::rename(self.socket(), self.hidden()).is_ok()
    }

    /// Gives the socket its name again.
    pub(crate) fn show(&self, _: &Lock) {
        let _ = fs::rename(self.hidden(), self.socket());
    }

    fn hidden(&self) -> PathBuf {
        self.path.join("socket-of-the-last")
    }

    /// Removes what the holder has made here, the programs that are here, and the directory if
    /// nothing else is in it.
    pub(crate) fn remove(&self, lock: Lock) {
        let _ = fs::remove_file(self.hidden());
        // Programs are put here under such names, perhaps several versions.
        let all = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in all.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PROGRAM)) {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_file(self.lock_file());
        let _ = fs::remove_dir(&self.path);
        drop(lock);
    }
}

/// Why a directory cannot be used.
fn fault(found: &Metadata) -> Option<&'static str> {
    if !found.is_dir() {
        return Some("it is no directory");
    }
    if found.uid() != geteuid().as_raw() {
        return Some("it belongs to another user");
    }
    (found.mode() & 0o077 != 0).then_some("other users may reach it")
}
