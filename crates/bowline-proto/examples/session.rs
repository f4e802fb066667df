//! `session`: one remote command between two machines, without a socket or a clock.
//!
//! Both ends of `exec -i cat` over WebSocket v5, as a client and a node have them. What one writes
//! is read by the other; in a program of one's own that is what goes over a connection.

#![expect(clippy::disallowed_macros, reason = "a program of its own, which prints")]

use std::error::Error;

use bowline_proto::session::protocol::WEBSOCKET_V5;
use bowline_proto::session::{Channel, Event, Outcome, Session, Side, Status, Wants};
use bowline_proto::{Machine, Next, Time};
use bytes::BytesMut;

fn main() -> Result<(), Box<dyn Error>> {
    let (output, outcome) = cat(b"hello").ok_or("the session did not end")?;
    println!("{outcome:?}: {}", String::from_utf8_lossy(&output));
    Ok(())
}

/// What a client gets back of its input, and how the command ended.
pub fn cat(input: &'static [u8]) -> Option<(Vec<u8>, Outcome)> {
    let wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
    // Masks of frames and ids come from randomness, which is an argument, as time is.
    let mut client = Session::new(Side::Client, &WEBSOCKET_V5, wants, [1; 32]);
    let mut node = Session::new(Side::Server, &WEBSOCKET_V5, wants, [2; 32]);
    let now = Time::ZERO;
    client.begin(now);
    node.begin(now);
    let mut output = Vec::new();
    for _ in 0..100 {
        // Each is polled until it is idle, after everything that it was given.
        while let Next::Event(event) = client.poll(now) {
            match event {
                Event::Ready => {
                    client.send(Channel::Stdin, input.into());
                    client.finish(Channel::Stdin);
                }
                Event::Data(Channel::Stdout, bytes) => output.extend_from_slice(&bytes),
                Event::Status(status) => return Some((output, status.outcome().clone())),
                _ => {}
            }
        }
        while let Next::Event(event) = node.poll(now) {
            match event {
                Event::Data(Channel::Stdin, bytes) => node.send(Channel::Stdout, bytes),
                Event::Eof(Channel::Stdin) => node.status(now, &Status::success()),
                _ => {}
            }
        }
        carry(&mut client, &mut node);
        carry(&mut node, &mut client);
    }
    None
}

/// What one has to write is what the other reads.
fn carry(from: &mut Session, to: &mut Session) {
    let bytes: BytesMut = from.outbox().chunks().flatten().copied().collect();
    from.outbox().advance(bytes.len());
    to.receive(Time::ZERO, bytes);
}
