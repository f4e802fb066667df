//! One exec or attach: joins an upgraded connection with a process, from the first stream to the
//! Status.

use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::drive::{Driver, Ends, Step, WriteQueue};
use bowline_io::liveness::Blocked;
use bowline_io::record::{End, Traffic};
use bowline_io::serve::CLOSE_PATIENCE;
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::session::{
    Cause, Channel, Event, Loss, Protocol, Session, Side, Size, Status, Wants,
};
use bowline_proto::{Machine, Time, limits};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::runtime::{
    Act, BoxFuture, Command, Drain, ExitStatus, LocalSession, Process, StartError,
};

/// With a terminal, how long the first size may take before the process starts without one. A
/// program that asks at once must not be told 0 by 0.
const FIRST_SIZE_PATIENCE: Duration = Duration::from_millis(500);

/// Runs `command` for the client at the other end of `connection`, until both have ended or `end`
/// is cancelled. `wants` are the channels that the client wants, `protocol` is what it speaks.
/// Returns how the session ended, and how many bytes were read.
///
/// Dropped before that, it hangs the process up, and the client is not told.
pub async fn run<S: Connection, C: Command>(
    command: C,
    wants: Wants,
    protocol: &'static Protocol,
    connection: Upgraded<S>,
    end: CancellationToken,
) -> (End, Traffic) {
    let seed = bowline_io::random::bytes();
    let session = Session::new(Side::Server, protocol, wants, seed);
    let mut driver = Driver::new(connection, session);
    let mut session = CommandSession {
        drain: command.drain(),
        command,
        wants,
        stdin: WriteQueue::default(),
        half_closes: protocol.half_closes,
        size: None,
        state: State::Setup,
        end: None,
        err_ended: false,
    };
    let aborted = tokio::select! {
        biased;
        () = session.run(&mut driver) => false,
        () = end.cancelled() => true,
    };
    if aborted {
        session.abort(&mut driver).await;
    }
    // Without an end, the client has gone before all of its streams were there.
    let end = session.end.unwrap_or_else(|| End::ClientGone("before the command began".into()));
    (end, Traffic { from_client: driver.received(), to_client: driver.sent() })
}

impl<C> LocalSession for C
where
    C: Command + Send + 'static,
    C::Process: Send,
{
    fn run(
        self: Box<Self>,
        wants: Wants,
        protocol: &'static Protocol,
        connection: Upgraded,
        end: CancellationToken,
    ) -> BoxFuture<'static, (End, Traffic)> {
        Box::pin(run(*self, wants, protocol, connection, end))
    }
}

struct CommandSession<C: Command> {
    command: C,
    wants: Wants,
    /// Input that the process has not taken yet.
    stdin: WriteQueue,
    half_closes: bool,
    drain: Drain,
    size: Option<Size>,
    state: State<C::Process>,
    /// How the session ended, once it has given its last event or was given its Status.
    end: Option<End>,
    /// The process's stderr has come to its end.
    err_ended: bool,
}

enum State<P> {
    /// The client has not opened all of its streams.
    Setup,
    /// Everything is there but the terminal's size, which is waited for until this time.
    Size(Time),
    /// The process runs.
    Process(Box<P>),
    /// The process has ended; what it wrote is still to be read.
    Drain(Draining<P>),
    /// Nothing is left to run.
    Over,
}

/// A process that has ended. What it wrote is in its pipes, and is read until they are empty,
/// however slow the client is. Then whoever else holds them is waited for, until a deadline where
/// there is one.
struct Draining<P> {
    process: Box<P>,
    exit: ExitStatus,
    until: Option<Time>,
    /// How many bytes were read since the process ended.
    read: usize,
    /// All that the process itself wrote was read.
    drained: bool,
}

enum Acted {
    Act(Act),
    Ended(ExitStatus),
    /// All that the process itself wrote was read: from here on only others are waited for.
    Drained,
}

/// The client's session, and what time it is.
struct Client<'a> {
    session: &'a mut Session,
    now: Time,
}

impl<C: Command> CommandSession<C> {
    async fn run<S: Connection>(&mut self, driver: &mut Driver<S, Session>) {
        loop {
            let step = driver.next(self).await;
            let now = driver.now();
            let client = &mut Client { session: driver.machine(), now };
            match step {
                Step::Event(event) => self.event(client, event),
                Step::Act(Acted::Act(act)) => self.act(client, act),
                Step::Act(Acted::Ended(exit)) => self.drain(exit),
                Step::Act(Acted::Drained) => self.drained(now),
                Step::Deadline => self.deadline_passed(client),
                Step::Gone => self.lost(&Loss::new(Cause::Cut, "while the process takes no input")),
                Step::Done => return,
            }
            if matches!(&self.state, State::Drain(drain) if drain.process.output_ended()) {
                self.conclude(&mut Client { session: driver.machine(), now });
            }
        }
    }

