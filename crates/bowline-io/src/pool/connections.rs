//! The connections of a pool: which one takes a request, when another one is made, and who waits.
//!
//! Whoever waits gets a place in the order of coming. A connection that is being made is nobody's:
//! it goes to the first who waits then, and so it is of use even if the one for whom it was begun
//! is gone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Response, Version};
use hyper::client::conn::http1;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::body::{Coming, Lending, Lent, PoolAnswer};
use super::connect::{self, connect};
use super::error::PoolError;
use super::target::Target;
use super::{Failed, Head, http2};
use crate::access::Access;

/// How many connections there may be, those that only finish what runs among them.
const CONNECTIONS: usize = 512;
/// How many requests may wait for a connection.
const WAITING: usize = 1024;
/// How long a request may wait for a connection; making one may take as long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How many requests a connection of HTTP/2 takes at once, if the server does not take fewer. Go's
/// API servers take as many. What one connection may hold that nobody reads depends on it.
pub(super) const STREAMS: usize = 100;
/// How long a place stays taken on which a request was cancelled. It bounds how often that is done
/// on one connection.
const CANCELLED_PAUSE: Duration = Duration::from_millis(200);
/// How many connections of HTTP/1.1 are made at once.
const DIALS: usize = 16;
/// How long a connection is kept that nobody uses. API servers end them after 90 s; to be before
/// them spares requests that meet the end.
pub(super) const IDLE_PATIENCE: Duration = Duration::from_secs(60);
/// How many connections of HTTP/1.1 are kept that nobody uses, as in client-go.
const IDLE: usize = 25;

/// What a pool's clones, its places and its connections share.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    target: Option<Arc<Target>>,
    /// Connections of HTTP/2 that take requests.
    shared: Vec<SharedConnection>,
    /// Connections of HTTP/1.1 that nobody uses, the one that was used last at the end.
    idle: Vec<IdleConnection>,
    waiting: VecDeque<oneshot::Sender<Result<Place, PoolError>>>,
    /// How many connections are being made.
    dialling: usize,
    /// How many sockets there are, or will be.
    open: usize,
    /// Whether the last connection takes one request at a time.
    is_http1: bool,
    last_id: u64,
    /// How many connections of HTTP/2 have ended.
    ended: u64,
}

#[derive(Debug)]
struct SharedConnection {
    id: u64,
    sender: http2::Sender,
    running: usize,
    limit: usize,
    was_used: bool,
    idle_since: Instant,
}

#[derive(Debug)]
struct IdleConnection {
    sender: http1::SendRequest<Lent>,
    was_used: bool,
    idle_since: Instant,
}

#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<Lent>),
    Http2(http2::Sender),
}

/// A place for one request on a connection, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    target: Arc<Target>,
    held: Option<Held>,
    request: Option<Lending>,
}

#[derive(Debug)]
struct Held {
    id: u64,
    sender: Sender,
    generation: u64,
    was_used: bool,
}

