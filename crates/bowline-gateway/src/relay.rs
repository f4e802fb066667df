//! Drives a relay: two sockets, one task, nothing in between but the machine.
//! Above: `stream`. Below: `bowline_proto::relay`, `bowline_io::drive`.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Moment, Socket, take_turns};
use bowline_io::lookout::{Blocked, Lookout, Seen};
use bowline_io::record::Traffic;
use bowline_io::serve::GOODBYE_PATIENCE;
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::relay::{Ending, Leg, Relay};
use bowline_proto::session::Session;
use bowline_proto::time::earlier;
use bowline_proto::{Next, Time, limits};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Joins a client's session and a node's until both have ended, or `end`. Gives how it ended, if
/// it came to that, and how many bytes it read.
pub fn run<S: Connection>(
    near: (Upgraded<S>, Session),
    far: (Upgraded<S>, Session),
    end: CancellationToken,
) -> impl Future<Output = (Option<Ending>, Traffic)> {
    // Made outside of the future: what is moved inside of one has its place in it twice.
    let mut running = Running {
        clock: Clock::start(),
        near: Some(Socket::new(near.0.stream, near.0.early)),
        far: Some(Socket::new(far.0.stream, far.0.early)),
        relay: Relay::new(near.1, far.1),
        lookout: Lookout::default(),
        ending: None,
        traffic: Traffic::default(),
    };
    async move {
        let ended = tokio::select! {
            biased;
            () = running.run() => true,
            () = end.cancelled() => false,
        };
        if !ended {
            running.abort().await;
        }
        (running.ending, running.traffic)
    }
}

struct Running<S> {
    clock: Clock,
    /// Dropped as soon as its leg has nothing left to do.
    near: Option<Socket<S>>,
    far: Option<Socket<S>>,
    relay: Relay,
    lookout: Lookout,
    ending: Option<Ending>,
    traffic: Traffic,
}

enum Wake {
    Socket(Leg, Moment),
    Deadline,
}

impl<S: Connection> Running<S> {
    async fn run(&mut self) {
        let mut alarm = Alarm::default();
        loop {
            let now = self.clock.now();
            if let Some(near) = &self.near {
                near.look_after(self.relay.outbox(Leg::Near));
            }
            let deadline = loop {
                match self.relay.poll(now) {
                    Next::Event(ending) => self.ending = Some(ending),
                    Next::Idle(deadline) => break deadline,
                    Next::Done => return,
                }
            };
            self.drop_what_is_done();
            let Seen::Nothing(look) = self.look_after_client(now) else {
                self.relay.receive_end(now, Leg::Near);
                continue;
            };
            alarm.set(&self.clock, earlier(deadline, look));
            let wake = poll_fn(|cx| self.poll(cx, &mut alarm)).await;
            let now = self.clock.now();
            match wake {
                Wake::Socket(leg, Moment::Read(bytes)) => {
                    let moved = bytes.len();
                    self.traffic.count(leg == Leg::Near, moved);
                    self.relay.receive(now, leg, bytes);
                    take_turns(moved).await;
                }
                Wake::Socket(leg, Moment::Ended(_)) => self.relay.receive_end(now, leg),
                Wake::Socket(_, Moment::Wrote) | Wake::Deadline => {}
            }
        }
    }

    /// While the node takes no input, the client is not read.
    fn look_after_client(&mut self, now: Time) -> Seen {
        let Some(near) = &self.near else { return Seen::Nothing(None) };
        let is_blocked = self.ending.is_none() && !self.relay.wants_read(Leg::Near);
        let waiting = self.relay.outbox(Leg::Far).len();
        let half_closes = self.relay.near_half_closes();
        let grace = if half_closes { Duration::ZERO } else { limits::CLOSED_CLIENT_GRACE };
        self.lookout.look(now, near, is_blocked.then_some(Blocked { waiting, grace }))
    }

