//! From one container to another, through this side and not onto its disk.
//! Above: [`copy`](super). Below: `bowline_archive`, [`scripts`].

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bowline_archive::admit::{Admission, Verdict};
use bowline_archive::reader::{Entry, Event, Kind, Reader};
use bowline_archive::unpack::UnpackError;
use bowline_archive::writer::{self, Owner};
use bowline_proto::session::Outcome;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::up::{Place, named};
use super::{
    Attempts, CopyError, Options, Remote, Shared, Watcher, complaints, failed, keep, outcome,
    own_end, printed, scripts,
};

/// What waits between the two.
const WAITING_BYTES: usize = 512 * 1024;
/// How many troubles are told one by one.
const TROUBLES: u64 = 1000;
/// What fills the last block of a file.
const ZEROS: [u8; 512] = [0; 512];

/// Copies what is at `source` in one container to `target` in another: into it, if that is a
/// directory. What comes out of the first is judged before it goes into the second. A copy that is
/// tried again begins anew.
///
/// # Errors
/// [`CopyError`].
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
    let name = root.strip_prefix("./").unwrap_or("root");
    let mut attempts = Attempts::new(options);
    loop {
        let place = Place::find(to, target, OsStr::new(name)).await;
        let copied = match place {
            Err(error) => Err(error),
            Ok(place) => {
                let copy = once(from, source, to, &place, options, &watcher);
                let copied = stop.run_until_cancelled(copy).await;
                let copied = copied.unwrap_or(Err(CopyError::Stopped));
                if copied.is_err() {
                    place.abandon(to, &*watcher).await;
                }
                copied
            }
        };
        match copied {
            Ok(()) => return Ok(()),
            Err(error) => attempts.again(error, &watcher, 0, 0).await?,
        }
        watcher.position(0);
    }
}

async fn once(
    from: &impl Remote,
    source: &str,
    to: &impl Remote,
    place: &Place,
    options: &Options,
    watcher: &Arc<dyn Watcher>,
) -> Result<(), CopyError> {
    watcher.total(None);
    let (words, root) = scripts::pack(source);
    let passage = Shared::new(Passage {
        reader: Reader::default(),
        admission: Admission::new(root.as_bytes(), options.limits, options.symlinks),
        watcher: watcher.clone(),
        taken: None,
        waiting: VecDeque::new(),
        is_over: false,
        failures: 0,
        told: 0,
        took_something: false,
        directories: Vec::new(),
        fault: None,
        reading: None,
        writing: None,
    });
    let packing = async {
        let stderr = complaints(watcher);
        let ended = from.run(words, None, Box::new(In(passage.clone())), stderr).await;
        if let Err(error) = ended {
            return Err(own_end(error, passage.lock().fault.take()));
        }
        let ended = outcome(ended, 0)?;
        let mut passage = passage.lock();
        if !passage.reader.is_over() {
            return Err(match ended {
                Outcome::Success => CopyError::Cut { retries: 0 },
                outcome => failed(outcome, false),
            });
        }
        // Only now: whoever unpacks must not take half for all.
        passage.end();
        Ok(ended)
    };
    let unpacking = async {
        let stderr = complaints(watcher);
        let (_, stdout) = keep(0);
        let stdin = Some(Box::new(Out(passage.clone())) as _);
        let ended = outcome(to.run(place.unpack(options.preserve), stdin, stdout, stderr).await, 0);
        match ended? {
            Outcome::Success => Ok(()),
            outcome => Err(failed(outcome, false)),
        }
    };
    let (outcome, ()) = tokio::try_join!(packing, unpacking)?;
    let (failures, took_something, directories) = {
        let mut passage = passage.lock();
        (passage.failures, passage.took_something, std::mem::take(&mut passage.directories))
    };
    if options.preserve && !directories.is_empty() {
        // Once more, now that nothing comes into them.
        let mut archive = Vec::new();
        for entry in directories.iter().rev() {
            writer::header(entry, Owner::default(), &mut archive);
        }
        writer::end(&mut archive);
        let stdin = Some(Box::new(io::Cursor::new(archive)) as _);
        printed(to, place.unpack(true), stdin).await?;
    }
    place.publish(to, options.preserve, false).await?;
    if outcome != Outcome::Success {
        return Err(failed(outcome, took_something));
    }
    match failures {
        0 if took_something => Ok(()),
        0 => Err(CopyError::Nothing),
        failures => Err(CopyError::Incomplete(failures)),
    }
}

