//! A runtime of the tests' own: one pod whose commands, ports and log are values.

use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bowline_io::drive::WriteQueue;
use bowline_io::local_sockets::{Failure, Local};
use bowline_node::runtime::{
    Act, Answer, AttachRequest, Attachment, BoxFuture, Command, ExecRequest, ExitStatus,
    Forwarding, Log, LogRecord, LogRecords, LogRequest, PodTarget, Ports, Process, Refusal,
    Runtime, Session, Source, StartError, Target,
};
use bowline_proto::session::Size;
use bytes::Bytes;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};

/// The pod `ns/p` with the uid `u`, and in it the container `c`.
#[derive(Debug, Default)]
pub struct Memory {
    /// Why it cannot be used.
    pub unready: Option<&'static str>,
    /// Which of its methods were asked, in order.
    pub asked: Mutex<Vec<&'static str>>,
}

/// What the container has written.
const LINES: [(Source, &str); 3] =
    [(Source::Stdout, "one\n"), (Source::Stderr, "two\n"), (Source::Stdout, "three\n")];

impl Memory {
    fn note(&self, method: &'static str) {
        self.asked.lock().unwrap().push(method);
    }

    fn pod(target: &PodTarget) -> Result<(), Refusal> {
        let PodTarget { namespace, name, uid } = target;
        let is_it = namespace == "ns" && name == "p" && uid.as_ref().is_none_or(|uid| uid == "u");
        if is_it { Ok(()) } else { Err(Refusal::new(404, format!("memory has no pod {name}"))) }
    }

    fn container(target: &Target) -> Result<(), Refusal> {
        Memory::pod(&target.pod)?;
        match &*target.container {
            "c" => Ok(()),
            name => Err(Refusal::new(409, format!("memory has no container {name}"))),
        }
    }
}

impl Runtime for Memory {
    fn exec<'a>(&'a self, target: &'a Target, request: ExecRequest) -> Answer<'a, Session> {
        Box::pin(async move {
            self.note("exec");
            Memory::container(target)?;
            Ok(Session::Local(Box::new(Echo { words: request.command, ..Echo::default() })))
        })
    }

    fn attach<'a>(&'a self, target: &'a Target, request: AttachRequest) -> Answer<'a, Attachment> {
        Box::pin(async move {
            self.note("attach");
            Memory::container(target)?;
            let replay = request.replay.map(|lines| lines.min(LINES.len()));
            let first = LINES[LINES.len() - replay.unwrap_or(0)..].iter();
            let first: String = first.map(|line| line.1).collect();
            let echo = Echo { first: first.into(), ..Echo::default() };
            Ok(Attachment { session: Session::Local(Box::new(echo)), replay })
        })
    }

    fn port_forward<'a>(
        &'a self,
        target: &'a PodTarget,
        _ports: &'a [u16],
    ) -> Answer<'a, Forwarding> {
        Box::pin(async move {
            self.note("port_forward");
            Memory::pod(target)?;
            Ok(Forwarding::Local(Box::new(MemoryPorts)))
        })
    }

    fn logs<'a>(&'a self, target: &'a Target, request: LogRequest) -> Answer<'a, Log> {
        Box::pin(async move {
            self.note("logs");
            Memory::container(target)?;
            if request.previous {
                return Err(Refusal::new(410, "memory has nothing before this"));
            }
            let wanted = |source| request.source.is_none_or(|wanted| wanted == source);
            let record = |(source, text): (Source, &'static str)| LogRecord {
                source,
                time: SystemTime::UNIX_EPOCH + Duration::from_secs(text.len() as u64),
                bytes: text.into(),
            };
            let mut records: VecDeque<_> =
                LINES.into_iter().filter(|line| wanted(line.0)).map(record).collect();
            let most = request.tail.map_or(records.len(), |tail| records.len().min(tail as usize));
            records.drain(..records.len() - most);
            let ends_badly = request.follow;
            Ok(Log { records: Box::new(Lines { records, ends_badly }), skip_lines: 0 })
        })
    }

    fn ready(&self) -> Answer<'_, ()> {
        let ready = self.unready.map_or(Ok(()), |why| Err(Refusal::new(503, why)));
        Box::pin(async move { ready })
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.note("shut_down") })
    }
}

