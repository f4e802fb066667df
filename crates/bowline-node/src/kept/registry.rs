//! Which sessions there are, by their ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bowline_io::text::sanitized;
use bowline_proto::kept::{Entry, Id, Start, refused};
use bowline_proto::limits::REASON_BYTES;

use super::shares::Shares;
use super::{Door, Limits, Place, Refusal};

/// How many ids are remembered of sessions that are forgotten: a command whose start is asked for
/// again after that must not run again.
const GONE: usize = 4096;

/// How much output of sessions that have ended is kept. Beyond that, the container that has the
/// most of it gives its oldest session.
const ENDED_BYTES: usize = 512 * 1024 * 1024;

/// All sessions that there are.
#[derive(Debug, Default)]
pub(super) struct Registry {
    known: HashMap<Id, Known>,
    /// Those that have ended.
    ended: Shares<Id>,
    /// Those that are forgotten.
    gone: Shares<Id>,
}

/// One session.
#[derive(Debug)]
pub(super) struct Known {
    place: Place,
    /// The beginning of its words.
    command: String,
    /// The way to its task; none once it is to end as soon as nobody is there.
    door: Option<Door>,
    pub(super) shown: Arc<Shown>,
}

/// What a session's task tells of it.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) has_ended: AtomicBool,
    pub(super) has_client: AtomicBool,
    /// How many bytes of output are kept.
    pub(super) kept_bytes: AtomicUsize,
}

impl Known {
    pub(super) fn new(place: Place, command: &[String], door: Door) -> Known {
        let command = sanitized(&command.join(" "), REASON_BYTES).into();
        Known { place, command, door: Some(door), shown: Arc::default() }
    }

    fn has_ended(&self) -> bool {
        self.shown.has_ended.load(Ordering::Relaxed)
    }

    fn entry(&self, id: &Id) -> Entry {
        let has_client = self.shown.has_client.load(Ordering::Relaxed);
        let (name, command) = (id.name(), self.command.clone());
        Entry { name, command, has_ended: self.has_ended(), has_client }
    }
}

impl Registry {
    /// The way to a session that was started before, if it was.
    pub(super) fn known(&self, place: &Place, start: &Start) -> Result<Option<Door>, Refusal> {
        let over = || (refused::UNKNOWN, "the session is over, and forgotten".to_owned());
        let Some(known) = self.known.get(&start.id) else {
            let is_gone = self.gone.contains(&place.name, &start.id);
            return if is_gone { Err(over()) } else { Ok(None) };
        };
        if !known.place.is(place) {
            let text = "there is such a session in another container";
            return Err((refused::CONFLICT, text.to_owned()));
        }
        known.door.clone().map(Some).ok_or_else(over)
    }

    /// Whether another one may run.
    pub(super) fn check_room(&self, place: &Place, limits: &Limits) -> Result<(), Refusal> {
        let running = self.known.values().filter(|known| !known.has_ended());
        let (all, here) = running.fold((0, 0), |(all, here), known| {
            (all + 1, here + usize::from(known.place.name == place.name))
        });
        let Limits { per_container, per_node, .. } = limits;
        let full = |what: &str, most: &usize| {
            Err((refused::TOO_MANY, format!("{what} has {most} kept sessions already")))
        };
        if here >= *per_container {
            full("this container", per_container)
        } else if all >= *per_node {
            full("this node", per_node)
        } else {
            Ok(())
        }
    }

    pub(super) fn begin(&mut self, id: Id, known: Known) {
        self.known.insert(id, known);
    }

    pub(super) fn find(&self, place: &Place, id: &Id) -> Option<Door> {
        let known = self.known.get(id).filter(|known| known.place.is(place))?;
        known.door.clone()
    }

    pub(super) fn has(&self, id: &Id) -> bool {
        self.known.contains_key(id)
    }

    pub(super) fn list(&self, place: &Place) -> Vec<Entry> {
        let here = self.known.iter().filter(|(_, known)| known.place.is(place));
        here.map(|(id, known)| known.entry(id)).collect()
    }

    /// Records that a session has ended. What is beyond the limits closes its door.
    pub(super) fn ended(&mut self, id: Id, limits: &Limits) {
        let Some(known) = self.known.get(&id) else { return };
        self.ended.push(&known.place.name, id);
        loop {
            let known = &self.known;
            let bytes_of = |id: &Id| {
                known.get(id).map_or(0, |known| known.shown.kept_bytes.load(Ordering::Relaxed))
            };
            let oldest = if self.ended.count() > limits.per_node {
                self.ended.pop()
            } else if self.ended.count() > 1 && self.ended.sum(bytes_of) > ENDED_BYTES {
                self.ended.pop_by(|ids| ids.iter().map(bytes_of).sum())
            } else {
                return;
            };
            if let Some(oldest) = oldest.and_then(|id| self.known.get_mut(&id)) {
                oldest.door = None;
            }
        }
    }

    pub(super) fn forget(&mut self, id: Id) {
        let Some(Known { place, .. }) = self.known.remove(&id) else { return };
        self.ended.remove(&place.name, &id);
        self.gone.push(&place.name, id);
        while self.gone.count() > GONE {
            self.gone.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn ends(registry: &mut Registry, place: &str, id: u8, kept_bytes: usize, limits: &Limits) {
        let place = Place { name: place.to_owned(), uid: None };
        let known = Known::new(place, &[], mpsc::channel(1).0);
        known.shown.kept_bytes.store(kept_bytes, Ordering::Relaxed);
        registry.begin(Id([id; 16]), known);
        registry.ended(Id([id; 16]), limits);
    }

    /// The ids of those that can still be asked for.
    fn open(registry: &Registry) -> Vec<u8> {
        let open = registry.known.iter().filter(|(_, known)| known.door.is_some());
        let mut open: Vec<u8> = open.map(|(id, _)| id.0[0]).collect();
        open.sort_unstable();
        open
    }

    #[test]
    fn the_results_of_one_container_push_out_none_of_another() {
        let limits = Limits { per_node: 4, ..Limits::default() };
        let mut registry = Registry::default();
        ends(&mut registry, "ns/p/few", 1, 0, &limits);
        for id in 2..20 {
            ends(&mut registry, "ns/p/many", id, 0, &limits);
        }
        assert_eq!(open(&registry), [1, 17, 18, 19]);
        // Those that are forgotten are remembered in the same way.
        for id in 1..20 {
            registry.forget(Id([id; 16]));
        }
        assert_eq!((registry.ended.count(), registry.gone.count()), (0, 19));
    }

    #[test]
    fn the_output_of_sessions_that_have_ended_is_bounded() {
        let (limits, mut registry) = (Limits::default(), Registry::default());
        let third = ENDED_BYTES / 3;
        ends(&mut registry, "ns/p/few", 1, third, &limits);
        for id in 2..5 {
            ends(&mut registry, "ns/p/many", id, third, &limits);
        }
        assert_eq!(open(&registry), [1, 3, 4]);
        // The only one stays however much it has.
        let mut registry = Registry::default();
        ends(&mut registry, "ns/p/huge", 5, 2 * ENDED_BYTES, &limits);
        assert_eq!(open(&registry), [5]);
    }
}
