//! One kept session: moves bytes between the caller's ends and the machine, whatever connection
//! there is.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{self, Driver, Step, WriteQueue};
use bowline_io::random;
use bowline_io::record::{self, Pending};
use bowline_proto::kept::{
    Carried, Client as Session, ClientEvent as Event, Connected, Gap, Leave, Retry, Stream,
};
use bowline_proto::limits::KEPT_INPUT_BYTES;
use bowline_proto::session::{Cause, Loss, Size, Status};
use bowline_proto::{Machine, Next, Time};
use bytes::BytesMut;
use tokio::io::AsyncWrite as _;
use tokio::time::{Sleep, sleep, sleep_until, timeout};

use super::connect::{Connector, NoConnection};
use super::screens::Screens;
use super::{Change, Goodbye, KeptEnd, Refused};
use crate::error::Error;
use crate::session::{EndError, Ended, Ends, NextSize, next_size, poll_size, told};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);
/// How much is written before it is asked whether that is where it belongs, and how long it may be
/// less. Each answer wakes this program, and the other end is told much later.
const FLUSH_BYTES: usize = 128 * 1024;
const FLUSH_WITHIN: Duration = Duration::from_millis(5);
/// How long a terminal that is slow to take its output holds up what is typed.
const HELD_FOR: Duration = Duration::from_millis(50);

/// A session and the caller's ends.
pub(super) struct Running {
    clock: Clock,
    /// The machine, while it has no connection.
    session: Option<Session>,
    ends: Ends,
    outputs: [WriteQueue; 2],
    /// What was written of each and may not be where it belongs yet.
    unflushed_bytes: [usize; 2],
    /// When it is asked whether it is.
    flush: Option<Pin<Box<Sleep>>>,
    /// How much of that is no part of the stream.
    uncounted_bytes: usize,
    screens: Screens,
    /// stdout is a terminal.
    pub(super) is_shown: bool,
    next_size: Option<NextSize>,
    /// Until when nothing is read that is typed.
    held: Option<Pin<Box<Sleep>>>,
    tell: Arc<dyn Fn(Change) + Send + Sync>,
    leaves: Option<Goodbye>,
    stdin_over: bool,
    received_bytes: u64,
    missed_bytes: u64,
    untaken_bytes: u64,
    /// The command has a terminal.
    tty: bool,
    end: Option<Result<Ended, Error>>,
    /// The session, until it is there, and then its hooks.
    pending: Option<Pending>,
    record: Option<record::Running>,
    is_left: bool,
    /// The other end knows that it was left.
    is_told: bool,
}

/// What the caller's ends have done.
pub(super) enum Act {
    Input(BytesMut),
    Size(Size),
    Wrote(Stream, usize),
}

type Acted = Result<Act, EndError>;