/// Counts one socket for as long as it lives.
#[derive(Debug)]
pub(super) struct Open(Weak<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.change(|state| state.open -= 1);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and serves those for whom that makes a difference.
    fn change<T>(self: &Arc<Shared>, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        state.serve(self);
        let wanted = state.dials();
        // A runtime that ends drops what is given to it at once, and that wants the lock.
        drop(state);
        for target in wanted {
            connect(Arc::downgrade(self), Open(Arc::downgrade(self)), target);
        }
        result
    }

    pub(super) fn target(&self) -> Option<Arc<Target>> {
        self.lock().target.clone()
    }

    pub(super) fn capacity(&self) -> usize {
        if self.lock().is_http1 { CONNECTIONS } else { CONNECTIONS * STREAMS }
    }

    /// Notes the credentials. If they are others than before, new connections are made with them,
    /// and the old ones finish what runs.
    pub(super) fn set_target(self: &Arc<Shared>, access: Access) -> Result<Arc<Target>, PoolError> {
        let known = self.target();
        if let Some(known) = known.filter(|one| one.access.generation == access.generation) {
            return Ok(known);
        }
        let target = Arc::new(Target::new(access)?);
        self.change(|state| {
            state.target = Some(target.clone());
            state.shared.clear();
            state.idle.clear();
        });
        Ok(target)
    }

    /// Waits for a place on a connection.
    pub(super) async fn place(self: &Arc<Shared>) -> Result<Place, PoolError> {
        let told = self.change(|state| {
            let place = if state.waiting.is_empty() { state.take(self) } else { None };
            place.map_or_else(|| state.wait().map(Err), |place| Ok(Ok(place)))
        })?;
        let told = match told {
            Ok(place) => return Ok(place),
            Err(told) => told,
        };
        match timeout(PATIENCE, told).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => Err(PoolError::Busy),
        }
    }

    /// Counts a socket that is about to be made outside of the list.
    pub(super) fn open(self: &Arc<Shared>) -> Result<Open, PoolError> {
        let mut state = self.lock();
        if state.open >= CONNECTIONS {
            return Err(PoolError::Busy);
        }
        state.open += 1;
        Ok(Open(Arc::downgrade(self)))
    }

    /// Adds a connection that was made; its number.
    pub(super) fn dialled(self: &Arc<Shared>, target: &Target, sender: Sender) -> u64 {
        self.change(|state| {
            state.dialling -= 1;
            state.is_http1 = matches!(sender, Sender::Http1(_));
            state.last_id += 1;
            let id = state.last_id;
            if state.generation() == Some(target.access.generation) {
                state.enter(id, sender);
            }
            id
        })
    }

    /// Notes that a connection could not be made. Whoever waits for it learns that: all, if one is
    /// for all.
    pub(super) fn not_dialled(self: &Arc<Shared>, error: &PoolError) {
        self.change(|state| {
            state.dialling -= 1;
            let count = if state.is_http1 { 1 } else { state.waiting.len() };
            let mut failed = 0;
            while failed < count
                && let Some(waiter) = state.waiting.pop_front()
            {
                if waiter.send(Err(error.clone())).is_ok() {
                    failed += 1;
                }
            }
        });
    }

    /// Notes how many requests at once the server takes on a connection.
    pub(super) fn set_limit(self: &Arc<Shared>, id: u64, limit: usize) {
        self.change(|state| {
            if let Some(connection) = state.shared.iter_mut().find(|one| one.id == id) {
                connection.limit = limit.clamp(1, STREAMS);
            }
        });
    }

    /// Ends connections that nobody has used for a while.
    pub(super) fn end_idle(&self) {
        let mut state = self.lock();
        let is_old = |since: Instant| since.elapsed() >= IDLE_PATIENCE;
        state.shared.retain(|one| one.running > 0 || !is_old(one.idle_since));
        state.idle.retain(|one| !is_old(one.idle_since));
    }

    /// How many connections of HTTP/2 have ended.
    pub(super) fn ended(&self) -> u64 {
        self.lock().ended
    }

    /// Notes that a connection of HTTP/2 has ended.
    pub(super) fn end(self: &Arc<Shared>, id: u64) {
        self.change(|state| {
            state.shared.retain(|one| one.id != id);
            state.ended += 1;
        });
    }

    /// Lets a connection take no more requests.
    pub(super) fn retire(self: &Arc<Shared>, id: u64) {
        self.change(|state| state.shared.retain(|one| one.id != id));
    }
}

/// Where a place comes to whoever waits for one.
type Waiting = oneshot::Receiver<Result<Place, PoolError>>;

impl State {
    fn generation(&self) -> Option<u64> {
        Some(self.target.as_ref()?.access.generation)
    }

    /// Takes a place, if there is one now. The first connection that has room is filled, so that
    /// others may end.
    fn take(&mut self, shared: &Arc<Shared>) -> Option<Place> {
        let target = self.target.clone()?;
        self.shared.retain_mut(|one| one.sender.takes_more());
        let generation = target.access.generation;
        let held = if let Some(one) = self.shared.iter_mut().find(|one| one.running < one.limit) {
            one.running += 1;
            let sender = Sender::Http2(one.sender.clone());
            let was_used = std::mem::replace(&mut one.was_used, true);
            Held { id: one.id, sender, generation, was_used }
        } else {
            self.idle.retain(|one| !one.sender.is_closed());
            let one = self.idle.pop()?;
            Held { id: 0, sender: Sender::Http1(one.sender), generation, was_used: one.was_used }
        };
        Some(Place { shared: shared.clone(), target, held: Some(held), request: None })
    }

    fn give_back(&mut self, held: Held) {
        let idle_since = Instant::now();
        match held.sender {
            Sender::Http2(_) => {
                if let Some(one) = self.shared.iter_mut().find(|one| one.id == held.id) {
                    one.running -= 1;
                    one.idle_since = idle_since;
                }
            }
            Sender::Http1(sender) => {
                if self.generation() == Some(held.generation) && self.idle.len() < IDLE {
                    self.idle.push(IdleConnection { sender, was_used: true, idle_since });
                }
            }
        }
    }

