//! A session that runs, to its end as a value.

use bowline_proto::Time;
use bowline_proto::relay::Tap;

use super::{End, Ended, Hook, Record, Traffic};
use crate::clock::Clock;

/// A session that has begun. Dropped without an end, it was given up, and its hooks are told so.
#[derive(Debug)]
pub struct Running {
    /// Taken at its end.
    open: Option<Box<Open>>,
    clock: Clock,
    pub(super) traffic: Option<Traffic>,
}

#[derive(Debug)]
struct Open {
    record: Record,
    hooks: Vec<Box<dyn Hook>>,
}

impl Running {
    pub(super) fn new(record: Record, hooks: Vec<Box<dyn Hook>>) -> Running {
        let mut open = Box::new(Open { record, hooks });
        let Open { record, hooks } = &mut *open;
        hooks.iter_mut().for_each(|hook| hook.begun(record));
        Running { open: Some(open), clock: Clock::start(), traffic: None }
    }

    /// What looks at the events of this session; none where nobody wants to.
    pub fn tap(&mut self) -> Option<Box<dyn Tap + Send>> {
        let hooks = &mut self.open.as_mut()?.hooks;
        let mut taps: Vec<_> = hooks.iter_mut().filter_map(|hook| hook.tap()).collect();
        if taps.len() < 2 { taps.pop() } else { Some(Box::new(taps)) }
    }

    /// Says that it has ended, and how; with its bytes where they were counted.
    pub fn end(mut self, end: End, traffic: Option<Traffic>) -> Option<Ended> {
        self.traffic = traffic;
        self.close(end)
    }

    /// Tells the end; the first one counts.
    pub(super) fn close(&mut self, end: End) -> Option<Ended> {
        let Open { record, hooks } = *self.open.take()?;
        let lasted = self.clock.now().since(Time::ZERO);
        let ended = Ended { record, end, traffic: self.traffic, lasted };
        hooks.into_iter().for_each(|hook| hook.ended(&ended));
        Some(ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close(End::Lost("it was given up".into()));
    }
}
