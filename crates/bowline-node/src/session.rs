//! One exec or attach: joins an upgraded connection with a process, from the first stream to the
//! Status.
//! Above: `kubelet`. Below: `process`, `bowline_io::drive`, `bowline_proto::session`.

use std::fmt::Display;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Inflow, Moment, Socket, take_turns};
use bowline_io::lookout::{Blocked, Lookout, Seen};
use bowline_io::record::{End, Traffic};
use bowline_io::serve::GOODBYE_PATIENCE;
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::session::{
    Cause, Channel, Event, Loss, Protocol, Session, Side, Size, Status, Wants,
};
use bowline_proto::time::earlier;
use bowline_proto::{Machine, Next, Time, limits};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::pipes::PIPE_BYTES;
use crate::process::{Act, Ending, Process, StartError};

/// With a terminal, how long the first size may take before the process starts without one. A
/// program that asks at once must not be told 0 by 0.
const FIRST_SIZE_PATIENCE: Duration = Duration::from_millis(500);
/// The most that a process's two pipes hold when it ends.
const OWN_BYTES: usize = 2 * PIPE_BYTES;

/// A command and where it would run. It shows itself as a log names it.
pub trait Command: Display {
    /// What it is once it runs.
    type Process: Process;

    /// Starts it, with a terminal of this size where there is one.
    ///
    /// # Errors
    /// [`StartError`].
    fn start(&mut self, size: Option<Size>) -> Result<Self::Process, StartError>;

    /// Its words.
    fn words(&self) -> &[String];

    /// After it has ended: how long its output is read on while something else holds the other
    /// end; `None` for as long as that does.
    fn drain_patience(&self) -> Option<Duration>;
}

/// Runs `command` for the client at the other end of `connection`, until both have ended or `end`.
/// `wants` are the channels that the client wants, `protocol` is what it speaks. Gives how it
/// ended, and how many bytes were read.
pub async fn run<S: Connection, C: Command>(
    command: C,
    wants: Wants,
    protocol: &'static Protocol,
    connection: Upgraded<S>,
    end: CancellationToken,
) -> (End, Traffic) {
    let seed = bowline_io::chance::bytes();
    let mut running = Running {
        clock: Clock::start(),
        socket: Socket::new(connection.stream, connection.early),
        session: Session::new(Side::Server, protocol, wants, seed),
        command,
        wants,
        stdin: Inflow::default(),
        lookout: Lookout::default(),
        size: None,
        phase: Phase::Setup,
        end: None,
        err_ended: false,
        traffic: Traffic::default(),
    };
    let aborted = tokio::select! {
        biased;
        () = running.run() => false,
        () = end.cancelled() => true,
    };
    if aborted {
        running.abort().await;
    }
    // Without an end the client has only ever set up.
    let end = running.end.unwrap_or_else(|| End::ClientGone("before the command began".into()));
    (end, running.traffic)
}

struct Running<S, C: Command> {
    clock: Clock,
    socket: Socket<S>,
    session: Session,
    command: C,
    wants: Wants,
    /// Input that the process has not taken yet.
    stdin: Inflow,
    lookout: Lookout,
    size: Option<Size>,
    phase: Phase<C::Process>,
    /// How it ended: the session has given its last event, or was given its Status.
    end: Option<End>,
    /// Its errors have come to their end.
    err_ended: bool,
    traffic: Traffic,
}

enum Phase<P> {
    /// The client has not opened all streams.
    Setup,
    /// Everything is there but the terminal's size, which may still come until then.
    Size(Time),
    /// It runs.
    Process(Box<P>),
    /// It has ended; what it wrote is still to be read.
    Drain(Drain<P>),
    /// Nothing is left to run.
    Over,
}

/// What a process that has ended wrote is in its pipes: it is read until they are dry, however slow
/// the client is. Then whoever else holds them is waited for, or has until a deadline to end.
struct Drain<P> {
    process: Box<P>,
    ending: Ending,
    until: Option<Time>,
    /// So much was read since, and then nothing was there.
    read: usize,
    dry: bool,
}

enum Wake {
    Socket(Moment),
    Act(Act),
    Ended(Ending),
    Deadline,
}

impl<S: Connection, C: Command> Running<S, C> {
    async fn run(&mut self) {
        let mut alarm = Alarm::default();
        loop {
            let Some(deadline) = self.advance() else { return };
            alarm.set(&self.clock, deadline);
            let wake = poll_fn(|cx| self.poll(cx, &mut alarm)).await;
            let now = self.clock.now();
            let moved = match &wake {
                Wake::Socket(Moment::Read(bytes)) => bytes.len(),
                Wake::Act(Act::Out(bytes) | Act::Err(bytes)) => bytes.len(),
                _ => 0,
            };
            let from_client = matches!(wake, Wake::Socket(_));
            self.traffic.count(from_client, moved);
            match wake {
                Wake::Socket(Moment::Read(bytes)) => {
                    self.stdin.round(bytes.len());
                    self.session.receive(now, bytes);
                }
                Wake::Socket(Moment::Ended(_)) => self.session.receive_end(now),
                Wake::Socket(Moment::Wrote) | Wake::Deadline => {}
                Wake::Act(act) => self.act(act),
                Wake::Ended(ending) => self.drain(ending),
            }
            take_turns(moved).await;
        }
    }