    fn deadline_passed(&mut self, client: &mut Client<'_>) {
        match &self.state {
            State::Size(_) => self.start(client),
            State::Drain(_) => self.conclude(client),
            State::Setup | State::Process(_) | State::Over => {}
        }
    }

    fn event(&mut self, client: &mut Client<'_>, event: Event) {
        match event {
            Event::Ready if self.wants.tty && self.size.is_none() => {
                self.state = State::Size(client.now + FIRST_SIZE_PATIENCE);
            }
            Event::Ready => self.start(client),
            Event::Data(Channel::Stdin, bytes) => {
                // What has ended takes no more.
                if !matches!(self.state, State::Drain(_) | State::Over) {
                    self.stdin.push(bytes);
                }
                // Input means that the client is there: no size is waited for.
                if matches!(self.state, State::Size(_)) {
                    self.start(client);
                }
            }
            Event::Eof(Channel::Stdin) => self.stdin.end(),
            Event::Resize(size) => {
                self.size = Some(size);
                match &self.state {
                    State::Size(_) => self.start(client),
                    State::Process(process) => process.resize(size),
                    _ => {}
                }
            }
            Event::Lost(loss) => self.lost(&loss),
            Event::Data(..) | Event::Eof(_) | Event::Status(_) => {}
        }
    }

    fn start(&mut self, client: &mut Client<'_>) {
        let size = self.size.filter(|_| self.wants.tty);
        match self.command.start(size) {
            Ok(process) => self.state = State::Process(Box::new(process)),
            Err(error) => self.not_started(client, &error),
        }
    }

    fn not_started(&mut self, client: &mut Client<'_>, error: &StartError) {
        warn!("{error}");
        self.end(client, &Status::failed(&error.to_string()));
    }

    fn end(&mut self, client: &mut Client<'_>, status: &Status) {
        client.session.status(client.now, status);
        self.end = Some(End::Outcome(status.outcome().clone()));
        self.state = State::Over;
    }

    fn act(&mut self, client: &mut Client<'_>, act: Act) {
        if let (State::Drain(drain), Act::Stdout(bytes) | Act::Stderr(bytes)) =
            (&mut self.state, &act)
        {
            drain.read += bytes.len();
        }
        match act {
            Act::Stdout(bytes) => client.session.send(Channel::Stdout, bytes),
            Act::Stderr(bytes) => client.session.send(Channel::Stderr, bytes),
            Act::StdoutEnded => client.session.finish(Channel::Stdout),
            Act::StderrEnded => {
                self.err_ended = true;
                client.session.finish(Channel::Stderr);
            }
            Act::TookInput => {}
            Act::Broken(why) => {
                warn!("{}: {why}", self.command);
                self.end(client, &Status::failed(&why));
            }
            Act::NotStarted(error) => self.not_started(client, &error),
            Act::Lost(why) => {
                warn!("{}: {why}", self.command);
                client.session.lose(client.now, &why);
                self.end = Some(End::Lost(why));
                self.state = State::Over;
            }
        }
    }

    fn drain(&mut self, exit: ExitStatus) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Process(process) => {
                State::Drain(Draining { process, exit, until: None, read: 0, drained: false })
            }
            other => other,
        };
    }

    fn conclude(&mut self, client: &mut Client<'_>) {
        let State::Drain(drain) = &mut self.state else { return };
        let (code, is_cut) = (drain.exit.code(), !drain.process.output_ended());
        drain.process.release();
        if is_cut && !self.say_cut(client) {
            return;
        }
        let why = format!("error executing command [{}], exit code {code}", self.words());
        self.end(client, &Status::exited(code, &why));
    }

    /// Says that the output ends while others still hold it: to the terminal or on stderr. Without
    /// either the session fails, and this returns `false`: nobody shall take what came for all of
    /// it.
    fn say_cut(&mut self, client: &mut Client<'_>) -> bool {
        let patience = self.drain.patience.unwrap_or_default();
        let why = format!(
            "the output is cut off: processes that the command left behind still hold it after \
             {patience:?}"
        );
        warn!("{}: {why}", self.command);
        if self.wants.tty && self.wants.stdout {
            client.session.send(Channel::Stdout, format!("\r\n{why}\r\n").into());
        } else if self.wants.stderr && !self.err_ended {
            client.session.send(Channel::Stderr, format!("{why}\n").into());
        } else {
            self.end(client, &Status::failed(&why));
            return false;
        }
        true
    }

    fn words(&self) -> String {
        bowline_io::text::sanitized(&self.command.words().join(" "), limits::REASON_BYTES)
            .into_owned()
    }

    /// Ends the session of a client that is gone. Dropping the process hangs it up.
    fn lost(&mut self, loss: &Loss) {
        self.end.get_or_insert_with(|| End::ClientGone(loss.to_string()));
        self.state = State::Over;
    }

    fn drained(&mut self, now: Time) {
        if let State::Drain(drain) = &mut self.state {
            drain.drained = true;
            drain.until = self.drain.patience.map(|patience| now + patience);
        }
    }

    /// Ends the session because the node shuts down: its outcome will not be known, unless it was
    /// said before. The client is told so behind the output that waits for it: a client that is cut
    /// off without a word may take what it has for all of it.
    async fn abort<S: Connection>(&mut self, driver: &mut Driver<S, Session>) {
        if self.end.is_none() {
            let now = driver.now();
            driver.machine().lose(now, "the node shuts down");
            self.state = State::Over;
            self.end = Some(End::Shutdown);
        }
        let _ = timeout(CLOSE_PATIENCE, self.run(driver)).await;
    }
}

