//! A tree into an existing directory, through handles that no path leads out of, and by paths below
//! those: a tree may be deeper than there are descriptors.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, MetadataExt};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT, chmodat, utimensat};

use crate::Problem;
use crate::destination::is_about_the_directory;
use crate::publish::{WriteMode, put};
use crate::unpack::error_text;

/// Lists a directory below `dir`. One that cannot be listed is an error, never empty.
pub(crate) fn names(dir: &Dir, path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in dir.read_dir(at(path))? {
        names.push(entry?.file_name());
    }
    Ok(names)
}

fn at(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Removes all that is below a directory, whatever the modes in it.
pub(crate) fn sweep(dir: &Dir) -> io::Result<()> {
    let mut waiting = vec![PathBuf::new()];
    let mut emptied = Vec::new();
    while let Some(path) = waiting.pop() {
        // A tree may hold directories that their owner may not write to.
        let _ = dir.open_dir(at(&path)).and_then(|dir| unlock(&dir));
        for name in names(dir, &path)? {
            let path = path.join(name);
            if dir.symlink_metadata(&path)?.is_dir() {
                waiting.push(path);
            } else {
                dir.remove_file(&path)?;
            }
        }
        emptied.push(path);
    }
    let below = emptied.iter().rev().filter(|path| !path.as_os_str().is_empty());
    below.into_iter().try_for_each(|path| dir.remove_dir(path))
}

enum Step {
    /// Merge the directory of this path, which is in both trees.
    Enter(PathBuf),
    /// Set this mode and time on a directory whose content was moved.
    Leave(PathBuf, (u32, i64)),
}

/// Moves a tree's content into a directory. What cannot be moved is added to `problems`.
pub(crate) fn merge(tree: &Dir, target: &Dir, preserve: bool, problems: &mut Vec<Problem>) {
    let mut steps = vec![Step::Enter(PathBuf::new())];
    while let Some(step) = steps.pop() {
        let (path, done) = match step {
            Step::Enter(path) => {
                let done = enter(tree, target, &path, preserve, &mut steps, problems);
                (path, done)
            }
            Step::Leave(path, attributes) => {
                let dir = target.open_dir(at(&path));
                let done = dir.and_then(|dir| set_attributes(&dir, Some(attributes)));
                (path, done)
            }
        };
        if let Err(error) = done {
            let name = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
            problems.push(Problem::failure(name.as_os_str().as_bytes(), error_text(&error)));
        }
    }
}

fn enter(
    tree: &Dir,
    target: &Dir,
    path: &Path,
    preserve: bool,
    steps: &mut Vec<Step>,
    problems: &mut Vec<Problem>,
) -> io::Result<()> {
    let dir = tree.open_dir(at(path))?;
    let found = dir.dir_metadata()?;
    let _ = unlock(&dir);
    drop(dir);
    // An existing target keeps its own mode.
    if preserve && !path.as_os_str().is_empty() {
        steps.push(Step::Leave(path.to_owned(), (found.mode(), found.mtime())));
    }
    for name in names(tree, path)? {
        let path = path.join(name);
        let is_dir = |dir: &Dir| dir.symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        let moved = match (is_dir(tree), is_dir(target)) {
            (true, true) => {
                steps.push(Step::Enter(path));
                continue;
            }
            (true, false) => match move_dir(tree, target, &path) {
                Ok(true) => {
                    steps.push(Step::Enter(path));
                    continue;
                }
                moved => moved.map(|_| WriteMode::Renamed),
            },
            (false, true) => Err(rustix::io::Errno::ISDIR.into()),
            (false, false) => put(tree, &path, target, &path, preserve),
        };
        let name = path.as_os_str().as_bytes();
        match moved {
            Ok(WriteMode::Renamed) => {}
            Ok(WriteMode::InPlace(why)) => problems.push(written_in_place(name, &why)),
            Err(error) => problems.push(Problem::failure(name, error_text(&error))),
        }
    }
    Ok(())
}

/// Returns the notice about a file that was written in place.
pub(crate) fn written_in_place(name: &[u8], why: &io::Error) -> Problem {
    Problem::notice(name, format_args!("written in place: {}", error_text(why)))
}

/// Moves a directory. Returns whether its content has to be moved separately, because the target is
/// on another disk and the directory was created there.
fn move_dir(tree: &Dir, target: &Dir, path: &Path) -> io::Result<bool> {
    let moved = tree.open_dir(path)?;
    let found = moved.dir_metadata()?;
    // A directory that may not be written to may not be moved.
    unlock(&moved)?;
    match tree.rename(path, target, path) {
        Ok(()) => {}
        Err(error) if is_about_the_directory(&error) => {
            set_attributes(&moved, Some((found.mode(), found.mtime())))?;
            target.create_dir(path)?;
            return Ok(true);
        }
        Err(error) => return Err(error),
    }
    set_attributes(&moved, Some((found.mode(), found.mtime())))?;
    Ok(false)
}

fn unlock(dir: &Dir) -> io::Result<()> {
    Ok(chmodat(dir, ".", Mode::RWXU, AtFlags::empty())?)
}

/// Sets a directory's mode and time, where they are known.
pub(crate) fn set_attributes(dir: &Dir, attributes: Option<(u32, i64)>) -> io::Result<()> {
    if let Some((mode, mtime)) = attributes {
        // By the name `.`: the handle is open for looking up names only.
        chmodat(dir, ".", Mode::from_raw_mode(mode & 0o777), AtFlags::empty())?;
        utimensat(dir, ".", &times(mtime), AtFlags::empty())?;
    }
    Ok(())
}

/// Returns timestamps that set the time of change and leave that of access.
pub(crate) fn times(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime, tv_nsec: 0 },
    }
}
