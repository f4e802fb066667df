//! A WebSocket connection in both roles: against a model, and against bytes that RFC 6455 forbids.

mod tungstenite;

use bowline_proto::Outbox;
use bowline_proto::websocket::{
    Chunk, Closed, Config, Connection, Continuation, Event, Fault, Kind, Role,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

const BOTH: [Role; 2] = [Role::Client, Role::Server];
/// The key of the examples in RFC 6455 §5.7.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// Taken from a first byte: the message goes on.
const FIN: u8 = 0x80;

fn connection(role: Role) -> Connection {
    Connection::new(Config { role, continuation: Continuation::Join }, [7; 32])
}

/// The length of a frame that the peer of `role` writes, with the mask's bit and key.
fn masked(role: Role, first: u8, len: &[u8]) -> Vec<u8> {
    let mut bytes = [&[first], len].concat();
    if role == Role::Server {
        bytes[1] |= 0x80;
        bytes.extend(KEY);
    }
    bytes
}

/// A frame as the peer of `role` writes it.
fn frame(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let len = match payload.len() {
        len @ 0..=125 => vec![len as u8],
        len @ 126..=0xffff => [&[126], &(len as u16).to_be_bytes()[..]].concat(),
        len => [&[127], &(len as u64).to_be_bytes()[..]].concat(),
    };
    let mut bytes = masked(role, first, &len);
    let key = if role == Role::Server { KEY } else { [0; 4] };
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The frames that `role` wrote: first bytes and payloads.
fn unframe(role: Role, mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!(second & 0x80 != 0, role == Role::Client, "a client masks, a server does not");
        let (len, rest) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            len => (usize::from(len), rest),
        };
        let (key, rest) = if role == Role::Client { rest.split_at(4) } else { (&[0; 4][..], rest) };
        let payload = rest[..len].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        frames.push((*first, payload.collect()));
        bytes = &rest[len..];
    }
    assert!(bytes.is_empty(), "half a frame was written");
    frames
}

/// The first `most` bytes that wait, taken off.
fn written(outbox: &mut Outbox, most: usize) -> Vec<u8> {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().take(most).collect();
    outbox.advance(bytes.len());
    bytes
}

/// What an owner sees once chunks are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(Kind, Vec<u8>),
    Pong(Vec<u8>),
    Closed(Closed),
}

#[derive(Debug, Default)]
struct Log {
    seen: Vec<Seen>,
    /// The message that has begun.
    open: Option<(Kind, Vec<u8>)>,
}

impl Log {
    fn drain(&mut self, connection: &mut Connection) {
        while let Some(event) = connection.poll() {
            assert!(!matches!(self.seen.last(), Some(Seen::Closed(_))), "{event:?} after the end");
            match event {
                Event::Chunk(chunk) => self.chunk(chunk),
                Event::Pong(payload) => self.seen.push(Seen::Pong(payload.to_vec())),
                Event::Closed(closed) => self.seen.push(Seen::Closed(closed)),
            }
        }
    }

    fn chunk(&mut self, Chunk { kind, first, last, payload }: Chunk) {
        assert!(!payload.is_empty() || first || last, "a chunk that says nothing");
        assert_eq!(first, self.open.is_none(), "a message has one first chunk");
        let (began, mut whole) = self.open.take().unwrap_or((kind, Vec::new()));
        assert_eq!(began, kind);
        whole.extend_from_slice(&payload);
        if last {
            self.seen.push(Seen::Message(kind, whole));
        } else {
            self.open = Some((kind, whole));
        }
    }
}

fn feed(connection: &mut Connection, bytes: &[u8]) -> Vec<Seen> {
    let mut log = Log::default();
    connection.receive(BytesMut::from(bytes));
    log.drain(connection);
    log.seen
}

/// What `bytes` in pieces of these sizes make of a new connection: its events and its answers.
fn run(config: Config, bytes: &[u8], sizes: &[usize]) -> (Log, Vec<(u8, Vec<u8>)>) {
    let (mut connection, mut log) = (Connection::new(config, [7; 32]), Log::default());
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (piece, later) = rest.split_at((*size).min(rest.len()));
        connection.receive(BytesMut::from(piece));
        log.drain(&mut connection);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    connection.receive_end();
    log.drain(&mut connection);
    let answers = unframe(config.role, &written(connection.outbox(), usize::MAX));
    (log, answers)
}

// ---- any sequence, cut anywhere ----

