//! Runs the tasks of a connection: one for each request, and one that writes for each upgraded
//! stream.

use std::future::Future;
use std::sync::Arc;

use http::Request;
use hyper::rt::Executor;
use hyper::upgrade::Upgraded;
use tokio::task::futures::TaskLocalFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::OneInFlight;
use crate::stream::{Lifeline, OverHttp2, Stream};

tokio::task_local! {
    /// What resets the stream whose request this task answers. The library begins the task that
    /// writes for an upgraded stream within the one that has answered its request, which is how the
    /// two are known to belong together.
    static THIS_STREAM: Lifeline;
}

/// Where the tasks of one connection are begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    /// Cancelled when requests have no time left. Upgraded streams go on.
    plain: CancellationToken,
}

impl Tasks {
    /// Returns what ends all requests that are no upgraded streams.
    pub(super) fn plain(&self) -> CancellationToken {
        self.plain.clone()
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        if let Ok(lifeline) = THIS_STREAM.try_with(Lifeline::clone) {
            self.tracker.spawn(lifeline.run(task));
            return;
        }
        let plain = self.plain.clone();
        let request: TaskLocalFuture<Lifeline, F> = THIS_STREAM.scope(Lifeline::default(), task);
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = plain.cancelled() => {}
                () = request => {}
            }
        });
    }
}

/// What makes a stream of an upgraded request.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Upgrade {
    lifeline: Lifeline,
    one: Arc<OneInFlight>,
}

impl Upgrade {
    /// That of the request that this task answers.
    pub(super) fn of_this_task(one: Arc<OneInFlight>) -> Upgrade {
        let lifeline = THIS_STREAM.try_with(Lifeline::clone).unwrap_or_default();
        Upgrade { lifeline, one }
    }

    /// Adds it to the request, for whoever takes over its stream.
    pub(super) fn put_into<B>(self, request: &mut Request<B>) {
        request.extensions_mut().insert(self);
    }

    pub(in crate::serve) fn stream(self, upgraded: Upgraded) -> Stream {
        Stream::over_http2(OverHttp2::new(upgraded, self.lifeline, self.one))
    }
}
