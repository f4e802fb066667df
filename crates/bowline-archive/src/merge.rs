//! A tree into a directory that is there already, by handles out of which nothing leads.
//! Above: `unpack`. Below: cap-std, system calls.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT, chmodat, utimensat};

use crate::Trouble;
use crate::unpack::of_system;

/// A tree may hold directories that their owner may not write to.
pub fn make_removable(dir: &Dir) {
    for entry in dir.entries().into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && let Ok(inner) = dir.open_dir(entry.file_name()) {
            let _ = unlock(&inner);
            make_removable(&inner);
        }
    }
}

/// Moves all of a tree into a directory. Both are held by their handles: no link leads out of them.
pub fn merge(
    tree: &Dir,
    target: &Dir,
    path: &mut Vec<u8>,
    preserve: bool,
    troubles: &mut Vec<Trouble>,
) {
    let entries: Vec<_> = tree.entries().into_iter().flatten().flatten().collect();
    for entry in entries {
        let name = entry.file_name();
        let before = path.len();
        if before > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let is_dir = |dir: &Dir| dir.symlink_metadata(&name).is_ok_and(|found| found.is_dir());
        let moved = if is_dir(tree) && is_dir(target) {
            match (tree.open_dir(&name), target.open_dir(&name)) {
                (Ok(from), Ok(to)) => {
                    use cap_std::fs::MetadataExt as _;
                    let had = from.dir_metadata().map(|had| (had.mode(), had.mtime())).ok();
                    let _ = unlock(&from);
                    merge(&from, &to, path, preserve, troubles);
                    if preserve { set_root(&to, had) } else { Ok(()) }
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        } else if is_dir(tree) {
            move_dir(tree, target, &name)
        } else {
            tree.rename(&name, target, &name)
        };
        if let Err(error) = moved {
            troubles.push(Trouble::failure(path, of_system(&error)));
        }
        path.truncate(before);
    }
}

/// A directory that may not be written to may not be moved.
fn move_dir(tree: &Dir, target: &Dir, name: &OsStr) -> io::Result<()> {
    use cap_std::fs::MetadataExt as _;
    let moved = tree.open_dir(name)?;
    let had = moved.dir_metadata()?;
    unlock(&moved)?;
    tree.rename(name, target, name)?;
    set_root(&moved, Some((had.mode(), had.mtime())))
}

fn unlock(dir: &Dir) -> io::Result<()> {
    Ok(chmodat(dir, ".", Mode::RWXU, AtFlags::empty())?)
}

/// Gives a directory its permissions and its time, where they are known.
pub fn set_root(dir: &Dir, set: Option<(u32, i64)>) -> io::Result<()> {
    if let Some((mode, mtime)) = set {
        // By a name in it: the handle is for finding names alone.
        chmodat(dir, ".", Mode::from_raw_mode(mode & 0o777), AtFlags::empty())?;
        utimensat(dir, ".", &times(mtime), AtFlags::empty())?;
    }
    Ok(())
}

/// A time of change, and none of reading.
pub fn times(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime, tv_nsec: 0 },
    }
}
