//! Into a container.
//! Above: [`copy`](super). Below: `bowline_archive::pack`, [`scripts`].

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_archive::pack::{Packer, There, each_file, totals};
use bowline_archive::sum;
use bowline_proto::session::Outcome;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::listing::sums;
use super::scripts::{
    self, ABANDON, APPEND, FINISH, PROBE, PUBLISH, REMOVE, SETTLE, SUMS, UNPACK, script,
};
use super::{
    Attempts, CopyError, Listing, Options, Remote, Said, Shared, Stdin, Watcher, complaints,
    failed, keep, listed, outcome, printed, said, text,
};

/// The name of the tree in its place.
pub(super) const TREE: &str = "tree";
/// How long a container may take to remove what was begun.
const ABANDON_PATIENCE: Duration = Duration::from_secs(10);

/// Copies what is at `source` here to `target` in a container: into it, if that is a directory.
///
/// # Errors
/// [`CopyError`].
pub async fn up(
    remote: &impl Remote,
    source: &Path,
    target: &str,
    options: &Options,
    watcher: Arc<dyn Watcher>,
    stop: &CancellationToken,
) -> Result<(), CopyError> {
    if source.symlink_metadata().is_err() {
        return Err(CopyError::NoSource(source.to_owned()));
    }
    // `.` and `/` have a name that is not in their path.
    let whole = match source.file_name() {
        Some(_) => source.to_owned(),
        None => std::fs::canonicalize(source).unwrap_or_default(),
    };
    let name = whole.file_name().unwrap_or_default();
    let mut attempts = Attempts::new(options);
    let place = attempts.of(&watcher, || Place::find(remote, target, name)).await?;
    let sent = Shared::new(There::new());
    let copy = Copy { remote, source, place, options, watcher, sent };
    let copied =
        stop.run_until_cancelled(copy.all(&mut attempts)).await.unwrap_or(Err(CopyError::Stopped));
    if copied.as_ref().is_err_and(|error| !error.is_of_a_copy_that_is_there()) {
        copy.place.abandon(remote, &*copy.watcher).await;
    }
    copied
}

/// Where something goes in a container.
pub(super) struct Place {
    /// The name that it gets.
    pub target: String,
    /// Where it is until then.
    pub staging: String,
}

impl Place {
    /// Looks at the target.
    pub async fn find(
        remote: &impl Remote,
        target: &str,
        name: &OsStr,
    ) -> Result<Place, CopyError> {
        let target = scripts::guarded(match target.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        });
        let found = said(remote, script(PROBE, &[&target]), None, 64).await?.success()?;
        let target = match text(&found).as_str() {
            "dir" => {
                let name = name.to_str().ok_or_else(|| CopyError::Unnameable(name.to_owned()))?;
                format!("{}/{name}", target.trim_end_matches('/'))
            }
            _ => target,
        };
        let (dir, _) = scripts::split(&target);
        let (dir, mark) = (dir.trim_end_matches('/'), scripts::mark());
        Ok(Place { staging: format!("{dir}/.bowline-cp-{mark}"), target })
    }

    fn tree(&self) -> String {
        format!("{}/{TREE}", self.staging)
    }

    /// Tar's flags behind those that say where.
    pub fn unpack(&self, preserve: bool) -> Vec<String> {
        let flags: &[&str] = if preserve {
            &["-xpf", "-"]
        } else {
            &["--no-same-permissions", "--no-same-owner", "-xmf", "-"]
        };
        script(UNPACK, &[&[&*self.staging], flags].concat())
    }

    /// Gives the tree its name.
    pub async fn publish(
        &self,
        remote: &impl Remote,
        preserve: bool,
        again: bool,
    ) -> Result<(), CopyError> {
        let [keeps, again] = [preserve, again].map(|yes| if yes { "y" } else { "n" });
        let words = script(PUBLISH, &[&self.staging, &self.target, keeps, again]);
        said(remote, words, None, 0).await?.success()?;
        Ok(())
    }

    /// Removes what was begun, as far as the container can still be reached.
    pub async fn abandon(&self, remote: &impl Remote, watcher: &dyn Watcher) {
        let gone = async {
            printed(remote, script(SETTLE, &[&self.staging]), None).await?;
            printed(remote, script(ABANDON, &[&self.staging]), None).await
        };
        if !matches!(timeout(ABANDON_PATIENCE, gone).await, Ok(Ok(Some(_)))) {
            watcher.note(&format!("{} may be left in the container", self.staging));
        }
    }
}

struct Copy<'a, R> {
    remote: &'a R,
    source: &'a Path,
    place: Place,
    options: &'a Options,
    watcher: Arc<dyn Watcher>,
    /// What files were when they were sent.
    sent: Shared<There>,
}

/// How tar ended, and what of this side's files it did not get as they are.
struct TarEnded {
    outcome: Outcome,
    failures: u64,
    torn: Vec<Vec<u8>>,
    links: u64,
}