/// A message, in as many fragments as there are sizes and one more, and control frames: one
/// before each further fragment, the others behind it.
#[derive(Clone, Debug)]
struct Script {
    kind: Kind,
    payload: Vec<u8>,
    fragments: Vec<usize>,
    controls: Vec<(u8, Vec<u8>)>,
}

type Close = Option<(u16, String)>;

impl Script {
    fn pieces(&self) -> Vec<&[u8]> {
        let (mut pieces, mut rest) = (Vec::new(), &self.payload[..]);
        for size in &self.fragments {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = later;
        }
        pieces.push(rest);
        pieces
    }

    fn emit(&self, role: Role, bytes: &mut Vec<u8>) {
        let (pieces, mut controls) = (self.pieces(), self.controls.iter());
        for (index, piece) in pieces.iter().enumerate() {
            let opcode = match self.kind {
                _ if index > 0 => 0,
                Kind::Text => 1,
                Kind::Binary => 2,
            };
            let fin = if index + 1 == pieces.len() { FIN } else { 0 };
            if index > 0 {
                let control = controls.next();
                bytes.extend(
                    control.into_iter().flat_map(|(first, body)| frame(role, *first, body)),
                );
            }
            bytes.extend(frame(role, fin | opcode, piece));
        }
        bytes.extend(controls.flat_map(|(first, body)| frame(role, *first, body)));
    }

    /// What the owner has to see of it.
    fn expected(&self, continuation: Continuation) -> Vec<Seen> {
        let pong = |(first, body): &(u8, Vec<u8>)| {
            Some(Seen::Pong(body.clone())).filter(|_| *first == PONG)
        };
        let (pieces, mut controls) = (self.pieces(), self.controls.iter());
        let mut seen = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                seen.extend(controls.next().and_then(pong));
            }
            if continuation == Continuation::AsMessage {
                seen.push(Seen::Message(self.kind, piece.to_vec()));
            } else if index + 1 == pieces.len() {
                seen.push(Seen::Message(self.kind, self.payload.clone()));
            }
        }
        seen.extend(controls.filter_map(pong));
        seen
    }
}

fn payload() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    let bytes = |size| prop::collection::vec(any::<u8>(), size);
    prop_oneof![
        4 => any::<String>().prop_map(|text| (Kind::Text, text.into_bytes())),
        4 => bytes(0..300).prop_map(|bytes| (Kind::Binary, bytes)),
        // On both sides of the longest length in two bytes.
        1 => bytes(65_530..65_542).prop_map(|bytes| (Kind::Binary, bytes)),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=125)
}

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let controls = prop::collection::vec((prop_oneof![Just(PING), Just(PONG)], body()), 0..4);
    let script = (payload(), prop::collection::vec(0usize..100, 0..4), controls).prop_map(
        |((kind, payload), fragments, controls)| Script { kind, payload, fragments, controls },
    );
    prop::collection::vec(script, 0..6)
}

fn close() -> impl Strategy<Value = Close> {
    let code = prop_oneof![1000u16..=1003, 1007u16..=1013, 3000u16..=4999];
    prop::option::of((code, "\\PC{0,30}"))
}

