//! A client, the face and a runtime that do anything in any order, from a seed: bytes are cut
//! anywhere, stall and end. Client and runtime are plain models that keep to HTTP/2 and count their
//! windows.

use std::collections::BTreeMap;

use bowline_proto::cri::Face;
use bowline_proto::{Intermediary, Leg, Next, Time};
use bytes::BytesMut;

use super::wire::*;
use crate::wire::taken;

const WINDOW: i64 = 65_535;

/// Numbers from a seed; xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pieces(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut pieces = vec![];
        while !rest.is_empty() {
            let size = if self.one_in(2) { rest.len() } else { 1 + self.below(rest.len()) };
            pieces.push(rest[..size].to_vec());
            rest = &rest[size..];
        }
        pieces
    }
}

/// Takes whole frames out of bytes: kind, flags, stream, payload.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Frames {
    fn take(&mut self, bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        self.0.extend(bytes);
        let mut frames = vec![];
        while self.0.len() >= 9 {
            let length = u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]]) as usize;
            if self.0.len() < 9 + length {
                break;
            }
            let rest = self.0.split_off(9 + length);
            let frame = std::mem::replace(&mut self.0, rest);
            let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
            frames.push((frame[3], frame[4], stream, frame[9..].to_vec()));
        }
        frames
    }
}

fn content(flags: u8, payload: &[u8]) -> &[u8] {
    if flags & PADDED == 0 { payload } else { &payload[1..payload.len() - usize::from(payload[0])] }
}

/// What a call is, as both ends know it.
struct Call {
    path: &'static str,
    /// What the runtime answers, if it has begun to.
    answer: Option<Vec<u8>>,
    /// How much of the windows its message takes.
    flow: usize,
    /// Frames of the answer that have yet to be written.
    frames: Vec<Vec<u8>>,
    /// The client's view: what it still takes, what it got, and what it may grant again.
    window: i64,
    got: Vec<u8>,
    taken: u32,
    ended: bool,
    reset: bool,
    /// The runtime's view: what it may send, and what it got.
    may_send: i64,
    request: Vec<u8>,
    asked: bool,
    /// Request bytes that have yet to be written.
    asks: Vec<Vec<u8>>,
}

struct World<'a> {
    random: Random,
    extra: usize,
    face: Face<&'a mut Louder>,
    calls: BTreeMap<u32, Call>,
    /// What is on its way to the face.
    from_client: Vec<u8>,
    from_runtime: Vec<u8>,
    at_client: Frames,
    at_runtime: Frames,
    preface: usize,
    initial: i64,
    /// The connection's window as the client counts, and as the runtime does.
    window: i64,
    may_send: i64,
    taken: u32,
    /// What was said besides calls, in order.
    others: [Vec<Vec<u8>>; 2],
    came: [Vec<Vec<u8>>; 2],
    now: Time,
}

