//! Both ends of a kept session that are told anything: frames are the same however their bytes are
//! cut, the host gives the process each byte of stdin once, the client no byte that did not come,
//! and neither believes more than was said.

use bowline_proto::kept::{
    Asked, Client, ClientEvent, Frame, Greeting, Host, HostEvent, Id, Instance, Mode, Reader,
    Retry, Start, Stream,
};
use bowline_proto::session::Wants;
use bowline_proto::{Machine, Next, Outbox, Time};
use bytes::{Bytes, BytesMut};

use crate::cuts::choose;

const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const REPLAY_BYTES: usize = 64 * 1024;
/// What the process wrote before the client came.
const WRITTEN: &[u8] = b"written";

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let (whole, cut) = (vec![BytesMut::from(bytes)], choices.pieces(bytes));
    match choices.form % 3 {
        0 => assert_eq!(frames(whole), frames(cut), "cut otherwise, they are other frames"),
        1 => assert_eq!(at_host(whole), at_host(cut), "cut otherwise, a host hears else"),
        _ => assert_eq!(at_client(whole), at_client(cut), "cut otherwise, a client hears else"),
    }
}

/// All frames, with data that follow each other as one; what is read is written as it was.
fn frames(pieces: Vec<BytesMut>) -> Vec<Frame> {
    let (mut reader, mut all) = (Reader::default(), Vec::<Frame>::new());
    for piece in pieces {
        reader.receive(piece);
        while let Ok(Some(frame)) = reader.frame() {
            match (all.last_mut(), frame) {
                (Some(Frame::Data(stream, at, whole)), Frame::Data(also, offset, more))
                    if *stream == also && at.checked_add(whole.len() as u64) == Some(offset) =>
                {
                    *whole = [&whole[..], &more[..]].concat().into();
                }
                (_, frame) => all.push(frame),
            }
        }
    }
    for frame in &all {
        let (mut outbox, mut again) = (Outbox::new(), Reader::default());
        frame.write(&mut outbox);
        again.receive(outbox.chunks().flatten().copied().collect::<Vec<_>>()[..].into());
        assert_eq!(again.frame(), Ok(Some(frame.clone())), "what was written is not read");
    }
    all
}

/// What a host hears, and what it gives its process.
fn at_host(pieces: Vec<BytesMut>) -> (Vec<u8>, Vec<String>) {
    let now = Time::ZERO;
    let start = Start {
        id: Id([1; 16]),
        instance: Instance([2; 16]),
        wants: WANTS,
        keep_for: 60,
        size: None,
        command: vec!["cat".into()],
        env: Vec::new(),
    };
    let mut greeting = Some(Greeting::new(now, start.instance));
    let mut host = Host::new(now, start, REPLAY_BYTES);
    host.output(Stream::Stdout, Bytes::from_static(WRITTEN));
    let (mut seat, mut stdin, mut log) = (None, Vec::new(), Vec::new());
    for piece in pieces {
        match (&mut greeting, seat) {
            (Some(greeting), _) => greeting.receive(now, piece),
            (None, Some(seat)) => host.receive(now, seat, piece),
            (None, None) => return (stdin, log),
        }
        if let Some(known) = &mut greeting
            && let Next::Event(asked) = known.poll(now)
        {
            let Some(greeting) = greeting.take() else { unreachable!() };
            let (mode, have) = match asked {
                Asked::Start(start) if host.is_same(&start) => (Mode::Take, Some([0; 2])),
                Asked::Resume(resume) => (resume.mode, resume.have),
                // Which of two faults is seen first depends on how they come.
                _ => return (stdin, vec!["nothing".to_owned()]),
            };
            seat = host.join(greeting, mode, have, false).ok();
        }
        while let Next::Event(event) = host.poll(now) {
            match event {
                HostEvent::Stdin(bytes) => {
                    assert!(!bytes.is_empty());
                    host.took(now, bytes.len());
                    stdin.extend_from_slice(&bytes);
                }
                HostEvent::Left(_, loss) => log.push(format!("{:?}", loss.cause)),
                event => log.push(format!("{event:?}")),
            }
        }
    }
    (stdin, log)
}

/// What a client hears.
fn at_client(pieces: Vec<BytesMut>) -> (Vec<u8>, Vec<String>) {
    let now = Time::ZERO;
    let retry = Retry { give_up_after: core::time::Duration::from_secs(60), seed: [3; 32] };
    let mut client = Client::resume(now, Id([1; 16]), Mode::Take, Some([0; 2]), retry);
    assert_eq!(client.poll(now), Next::Event(ClientEvent::Connect));
    client.connected(now);
    let (mut output, mut log) = (Vec::new(), Vec::new());
    for piece in pieces {
        client.receive(now, piece);
        while let Next::Event(event) = client.poll(now) {
            match event {
                ClientEvent::Data(stream, bytes) => {
                    assert!(!bytes.is_empty() && stream.is_output());
                    client.took(now, stream, bytes.len());
                    output.extend_from_slice(&bytes);
                }
                ClientEvent::Lost(loss) | ClientEvent::Down(loss) => {
                    log.push(format!("{:?}", loss.cause));
                }
                event => log.push(format!("{event:?}")),
            }
        }
        if !client.has_connection() {
            break;
        }
    }
    (output, log)
}