/// An archive on its way: what is admitted goes on under the tree's own name.
struct Passage {
    reader: Reader,
    admission: Admission,
    watcher: Arc<dyn Watcher>,
    /// The size of the file that goes through; `None` where an entry is passed over.
    taken: Option<u64>,
    waiting: VecDeque<u8>,
    is_over: bool,
    failures: u64,
    told: u64,
    took_something: bool,
    /// As they are at the end.
    directories: Vec<Entry>,
    fault: Option<UnpackError>,
    reading: Option<Waker>,
    writing: Option<Waker>,
}

impl Passage {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), UnpackError> {
        while let Some(event) = self.reader.next_event(&mut bytes)? {
            match event {
                Event::Entry(entry) => self.entry(entry)?,
                Event::Data(bytes) => {
                    self.watcher.bytes(bytes.len() as u64);
                    if self.taken.is_some() {
                        self.waiting.extend(bytes);
                    }
                }
                Event::Whole => {
                    if let Some(size) = self.taken.take() {
                        let padding = size.next_multiple_of(512) - size;
                        self.waiting.extend(&ZEROS[..padding as usize]);
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
        self.taken = None;
        let path = match self.admission.judge(&entry)? {
            Verdict::Take(path) => path,
            Verdict::Skip(trouble) => {
                self.failures += u64::from(trouble.is_failure);
                self.told += 1;
                if self.told <= TROUBLES {
                    self.watcher.trouble(&trouble);
                }
                return Ok(());
            }
        };
        let link = match entry.kind {
            Kind::HardLink => self.admission.hard_link_target(&entry).map(|path| named(&path)),
            Kind::Symlink => Some(entry.link.clone()),
            _ => Some(Vec::new()),
        };
        let Some(link) = link else {
            self.failures += 1;
            self.watcher.note(&format!(
                "{:?}: a hard link to what was not asked for",
                String::from_utf8_lossy(&entry.name)
            ));
            return Ok(());
        };
        self.took_something = true;
        if entry.kind == Kind::File {
            self.watcher.file(&entry.name);
            self.taken = Some(entry.size);
        }
        let mode = entry.mode & 0o777;
        let mut header = Vec::with_capacity(512);
        let mut entry = Entry { name: named(&path), link, mode, ..entry };
        if entry.kind == Kind::Directory {
            entry.name.push(b'/');
            self.directories.push(entry.clone());
            entry.mode |= 0o700;
        }
        writer::header(&entry, Owner::default(), &mut header);
        self.waiting.extend(header);
        Ok(())
    }

    fn end(&mut self) {
        self.waiting.extend([0; 1024]);
        self.is_over = true;
        if let Some(reading) = self.reading.take() {
            reading.wake();
        }
    }
}

/// The end where an archive comes in.
struct In(Shared<Passage>);

impl AsyncWrite for In {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut passage = self.0.lock();
        if passage.waiting.len() >= WAITING_BYTES {
            passage.writing = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(WAITING_BYTES)];
        if let Err(fault) = passage.take(bytes) {
            passage.fault = Some(fault);
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

/// The end where it goes out.
struct Out(Shared<Passage>);

impl AsyncRead for Out {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut passage = self.0.lock();
        if passage.waiting.is_empty() && !passage.is_over {
            passage.reading = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = passage.waiting.len().min(buffer.remaining());
        let (front, back) = passage.waiting.as_slices();
        let first = front.len().min(length);
        buffer.put_slice(&front[..first]);
        buffer.put_slice(&back[..length - first]);
        passage.waiting.drain(..length);
        if let Some(writing) = passage.writing.take() {
            writing.wake();
        }
        Poll::Ready(Ok(()))
    }
}