/// A session of a command, without a pod around it.
pub fn echo(words: &[&str]) -> Session {
    let words = words.iter().map(|&word| word.to_owned()).collect();
    Session::Local(Box::new(Echo { words, ..Echo::default() }))
}

/// The ports, without a pod around them.
pub fn ports() -> Forwarding {
    Forwarding::Local(Box::new(MemoryPorts))
}

/// The records that are left. Nobody can follow them, and who wants to gets an error behind them.
struct Lines {
    records: VecDeque<LogRecord>,
    ends_badly: bool,
}

impl LogRecords for Lines {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<io::Result<LogRecord>>> {
        let next = self.records.pop_front().map(Ok);
        let fault = || std::mem::take(&mut self.ends_badly).then(|| Err(io::Error::other("lost")));
        Poll::Ready(next.or_else(fault))
    }
}

/// A command that says its input again, and ends with it: `exit N` with a code, `kill N` by a
/// signal, `fail WHY` before it begins, anything else well.
#[derive(Debug, Default)]
struct Echo {
    words: Vec<String>,
    first: Bytes,
}

struct Echoing {
    first: Bytes,
    status: ExitStatus,
    ended: bool,
}

impl Display for Echo {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("echo")
    }
}

impl Command for Echo {
    type Process = Echoing;

    fn start(&mut self, _: Option<Size>) -> Result<Echoing, StartError> {
        let words: Vec<_> = self.words.iter().map(String::as_str).collect();
        let status = match words[..] {
            ["exit", code] => ExitStatus::Exited(code.parse().unwrap()),
            ["kill", signal] => ExitStatus::Signaled(signal.parse().unwrap()),
            ["fail", why] => return Err(StartError(format!("memory does not start it: {why}"))),
            _ => ExitStatus::Exited(0),
        };
        Ok(Echoing { first: std::mem::take(&mut self.first), status, ended: false })
    }

    fn words(&self) -> &[String] {
        &self.words
    }
}

impl Process for Echoing {
    fn resize(&self, _: Size) {}

    fn poll(&mut self, _: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act> {
        if !room || self.ended {
            return Poll::Pending;
        }
        if !self.first.is_empty() {
            return Poll::Ready(Act::Stdout(std::mem::take(&mut self.first)));
        }
        if let Some(bytes) = stdin.pop(usize::MAX) {
            return Poll::Ready(Act::Stdout(bytes));
        }
        if stdin.is_over() {
            self.ended = true;
            return Poll::Ready(Act::Stderr("over".into()));
        }
        Poll::Pending
    }

    fn output_ended(&self) -> bool {
        self.ended
    }

    fn poll_exit(&mut self, _: &mut Context<'_>) -> Poll<ExitStatus> {
        if self.ended { Poll::Ready(self.status) } else { Poll::Pending }
    }
}

/// Port 80 says what it was told, turned round; nobody listens at any other.
#[derive(Clone, Debug)]
struct MemoryPorts;

impl Display for MemoryPorts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("ns/p")
    }
}

impl Ports for MemoryPorts {
    type Stream = Pipe;

    async fn dial(self, port: u16) -> Result<Pipe, String> {
        if port != 80 {
            return Err("memory has no such port".into());
        }
        let (ours, mut theirs) = duplex(1024);
        tokio::spawn(async move {
            let mut told = String::new();
            theirs.read_to_string(&mut told).await.unwrap();
            let answer: String = told.chars().rev().collect();
            theirs.write_all(answer.as_bytes()).await.unwrap();
        });
        Ok(Pipe(ours))
    }
}

struct Pipe(DuplexStream);

impl Local for Pipe {
    fn abort(self, _: Failure) {}
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