    /// Takes events and passes deadlines until there is nothing to do but wait, at most until the
    /// moment that is given. `None` once everything is over.
    fn advance(&mut self) -> Option<Option<Time>> {
        let now = self.clock.now();
        self.socket.look_after(self.session.outbox());
        let deadline = loop {
            match self.session.poll(now) {
                Next::Event(event) => self.event(event),
                Next::Idle(deadline) => break deadline,
                Next::Done => return None,
            }
        };
        let own = match &self.phase {
            Phase::Size(until) if now >= *until => {
                self.start();
                return self.advance();
            }
            Phase::Drain(drain)
                if drain.process.is_silent() || drain.until.is_some_and(|until| now >= until) =>
            {
                self.conclude();
                return self.advance();
            }
            Phase::Size(until) => Some(*until),
            Phase::Drain(drain) => drain.until,
            _ => None,
        };
        let Seen::Nothing(look) = self.look_after_client(now) else {
            self.session.receive_end(now);
            self.lost(&Loss::new(Cause::Cut, "while the process takes no input"));
            return self.advance();
        };
        Some(earlier(earlier(deadline, own), look))
    }

    /// While the process takes no input, the client is not read.
    fn look_after_client(&mut self, now: Time) -> Seen {
        let is_blocked = matches!(self.phase, Phase::Process(_)) && !self.has_room();
        let half_closes = self.session.protocol().half_closes;
        let grace = if half_closes { Duration::ZERO } else { limits::CLOSED_CLIENT_GRACE };
        let blocked = Blocked { waiting: self.stdin.len(), grace };
        self.lookout.look(now, &self.socket, is_blocked.then_some(blocked))
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready if self.wants.tty && self.size.is_none() => {
                self.phase = Phase::Size(self.clock.now() + FIRST_SIZE_PATIENCE);
            }
            Event::Ready => self.start(),
            Event::Data(Channel::Stdin, bytes) => {
                // What has ended takes no more.
                if !matches!(self.phase, Phase::Drain(_) | Phase::Over) {
                    self.stdin.push(bytes);
                }
                // Whoever types does not wait for a size.
                if matches!(self.phase, Phase::Size(_)) {
                    self.start();
                }
            }
            Event::Eof(Channel::Stdin) => self.stdin.end(),
            Event::Resize(size) => {
                self.size = Some(size);
                match &self.phase {
                    Phase::Size(_) => self.start(),
                    Phase::Process(process) => process.resize(size),
                    _ => {}
                }
            }
            Event::Lost(loss) => self.lost(&loss),
            Event::Data(..) | Event::Eof(_) | Event::Status(_) => {}
        }
    }

    fn start(&mut self) {
        let size = self.size.filter(|_| self.wants.tty);
        match self.command.start(size) {
            Ok(process) => self.phase = Phase::Process(Box::new(process)),
            Err(error) => {
                let why = format!(
                    "error executing command in container: exec failed: unable to start \
                     container process: {error}"
                );
                warn!("{why}");
                self.end(&Status::failed(&why));
            }
        }
    }

    fn end(&mut self, status: &Status) {
        self.session.status(self.clock.now(), status);
        self.end = Some(End::Outcome(status.outcome().clone()));
        self.phase = Phase::Over;
    }

    fn act(&mut self, act: Act) {
        if let (Phase::Drain(drain), Act::Out(bytes) | Act::Err(bytes)) = (&mut self.phase, &act) {
            drain.read += bytes.len();
        }
        match act {
            Act::Out(bytes) => self.session.send(Channel::Stdout, bytes),
            Act::Err(bytes) => self.session.send(Channel::Stderr, bytes),
            Act::OutEnded => self.session.finish(Channel::Stdout),
            Act::ErrEnded => {
                self.err_ended = true;
                self.session.finish(Channel::Stderr);
            }
            Act::Took => {}
            Act::Broken(why) => {
                warn!("{}: {why}", self.command);
                self.end(&Status::failed(&why));
            }
        }
    }

    fn drain(&mut self, ending: Ending) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Process(process) => {
                Phase::Drain(Drain { process, ending, until: None, read: 0, dry: false })
            }
            other => other,
        };
    }

    fn conclude(&mut self) {
        let Phase::Drain(drain) = &mut self.phase else { return };
        let (code, is_cut) = (drain.ending.code(), !drain.process.is_silent());
        drain.process.leave();
        if is_cut && !self.say_cut() {
            return;
        }
        let why = format!("error executing command [{}], exit code {code}", self.words());
        self.end(&Status::exited(code, &why));
    }

    /// The output ends while others still write to it. That is said where a person reads it; where
    /// there is no such place, the session fails, and this is `false`: nobody shall take what came
    /// for all of it.
    fn say_cut(&mut self) -> bool {
        let patience = self.command.drain_patience().unwrap_or_default();
        let why = format!(
            "the output is cut off: processes that the command left behind still hold it after \
             {patience:?}"
        );
        warn!("{}: {why}", self.command);
        if self.wants.tty && self.wants.stdout {
            self.session.send(Channel::Stdout, format!("\r\n{why}\r\n").into());
        } else if self.wants.stderr && !self.err_ended {
            self.session.send(Channel::Stderr, format!("{why}\n").into());
        } else {
            self.end(&Status::failed(&why));
            return false;
        }
        true
    }

    fn words(&self) -> String {
        bowline_io::text::harmless(&self.command.words().join(" "), limits::REASON_BYTES)
            .into_owned()
    }

    /// The client is gone. Dropping the process hangs it up.
    fn lost(&mut self, loss: &Loss) {
        self.end.get_or_insert_with(|| End::ClientGone(loss.to_string()));
        self.phase = Phase::Over;
    }

    fn has_room(&self) -> bool {
        matches!(self.phase, Phase::Drain(_) | Phase::Over)
            || self.stdin.len() < limits::STDIN_BYTES
    }

    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Wake> {
        let room = self.session.outbox().len() < limits::OUTBOX_BYTES;
        match &mut self.phase {
            Phase::Process(process) => {
                if let Poll::Ready(act) = process.poll(cx, &mut self.stdin, room) {
                    return Poll::Ready(Wake::Act(act));
                }
            }
            // What comes behind all that the pipes can hold was written by others.
            Phase::Drain(drain) if !drain.dry && drain.read > OWN_BYTES => return self.dry(),
            Phase::Drain(drain) => {
                if let Poll::Ready(act) = drain.process.poll(cx, &mut self.stdin, room) {
                    return Poll::Ready(Wake::Act(act));
                }
                if room && !drain.dry {
                    return self.dry();
                }
            }
            Phase::Setup | Phase::Size(_) | Phase::Over => {}
        }
        let reads = self.session.wants_read() && self.has_room();
        if let Poll::Ready(moment) = self.socket.poll(cx, self.session.outbox(), reads) {
            return Poll::Ready(Wake::Socket(moment));
        }
        if let Phase::Process(process) = &mut self.phase
            && let Poll::Ready(ending) = process.poll_ending(cx)
        {
            return Poll::Ready(Wake::Ended(ending));
        }
        alarm.poll(cx).map(|()| Wake::Deadline)
    }

    /// All that the process itself wrote was read: from here on others are waited for.
    fn dry(&mut self) -> Poll<Wake> {
        if let Phase::Drain(drain) = &mut self.phase {
            drain.dry = true;
            let patience = self.command.drain_patience();
            drain.until = patience.map(|patience| self.clock.now() + patience);
        }
        Poll::Ready(Wake::Deadline)
    }

    /// The node ends: the outcome will not be known, unless it was said before. The client is told
    /// so behind what waits for it: one that is cut off without a word may take what it has for all
    /// of it.
    async fn abort(&mut self) {
        if self.end.is_none() {
            self.session.lose(self.clock.now(), "the node shuts down");
            self.phase = Phase::Over;
            self.end = Some(End::Shutdown);
        }
        let _ = timeout(GOODBYE_PATIENCE, self.run()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{self, Formatter};

    use bowline_io::stream::Stream;
    use bowline_proto::session::protocol::SPDY_V4;
    use bytes::{Bytes, BytesMut};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::sleep;

    use super::*;

    const WANTS: Wants = Wants { stdin: false, stdout: true, stderr: false, tty: false };

    /// A command that writes for as long as it is let.
    struct Endless;

    impl Display for Endless {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("endless")
        }
    }

    impl Command for Endless {
        type Process = Endless;

        fn start(&mut self, _: Option<Size>) -> Result<Endless, StartError> {
            Ok(Endless)
        }

        fn words(&self) -> &[String] {
            &[]
        }

        fn drain_patience(&self) -> Option<Duration> {
            None
        }
    }

    impl Process for Endless {
        fn resize(&self, _: Size) {}

        fn poll(&mut self, _: &mut Context<'_>, _: &mut Inflow, room: bool) -> Poll<Act> {
            let bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
            if room { Poll::Ready(Act::Out(bytes)) } else { Poll::Pending }
        }

        fn is_silent(&self) -> bool {
            false
        }

        fn poll_ending(&mut self, _: &mut Context<'_>) -> Poll<Ending> {
            Poll::Pending
        }
    }

    /// Reads nothing between the first output and `end`. How it was lost.
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
                        Moment::Read(bytes) => session.receive(clock.now(), bytes),
                        Moment::Ended(_) => session.receive_end(clock.now()),
                        Moment::Wrote => {}
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
