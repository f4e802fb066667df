//! A client's end in what carries its bytes, as one machine with one socket.

use alloc::string::String;

use bytes::BytesMut;

use super::client::{Client, Event};
use crate::limits::{KEPT_OUTBOX_BYTES, MESSAGE_BYTES, REASON_BYTES};
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Channel, Event as SessionEvent, Session, Status};
use crate::time::Time;
use crate::tunnel::{Incoming, Wire};

/// What the frames of a session travel in.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives as long as its connection; a box would only add a step to every byte"
)]
pub enum Carrier {
    /// The connection itself, in the messages of a WebSocket or bare.
    Bytes(Wire),
    /// Stdin and stdout of a command that passes them to the host.
    Exec(Session),
}

/// A client and its connection.
#[derive(Debug)]
pub struct Carried {
    client: Client,
    carrier: Carrier,
    /// How the command that carries the bytes has ended, and what it has written to stderr.
    status: Option<Status>,
    errors: BytesMut,
}

impl Carried {
    /// A client whose connection is there, right after the 101.
    #[must_use]
    pub fn new(now: Time, mut client: Client, mut carrier: Carrier) -> Carried {
        client.connected(now);
        if let Carrier::Exec(session) = &mut carrier {
            session.begin(now);
        }
        Carried { client, carrier, status: None, errors: BytesMut::new() }
    }

    /// The client.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The client again; its connection is dropped.
    #[must_use]
    pub fn into_client(self) -> Client {
        self.client
    }

    /// How the command that carries the bytes has ended, if it has.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// As [`Client::may_have_begun`].
    #[must_use]
    pub fn may_have_begun(&self) -> bool {
        self.client.may_have_begun()
    }

    /// As [`Client::has_left`].
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.client.has_left()
    }

    /// The first bytes that it has written to stderr, as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors).into_owned()
    }

    /// Gives the client what came for it.
    fn pump(&mut self, now: Time) {
        match &mut self.carrier {
            Carrier::Bytes(wire) => {
                while let Some(incoming) = wire.poll() {
                    match incoming {
                        Incoming::Bytes(bytes) => self.client.receive_shared(now, bytes),
                        Incoming::Closed(_) => self.client.receive_end(now),
                    }
                }
            }
            Carrier::Exec(session) => {
                while let Next::Event(event) = session.poll(now) {
                    match event {
                        SessionEvent::Data(Channel::Stdout, bytes) => {
                            self.client.receive_shared(now, bytes);
                        }
                        SessionEvent::Data(_, bytes) => {
                            let room = REASON_BYTES.saturating_sub(self.errors.len());
                            self.errors.extend_from_slice(&bytes[..bytes.len().min(room)]);
                        }
                        SessionEvent::Status(status) => {
                            self.status = Some(status);
                            self.client.receive_end(now);
                        }
                        SessionEvent::Lost(_) => self.client.receive_end(now),
                        SessionEvent::Ready | SessionEvent::Eof(_) | SessionEvent::Resize(_) => {}
                    }
                }
            }
        }
    }
}

impl Machine for Carried {
    type Event = Event;

    fn receive(&mut self, now: Time, input: BytesMut) {
        match &mut self.carrier {
            Carrier::Bytes(wire) => wire.receive(input),
            Carrier::Exec(session) => session.receive(now, input),
        }
    }

    fn receive_end(&mut self, now: Time) {
        match &mut self.carrier {
            Carrier::Bytes(wire) => wire.receive_end(),
            Carrier::Exec(session) => session.receive_end(now),
        }
    }

    fn poll(&mut self, now: Time) -> Next<Event> {
        self.pump(now);
        let next = self.client.poll(now);
        let Next::Idle(deadline) = next else { return next };
        let carriers = match &mut self.carrier {
            Carrier::Bytes(_) => None,
            // Its events were taken.
            Carrier::Exec(session) => match session.poll(now) {
                Next::Idle(deadline) => deadline,
                Next::Event(_) | Next::Done => None,
            },
        };
        Next::Idle(crate::time::earlier(deadline, carriers))
    }

    fn outbox(&mut self) -> &mut Outbox {
        let ours = self.client.outbox();
        match &mut self.carrier {
            Carrier::Bytes(wire) => wire.outbox(ours),
            Carrier::Exec(session) => {
                while !ours.is_empty() && session.outbox().len() < KEPT_OUTBOX_BYTES {
                    // Heads are small, and a message costs each hop as much as many bytes. What is
                    // sent is kept as well, so that it would be copied to be masked.
                    session.send(Channel::Stdin, ours.take(MESSAGE_BYTES).concat().into());
                }
                if ours.is_empty() && ours.is_finishing() {
                    session.finish(Channel::Stdin);
                }
                session.outbox()
            }
        }
    }

    fn wants_read(&self) -> bool {
        self.client.wants_read()
            && match &self.carrier {
                Carrier::Bytes(_) => true,
                Carrier::Exec(session) => session.wants_read(),
            }
    }

    fn reading(&mut self, now: Time, reading: bool) {
        if let Carrier::Exec(session) = &mut self.carrier {
            session.reading(now, reading);
        }
    }
}
