//! Commands whose clients lose their connections and come back.

use std::fs;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Socket, SocketEvent};
use bowline_io::objects;
use bowline_io::random;
use bowline_io::stream::Upgraded;
use bowline_io::upstream::UpstreamError;
use bowline_node::kept::Limits;
use bowline_node::process::{ProcessRuntime, Settings, manifest};
use bowline_node::runtime::Runtime;
use bowline_proto::kept::{
    Carried, Carrier, Client, ClientEvent, Frame, Id, Instance, Leave, Mode, Reader, Retry, Start,
    Stream, refused,
};
use bowline_proto::negotiate::Offer;
use bowline_proto::session::{Outcome, Size, Wants, protocol};
use bowline_proto::tunnel::{Incoming, Wire};
use bowline_proto::websocket::Role;
use bowline_proto::{Machine, Next, Outbox};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::client::{WANTS, exec, run, server};
use crate::memory::Memory;
use crate::node::Node;

const RETRY: Retry = Retry { give_up_after: Duration::from_secs(600), seed: [7; 32] };

/// What is done with a connection.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// Nothing.
    End,
    /// It is dropped once so many bytes have moved.
    Moved(usize),
    /// It is left once the session is there.
    Up(Option<Leave>),
}

/// A client and what it has.
pub struct Player {
    address: SocketAddr,
    clock: Clock,
    client: Option<Client>,
    /// The path of its start; it resumes at another.
    pub path: String,
    pub resume_path: String,
    is_started: bool,
    stdin: Vec<u8>,
    /// How much of that was given.
    given: usize,
    ends_stdin: bool,
    pub out: [Vec<u8>; 2],
    lost: Vec<String>,
    /// How much of the outputs it was told it would not get.
    missing: u64,
    /// Is told once the session is there.
    up: CancellationToken,
    pub end: Option<ClientEvent>,
}

fn question(word: &str) -> String {
    exec(&["@bowline", word])
}

fn started(id: u8, words: &[&str], wants: Wants, keep_for: u64) -> Start {
    let command = words.iter().map(|&word| word.to_owned()).collect();
    let instance = Instance([0; 16]);
    Start { id: Id([id; 16]), instance, wants, keep_for, size: None, command, env: Vec::new() }
}

impl Player {
    fn new(address: SocketAddr, path: String, is_started: bool) -> Player {
        Player {
            address,
            clock: Clock::start(),
            client: None,
            path,
            resume_path: question("resume"),
            is_started,
            stdin: Vec::new(),
            given: 0,
            ends_stdin: true,
            out: [Vec::new(), Vec::new()],
            lost: Vec::new(),
            missing: 0,
            up: CancellationToken::new(),
            end: None,
        }
    }

    pub fn start(node: &Node, id: u8, words: &[&str]) -> Player {
        let mut player = Player::new(node.address, exec(words), false);
        let start = started(id, words, WANTS, 600);
        player.client = Some(Client::start(player.clock.now(), start, RETRY));
        player
    }

    pub fn resume(node: &Node, id: u8, mode: Mode, have: Option<[u64; 2]>) -> Player {
        let mut player = Player::new(node.address, String::new(), true);
        let id = Id([id; 16]);
        player.client = Some(Client::resume(player.clock.now(), id, mode, have, RETRY));
        player
    }

    pub fn stdin(mut self, bytes: Vec<u8>) -> Player {
        self.stdin = bytes;
        self
    }

    /// Makes a connection, and goes on until that is over.
    pub async fn connect(&mut self, until: Until) -> Result<(), UpstreamError> {
        let mut client = self.client.take().unwrap();
        client.hurry(self.clock.now());
        loop {
            match client.poll(self.clock.now()) {
                Next::Event(ClientEvent::Connect) => break,
                Next::Event(ClientEvent::Down(_)) => client.hurry(self.clock.now()),
                Next::Event(event) => panic!("{event:?}"),
                _ => {}
            }
        }
        let path = if self.is_started { &self.resume_path } else { &self.path };
        let switched = server(self.address).upgrade(path, &Offer::kept(random::bytes())).await;
        let switched = match switched {
            Ok(switched) => switched,
            Err(error) => {
                client.failed(self.clock.now(), &format!("{error:?}"));
                self.client = Some(client);
                return Err(error);
            }
        };
        let wire = Wire::tunnel(Role::Client, random::bytes());
        let carried = Carried::new(self.clock.now(), client, Carrier::Bytes(wire));
        let client = self.talk(carried, switched.connection, until).await;
        self.client = Some(client);
        Ok(())
    }