fn close_body(close: &Close) -> Vec<u8> {
    let with = |(code, reason): &(u16, String)| [&code.to_be_bytes(), reason.as_bytes()].concat();
    close.as_ref().map(with).unwrap_or_default()
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..60, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_split_gives_the_messages_that_were_sent(
        scripts in scripts(),
        end in prop::option::of(close()),
        sizes in cuts(),
        join: bool,
    ) {
        let continuation = if join { Continuation::Join } else { Continuation::AsMessage };
        let mut expected: Vec<Seen> =
            scripts.iter().flat_map(|script| script.expected(continuation)).collect();
        expected.push(Seen::Closed(match &end {
            None => Closed::Cut,
            Some(None) => Closed::CloseFrame { code: None, reason: String::new() },
            Some(Some((code, reason))) => {
                Closed::CloseFrame { code: Some(*code), reason: reason.clone() }
            }
        }));
        let pings = scripts.iter().flat_map(|script| &script.controls);
        let pings = pings.filter(|control| control.0 == PING);
        // Nobody writes here, so only so many wait; see the floods below.
        let mut answers: Vec<_> = pings.take(16).map(|(_, body)| (PONG, body.clone())).collect();
        if let Some(close) = &end {
            // The code goes back, the reason does not (RFC 6455 §5.5.1).
            let echo = close.as_ref().map(|(code, _)| code.to_be_bytes().to_vec());
            answers.push((CLOSE, echo.unwrap_or_default()));
        }
        for role in BOTH {
            let mut bytes = Vec::new();
            scripts.iter().for_each(|script| script.emit(role, &mut bytes));
            if let Some(close) = &end {
                bytes.extend(frame(role, CLOSE, &close_body(close)));
                bytes.extend(frame(role, BINARY, b"after the Close nothing counts"));
            }
            for sizes in [&sizes[..], &[usize::MAX]] {
                let (log, answered) = run(Config { role, continuation }, &bytes, sizes);
                prop_assert_eq!(&log.seen, &expected);
                prop_assert_eq!(&answered, &answers);
            }
        }
    }

    /// Cut at any byte, what was whole is given, and the end is never taken for a close.
    #[test]
    fn a_cut_is_a_cut(scripts in scripts(), cut: prop::sample::Index) {
        for role in BOTH {
            let mut bytes = Vec::new();
            scripts.iter().for_each(|script| script.emit(role, &mut bytes));
            bytes.extend(frame(role, CLOSE, &1000u16.to_be_bytes()));
            let config = Config { role, continuation: Continuation::Join };
            let (whole, _) = run(config, &bytes, &[usize::MAX]);
            let (mut log, _) = run(config, &bytes[..cut.index(bytes.len())], &[usize::MAX]);
            prop_assert_eq!(log.seen.pop(), Some(Seen::Closed(Closed::Cut)));
            prop_assert!(whole.seen.starts_with(&log.seen));
        }
    }

    #[test]
    fn garbage_ends_a_connection_and_nothing_else(
        garbage in prop::collection::vec(
            prop_oneof![
                Just(0u8), Just(TEXT), Just(BINARY), Just(CLOSE), Just(PING), Just(PONG),
                Just(0x80), Just(0x82), any::<u8>(),
            ],
            0..600,
        ),
        sizes in cuts(),
    ) {
        for role in BOTH {
            let config = Config { role, continuation: Continuation::Join };
            let (whole, _) = run(config, &garbage, &[usize::MAX]);
            let (log, answers) = run(config, &garbage, &sizes);
            prop_assert!(matches!(log.seen.last(), Some(Seen::Closed(_))));
            // A part of a text's last frame may be given before its fault is seen; nothing else
            // depends on the cuts.
            prop_assert_eq!(log.seen, whole.seen);
            let answered: usize = answers.iter().map(|(_, body)| 6 + body.len()).sum();
            prop_assert!(answered <= 3 * garbage.len() + 8);
        }
    }
}

// ---- what RFC 6455 forbids ----

