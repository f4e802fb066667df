//! A node of others, and what real ones get wrong: to sessions whose outcome is missing, or a lie.
//!
//! It speaks as it should until its defect strikes. What it has said and sent is in the journal:
//! more than that nobody can know, and nothing less may arrive.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Socket, SocketEvent, WriteQueue};
use bowline_io::stream::Upgraded;
use bowline_node::runtime::{Act, Command, ExitStatus, Process};
use bowline_proto::session::{Channel, Event, Session, Side, Status};
use bowline_proto::time::earlier;
use bowline_proto::{Machine, Next, Time, limits};
use bytes::Bytes;
use tokio::time::sleep;

use crate::journal::{Journal, lane};
use crate::net::End;
use crate::process::{Model, Scripted};
use crate::scenario::{Runtime, Scenario};

/// How often one that is stuck looks whether it is still connected; its kernel would.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Serves a session to its end.
pub async fn run(scenario: &Scenario, connection: Upgraded<End>, journal: &Journal) {
    let node = Stranger {
        defect: scenario.runtime,
        clock: Clock::start(),
        socket: Socket::new(connection.stream, connection.early),
        session: Session::new(Side::Server, scenario.back, scenario.wants, [0; 32]),
        command: Scripted::new(scenario, journal),
        process: None,
        stdin: WriteQueue::default(),
        tail: Bytes::new(),
        strikes_at: None,
        ending: None,
        over: false,
        journal: journal.clone(),
    };
    node.run().await;
}

struct Stranger {
    defect: Runtime,
    clock: Clock,
    socket: Socket<End>,
    session: Session,
    command: Scripted,
    process: Option<Model>,
    stdin: WriteQueue,
    /// The last output, which one that cuts it holds back.
    tail: Bytes,
    strikes_at: Option<Time>,
    ending: Option<ExitStatus>,
    /// It has said its last word.
    over: bool,
    journal: Journal,
}

enum Wake {
    Socket(SocketEvent),
    Act(Act),
    Ended(ExitStatus),
    Deadline,
}

impl Stranger {
    async fn run(mut self) {
        let mut alarm = Alarm::default();
        loop {
            self.socket.update_undelivered(self.session.outbox());
            let now = self.clock.now();
            let deadline = loop {
                match self.session.poll(now) {
                    Next::Event(event) => self.event(event),
                    Next::Idle(deadline) => break deadline,
                    Next::Done => return,
                }
            };
            let strikes = self.strikes_at.is_some_and(|at| now >= at);
            let is_done =
                self.ending.is_some() && self.process.as_ref().is_some_and(Model::output_ended);
            if !self.over && (strikes || is_done) {
                self.end(now);
                continue;
            }
            if self.over && self.defect == Runtime::Frozen {
                return self.hangs().await;
            }
            // It closes right behind its last word, whatever was not read.
            if self.over && self.defect == Runtime::Abrupt && self.session.outbox().is_empty() {
                return;
            }
            alarm.set(&self.clock, earlier(deadline, self.strikes_at.filter(|_| !self.over)));
            match poll_fn(|cx| self.poll(cx, &mut alarm)).await {
                Wake::Socket(SocketEvent::Read(bytes)) => {
                    self.session.receive(self.clock.now(), bytes)
                }
                Wake::Socket(SocketEvent::Ended(_)) => self.session.receive_end(self.clock.now()),
                Wake::Socket(SocketEvent::Wrote) | Wake::Deadline => {}
                Wake::Act(act) => self.act(act),
                Wake::Ended(ending) => self.ending = Some(ending),
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Wake> {
        let room = self.session.outbox().len() < limits::OUTBOX_BYTES;
        if let Some(process) = self.process.as_mut().filter(|_| !self.over) {
            if let Poll::Ready(act) = process.poll(cx, &mut self.stdin, room) {
                return Poll::Ready(Wake::Act(act));
            }
            if let Poll::Ready(ending) = process.poll_exit(cx) {
                return Poll::Ready(Wake::Ended(ending));
            }
        }
        let reads = self.session.wants_read() && self.stdin.len() < limits::STDIN_BYTES;
        if let Poll::Ready(moment) = self.socket.poll(cx, self.session.outbox(), reads) {
            return Poll::Ready(Wake::Socket(moment));
        }
        alarm.poll(cx).map(|()| Wake::Deadline)
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready => match self.command.start(None) {
                Ok(process) => {
                    if let Runtime::Invented(after) = self.defect {
                        self.strikes_at = Some(self.clock.now() + after);
                    }
                    self.process = Some(process);
                }
                Err(error) => self.says(&Status::failed(&error.to_string()), None),
            },
            Event::Data(Channel::Stdin, bytes) if !self.over => self.stdin.push(bytes),
            Event::Eof(Channel::Stdin) => self.stdin.end(),
            Event::Resize(size) => {
                if let Some(process) = &self.process {
                    process.resize(size);
                }
            }
            Event::Lost(_) => (self.process, self.over) = (None, true),
            Event::Data(..) | Event::Eof(_) | Event::Status(_) => {}
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Stdout(bytes) if matches!(self.defect, Runtime::CutsTail) => {
                let before = std::mem::replace(&mut self.tail, bytes);
                self.send(Channel::Stdout, before);
            }
            Act::Stdout(bytes) => self.send(Channel::Stdout, bytes),
            Act::Stderr(bytes) => self.send(Channel::Stderr, bytes),
            Act::StdoutEnded => self.session.finish(Channel::Stdout),
            Act::StderrEnded => self.session.finish(Channel::Stderr),
            _ => {}
        }
    }

    fn send(&mut self, channel: Channel, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.journal.open().sent[lane(channel)] += bytes.len() as u64;
        self.session.send(channel, bytes);
    }

    fn says(&mut self, status: &Status, code: Option<u8>) {
        self.journal.open().said = code;
        self.session.status(self.clock.now(), status);
        (self.process, self.over) = (None, true);
    }

    /// What it makes of the end of its process, or of its runtime's.
    fn end(&mut self, now: Time) {
        let code = self.ending.map_or(0, ExitStatus::code);
        let why = format!("command terminated with non-zero exit code, exit code {code}");
        let defect = self.defect;
        if defect.is_harmful() {
            self.journal.open().fault(format_args!("the node: {defect:?}"));
        }
        match defect {
            Runtime::NoStatus => {
                // Where there is no JSON, silence in good order says success.
                let json = self.session.protocol().json_status;
                self.journal.open().said = (!json).then_some(0);
                for channel in [Channel::Stdout, Channel::Stderr, Channel::Error] {
                    self.session.finish(channel);
                }
                self.session.leave(now);
                (self.process, self.over) = (None, true);
            }
            Runtime::Frozen => (self.process, self.over) = (None, true),
            Runtime::Invented(_) => self.says(&Status::success(), Some(0)),
            _ => self.says(&Status::exited(code, &why), Some(code)),
        }
    }

    /// It neither reads nor writes any more; its kernel acknowledges what fits.
    async fn hangs(self) {
        while !self.socket.is_peer_gone() {
            sleep(LOOK_EVERY).await;
        }
    }
}
