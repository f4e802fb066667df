//! The same bytes through `tungstenite`: what one writes the other has to read, and what one
//! refuses the other has to refuse.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use bowline_proto::websocket::{Closed, Connection, Kind, Role};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role as TheirRole, WebSocket};
use tungstenite::{Error, Message};

use super::{
    BOTH, CLOSE, Close, FIN, KEY, Log, PING, PONG, Seen, TEXT, body, close, connection, cuts,
    frame, payload, written,
};

/// A socket in memory.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.incoming.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One of ours and one of theirs, and what each has heard.
struct Pair {
    ours: Connection,
    we_saw: Log,
    theirs: WebSocket<Wire>,
    they_saw: Vec<Message>,
    /// They refused what we wrote.
    refused: bool,
    sizes: Vec<usize>,
}

impl Pair {
    fn new(role: Role, sizes: &[usize]) -> Pair {
        let their_role = match role {
            Role::Client => TheirRole::Server,
            Role::Server => TheirRole::Client,
        };
        Pair {
            ours: connection(role),
            we_saw: Log::default(),
            theirs: WebSocket::from_raw_socket(Wire::default(), their_role, None),
            they_saw: Vec::new(),
            refused: false,
            sizes: sizes.to_vec(),
        }
    }

    /// Until no bytes move, in pieces.
    fn settle(&mut self) {
        for size in self.sizes.clone().into_iter().cycle() {
            let up = written(self.ours.outbox(), size);
            self.theirs.get_mut().incoming.extend(&up);
            self.they_read();
            let waiting = &mut self.theirs.get_mut().outgoing;
            let down: Vec<u8> = waiting.drain(..size.min(waiting.len())).collect();
            self.ours.receive(BytesMut::from(&down[..]));
            self.we_saw.drain(&mut self.ours);
            if up.is_empty() && down.is_empty() {
                break;
            }
        }
    }

    fn they_read(&mut self) {
        while !self.refused {
            match self.theirs.read() {
                Ok(message) => self.they_saw.push(message),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => break,
                Err(_) => self.refused = true,
            }
        }
    }

    fn we_say(&mut self, (kind, payload): &(Kind, Vec<u8>), head: usize) {
        let (head, rest) = payload.split_at(head.min(payload.len()));
        self.ours.message(*kind, head, Bytes::copy_from_slice(rest));
    }

    /// A message in fragments of these sizes and one more, with pings between them.
    fn they_say(&mut self, (kind, payload): &(Kind, Vec<u8>), fragments: &[(usize, Vec<u8>)]) {
        let mut opcode = match kind {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        };
        let mut rest = &payload[..];
        for (size, ping) in fragments {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            let piece = Frame::message(piece.to_vec(), OpCode::Data(opcode), false);
            self.theirs.write(Message::Frame(piece)).expect("room");
            self.theirs.write(Message::Ping(ping.clone().into())).expect("room");
            (opcode, rest) = (Data::Continue, later);
        }
        let last = Frame::message(rest.to_vec(), OpCode::Data(opcode), true);
        self.theirs.send(Message::Frame(last)).expect("room");
    }
}

fn message((kind, payload): &(Kind, Vec<u8>)) -> Message {
    match kind {
        Kind::Text => Message::text(String::from_utf8(payload.clone()).expect("it is text")),
        Kind::Binary => Message::binary(payload.clone()),
    }
}

fn their_goodbye(close: &Close) -> Option<CloseFrame> {
    close.as_ref().map(|(code, reason)| CloseFrame {
        code: CloseCode::from(*code),
        reason: reason.as_str().into(),
    })
}

fn our_goodbye(close: &Close) -> Seen {
    let (code, reason) =
        close.clone().map_or((None, String::new()), |(code, reason)| (Some(code), reason));
    Seen::Closed(Closed::CloseFrame { code, reason })
}

/// A frame that may break any rule but that of the shortest length, which tungstenite does not
/// keep: its first byte, whether its mask is right, and its payload.
type Hostile = (u8, bool, Vec<u8>);

