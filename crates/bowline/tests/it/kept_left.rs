//! Clients of kept sessions that leave: they say that it was heard only if it was.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_client::Error;
use bowline_client::kept::{Change, Goodbye, Id, Instance, KeptCommand};
use bowline_proto::kept::{Frame, Reader};
use bowline_proto::outbox::Outbox;
use bowline_proto::session::Wants;
use bowline_proto::tunnel::{Incoming, Wire};
use bowline_proto::websocket::Role;
use bytes::BytesMut;
use tokio::sync::Notify;

use super::bad_server;

/// How a connection ends whose client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The host has heard it.
    Told,
    /// What carries the connection ends it in good order, without its host.
    Closed,
    /// Whatever is in between ends it.
    Gateway,
    /// The host is killed, and its system ends it.
    Killed,
}

/// A host's end of a connection.
pub struct Host {
    stream: TcpStream,
    wire: Wire,
    outbox: Outbox,
    reader: Reader,
}

impl Host {
    /// One whose session is there, and only writes.
    fn new(stream: TcpStream) -> Host {
        Host::of(stream, Wants { stdin: false, stdout: true, stderr: true, tty: false })
    }

    /// One whose session is there with these streams.
    pub fn of(stream: TcpStream, wants: Wants) -> Host {
        let (stdin, stdin_over, outputs, started, turn) = (0, false, [0; 2], false, 1);
        let mut host = Host::greeting(stream, 7);
        host.says(&Frame::State { wants, stdin, stdin_over, outputs, started, turn });
        host
    }

    /// One that has said hello, as the instance with this number.
    pub fn greeting(stream: TcpStream, number: u8) -> Host {
        let (version, window, instance) = (1, 1 << 20, Some(Instance([number; 16])));
        let (wire, outbox) = (Wire::tunnel(Role::Server, [7; 32]), Outbox::new());
        let mut host = Host { stream, wire, outbox, reader: Reader::default() };
        host.says(&Frame::Hello { version, window, instance });
        host
    }

    /// Sends this.
    pub fn says(&mut self, frame: &Frame) {
        frame.write(&mut self.outbox);
        self.flush();
    }

    fn flush(&mut self) {
        let outbox = self.wire.outbox(&mut self.outbox);
        let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
        self.stream.write_all(&bytes).unwrap();
        outbox.advance(bytes.len());
    }

    /// Reads until a frame is one; whether one was.
    pub fn until(&mut self, mut is_meant: impl FnMut(&Frame) -> bool) -> bool {
        loop {
            let mut piece = [0; 4096];
            let Ok(read @ 1..) = self.stream.read(&mut piece) else { return false };
            self.wire.receive(BytesMut::from(&piece[..read]));
            while let Some(Incoming::Bytes(bytes)) = self.wire.poll() {
                self.reader.receive(bytes);
            }
            while let Some(frame) = self.reader.frame().unwrap() {
                if is_meant(&frame) {
                    return true;
                }
            }
        }
    }

    fn end(mut self, how: End) {
        if !self.until(|frame| matches!(frame, Frame::Leave(_))) {
            return;
        }
        match how {
            End::Told => {
                Frame::Left.write(&mut self.outbox);
                self.outbox.finish();
            }
            End::Closed => self.outbox.finish(),
            End::Gateway => self.wire.fail(&mut self.outbox, "the gateway shuts down"),
            End::Killed => return,
        }
        self.flush();
        // Its answer.
        self.until(|_| false);
    }
}

/// A session that is to be gone on with there.
pub fn session(address: SocketAddr) -> KeptCommand {
    let place = tempfile::tempdir().unwrap();
    let client = bad_server::library(address, place.path());
    client.resume("pod", Id([1; 16])).container("box")
}

fn is_not_told<T>(result: &Result<T, Error>) -> bool {
    let Err(Error::NotKept(refused)) = result else { return false };
    refused.code == 0 && refused.text.contains("could not be told")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_host_that_says_so_was_told() {
    for end in [End::Told, End::Closed, End::Gateway, End::Killed] {
        let address = bad_server::start(move |request| Host::new(request.upgrade_kept()).end(end));
        for left in [session(address).detach().await, session(address).hang_up().await] {
            assert_eq!(left.is_ok(), end == End::Told, "{end:?}: {left:?}");
            assert_eq!(is_not_told(&left), end != End::Told, "{end:?}: {left:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_to_go_on_and_is_out_of_reach_is_no_success() {
    for goodbye in [Goodbye::Detach, Goodbye::HangUp] {
        let was_there = AtomicBool::new(false);
        // It is there once, and is lost then.
        let address = bad_server::start(move |request| {
            if !was_there.swap(true, Ordering::Relaxed) {
                Host::new(request.upgrade_kept());
            }
        });
        let lost = Arc::new(Notify::new());
        let tell = lost.clone();
        let command = session(address).on_change(move |change| {
            if let Change::StillLost(_) = change {
                tell.notify_one();
            }
        });
        let left = command.run_until(async move {
            lost.notified().await;
            goodbye
        });
        let left = left.await;
        match goodbye {
            Goodbye::Detach => assert!(is_not_told(&left), "{left:?}"),
            Goodbye::HangUp => assert!(matches!(left, Ok(None)), "{left:?}"),
        }
    }
}