/// Input that breaks a rule towards `role`, no longer than it takes to see it.
fn forbidden(role: Role) -> Vec<(&'static str, Vec<u8>, Fault)> {
    let other = if role == Role::Client { Role::Server } else { Role::Client };
    let wrong_mask = if role == Role::Client { Fault::Masked } else { Fault::Unmasked };
    let of = |first: u8, payload: &[u8]| frame(role, first, payload);
    let length = |bytes: &[u8]| [&[BINARY], bytes].concat();
    let unfinished = of(BINARY & !FIN, b"begun");
    let close = |code: u16, reason: &[u8]| of(CLOSE, &[&code.to_be_bytes(), reason].concat());
    let mut rows = vec![
        // RFC 6455 §5.1.
        ("a message with the mask of the other role", frame(other, BINARY, b""), wrong_mask),
        ("a ping with the mask of the other role", frame(other, PING, b""), wrong_mask),
        ("a Close with the mask of the other role", frame(other, CLOSE, b""), wrong_mask),
        // §5.2.
        ("RSV1, as compression sets it", vec![BINARY | 0x40, 0], Fault::ReservedBits),
        ("RSV2", vec![TEXT | 0x20, 0], Fault::ReservedBits),
        ("RSV3", vec![PING | 0x10, 0], Fault::ReservedBits),
        ("all bits", vec![0xff, 0xff], Fault::ReservedBits),
        ("125 in two bytes", length(&[126, 0, 125]), Fault::Length),
        ("0 in two bytes", length(&[126, 0, 0]), Fault::Length),
        ("65,535 in eight", length(&[127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Fault::Length),
        ("2^63", length(&[127, 0x80, 0, 0, 0, 0, 0, 0, 0]), Fault::Length),
        ("2^64 - 1", length(&[127, 255, 255, 255, 255, 255, 255, 255, 255]), Fault::Length),
        // §5.4.
        ("a continuation of nothing", of(FIN, b""), Fault::StrayContinuation),
        ("an unfinished one", of(0, b"x"), Fault::StrayContinuation),
        (
            "a continuation of what has ended",
            [of(BINARY, b"x"), of(FIN, b"y")].concat(),
            Fault::StrayContinuation,
        ),
        (
            "a message in another",
            [unfinished.clone(), of(BINARY, b"x")].concat(),
            Fault::Interleaved,
        ),
        (
            "a text in another message",
            [unfinished.clone(), of(PING, b""), of(TEXT & !FIN, b"x")].concat(),
            Fault::Interleaved,
        ),
        // §5.5.
        ("a fragmented ping", vec![PING & !FIN, 0], Fault::FragmentedControl),
        ("a fragmented pong", vec![PONG & !FIN, 0], Fault::FragmentedControl),
        ("a fragmented Close", vec![CLOSE & !FIN, 0], Fault::FragmentedControl),
        ("a ping of 126 bytes", vec![PING, 126], Fault::LongControl),
        ("a pong of eight bytes' length", vec![PONG, 127], Fault::LongControl),
        ("a Close of 126 bytes", vec![CLOSE, 126], Fault::LongControl),
        // §5.5.1, §7.1.6.
        ("a Close with half a code", of(CLOSE, &[3]), Fault::ShortClose),
        ("a reason in Latin-1", close(1000, b"caf\xe9"), Fault::Utf8),
        ("a reason cut in a character", close(1000, b"caf\xc3"), Fault::Utf8),
        // §8.1. The first is an overlong slash, the second a surrogate, the third is too high.
        ("an overlong form", of(TEXT, b"\xc0\xaf"), Fault::Utf8),
        ("half a surrogate pair", of(TEXT, b"\xed\xa0\x80"), Fault::Utf8),
        ("a character above all", of(TEXT, b"\xf4\x90\x80\x80"), Fault::Utf8),
        ("a text cut in a character", of(TEXT, b"caf\xc3"), Fault::Utf8),
        (
            "a character that is broken off by the next fragment",
            [of(TEXT & !FIN, b"caf\xc3"), of(0, b"x")].concat(),
            Fault::Utf8,
        ),
        (
            "a text that ends with an empty fragment, in a character",
            [of(TEXT & !FIN, b"caf\xc3"), of(FIN, b"")].concat(),
            Fault::Utf8,
        ),
        // §7.4: what is only said of a connection, what is not defined, what is no code.
        ("no code", close(0, b""), Fault::CloseCode(0)),
        ("1005", close(1005, b""), Fault::CloseCode(1005)),
        ("1006", close(1006, b"gone"), Fault::CloseCode(1006)),
        ("1015", close(1015, b""), Fault::CloseCode(1015)),
        ("1016", close(1016, b""), Fault::CloseCode(1016)),
        ("5000", close(5000, b""), Fault::CloseCode(5000)),
    ];
    let reserved = (0x3..=0x7).chain(0xb..=0xf);
    rows.extend(reserved.map(|bits| ("an opcode", vec![FIN | bits, 0], Fault::Opcode(bits))));
    rows
}

#[test]
fn every_forbidden_input_is_a_fault_with_a_close() {
    for role in BOTH {
        for (what, input, fault) in forbidden(role) {
            let code: u16 = if fault == Fault::Utf8 { 1007 } else { 1002 };
            let before = frame(role, BINARY, b"before");
            let bytes = [before, input].concat();
            for size in [usize::MAX, 1] {
                let mut connection = connection(role);
                let mut log = Log::default();
                for piece in bytes.chunks(size.min(bytes.len())) {
                    connection.receive(BytesMut::from(piece));
                    log.drain(&mut connection);
                }
                // Without waiting for more, and without an end of the input.
                let closed = Seen::Closed(Closed::Fault(fault));
                assert_eq!(log.seen.last(), Some(&closed), "{role:?}: {what}");
                assert_eq!(log.seen[0], Seen::Message(Kind::Binary, b"before".into()), "{what}");
                let mut said = unframe(role, &written(connection.outbox(), usize::MAX));
                said.retain(|frame| frame.0 != PONG);
                assert_eq!(said, [(CLOSE, code.to_be_bytes().into())], "{role:?}: {what}");
                assert!(connection.is_closed() && connection.outbox().is_finishing());
                // It is the last word.
                connection.message(Kind::Binary, b"x", Bytes::new());
                connection.ping(b"");
                connection.close(1000, "");
                assert_eq!(feed(&mut connection, &frame(role, PING, b"")), []);
                connection.receive_end();
                assert_eq!(connection.poll(), None);
                assert!(connection.outbox().is_empty(), "{role:?}: {what}");
            }
        }
    }
}

#[test]
fn a_fault_after_our_close_is_told_and_not_answered() {
    for role in BOTH {
        for (what, input, fault) in forbidden(role) {
            let mut connection = connection(role);
            connection.close(1001, "going");
            written(connection.outbox(), usize::MAX);
            let seen = feed(&mut connection, &input);
            assert_eq!(seen.last(), Some(&Seen::Closed(Closed::Fault(fault))), "{what}");
            assert!(connection.outbox().is_empty(), "{what}");
        }
    }
}

/// RFC 6455 §7.4 and the codes that were registered later (1012 to 1014).
#[test]
fn the_codes_that_may_be_sent_are_taken_and_no_others() {
    for code in 0..=u16::MAX {
        let mut connection = connection(Role::Client);
        let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let closed =
            match feed(&mut connection, &frame(Role::Client, CLOSE, &code.to_be_bytes())).pop() {
                Some(Seen::Closed(closed)) => closed,
                other => panic!("{code}: {other:?}"),
            };
        let close = Closed::CloseFrame { code: Some(code), reason: String::new() };
        assert_eq!(closed == close, allowed, "{code}");
        assert_eq!(closed == Closed::Fault(Fault::CloseCode(code)), !allowed, "{code}");
    }
}

// ---- what is written ----

#[test]
fn the_bytes_on_the_wire_are_those_of_the_documents() {
    // docs/protocols/websocket.md, 2.4 and 2.9; docs/protocols/remote-command.md, 2.5 and 2.8.
    let mut server = connection(Role::Server);
    server.message(Kind::Binary, &[1], Bytes::new());
    server.message(Kind::Binary, &[1], Bytes::from_static(b"hi\n"));
    server.message(Kind::Text, b"1", Bytes::from_static(b"aGkK"));
    server.close(1000, "");
    let expected = b"\x82\x01\x01\x82\x04\x01hi\n\x81\x051aGkK\x88\x02\x03\xe8";
    assert_eq!(written(server.outbox(), usize::MAX), expected);

    // A client's mask is new for every frame (RFC 6455 §5.3).
    let mut client = connection(Role::Client);
    for _ in 0..100 {
        client.message(Kind::Binary, &[0xff], Bytes::from_static(&[0]));
    }
    let bytes = written(client.outbox(), usize::MAX);
    let mut keys: Vec<&[u8]> = bytes.chunks(8).map(|frame| &frame[2..6]).collect();
    keys.sort_unstable();
    keys.dedup();
    assert!(keys.len() > 98);
    assert!(unframe(Role::Client, &bytes).iter().all(|frame| frame == &(BINARY, vec![0xff, 0])));
}

#[test]
fn control_frames_stay_within_their_limit() {
    for role in BOTH {
        let mut connection = connection(role);
        connection.ping(&[b'x'; 300]);
        connection.close(4000, &"y".repeat(124));
        let said = unframe(role, &written(connection.outbox(), usize::MAX));
        let code = 4000_u16.to_be_bytes().to_vec();
        assert_eq!(said, [(PING, vec![b'x'; 125]), (CLOSE, code.clone())]);

        let mut connection = self::connection(role);
        connection.close(4000, &"y".repeat(123));
        let said = unframe(role, &written(connection.outbox(), usize::MAX));
        assert_eq!(said, [(CLOSE, [&code[..], &[b'y'; 123]].concat())]);
    }
}

// ---- what hostile sizes cost ----

/// RFC 6455 allows frames of 2^63 bytes. One that is declared costs nothing, one that comes costs
/// the buffer that it is read into, and never a copy.
#[test]
fn a_frame_of_four_gib_passes_through_two_buffers() {
    const PIECE: usize = 1024 * 1024;
    let len: u64 = 4 * 1024 * 1024 * 1024 + 3;
    for role in BOTH {
        let mut connection = connection(role);
        let declared = [&[127], &len.to_be_bytes()[..]].concat();
        assert_eq!(feed(&mut connection, &masked(role, BINARY, &declared)), []);
        let (mut left, mut spare) = (len, BytesMut::zeroed(PIECE));
        let mut previous = Bytes::from(vec![0; PIECE]);
        while left > 0 {
            let here = left.min(PIECE as u64) as usize;
            spare.truncate(here);
            let start = spare.as_ptr();
            connection.receive(spare);
            let Some(Event::Chunk(chunk)) = connection.poll() else { panic!("nothing at {left}") };
            assert_eq!((chunk.payload.as_ptr(), chunk.payload.len()), (start, here));
            let (first, last) = (left == len, left == here as u64);
            assert_eq!((chunk.kind, chunk.first, chunk.last), (Kind::Binary, first, last));
            assert_eq!(connection.poll(), None);
            // Of what came before, nothing is held.
            spare = previous.try_into_mut().expect("it is ours alone");
            (previous, left) = (chunk.payload, left - here as u64);
        }
        let seen = feed(&mut connection, &frame(role, TEXT, b"next"));
        assert_eq!(seen, [Seen::Message(Kind::Text, b"next".into())]);
        assert!(connection.outbox().is_empty());
    }
}

#[test]
fn a_peer_that_asks_and_does_not_read_fills_no_memory() {
    for role in BOTH {
        let mut connection = connection(role);
        let ping =
            |number: u32| frame(role, PING, &[&number.to_be_bytes()[..], &[9; 121]].concat());
        for round in 0..10 {
            let flood: Vec<u8> = (0..5000).flat_map(|n| ping(round * 5000 + n)).collect();
            assert_eq!(feed(&mut connection, &flood), []);
            assert!(connection.outbox().len() <= 16 * (6 + 125), "round {round}");
        }
        let first = unframe(role, &written(connection.outbox(), usize::MAX));
        let numbers: Vec<u32> = first
            .iter()
            .map(|(first, body)| {
                assert_eq!((*first, body.len()), (PONG, 125));
                u32::from_be_bytes(body[..4].try_into().unwrap())
            })
            .collect();
        assert_eq!(numbers, (0..16).collect::<Vec<u32>>(), "pongs come in the order of pings");
        // The latest question is answered as soon as there is room (RFC 6455 §5.5.3).
        assert_eq!(connection.poll(), None);
        let last = unframe(role, &written(connection.outbox(), usize::MAX));
        assert_eq!(last.len(), 1);
        assert_eq!(last[0].1[..4], 49_999_u32.to_be_bytes());
    }
}

#[test]
fn tiny_frames_are_given_one_by_one_and_ask_for_nothing() {
    const MANY: usize = 200_000;
    for role in BOTH {
        let mut connection = connection(role);
        let empty = frame(role, BINARY, b"").repeat(MANY);
        assert_eq!(feed(&mut connection, &empty).len(), MANY);
        // Empty fragments say nothing at all.
        feed(&mut connection, &frame(role, TEXT & !FIN, b"a"));
        assert_eq!(feed(&mut connection, &frame(role, 0, b"").repeat(MANY)), []);
        let pongs = frame(role, PONG, b"nobody asked").repeat(1000);
        assert_eq!(feed(&mut connection, &pongs).len(), 1000);
        assert!(connection.outbox().is_empty());
    }
}

/// Trap T39 in docs/protocols/traps.md: client-go hears nothing but pongs, and gives up a server
/// whose pongs wait behind its output.
#[test]
fn a_ping_is_answered_before_output_that_waits() {
    for role in BOTH {
        for taken in [0, 1, 5, 1_000_000] {
            let mut connection = connection(role);
            let output = |byte: u8| Bytes::from(vec![byte; 4 * 1024 * 1024]);
            for byte in 0..3 {
                connection.message(Kind::Binary, &[1], output(byte));
            }
            let mut bytes = written(connection.outbox(), taken);
            let pings = [frame(role, PING, b"one"), frame(role, PING, b"two")].concat();
            assert_eq!(feed(&mut connection, &pings), []);
            connection.ping(b"ours");
            bytes.extend(written(connection.outbox(), usize::MAX));
            let said = unframe(role, &bytes);
            let kinds: Vec<u8> = said.iter().map(|frame| frame.0).collect();
            let started = usize::from(taken > 0);
            let mut expected = vec![BINARY; 3];
            expected.splice(started..started, [PONG, PONG, PING]);
            assert_eq!(kinds, expected, "{role:?} after {taken}");
            let urgent: Vec<&[u8]> = said[started..][..3].iter().map(|f| &f.1[..]).collect();
            assert_eq!(urgent, [&b"one"[..], b"two", b"ours"]);
        }
    }
}
