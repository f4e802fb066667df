//! Keeps a list of a server's connections that are no sessions, and decides which of them is ended
//! when there are too many.
//!
//! A connection is unauthenticated until a request on it was authenticated. Those are ended first,
//! so that nobody without credentials can shut others out: of the address that has most of them,
//! the oldest. Next are those without a request, and then those whose client does not read its
//! answer. One whose request is served is never ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::descriptors;

/// The most connections at once, even if the system has descriptors for more.
const CONNECTIONS: usize = 16 * 1024;
/// What share of the descriptors they may take. As many are for what the server itself opens for
/// them, such as a log, and the rest is for sessions.
const SHARE: usize = 3;
/// The most unauthenticated connections at once. Each may hold a TLS hello of 64 KiB.
const UNAUTHENTICATED: usize = 4096;
/// The default for how many unauthenticated connections one address may have. Behind a load
/// balancer all clients have its address, but are unauthenticated only as long as a handshake
/// takes.
pub const UNAUTHENTICATED_PER_ADDRESS: usize = 1024;
/// How many bytes the long heads of requests on unauthenticated connections may have together.
const HEADS_BYTES: usize = 16 * 1024 * 1024;

/// How many connections a server may have at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    connections: usize,
    unauthenticated: usize,
    per_address: usize,
    heads_bytes: usize,
}

impl Limits {
    /// The limits that the system's number of descriptors allows, with at most so many
    /// unauthenticated connections of one address.
    #[must_use]
    pub fn new(unauthenticated_per_address: usize) -> Limits {
        Limits::within(descriptors::limit(), unauthenticated_per_address)
    }

    fn within(descriptors: usize, unauthenticated_per_address: usize) -> Limits {
        let connections = (descriptors / SHARE).clamp(2, CONNECTIONS);
        let unauthenticated = (connections / 2).clamp(2, UNAUTHENTICATED);
        let per_address = unauthenticated_per_address.clamp(1, unauthenticated / 2);
        Limits { connections, unauthenticated, per_address, heads_bytes: HEADS_BYTES }
    }
}

/// How many long answers, such as those to `logs -f`, there may be at once: as many as half of the
/// connections, so that whoever may only read logs leaves room for others.
pub(super) fn long_answers() -> usize {
    Limits::default().connections / 2
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new(UNAUTHENTICATED_PER_ADDRESS)
    }
}

/// The list of a server's connections.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The number of the latest change. Numbers order connections by time.
    turn: u64,
    entries: HashMap<u64, Entry>,
    /// The unauthenticated ones by their origin, the oldest first.
    unauthenticated: HashMap<Origin, BTreeSet<u64>>,
    unauthenticated_count: usize,
    /// The authenticated ones that can be ended, in the order in which they are.
    waiting: BTreeMap<(Activity, u64), u64>,
    heads_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    activity: Activity,
    /// The number of the change that began this activity.
    since: u64,
    head_bytes: usize,
    end: CancellationToken,
}

/// What a connection does, in the order in which connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Activity {
    /// No request on it was authenticated yet.
    Unauthenticated,
    /// There is no request on it.
    Idle,
    /// Its client does not read its answer.
    Unread,
    /// A request on it is served.
    Busy,
}

/// The address that a client counts by: of IPv6 the network, all of which a client has.
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

    /// Adds a connection, for which others are ended if there are too many. `None` if none can be.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Arc<Registered>> {
        let (limits, origin) = (self.0.limits, Origin::of(address));
        let mut inner = self.lock();
        let own = inner.unauthenticated.get(&origin).filter(|own| own.len() >= limits.per_address);
        if let Some(oldest) = own.and_then(BTreeSet::first).copied() {
            inner.evict(oldest);
        }
        if inner.unauthenticated_count >= limits.unauthenticated
            && let Some(oldest) = inner.oldest_unauthenticated()
        {
            inner.evict(oldest);
        }
        if inner.entries.len() >= limits.connections && !inner.evict_one() {
            return None;
        }
        let id = inner.next_turn();
        let end = CancellationToken::new();
        let activity = Activity::Unauthenticated;
        let entry = Entry { origin, activity, since: id, head_bytes: 0, end: end.clone() };
        inner.entries.insert(id, entry);
        inner.enlist(id);
        drop(inner);
        let is_authenticated = AtomicBool::new(false);
        Some(Arc::new(Registered { connections: self.clone(), id, end, is_authenticated }))
    }

    /// Ends a connection because descriptors run out; false if none can be ended.
    pub(super) fn evict_one(&self) -> bool {
        self.lock().evict_one()
    }
}

impl Inner {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// The oldest unauthenticated one of the address that has most of them.
    fn oldest_unauthenticated(&self) -> Option<u64> {
        let most = self.unauthenticated.values().max_by_key(|own| own.len());
        most.and_then(BTreeSet::first).copied()
    }

