//! The named pipes between a command's shim and this program.
//!
//! The shim opens them by their names, in its own mount namespace. That it finds there what is made
//! here is known by the pipe of the container's main process, whose random name only containerd
//! knows: where that one is, ours are as well. They are in containerd's own directory for the
//! container, which goes with the container, and they lose their names as soon as the shim has
//! opened them: nothing is left behind even if this program is killed.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

/// Finds the directory in which a container's shim sees what is made here, by where the output of
/// its main process goes. `None` if nobody knows of one.
pub(super) fn directory(stdout: &str) -> Option<PathBuf> {
    let stdout = Path::new(stdout);
    let is_here = stdout.is_absolute()
        && fs::symlink_metadata(stdout).is_ok_and(|file| file.file_type().is_fifo());
    // The directory right above belongs to the main process's pipes, and goes with them.
    is_here.then(|| stdout.parent()?.parent().map(Path::to_owned)).flatten()
}

/// The names of a command's pipes, until this is dropped.
#[derive(Debug)]
pub(super) struct Fifos {
    directory: PathBuf,
    /// Whether there is one for stdin.
    has_stdin: bool,
    /// Whether there is one for stderr: a terminal has none.
    has_stderr: bool,
}

impl Fifos {
    /// Makes pipes in a directory of their own, `name`, and opens the ends that are read.
    ///
    /// # Errors
    /// If the system does not give them.
    pub(super) fn make(
        parent: &Path,
        name: &str,
        (has_stdin, has_stderr): (bool, bool),
    ) -> io::Result<(Fifos, Receiver, Option<Receiver>)> {
        let directory = parent.join(name);
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let fifos = Fifos { directory, has_stdin, has_stderr };
        if has_stdin {
            fifo(&fifos.path("stdin"))?;
        }
        let open = |name: &str| {
            let path = fifos.path(name);
            fifo(&path)?;
            OpenOptions::new().open_receiver(path)
        };
        let stdout = open("stdout")?;
        let stderr = if has_stderr { Some(open("stderr")?) } else { None };
        Ok((fifos, stdout, stderr))
    }

    /// Returns the names of stdin, stdout and stderr, as containerd is told them: empty is none.
    pub(super) fn names(&self) -> [String; 3] {
        let name = |there: bool, name| {
            if there { self.path(name).to_string_lossy().into_owned() } else { String::new() }
        };
        [name(self.has_stdin, "stdin"), name(true, "stdout"), name(self.has_stderr, "stderr")]
    }

    /// Opens the end that is written, once the shim has opened its own. `None` if it has not yet:
    /// it does so beside its answer.
    ///
    /// # Errors
    /// If it cannot be opened at all.
    pub(super) fn open_stdin(&self) -> io::Result<Option<Sender>> {
        match OpenOptions::new().open_sender(self.path("stdin")) {
            Ok(sender) => Ok(Some(sender)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn fifo(path: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_go_and_what_is_open_stays() {
        let parent = tempfile::tempdir().unwrap();
        let (fifos, stdout, stderr) = Fifos::make(parent.path(), "x", (true, true)).unwrap();
        assert!(stderr.is_some());
        assert!(fifos.open_stdin().unwrap().is_none(), "nobody reads yet");
        let [stdin, out, _] = fifos.names();
        let shim = OpenOptions::new().open_receiver(stdin).unwrap();
        let sender = fifos.open_stdin().unwrap().unwrap();
        let shims_out = OpenOptions::new().open_sender(out).unwrap();
        drop(fifos);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        sender.writable().await.unwrap();
        assert_eq!(sender.try_write(b"in").unwrap(), 2);
        shim.readable().await.unwrap();
        assert_eq!(shims_out.try_write(b"out").unwrap(), 3);
        stdout.readable().await.unwrap();
        let mut bytes = [0; 8];
        assert_eq!(stdout.try_read(&mut bytes).unwrap(), 3);
    }

    #[tokio::test]
    async fn only_a_pipe_that_is_here_tells_where() {
        let parent = tempfile::tempdir().unwrap();
        let (fifos, _stdout, _) = Fifos::make(parent.path(), "x", (false, false)).unwrap();
        let [_, stdout, _] = fifos.names();
        assert_eq!(directory(&stdout).as_deref(), Some(parent.path()));
        fs::write(parent.path().join("file"), "").unwrap();
        let file = parent.path().join("file").to_string_lossy().into_owned();
        for other in ["", "stdout", "ttrpc+unix:///run/x?streaming_id=1", "/nowhere", &file] {
            assert_eq!(directory(other), None, "{other}");
        }
    }
}
