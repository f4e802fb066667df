//! The task of one kept session: it has the process, and a seat for each client.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bowline_io::drive::{Alarm, take_turns};
use bowline_io::record::{End, Traffic};
use bowline_io::serve::CLOSE_PATIENCE;
use bowline_proto::kept::{Greeting, Host, HostEvent, Mode, Resume, Start, refused};
use bowline_proto::limits::{CLOSING_PATIENCE, KEPT_SEATS};
use bowline_proto::session::{Cause, Loss};
use bowline_proto::time::earlier;
use bowline_proto::tunnel::Incoming;
use bowline_proto::{Next, Time};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::info;

use super::job::{Job, Owner};
use super::line::Line;
use super::registry::Shown;
use super::visit::{ENDS, OTHER_REQUEST};
use super::{Asking, Keeper};

/// A client that comes to a session, behind its greeting.
pub(super) struct Entrant {
    pub(super) line: Line,
    pub(super) greeting: Box<Greeting>,
    pub(super) wanted: For,
    /// Is told once it has left.
    pub(super) left: oneshot::Sender<Seated>,
}

/// What a client has come for.
pub(super) enum For {
    /// To start the command, and whether it was started for it.
    Start(Box<Start>, bool),
    /// To go on with it, by a request for this command; or by one that says so.
    Resume(Resume, Option<Box<Asking>>),
}

/// What came of a client.
pub(super) enum Seated {
    /// It had its seat, and has left.
    Left(End, Traffic),
    /// It was refused, and has yet to be told.
    Refused(Line, Box<Greeting>),
}

/// A client at its seat.
struct Seat {
    number: u32,
    line: Line,
    left: oneshot::Sender<Seated>,
    /// Why it is over, and until when its last words may take.
    over: Option<(End, Time)>,
}

impl Seat {
    fn close(self, now: Time, host: &mut Host) {
        host.remove(now, self.number);
        let end = self.over.map_or(End::Over, |over| over.0);
        let _ = self.left.send(Seated::Left(end, self.line.traffic()));
    }
}

/// One session, until nobody can want it any more.
pub(super) struct KeptSession {
    keeper: Keeper,
    host: Host,
    /// The command, until it has ended.
    job: Option<Job>,
    /// How it ended.
    end: Option<End>,
    seats: Vec<Seat>,
    door: mpsc::Receiver<Box<Entrant>>,
    /// It has ended at a node before this one.
    is_past: bool,
    /// Whether somebody may still come.
    is_open: bool,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Whether the command is polled before the clients; they take turns.
    job_first: bool,
    shown: Arc<Shown>,
}

/// What the task waited for.
enum Woke {
    /// Bytes have moved, so many of them.
    Moved(usize),
    Entrant(Option<Box<Entrant>>),
    Closing,
    Deadline,
}

impl KeptSession {
    pub(super) fn new(
        keeper: Keeper,
        host: Host,
        job: Option<Job>,
        door: mpsc::Receiver<Box<Entrant>>,
        shown: Arc<Shown>,
    ) -> KeptSession {
        let closing = Box::pin(keeper.0.sessions.closing().clone().cancelled_owned());
        KeptSession {
            keeper,
            host,
            is_past: job.is_none(),
            job,
            end: None,
            seats: Vec::new(),
            door,
            is_open: true,
            closing,
            job_first: false,
            shown,
        }
    }

    /// Goes on until nobody can want the session any more, or the node ends.
    pub(super) async fn run(mut self, end: CancellationToken) {
        info!("kept session {}: {:?}", self.name(), self.host.start().command.first());
        // A program that asks for its terminal's size at once is told the true one.
        if let Some(size) = self.host.start().size {
            self.with_job(|job, owner| job.work().resize(owner, size));
        }
        self.with_job(|job, owner| job.work().begin(owner));
        let ends = tokio::select! {
            biased;
            () = self.go_on() => false,
            () = end.cancelled() => true,
        };
        if ends {
            self.is_open = false;
            self.host.shut_down(ENDS);
            self.give_up(End::Shutdown, ENDS);
            let _ = timeout(CLOSE_PATIENCE, self.go_on()).await;
        }
    }