impl<'a> World<'a> {
    fn new(seed: u64, louder: &'a mut Louder) -> World<'a> {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let extra = [0, 0, 1, 30, 300, 40_000][random.below(6)];
        louder.extra = extra;
        let initial = [WINDOW, WINDOW, 300, 100][random.below(4)];
        let settings = [&[0, 4], &(initial as u32).to_be_bytes()[..]].concat();
        World {
            random,
            extra,
            face: Face::new(louder),
            calls: BTreeMap::new(),
            from_client: [PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat(),
            from_runtime: frame(SETTINGS, 0, 0, &[]),
            at_client: Frames::default(),
            at_runtime: Frames::default(),
            preface: 0,
            initial,
            window: WINDOW,
            may_send: WINDOW,
            taken: 0,
            others: Default::default(),
            came: Default::default(),
            now: Time::ZERO,
        }
    }

    fn a_call(&mut self) -> Option<u32> {
        let index = self.random.below(self.calls.len());
        self.calls.keys().nth(index).copied()
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0 if self.calls.len() < 12 => self.client_calls(),
            1 | 2 => self.client_asks(),
            3 => self.client_grants(false),
            4 if self.random.one_in(4) => self.client_resets(),
            5 => self.runtime_answers(),
            6 | 7 => self.runtime_writes(),
            8 if self.random.one_in(3) => {
                let kind = [PING, 0xbe][self.random.below(2)];
                let size = self.random.below(600);
                let other = frame(kind, 0xff, 0, &vec![7; size]);
                let leg = self.random.below(2);
                self.others[leg].push(other.clone());
                [&mut self.from_client, &mut self.from_runtime][leg].extend(other);
            }
            _ => self.bytes_move(),
        }
    }

    fn client_calls(&mut self) {
        let stream = self.calls.len() as u32 * 2 + 1;
        let path = [EXEC, EXEC, EXEC, ATTACH, LIST][self.random.below(5)];
        let mut asks = vec![];
        let message = request(&format!("id-{stream}"));
        for piece in self.random.pieces(&message) {
            let padding = self.random.below(256) as u8;
            let is_padded = self.random.one_in(3);
            asks.push(if is_padded {
                padded(0, stream, &piece, padding)
            } else {
                frame(DATA, 0, stream, &piece)
            });
        }
        if let Some(last) = asks.last_mut() {
            last[4] |= END_STREAM;
        }
        let call = Call {
            path,
            answer: None,
            flow: 0,
            frames: vec![],
            window: self.initial,
            got: vec![],
            taken: 0,
            ended: false,
            reset: false,
            may_send: self.initial,
            request: vec![],
            asked: false,
            asks,
        };
        self.calls.insert(stream, call);
        let block = block(path);
        let (first, second) = block.split_at(self.random.below(block.len()));
        self.from_client.extend(frame(HEADERS, 0, stream, first));
        self.from_client.extend(frame(CONTINUATION, END_HEADERS, stream, second));
    }

    fn client_asks(&mut self) {
        let Some(call) = self.a_call().and_then(|stream| self.calls.get_mut(&stream)) else {
            return;
        };
        if !call.asks.is_empty() && !call.reset {
            self.from_client.extend(call.asks.remove(0));
        }
    }

    fn client_grants(&mut self, all: bool) {
        for (stream, call) in &mut self.calls {
            if call.taken > 0 && !call.ended && (all || self.random.one_in(2)) {
                call.window += i64::from(call.taken);
                self.from_client.extend(update(*stream, std::mem::take(&mut call.taken)));
            }
        }
        if self.taken > 0 && (all || self.random.one_in(2)) {
            let part =
                if all { self.taken } else { 1 + self.random.below(self.taken as usize) as u32 };
            self.taken -= part;
            self.window += i64::from(part);
            self.from_client.extend(update(0, part));
        }
    }

    fn client_resets(&mut self) {
        let Some(stream) = self.a_call() else { return };
        if let Some(call) = self.calls.get_mut(&stream).filter(|call| !call.ended && !call.reset) {
            call.reset = true;
            self.from_client.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
    }

    /// A runtime answers what was asked for in full.
    fn runtime_answers(&mut self) {
        let Some(stream) = self.a_call() else { return };
        let call = self.calls.get_mut(&stream).filter(|call| call.asked && call.answer.is_none());
        let Some(call) = call else { return };
        let answer = match self.random.below(8) {
            _ if call.path == LIST => message(&vec![0x0a; self.random.below(50_000)]),
            0 => vec![],
            1 => [&[1], &answer(URL)[1..]].concat(),
            2 => answer(URL)[..17].to_vec(),
            _ => answer(URL),
        };
        let mut sent = vec![];
        call.frames.push(frame(HEADERS, END_HEADERS, stream, &[0x88]));
        for mut piece in self.random.pieces(&answer) {
            piece.truncate(16_384.min(self.initial as usize));
            let padding = self.random.below(256);
            let fits = piece.len() + 1 + padding <= self.initial as usize;
            let data = if fits && self.random.one_in(4) {
                padded(0, stream, &piece, padding as u8)
            } else {
                frame(DATA, 0, stream, &piece)
            };
            call.flow += data.len() - 9;
            call.frames.push(data);
            sent.extend(piece);
        }
        call.answer = Some(sent);
        match self.random.below(3) {
            0 => call.frames.push(frame(RST_STREAM, 0, stream, &[0; 4])),
            1 => call.frames.push(frame(DATA, END_STREAM, stream, &[])),
            _ => call.frames.push(frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])),
        }
    }

