//! Drives a passage: two sockets, one task, bytes that nobody here reads.
//! Above: `forward`. Below: `bowline_proto::passage`, `bowline_io::drive`.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Moment, Socket, take_turns};
use bowline_io::lookout::{Blocked, Lookout, Seen};
use bowline_io::record::Traffic;
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::passage::{Ending, Passage};
use bowline_proto::relay::Leg;
use bowline_proto::time::earlier;
use bowline_proto::{Next, Time, limits};
use tokio_util::sync::CancellationToken;

/// Joins two sockets until both have ended, or `end`. Gives which ended first, and how many bytes
/// were read.
pub fn run<S: Connection>(
    near: Upgraded<S>,
    far: Upgraded<S>,
    passage: Passage,
    end: CancellationToken,
) -> impl Future<Output = (Option<Ending>, Traffic)> {
    let mut running = Running {
        clock: Clock::start(),
        near: Socket::new(near.stream, near.early),
        far: Socket::new(far.stream, far.early),
        passage,
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
    near: Socket<S>,
    far: Socket<S>,
    passage: Passage,
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
            self.near.look_after(self.passage.outbox(Leg::Near));
            self.far.look_after(self.passage.outbox(Leg::Far));
            let now = self.clock.now();
            let deadline = loop {
                match self.passage.poll(now) {
                    Next::Event(ending) => self.ending = Some(ending),
                    Next::Idle(deadline) => break deadline,
                    Next::Done => {
                        // The node must not take for an end what is none, nor wait for the rest.
                        if self.passage.outbox(Leg::Far).is_undelivered() {
                            self.far.stream().break_off();
                        }
                        return;
                    }
                }
            };
            let Seen::Nothing(look) = self.look_after_client(now) else {
                // The node hears of it even while it takes nothing.
                self.far.stream().break_off();
                self.passage.abandon(now);
                continue;
            };
            alarm.set(&self.clock, earlier(deadline, look));
            let wake = poll_fn(|cx| self.poll(cx, &mut alarm)).await;
            match wake {
                Wake::Socket(leg, Moment::Read(bytes)) => {
                    let moved = bytes.len();
                    self.traffic.count(leg == Leg::Near, moved);
                    self.passage.receive(leg, bytes);
                    take_turns(moved).await;
                }
                Wake::Socket(leg, Moment::Ended(error)) => {
                    self.passage.receive_end(self.clock.now(), leg, error.is_some());
                }
                Wake::Socket(_, Moment::Wrote) | Wake::Deadline => {}
            }
        }
    }

    /// While the node takes nothing, the client is not read.
    fn look_after_client(&mut self, now: Time) -> Seen {
        let is_blocked = self.ending.is_none() && !self.passage.wants_read(Leg::Near);
        let waiting = self.passage.outbox(Leg::Far).len();
        let blocked = Blocked { waiting, grace: limits::CLOSED_CLIENT_GRACE };
        self.lookout.look(now, &self.near, is_blocked.then_some(blocked))
    }

    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Wake> {
        for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
            let reads = self.passage.wants_read(leg);
            if let Poll::Ready(moment) = socket.poll(cx, self.passage.outbox(leg), reads) {
                return Poll::Ready(Wake::Socket(leg, moment));
            }
        }
        alarm.poll(cx).map(|()| Wake::Deadline)
    }

    /// The gateway ends: says so as far as that goes without waiting.
    async fn abort(&mut self) {
        self.passage.abort(self.clock.now(), "the gateway shuts down");
        poll_fn(|cx| {
            for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
                let _ = socket.poll(cx, self.passage.outbox(leg), false);
            }
            Poll::Ready(())
        })
        .await;
    }
}
