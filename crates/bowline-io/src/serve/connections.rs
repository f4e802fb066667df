//! A server's connections that are no sessions, to the one that goes when there are too many.
//!
//! A connection is unknown until a request on it was authenticated. Nobody who may nothing can shut
//! others out: unknown ones go first, those of the address that has most of them before others, the
//! oldest before younger ones. Then those go on which nothing happens, and then those whose client
//! does not read its answer. One that does something stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::descriptors;

/// Connections at once, if the system has descriptors for more.
const CONNECTIONS: usize = 16 * 1024;
/// The part of the descriptors that they may take. As many are for what the server itself opens for
/// them, as the node's answer to a log, and the rest is for sessions.
const SHARE: usize = 3;
/// Unknown ones at once. Each may hold a TLS hello of 64 KiB.
const UNKNOWN: usize = 4096;
/// Unknown ones of one address. Behind a balancer all clients have its address; they are unknown
/// for as long as a handshake takes.
pub const UNKNOWN_PER_ADDRESS: usize = 1024;
/// What the heads of requests of unknown ones may hold together, beyond what each may in any case.
const HEADS_BYTES: usize = 16 * 1024 * 1024;

/// How many connections a server has at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    connections: usize,
    unknown: usize,
    per_address: usize,
    heads_bytes: usize,
}

impl Limits {
    /// As the system's limit of descriptors allows, and at most so many unknown ones of one
    /// address.
    #[must_use]
    pub fn new(unknown_per_address: usize) -> Limits {
        Limits::within(descriptors::most(), unknown_per_address)
    }

    fn within(descriptors: usize, unknown_per_address: usize) -> Limits {
        let connections = (descriptors / SHARE).clamp(2, CONNECTIONS);
        let unknown = (connections / 2).clamp(2, UNKNOWN);
        let per_address = unknown_per_address.clamp(1, unknown / 2);
        Limits { connections, unknown, per_address, heads_bytes: HEADS_BYTES }
    }
}

/// How many answers may last at once, as those to `logs -f`: half of the connections, so that
/// whoever may only read logs leaves places to all others.
pub(super) fn lasting_answers() -> usize {
    Limits::default().connections / 2
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new(UNKNOWN_PER_ADDRESS)
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Counts connections, and what becomes of them: later is more.
    turn: u64,
    entries: HashMap<u64, Entry>,
    /// The unknown ones by where they come from, the oldest first.
    unknown: HashMap<Origin, BTreeSet<u64>>,
    unknown_count: usize,
    /// Known ones that can go, in the order in which they do.
    waiting: BTreeMap<(State, u64), u64>,
    heads_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    state: State,
    /// When it came to this state.
    since: u64,
    head_bytes: usize,
    end: CancellationToken,
}

/// What a connection does, in the order in which they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Nobody knows yet whose it is.
    Unknown,
    /// It is between two requests.
    Idle,
    /// Its client does not read its answer.
    Unread,
    /// A request of it is served.
    Busy,
}

/// One client's addresses: of IPv6 a client has a whole network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin(IpAddr);

