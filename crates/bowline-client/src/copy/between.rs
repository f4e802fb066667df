//! Copies from one container to another, through this process and not onto a local disk.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bowline_archive::filter::{ENTRY_BYTES, EntryFilter, KEPT_BYTES, Refused, Verdict};
use bowline_archive::reader::{Entry, EntryKind, Event, Reader};
use bowline_archive::unpack::UnpackError;
use bowline_archive::writer::{self, Owner};
use bowline_archive::{Item, ItemKind};
use bowline_proto::session::Outcome;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::attempts::{Attempts, until_stopped};
use super::capture::{Shared, bounded_sink, outcome, remote_failure, run_captured, stderr_lines};
use super::changed_files::{self, Judgement};
use super::compare::{Expected, ReceivedItems};
use super::error::local_error;
use super::query::{query_listing, query_sums, resolve_link};
use super::staging::{Published, Staging};
use super::upload::{judge, staged_name};
use super::{CopyError, Options, Remote, Watcher, scripts};

/// The most bytes that are buffered between the two sessions.
const BUFFER_BYTES: usize = 512 * 1024;
/// The most problems that are reported one by one.
const MAX_PROBLEMS: u64 = 1000;
/// The padding of a file's last block.
const ZEROS: [u8; 512] = [0; 512];

/// Copies what is at `source` in one container to `target` in another; into it, if that is a
/// directory. The archive is checked entry by entry on its way. A retry starts from the beginning.
///
/// # Errors
/// [`CopyError`] if the target is not a complete copy.
pub async fn between(
    from: &impl Remote,
    source: &str,
    to: &impl Remote,
    target: &str,
    options: &Options,
    watcher: Arc<dyn Watcher>,
    stop: &CancellationToken,
) -> Result<(), CopyError> {
    let (_, root) = scripts::split(source);
    let is_its_content = ["/.", "/.."].iter().any(|end| source.ends_with(end));
    let name = root.strip_prefix("./").filter(|_| !is_its_content).map(OsStr::new);
    let mut attempts = Attempts::new(options);
    let mut source = source.to_owned();
    loop {
        let staging = Staging::make(to, target, name, &mut attempts, &watcher, stop).await?;
        let mut attempt =
            Attempt { from, source: &source, to, staging: &staging, options, watcher: &watcher };
        let copy = attempt.run(&mut attempts);
        let copied = until_stopped(stop, copy).await;
        if copied.as_ref().is_err_and(|error| !error.has_published()) {
            staging.abandon(to, &*watcher).await;
        }
        match copied {
            Ok(Copied::All) => return Ok(()),
            Ok(Copied::Link) => {
                staging.abandon(to, &*watcher).await;
                let behind = resolve_link(from, &source, &mut attempts, &watcher);
                source = until_stopped(stop, behind).await?;
            }
            Err(error) => until_stopped(stop, attempts.retry_after(error, &watcher, 0, 0)).await?,
        }
        watcher.position(0);
    }
}

/// The result of one attempt.
enum Copied {
    All,
    /// Nothing was copied: the source is a symbolic link.
    Link,
}

/// One attempt at a copy.
struct Attempt<'a, From, To> {
    from: &'a From,
    source: &'a str,
    to: &'a To,
    staging: &'a Staging,
    options: &'a Options,
    watcher: &'a Arc<dyn Watcher>,
}