    fn runtime_writes(&mut self) {
        let Some(call) = self.a_call().and_then(|stream| self.calls.get_mut(&stream)) else {
            return;
        };
        let Some(next) = call.frames.first() else { return };
        if next[3] == DATA {
            let length = next.len() as i64 - 9;
            if length > self.may_send || length > call.may_send {
                return;
            }
            self.may_send -= length;
            call.may_send -= length;
        }
        self.from_runtime.extend(call.frames.remove(0));
    }

    /// Some bytes arrive somewhere.
    fn bytes_move(&mut self) {
        let size = [1, 10, 100, 2000, 100_000][self.random.below(5)];
        match self.random.below(4) {
            0 if self.face.wants_read(Leg::Near) => {
                let rest = self.from_client.split_off(size.min(self.from_client.len()));
                let piece = std::mem::replace(&mut self.from_client, rest);
                if !piece.is_empty() {
                    self.face.receive(self.now, Leg::Near, BytesMut::from(&piece[..]));
                }
            }
            1 if self.face.wants_read(Leg::Far) => {
                let rest = self.from_runtime.split_off(size.min(self.from_runtime.len()));
                let piece = std::mem::replace(&mut self.from_runtime, rest);
                if !piece.is_empty() {
                    self.face.receive(self.now, Leg::Far, BytesMut::from(&piece[..]));
                }
            }
            2 => self.client_reads(size),
            3 => self.runtime_reads(size),
            _ => {}
        }
    }

    fn client_reads(&mut self, size: usize) {
        let bytes = taken(self.face.outbox(Leg::Near), size);
        for (kind, flags, stream, payload) in self.at_client.take(&bytes) {
            if !matches!(kind, DATA | HEADERS | RST_STREAM) {
                if kind != SETTINGS {
                    self.came[1].push(frame(kind, flags, stream, &payload));
                }
                continue;
            }
            let call = self.calls.get_mut(&stream).unwrap();
            assert!(!call.ended, "nothing follows the end of a stream");
            if kind == DATA {
                let length = payload.len() as i64;
                self.window -= length;
                self.taken += length as u32;
                assert!(self.window >= 0, "more than the connection takes");
                call.window -= length;
                call.taken += length as u32;
                assert!(call.window >= 0 || call.reset, "more than the stream takes");
                call.got.extend(content(flags, &payload));
            }
            call.ended = kind == RST_STREAM || flags & END_STREAM != 0;
        }
    }

    fn runtime_reads(&mut self, size: usize) {
        let bytes = taken(self.face.outbox(Leg::Far), size);
        let preface = bytes.len().min(PREFACE.len() - self.preface);
        assert_eq!(bytes[..preface], PREFACE[self.preface..self.preface + preface]);
        self.preface += preface;
        for (kind, flags, stream, payload) in self.at_runtime.take(&bytes[preface..]) {
            let call = self.calls.get_mut(&stream);
            match (kind, call) {
                (WINDOW_UPDATE, call) => {
                    let increment = u32::from_be_bytes(payload.try_into().unwrap());
                    assert!(increment > 0);
                    match call {
                        Some(call) => call.may_send += i64::from(increment),
                        None => self.may_send += i64::from(increment),
                    }
                }
                (DATA, Some(call)) => {
                    call.request.extend(content(flags, &payload));
                    call.asked = flags & END_STREAM != 0;
                }
                (RST_STREAM, Some(call)) => call.frames.clear(),
                (_, Some(_)) | (SETTINGS, _) => {}
                _ => self.came[0].push(frame(kind, flags, stream, &payload)),
            }
        }
    }