    async fn talk(&mut self, mut carried: Carried, connection: Upgraded, until: Until) -> Client {
        let Upgraded { stream, early } = connection;
        let mut socket = Socket::new(stream, early);
        let (mut alarm, mut moved) = (Alarm::default(), 0);
        loop {
            let now = self.clock.now();
            match carried.poll(now) {
                Next::Event(ClientEvent::Up(_)) => {
                    self.is_started = true;
                    self.up.cancel();
                    if let Until::Up(leave) = until {
                        if let Some(how) = leave {
                            carried.client().leave(how);
                        }
                        let flushed = poll_fn(|cx| {
                            let polled = socket.poll(cx, carried.outbox(), false);
                            let is_over = leave.is_none() || carried.outbox().is_empty();
                            if is_over { Poll::Ready(()) } else { polled.map(|_| ()) }
                        });
                        flushed.await;
                        let mut client = carried.into_client();
                        client.receive_end(now);
                        self.drop_events(&mut client);
                        return client;
                    }
                }
                Next::Event(ClientEvent::Data(stream, bytes)) => {
                    self.out[usize::from(stream == Stream::Stderr)].extend_from_slice(&bytes);
                    carried.client().took(now, stream, bytes.len());
                }
                Next::Event(ClientEvent::Down(loss)) => {
                    self.lost.push(loss.to_string());
                    return carried.into_client();
                }
                Next::Event(ClientEvent::Eof(_) | ClientEvent::Screen(_)) => {}
                Next::Event(ClientEvent::Gap(gap)) => self.missing += gap.bytes,
                Next::Event(event) => {
                    assert!(self.end.is_none(), "{event:?}");
                    self.end = Some(event);
                }
                Next::Done if carried.outbox().is_empty() => return carried.into_client(),
                Next::Idle(_) if self.give(carried.client()) => {}
                next => {
                    let deadline = if let Next::Idle(deadline) = next { deadline } else { None };
                    alarm.set(&self.clock, deadline);
                    let step = poll_fn(|cx| {
                        let before = carried.outbox().len();
                        if let Poll::Ready(event) = socket.poll(cx, carried.outbox(), true) {
                            moved += before.saturating_sub(carried.outbox().len());
                            return Poll::Ready(Some(event));
                        }
                        alarm.poll(cx).map(|()| None)
                    });
                    match step.await {
                        Some(SocketEvent::Read(bytes)) => {
                            moved += bytes.len();
                            carried.receive(now, bytes);
                        }
                        Some(SocketEvent::Ended(_)) => carried.receive_end(now),
                        Some(SocketEvent::Wrote) | None => {}
                    }
                    if matches!(until, Until::Moved(most) if moved > most) {
                        drop(socket);
                        carried.receive_end(now);
                        let mut client = carried.into_client();
                        client.receive_end(now);
                        self.drop_events(&mut client);
                        return client;
                    }
                }
            }
        }
    }

    /// What has come before the cut counts.
    fn drop_events(&mut self, client: &mut Client) {
        let now = self.clock.now();
        while let Next::Event(event) = client.poll(now) {
            match event {
                ClientEvent::Data(stream, bytes) => {
                    self.out[usize::from(stream == Stream::Stderr)].extend_from_slice(&bytes);
                    client.took(now, stream, bytes.len());
                }
                ClientEvent::Up(_) => self.is_started = true,
                ClientEvent::Down(_) | ClientEvent::Eof(_) => {}
                end => self.end = Some(end),
            }
        }
    }