    fn evict_one(&mut self) -> bool {
        let first = self.waiting.values().next().copied();
        let Some(id) = self.oldest_unauthenticated().or(first) else { return false };
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

    /// Adds a connection to the index of its activity.
    fn enlist(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else { return };
        match entry.activity {
            Activity::Unauthenticated => {
                self.unauthenticated.entry(entry.origin).or_default().insert(id);
                self.unauthenticated_count += 1;
            }
            Activity::Idle | Activity::Unread => {
                self.waiting.insert((entry.activity, entry.since), id);
            }
            Activity::Busy => {}
        }
    }

    fn delist(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.activity != Activity::Unauthenticated {
            self.waiting.remove(&(entry.activity, entry.since));
            return;
        }
        self.unauthenticated_count -= 1;
        if let Some(own) = self.unauthenticated.get_mut(&entry.origin) {
            own.remove(&id);
            if own.is_empty() {
                self.unauthenticated.remove(&entry.origin);
            }
        }
    }

    fn set(&mut self, id: u64, activity: Activity) {
        self.delist(id);
        let since = self.next_turn();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.activity = activity;
            entry.since = since;
        }
        self.enlist(id);
    }

    /// The oldest unauthenticated one with a long head, except for `id`.
    fn oldest_with_head(&self, id: u64) -> Option<u64> {
        let long = |(other, entry): (&u64, &Entry)| {
            (*other != id && entry.head_bytes > 0).then_some(*other)
        };
        self.entries.iter().filter_map(long).min()
    }
}

/// A connection in the list. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Registered {
    connections: Connections,
    id: u64,
    end: CancellationToken,
    is_authenticated: AtomicBool,
}

impl Registered {
    /// Waits until the connection has to be ended.
    pub(super) async fn evicted(&self) {
        self.end.cancelled().await;
    }

    /// Records that a request on it was authenticated.
    pub(super) fn mark_authenticated(&self) {
        if !self.is_authenticated.swap(true, Ordering::AcqRel) {
            let mut inner = self.connections.lock();
            inner.set(self.id, Activity::Busy);
            inner.count_head(self.id, 0);
        }
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Acquire)
    }

    /// Records what the connection does now, if it is authenticated.
    pub(super) fn set_activity(&self, activity: Activity) {
        if self.is_authenticated() {
            self.connections.lock().set(self.id, activity);
        }
    }

    /// Records how many bytes of a long head an unauthenticated connection holds. If all of them
    /// hold too many, others with a long head are ended.
    pub(super) fn set_head_bytes(&self, bytes: usize) {
        if self.is_authenticated() {
            return;
        }
        let mut inner = self.connections.lock();
        inner.count_head(self.id, bytes);
        while inner.heads_bytes > self.connections.0.limits.heads_bytes
            && let Some(oldest) = inner.oldest_with_head(self.id)
        {
            inner.evict(oldest);
        }
    }
}

impl Inner {
    fn count_head(&mut self, id: u64, bytes: usize) {
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

    fn limits(connections: usize, unauthenticated: usize, per_address: usize) -> Limits {
        Limits { connections, unauthenticated, per_address, heads_bytes: 100 }
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
                one.mark_authenticated();
                one
            })
            .collect();
        assert!(gone(&all).is_empty());
        assert_eq!(connections.lock().unauthenticated_count, 0);
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
            one.mark_authenticated();
        }
        all[1].set_activity(Activity::Unread);
        all[0].set_activity(Activity::Idle);
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
            one.mark_authenticated();
            one.set_activity(Activity::Idle);
        }
        all[0].set_activity(Activity::Busy);
        all[0].set_activity(Activity::Idle);
        assert!(connections.evict_one());
        assert_eq!(gone(&all), [1]);
    }

    #[test]
    fn a_full_server_takes_none_for_one_that_is_served() {
        let connections = Connections::new(limits(2, 2, 2));
        let all: Vec<_> = (0..2).map(|last| connections.enter(address(last)).unwrap()).collect();
        all.iter().for_each(|one| one.mark_authenticated());
        assert!(connections.enter(address(3)).is_none());
        drop(all);
        assert!(connections.enter(address(3)).is_some());
    }

    #[test]
    fn long_heads_of_unknown_ones_have_one_budget() {
        let connections = Connections::new(limits(9, 9, 9));
        let all: Vec<_> = (0..3).map(|last| connections.enter(address(last)).unwrap()).collect();
        all[1].set_head_bytes(60);
        all[0].set_head_bytes(40);
        all[2].set_head_bytes(40);
        assert_eq!(gone(&all), [0]);
        // Its own is never in its way, and one that is known has no part in it.
        all[2].set_head_bytes(100);
        assert_eq!(gone(&all), [0, 1]);
        all[2].mark_authenticated();
        assert_eq!(connections.lock().heads_bytes, 0);
    }

    #[test]
    fn limits_leave_descriptors_for_sessions() {
        for descriptors in [16, 256, 1024, 1_000_000] {
            let limits = Limits::within(descriptors, UNAUTHENTICATED_PER_ADDRESS);
            assert!(limits.connections <= descriptors / SHARE, "{descriptors}: {limits:?}");
            assert!(
                limits.unauthenticated <= limits.connections
                    && limits.unauthenticated <= UNAUTHENTICATED
            );
            assert!(limits.per_address < limits.unauthenticated);
        }
        assert_eq!(Limits::within(1_000_000, usize::MAX).per_address, UNAUTHENTICATED / 2);
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_address_are_one_origin() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
    }
}
