//! A file or link of a tree to its final name, by a rename or into the file that has it.

use std::io::{self, Seek};
use std::path::Path;

use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions};
use rustix::fs::{AtFlags, futimens, utimensat};

use crate::destination::is_about_the_directory;
use crate::merge::times;
use crate::unpack::error_text;

/// How something got its name.
#[derive(Debug)]
pub(crate) enum WriteMode {
    /// It was renamed, which is atomic.
    Renamed,
    /// Its bytes were written into the existing file, because of this error.
    InPlace(io::Error),
}

/// Gives a file or a link the name `target`, which must not be a directory's. An existing file or
/// link is replaced; anything else of that name stays, and is an error.
pub(crate) fn put(
    from: &Dir,
    name: &Path,
    to: &Dir,
    target: &Path,
    preserve: bool,
) -> io::Result<WriteMode> {
    put_by(&|| from.rename(name, to, target), from, name, to, target, preserve)
}

fn put_by(
    rename: &dyn Fn() -> io::Result<()>,
    from: &Dir,
    name: &Path,
    to: &Dir,
    target: &Path,
    preserve: bool,
) -> io::Result<WriteMode> {
    let source = from.symlink_metadata(name)?;
    let there = to.symlink_metadata(target).ok();
    if let Some(there) = &there {
        let is_link = there.is_symlink();
        if source.is_symlink() && !is_link && !there.is_file() {
            return Err(io::Error::other("what has the name is no regular file"));
        }
        if !source.is_symlink() && is_link {
            // As `cp` does; `Dir` follows no link out of the directory.
            let why = io::Error::other("it is a symbolic link");
            return write_into(from, name, to, target, &source, preserve)
                .map(|()| WriteMode::InPlace(why));
        }
        if !is_link && !there.is_file() {
            return Err(io::Error::other("what has the name is no regular file"));
        }
    }
    let error = match rename() {
        Ok(()) => return Ok(WriteMode::Renamed),
        Err(error) if is_about_the_directory(&error) => error,
        Err(error) => return Err(error),
    };
    let is_other_disk = error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error());
    if is_other_disk && beside(from, name, to, target, &source, preserve).is_ok() {
        return Ok(WriteMode::Renamed);
    }
    match there {
        Some(there) if there.is_file() && source.is_file() => {
            write_into(from, name, to, target, &source, preserve)?;
            Ok(WriteMode::InPlace(error))
        }
        _ => Err(error),
    }
}

/// Copies to another disk, under a temporary name first.
fn beside(
    from: &Dir,
    name: &Path,
    to: &Dir,
    target: &Path,
    source: &Metadata,
    preserve: bool,
) -> io::Result<()> {
    let mut hidden = std::ffi::OsString::from(".bowline-cp-");
    hidden.push(target.file_name().unwrap_or_default());
    let hidden = target.with_file_name(hidden);
    let made = if source.is_symlink() {
        to.symlink(from.read_link_contents(name)?, &hidden)
    } else {
        from.copy(name, to, &hidden).and_then(|_| {
            if preserve {
                let file = to.open_with(&hidden, OpenOptions::new().append(true))?;
                futimens(&file, &times(source.mtime()))?;
            }
            Ok(())
        })
    };
    let made = made.and_then(|()| to.rename(&hidden, to, target));
    if made.is_err() {
        let _ = to.remove_file(&hidden);
    }
    made
}

/// Writes a file's bytes into the existing one, whose owner and mode stay.
fn write_into(
    from: &Dir,
    name: &Path,
    to: &Dir,
    target: &Path,
    source: &Metadata,
    preserve: bool,
) -> io::Result<()> {
    let mut source_file = from.open(name)?;
    // Opening a pipe that nobody reads would block.
    if !to.metadata(target).map_or(true, |there| there.is_file()) {
        return Err(io::Error::other("what has the name is no regular file"));
    }
    let mut file = to.open_with(target, OpenOptions::new().write(true).create(true))?;
    io::copy(&mut source_file, &mut file).map_err(|error| {
        let text = format!("{}; what has the name may be damaged", error_text(&error));
        io::Error::new(error.kind(), text)
    })?;
    let length = file.stream_position()?;
    file.set_len(length)?;
    if preserve {
        // Only its owner may set a file's time.
        let _ = utimensat(to, target, &times(source.mtime()), AtFlags::empty());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_cannot_be_renamed_is_written_in_place_or_comes_from_another_disk() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let dir = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        for (errno, has_name, is_in_place, is_put) in [
            (Errno::BUSY, true, true, true),
            (Errno::ACCESS, true, true, true),
            (Errno::PERM, true, true, true),
            (Errno::ROFS, true, true, true),
            (Errno::XDEV, true, false, true),
            (Errno::XDEV, false, false, true),
            (Errno::ACCESS, false, false, false),
            (Errno::NOSPC, true, false, false),
        ] {
            std::fs::write(path("new"), "new").unwrap();
            if has_name {
                std::fs::write(path("name"), "longer than new").unwrap();
            }
            let (new, name) = (Path::new("new"), Path::new("name"));
            let put = put_by(&|| Err(errno.into()), &dir, new, &dir, name, true);
            assert_eq!(put.is_ok(), is_put, "{errno:?}");
            assert_eq!(matches!(put, Ok(WriteMode::InPlace(_))), is_in_place, "{errno:?}");
            let found = std::fs::read(path("name")).unwrap_or_default();
            let old: &[u8] = if has_name { b"longer than new" } else { b"" };
            assert_eq!(found, if is_put { b"new" } else { old }, "{errno:?}");
            let _ = std::fs::remove_file(path("name"));
            std::fs::remove_file(path("new")).unwrap();
            assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "{errno:?}");
        }
    }

    #[test]
    fn what_may_be_damaged_is_told() {
        let place = tempfile::tempdir().unwrap();
        // Opened, and not read.
        std::fs::create_dir(place.path().join("new")).unwrap();
        std::fs::write(place.path().join("name"), "old").unwrap();
        let dir = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        let (new, name) = (Path::new("new"), Path::new("name"));
        let source = dir.symlink_metadata(new).unwrap();
        let error = write_into(&dir, new, &dir, name, &source, true).unwrap_err();
        assert_eq!(error_text(&error), "is a directory; what has the name may be damaged");
    }

    #[test]
    fn what_is_no_file_stays_what_it_is() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::create_dir(path("inner")).unwrap();
        std::fs::write(path("outside"), "old").unwrap();
        std::fs::write(path("inner/behind"), "old").unwrap();
        std::os::unix::fs::symlink("behind", path("inner/link")).unwrap();
        std::os::unix::fs::symlink("../outside", path("inner/out")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("inner/pipe"), rustix::fs::Mode::RWXU).unwrap();
        let from = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        let to = Dir::open_ambient_dir(path("inner"), ambient_authority()).unwrap();
        for (name, is_put) in [("link", true), ("out", false), ("pipe", false)] {
            std::fs::write(path("new"), "new").unwrap();
            let put = put(&from, Path::new("new"), &to, Path::new(name), false);
            assert_eq!(put.is_ok(), is_put, "{name}: {put:?}");
        }
        assert!(path("inner/link").is_symlink());
        assert_eq!(std::fs::read(path("inner/behind")).unwrap(), b"new");
        assert_eq!(std::fs::read(path("outside")).unwrap(), b"old");
    }
}