impl Origin {
    fn of(address: IpAddr) -> Origin {
        const NETWORK: u128 = !0 << 64;
        Origin(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Connections {
        Connections(Arc::new(Shared { limits, inner: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more; others go for it if there are too many. `None` if none can.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Arc<Registered>> {
        let (limits, origin) = (self.0.limits, Origin::of(address));
        let mut inner = self.lock();
        let own = inner.unknown.get(&origin).filter(|own| own.len() >= limits.per_address);
        if let Some(oldest) = own.and_then(BTreeSet::first).copied() {
            inner.evict(oldest);
        }
        if inner.unknown_count >= limits.unknown
            && let Some(oldest) = inner.oldest_unknown()
        {
            inner.evict(oldest);
        }
        if inner.entries.len() >= limits.connections && !inner.evict_one() {
            return None;
        }
        let id = inner.next_turn();
        let end = CancellationToken::new();
        let state = State::Unknown;
        let entry = Entry { origin, state, since: id, head_bytes: 0, end: end.clone() };
        inner.entries.insert(id, entry);
        inner.enlist(id);
        drop(inner);
        let is_known = AtomicBool::new(false);
        Some(Arc::new(Registered { connections: self.clone(), id, end, is_known }))
    }

    /// Has one go, because descriptors run out; whether there is one that can.
    pub(super) fn evict_one(&self) -> bool {
        self.lock().evict_one()
    }
}

impl Inner {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// The one of the address that has most.
    fn oldest_unknown(&self) -> Option<u64> {
        let most = self.unknown.values().max_by_key(|own| own.len());
        most.and_then(BTreeSet::first).copied()
    }

    fn evict_one(&mut self) -> bool {
        let first = self.waiting.values().next().copied();
        let Some(id) = self.oldest_unknown().or(first) else { return false };
        self.evict(id);
        true
    }

    fn evict(&mut self, id: u64) {
        if let Some(entry) = self.remove(id) {
            entry.end.cancel();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        self.delist(id);
        let entry = self.entries.remove(&id)?;
        self.heads_bytes -= entry.head_bytes;
        Some(entry)
    }

    /// Puts it where it is found by what it does.
    fn enlist(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else { return };
        match entry.state {
            State::Unknown => {
                self.unknown.entry(entry.origin).or_default().insert(id);
                self.unknown_count += 1;
            }
            State::Idle | State::Unread => {
                self.waiting.insert((entry.state, entry.since), id);
            }
            State::Busy => {}
        }
    }

    fn delist(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.state != State::Unknown {
            self.waiting.remove(&(entry.state, entry.since));
            return;
        }
        self.unknown_count -= 1;
        if let Some(own) = self.unknown.get_mut(&entry.origin) {
            own.remove(&id);
            if own.is_empty() {
                self.unknown.remove(&entry.origin);
            }
        }
    }

    fn set(&mut self, id: u64, state: State) {
        self.delist(id);
        let since = self.next_turn();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = state;
            entry.since = since;
        }
        self.enlist(id);
    }

    /// The oldest unknown one that holds a long head, but for `id`.
    fn oldest_with_head(&self, id: u64) -> Option<u64> {
        let long = |(other, entry): (&u64, &Entry)| {
            (*other != id && entry.head_bytes > 0).then_some(*other)
        };
        self.entries.iter().filter_map(long).min()
    }
}

/// One connection in the list. Dropped, it is in it no more.
#[derive(Debug)]
pub(super) struct Registered {
    connections: Connections,
    id: u64,
    end: CancellationToken,
    is_known: AtomicBool,
}

impl Registered {
    /// Until it has to go.
    pub(super) async fn evicted(&self) {
        self.end.cancelled().await;
    }

    /// Who it is was proved.
    pub(super) fn known(&self) {
        if !self.is_known.swap(true, Ordering::AcqRel) {
            let mut inner = self.connections.lock();
            inner.set(self.id, State::Busy);
            inner.hold(self.id, 0);
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// What it does now. One that is not known stays that.
    pub(super) fn does(&self, state: State) {
        if self.is_known() {
            self.connections.lock().set(self.id, state);
        }
    }

    /// It holds so many bytes of a head that is longer than usual. For those who are not known,
    /// others who do the same go if these are too many.
    pub(super) fn holds(&self, bytes: usize) {
        if self.is_known() {
            return;
        }
        let mut inner = self.connections.lock();
        inner.hold(self.id, bytes);
        while inner.heads_bytes > self.connections.0.limits.heads_bytes
            && let Some(oldest) = inner.oldest_with_head(self.id)
        {
            inner.evict(oldest);
        }
    }
}

impl Inner {
    fn hold(&mut self, id: u64, bytes: usize) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.heads_bytes = self.heads_bytes + bytes - entry.head_bytes;
        entry.head_bytes = bytes;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn limits(connections: usize, unknown: usize, per_address: usize) -> Limits {
        Limits { connections, unknown, per_address, heads_bytes: 100 }
    }

    fn is_gone(one: &Registered) -> bool {
        one.end.is_cancelled()
    }

    /// Which of them have gone.
    fn gone(all: &[Arc<Registered>]) -> Vec<usize> {
        (0..all.len()).filter(|index| is_gone(&all[*index])).collect()
    }

    #[test]
    fn the_oldest_of_an_address_that_has_too_many_goes() {
        let connections = Connections::new(limits(100, 100, 3));
        let other = connections.enter(address(9)).unwrap();
        let all: Vec<_> = (0..5).map(|_| connections.enter(address(1)).unwrap()).collect();
        assert_eq!(gone(&all), [0, 1]);
        assert!(!is_gone(&other));
        assert_eq!(connections.lock().entries.len(), 4);
    }

    #[test]
    fn known_ones_do_not_count_as_unknown() {
        let connections = Connections::new(limits(100, 100, 2));
        let all: Vec<_> = (0..50)
            .map(|_| {
                let one = connections.enter(address(1)).unwrap();
                one.known();
                one
            })
            .collect();
        assert!(gone(&all).is_empty());
        assert_eq!(connections.lock().unknown_count, 0);
    }

    #[test]
    fn of_all_addresses_the_one_with_most_gives_way() {
        let connections = Connections::new(limits(100, 6, 5));
        let few: Vec<_> = (2..4).map(|last| connections.enter(address(last)).unwrap()).collect();
        let many: Vec<_> = (0..4).map(|_| connections.enter(address(1)).unwrap()).collect();
        let next = connections.enter(address(7)).unwrap();
        assert_eq!(gone(&many), [0]);
        assert!(gone(&few).is_empty() && !is_gone(&next));
    }

    #[test]
    fn unknown_then_idle_then_unread_and_never_one_that_is_served() {
        let connections = Connections::new(limits(4, 4, 4));
        let all: Vec<_> = (0..4).map(|last| connections.enter(address(last)).unwrap()).collect();
        for one in &all[..3] {
            one.known();
        }
        all[1].does(State::Unread);
        all[0].does(State::Idle);
        assert!(connections.evict_one());
        assert_eq!(gone(&all), [3]);
        assert!(connections.evict_one());
        assert_eq!(gone(&all), [0, 3]);
        assert!(connections.evict_one());
        assert_eq!(gone(&all), [0, 1, 3]);
        assert!(!connections.evict_one());
        assert!(!is_gone(&all[2]));
    }

    #[test]
    fn who_waits_longest_goes_first() {
        let connections = Connections::new(limits(9, 9, 9));
        let all: Vec<_> = (0..3).map(|last| connections.enter(address(last)).unwrap()).collect();
        for one in &all {
            one.known();
            one.does(State::Idle);
        }
        all[0].does(State::Busy);
        all[0].does(State::Idle);
        assert!(connections.evict_one());
        assert_eq!(gone(&all), [1]);
    }

    #[test]
    fn a_full_server_takes_none_for_one_that_is_served() {
        let connections = Connections::new(limits(2, 2, 2));
        let all: Vec<_> = (0..2).map(|last| connections.enter(address(last)).unwrap()).collect();
        all.iter().for_each(|one| one.known());
        assert!(connections.enter(address(3)).is_none());
        drop(all);
        assert!(connections.enter(address(3)).is_some());
    }

    #[test]
    fn long_heads_of_unknown_ones_have_one_budget() {
        let connections = Connections::new(limits(9, 9, 9));
        let all: Vec<_> = (0..3).map(|last| connections.enter(address(last)).unwrap()).collect();
        all[1].holds(60);
        all[0].holds(40);
        all[2].holds(40);
        assert_eq!(gone(&all), [0]);
        // Its own is never in its way, and one that is known has no part in it.
        all[2].holds(100);
        assert_eq!(gone(&all), [0, 1]);
        all[2].known();
        assert_eq!(connections.lock().heads_bytes, 0);
    }

    #[test]
    fn limits_leave_descriptors_for_sessions() {
        for descriptors in [16, 256, 1024, 1_000_000] {
            let limits = Limits::within(descriptors, UNKNOWN_PER_ADDRESS);
            assert!(limits.connections <= descriptors / SHARE, "{descriptors}: {limits:?}");
            assert!(limits.unknown <= limits.connections && limits.unknown <= UNKNOWN);
            assert!(limits.per_address < limits.unknown);
        }
        assert_eq!(Limits::within(1_000_000, usize::MAX).per_address, UNKNOWN / 2);
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_address_are_one_origin() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
    }
}