impl<R: Remote> Copy<'_, R> {
    async fn all(&self, attempts: &mut Attempts) -> Result<(), CopyError> {
        self.watcher.total(Some(totals(self.source).bytes));
        // What was sent may still be on the way: what has arrived is known by looking.
        let (mut before, mut arrived) = (0, 0);
        let mut sent = 0;
        let mut ended = self.archive(There::new(), &mut sent).await;
        let ended = loop {
            let error = match ended {
                Ok(ended) => break ended,
                Err(error) => error,
            };
            attempts.again(error, &self.watcher, before, arrived.max(sent.min(1))).await?;
            before = arrived;
            ended = match self.there(&mut arrived).await {
                Ok(there) => self.archive(there, &mut sent).await,
                Err(error) => Err(error),
            };
        };
        let failures = ended.failures;
        let TarEnded { outcome, torn, links, .. } = ended;
        let watcher = &self.watcher;
        attempts.of(watcher, || self.remove(&torn)).await?;
        if outcome != Outcome::Success {
            // The rest is copied; what was cut short by a full disk must not look complete.
            let cut = attempts.of(watcher, || self.cut()).await?;
            attempts.of(watcher, || self.remove(&cut)).await?;
        }
        if links > 0 && self.options.preserve {
            attempts.of(watcher, || self.directories()).await?;
        }
        if self.options.verify {
            attempts.of(watcher, || self.verify()).await?;
        }
        let (preserve, mut again) = (self.options.preserve, false);
        let publish = || {
            let again = std::mem::replace(&mut again, true);
            self.place.publish(self.remote, preserve, again)
        };
        attempts.of(watcher, publish).await?;
        if outcome != Outcome::Success {
            return Err(failed(outcome, true));
        }
        if failures > 0 { Err(CopyError::Incomplete(failures)) } else { Ok(()) }
    }

    async fn archive(&self, there: There, sent: &mut u64) -> Result<TarEnded, CopyError> {
        let packer = Packer::new(self.source, TREE.as_bytes(), there);
        let packing = Shared::new(packer);
        let stdin: Stdin = Some(Box::new(Packing {
            packer: packing.clone(),
            watcher: self.watcher.clone(),
            told: 0,
            root: self.root(),
            name: Vec::new(),
        }));
        let stderr = complaints(&self.watcher);
        let (_, stdout) = keep(0);
        let words = self.place.unpack(self.options.preserve);
        let ended = self.remote.run(words, stdin, stdout, stderr).await;
        let mut packer = packing.lock();
        *sent = packer.position().1;
        self.sent.lock().extend(packer.sent().iter().map(|(path, was)| (path.clone(), *was)));
        let ended = outcome(ended, *sent)?;
        for trouble in packer.troubles() {
            self.watcher.trouble(&trouble);
        }
        // A tar that has enough may leave the rest of its input unread, but not of the archive.
        if ended == Outcome::Success && !packer.is_over() {
            return Err(CopyError::Cut { retries: 0 });
        }
        let (failures, torn) = (packer.failures(), packer.torn().to_vec());
        Ok(TarEnded { outcome: ended, failures, torn, links: packer.symlinks() })
    }

    /// Gives directories their times once more.
    async fn directories(&self) -> Result<(), CopyError> {
        let packer = Shared::new(Packer::directories(self.source, TREE.as_bytes()));
        let (watcher, root) = (self.watcher.clone(), self.root());
        let name = Vec::new();
        let stdin: Stdin = Some(Box::new(Packing { packer, watcher, told: 0, root, name }));
        printed(self.remote, self.place.unpack(true), stdin).await?;
        Ok(())
    }

    /// What is in the container of an earlier attempt, once nobody writes to it any more; the file
    /// that was cut is written to its end.
    async fn there(&self, arrived: &mut u64) -> Result<There, CopyError> {
        printed(self.remote, script(SETTLE, &[&self.place.staging]), None).await?;
        let Some(listed) = self.list().await? else {
            self.watcher.note("the container has no find or no stat: all goes again");
            self.watcher.position(0);
            return Ok(There::new());
        };
        let mut there = There::new();
        let files = || listed.iter().filter(|(_, found)| found.is_file);
        *arrived = files().map(|(_, found)| found.size).sum();
        for (path, found) in files() {
            let here = self.here(path);
            let Ok(meta) = here.symlink_metadata() else { continue };
            let (size, mtime) = (meta.size(), meta.mtime());
            let is_same = size == found.size && (mtime == found.mtime || !self.options.preserve);
            // To another beginning this end does not belong.
            let is_unchanged = self.sent.lock().get(path) == Some(&(size, mtime));
            let is_cut = found.size > 0 && found.size < size && is_unchanged;
            if is_same || is_cut && self.append(path, &here, found.size, &meta).await? {
                there.insert(path.clone(), (size, mtime));
            }
        }
        self.watcher.position(0);
        Ok(there)
    }

    async fn list(&self) -> Result<Option<Listing>, CopyError> {
        listed(self.remote, &self.place.staging, &format!("./{TREE}")).await
    }

    fn root(&self) -> Vec<u8> {
        self.source.file_name().map_or(b".".to_vec(), |name| name.as_bytes().to_vec())
    }

    fn here(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            self.source.to_owned()
        } else {
            self.source.join(OsStr::from_bytes(path))
        }
    }

    /// Writes on at the end of a file; whether all of it is there now.
    async fn append(
        &self,
        path: &[u8],
        here: &Path,
        from: u64,
        meta: &Metadata,
    ) -> Result<bool, CopyError> {
        let Ok(path) = std::str::from_utf8(path) else { return Ok(false) };
        let tree = self.place.tree();
        let full = if path.is_empty() { tree } else { format!("{tree}/{path}") };
        let open = || -> io::Result<std::fs::File> {
            let mut file = std::fs::File::open(here)?;
            file.seek(SeekFrom::Start(from))?;
            Ok(file)
        };
        let Ok(file) = open() else { return Ok(false) };
        self.watcher.file(path.as_bytes());
        let stdin: Stdin = Some(Box::new(Plain { file, watcher: self.watcher.clone() }));
        let words = script(APPEND, &[&full]);
        if printed(self.remote, words, stdin).await?.is_none() {
            return Ok(false);
        }
        let mode = format!("{:o}", meta.mode() & 0o7777);
        let (time, owner) = (meta.mtime().to_string(), format!("{}:{}", meta.uid(), meta.gid()));
        let all = [&*full, &mode, &time, &owner];
        let finish = script(FINISH, if self.options.preserve { &all } else { &all[..2] });
        printed(self.remote, finish, None).await?;
        Ok(true)
    }

    /// Files in the container that are not as long, or not as old, as they are here.
    async fn cut(&self) -> Result<Vec<Vec<u8>>, CopyError> {
        let Some(listed) = self.list().await? else {
            let why =
                "which one cannot be told: the container has no find or no stat, or they fail";
            return Err(CopyError::CutShort(why.to_owned()));
        };
        let files = listed.into_iter().filter(|(_, found)| found.is_file);
        let cut = files.filter(|(path, found)| {
            self.here(path).symlink_metadata().ok().is_none_or(|meta| {
                meta.size() != found.size || meta.mtime() != found.mtime && self.options.preserve
            })
        });
        Ok(cut.map(|(path, _)| named(&path)).collect())
    }

    async fn remove(&self, names: &[Vec<u8>]) -> Result<(), CopyError> {
        if names.is_empty() {
            return Ok(());
        }
        let names: String = names.iter().map(|name| scripts::escaped(name)).collect();
        let stdin: Stdin = Some(Box::new(io::Cursor::new(names)));
        let words = script(REMOVE, &[&self.place.staging]);
        match said(self.remote, words, stdin, 0).await? {
            Said { outcome: Outcome::Success, .. } => Ok(()),
            Said { complaint, .. } => Err(CopyError::CutShort(format!("stays: {complaint}"))),
        }
    }

    async fn verify(&self) -> Result<(), CopyError> {
        let root = format!("./{TREE}");
        let printed =
            printed(self.remote, script(SUMS, &[&self.place.staging, &root]), None).await?;
        let Some(theirs) = printed.map(|text| sums(&text, &root)) else {
            self.watcher.note("not verified: the container has no sha256sum");
            return Ok(());
        };
        let mut result = Ok(());
        each_file(self.source, &mut |path, _| {
            let below = path.strip_prefix(self.source).unwrap_or(Path::new(""));
            let name = || below.to_string_lossy().into_owned();
            match (theirs.get(below.as_os_str().as_bytes()), sum::of_file(path)) {
                (Some(theirs), Ok(ours)) if *theirs == ours => {}
                (Some(_), Ok(_)) => result = Err(CopyError::Unequal(name())),
                (None, _) | (_, Err(_)) => {
                    self.watcher.note(&format!("not verified: {:?}", name()));
                }
            }
        });
        result
    }
}