    fn enter(&mut self, id: u64, sender: Sender) {
        let idle_since = Instant::now();
        match sender {
            Sender::Http1(sender) => {
                self.idle.push(IdleConnection { sender, was_used: false, idle_since });
            }
            Sender::Http2(sender) => self.shared.push(SharedConnection {
                id,
                limit: sender.limit().clamp(1, STREAMS),
                sender,
                running: 0,
                was_used: false,
                idle_since,
            }),
        }
    }

    fn wait(&mut self) -> Result<Waiting, PoolError> {
        if self.waiting.len() >= WAITING {
            self.waiting.retain(|waiter| !waiter.is_closed());
        }
        if self.waiting.len() >= WAITING {
            return Err(PoolError::Busy);
        }
        let (tell, told) = oneshot::channel();
        self.waiting.push_back(tell);
        Ok(told)
    }

    /// Gives places to those who wait.
    fn serve(&mut self, shared: &Arc<Shared>) {
        while let Some(waiter) = self.waiting.pop_front() {
            if waiter.is_closed() {
                continue;
            }
            let Some(place) = self.take(shared) else {
                self.waiting.push_front(waiter);
                break;
            };
            // A place that is dropped would want the lock that is held here.
            if let Err(Ok(mut place)) = waiter.send(Ok(place))
                && let Some(held) = place.held.take()
            {
                self.give_back(held);
            }
        }
    }

    /// Counts the connections that are to be made for those who still wait, and returns to what.
    fn dials(&mut self) -> Vec<Arc<Target>> {
        let Some(target) = &self.target else { return Vec::new() };
        // One of HTTP/2 is for all; what a server speaks is learned from the first.
        let at_once = if self.is_http1 { DIALS } else { 1 };
        let wanted = self.waiting.len().min(at_once).saturating_sub(self.dialling);
        let count = wanted.min(CONNECTIONS.saturating_sub(self.open));
        self.dialling += count;
        self.open += count;
        vec![target.clone(); count]
    }
}

impl Place {
    /// Sends a request here.
    pub(super) async fn send(
        mut self,
        head: &Head,
        lending: &Lending,
    ) -> Result<Response<PoolAnswer>, Failed> {
        self.request = Some(lending.clone());
        let Some(held) = &mut self.held else { return Err(PoolError::Busy.into()) };
        let was_kept = held.was_used;
        let made = |error| Failed::from(PoolError::Request(Arc::new(error)));
        let sent = match &mut held.sender {
            Sender::Http1(sender) => {
                let request = self.target.request(Version::HTTP_11, head, lending.lend());
                let sent = connect::send_http1(sender, request.map_err(made)?).await;
                sent.map(|answer| answer.map(Coming::Http1))
            }
            Sender::Http2(sender) => {
                let request = self.target.request(Version::HTTP_2, head, lending.lend());
                let sent = sender.send(request.map_err(made)?).await;
                sent.map(|answer| answer.map(Coming::Http2))
            }
        };
        match sent {
            Ok(answer) => Ok(answer.map(|body| PoolAnswer::new(body, Some(self)))),
            Err(failed) => {
                // A server that says so on a connection says so again.
                if failed.is_unsent {
                    self.shared.clone().retire(held.id);
                }
                Err(Failed { was_kept, ..failed })
            }
        }
    }

    /// Gives the place back after the whole answer.
    pub(super) fn finished(mut self) {
        self.give_back(true);
    }

    fn give_back(&mut self, is_whole: bool) {
        let Some(held) = self.held.take() else { return };
        if matches!(held.sender, Sender::Http2(_))
            && !is_whole
            && let Ok(runtime) = Handle::try_current()
        {
            // Servers end a connection on which too many requests are cancelled, with all others
            // on it (CVE-2023-44487). One client must not bring that about for the rest.
            let shared = self.shared.clone();
            #[expect(clippy::disallowed_methods, reason = "it ends with the pause")]
            runtime.spawn(async move {
                sleep(CANCELLED_PAUSE).await;
                shared.change(|state| state.give_back(held));
            });
            return;
        }
        // A connection of HTTP/1.1 on which something of a request or an answer is left is of no
        // use any more.
        let is_ended = || self.request.as_ref().is_none_or(Lending::is_ended);
        if matches!(held.sender, Sender::Http1(_)) && !(is_whole && is_ended()) {
            return;
        }
        self.shared.change(|state| state.give_back(held));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // One that was never used is as it was.
        self.give_back(self.request.is_none());
    }
}