    /// Gives input where there is room; whether some was given.
    fn give(&mut self, client: &mut Client) -> bool {
        let before = self.given;
        while client.has_room() && self.given < self.stdin.len() {
            let piece = &self.stdin[self.given..self.stdin.len().min(self.given + 30_000)];
            client.send(piece.to_vec().into());
            self.given += piece.len();
        }
        let ends = client.has_room() && self.ends_stdin && self.given == self.stdin.len();
        if ends {
            client.finish();
        }
        ends || self.given > before
    }

    /// Goes on to the end, whatever is cut before.
    pub async fn play(&mut self, cuts: &[usize]) -> &ClientEvent {
        for most in cuts {
            if self.end.is_none() {
                self.connect(Until::Moved(*most)).await.unwrap();
            }
        }
        while self.end.is_none() {
            self.connect(Until::End).await.unwrap();
        }
        self.end.as_ref().unwrap()
    }

    pub fn outcome(&self) -> &Outcome {
        match &self.end {
            Some(ClientEvent::Ended(status)) => status.outcome(),
            other => panic!("{other:?}"),
        }
    }

    pub fn refusal(&self) -> u64 {
        match &self.end {
            Some(ClientEvent::Refused(refused)) => refused.code,
            other => panic!("{other:?}"),
        }
    }
}

/// What a client hears that asks for one thing, and then says nothing more.
async fn asked(node: &Node, path: &str, frame: Frame) -> Vec<Frame> {
    let switched = server(node.address).upgrade(path, &Offer::kept(random::bytes())).await.unwrap();
    let Upgraded { stream, early } = switched.connection;
    let (mut socket, mut outbox) = (Socket::new(stream, early), Outbox::new());
    let mut wire = Wire::tunnel(Role::Client, random::bytes());
    let (mut reader, mut said) = (Reader::default(), Vec::new());
    let (version, window) = (1, 1 << 20);
    Frame::Hello { version, window, instance: None }.write(&mut outbox);
    let mut frame = Some(frame);
    loop {
        match poll_fn(|cx| socket.poll(cx, wire.outbox(&mut outbox), true)).await {
            SocketEvent::Read(bytes) => wire.receive(bytes),
            SocketEvent::Ended(_) => return said,
            SocketEvent::Wrote => {}
        }
        let mut is_over = false;
        while let Some(incoming) = wire.poll() {
            match incoming {
                Incoming::Bytes(bytes) => reader.receive(bytes),
                Incoming::Closed(_) => is_over = true,
            }
        }
        while let Some(heard) = reader.frame().unwrap() {
            if let (Frame::Hello { instance: Some(instance), .. }, Some(mut frame)) =
                (&heard, frame.take())
            {
                if let Frame::Start(start) = &mut frame {
                    start.instance = *instance;
                }
                frame.write(&mut outbox);
            }
            is_over |= matches!(heard, Frame::Outcome { .. });
            said.push(heard);
        }
        if is_over {
            return said;
        }
    }
}

