//! What is known of the objects, and until when that counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{OutOfSync, Watchable};

/// How long what is known counts after a word of the server's. While nothing happens, an API server
/// says so once a minute.
pub(super) const FRESH: Duration = Duration::from_secs(90);
/// How long it counts after a stream that has ended as it should, until the next one is open.
pub(super) const BETWEEN: Duration = Duration::from_secs(10);
/// How many objects are kept. A cluster of so many nodes is six times one of the largest.
pub(super) const OBJECTS: usize = 100_000;

/// Too many objects.
#[derive(Debug)]
pub(super) struct TooMany;

/// What is known.
#[derive(Debug)]
pub(super) struct State<T> {
    known: Mutex<Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    objects: HashMap<String, Arc<T>>,
    /// Until when they count; `None` once something may have happened unseen.
    fresh_until: Option<Instant>,
    /// All were listed once.
    is_listed: bool,
    /// When the server has last answered something, or said something.
    answered: Option<Instant>,
    /// What went wrong last, since the server has last answered.
    fault: Option<String>,
}

impl<T> Default for State<T> {
    fn default() -> State<T> {
        let known = Known {
            objects: HashMap::new(),
            fresh_until: None,
            is_listed: false,
            answered: None,
            fault: None,
        };
        State { known: Mutex::new(known) }
    }
}

impl<T: Watchable> State<T> {
    pub(super) fn get(&self, name: &str) -> Result<Option<Arc<T>>, OutOfSync> {
        let known = self.lock();
        if known.is_fresh() {
            return Ok(known.objects.get(name).cloned());
        }
        let why = known.fault.clone();
        Err(OutOfSync { why: why.unwrap_or_else(|| "it is silent".to_owned()) })
    }

    pub(super) fn is_connected(&self) -> bool {
        let known = self.lock();
        let is_recent = |at: Instant| at.elapsed() < FRESH;
        known.is_listed && known.fault.is_none() && known.answered.is_some_and(is_recent)
    }

    /// Exchanges all objects for those of a list.
    pub(super) fn list(&self, objects: HashMap<String, Arc<T>>) {
        let mut known = self.lock();
        if !known.is_listed || known.fault.is_some() {
            info!("{} {} are known", objects.len(), kind::<T>());
        }
        known.objects = objects;
        known.is_listed = true;
        known.heard();
    }

    /// A stream was opened. What it tells first is what was missed, so this is a word only if
    /// nothing can be.
    pub(super) fn opened(&self) {
        let mut known = self.lock();
        if known.fault.take().is_some() {
            info!("{} are followed again", kind::<T>());
        }
        known.answered = Some(Instant::now());
        if known.is_fresh() {
            known.heard();
        }
    }

    /// An object is there.
    pub(super) fn put(&self, object: T) -> Result<(), TooMany> {
        let mut known = self.lock();
        let name = object.name().to_owned();
        if known.objects.len() >= OBJECTS && !known.objects.contains_key(&name) {
            return Err(TooMany);
        }
        known.objects.insert(name, Arc::new(object));
        known.heard();
        Ok(())
    }

    /// An object is no longer there.
    pub(super) fn remove(&self, name: &str) {
        let mut known = self.lock();
        known.objects.remove(name);
        known.heard();
    }

    /// The server was heard of.
    pub(super) fn heard(&self) {
        self.lock().heard();
    }

    /// The stream has ended as it should; the next one begins where it ended.
    pub(super) fn paused(&self) {
        let mut known = self.lock();
        let latest = Instant::now() + BETWEEN;
        known.fresh_until = known.fresh_until.map(|until| until.min(latest));
    }

    /// The server cannot be asked, or its stream has ended in another way.
    pub(super) fn lost(&self, why: String) {
        let mut known = self.lock();
        known.fresh_until = None;
        if known.fault.as_ref() != Some(&why) {
            warn!("{} are not followed: {why}", kind::<T>());
        }
        known.fault = Some(why);
    }

    fn lock(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Known<T> {
    fn is_fresh(&self) -> bool {
        self.fresh_until.is_some_and(|until| Instant::now() < until)
    }

    fn heard(&mut self) {
        let now = Instant::now();
        (self.fresh_until, self.answered, self.fault) = (Some(now + FRESH), Some(now), None);
    }
}

fn kind<T: Watchable>() -> &'static str {
    T::PATH.last().copied().unwrap_or_default()
}