    fn drop_what_is_done(&mut self) {
        if self.relay.is_done(Leg::Near) {
            self.near = None;
        }
        if self.relay.is_done(Leg::Far) {
            self.far = None;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Wake> {
        let now = self.clock.now();
        for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
            let Some(socket) = socket else { continue };
            let reads = self.relay.wants_read(leg);
            self.relay.reading(now, leg, reads);
            if let Poll::Ready(moment) = socket.poll(cx, self.relay.outbox(leg), reads) {
                return Poll::Ready(Wake::Socket(leg, moment));
            }
        }
        alarm.poll(cx).map(|()| Wake::Deadline)
    }

    /// The gateway ends: says so to both sides, to the client behind what waits for it. One that is
    /// cut off without a word may take what it has for all of it.
    async fn abort(&mut self) {
        self.relay.abort(self.clock.now(), "the gateway shuts down");
        let _ = timeout(GOODBYE_PATIENCE, self.run()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;

    use bowline_io::stream::Stream;
    use bowline_proto::Machine;
    use bowline_proto::session::protocol::{SPDY_V4, WEBSOCKET_V4};
    use bowline_proto::session::{Channel, Event, Outcome, Protocol, Side, Status, Wants};
    use bytes::BytesMut;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;

    const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: false };
    /// More than the gateway takes for a node that does not read, less than that and what the
    /// kernel holds.
    const MESSAGES: usize = 80;
    const MESSAGE_BYTES: usize = 32 * 1024;

    async fn wire() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    fn leg(stream: TcpStream, side: Side, protocol: &'static Protocol) -> (Upgraded, Session) {
        let upgraded = Upgraded { stream: Stream::plain(stream), early: BytesMut::new() };
        (upgraded, Session::new(side, protocol, WANTS, [7; 32]))
    }

    /// All its input, a Close, the end: what fabric8 does over v4. It asks for no answer.
    fn upload(stream: TcpStream) -> std::net::TcpStream {
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        // Binary, masked with zeros, a length of 16 bits; then channel 0.
        let mut message = vec![0x82, 0xfe];
        message.extend((MESSAGE_BYTES as u16 + 1).to_be_bytes());
        message.extend([0; 5]);
        message.extend([b'x'; MESSAGE_BYTES]);
        for _ in 0..MESSAGES {
            stream.write_all(&message).unwrap();
        }
        stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    }

    /// A node that reads nothing more between the first input and `uploaded`; gives how much input
    /// came before its end.
    async fn node(stream: TcpStream, uploaded: oneshot::Receiver<()>) -> usize {
        let clock = Clock::start();
        let (upgraded, mut session) = leg(stream, Side::Server, &SPDY_V4);
        let mut socket = Socket::new(upgraded.stream, upgraded.early);
        let (mut input, mut uploaded) = (0, Some(uploaded));
        loop {
            let now = clock.now();
            match session.poll(now) {
                Next::Event(Event::Data(Channel::Stdin, bytes)) => {
                    input += bytes.len();
                    if let Some(uploaded) = uploaded.take() {
                        uploaded.await.unwrap();
                    }
                }
                Next::Event(Event::Eof(Channel::Stdin)) => session.status(now, &Status::success()),
                Next::Event(Event::Lost(loss)) => panic!("{loss} after {input} bytes"),
                Next::Event(_) => {}
                Next::Done => return input,
                Next::Idle(_) => {
                    let moment = poll_fn(|cx| socket.poll(cx, session.outbox(), true)).await;
                    match moment {
                        Moment::Read(bytes) => session.receive(clock.now(), bytes),
                        Moment::Ended(_) => session.receive_end(clock.now()),
                        Moment::Wrote => {}
                    }
                }
            }
        }
    }

    /// A node whose command writes more than all in between takes.
    async fn talkative(stream: TcpStream) {
        let clock = Clock::start();
        let (upgraded, mut session) = leg(stream, Side::Server, &SPDY_V4);
        let mut socket = Socket::new(upgraded.stream, upgraded.early);
        loop {
            match session.poll(clock.now()) {
                Next::Event(Event::Ready) => {
                    session.send(Channel::Stdout, vec![b'x'; 32 * 1024 * 1024].into());
                }
                Next::Event(Event::Lost(_)) | Next::Done => return,
                Next::Event(_) => {}
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

    /// A client that reads nothing between the first output and `end`. How it was lost.
    async fn stalled(stream: TcpStream, end: CancellationToken) -> String {
        let clock = Clock::start();
        let (upgraded, mut session) = leg(stream, Side::Client, &SPDY_V4);
        let mut socket = Socket::new(upgraded.stream, upgraded.early);
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
    async fn a_client_in_mid_output_is_told_that_the_gateway_ends() {
        let (client, near) = wire().await;
        let (far, behind) = wire().await;
        let near = leg(near, Side::Server, &SPDY_V4);
        let far = leg(far, Side::Client, &SPDY_V4);
        let end = CancellationToken::new();
        let relay = run(near, far, end.clone());
        // The clock moves once nothing else does: then all is full.
        let ends = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            end.cancel();
        };
        let lost = stalled(client, end.clone());
        let ((ending, _), lost, (), ()) = tokio::join!(relay, lost, talkative(behind), ends);
        assert_eq!(ending, None);
        assert!(lost.contains("the gateway shuts down"), "{lost}");
    }

    #[tokio::test]
    async fn a_client_that_ends_stdin_by_closing_is_heard_to_its_last_word() {
        let (client, near) = wire().await;
        let (far, behind) = wire().await;
        let (done, uploaded) = oneshot::channel();
        let uploading = tokio::task::spawn_blocking(move || {
            let client = upload(client);
            done.send(()).unwrap();
            client
        });
        let near = leg(near, Side::Server, &WEBSOCKET_V4);
        let far = leg(far, Side::Client, &SPDY_V4);
        let relay = run(near, far, CancellationToken::new());
        let ((ending, traffic), input) = tokio::join!(relay, node(behind, uploaded));
        drop(uploading.await.unwrap());
        assert_eq!(input, MESSAGES * MESSAGE_BYTES);
        assert_eq!(ending, Some(Ending::Status(Outcome::Success)));
        assert!(traffic.from_client > input as u64 && traffic.to_client > 0, "{traffic:?}");
    }
}