impl<C: Command> Ends<Session> for CommandSession<C> {
    type Act = Acted;

    fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<(Acted, usize)> {
        let room = session.outbox().len() < limits::OUTBOX_BYTES;
        let process = match &mut self.state {
            State::Process(process) => process,
            // What comes behind all that the pipes can hold was written by others.
            State::Drain(drain) if !drain.drained && drain.read > self.drain.held_bytes => {
                return Poll::Ready((Acted::Drained, 0));
            }
            State::Drain(drain) => &mut drain.process,
            State::Setup | State::Size(_) | State::Over => return Poll::Pending,
        };
        if let Poll::Ready(act) = process.poll(cx, &mut self.stdin, room) {
            let bytes =
                if let Act::Stdout(bytes) | Act::Stderr(bytes) = &act { bytes.len() } else { 0 };
            return Poll::Ready((Acted::Act(act), bytes));
        }
        match &self.state {
            State::Drain(drain) if room && !drain.drained => Poll::Ready((Acted::Drained, 0)),
            _ => Poll::Pending,
        }
    }

    fn poll_last(&mut self, cx: &mut Context<'_>, _: &mut Session) -> Poll<(Acted, usize)> {
        let State::Process(process) = &mut self.state else { return Poll::Pending };
        process.poll_exit(cx).map(|exit| (Acted::Ended(exit), 0))
    }

    fn has_room(&self) -> bool {
        matches!(self.state, State::Drain(_) | State::Over)
            || self.stdin.len() < limits::STDIN_BYTES
    }

    fn came(&mut self, bytes: usize) {
        self.stdin.begin_read(bytes);
    }

    fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::Size(until) => Some(*until),
            State::Drain(drain) => drain.until,
            State::Setup | State::Process(_) | State::Over => None,
        }
    }

    /// The client is not read while the process takes no input.
    fn blocked(&self, _: &Session) -> Option<Blocked> {
        let is_blocked = matches!(self.state, State::Process(_)) && !self.has_room();
        let grace = if self.half_closes { Duration::ZERO } else { limits::CLOSED_CLIENT_GRACE };
        is_blocked.then_some(Blocked { waiting: self.stdin.len(), grace })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bowline_io::clock::Clock;
    use bowline_io::drive::{Socket, SocketEvent};
    use bowline_io::stream::Stream;
    use bowline_proto::Next;
    use bowline_proto::session::protocol::SPDY_V4;
    use bytes::BytesMut;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::sleep;

    use super::*;
    use crate::endless::Endless;

    const WANTS: Wants = Wants { stdin: false, stdout: true, stderr: false, tty: false };

    /// Plays a client that reads nothing between the first output and `end`. Returns how it was
    /// lost.
    async fn client(stream: TcpStream, end: CancellationToken) -> String {
        let clock = Clock::start();
        let mut socket = Socket::new(Stream::plain(stream), BytesMut::new());
        let mut session = Session::new(Side::Client, &SPDY_V4, WANTS, [7; 32]);
        session.begin(clock.now());
        loop {
            match session.poll(clock.now()) {
                Next::Event(Event::Lost(loss)) => return loss.to_string(),
                Next::Event(Event::Data(..)) => end.cancelled().await,
                Next::Event(Event::Status(status)) => panic!("{status:?}"),
                Next::Event(_) => {}
                Next::Done => return "done".to_owned(),
                Next::Idle(_) => {
                    match poll_fn(|cx| socket.poll(cx, session.outbox(), true)).await {
                        SocketEvent::Read(bytes) => session.receive(clock.now(), bytes),
                        SocketEvent::Ended(_) => session.receive_end(clock.now()),
                        SocketEvent::Wrote => {}
                    }
                }
            }
        }
    }

    /// Go's clients take a connection that ends without a word for success.
    #[tokio::test(start_paused = true)]
    async fn a_client_in_mid_output_is_told_that_the_node_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let ours = Upgraded { stream: Stream::plain(ours), early: BytesMut::new() };
        let end = CancellationToken::new();
        let session = run(Endless, WANTS, &SPDY_V4, ours, end.clone());
        // The clock moves once nothing else does: then all is full.
        let ends = async {
            sleep(Duration::from_secs(1)).await;
            end.cancel();
        };
        let ((ended, _), lost, ()) = tokio::join!(session, client(theirs, end.clone()), ends);
        assert_eq!(ended, End::Shutdown);
        assert!(lost.contains("the node shuts down"), "{lost}");
    }
}
