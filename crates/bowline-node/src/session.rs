//! One exec or attach: joins an upgraded connection with a process, from the first stream to the
//! Status.

use std::fmt::Display;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::drive::{Driver, Ends, Inflow, Step};
use bowline_io::lookout::Blocked;
use bowline_io::record::{End, Traffic};
use bowline_io::serve::GOODBYE_PATIENCE;
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::session::{
    Cause, Channel, Event, Loss, Protocol, Session, Side, Size, Status, Wants,
};
use bowline_proto::{Machine, Time, limits};
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
    let session = Session::new(Side::Server, protocol, wants, seed);
    let mut driver = Driver::new(connection, session);
    let mut running = Running {
        command,
        wants,
        stdin: Inflow::default(),
        half_closes: protocol.half_closes,
        size: None,
        phase: Phase::Setup,
        end: None,
        err_ended: false,
    };
    let aborted = tokio::select! {
        biased;
        () = running.run(&mut driver) => false,
        () = end.cancelled() => true,
    };
    if aborted {
        running.abort(&mut driver).await;
    }
    // Without an end the client has only ever set up.
    let end = running.end.unwrap_or_else(|| End::ClientGone("before the command began".into()));
    (end, Traffic { from_client: driver.received(), to_client: driver.sent() })
}

struct Running<C: Command> {
    command: C,
    wants: Wants,
    /// Input that the process has not taken yet.
    stdin: Inflow,
    half_closes: bool,
    size: Option<Size>,
    phase: Phase<C::Process>,
    /// How it ended: the session has given its last event, or was given its Status.
    end: Option<End>,
    /// Its errors have come to their end.
    err_ended: bool,
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

enum Acted {
    Act(Act),
    Ended(Ending),
    /// All that the process itself wrote was read: from here on others are waited for.
    Dry,
}

/// The machine and its time.
type Machinery<'a> = (&'a mut Session, Time);

impl<C: Command> Running<C> {
    async fn run<S: Connection>(&mut self, driver: &mut Driver<S, Session>) {
        loop {
            let step = driver.next(self).await;
            let now = driver.now();
            let session = driver.machine();
            match step {
                Step::Event(event) => self.event((session, now), event),
                Step::Act(Acted::Act(act)) => self.act((session, now), act),
                Step::Act(Acted::Ended(ending)) => self.drain(ending),
                Step::Act(Acted::Dry) => self.dry(now),
                Step::Deadline => self.late((session, now)),
                Step::Gone => self.lost(&Loss::new(Cause::Cut, "while the process takes no input")),
                Step::Done => return,
            }
            if matches!(&self.phase, Phase::Drain(drain) if drain.process.is_silent()) {
                self.conclude((driver.machine(), now));
            }
        }
    }

    fn late(&mut self, machinery: Machinery<'_>) {
        match &self.phase {
            Phase::Size(_) => self.start(machinery),
            Phase::Drain(_) => self.conclude(machinery),
            Phase::Setup | Phase::Process(_) | Phase::Over => {}
        }
    }

    fn event(&mut self, machinery: Machinery<'_>, event: Event) {
        match event {
            Event::Ready if self.wants.tty && self.size.is_none() => {
                self.phase = Phase::Size(machinery.1 + FIRST_SIZE_PATIENCE);
            }
            Event::Ready => self.start(machinery),
            Event::Data(Channel::Stdin, bytes) => {
                // What has ended takes no more.
                if !matches!(self.phase, Phase::Drain(_) | Phase::Over) {
                    self.stdin.push(bytes);
                }
                // Whoever types does not wait for a size.
                if matches!(self.phase, Phase::Size(_)) {
                    self.start(machinery);
                }
            }
            Event::Eof(Channel::Stdin) => self.stdin.end(),
            Event::Resize(size) => {
                self.size = Some(size);
                match &self.phase {
                    Phase::Size(_) => self.start(machinery),
                    Phase::Process(process) => process.resize(size),
                    _ => {}
                }
            }
            Event::Lost(loss) => self.lost(&loss),
            Event::Data(..) | Event::Eof(_) | Event::Status(_) => {}
        }
    }

    fn start(&mut self, machinery: Machinery<'_>) {
        let size = self.size.filter(|_| self.wants.tty);
        match self.command.start(size) {
            Ok(process) => self.phase = Phase::Process(Box::new(process)),
            Err(error) => {
                let why = format!(
                    "error executing command in container: exec failed: unable to start \
                     container process: {error}"
                );
                warn!("{why}");
                self.end(machinery, &Status::failed(&why));
            }
        }
    }

    fn end(&mut self, (session, now): Machinery<'_>, status: &Status) {
        session.status(now, status);
        self.end = Some(End::Outcome(status.outcome().clone()));
        self.phase = Phase::Over;
    }