    fn name(&self) -> String {
        self.host.id().name()
    }

    /// Cancel safe: nothing is lost if the future is dropped.
    async fn go_on(&mut self) {
        let mut alarm = Alarm::default();
        loop {
            let now = self.keeper.now();
            self.read(now);
            let deadline = match self.host.poll(now) {
                Next::Event(event) => {
                    self.event(now, event);
                    continue;
                }
                Next::Done => return,
                Next::Idle(deadline) => deadline,
            };
            self.show();
            let seats = self.seats.len();
            let deadline = earlier(deadline, self.close_seats(now));
            if self.seats.len() < seats && self.is_open {
                // The host may have waited for that.
                continue;
            }
            if !self.is_open && self.host.has_ended() && self.seats.is_empty() {
                return;
            }
            let own = self.job.as_mut().and_then(|job| job.work().deadline());
            if own.is_some_and(|at| now >= at) {
                self.with_job(|job, owner| job.work().deadline_passed(owner));
                continue;
            }
            alarm.set(self.keeper.clock(), earlier(deadline, own));
            match poll_fn(|cx| self.poll(cx, &mut alarm)).await {
                Woke::Moved(bytes) => take_turns(bytes).await,
                Woke::Entrant(Some(entrant)) => self.enter(*entrant),
                Woke::Entrant(None) | Woke::Closing => self.is_open = false,
                Woke::Deadline => {}
            }
        }
    }

    /// Gives the host what has come at the seats.
    fn read(&mut self, now: Time) {
        for seat in &mut self.seats {
            while let Some(incoming) = seat.line.next() {
                match incoming {
                    _ if seat.over.is_some() => {}
                    Incoming::Bytes(bytes) => self.host.receive(now, seat.number, bytes),
                    Incoming::Closed(_) => self.host.receive_end(seat.number),
                }
            }
        }
    }

    fn event(&mut self, now: Time, event: HostEvent) {
        match event {
            HostEvent::Stdin(bytes) if self.job.is_some() => {
                self.with_job(|job, owner| job.work().input(owner, bytes));
            }
            HostEvent::Stdin(bytes) => self.host.took(now, bytes.len()),
            HostEvent::StdinEnd => self.with_job(|job, _| job.work().end_input()),
            HostEvent::Resize(size) => self.with_job(|job, owner| job.work().resize(owner, size)),
            HostEvent::HangUp => {
                let why = "its client has left it, or did not come back";
                self.give_up(End::ClientGone(why.to_owned()), "the command was hung up");
            }
            HostEvent::Left(number, loss) => self.left(now, number, &loss),
        }
    }