const OUTPUTS: [(Stream, &str); 2] = [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")];

/// What the program in the container says of why it does not carry a session.
fn not_run(carried: &Carried, status: &Status) -> String {
    let (errors, ended) = (carried.errors(), status.text());
    let said = if errors.trim().is_empty() { &ended } else { &errors };
    format!("the program in the container says: {}", said.trim())
}

/// Whoever keeps the session takes this client for one that has vanished.
fn not_told() -> Error {
    let text = "whoever keeps the session could not be told that its client leaves: its command is \
                hung up unless a client comes back in time";
    Error::NotKept(Refused { code: 0, text: text.into() })
}

/// How a session is left by these words.
fn how(goodbye: Goodbye) -> Leave {
    match goodbye {
        Goodbye::Detach => Leave::Running,
        Goodbye::HangUp => Leave::HungUp,
    }
}

impl Running {
    pub(super) fn new(
        machine: impl FnOnce(Time, Retry) -> Session,
        keep_for: Duration,
        ends: Ends,
        tell: Arc<dyn Fn(Change) + Send + Sync>,
        leaves: Option<Goodbye>,
        pending: Pending,
    ) -> Running {
        let clock = Clock::start();
        let retry = Retry { give_up_after: keep_for, seed: random::bytes() };
        Running {
            clock,
            session: Some(machine(clock.now(), retry)),
            stdin_over: ends.stdin.is_none(),
            ends,
            outputs: [WriteQueue::default(), WriteQueue::default()],
            unflushed_bytes: [0; 2],
            flush: None,
            uncounted_bytes: 0,
            screens: Screens::default(),
            is_shown: false,
            next_size: None,
            held: None,
            tell,
            leaves,
            received_bytes: 0,
            missed_bytes: 0,
            untaken_bytes: 0,
            tty: false,
            end: None,
            pending: Some(pending),
            record: None,
            is_left: false,
            is_told: false,
        }
    }

    /// Runs it to its end, or leaves it once `stop` resolves.
    pub(super) async fn run(
        mut self,
        mut connector: Connector,
        stop: impl Future<Output = Goodbye>,
    ) -> Result<Option<KeptEnd>, Error> {
        let mut stop = pin!(stop);
        let mut driver: Option<Driver<_, Carried>> = None;
        loop {
            if self.is_left {
                return if self.is_told { Ok(None) } else { Err(not_told()) };
            }
            if self.end.is_some() && self.outputs.iter().all(WriteQueue::is_empty) {
                break;
            }
            let step = async {
                match &mut driver {
                    Some(driver) => self.step(driver).await,
                    None => self.without(&mut connector).await.map(Some),
                }
            };
            let stepped = tokio::select! {
                stepped = step => stepped,
                goodbye = &mut stop => {
                    let is_told = match &mut driver {
                        Some(driver) => Running::leave(driver, how(goodbye)).await,
                        None => false,
                    };
                    // What is to end does so in any case, if later.
                    let is_left = is_told || goodbye == Goodbye::HangUp;
                    return if is_left { Ok(None) } else { Err(not_told()) };
                }
            };
            match stepped {
                Ok(Some(Connection::Up(upgraded, carried))) => {
                    driver = Some(Driver::by(self.clock, upgraded, *carried));
                }
                Ok(Some(Connection::Down)) => {
                    let gone = driver.take().map(Driver::into_machine);
                    if let Some(carried) = &gone
                        && let Some(status) = carried.status()
                    {
                        let is_tried_again = connector.look_again();
                        let has_failed = !status.outcome().is_success() && !is_tried_again;
                        if has_failed && !carried.may_have_begun() {
                            return Err(Error::NoPlace(not_run(carried, status)));
                        }
                    }
                    self.session = gone.map(Carried::into_client).or(self.session.take());
                }
                Ok(None) => {}
                Err(error) => {
                    if let Some(driver) = &mut driver {
                        Running::leave(driver, Leave::HungUp).await;
                    }
                    return Err(error);
                }
            }
        }
        if let Some(driver) = &mut driver {
            // That the outcome has come.
            let _ = timeout(GOODBYE, driver.flush()).await;
        }
        self.ends.flush().await?;
        let Some(ended) = self.end.take() else { return Ok(None) };
        if let (Some(record), Ok(ended)) = (self.record.take(), &ended) {
            record.end(told(Some(&Ok(ended.clone()))), None);
        }
        let (missed_bytes, untaken_bytes) = (self.missed_bytes, self.untaken_bytes);
        Ok(Some(KeptEnd { ended: ended?, missed_bytes, untaken_bytes, tty: self.tty }))
    }

    /// Does the next thing with a connection.
    async fn step<S: bowline_io::stream::Connection>(
        &mut self,
        driver: &mut Driver<S, Carried>,
    ) -> Result<Option<Connection>, Error> {
        let step = driver.next(self).await;
        let now = driver.now();
        let session = driver.machine().client();
        match step {
            Step::Event(event) => {
                let is_down = matches!(event, Event::Down(_) | Event::Connect);
                self.event(session, event);
                if let Some(goodbye) = self.leaves
                    && session.is_up()
                {
                    self.is_left = true;
                    self.is_told = Running::leave(driver, how(goodbye)).await;
                }
                return Ok(is_down.then_some(Connection::Down));
            }
            Step::Act(act) => self.act(now, session, act?),
            Step::Deadline | Step::Gone | Step::Done => {}
        }
        Ok(None)
    }

    /// Does the next thing without one.
    async fn without(&mut self, connector: &mut Connector) -> Result<Connection, Error> {
        let Some(mut session) = self.session.take() else { return Ok(Connection::Down) };
        let now = self.clock.now();
        match session.poll(now) {
            Next::Event(Event::Connect) => {
                let resumes = session.resumes();
                // Of one that is only to be resumed, nothing is lost if there is no way to it.
                let may_be_there = session.may_have_begun();
                let is_tried_again = may_be_there && (session.was_up() || !resumes);
                let connecting = async {
                    match connector.connect(resumes).await {
                        Err(NoConnection::ForNow(error)) if may_be_there => {
                            Err(connector.judged(error).await)
                        }
                        connected => connected,
                    }
                };
                // What is dropped by a stop is hung up by its host in time.
                match self.meanwhile(&mut session, connecting).await? {
                    Ok((upgraded, carrier)) => {
                        let carried = Carried::new(self.clock.now(), session, carrier);
                        return Ok(Connection::Up(upgraded, Box::new(carried)));
                    }
                    Err(NoConnection::ForNow(error)) if is_tried_again => {
                        let why = error.to_string();
                        session.failed(self.clock.now(), &why);
                        (self.tell)(Change::StillLost(why));
                    }
                    Err(NoConnection::Ever(error)) if is_tried_again => {
                        session.give_up(Loss::new(Cause::Closed, error.to_string()));
                    }
                    Err(NoConnection::ForNow(error) | NoConnection::Ever(error)) => {
                        return Err(error);
                    }
                }
            }
            Next::Event(event) => self.event(&mut session, event),
            Next::Idle(Some(until)) => {
                let until = self.clock.instant(until);
                self.meanwhile(&mut session, sleep_until(until)).await?;
            }
            Next::Idle(None) => self.meanwhile(&mut session, std::future::pending()).await?,
            Next::Done => poll_fn(|cx| self.poll_outputs(cx)).await?,
        }
        self.session = Some(session);
        Ok(Connection::Down)
    }

    /// Waits without a connection; the caller's ends go on. Keys that leave the session are among
    /// the input.
    async fn meanwhile<T>(
        &mut self,
        session: &mut Session,
        wait: impl Future<Output = T>,
    ) -> Result<T, EndError> {
        let mut wait = pin!(wait);
        loop {
            let act = tokio::select! {
                biased;
                waited = &mut wait => return Ok(waited),
                (act, _) = poll_fn(|cx| self.poll_ends(cx, session)) => act?,
            };
            self.act(self.clock.now(), session, act);
        }
    }

    fn event(&mut self, session: &mut Session, event: Event) {
        match event {
            Event::Up(connected) => self.up(session, connected),
            Event::Data(stream, bytes) => {
                self.received_bytes += bytes.len() as u64;
                if stream == Stream::Stdout {
                    self.screens.queued(bytes.len());
                }
                self.outputs[usize::from(stream == Stream::Stderr)].push(bytes);
            }
            Event::Gap(Gap { stream, bytes, untaken_bytes }) => {
                self.missed_bytes += bytes;
                self.untaken_bytes += untaken_bytes;
                (self.tell)(Change::Gap(stream, bytes));
            }
            Event::Screen(bytes) => {
                if self.is_shown && self.screens.queue_screen(bytes.len()) {
                    self.outputs[0].push(bytes);
                }
            }
            Event::Down(loss) if session.was_up() => (self.tell)(Change::Lost(loss)),
            Event::Ended(status) => self.end = Some(Ok(Ended::Known(status.outcome().clone()))),
            Event::Lost(loss) => {
                let received_bytes = self.received_bytes;
                self.end = Some(Ok(Ended::Lost { loss, received_bytes }));
            }
            Event::Refused(refused) => self.end = Some(Err(Error::NotKept(refused))),
            Event::Connect | Event::Eof(_) | Event::Down(_) => {}
        }
    }

    fn up(&mut self, session: &mut Session, connected: Connected) {
        let Connected { started, away, outputs, stdin_over, wants } = connected;
        self.tty = wants.tty;
        (self.tell)(match away {
            Some(away) => Change::Restored(away),
            None => Change::Up { started, outputs, tty: wants.tty, stdin: wants.stdin },
        });
        if away.is_some() {
            return;
        }
        self.record = self.pending.take().map(Pending::begin);
        if stdin_over || !wants.stdin {
            self.stdin_over = true;
        } else if self.ends.stdin.is_none() && started {
            session.finish();
        }
        if let Some(mut sizes) = self.ends.sizes.take().filter(|_| wants.tty) {
            session.resize(*sizes.borrow_and_update());
            self.next_size = Some(next_size(sizes));
        }
    }

    fn act(&mut self, now: Time, session: &mut Session, act: Act) {
        match act {
            Act::Input(bytes) if bytes.is_empty() => {
                self.stdin_over = true;
                session.finish();
            }
            Act::Input(bytes) => session.send(bytes.freeze()),
            Act::Size(size) => session.resize(size),
            Act::Wrote(stream, bytes) => session.took(now, stream, bytes),
        }
    }

    /// Moves output to where it belongs. Ready with what is certainly there: bytes that a writer
    /// has only taken would be lost with this program, and nobody would send them again.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Stream, usize), EndError>> {
        let mut sinks = [&mut self.ends.stdout, &mut self.ends.stderr];
        let outputs = self.outputs.iter_mut().zip(&mut self.unflushed_bytes).zip(&mut sinks);
        for (((queue, unflushed), sink), (stream, name)) in outputs.zip(OUTPUTS) {
            while let Poll::Ready(written) = queue.poll_into(cx, sink) {
                let written = written.map_err(|error| EndError::Write(name, error))?;
                *unflushed += written;
                if stream == Stream::Stdout {
                    self.uncounted_bytes += written - self.screens.wrote(written);
                }
            }
        }
        if !self.is_flushed_now(cx) {
            return Poll::Pending;
        }
        let sinks = [&mut self.ends.stdout, &mut self.ends.stderr];
        let outputs = self.unflushed_bytes.iter_mut().zip(sinks);
        for ((unflushed, sink), (stream, name)) in outputs.zip(OUTPUTS) {
            if *unflushed > 0
                && let Poll::Ready(flushed) = Pin::new(sink).poll_flush(cx)
            {
                flushed.map_err(|error| EndError::Write(name, error))?;
                let mut taken = std::mem::take(unflushed);
                if stream == Stream::Stdout {
                    taken -= std::mem::take(&mut self.uncounted_bytes);
                }
                return Poll::Ready(Ok((stream, taken)));
            }
        }
        Poll::Pending
    }

    /// Whether it is to be asked if what was written is where it belongs.
    fn is_flushed_now(&mut self, cx: &mut Context<'_>) -> bool {
        let bytes: usize = self.unflushed_bytes.iter().sum();
        if bytes == 0 || bytes >= FLUSH_BYTES || self.tty {
            self.flush = None;
            return bytes > 0;
        }
        let flush = self.flush.get_or_insert_with(|| Box::pin(sleep(FLUSH_WITHIN)));
        // Once it is time, it is until all is there.
        flush.is_elapsed() || flush.as_mut().poll(cx).is_ready()
    }

    /// Whether nothing is read that is typed. It may be a terminal's answer to what it has just
    /// been given, and that is to be acknowledged in front of it: another one would answer again.
    fn is_held(&mut self, cx: &mut Context<'_>) -> bool {
        if self.tty && self.unflushed_bytes[0] > 0 {
            let held = self.held.get_or_insert_with(|| Box::pin(sleep(HELD_FOR)));
            if held.as_mut().poll(cx).is_pending() {
                return true;
            }
        }
        self.held = None;
        false
    }

    /// Polls the caller's ends: output goes to where it belongs, and then input comes, where there
    /// is room for it.
    fn poll_ends(&mut self, cx: &mut Context<'_>, session: &Session) -> Poll<(Acted, usize)> {
        if let Poll::Ready(written) = self.poll_write(cx) {
            return Poll::Ready((written.map(|(stream, bytes)| Act::Wrote(stream, bytes)), 0));
        }
        if self.end.is_some() || self.stdin_over || !session.has_room() {
            return Poll::Pending;
        }
        // What was typed in a size comes behind it.
        if let Poll::Ready(size) = poll_size(&mut self.next_size, cx) {
            return Poll::Ready((Ok(Act::Size(size)), 0));
        }
        if self.is_held(cx) {
            return Poll::Pending;
        }
        self.ends.poll_stdin(cx, KEPT_INPUT_BYTES).map(|read| {
            let bytes = read.as_ref().map_or(0, BytesMut::len);
            (read.map(Act::Input), bytes)
        })
    }

    /// Writes all that waits.
    fn poll_outputs(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndError>> {
        while self.outputs.iter().any(|queue| !queue.is_empty()) {
            std::task::ready!(self.poll_write(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Leaves a session that may be there; whether its host has heard that.
    async fn leave<S: bowline_io::stream::Connection>(
        driver: &mut Driver<S, Carried>,
        how: Leave,
    ) -> bool {
        driver.machine().client().leave(how);
        let both = async {
            driver.settle(Carried::has_left).await;
            // Whatever passes the connection on sees it end in good order.
            driver.settle(|_| false).await;
        };
        let _ = timeout(GOODBYE, both).await;
        driver.machine().has_left()
    }
}

/// Whether there is a connection now.
pub(super) enum Connection {
    Up(bowline_io::stream::Upgraded, Box<Carried>),
    Down,
}

impl drive::Ends<Carried> for Running {
    type Act = Acted;

    fn poll(&mut self, cx: &mut Context<'_>, carried: &mut Carried) -> Poll<(Acted, usize)> {
        self.poll_ends(cx, carried.client())
    }

    fn poll_last(&mut self, cx: &mut Context<'_>, _: &mut Carried) -> Poll<(Acted, usize)> {
        if self.end.is_some() {
            return Poll::Pending;
        }
        poll_size(&mut self.next_size, cx).map(|size| (Ok(Act::Size(size)), 0))
    }

    /// The peer sends no more than its window allows.
    fn has_room(&self) -> bool {
        true
    }

    fn came(&mut self, bytes: usize) {
        self.outputs.iter_mut().for_each(|queue| queue.begin_read(bytes));
    }
}
