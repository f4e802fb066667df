//! What each frame is on the wire, byte for byte, and what ends of other versions may do to it.

use super::*;

const ID: Id = Id([1; 16]);
const HOST: Instance = Instance([2; 16]);
const NO_TOTAL: Total = Total { bytes: 0, sum: 0 };

/// Each kind of frame, and the bytes that docs/protocols/kept-session.md, 11.2, has for it.
fn vectors() -> Vec<(Frame, &'static str)> {
    let hello = |instance| Frame::Hello { version: 1, window: 1 << 20, instance };
    let words = |words: &[&str]| words.iter().map(|&word| String::from(word)).collect();
    let terminal = Wants { stdin: true, stdout: true, stderr: false, tty: true };
    let start = Start {
        id: ID,
        instance: HOST,
        wants: WANTS,
        keep_for: 600,
        size: None,
        command: words(&["sh", "-c"]),
        env: Vec::from([("A".into(), "b".into())]),
    };
    let vi = Start {
        wants: terminal,
        size: Some(Size { width: 80, height: 24 }),
        command: words(&["vi"]),
        env: Vec::new(),
        ..start.clone()
    };
    let resume = |mode, have, turn| Frame::Resume(Resume { id: ID, mode, have, turn });
    let state = Frame::State {
        wants: WANTS,
        stdin: 300,
        stdin_over: true,
        outputs: [4, 5],
        started: false,
        turn: 2,
    };
    let stdout = Total { bytes: 3, sum: 0x0102_0304_0506_0708 };
    let ended = Frame::Outcome {
        end: Ok(Bytes::from_static(b"{}")),
        totals: [stdout, Total { bytes: 0, sum: 0xff }],
    };
    let lost = Frame::Outcome { end: Err("gone".into()), totals: [NO_TOTAL; 2] };
    let gap = Frame::Gap { stream: Stream::Stdout, from: 1, to: 300, taken: 2 };
    let refused = Refused { code: refused::TAKEN_OVER, text: "no".into() };
    let screen = Frame::Screen { anew: true, bytes: Bytes::from_static(b"\x1b[m") };
    Vec::from([
        (hello(None), "050001808040"),
        (hello(Some(HOST)), "15000180804002020202020202020202020202020202"),
        (
            Frame::Start(start),
            "3201010101010101010101010101010101010202020202020202020202020202020207d8040000020273\
             68022d630101410162",
        ),
        (
            Frame::Start(vi),
            "2b010101010101010101010101010101010102020202020202020202020202020202\
             0bd80450180102766900",
        ),
        (resume(Mode::Take, Some([300, 5]), 3), "1702010101010101010101010101010101010001ac020503"),
        (resume(Mode::Look, None, 0), "1602010101010101010101010101010101010100000000"),
        (Frame::List, "0103"),
        (state, "090407ac020104050002"),
        (Frame::Data(Stream::Stdin, 300, Bytes::from_static(b"in")), "060500ac02696e"),
        (
            Frame::Data(Stream::Stdout, 1 << 62, Bytes::from_static(b"out")),
            "0e05018080808080808080406f7574",
        ),
        (Frame::End(Stream::Stderr, 9), "03060209"),
        (gap, "06070101ac0202"),
        (Frame::Ack(Stream::Stdin, 128), "0408008001"),
        (Frame::Ack(Stream::Stderr, 127), "0308027f"),
        (Frame::Resize(Size { width: 200, height: 50 }), "0409c80132"),
        (Frame::Leave(Leave::Running), "020a00"),
        (Frame::Leave(Leave::HungUp), "020a01"),
        (Frame::Ping(u64::MAX), "0b0bffffffffffffffffff01"),
        (Frame::Pong(7), "020c07"),
        (ended, "170d00027b7d03080706050403020100ff00000000000000"),
        (lost, "190d0104676f6e65000000000000000000000000000000000000"),
        (Frame::Received, "010e"),
        (Frame::Refused(refused), "050f06026e6f"),
        (Frame::Listed(b"{\"name\":\"a\"}".into()), "0d107b226e616d65223a2261227d"),
        (Frame::ListedAll, "0111"),
        (screen, "0512011b5b6d"),
        (Frame::Left, "0113"),
    ])
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhexadecimal(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn read(bytes: &[u8]) -> Flow {
    let mut reader = Reader::default();
    reader.receive(BytesMut::from(bytes));
    let frame = reader.frame()?;
    assert_eq!(reader.frame(), Ok(None), "{frame:?} and more");
    Ok(frame)
}

#[test]
fn frames_are_these_bytes_in_both_directions() {
    let mut kinds = Vec::new();
    for (frame, bytes) in vectors() {
        assert_eq!(hexadecimal(&bytes_of(core::slice::from_ref(&frame))), bytes, "{frame:?}");
        let bytes = unhexadecimal(bytes);
        assert_eq!(read(&bytes), Ok(Some(frame)));
        kinds.push(bytes[1]);
    }
    kinds.dedup();
    assert_eq!(kinds, Vec::from_iter(0..=19), "a kind has no vector");
}

/// A body with so many bytes more than are known.
fn longer(bytes: &[u8], more: usize) -> Vec<u8> {
    assert!(usize::from(bytes[0]) + more < 0x80, "its length has one byte");
    let mut longer = bytes.to_vec();
    longer[0] += more as u8;
    longer.extend(core::iter::repeat_n(0xee, more));
    longer
}

/// Those whose last field is what is left of them are left out.
#[test]
fn bodies_of_newer_ends_may_be_longer() {
    for (frame, bytes) in vectors() {
        let bytes = unhexadecimal(bytes);
        if !matches!(bytes[1], 5 | 16 | 18) {
            assert_eq!(read(&longer(&bytes, 3)), Ok(Some(frame)));
        }
    }
}

/// A frame of a kind that nobody has yet.
fn unknown(kind: u8) -> Vec<u8> {
    Vec::from([4, kind, 1, 2, 3])
}

/// A newer end's HELLO, and in front of each frame one that is not known here. Each body is longer.
fn newer(instance: Option<Instance>, frames: &[Frame]) -> BytesMut {
    let hello = Frame::Hello { version: 9, window: 1 << 20, instance };
    let mut bytes = longer(&bytes_of(&[hello]), 5);
    for (at, frame) in frames.iter().enumerate() {
        bytes.extend(unknown(20 + at as u8));
        bytes.extend(longer(&bytes_of(core::slice::from_ref(frame)), 2));
    }
    BytesMut::from(&bytes[..])
}

#[test]
fn a_client_goes_on_with_a_newer_host() {
    let mut client = asking(false);
    client.receive(Time::ZERO, newer(Some(HOST), &[]));
    assert!(matches!(client.poll(Time::ZERO), Next::Idle(_)));
    let said = frames(client.outbox());
    let is_first = matches!(said[0], Frame::Hello { version: 1, instance: None, .. });
    assert!(is_first && matches!(said[1], Frame::Start(_)), "{said:?}");
    let (outputs, end) = ([0; 2], Ok(Status::exited(3, "").json().clone()));
    let state =
        Frame::State { wants: WANTS, stdin: 0, stdin_over: false, outputs, started: true, turn: 1 };
    let mut bytes = unknown(99);
    let known = [
        Frame::Ack(Stream::Stdin, 0),
        Frame::End(Stream::Stdout, 0),
        Frame::End(Stream::Stderr, 0),
    ];
    for frame in core::iter::once(&state).chain(&known) {
        bytes.extend(longer(&bytes_of(core::slice::from_ref(frame)), 1));
        bytes.extend(unknown(40));
    }
    let totals = [Total { bytes: 0, sum: sum_of(&[]) }; 2];
    bytes.extend(&bytes_of(&[Frame::Outcome { end, totals }])[..]);
    client.receive(Time::ZERO, BytesMut::from(&bytes[..]));
    let mut events = Vec::new();
    while let Next::Event(event) = client.poll(Time::ZERO) {
        events.push(event);
    }
    assert!(matches!(events[0], ClientEvent::Up(Connected { started: true, .. })), "{events:?}");
    let Some(ClientEvent::Ended(status)) = events.last() else { panic!("{events:?}") };
    assert_eq!(status.outcome(), &Outcome::Exited(3));
}

#[test]
fn a_host_goes_on_with_a_newer_client_and_takes_no_unknown_word_for_a_hang_up() {
    let resume = Frame::Resume(Resume { id: ID, mode: Mode::Take, have: None, turn: 0 });
    let mut host = Host::new(Time::ZERO, start(1), BOUNDS);
    let mut greeting = Greeting::new(Time::ZERO, HOST);
    greeting.receive(Time::ZERO, newer(None, &[resume]));
    assert!(matches!(greeting.poll(Time::ZERO), Next::Event(Asked::Resume(_))));
    let seat = host.join(greeting, Mode::Take, None, false).unwrap();
    let mut bytes = Vec::new();
    for frame in [Frame::Data(Stream::Stdin, 0, Bytes::from_static(b"in")), Frame::Ping(5)] {
        bytes.extend(unknown(77));
        bytes.extend(&bytes_of(&[frame])[..]);
    }
    host.receive(Time::ZERO, seat, BytesMut::from(&bytes[..]));
    assert_eq!(host.poll(Time::ZERO), Next::Event(HostEvent::Stdin(Bytes::from_static(b"in"))));
    // A goodbye of another kind than the two that there are.
    host.receive(Time::ZERO, seat, BytesMut::from(&[2, 10, 7][..]));
    let mut events = Vec::new();
    while let Next::Event(event) = host.poll(Time::ZERO) {
        events.push(event);
    }
    assert!(matches!(events[..], [HostEvent::Left(..)]), "{events:?}");
    let said = frames(host.outbox(seat).unwrap());
    assert!(said.contains(&Frame::Pong(5)) && said.last() == Some(&Frame::Left), "{said:?}");
}