impl<From: Remote, To: Remote> Attempt<'_, From, To> {
    async fn run(&mut self, attempts: &mut Attempts) -> Result<Copied, CopyError> {
        let watcher = self.watcher;
        watcher.total(None);
        let (words, root) = scripts::pack(self.source);
        let filter = EntryFilter::new(root.as_bytes(), self.options.limits, self.options.symlinks);
        let (_, place) = scripts::split(&self.staging.path);
        let filter = filter.with_staging(place.trim_start_matches("./").as_bytes());
        let transfer = Shared::new(Transfer::new(filter, watcher.clone()));
        let began = tokio::time::Instant::now();
        let outcome = self.pass(words, &transfer).await?;
        if transfer.lock().root_is_link {
            return Ok(Copied::Link);
        }
        self.directories(&transfer).await?;
        let taken = std::mem::take(&mut transfer.lock().transferred);
        let (expected, judged) = self.judge(taken, &outcome, began.elapsed(), attempts).await?;
        let files = judged.changed;
        if expected.is_empty() && !judged.torn.is_empty() {
            return Err(match outcome {
                Outcome::Success => CopyError::Changed { files, published: false },
                outcome => remote_failure(outcome, false),
            });
        }
        self.compare(&expected, attempts).await?;
        if self.options.verify {
            self.verify(&expected, &judged.grown, attempts).await?;
        }
        let preserve = self.options.preserve;
        if self.staging.publish(self.to, 0, preserve, attempts, watcher).await?
            == Published::Unconfirmed
        {
            self.staging.compare(self.to, &expected, attempts, watcher).await?;
        }
        let (failures, took_something) = {
            let transfer = transfer.lock();
            (transfer.failures, transfer.took_something)
        };
        if outcome != Outcome::Success {
            return Err(remote_failure(outcome, took_something));
        }
        match failures {
            _ if files > 0 => Err(CopyError::Changed { files, published: true }),
            0 if took_something => Ok(Copied::All),
            0 => Err(CopyError::Nothing),
            failures => Err(CopyError::Incomplete(failures)),
        }
    }

    /// Compares the source with what was transferred, and removes files that are torn.
    async fn judge(
        &self,
        taken: Transferred,
        outcome: &Outcome,
        took: Duration,
        attempts: &mut Attempts,
    ) -> Result<(Expected, Judgement), CopyError> {
        let watcher = self.watcher;
        let listed =
            changed_files::final_listing(self.from, self.source, took, attempts, watcher).await?;
        let suspects = changed_files::suspects(&taken, &listed, outcome, watcher)?;
        let (dir, root) = scripts::split(self.source);
        let to_check = &suspects.to_check;
        let theirs =
            changed_files::prefix_sums(self.from, [&dir, &root], to_check, attempts, watcher)
                .await?;
        let place = [&*self.staging.path, "./0/tree"];
        let ours = changed_files::prefix_sums(self.to, place, to_check, attempts, watcher).await?;
        let judged = suspects.judge(&ours, &theirs, watcher);
        let names: Vec<_> = judged.torn.iter().map(|path| staged_name(path)).collect();
        attempts.repeat(watcher, || self.staging.remove(self.to, 0, &names)).await?;
        let mut expected = taken.expected;
        expected.retain(|path, _| !judged.torn.contains(path));
        Ok((expected, judged))
    }

    /// Passes the archive from one tar to the other. Returns the outcome of the first.
    async fn pass(
        &self,
        words: Vec<String>,
        transfer: &Shared<Transfer>,
    ) -> Result<Outcome, CopyError> {
        let packing = async {
            let stderr = stderr_lines(self.watcher);
            let ended = self
                .from
                .run(words, None, Box::new(TransferWriter(transfer.clone())), stderr)
                .await;
            if let Err(error) = ended {
                return Err(local_error(error, transfer.lock().fault.take()));
            }
            let ended = outcome(ended, 0)?;
            let mut transfer = transfer.lock();
            if !transfer.reader.is_over() {
                return Err(match ended {
                    Outcome::Success => CopyError::Cut { retries: 0 },
                    outcome => remote_failure(outcome, false),
                });
            }
            // Only now, so that a cut archive does not look complete to the tar that unpacks it.
            transfer.end();
            Ok(ended)
        };
        let unpacking = async {
            let stderr = stderr_lines(self.watcher);
            let (_, stdout) = bounded_sink(0);
            let stdin = Some(Box::new(TransferReader(transfer.clone())) as _);
            let words = self.staging.unpack(0, self.options.preserve);
            match outcome(self.to.run(words, stdin, stdout, stderr).await, 0)? {
                Outcome::Success => Ok(()),
                outcome => Err(remote_failure(outcome, false)),
            }
        };
        let (outcome, ()) = tokio::try_join!(packing, unpacking)?;
        Ok(outcome)
    }

    /// Sends the directories once more, to set their times after all else.
    async fn directories(&self, transfer: &Shared<Transfer>) -> Result<(), CopyError> {
        let directories = std::mem::take(&mut transfer.lock().directories);
        if !self.options.preserve || directories.is_empty() {
            return Ok(());
        }
        let mut archive = Vec::new();
        for entry in directories.iter().rev() {
            writer::header(entry, Owner::default(), &mut archive);
        }
        writer::end(&mut archive);
        let stdin = Some(Box::new(io::Cursor::new(archive)) as _);
        run_captured(self.to, self.staging.unpack(0, true), stdin, 0).await?;
        Ok(())
    }

    /// Compares what was sent with what is in the staging directory.
    async fn compare(&self, expected: &Expected, attempts: &mut Attempts) -> Result<(), CopyError> {
        let (dir, root) = (&self.staging.path, "./0/tree");
        let listed = query_listing(self.to, dir, root, None, attempts, self.watcher).await?;
        judge(expected, listed, &**self.watcher)
    }

    /// Compares sums of both sides, except of files that have grown: theirs were compared before.
    async fn verify(
        &self,
        expected: &Expected,
        grown: &BTreeSet<Vec<u8>>,
        attempts: &mut Attempts,
    ) -> Result<(), CopyError> {
        let (dir, root) = scripts::split(self.source);
        let from = query_sums(self.from, &dir, &root, attempts, self.watcher).await?;
        let Some(from) = from else { return Ok(()) };
        let (dir, root) = (&self.staging.path, "./0/tree");
        let to = query_sums(self.to, dir, root, attempts, self.watcher).await?;
        let Some(to) = to else { return Ok(()) };
        let files = expected.iter().filter(|(_, item)| item.kind == ItemKind::File);
        for (path, _) in files.filter(|(path, _)| !grown.contains(*path)) {
            let name = || String::from_utf8_lossy(path).into_owned();
            match (from.get(path), to.get(path)) {
                (Some(from), Some(to)) if from == to => {}
                (Some(_), Some(_)) => return Err(CopyError::Unequal(name())),
                _ => self.watcher.note(&format!("not verified: {:?}", name())),
            }
        }
        Ok(())
    }
}

