//! Drives a relay: two sockets, one task, nothing in between but the machine.
//! Above: `stream`. Below: `bowline_proto::relay`, `bowline_io::drive`.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Moment, Socket};
use bowline_io::stream::{Stream, Upgraded};
use bowline_proto::Next;
use bowline_proto::relay::{Ending, Leg, Relay};
use bowline_proto::session::Session;
use bowline_proto::time::earlier;
use tokio_util::sync::CancellationToken;

/// While the node takes no input, the client is not read: look so often whether it is still there.
const LOOK_AFTER_CLIENT_EVERY: Duration = Duration::from_secs(1);

/// Joins a client's session and a node's until both have ended, or `end`. Gives how it ended, if
/// it came to that.
pub async fn run(
    near: (Upgraded, Session),
    far: (Upgraded, Session),
    end: CancellationToken,
) -> Option<Ending> {
    let mut running = Running {
        clock: Clock::start(),
        near: Some(Socket::new(near.0.stream, near.0.early)),
        far: Some(Socket::new(far.0.stream, far.0.early)),
        relay: Relay::new(near.1, far.1),
        ending: None,
    };
    let ended = tokio::select! {
        () = running.run() => true,
        () = end.cancelled() => false,
    };
    if !ended {
        running.abort().await;
    }
    running.ending
}

struct Running {
    clock: Clock,
    /// Dropped as soon as its leg has nothing left to do.
    near: Option<Socket<Stream>>,
    far: Option<Socket<Stream>>,
    relay: Relay,
    ending: Option<Ending>,
}

enum Wake {
    Socket(Leg, Moment),
    Deadline,
}

impl Running {
    async fn run(&mut self) {
        let mut alarm = Alarm::default();
        loop {
            let now = self.clock.now();
            let deadline = loop {
                match self.relay.poll(now) {
                    Next::Event(ending) => self.ending = Some(ending),
                    Next::Idle(deadline) => break deadline,
                    Next::Done => return,
                }
            };
            self.drop_what_is_done();
            let blocked = self.ending.is_none() && !self.relay.wants_read(Leg::Near);
            if blocked && self.near.as_ref().is_some_and(Socket::is_peer_gone) {
                self.relay.receive_end(now, Leg::Near);
                continue;
            }
            let look = blocked.then(|| now + LOOK_AFTER_CLIENT_EVERY);
            alarm.set(&self.clock, earlier(deadline, look));
            let wake = poll_fn(|cx| self.poll(cx, &mut alarm)).await;
            let now = self.clock.now();
            match wake {
                Wake::Socket(leg, Moment::Read(bytes)) => self.relay.receive(now, leg, bytes),
                Wake::Socket(leg, Moment::Ended(_)) => self.relay.receive_end(now, leg),
                Wake::Socket(_, Moment::Wrote) | Wake::Deadline => {}
            }
        }
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

    /// The gateway ends: says so to both sides as far as that goes without waiting.
    async fn abort(&mut self) {
        self.relay.abort(self.clock.now(), "the gateway shuts down");
        poll_fn(|cx| {
            for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
                if let Some(socket) = socket {
                    let _ = socket.poll(cx, self.relay.outbox(leg), false);
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}
