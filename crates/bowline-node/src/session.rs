//! One exec or attach: joins an upgraded connection with a process, from the first stream to the
//! Status.

use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::drive::{Driver, Ends, Step};
use bowline_io::liveness::Blocked;
use bowline_io::record::{End, Traffic};
use bowline_io::serve::CLOSE_PATIENCE;
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::session::{Cause, Channel, Event, Loss, Protocol, Session, Side, Status, Wants};
use bowline_proto::{Machine, Time, limits};
use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::course::{Acted, Course, Sink};
use crate::kept::Job;
use crate::runtime::{BoxFuture, Command, LocalSession};

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
    let mut session =
        CommandSession { course: Course::new(command, wants), half_closes: protocol.half_closes };
    let aborted = tokio::select! {
        biased;
        () = session.run(&mut driver) => false,
        () = end.cancelled() => true,
    };
    if aborted {
        session.abort(&mut driver).await;
    }
    // Without an end, the client has gone before all of its streams were there.
    let end = session.course.ending().cloned();
    let end = end.unwrap_or_else(|| End::ClientGone("before the command began".into()));
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

    fn keep(self: Box<Self>, wants: Wants) -> Job {
        Job::new(*self, wants)
    }
}

struct CommandSession<C: Command> {
    course: Course<C>,
    half_closes: bool,
}

/// The client's session, and what time it is.
struct Client<'a> {
    session: &'a mut Session,
    now: Time,
}

impl Sink for Client<'_> {
    fn now(&self) -> Time {
        self.now
    }

    fn send(&mut self, channel: Channel, bytes: Bytes) {
        self.session.send(channel, bytes);
    }

    fn finish(&mut self, channel: Channel) {
        self.session.finish(channel);
    }

    fn status(&mut self, status: &Status) {
        self.session.status(self.now, status);
    }

    fn lose(&mut self, why: &str) {
        self.session.lose(self.now, why);
    }
}

impl<C: Command> CommandSession<C> {
    async fn run<S: Connection>(&mut self, driver: &mut Driver<S, Session>) {
        loop {
            let step = driver.next(self).await;
            let now = driver.now();
            let client = &mut Client { session: driver.machine(), now };
            match step {
                Step::Event(event) => self.event(client, event),
                Step::Act(acted) => self.course.acted(client, acted),
                Step::Deadline => self.course.deadline_passed(client),
                Step::Gone => {
                    self.course.lost(&Loss::new(Cause::Cut, "while the process takes no input"));
                }
                Step::Done => return,
            }
            self.course.settle(client);
        }
    }

    fn event(&mut self, client: &mut Client<'_>, event: Event) {
        match event {
            Event::Ready => self.course.ready(client),
            Event::Data(Channel::Stdin, bytes) => self.course.input(client, bytes),
            Event::Eof(Channel::Stdin) => self.course.stdin().end(),
            Event::Resize(size) => self.course.resize(client, size),
            Event::Lost(loss) => self.course.lost(&loss),
            Event::Data(..) | Event::Eof(_) | Event::Status(_) => {}
        }
    }

    /// Ends the session because the node shuts down: its outcome will not be known, unless it was
    /// said before. The client is told so behind the output that waits for it: a client that is cut
    /// off without a word may take what it has for all of it.
    async fn abort<S: Connection>(&mut self, driver: &mut Driver<S, Session>) {
        if self.course.ending().is_none() {
            let now = driver.now();
            driver.machine().lose(now, "the node shuts down");
            self.course.abandon();
        }
        let _ = timeout(CLOSE_PATIENCE, self.run(driver)).await;
    }
}

impl<C: Command> Ends<Session> for CommandSession<C> {
    type Act = Acted;

    fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<(Acted, usize)> {
        let room = session.outbox().len() < limits::OUTBOX_BYTES;
        self.course.poll(cx, room)
    }

    fn poll_last(&mut self, cx: &mut Context<'_>, _: &mut Session) -> Poll<(Acted, usize)> {
        self.course.poll_last(cx)
    }

    fn has_room(&self) -> bool {
        self.course.has_room()
    }

    fn came(&mut self, bytes: usize) {
        self.course.stdin().begin_read(bytes);
    }

    fn deadline(&self) -> Option<Time> {
        self.course.deadline()
    }

    /// The client is not read while the process takes no input.
    fn blocked(&self, _: &Session) -> Option<Blocked> {
        let grace = if self.half_closes { Duration::ZERO } else { limits::CLOSED_CLIENT_GRACE };
        self.course.blocked().map(|waiting| Blocked { waiting, grace })
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