/// A path below the root as a name below the place.
pub(super) fn named(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { TREE.into() } else { [TREE.as_bytes(), b"/", path].concat() }
}

/// An archive as a session's input. Files are read where they are wanted: they are there, and no
/// thread has to be woken for them.
struct Packing {
    packer: Shared<Packer>,
    watcher: Arc<dyn Watcher>,
    told: u64,
    /// What the root is called here.
    root: Vec<u8>,
    name: Vec<u8>,
}

impl AsyncRead for Packing {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut packer = this.packer.lock();
        fill(&mut *packer, buffer)?;
        let (name, bytes) = packer.position();
        if *name != this.name[..] {
            this.name = name.to_vec();
            this.watcher.file(&[&this.root, &name[TREE.len().min(name.len())..]].concat());
        }
        this.watcher.bytes(bytes - this.told);
        this.told = bytes;
        Poll::Ready(Ok(()))
    }
}

fn fill(source: &mut impl Read, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    let length = source.read(buffer.initialize_unfilled())?;
    buffer.advance(length);
    Ok(length)
}

/// The rest of a file as a session's input.
struct Plain {
    file: std::fs::File,
    watcher: Arc<dyn Watcher>,
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let length = fill(&mut this.file, buffer)?;
        this.watcher.bytes(length as u64);
        Poll::Ready(Ok(()))
    }
}