/// The items that were transferred.
#[derive(Default)]
struct Transferred {
    expected: Expected,
    reported: BTreeSet<Vec<u8>>,
    /// Files whose last byte is a zero.
    zero_ended: BTreeSet<Vec<u8>>,
    /// The memory that these names take.
    kept: u64,
}

impl Transferred {
    fn keep(&mut self, length: usize) -> Result<(), Refused> {
        self.kept += length as u64 + ENTRY_BYTES;
        if self.kept > KEPT_BYTES { Err(Refused::Names(KEPT_BYTES)) } else { Ok(()) }
    }
}

impl ReceivedItems for Transferred {
    fn item(&self, path: &[u8]) -> Option<Item> {
        self.expected.get(path).copied()
    }

    fn is_reported(&self, path: &[u8]) -> bool {
        let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        self.reported.contains(path) || slashes.any(|(at, _)| self.reported.contains(&path[..at]))
    }

    fn ends_in_zero(&self, path: &[u8]) -> bool {
        self.zero_ended.contains(path)
    }

    fn paths(&self) -> Vec<&Vec<u8>> {
        self.expected.keys().collect()
    }
}

/// An archive between two sessions. Entries that the filter takes go on under the staged name.
struct Transfer {
    reader: Reader,
    filter: EntryFilter,
    watcher: Arc<dyn Watcher>,
    /// The path and the size of the current file; `None` if the entry is skipped.
    current: Option<(Vec<u8>, u64)>,
    /// The last byte of the current file so far.
    last: Option<u8>,
    buffered: VecDeque<u8>,
    is_over: bool,
    failures: u64,
    problem_count: u64,
    took_something: bool,
    /// Directories with their own modes and times.
    directories: Vec<Entry>,
    transferred: Transferred,
    root_is_link: bool,
    fault: Option<UnpackError>,
    reading: Option<Waker>,
    writing: Option<Waker>,
}

