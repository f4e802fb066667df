//! Both ends of a kept session that are told anything: frames are the same however their bytes are
//! cut, the host gives the process each byte of stdin once, the client no byte that did not come,
//! and neither believes more than was said. What a terminal is written brings another one to the
//! same place however it is cut, and takes no more room for it.

use bowline_proto::kept::{
    Asked, Bounds, Client, ClientEvent, Frame, Greeting, Host, HostEvent, Id, Instance, Mode,
    Reader, Retry, Start, Stream, TerminalModes,
};
use bowline_proto::session::Wants;
use bowline_proto::{Machine, Next, Outbox, Time};
use bytes::{Bytes, BytesMut};

use crate::cuts::choose;

const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const REPLAY_BYTES: usize = 64 * 1024;
/// What is kept of a terminal, and held of what is not.
const FEW_BYTES: usize = 40;
/// What the process wrote before the client came.
const WRITTEN: &[u8] = b"written";

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let (whole, cut) = (vec![BytesMut::from(bytes)], choices.pieces(bytes));
    match choices.form % 4 {
        0 => assert_eq!(frames(whole), frames(cut), "cut otherwise, they are other frames"),
        1 => assert_eq!(at_host(whole), at_host(cut), "cut otherwise, a host hears else"),
        2 => assert_eq!(screen(whole), screen(cut), "cut otherwise, a terminal shows else"),
        _ => assert_eq!(at_client(whole), at_client(cut), "cut otherwise, a client hears else"),
    }
}

fn bounds(replay_bytes: usize) -> Bounds {
    Bounds { replay_bytes, ..Bounds::default() }
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
        again.receive(outbox.chunks().flatten().copied().collect::<Vec<_>>());
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
    let mut host = Host::new(now, start, bounds(REPLAY_BYTES));
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

/// What brings a terminal to where another one was brought by some bytes, and what leaves it.
fn screen(pieces: Vec<BytesMut>) -> (Vec<Frame>, Vec<u8>) {
    let now = Time::ZERO;
    let wants = Wants { stderr: false, tty: true, ..WANTS };
    let (id, instance) = (Id([1; 16]), Instance([2; 16]));
    let (command, env) = (Vec::new(), Vec::new());
    let start = Start { id, instance, wants, keep_for: 60, size: None, command, env };
    let (mut host, mut modes) =
        (Host::new(now, start, bounds(FEW_BYTES)), TerminalModes::default());
    for piece in pieces {
        modes.feed(&piece);
        host.output(Stream::Stdout, piece.freeze());
    }
    let mut greeting = Greeting::new(now, instance);
    let mut outbox = Outbox::new();
    let (version, window) = (1, 1 << 20);
    Frame::Hello { version, window, instance: None }.write(&mut outbox);
    greeting.receive(now, outbox.chunks().flatten().copied().collect::<Vec<_>>()[..].into());
    assert_eq!(greeting.poll(now), Next::Idle(Some(now + bowline_proto::limits::KEPT_GREETING)));
    let Ok(seat) = host.join(greeting, Mode::Look, None, false) else { unreachable!() };
    assert!(matches!(host.poll(now), Next::Idle(_)));
    let said = host.outbox(seat).map(|outbox| outbox.chunks().flatten().copied().collect());
    let said: Vec<u8> = said.unwrap_or_default();
    assert!(said.len() < 1500 + 8 * FEW_BYTES, "{} bytes for a terminal", said.len());
    let end = modes.end();
    assert!(end.len() < 1000, "{} bytes to leave a terminal", end.len());
    (frames(vec![said[..].into()]), end)
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
