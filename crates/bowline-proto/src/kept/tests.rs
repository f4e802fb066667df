//! A client and a host over connections that are cut anywhere, against plain bytes.

use std::boxed::Box;
use std::collections::VecDeque;
use std::format;
use std::string::String;
use std::vec::Vec;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::limits::{KEPT_INPUT_BYTES, KEPT_LONGEST, MESSAGE_BYTES};
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Outcome, Size, Status, Wants};
use crate::time::Time;

mod late;
mod terminal;
mod wire;

const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const BOUNDS: Bounds = Bounds { replay_bytes: 50_000, longest: KEPT_LONGEST };

fn start(id: u8) -> Start {
    let command = Vec::from([String::from("job")]);
    let (instance, env) = (Instance([0; 16]), Vec::new());
    Start { id: Id([id; 16]), instance, wants: WANTS, keep_for: 600, size: None, command, env }
}

fn take(outbox: &mut Outbox, limit: usize) -> Vec<u8> {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().take(limit).collect();
    outbox.advance(bytes.len());
    bytes
}

/// Who has the connection at the host.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Seated {
    Greeting(Greeting),
    Seat(u32),
}

/// The whole of it: both ends, at most one connection, a process, and a user.
struct World {
    now: Time,
    chance: ChaCha8Rng,
    client: Client,
    host: Option<Host>,
    connection: Option<Seated>,
    starts: u32,
    /// What the user has to type, and what the process got.
    typed: VecDeque<u8>,
    typed_all: bool,
    waiting_stdin: VecDeque<u8>,
    got_stdin: Vec<u8>,
    stdin_ended: bool,
    /// What the process has to write, and what the user got.
    writes: [VecDeque<u8>; 2],
    waiting: [usize; 2],
    got: [Vec<u8>; 2],
    end: Option<ClientEvent>,
}

impl World {
    fn new(seed: u64, typed: &[u8], writes: [&[u8]; 2]) -> World {
        let retry = Retry { give_up_after: core::time::Duration::from_secs(600), seed: [7; 32] };
        World {
            now: Time::ZERO,
            chance: ChaCha8Rng::seed_from_u64(seed),
            client: Client::start(Time::ZERO, start(1), retry),
            host: None,
            connection: None,
            starts: 0,
            typed: typed.iter().copied().collect(),
            typed_all: false,
            waiting_stdin: VecDeque::new(),
            got_stdin: Vec::new(),
            stdin_ended: false,
            writes: writes.map(|bytes| bytes.iter().copied().collect()),
            waiting: [0; 2],
            got: [Vec::new(), Vec::new()],
            end: None,
        }
    }

    fn up_to(&mut self, most: usize) -> usize {
        self.chance.next_u32() as usize % (most + 1)
    }

    /// Polls the client until it is idle; its next deadline.
    fn poll_client(&mut self) -> Option<Time> {
        loop {
            match self.client.poll(self.now) {
                Next::Idle(deadline) => return deadline,
                Next::Done => return None,
                Next::Event(ClientEvent::Connect) => {
                    self.drop_connection();
                    self.client.connected(self.now);
                    let greeting = Greeting::new(self.now, Instance([9; 16]));
                    self.connection = Some(Seated::Greeting(greeting));
                }
                Next::Event(ClientEvent::Data(stream, bytes)) => {
                    self.got[stream.output()].extend_from_slice(&bytes);
                    self.waiting[stream.output()] += bytes.len();
                }
                Next::Event(ClientEvent::Down(_)) => self.drop_connection(),
                Next::Event(ClientEvent::Up(_) | ClientEvent::Eof(_)) => {}
                Next::Event(ClientEvent::Gap(..)) => panic!("a gap"),
                Next::Event(end) => self.end = Some(end),
            }
        }
    }

    fn drop_connection(&mut self) {
        if let Some(Seated::Seat(seat)) = self.connection.take()
            && let Some(host) = &mut self.host
        {
            host.remove(self.now, seat);
        }
    }

