//! Connections made of nothing: what they give is always the same again, and what they take is
//! gone, so that all memory is the role's. And the bytes of messages and frames.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_io::drive::WriteQueue;
use bowline_io::local_sockets::{Failure, Local};
use bowline_io::stream::{Connection, Upgraded};
use bowline_node::runtime::{Act, Command, Drain, ExitStatus, Ports, Process, StartError};
use bowline_proto::session::protocol::{Carrier, Encoding, SPDY, WEBSOCKET};
use bowline_proto::session::{Protocol, Session, Side, Size, Wants};
use bowline_proto::{Machine, Next, Outbox, Time};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

pub const NOW: Time = Time::ZERO;
pub const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

/// Says this once, and then that, so many times; takes nothing, or everything.
pub struct Hostile {
    first: Bytes,
    again: Bytes,
    at: usize,
    rounds: usize,
    takes: Takes,
    gone: bool,
}

/// What it does with what it is told.
#[derive(Debug)]
pub enum Takes {
    Nothing,
    Everything,
    /// A byte each time this rings.
    Slowly(Pin<Box<Sleep>>),
}

/// How often a slow one takes a byte.
const SLOW: Duration = Duration::from_secs(5);

impl Hostile {
    pub fn says(first: Vec<u8>, again: Vec<u8>, rounds: usize) -> Upgraded<Hostile> {
        let (first, again) = (Bytes::from(first), Bytes::from(again));
        let (takes, gone) = (Takes::Nothing, false);
        let stream = Hostile { first, again, at: 0, rounds, takes, gone };
        Upgraded { stream, early: BytesMut::new() }
    }

    /// Says and takes nothing.
    pub fn deaf() -> Upgraded<Hostile> {
        Hostile::says(Vec::new(), Vec::new(), 0)
    }

    /// Says this again and again, takes all, and answers nothing.
    pub fn busy(first: Vec<u8>, again: Vec<u8>) -> Upgraded<Hostile> {
        let mut busy = Hostile::says(first, again, usize::MAX);
        busy.stream.takes = Takes::Everything;
        busy
    }

    /// Takes a byte now and then. To be made in a runtime.
    pub fn slow() -> Upgraded<Hostile> {
        let mut slow = Hostile::deaf();
        slow.stream.takes = Takes::Slowly(Box::pin(sleep(SLOW)));
        slow
    }

    /// Says this again and again, and is gone already.
    pub fn gone(first: Vec<u8>, again: Vec<u8>) -> Upgraded<Hostile> {
        let mut gone = Hostile::says(first, again, usize::MAX);
        gone.stream.gone = true;
        gone
    }
}

impl Connection for Hostile {
    fn is_peer_gone(&self) -> bool {
        self.gone
    }

    fn unacknowledged(&self) -> usize {
        0
    }

    fn reset_on_drop(&self) {}
}

impl AsyncRead for Hostile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let piece = if this.first.is_empty() {
            if this.at == this.again.len() {
                (this.at, this.rounds) = (0, this.rounds.saturating_sub(1));
            }
            if this.rounds == 0 {
                return Poll::Pending;
            }
            let piece = this.again.slice(this.at..);
            let piece = piece.slice(..piece.len().min(buffer.remaining()));
            this.at += piece.len();
            piece
        } else {
            this.first.split_to(this.first.len().min(buffer.remaining()))
        };
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Hostile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sleep = match &mut self.takes {
            Takes::Nothing => return Poll::Pending,
            Takes::Everything => return Poll::Ready(Ok(bytes.len())),
            Takes::Slowly(sleep) => sleep,
        };
        ready!(sleep.as_mut().poll(cx));
        sleep.as_mut().reset(Instant::now() + SLOW);
        Poll::Ready(Ok(bytes.len().min(1)))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Local for Hostile {
    fn abort(self, _why: Failure) {}
}

pub fn written(outbox: &mut Outbox) -> Vec<u8> {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
    outbox.advance(bytes.len());
    bytes
}

pub fn protocols() -> impl Iterator<Item = &'static Protocol> {
    WEBSOCKET.into_iter().chain(SPDY)
}

/// What each side of a session says until all lanes are there: the client, the server.
pub fn openings(protocol: &'static Protocol) -> [Vec<u8>; 2] {
    let mut ends =
        [Side::Client, Side::Server].map(|side| Session::new(side, protocol, WANTS, [0; 32]));
    let mut said = [Vec::new(), Vec::new()];
    ends[0].begin(NOW);
    for _ in 0..2 {
        for from in [0, 1] {
            while let Next::Event(_) = ends[from].poll(NOW) {}
            let bytes = written(ends[from].outbox());
            ends[1 - from].receive(NOW, BytesMut::from(&bytes[..]));
            while let Next::Event(_) = ends[1 - from].poll(NOW) {}
            said[from].extend(bytes);
        }
    }
    said
}

/// A whole message, masked with nothing if a client says it.
pub fn message(side: Side, text: bool, payload: &[u8]) -> Vec<u8> {
    let mask = if side == Side::Client { 0x80 } else { 0 };
    let mut frame = vec![0x82 - u8::from(text)];
    match payload.len() {
        length @ ..126 => frame.push(mask | length as u8),
        length @ ..0x1_0000 => {
            frame.push(mask | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if side == Side::Client {
        frame.extend([0; 4]);
    }
    frame.extend(payload);
    frame
}

/// Data of a stream; number 99 is nobody's.
pub fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&stream.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}

/// Bytes of a lane by its channel's number. 9 is nobody's. Streams are opened in the order of
/// error, stdin, stdout, stderr.
pub fn said(protocol: &Protocol, side: Side, channel: u8, payload: &[u8]) -> Vec<u8> {
    match (protocol.carrier, protocol.encoding) {
        (Carrier::Spdy, _) => {
            data([3, 5, 7, 1].get(channel as usize).copied().unwrap_or(99), payload)
        }
        (_, Encoding::Binary) => message(side, false, &[&[channel][..], payload].concat()),
        (_, Encoding::Base64) => {
            let text = [&[b'0' + channel][..], STANDARD.encode(payload).as_bytes()].concat();
            message(side, true, &text)
        }
    }
}

/// A command that takes no input and gives no output.
pub struct Deaf;

impl Display for Deaf {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("deaf")
    }
}

impl Command for Deaf {
    type Process = Deaf;

    fn start(&mut self, _size: Option<Size>) -> Result<Deaf, StartError> {
        Ok(Deaf)
    }

    fn drain(&self) -> Drain {
        Drain { patience: Some(Duration::ZERO), held_bytes: 0 }
    }
}

impl Process for Deaf {
    fn resize(&self, _size: Size) {}

    fn poll(&mut self, _cx: &mut Context<'_>, _stdin: &mut WriteQueue, _room: bool) -> Poll<Act> {
        Poll::Pending
    }

    fn output_ended(&self) -> bool {
        false
    }

    fn poll_exit(&mut self, _cx: &mut Context<'_>) -> Poll<ExitStatus> {
        Poll::Pending
    }
}

/// A pod whose ports take nothing, or are never reached.
#[derive(Clone)]
pub struct Pod {
    pub answers: bool,
}

impl Display for Pod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("pod")
    }
}

impl Ports for Pod {
    type Stream = Hostile;

    async fn dial(self, _port: u16) -> Result<Hostile, String> {
        if !self.answers {
            std::future::pending::<()>().await;
        }
        Ok(Hostile::deaf().stream)
    }
}