fn hostile() -> impl Strategy<Value = Hostile> {
    let first = prop_oneof![
        8 => prop_oneof![Just(TEXT), Just(TEXT & !FIN), Just(FIN), Just(0), Just(2), Just(PING)],
        2 => prop_oneof![Just(CLOSE), Just(PONG)],
        1 => any::<u8>(),
    ];
    let code = prop_oneof![990u16..1020, 2990u16..3010, 4990u16..5010, any::<u16>()]
        // Registered after tungstenite's table was made.
        .prop_filter("tungstenite does not know it", |code| *code != 1014);
    let reasons: Vec<&[u8]> = vec![b"", b"why", b"\xff"];
    let close = (code, prop::sample::select(reasons))
        .prop_map(|(code, reason)| [&code.to_be_bytes(), reason].concat());
    let text: Vec<&[u8]> = vec![b"caf\xc3\xa9", b"caf\xc3", b"\xa9", b"\xed\xa0"];
    let payload = prop_oneof![
        4 => prop::sample::select(text).prop_map(<[u8]>::to_vec),
        4 => close,
        2 => prop::collection::vec(any::<u8>(), 0..3),
        1 => prop::collection::vec(Just(b'x'), 120..130),
    ];
    (first, prop::bool::weighted(0.97), payload)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    Close,
    Refused,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn tungstenite_reads_what_we_write(
        words in prop::collection::vec((payload(), 0usize..20, prop::option::of(body())), 0..8),
        close in close(),
        sizes in cuts(),
        // Whether each word finds the wire idle, or the one before it still in the way.
        idle in prop::collection::vec(any::<bool>(), 1..5),
    ) {
        // A Close of ours has a code.
        let end = close.or(Some((1000, String::new())));
        let (code, reason) = end.clone().expect("it was put there");
        for role in BOTH {
            let sizes: Vec<usize> = sizes.iter().map(|size| size * 100).collect();
            let mut pair = Pair::new(role, &sizes);
            for ((word, head, ping), idle) in words.iter().zip(idle.iter().cycle()) {
                pair.we_say(word, *head);
                if let Some(body) = ping {
                    pair.ours.ping(body);
                }
                if *idle {
                    pair.settle();
                }
            }
            pair.ours.close(code, &reason);
            pair.settle();
            prop_assert!(!pair.refused);
            let (pings, said): (Vec<_>, Vec<_>) =
                pair.they_saw.into_iter().partition(Message::is_ping);
            let mut expected: Vec<Message> = words.iter().map(|word| message(&word.0)).collect();
            expected.push(Message::Close(their_goodbye(&end)));
            prop_assert_eq!(said, expected);
            // Pings overtake messages, and never each other.
            let asked: Vec<Vec<u8>> = words.iter().filter_map(|word| word.2.clone()).collect();
            let heard: Vec<Vec<u8>> =
                pings.into_iter().map(|ping| ping.into_data().to_vec()).collect();
            prop_assert_eq!(heard, &asked[..]);
            let mut seen: Vec<Seen> = asked.into_iter().map(Seen::Pong).collect();
            seen.push(our_goodbye(&end));
            prop_assert_eq!(pair.we_saw.seen, seen);
        }
    }

    #[test]
    fn we_read_what_tungstenite_writes(
        words in prop::collection::vec(
            (payload(), prop::collection::vec((0usize..100, body()), 0..4)),
            0..8,
        ),
        close in close(),
        sizes in cuts(),
    ) {
        for role in BOTH {
            let sizes: Vec<usize> = sizes.iter().map(|size| size * 100).collect();
            let mut pair = Pair::new(role, &sizes);
            for (word, fragments) in &words {
                pair.they_say(word, fragments);
                pair.settle();
            }
            pair.theirs.close(their_goodbye(&close)).expect("room");
            pair.settle();
            prop_assert!(!pair.refused);
            let mut expected: Vec<Seen> = words
                .iter()
                .map(|((kind, payload), _)| Seen::Message(*kind, payload.clone()))
                .collect();
            expected.push(our_goodbye(&close));
            prop_assert_eq!(pair.we_saw.seen, expected);
            let pings = words.iter().flat_map(|(_, fragments)| fragments);
            let mut answers: Vec<Message> =
                pings.map(|(_, ping)| Message::Pong(ping.clone().into())).collect();
            // Our answer has their code and no reason.
            let echo = close.as_ref().map(|(code, _)| (*code, String::new()));
            answers.push(Message::Close(their_goodbye(&echo)));
            prop_assert_eq!(pair.they_saw, answers);
        }
    }

    #[test]
    fn tungstenite_refuses_what_we_refuse(frames in prop::collection::vec(hostile(), 1..8)) {
        for role in BOTH {
            // Theirs takes our part here.
            let their_role =
                if role == Role::Client { TheirRole::Client } else { TheirRole::Server };
            let mut pair = Pair::new(role, &[usize::MAX]);
            pair.theirs = WebSocket::from_raw_socket(Wire::default(), their_role, None);
            for (first, right_mask, payload) in &frames {
                let other = if role == Role::Client { Role::Server } else { Role::Client };
                let bytes = frame(if *right_mask { role } else { other }, *first, payload);
                pair.theirs.get_mut().incoming.extend(&bytes);
                pair.they_read();
                pair.ours.receive(BytesMut::from(&bytes[..]));
                pair.we_saw.drain(&mut pair.ours);
                let ours = match pair.we_saw.seen.last() {
                    Some(Seen::Closed(Closed::Fault(_))) => Verdict::Refused,
                    Some(Seen::Closed(_)) => Verdict::Close,
                    _ => Verdict::Open,
                };
                let theirs = match pair.they_saw.last() {
                    _ if pair.refused => Verdict::Refused,
                    // Their word for a code that may not be sent.
                    Some(Message::Close(Some(CloseFrame { code: CloseCode::Protocol, reason })))
                        if reason.as_str() == "Protocol violation" =>
                    {
                        Verdict::Refused
                    }
                    Some(Message::Close(_)) => Verdict::Close,
                    _ => Verdict::Open,
                };
                prop_assert_eq!(&ours, &theirs, "{:?}: {:x?} masked with {:x?}", role, bytes, KEY);
                if ours != Verdict::Open {
                    break;
                }
            }
            let said: Vec<Message> = pair
                .we_saw
                .seen
                .iter()
                .filter_map(|seen| match seen {
                    Seen::Message(kind, payload) => Some(message(&(*kind, payload.clone()))),
                    Seen::Pong(payload) => Some(Message::Pong(payload.clone().into())),
                    Seen::Closed(_) => None,
                })
                .collect();
            pair.they_saw.retain(|message| !message.is_ping() && !message.is_close());
            prop_assert_eq!(pair.they_saw, said);
        }
    }
}
