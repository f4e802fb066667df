//! One connection: its socket, and the messages in which its bytes travel.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Socket, SocketEvent, take_turns};
use bowline_io::random;
use bowline_io::record::Traffic;
use bowline_io::stream::{Stream, Upgraded};
use bowline_proto::kept::{Asked, Greeting};
use bowline_proto::limits::CLOSING_PATIENCE;
use bowline_proto::tunnel::{Incoming, Wire};
use bowline_proto::websocket::Role;
use bowline_proto::{Machine, Next, Outbox};
use bytes::BytesMut;
use tokio::io::DuplexStream;

/// A connection that carries the frames of a session.
#[derive(Debug)]
pub(super) struct Line {
    socket: Ours,
    wire: Box<Wire>,
    has_ended: bool,
    traffic: Traffic,
}

/// Our end of it.
#[derive(Debug)]
enum Ours {
    Far(Socket<Stream>),
    /// Of a client within the node.
    Here(Box<Socket<DuplexStream>>),
}

impl Line {
    /// A connection right after its 101.
    pub(super) fn new(connection: Upgraded) -> Line {
        let Upgraded { stream, early } = connection;
        let wire = Wire::in_order(Role::Server, random::bytes());
        Line::over(Ours::Far(Socket::new(stream, early)), wire)
    }

    /// One of a client within the node.
    pub(super) fn here(stream: DuplexStream) -> Line {
        let socket = Box::new(Socket::new(stream, BytesMut::new()));
        Line::over(Ours::Here(socket), Wire::plain())
    }

    fn over(socket: Ours, wire: Wire) -> Line {
        Line { socket, wire: Box::new(wire), has_ended: false, traffic: Traffic::default() }
    }

    /// How much it has carried.
    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Whether nothing more comes of it.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// What came next, if something did.
    pub(super) fn next(&mut self) -> Option<Incoming> {
        self.wire.poll()
    }

    /// Writes what waits in `outbox`, and reads. Ready once something has moved, with how many
    /// bytes were read.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> Poll<usize> {
        let waiting = self.wire.outbox(outbox);
        let before = waiting.len();
        let polled = match &mut self.socket {
            Ours::Far(socket) => socket.poll(cx, waiting, !self.has_ended),
            Ours::Here(socket) => socket.poll(cx, waiting, !self.has_ended),
        };
        self.traffic.to_client += before.saturating_sub(waiting.len()) as u64;
        Poll::Ready(match ready!(polled) {
            SocketEvent::Read(bytes) => {
                let read = bytes.len();
                self.traffic.from_client += read as u64;
                self.wire.receive(bytes);
                read
            }
            SocketEvent::Ended(_) => {
                self.has_ended = true;
                self.wire.receive_end();
                0
            }
            SocketEvent::Wrote => 0,
        })
    }

    /// Goes on until the client has said what it wants. `None` once the greeting is over.
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    pub(super) async fn asked(&mut self, clock: &Clock, greeting: &mut Greeting) -> Option<Asked> {
        let mut alarm = Alarm::default();
        loop {
            let now = clock.now();
            while let Some(incoming) = self.next() {
                match incoming {
                    Incoming::Bytes(bytes) if greeting.wants_read() => {
                        greeting.receive(now, bytes.into());
                    }
                    Incoming::Bytes(_) => {}
                    Incoming::Closed(_) => greeting.receive_end(now),
                }
            }
            match greeting.poll(now) {
                Next::Event(asked) => return Some(asked),
                Next::Done => return None,
                Next::Idle(deadline) => alarm.set(clock, deadline),
            }
            let read = poll_fn(|cx| match self.poll(cx, greeting.outbox()) {
                Poll::Ready(read) => Poll::Ready(read),
                Poll::Pending => alarm.poll(cx).map(|()| 0),
            });
            take_turns(read.await).await;
        }
    }

    /// Gives the client the last words, and waits until it closes.
    pub(super) async fn close(&mut self, outbox: &mut Outbox) {
        let closed = async {
            while !self.has_ended {
                // Whatever comes is for nobody.
                while self.next().is_some() {}
                poll_fn(|cx| self.poll(cx, outbox)).await;
            }
        };
        let _ = tokio::time::timeout(CLOSING_PATIENCE, closed).await;
    }
}