    fn act(&mut self, machinery: Machinery<'_>, act: Act) {
        if let (Phase::Drain(drain), Act::Out(bytes) | Act::Err(bytes)) = (&mut self.phase, &act) {
            drain.read += bytes.len();
        }
        match act {
            Act::Out(bytes) => machinery.0.send(Channel::Stdout, bytes),
            Act::Err(bytes) => machinery.0.send(Channel::Stderr, bytes),
            Act::OutEnded => machinery.0.finish(Channel::Stdout),
            Act::ErrEnded => {
                self.err_ended = true;
                machinery.0.finish(Channel::Stderr);
            }
            Act::Took => {}
            Act::Broken(why) => {
                warn!("{}: {why}", self.command);
                self.end(machinery, &Status::failed(&why));
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

    fn conclude(&mut self, (session, now): Machinery<'_>) {
        let Phase::Drain(drain) = &mut self.phase else { return };
        let (code, is_cut) = (drain.ending.code(), !drain.process.is_silent());
        drain.process.leave();
        if is_cut && !self.say_cut((session, now)) {
            return;
        }
        let why = format!("error executing command [{}], exit code {code}", self.words());
        self.end((session, now), &Status::exited(code, &why));
    }

    /// The output ends while others still write to it. That is said where a person reads it; where
    /// there is no such place, the session fails, and this is `false`: nobody shall take what came
    /// for all of it.
    fn say_cut(&mut self, machinery: Machinery<'_>) -> bool {
        let patience = self.command.drain_patience().unwrap_or_default();
        let why = format!(
            "the output is cut off: processes that the command left behind still hold it after \
             {patience:?}"
        );
        warn!("{}: {why}", self.command);
        if self.wants.tty && self.wants.stdout {
            machinery.0.send(Channel::Stdout, format!("\r\n{why}\r\n").into());
        } else if self.wants.stderr && !self.err_ended {
            machinery.0.send(Channel::Stderr, format!("{why}\n").into());
        } else {
            self.end(machinery, &Status::failed(&why));
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

    fn dry(&mut self, now: Time) {
        if let Phase::Drain(drain) = &mut self.phase {
            drain.dry = true;
            drain.until = self.command.drain_patience().map(|patience| now + patience);
        }
    }

    /// The node ends: the outcome will not be known, unless it was said before. The client is told
    /// so behind what waits for it: one that is cut off without a word may take what it has for all
    /// of it.
    async fn abort<S: Connection>(&mut self, driver: &mut Driver<S, Session>) {
        if self.end.is_none() {
            let now = driver.now();
            driver.machine().lose(now, "the node shuts down");
            self.phase = Phase::Over;
            self.end = Some(End::Shutdown);
        }
        let _ = timeout(GOODBYE_PATIENCE, self.run(driver)).await;
    }
}

impl<C: Command> Ends<Session> for Running<C> {
    type Act = Acted;

    fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<(Acted, usize)> {
        let room = session.outbox().len() < limits::OUTBOX_BYTES;
        let process = match &mut self.phase {
            Phase::Process(process) => process,
            // What comes behind all that the pipes can hold was written by others.
            Phase::Drain(drain) if !drain.dry && drain.read > OWN_BYTES => {
                return Poll::Ready((Acted::Dry, 0));
            }
            Phase::Drain(drain) => &mut drain.process,
            Phase::Setup | Phase::Size(_) | Phase::Over => return Poll::Pending,
        };
        if let Poll::Ready(act) = process.poll(cx, &mut self.stdin, room) {
            let bytes = if let Act::Out(bytes) | Act::Err(bytes) = &act { bytes.len() } else { 0 };
            return Poll::Ready((Acted::Act(act), bytes));
        }
        match &self.phase {
            Phase::Drain(drain) if room && !drain.dry => Poll::Ready((Acted::Dry, 0)),
            _ => Poll::Pending,
        }
    }

    fn poll_last(&mut self, cx: &mut Context<'_>, _: &mut Session) -> Poll<(Acted, usize)> {
        let Phase::Process(process) = &mut self.phase else { return Poll::Pending };
        process.poll_ending(cx).map(|ending| (Acted::Ended(ending), 0))
    }

    fn has_room(&self) -> bool {
        matches!(self.phase, Phase::Drain(_) | Phase::Over)
            || self.stdin.len() < limits::STDIN_BYTES
    }

    fn came(&mut self, bytes: usize) {
        self.stdin.round(bytes);
    }

    fn deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Size(until) => Some(*until),
            Phase::Drain(drain) => drain.until,
            Phase::Setup | Phase::Process(_) | Phase::Over => None,
        }
    }

    /// While the process takes no input, the client is not read.
    fn blocked(&self, _: &Session) -> Option<Blocked> {
        let is_blocked = matches!(self.phase, Phase::Process(_)) && !self.has_room();
        let grace = if self.half_closes { Duration::ZERO } else { limits::CLOSED_CLIENT_GRACE };
        is_blocked.then_some(Blocked { waiting: self.stdin.len(), grace })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{self, Formatter};
    use std::future::poll_fn;

    use bowline_io::clock::Clock;
    use bowline_io::drive::{Moment, Socket};
    use bowline_io::stream::Stream;
    use bowline_proto::Next;
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
