//! A complete tree in its staging directory to the target's name.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, utimensat};

use super::{TREE, UnpackError, Unpacker};
use crate::destination::{self, Destination};
use crate::merge::{merge, set_attributes, times, written_in_place};
use crate::publish::{WriteMode, put};

impl Unpacker {
    /// Makes links, sets the times of directories, and gives the tree the target's name. A
    /// directory of that name keeps what the tree does not have.
    ///
    /// # Errors
    /// [`UnpackError::Io`] if the tree cannot get its name. What is wrong with single entries is in
    /// [`problems`](Self::problems).
    pub fn publish(&mut self) -> Result<(), UnpackError> {
        self.close_current();
        let unfinished: Vec<_> = self
            .received
            .iter()
            .filter(|(_, received)| !received.is_whole())
            .map(|one| one.0.clone())
            .collect();
        for path in unfinished {
            self.forget(&path);
        }
        for (path, (link, mtime)) in std::mem::take(&mut self.symlinks) {
            if let Err(error) = self.symlink(&path, &link, mtime) {
                self.fail(&path, &error);
            }
        }
        let mut root = None;
        if self.preserve {
            // The deepest first: nothing can be changed in a directory without write permission.
            for (path, (mode, mtime)) in std::mem::take(&mut self.directories).into_iter().rev() {
                if path.is_empty() {
                    root = Some((mode, mtime));
                    continue;
                }
                let dir = self.dir.open_dir(self.inside(&path));
                let set = dir.and_then(|dir| set_attributes(&dir, Some((mode, mtime))));
                if let Err(error) = set {
                    self.fail(&path, &error);
                }
            }
        }
        let Ok(tree) = self.dir.symlink_metadata(TREE) else { return Ok(()) };
        let path = self.destination.path().to_owned();
        let fail = |error| UnpackError::Io { path: path.clone(), error };
        match &self.destination {
            Destination::Special(_) if tree.is_dir() => Err(fail(rustix::io::Errno::NOTDIR.into())),
            Destination::Special(special) => {
                let mut file = self.dir.open(TREE).map_err(fail)?;
                // Opening a pipe may wait for a reader; if this is ended then, nothing is left.
                self.remove_staging();
                let mut to = destination::open_special(special).map_err(fail)?;
                io::copy(&mut file, &mut to).map_err(fail)?;
                Ok(())
            }
            Destination::Name(_) if tree.is_dir() && path.is_dir() => {
                let target = Dir::open_ambient_dir(&path, ambient_authority()).map_err(fail)?;
                let tree = self.dir.open_dir(TREE).map_err(fail)?;
                let mut problems = Vec::new();
                merge(&tree, &target, self.preserve, &mut problems);
                problems.into_iter().for_each(|problem| self.problem(problem));
                self.remove_staging();
                // An existing target keeps its own mode.
                if let Some((_, mtime)) = root
                    && let Err(error) = utimensat(&target, ".", &times(mtime), AtFlags::empty())
                    && !destination::is_about_the_directory(&error.into())
                {
                    return Err(fail(error.into()));
                }
                Ok(())
            }
            Destination::Name(_) if tree.is_dir() => {
                let moved = self.dir.open_dir(TREE).map_err(fail)?;
                fs::rename(self.staging.join(TREE), &path).map_err(fail)?;
                // After the move, since a directory without write permission cannot be moved.
                set_attributes(&moved, root).map_err(fail)
            }
            Destination::Name(_) => self.put(&path).map_err(fail),
        }
    }

    /// Gives the tree's only file the target's name.
    fn put(&mut self, path: &Path) -> io::Result<()> {
        let parent = destination::parent_of(path);
        let to = Dir::open_ambient_dir(&parent, ambient_authority())?;
        let Some(name) = path.file_name() else { return Err(rustix::io::Errno::ISDIR.into()) };
        let mode = put(&self.dir, Path::new(TREE), &to, Path::new(name), self.preserve)?;
        if let WriteMode::InPlace(why) = mode {
            let why = self.fallback_reason.take().unwrap_or(why);
            let name = path.as_os_str().as_bytes();
            self.problem(written_in_place(name, &why));
        }
        Ok(())
    }

    fn symlink(&self, path: &[u8], target: &[u8], mtime: i64) -> io::Result<()> {
        let inside = self.inside(path);
        if let Some(parent) = inside.parent() {
            self.dir.create_dir_all(parent)?;
        }
        self.dir.symlink(OsStr::from_bytes(target), &inside)?;
        if self.preserve
            && let (Some(parent), Some(name)) = (inside.parent(), inside.file_name())
        {
            let parent = self.dir.open_dir(parent)?;
            utimensat(&parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}
