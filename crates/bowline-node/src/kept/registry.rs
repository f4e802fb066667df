//! Which sessions there are, by their ids.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_io::text::sanitized;
use bowline_proto::kept::{Entry, Id, Start, refused};
use bowline_proto::limits::REASON_BYTES;

use super::{Door, Limits, Place, Refusal};

/// How many ids are remembered of sessions that are forgotten: a command whose start is asked for
/// again after that must not run again.
const GONE: usize = 4096;

/// All sessions that there are.
#[derive(Debug, Default)]
pub(super) struct Registry {
    known: HashMap<Id, Known>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<Id>,
    gone: VecDeque<Id>,
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
            return if self.gone.contains(&start.id) { Err(over()) } else { Ok(None) };
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

    /// Records that a session has ended. Beyond the limit, the oldest of these closes its door.
    pub(super) fn ended(&mut self, id: Id, limits: &Limits) {
        self.ended.push_back(id);
        while self.ended.len() > limits.per_node {
            let oldest = self.ended.pop_front().and_then(|id| self.known.get_mut(&id));
            if let Some(oldest) = oldest {
                oldest.door = None;
            }
        }
    }

    pub(super) fn forget(&mut self, id: Id) {
        self.known.remove(&id);
        self.ended.retain(|ended| *ended != id);
        if self.gone.len() >= GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(id);
    }
}
