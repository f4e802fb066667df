//! What an unpacker has, as kinds, sizes and sums.

use std::io::{self, Read, Seek, SeekFrom};

use super::Unpacker;
use crate::{Item, ItemKind};

impl Unpacker {
    /// Returns what has been unpacked at a path.
    #[must_use]
    pub fn item(&self, path: &[u8]) -> Option<Item> {
        let item = |kind, size, mtime| Some(Item { kind, size, mtime: Some(mtime) });
        if let Some(received) = self.received.get(path) {
            return item(ItemKind::File, received.bytes, received.mtime);
        }
        if let Some((_, mtime)) = self.directories.get(path) {
            return item(ItemKind::Directory, 0, *mtime);
        }
        let (target, mtime) = self.symlinks.get(path)?;
        item(ItemKind::Symlink, target.len() as u64, *mtime)
    }

    /// Returns the paths of everything that has been unpacked.
    pub fn paths(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.received.keys().chain(self.directories.keys()).chain(self.symlinks.keys())
    }

    /// Whether a [`Problem`](crate::Problem) was reported of that path, or of one above it.
    #[must_use]
    pub fn is_reported(&self, path: &[u8]) -> bool {
        let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        self.reported.contains(path) || slashes.any(|(at, _)| self.reported.contains(&path[..at]))
    }

    /// Returns the SHA-256 of a file that has been unpacked.
    ///
    /// # Errors
    /// The system's error, if the file cannot be opened or read.
    pub fn sum(&self, path: &[u8]) -> io::Result<String> {
        crate::sum::sha256(self.dir.open(self.inside(path))?)
    }

    /// Whether a file's last byte is a zero, or cannot be read.
    #[must_use]
    pub fn ends_in_zero(&self, path: &[u8]) -> bool {
        let Some(last) = self.received.get(path).and_then(|received| received.bytes.checked_sub(1))
        else {
            return false;
        };
        let mut byte = [0];
        let read = self.dir.open(self.inside(path)).and_then(|mut file| {
            file.seek(SeekFrom::Start(last))?;
            file.read_exact(&mut byte)
        });
        read.is_err() || byte == [0]
    }
}