    /// Until nothing moves any more, with a client that takes all.
    fn settle(&mut self) {
        for round in 0..20_000 {
            self.step();
            self.client_grants(true);
            if round > 2000 && self.is_settled() {
                return;
            }
        }
        assert!(self.is_settled(), "something waits for ever");
    }

    fn is_settled(&mut self) -> bool {
        let open = self.calls.values().any(|call| {
            let is_asked = call.reset || call.asks.is_empty();
            let is_answered = call.reset || call.answer.is_some() && call.frames.is_empty();
            !is_asked || !is_answered
        });
        !open
            && self.from_client.is_empty()
            && self.from_runtime.is_empty()
            && [Leg::Near, Leg::Far].iter().all(|leg| self.face.outbox(*leg).is_empty())
    }

    /// What each end has to have, once all has moved.
    fn check(mut self) {
        assert!(self.others == self.came, "what passes stays as it is");
        assert!(self.face.wants_read(Leg::Near) && self.face.wants_read(Leg::Far));
        assert_eq!((self.window, self.may_send), (WINDOW, WINDOW), "both count the same");
        for (stream, call) in self.calls.iter().filter(|(_, call)| !call.reset) {
            assert_eq!(call.request, request(&format!("id-{stream}")), "{stream}");
            assert_eq!(call.got, self.expected(call), "{stream}");
        }
    }

    /// What a client gets that stays to the end.
    fn expected(&self, call: &Call) -> Vec<u8> {
        let sent = call.answer.clone().unwrap_or_default();
        let loud = answer(&louder(URL, self.extra));
        let flow = call.flow + loud.len() - answer(URL).len();
        let fits = self.extra == 0 || flow <= self.initial as usize;
        if sent == answer(URL) && call.path != LIST && fits { loud } else { sent }
    }

    /// One side ends: so does the other, in time, with no more than what was said.
    fn end(mut self) {
        let leg = [Leg::Near, Leg::Far][self.random.below(2)];
        self.face.receive_end(self.now, leg, self.random.one_in(2));
        let mut has_ended = [leg == Leg::Near, leg == Leg::Far];
        let mut endings = vec![];
        for _ in 0..1000 {
            match self.face.poll(self.now) {
                Next::Event(ending) => endings.push(ending),
                Next::Idle(until) if self.random.one_in(8) => self.now = until.unwrap(),
                Next::Idle(_) => {
                    self.client_reads(100_000);
                    self.runtime_reads(100_000);
                    for (leg, has_ended) in [Leg::Near, Leg::Far].into_iter().zip(&mut has_ended) {
                        let outbox = self.face.outbox(leg);
                        if outbox.is_finishing() && outbox.is_empty() && !*has_ended {
                            *has_ended = true;
                            self.face.receive_end(self.now, leg, false);
                        }
                    }
                }
                Next::Done => {
                    assert_eq!(endings, [leg]);
                    for call in self.calls.values() {
                        let sent = call.answer.clone().unwrap_or_default();
                        let expected = self.expected(call);
                        assert!(sent.starts_with(&call.got) || expected.starts_with(&call.got));
                    }
                    return;
                }
            }
        }
        panic!("it does not end: {has_ended:?}");
    }
}

fn play(seed: u64) {
    let mut louder = Louder::default();
    let mut world = World::new(seed, &mut louder);
    for _ in 0..world.random.below(3000) {
        world.step();
        if world.random.one_in(1500) {
            return world.end();
        }
    }
    world.settle();
    world.check();
}

#[test]
fn whatever_happens_in_whatever_order_each_end_gets_what_the_other_one_said() {
    for seed in 0..400 {
        let played = std::panic::catch_unwind(|| play(seed));
        assert!(played.is_ok(), "seed {seed}");
    }
}
