//! A machine's deadline as something to poll.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_proto::Time;
use tokio::time::Sleep;

use crate::clock::Clock;

/// A deadline that a loop can poll beside its sockets.
#[derive(Debug, Default)]
pub struct Alarm {
    set: Option<(Time, Pin<Box<Sleep>>)>,
}

impl Alarm {
    /// Sets the deadline; `None` is never.
    pub fn set(&mut self, clock: &Clock, deadline: Option<Time>) {
        match (&mut self.set, deadline) {
            (Some((at, _)), Some(deadline)) if *at == deadline => {}
            (Some((at, sleep)), Some(deadline)) => {
                *at = deadline;
                sleep.as_mut().reset(clock.instant(deadline));
            }
            (set, Some(deadline)) => {
                let sleep = tokio::time::sleep_until(clock.instant(deadline));
                *set = Some((deadline, Box::pin(sleep)));
            }
            (set, None) => *set = None,
        }
    }

    /// Ready once the deadline has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, sleep)) = &mut self.set else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        self.set = None;
        Poll::Ready(())
    }
}