    /// Does something with the command, and looks whether it has ended by that.
    fn with_job(&mut self, act: impl FnOnce(&mut Job, &mut Owner<'_>)) {
        let Some(job) = &mut self.job else { return };
        act(job, &mut Owner { host: &mut self.host, now: self.keeper.now() });
        self.look();
    }

    /// Lets go of a command that has ended.
    fn look(&mut self) {
        let ending = self.job.as_mut().and_then(|job| job.work().ending().cloned());
        if let Some(end) = ending {
            self.over(end);
        }
    }

    /// Ends the command without an outcome, if it has none. Dropped, it is hung up.
    fn give_up(&mut self, end: End, why: &str) {
        if self.job.is_some() {
            self.host.ended(self.keeper.now(), Err(why.to_owned()));
            self.over(end);
        }
    }

    fn over(&mut self, end: End) {
        info!("kept session {}: {end}", self.name());
        (self.job, self.end) = (None, Some(end));
        self.show();
        self.keeper.ended(&self.host);
    }

    fn show(&self) {
        self.shown.has_ended.store(self.host.has_ended(), Ordering::Relaxed);
        self.shown.has_client.store(self.host.has_client(), Ordering::Relaxed);
        self.shown.kept_bytes.store(self.host.kept_bytes(), Ordering::Relaxed);
    }

    /// Gives a client its seat, unless it is refused.
    fn enter(&mut self, entrant: Entrant) {
        let Entrant { line, mut greeting, wanted, left } = entrant;
        let refused = match &wanted {
            For::Start(start, _) if !self.host.is_same(start) => {
                Some((refused::CONFLICT, "there is such a session, of another command"))
            }
            // Of a session of a node before nothing is there that anybody could drive or read.
            For::Resume(_, Some(asking)) if !self.is_past && !asking.is_for(self.host.start()) => {
                Some((refused::BAD_REQUEST, OTHER_REQUEST))
            }
            _ => None,
        };
        if let Some((code, text)) = refused {
            greeting.refuse(code, text);
            let _ = left.send(Seated::Refused(line, greeting));
            return;
        }
        let (mode, have, started) = match wanted {
            For::Start(_, started) => (Mode::Take, Some([0; 2]), started),
            For::Resume(Resume { mode, have, .. }, _) => (mode, have, false),
        };
        match self.host.join(*greeting, mode, have, started) {
            Ok(number) => {
                self.make_room();
                self.seats.push(Seat { number, line, left, over: None });
            }
            Err(greeting) => {
                let _ = left.send(Seated::Refused(line, greeting));
            }
        }
    }

    /// Gives up the oldest seat that is over, where no other is free.
    fn make_room(&mut self) {
        if self.seats.len() >= KEPT_SEATS
            && let Some(at) = self.seats.iter().position(|seat| seat.over.is_some())
        {
            self.seats.remove(at).close(self.keeper.now(), &mut self.host);
        }
    }

    /// A client is of no use any more; it gets its last words.
    fn left(&mut self, now: Time, number: u32, loss: &Loss) {
        let end = match &self.end {
            Some(end) if loss.cause == Cause::Closed => end.clone(),
            _ => End::ClientGone(loss.to_string()),
        };
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.number == number) {
            seat.over = Some((end, now + CLOSING_PATIENCE));
        }
        if self.host.has_ended() && loss.cause == Cause::Closed {
            self.keeper.record(&self.host);
        }
    }

    /// Forgets the clients that have their last words; when the next one's time is over.
    fn close_seats(&mut self, now: Time) -> Option<Time> {
        let mut deadline = None;
        let is_closed = |seat: &mut Seat| {
            seat.over.as_ref().is_some_and(|(_, until)| now >= *until || seat.line.has_ended())
        };
        for seat in self.seats.extract_if(.., is_closed) {
            seat.close(now, &mut self.host);
        }
        for seat in &self.seats {
            deadline = earlier(deadline, seat.over.as_ref().map(|over| over.1));
        }
        deadline
    }

    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Woke> {
        if self.is_open {
            if let Poll::Ready(entrant) = self.door.poll_recv(cx) {
                return Poll::Ready(Woke::Entrant(entrant));
            }
            // Nobody comes any more, but a command that runs still may.
            if self.host.has_ended() && self.closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Woke::Closing);
            }
        }
        self.job_first = !self.job_first;
        for is_job in [self.job_first, !self.job_first] {
            let polled = if is_job { self.poll_job(cx) } else { self.poll_seats(cx) };
            if let Poll::Ready(bytes) = polled {
                return Poll::Ready(Woke::Moved(bytes));
            }
        }
        if let Some(job) = &mut self.job {
            let mut owner = Owner { host: &mut self.host, now: self.keeper.now() };
            if job.work().poll_last(cx, &mut owner).is_ready() {
                self.look();
                return Poll::Ready(Woke::Moved(0));
            }
        }
        alarm.poll(cx).map(|()| Woke::Deadline)
    }

    fn poll_job(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(job) = &mut self.job else { return Poll::Pending };
        let mut owner = Owner { host: &mut self.host, now: self.keeper.now() };
        let polled = job.work().poll(cx, &mut owner);
        if polled.is_ready() {
            self.look();
        }
        polled
    }

    fn poll_seats(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        for seat in &mut self.seats {
            let Some(outbox) = self.host.outbox(seat.number) else { continue };
            if let Poll::Ready(read) = seat.line.poll(cx, outbox) {
                if let Some(job) = self.job.as_mut().filter(|_| read > 0) {
                    job.work().came(read);
                }
                return Poll::Ready(read);
            }
        }
        Poll::Pending
    }
}

impl Drop for KeptSession {
    fn drop(&mut self) {
        self.keeper.forget(self.host.id());
    }
}