/// A program that asks at once is told the size that its client has when it starts it: no other
/// frame is waited for.
#[tokio::test]
async fn a_terminal_has_its_size_from_the_start() {
    let runtime = processes();
    let node = Node::start(runtime.clone()).await;
    let wants = Wants { stderr: false, tty: true, ..WANTS };
    let words = ["stty", "size"];
    let size = Some(Size { width: 91, height: 37 });
    let path = exec(&words).replace("error=1", "tty=1");
    let start = Frame::Start(Start { size, ..started(1, &words, wants, 600) });
    let said = asked(&node, &path, start).await;
    let output: Vec<u8> = said
        .iter()
        .filter_map(|frame| match frame {
            Frame::Data(Stream::Stdout, _, bytes) => Some(bytes.to_vec()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(String::from_utf8_lossy(&output), "37 91\r\n", "{said:?}");
    node.stop().await;
    runtime.shut_down().await;
}

async fn memory() -> Node {
    Node::start(Arc::new(Memory::default())).await
}

fn processes() -> Arc<ProcessRuntime> {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\n\
               spec: {containers: [{name: c}, {name: d}]}\n";
    let objects = objects::parse(pod, "p.yaml".as_ref()).unwrap();
    let pod = manifest::pod(&objects[0]).unwrap();
    Arc::new(ProcessRuntime::start(vec![pod], Settings::default()))
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

#[tokio::test]
async fn a_command_ends_as_without_a_loss() {
    let node = memory().await;
    let mut player = Player::start(&node, 1, &["exit", "7"]).stdin(b"hello".to_vec());
    player.play(&[]).await;
    assert_eq!(player.outcome(), &Outcome::Exited(7));
    assert_eq!(player.out, [b"hello".to_vec(), b"over".to_vec()]);
}

#[tokio::test]
async fn every_byte_comes_once_whatever_is_cut() {
    let runtime = processes();
    let node = Node::start(runtime.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let (ran, input) = (directory.path().join("ran"), noise(3_000_000));
    let script = format!("echo ran >> {}; cat; echo error >&2; exit 7", ran.display());
    let words = ["sh", "-c", &script];
    let mut player = Player::start(&node, 1, &words).stdin(input.clone());
    // The first ones within the greeting.
    let cuts: Vec<usize> =
        (0..40).map(|cut| if cut < 12 { cut * 16 } else { cut * 3333 }).collect();
    player.play(&cuts).await;
    assert_eq!(player.outcome(), &Outcome::Exited(7));
    assert!(player.out[0] == input, "{} of {}", player.out[0].len(), input.len());
    assert_eq!(player.out[1], b"error\n");
    assert_eq!(fs::read_to_string(&ran).unwrap(), "ran\n");
    node.stop().await;
    runtime.shut_down().await;
}

#[tokio::test]
async fn the_outcome_can_be_asked_for_again() {
    let node = memory().await;
    let mut player = Player::start(&node, 1, &["exit", "3"]).stdin(b"hello".to_vec());
    player.play(&[]).await;
    for _ in 0..3 {
        let mut again = Player::resume(&node, 1, Mode::Take, Some([5, 4]));
        again.play(&[]).await;
        assert_eq!(again.outcome(), &Outcome::Exited(3));
        assert!(again.out.iter().all(Vec::is_empty));
    }
}

#[tokio::test]
async fn another_client_takes_over_and_others_look() {
    let node = memory().await;
    let mut first = Player::start(&node, 1, &["exit", "5"]).stdin(b"one ".to_vec());
    first.ends_stdin = false;
    let mut looks = Player::resume(&node, 1, Mode::Look, Some([0, 0]));
    looks.ends_stdin = false;
    first.connect(Until::Up(None)).await.unwrap();
    let mut second = Player::resume(&node, 1, Mode::Take, None).stdin(b"two".to_vec());
    let (seen, ()) = tokio::join!(
        async {
            looks.play(&[]).await;
            looks.out[0].clone()
        },
        async {
            second.play(&[]).await;
        }
    );
    assert_eq!(second.outcome(), &Outcome::Exited(5));
    assert_eq!(looks.outcome(), &Outcome::Exited(5));
    assert_eq!((&*second.out[0], &*seen), (&b"two"[..], &b"two"[..]));
}

#[tokio::test]
async fn a_session_belongs_to_its_container_and_its_words() {
    let runtime = processes();
    let node = Node::start(runtime.clone()).await;
    let mut player = Player::start(&node, 1, &["cat"]);
    player.ends_stdin = false;
    player.connect(Until::Up(None)).await.unwrap();
    // Another container.
    let mut other = Player::resume(&node, 1, Mode::Take, None);
    other.resume_path = other.resume_path.replace("/c?", "/d?");
    other.play(&[]).await;
    assert_eq!(other.refusal(), refused::UNKNOWN);
    let mut other = Player::start(&node, 1, &["cat"]);
    other.path = other.path.replace("/c?", "/d?");
    other.play(&[]).await;
    assert_eq!(other.refusal(), refused::CONFLICT);
    // Other words, in the request as well or not.
    let mut other = Player::start(&node, 1, &["cat", "-"]);
    other.play(&[]).await;
    assert_eq!(other.refusal(), refused::CONFLICT);
    let mut other = Player::start(&node, 2, &["cat"]);
    other.path = exec(&["true"]);
    other.play(&[]).await;
    assert_eq!(other.refusal(), refused::BAD_REQUEST);
    let mut other = Player::resume(&node, 3, Mode::Take, None);
    other.play(&[]).await;
    assert_eq!(other.refusal(), refused::UNKNOWN);
    // Whoever reads of a request has to see what it is for: a session is not driven, and not read,
    // by one for another command, or for a question of another kind.
    let driven = async |mode, path: String| {
        let mut other = Player::resume(&node, 1, mode, None);
        other.ends_stdin = false;
        other.resume_path = path;
        other.connect(Until::Up(None)).await.unwrap();
        other
    };
    for mode in [Mode::Take, Mode::Look] {
        for words in [&["ls"][..], &["cat", "-"], &["@bowline"], &["@bowline", "list"]] {
            let other = driven(mode, exec(words)).await;
            assert_eq!(other.refusal(), refused::BAD_REQUEST, "{mode:?} {words:?}");
        }
    }
    assert_eq!(driven(Mode::Take, question("result")).await.refusal(), refused::BAD_REQUEST);
    assert!(driven(Mode::Look, question("result")).await.up.is_cancelled());
    for path in [exec(&["cat"]), question("resume")] {
        assert!(driven(Mode::Take, path.clone()).await.up.is_cancelled(), "{path}");
    }
    for (path, is_refused) in
        [(exec(&["cat"]), true), (question("resume"), true), (question("list"), false)]
    {
        let said = asked(&node, &path, Frame::List).await;
        let was_refused =
            matches!(said.last(), Some(Frame::Refused(why)) if why.code == refused::BAD_REQUEST);
        assert_eq!(was_refused, is_refused, "{path}: {said:?}");
        assert_eq!(said.last() == Some(&Frame::ListedAll), !is_refused, "{path}: {said:?}");
    }
    node.stop().await;
    runtime.shut_down().await;
}

#[tokio::test]
async fn a_node_without_room_answers_as_one_that_keeps_nothing() {
    for limits in [
        Limits { per_container: 0, ..Limits::default() },
        Limits { per_node: 0, ..Limits::default() },
        Limits { replay_bytes: 0, ..Limits::default() },
        Limits { longest: Duration::ZERO, ..Limits::default() },
    ] {
        let node = Node::keeping(Arc::new(Memory::default()), limits).await;
        let mut player = Player::start(&node, 1, &["x"]);
        let Err(UpstreamError::Refused(refused)) = player.connect(Until::Up(None)).await else {
            panic!("{limits:?}: it keeps one")
        };
        assert_eq!(refused.head.status, 403, "{limits:?}");
        let asked = exec(&["@bowline", "list"]);
        let answer = run(node.address, &asked, protocol::Carrier::WebSocket, "").await.unwrap();
        let Ok(Outcome::Failed { message, .. }) = answer.end else { panic!("{answer:?}") };
        assert!(message.contains("this node keeps no sessions"), "{message}");
    }
}

/// The connection of whoever has it may be there for long though nothing comes over it any more.
#[tokio::test]
async fn however_many_look_at_a_session_it_is_gone_on_with() {
    let node = memory().await;
    let mut connections = Vec::new();
    let first = Player::start(&node, 1, &["x"]);
    let looks = (0..15).map(|_| Player::resume(&node, 1, Mode::Look, None));
    for mut player in std::iter::once(first).chain(looks) {
        player.ends_stdin = false;
        let up = player.up.clone();
        connections.push(tokio::spawn(async move { player.connect(Until::End).await.unwrap() }));
        up.cancelled().await;
    }
    let mut late = Player::resume(&node, 1, Mode::Look, None);
    late.ends_stdin = false;
    late.play(&[]).await;
    assert_eq!(late.refusal(), refused::TOO_MANY);
    for _ in 0..40 {
        let mut other = Player::resume(&node, 1, Mode::Take, None);
        other.connect(Until::Up(None)).await.unwrap();
        assert!(other.up.is_cancelled(), "{:?}", other.end);
    }
    let mut last = Player::resume(&node, 1, Mode::Take, None);
    last.play(&[]).await;
    assert_eq!(last.outcome(), &Outcome::Success);
    for connection in connections {
        connection.abort();
    }
}

#[tokio::test]
async fn there_are_only_so_many() {
    let limits = Limits { per_container: 2, per_node: 2, ..Limits::default() };
    let node = Node::keeping(Arc::new(Memory::default()), limits).await;
    for id in 1..=2 {
        let mut player = Player::start(&node, id, &["x"]);
        player.ends_stdin = false;
        player.connect(Until::Up(None)).await.unwrap();
    }
    let mut third = Player::start(&node, 3, &["x"]);
    third.play(&[]).await;
    assert_eq!(third.refusal(), refused::TOO_MANY);
    // Those that have ended do not count, but the oldest of them goes.
    for id in 1..=2 {
        let mut player = Player::resume(&node, id, Mode::Take, None);
        player.play(&[]).await;
        assert_eq!(player.outcome(), &Outcome::Success);
    }
    let mut third = Player::start(&node, 3, &["x"]);
    third.play(&[]).await;
    assert_eq!(third.outcome(), &Outcome::Success);
    let mut first = Player::resume(&node, 1, Mode::Take, None);
    first.play(&[]).await;
    assert_eq!(first.refusal(), refused::UNKNOWN);
    // Whoever asks for its start again does not start it again.
    let mut first = Player::start(&node, 1, &["x"]);
    first.play(&[]).await;
    assert!(matches!(first.end, Some(ClientEvent::Lost(_))), "{:?}", first.end);
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_client_does_not_come_back_is_hung_up() {
    let node = memory().await;
    let mut player = Player::start(&node, 1, &["x"]);
    player.ends_stdin = false;
    player.connect(Until::Up(None)).await.unwrap();
    let mut stays = Player::start(&node, 2, &["x"]);
    stays.ends_stdin = false;
    stays.connect(Until::Up(Some(Leave::Running))).await.unwrap();
    sleep(Duration::from_secs(620)).await;
    let mut player = Player::resume(&node, 1, Mode::Take, None);
    player.play(&[]).await;
    let Some(ClientEvent::Lost(loss)) = &player.end else { panic!("{:?}", player.end) };
    assert!(loss.to_string().contains("hung up"), "{loss}");
    // One that has said goodbye leaves its command running.
    let mut stays = Player::resume(&node, 2, Mode::Take, None);
    stays.play(&[]).await;
    assert_eq!(stays.outcome(), &Outcome::Success);
    // After as much time again nobody can ask for either of them.
    sleep(Duration::from_secs(620)).await;
    for id in 1..=2 {
        let mut late = Player::resume(&node, id, Mode::Take, None);
        late.play(&[]).await;
        assert_eq!(late.refusal(), refused::UNKNOWN);
    }
}

/// Whatever its client asks for, and though it has said that its command goes on.
#[tokio::test(start_paused = true)]
async fn none_is_kept_for_longer_than_the_node_allows() {
    let limits = Limits { longest: Duration::from_secs(60), ..Limits::default() };
    let node = Node::keeping(Arc::new(Memory::default()), limits).await;
    for (id, leave) in [(1, None), (2, Some(Leave::Running))] {
        let mut player = Player::start(&node, id, &["x"]);
        player.ends_stdin = false;
        player.connect(Until::Up(leave)).await.unwrap();
    }
    sleep(Duration::from_secs(70)).await;
    for id in 1..=2 {
        let mut player = Player::resume(&node, id, Mode::Take, None);
        player.play(&[]).await;
        let Some(ClientEvent::Lost(loss)) = &player.end else { panic!("{:?}", player.end) };
        assert!(loss.to_string().contains("hung up"), "{loss}");
    }
    sleep(Duration::from_secs(70)).await;
    for id in 1..=2 {
        let mut late = Player::resume(&node, id, Mode::Take, None);
        late.play(&[]).await;
        assert_eq!(late.refusal(), refused::UNKNOWN);
    }
}

#[tokio::test]
async fn a_node_that_ends_says_so() {
    let node = memory().await;
    let mut player = Player::start(&node, 1, &["x"]);
    player.ends_stdin = false;
    player.up = node.sessions.end.clone();
    player.connect(Until::End).await.unwrap();
    assert!(player.lost[0].contains("the node shuts down"), "{:?}", player.lost);
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_begins_anew_says_what_became_of_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kept");
    let node = Node::recording(Arc::new(Memory::default()), &path).await;
    let mut ended = Player::start(&node, 1, &["exit", "7"]).stdin(b"hello".to_vec());
    ended.play(&[]).await;
    let mut runs = Player::start(&node, 2, &["x"]);
    runs.ends_stdin = false;
    runs.connect(Until::Up(None)).await.unwrap();
    node.stop().await;
    let node = Node::recording(Arc::new(Memory::default()), &path).await;
    // One that has nothing, and one that has everything but the outcome.
    for (have, missing) in [(None, 9), (Some([5, 4]), 0)] {
        let mut again = Player::resume(&node, 1, Mode::Take, have);
        again.play(&[]).await;
        assert_eq!(again.outcome(), &Outcome::Exited(7));
        assert_eq!(again.missing, missing);
    }
    runs.address = node.address;
    runs.play(&[]).await;
    let Some(ClientEvent::Lost(loss)) = &runs.end else { panic!("{:?}", runs.end) };
    assert!(loss.to_string().contains("the node shuts down"), "{loss}");
}

/// With clients that know nothing of it, over either carrier.
#[tokio::test]
async fn any_client_can_ask_for_sessions() {
    let node = memory().await;
    let asked = async |words: &[&str], carrier, stdin| {
        let words = [&["@bowline"], words].concat();
        run(node.address, &exec(&words), carrier, stdin).await.unwrap()
    };
    for (id, carrier) in [(1, protocol::Carrier::WebSocket), (2, protocol::Carrier::Spdy)] {
        let mut player = Player::start(&node, id, &["exit", "7"]).stdin(b"one ".to_vec());
        player.ends_stdin = false;
        player.connect(Until::Up(None)).await.unwrap();
        let (name, secret) = (Id([id; 16]).name(), Id([id; 16]).secret());
        let listed = asked(&["list"], carrier, "").await;
        assert!(listed.stdout.contains(&format!("{name}  running  ")), "{}", listed.stdout);
        assert_eq!(listed.end, Ok(Outcome::Success));
        let resumed = asked(&["resume", &secret], carrier, "two").await;
        assert_eq!((&*resumed.stdout, &*resumed.stderr), ("two", "over"));
        assert_eq!(resumed.end, Ok(Outcome::Exited(7)));
        for _ in 0..3 {
            let result = asked(&["result", &secret], carrier, "").await;
            assert_eq!(result.end, Ok(Outcome::Exited(7)));
        }
        let listed = asked(&["list"], carrier, "").await;
        assert!(listed.stdout.contains(&format!("{name}  ended  alone  ")), "{}", listed.stdout);
    }
    for (words, why) in [
        (&["resume", "abc"][..], "32 hexadecimal digits"),
        (&["result", &Id([9; 16]).secret()], "no such session"),
        (&["other"], "@bowline knows"),
    ] {
        let Ok(Outcome::Failed { message, .. }) =
            asked(words, protocol::Carrier::Spdy, "").await.end
        else {
            panic!("{words:?}");
        };
        assert!(message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn a_request_for_anything_else_is_answered_as_ever() {
    let node = memory().await;
    let offer = Offer::kept(random::bytes());
    let attach = exec(&["x"]).replace("/exec/", "/attach/");
    let refused = server(node.address).upgrade(&attach, &offer).await.unwrap_err();
    let UpstreamError::Refused(said) = refused else { panic!("{refused}") };
    assert_eq!((said.head.status.as_u16(), said.text()), (403, String::new()));
}