    /// The same for the host, and whoever greets.
    fn poll_host(&mut self) -> Option<Time> {
        if let Some(Seated::Greeting(greeting)) = &mut self.connection
            && let Next::Event(asked) = greeting.poll(self.now)
        {
            let Some(Seated::Greeting(greeting)) = self.connection.take() else { return None };
            let (have, started) = match asked {
                Asked::Start(start) if self.host.is_none() => {
                    self.starts += 1;
                    self.host = Some(Host::new(self.now, start, BOUNDS));
                    (Some([0; 2]), true)
                }
                Asked::Start(start) => {
                    assert!(self.host.as_ref().unwrap().is_same(&start));
                    (Some([0; 2]), false)
                }
                Asked::Resume(resume) => (resume.have, false),
                other => panic!("{other:?}"),
            };
            let host = self.host.as_mut().unwrap();
            let seat = host.join(greeting, Mode::Take, have, started).unwrap();
            self.connection = Some(Seated::Seat(seat));
        }
        let mut deadline = None;
        while let Some(host) = &mut self.host {
            match host.poll(self.now) {
                Next::Idle(at) => {
                    deadline = at;
                    break;
                }
                Next::Event(HostEvent::Stdin(bytes)) => self.waiting_stdin.extend(bytes),
                Next::Event(HostEvent::StdinEnd) => self.stdin_ended = true,
                Next::Event(HostEvent::Left(..) | HostEvent::Resize(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        deadline
    }

    fn carry(&mut self, cuts: bool) {
        let (to_host, to_client) = (self.up_to(9000), self.up_to(9000));
        let bytes = take(self.client.outbox(), to_host);
        let Some(connection) = &mut self.connection else { return };
        if !bytes.is_empty() {
            let bytes = BytesMut::from(&bytes[..]);
            match connection {
                Seated::Greeting(greeting) => greeting.receive(self.now, bytes),
                Seated::Seat(seat) => self.host.as_mut().unwrap().receive(self.now, *seat, bytes),
            }
        }
        let outbox = match connection {
            Seated::Greeting(greeting) => Some(greeting.outbox()),
            Seated::Seat(seat) => self.host.as_mut().unwrap().outbox(*seat),
        };
        let bytes = outbox.map(|outbox| take(outbox, to_client)).unwrap_or_default();
        if !bytes.is_empty() {
            self.client.receive(self.now, BytesMut::from(&bytes[..]));
        }
        if cuts && self.up_to(40) == 0 {
            // What is under way is lost in either direction.
            self.client.receive_end(self.now);
            self.drop_connection();
        }
    }

    /// The process and the user do something.
    fn live(&mut self) {
        while self.client.has_room() && !self.typed.is_empty() && self.up_to(2) > 0 {
            let n = self.up_to(3000).min(self.typed.len());
            self.client.send(self.typed.drain(..n).collect::<Vec<u8>>().into());
        }
        if self.typed.is_empty() && self.client.has_room() && !self.typed_all {
            self.typed_all = true;
            self.client.finish();
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let n = self.up_to(5000).min(self.waiting[stream.output()]);
            self.waiting[stream.output()] -= n;
            self.client.took(self.now, stream, n);
        }
        let (stdin, stdout) = (self.up_to(4000), self.up_to(6000));
        let Some(host) = &mut self.host else { return };
        let n = stdin.min(self.waiting_stdin.len());
        self.got_stdin.extend(self.waiting_stdin.drain(..n));
        host.took(self.now, n);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let left = &mut self.writes[stream.output()];
            if host.has_room(stream) && !left.is_empty() {
                let n = stdout.min(left.len());
                host.output(stream, left.drain(..n).collect::<Vec<u8>>().into());
            }
        }
        let is_done = self.stdin_ended && self.waiting_stdin.is_empty();
        if is_done && self.writes.iter().all(VecDeque::is_empty) && !host.has_ended() {
            host.ended(self.now, Ok(Status::exited(7, "").json().clone()));
        }
    }

    fn run(&mut self, cuts: u32) {
        let mut idle = 0;
        for step in 0..200_000 {
            self.live();
            let deadlines = [self.poll_client(), self.poll_host()];
            if self.end.is_some() {
                return;
            }
            self.carry(step < cuts);
            idle = if self.client.outbox().is_empty() { idle + 1 } else { 0 };
            if idle > 20 {
                // Nothing moves by itself.
                let next = deadlines.into_iter().flatten().min();
                self.now = next.map_or(self.now, |next| next.max(self.now));
                idle = 0;
            }
        }
        panic!("it does not end");
    }
}

/// What was acknowledged counts the end of a stream, of which such a client knows nothing.
#[test]
fn a_client_that_has_nothing_hears_how_it_ended() {
    let mut world = World::new(1, b"in", [b"out", b""]);
    world.run(0);
    assert!(matches!(world.end, Some(ClientEvent::Ended(_))));
    for mode in [Mode::Take, Mode::Look, Mode::Take] {
        // Its last words come.
        for _ in 0..20 {
            world.carry(false);
            world.poll_host();
        }
        world.drop_connection();
        let retry = Retry { give_up_after: core::time::Duration::from_secs(60), seed: [7; 32] };
        world.client = Client::resume(world.now, start(1).id, mode, None, retry);
        (world.end, world.got) = (None, [Vec::new(), Vec::new()]);
        world.run(0);
        assert!(matches!(world.end, Some(ClientEvent::Ended(_))), "{:?}", world.end);
        assert!(world.got.iter().all(Vec::is_empty));
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = std::vec![0; length];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_byte_comes_once_whatever_is_cut(seed: u64, lengths: [u32; 3]) {
        let bytes = |at: usize| noise(lengths[at] as usize % 300_000, seed ^ at as u64);
        let [stdin, stdout, stderr] = [0, 1, 2].map(bytes);
        let mut world = World::new(seed, &stdin, [&stdout, &stderr]);
        world.run(2000);
        let Some(ClientEvent::Ended(status)) = &world.end else { panic!("{:?}", world.end) };
        prop_assert_eq!(status.outcome(), &Outcome::Exited(7));
        prop_assert_eq!(world.starts, 1);
        prop_assert!(world.got_stdin == stdin);
        prop_assert!(world.got[0] == stdout && world.got[1] == stderr);
    }

    #[test]
    fn what_is_written_is_read(
        frames in prop::collection::vec(frame(), 1..20),
        step in 1..200_usize,
        at_once in 1..5_usize,
    ) {
        let mut outbox = Outbox::new();
        frames.iter().for_each(|frame| frame.write(&mut outbox));
        let mut bytes = Vec::new();
        while !outbox.is_empty() {
            bytes.extend(take(&mut outbox, 1 << 20));
        }
        let (mut reader, mut read) = (Reader::default(), Vec::<Frame>::new());
        for pieces in bytes.chunks(step * at_once) {
            pieces.chunks(step).for_each(|piece| reader.receive(BytesMut::from(piece)));
            while let Some(frame) = reader.frame().unwrap() {
                match (read.last_mut(), frame) {
                    (Some(Frame::Data(stream, at, whole)), Frame::Data(also, offset, more))
                        if (*stream, *at + whole.len() as u64) == (also, offset) =>
                    {
                        *whole = [&whole[..], &more[..]].concat().into();
                    }
                    (_, frame) => read.push(frame),
                }
            }
        }
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
        let mut reader = Reader::default();
        reader.receive(BytesMut::from(&bytes[..]));
        while let Ok(Some(_)) = reader.frame() {}
    }
}

fn offsets<const N: usize>() -> impl Strategy<Value = [u64; N]> {
    any::<[u64; N]>().prop_map(|numbers| numbers.map(|number| number >> 2))
}

fn frame() -> impl Strategy<Value = Frame> {
    let word = "[a-zé \n]{0,20}";
    let start = (any::<[u8; 16]>(), any::<u64>(), prop::collection::vec(word, 0..5)).prop_map(
        |(id, keep_for, command)| {
            let env = command.iter().map(|word| (word.clone(), format!("{word}!"))).collect();
            Frame::Start(Start { keep_for, command, env, ..start(id[0]) })
        },
    );
    prop_oneof![
        start,
        // Two pieces of data that follow each other are one.
        (0..4_u64, prop::collection::vec(any::<u8>(), 1..900)).prop_map(|(at, bytes)| {
            Frame::Data(Stream::Stdin, at << 40 | bytes.len() as u64, Bytes::from(bytes))
        }),
        offsets::<5>().prop_map(|[stdin, out, err, flag, turn]| Frame::State {
            wants: WANTS,
            stdin,
            stdin_over: flag % 2 == 0,
            outputs: [out, err],
            started: flag % 3 == 0,
            turn,
        }),
        offsets::<3>().prop_map(|[from, to, taken]| {
            Frame::Gap { stream: Stream::Stdout, from, to, taken }
        }),
        (offsets::<2>(), any::<bool>()).prop_map(|(have, some)| Frame::Resume(Resume {
            id: Id([3; 16]),
            mode: if some { Mode::Take } else { Mode::Look },
            have: some.then_some(have),
            turn: have[0] ^ have[1],
        })),
        (any::<u64>(), word).prop_map(|(code, text)| Frame::Refused(Refused { code, text })),
        (0..1_u64 << 62, word, any::<bool>()).prop_map(|(n, text, lost)| Frame::Outcome {
            end: if lost { Err(text) } else { Ok(text.into()) },
            totals: [Total { bytes: n, sum: !n }, Total::default()],
        }),
        Just(Frame::Hello { version: 1, window: 5, instance: Some(Instance([4; 16])) }),
        prop::sample::select(&[Frame::ListedAll, Frame::Left][..]),
        prop::collection::vec(any::<u8>(), 0..900)
            .prop_map(|bytes| Frame::Screen { anew: bytes.len() % 2 == 0, bytes: bytes.into() }),
    ]
}

/// Its connection is cut while another client sends more, and ends its input.
#[test]
fn who_looks_need_not_know_what_others_send() {
    let mut now = Time::ZERO;
    let retry = Retry { give_up_after: core::time::Duration::from_secs(60), seed: [7; 32] };
    let mut client = Client::resume(now, start(1).id, Mode::Look, Some([0; 2]), retry);
    for (stdin, stdin_over) in [(0, false), (700, false), (900, true)] {
        while client.poll(now) != Next::Event(ClientEvent::Connect) {
            now = now + core::time::Duration::from_millis(100);
        }
        client.connected(now);
        let mut outbox = Outbox::new();
        let (version, window, instance) = (1, 1000, Some(Instance([9; 16])));
        Frame::Hello { version, window, instance }.write(&mut outbox);
        let (wants, outputs, started, turn) = (WANTS, [0; 2], false, 1);
        Frame::State { wants, stdin, stdin_over, outputs, started, turn }.write(&mut outbox);
        client.receive(now, BytesMut::from(&take(&mut outbox, 1000)[..]));
        let up = client.poll(now);
        assert!(matches!(up, Next::Event(ClientEvent::Up(_))), "{up:?}");
        client.receive_end(now);
    }
}

/// A terminal's answer is input, and what has asked for it must not come to another terminal.
#[test]
fn what_a_terminal_has_shown_is_acknowledged_in_front_of_input() {
    let now = Time::ZERO;
    let retry = Retry { give_up_after: core::time::Duration::from_secs(60), seed: [7; 32] };
    for tty in [true, false] {
        let mut client = Client::resume(now, start(1).id, Mode::Take, Some([0; 2]), retry);
        while client.poll(now) != Next::Event(ClientEvent::Connect) {}
        client.connected(now);
        let (version, window, instance) = (1, 1000, Some(Instance([9; 16])));
        let (wants, outputs, started, turn) = (Wants { tty, ..WANTS }, [0; 2], false, 1);
        let said = [
            Frame::Hello { version, window, instance },
            Frame::State { wants, stdin: 0, stdin_over: false, outputs, started, turn },
            Frame::Data(Stream::Stdout, 0, Bytes::from_static(b"\x1b[6n")),
        ];
        client.receive(now, bytes_of(&said));
        while let Next::Event(_) = client.poll(now) {}
        client.took(now, Stream::Stdout, 4);
        client.poll(now);
        let before = frames(client.outbox());
        assert!(!before.iter().any(|frame| matches!(frame, Frame::Ack(..))), "{before:?}");
        client.send(Bytes::from_static(b"\x1b[1;1R"));
        client.poll(now);
        let said = frames(client.outbox());
        let input = Frame::Data(Stream::Stdin, 0, Bytes::from_static(b"\x1b[1;1R"));
        let ack = Frame::Ack(Stream::Stdout, 4);
        assert_eq!(said, if tty { Vec::from([ack, input]) } else { Vec::from([input]) });
    }
}

/// Whoever gives up says what was in the way.
#[test]
fn what_is_lost_says_why_there_was_no_connection() {
    let give_up_after = core::time::Duration::from_secs(60);
    let retry = Retry { give_up_after, seed: [7; 32] };
    let lost = |answers: bool| {
        let mut now = Time::ZERO;
        let mut client = Client::start(now, start(1), retry);
        loop {
            match client.poll(now) {
                Next::Event(ClientEvent::Connect) if answers => {
                    client.connected(now);
                    client.receive_end(now);
                }
                Next::Event(ClientEvent::Connect) => client.failed(now, "no route to it"),
                Next::Event(ClientEvent::Lost(loss)) => {
                    return format!("{loss}");
                }
                Next::Event(_) => {}
                Next::Idle(deadline) => now = deadline.unwrap(),
                Next::Done => panic!("not lost"),
            }
        }
    };
    assert!(lost(false).ends_with("for 60 s: no route to it"), "{}", lost(false));
    assert!(lost(true).ends_with("for 60 s: the connection was cut"), "{}", lost(true));
}

#[test]
fn an_id_is_shown_by_its_name_alone() {
    let id = Id([0xab; 16]);
    assert_eq!(Id::parse(&id.secret()), Some(id));
    assert_eq!(format!("{id:?}"), format!("Id({})", id.name()));
    assert!(!id.secret().contains(&id.name()));
    let mut reader = Reader::default();
    reader.receive(BytesMut::from(&id.0[..]));
    let mut outbox = Outbox::new();
    Frame::Start(Start { id, ..start(0) }).write(&mut outbox);
    assert_eq!(format!("{reader:?}"), "Reader(16 bytes, None)");
    assert!(!format!("{outbox:?}").contains("xab"), "{outbox:?}");
    for bad in ["", "ab", &"g".repeat(32), &"é".repeat(16), &"a".repeat(33)] {
        assert_eq!(Id::parse(bad), None, "{bad}");
    }
}

/// All frames that wait in an outbox.
fn frames(outbox: &mut Outbox) -> Vec<Frame> {
    let (mut reader, mut all) = (Reader::default(), Vec::new());
    reader.receive(BytesMut::from(&take(outbox, 1 << 20)[..]));
    while let Some(frame) = reader.frame().unwrap() {
        all.push(frame);
    }
    all
}

fn bytes_of(frames: &[Frame]) -> BytesMut {
    let mut outbox = Outbox::new();
    frames.iter().for_each(|frame| frame.write(&mut outbox));
    BytesMut::from(&take(&mut outbox, 1 << 20)[..])
}

fn hello(instance: Option<Instance>) -> Frame {
    Frame::Hello { version: 1, window: 1 << 20, instance }
}

/// A client goes on with a session, as its `turn`; its seat, and what it hears.
fn resume(host: &mut Host, have: Option<[u64; 2]>, turn: u64) -> (Option<u32>, Vec<Frame>) {
    let mut greeting = Greeting::new(Time::ZERO, Instance([9; 16]));
    let asked = Resume { id: host.id(), mode: Mode::Take, have, turn };
    greeting.receive(Time::ZERO, bytes_of(&[hello(None), Frame::Resume(asked)]));
    assert_eq!(greeting.poll(Time::ZERO), Next::Event(Asked::Resume(asked)));
    match host.join(greeting, Mode::Take, have, false) {
        Ok(seat) => {
            while let Next::Event(_) = host.poll(Time::ZERO) {}
            (Some(seat), frames(host.outbox(seat).unwrap()))
        }
        Err(mut greeting) => (None, frames(greeting.outbox())),
    }
}

fn turn_of(frames: &[Frame]) -> Option<u64> {
    frames.iter().find_map(|frame| match frame {
        Frame::State { turn, .. } => Some(*turn),
        _ => None,
    })
}

#[test]
fn a_client_that_was_away_does_not_take_the_session_back() {
    let mut host = Host::new(Time::ZERO, start(1), BOUNDS);
    assert_eq!(turn_of(&resume(&mut host, None, 0).1), Some(1));
    assert_eq!(turn_of(&resume(&mut host, None, 1).1), Some(1), "it comes back");
    let (second, said) = resume(&mut host, None, 0);
    assert_eq!(turn_of(&said), Some(2));
    let (late, said) = resume(&mut host, None, 1);
    assert_eq!(late, None);
    let Some(Frame::Refused(refused)) = said.last() else { panic!("{said:?}") };
    assert_eq!(refused.code, refused::TAKEN_OVER);
    assert!(host.has_client() && host.outbox(second.unwrap()).is_some());
    assert_eq!(turn_of(&resume(&mut host, None, 2).1), Some(2));
}

#[test]
fn whoever_comes_after_the_end_hears_of_it_again() {
    let (mut host, now) = (Host::new(Time::ZERO, start(1), BOUNDS), Time::ZERO);
    host.output(Stream::Stdout, Bytes::from_static(b"ab"));
    host.ended(now, Ok(Status::success().json().clone()));
    for have in [Some([0; 2]), None, None] {
        let (seat, said) = resume(&mut host, have, 0);
        let begins = if have.is_some() { 0 } else { 2 };
        let Frame::State { outputs, .. } = &said[1] else { panic!("{said:?}") };
        assert_eq!(*outputs, [begins, 0]);
        assert!(said.contains(&Frame::End(Stream::Stdout, 2)), "{said:?}");
        assert!(matches!(said.last(), Some(Frame::Outcome { .. })), "{said:?}");
        let acks = [Frame::Ack(Stream::Stdout, 3), Frame::Ack(Stream::Stderr, 1), Frame::Received];
        host.receive(now, seat.unwrap(), bytes_of(&acks));
        while let Next::Event(_) = host.poll(now) {}
        host.remove(now, seat.unwrap());
    }
}

/// A client that has resumed a session whose outputs go on there, and what the host says next.
fn resumed(mode: Mode, size: Option<Size>, outputs: [u64; 2], next: Frame) -> Client {
    let retry = Retry { give_up_after: core::time::Duration::from_secs(60), seed: [7; 32] };
    let mut client = Client::resume(Time::ZERO, Id([1; 16]), mode, None, retry);
    if let Some(size) = size {
        client.resize(size);
    }
    assert_eq!(client.poll(Time::ZERO), Next::Event(ClientEvent::Connect));
    client.connected(Time::ZERO);
    let state = Frame::State {
        wants: WANTS,
        stdin: 0,
        stdin_over: false,
        outputs,
        started: false,
        turn: 1,
    };
    client.receive(Time::ZERO, bytes_of(&[hello(Some(Instance([9; 16]))), state, next]));
    client
}

#[test]
fn who_has_lost_the_session_to_another_does_not_come_again() {
    let taken = Refused { code: refused::TAKEN_OVER, text: "taken".into() };
    let mut client = resumed(Mode::Take, None, [0; 2], Frame::Refused(taken.clone()));
    assert!(matches!(client.poll(Time::ZERO), Next::Event(ClientEvent::Up(_))));
    assert_eq!(client.poll(Time::ZERO), Next::Event(ClientEvent::Refused(taken)));
    assert_eq!(client.poll(Time::ZERO), Next::Done);
}

#[test]
fn who_looks_sends_no_input_and_no_size() {
    let size = Some(Size { width: 80, height: 24 });
    let data = Frame::Data(Stream::Stdout, 0, Bytes::from_static(b"ab"));
    let mut client = resumed(Mode::Look, size, [0; 2], data);
    while let Next::Event(_) = client.poll(Time::ZERO) {}
    assert!(!client.has_room());
    client.send(Bytes::from_static(b"input"));
    client.finish();
    client.resize(Size { width: 1, height: 1 });
    while let Next::Event(_) = client.poll(Time::ZERO) {}
    let said = frames(client.outbox());
    assert!(matches!(said[..], [Frame::Hello { .. }, Frame::Resume(_)]), "{said:?}");
}

#[test]
fn what_was_sent_is_not_due_any_more() {
    let data = Frame::Data(Stream::Stdout, 0, Bytes::from_static(b"ab"));
    let mut client = resumed(Mode::Take, None, [0; 2], data);
    while let Next::Event(_) = client.poll(Time::ZERO) {}
    client.took(Time::ZERO, Stream::Stdout, 2);
    let Next::Idle(Some(due)) = client.poll(Time::ZERO) else { panic!("nothing is due") };
    assert!(matches!(client.poll(due), Next::Idle(Some(next)) if next > due));
    assert!(frames(client.outbox()).contains(&Frame::Ack(Stream::Stdout, 2)));
}

/// A client that wants a command, in front of a host that has said hello if `is_greeted`.
fn asking(is_greeted: bool) -> Client {
    let retry = Retry { give_up_after: core::time::Duration::from_secs(60), seed: [7; 32] };
    let mut client = Client::start(Time::ZERO, start(1), retry);
    assert_eq!(client.poll(Time::ZERO), Next::Event(ClientEvent::Connect));
    client.connected(Time::ZERO);
    if is_greeted {
        client.receive(Time::ZERO, bytes_of(&[hello(Some(Instance([9; 16])))]));
    }
    assert!(matches!(client.poll(Time::ZERO), Next::Idle(Some(_))));
    client
}

#[test]
fn who_leaves_in_front_of_the_answer_is_heard_behind_it() {
    for (how, is_hung_up) in [(Leave::HungUp, true), (Leave::Running, false)] {
        let mut client = asking(true);
        client.leave(how);
        assert!(!client.outbox().is_finishing(), "an answer is waited for");
        let mut greeting = Greeting::new(Time::ZERO, Instance([9; 16]));
        greeting.receive(Time::ZERO, BytesMut::from(&take(client.outbox(), 1 << 20)[..]));
        let Next::Event(Asked::Start(start)) = greeting.poll(Time::ZERO) else {
            panic!("no start")
        };
        let mut host = Host::new(Time::ZERO, start, BOUNDS);
        host.join(greeting, Mode::Take, Some([0; 2]), true).unwrap();
        let mut events = Vec::new();
        while let Next::Event(event) = host.poll(Time::ZERO) {
            events.push(event);
        }
        assert_eq!(events.contains(&HostEvent::HangUp), is_hung_up, "{events:?}");
        assert!(matches!(events[0], HostEvent::Left(1, _)), "{events:?}");
        assert!(!host.has_client());
        assert!(!client.has_left());
        // It has had a HELLO.
        let answer = frames(host.outbox(1).unwrap());
        client.receive(Time::ZERO, bytes_of(&answer[1..]));
        assert_eq!(client.poll(Time::ZERO), Next::Done);
        assert!(client.has_left() && client.outbox().is_finishing());
    }
    let mut client = asking(false);
    client.leave(Leave::HungUp);
    assert!(client.outbox().is_finishing());
    assert!(matches!(frames(client.outbox())[..], [Frame::Hello { .. }]));
}

/// What is in between has ends of its own, and what the host has said before is no answer.
#[test]
fn only_an_answer_to_a_goodbye_says_that_it_was_heard() {
    let data = || Frame::Data(Stream::Stdout, 0, Bytes::from_static(b"ab"));
    let refused = |code| Frame::Refused(Refused { code, text: "no".into() });
    let cases: [(&[Frame], bool); 5] = [
        (&[], false),
        (&[data(), Frame::Left], true),
        (&[refused(refused::TAKEN_OVER), Frame::Left], false),
        (&[refused(refused::HOST_ENDS)], false),
        (&[Frame::Leave(Leave::Running)], false),
    ];
    for (frames, is_heard) in cases {
        let mut client = resumed(Mode::Take, None, [0; 2], Frame::Ping(1));
        while let Next::Event(_) = client.poll(Time::ZERO) {}
        client.leave(Leave::HungUp);
        client.receive(Time::ZERO, bytes_of(frames));
        client.receive_end(Time::ZERO);
        assert_eq!(client.poll(Time::ZERO), Next::Done, "{frames:?}");
        assert_eq!(client.has_left(), is_heard, "{frames:?}");
    }
    // Nobody has asked.
    let mut client = resumed(Mode::Take, None, [0; 2], Frame::Left);
    assert!(matches!(client.poll(Time::ZERO), Next::Event(ClientEvent::Up(_))));
    assert!(matches!(client.poll(Time::ZERO), Next::Event(ClientEvent::Lost(_))));
    assert!(!client.has_left());
}

/// Goes on until a connection is wanted; when that is.
fn connects(client: &mut Client, mut now: Time) -> Time {
    loop {
        match client.poll(now) {
            Next::Event(ClientEvent::Connect) => return now,
            Next::Event(_) => {}
            Next::Idle(Some(until)) => now = until,
            next => panic!("{next:?}"),
        }
    }
}

/// Who leaves on a connection that has yet to ask is not taken for one that asks for nothing.
#[test]
fn who_leaves_on_a_later_connection_says_nothing_before_it_asks() {
    let mut client = resumed(Mode::Take, None, [0; 2], Frame::Ping(1));
    while let Next::Event(_) = client.poll(Time::ZERO) {}
    client.receive_end(Time::ZERO);
    let now = connects(&mut client, Time::ZERO);
    client.connected(now);
    client.leave(Leave::Running);
    assert!(client.outbox().is_finishing());
    assert!(matches!(frames(client.outbox())[..], [Frame::Hello { .. }]));
}

#[test]
fn whoever_has_had_the_session_comes_again_where_too_many_look_at_it() {
    let too_many = Frame::Refused(Refused { code: refused::TOO_MANY, text: "full".into() });
    let answer = bytes_of(&[hello(Some(Instance([9; 16]))), too_many]);
    let mut client = resumed(Mode::Look, None, [0; 2], Frame::Ping(1));
    while let Next::Event(_) = client.poll(Time::ZERO) {}
    client.receive_end(Time::ZERO);
    let mut now = Time::ZERO;
    for _ in 0..3 {
        now = connects(&mut client, now);
        client.connected(now);
        client.receive(now, answer.clone());
        assert!(matches!(client.poll(now), Next::Event(ClientEvent::Down(_))));
    }
    // To another one it is an answer.
    let mut client = asking(false);
    client.receive(Time::ZERO, answer);
    let Next::Event(ClientEvent::Refused(refused)) = client.poll(Time::ZERO) else { panic!() };
    assert_eq!(refused.code, refused::TOO_MANY);
}
/// However the connection's pieces come, most bytes of DATA are those that were read.
#[test]
fn data_is_not_copied() {
    let mut outbox = Outbox::new();
    for at in 0..4 {
        Frame::Data(Stream::Stdout, at * 9_000, Bytes::from(std::vec![7; 9_000]))
            .write(&mut outbox);
    }
    let sent = take(&mut outbox, 1 << 20);
    let pieces: Vec<Bytes> = sent.chunks(5_000).map(Bytes::copy_from_slice).collect();
    let mut reader = Reader::default();
    pieces.iter().for_each(|piece| reader.receive(piece.clone()));
    let (mut shared, mut copied) = (0, 0);
    while let Some(Frame::Data(_, _, bytes)) = reader.frame().unwrap() {
        let is_shared = pieces.iter().any(|piece| piece.as_ptr_range().contains(&bytes.as_ptr()));
        *(if is_shared { &mut shared } else { &mut copied }) += bytes.len();
    }
    assert_eq!(shared + copied, 4 * 9_000);
    assert!(copied < 100, "{copied}");
}

/// Each message costs every hop as much as many bytes.
#[test]
fn input_that_is_read_at_once_is_one_message() {
    let input = Bytes::from(std::vec![0; KEPT_INPUT_BYTES]);
    let mut outbox = Outbox::new();
    Frame::Data(Stream::Stdin, 1 << 62, input).write(&mut outbox);
    assert!(outbox.len() <= MESSAGE_BYTES, "{} bytes", outbox.len());
}

/// What is missing of a session whose host begins anew: somebody has taken the first of it.
fn stdout(host: &mut Host, bytes: &[u8]) {
    host.output(Stream::Stdout, Bytes::copy_from_slice(bytes));
}

/// Whoever is at a seat has been sent so much of stdout, and takes it.
fn acknowledges(host: &mut Host, seat: u32, to: u64) {
    while let Next::Event(_) = host.poll(Time::ZERO) {}
    host.receive(Time::ZERO, seat, bytes_of(&[Frame::Ack(Stream::Stdout, to)]));
    while let Next::Event(_) = host.poll(Time::ZERO) {}
}

#[test]
fn what_has_come_to_nobody_is_known_after_a_restart_too() {
    let mut host = Host::new(Time::ZERO, start(1), BOUNDS);
    let first = resume(&mut host, None, 0).0.unwrap();
    stdout(&mut host, b"taken");
    acknowledges(&mut host, first, 5);
    host.remove(Time::ZERO, first);
    stdout(&mut host, b" and not");
    host.ended(Time::ZERO, Ok(Bytes::from_static(b"{}")));
    let left = host.left().unwrap();
    assert_eq!(left.taken, [5, 0]);
    let mut past = Host::past(Time::ZERO, start(1), left);
    let (_, said) = resume(&mut past, Some([0; 2]), 0);
    let gap = Frame::Gap { stream: Stream::Stdout, from: 0, to: 13, taken: 5 };
    assert!(said.contains(&gap), "{said:?}");
}