impl Transfer {
    fn new(filter: EntryFilter, watcher: Arc<dyn Watcher>) -> Transfer {
        Transfer {
            reader: Reader::default(),
            filter,
            watcher,
            current: None,
            last: None,
            buffered: VecDeque::new(),
            is_over: false,
            failures: 0,
            problem_count: 0,
            took_something: false,
            directories: Vec::new(),
            transferred: Transferred::default(),
            root_is_link: false,
            fault: None,
            reading: None,
            writing: None,
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), UnpackError> {
        loop {
            let event = self.reader.next_event(&mut bytes)?;
            self.filter.headers(self.reader.headers())?;
            let Some(event) = event else { break };
            match event {
                Event::Entry(entry) => self.entry(entry)?,
                Event::Data(bytes) => {
                    self.watcher.bytes(bytes.len() as u64);
                    if self.current.is_some() {
                        self.last = bytes.last().copied().or(self.last);
                        self.buffered.extend(bytes);
                    }
                }
                Event::Whole => {
                    if let Some((path, size)) = self.current.take() {
                        if self.last.take() == Some(0) {
                            self.transferred.zero_ended.insert(path);
                        }
                        let padding = size.next_multiple_of(512) - size;
                        self.buffered.extend(&ZEROS[..padding as usize]);
                    }
                }
                Event::End => {}
            }
        }
        if let Some(reading) = self.reading.take() {
            reading.wake();
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), UnpackError> {
        self.current = None;
        let verdict = self.filter.judge(&entry)?;
        let is_root = |path: Option<Vec<u8>>| path.is_some_and(|path| path.is_empty());
        if entry.kind == EntryKind::Symlink && is_root(self.filter.path(&entry.name)) {
            self.root_is_link = true;
            return Ok(());
        }
        let path = match verdict {
            Verdict::Take(path) => path,
            Verdict::Skip(problem) => {
                if let Some(path) = self.filter.path(&entry.name) {
                    self.transferred.keep(path.len())?;
                    self.transferred.reported.insert(path);
                }
                self.failures += u64::from(problem.is_failure);
                self.problem_count += 1;
                if self.problem_count <= MAX_PROBLEMS {
                    self.watcher.problem(&problem);
                }
                return Ok(());
            }
        };
        let link = match entry.kind {
            EntryKind::HardLink => {
                self.filter.hard_link_target(&entry).map(|path| staged_name(&path))
            }
            EntryKind::Symlink => Some(entry.link.clone()),
            _ => Some(Vec::new()),
        };
        let Some(link) = link else {
            self.transferred.reported.insert(path);
            self.failures += 1;
            self.watcher.note(&format!(
                "{:?}: a hard link to what was not asked for",
                String::from_utf8_lossy(&entry.name)
            ));
            return Ok(());
        };
        self.took_something = true;
        self.transferred.keep(3 * path.len() + entry.link.len())?;
        let (kind, size) = match entry.kind {
            EntryKind::Directory => (ItemKind::Directory, 0),
            EntryKind::Symlink => (ItemKind::Symlink, entry.link.len() as u64),
            EntryKind::HardLink => {
                let target = self.filter.hard_link_target(&entry).unwrap_or_default();
                if self.transferred.zero_ended.contains(&target) {
                    self.transferred.zero_ended.insert(path.clone());
                }
                let item = self.transferred.expected.get(&target);
                item.map_or((ItemKind::File, 0), |item| (item.kind, item.size))
            }
            _ => (ItemKind::File, entry.size),
        };
        let item = Item { kind, size, mtime: Some(entry.mtime) };
        self.transferred.expected.insert(path.clone(), item);
        if entry.kind == EntryKind::File {
            self.watcher.file(&entry.name);
            self.current = Some((path.clone(), entry.size));
            self.last = None;
        }
        let mode = entry.mode & 0o777;
        let mut header = Vec::with_capacity(512);
        let mut entry = Entry { name: staged_name(&path), link, mode, ..entry };
        if entry.kind == EntryKind::Directory {
            entry.name.push(b'/');
            self.directories.push(entry.clone());
            entry.mode |= 0o700;
        }
        writer::header(&entry, Owner::default(), &mut header);
        self.buffered.extend(header);
        Ok(())
    }

    fn end(&mut self) {
        self.buffered.extend([0; 1024]);
        self.is_over = true;
        if let Some(reading) = self.reading.take() {
            reading.wake();
        }
    }
}

/// The stdout of the tar that packs.
struct TransferWriter(Shared<Transfer>);

impl AsyncWrite for TransferWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut transfer = self.0.lock();
        if transfer.buffered.len() >= BUFFER_BYTES {
            transfer.writing = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(BUFFER_BYTES)];
        if let Err(fault) = transfer.take(bytes) {
            transfer.fault = Some(fault);
            return Poll::Ready(Err(io::Error::other("the archive")));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The stdin of the tar that unpacks.
struct TransferReader(Shared<Transfer>);

impl AsyncRead for TransferReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut transfer = self.0.lock();
        if transfer.buffered.is_empty() && !transfer.is_over {
            transfer.reading = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = transfer.buffered.len().min(buffer.remaining());
        let (front, back) = transfer.buffered.as_slices();
        let first = front.len().min(length);
        buffer.put_slice(&front[..first]);
        buffer.put_slice(&back[..length - first]);
        transfer.buffered.drain(..length);
        if let Some(writing) = transfer.writing.take() {
            writing.wake();
        }
        Poll::Ready(Ok(()))
    }
}
