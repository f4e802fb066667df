//! A kind of objects to those of them that there are, as an API server tells it all the time.
//!
//! They are listed in pages and then followed (`run.rs`): a list is made anew where the server no
//! longer knows what happened since, and a stream that ends is opened again where it ended.
//! `lines.rs` takes events out of the stream, `event.rs` reads them. Nothing is known for longer
//! than the server was heard of: whoever asks later is told so, and has to ask the server itself.

mod backoff;
mod event;
mod lines;
mod run;
mod server;
mod state;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::task::JoinSet;

use self::run::run;
use self::server::ApiServer;
use self::state::State;
use crate::api::Api;

/// An object of a kind that is watched. It has what is kept of one, and no more.
pub trait Watchable: DeserializeOwned + Send + Sync + 'static {
    /// The path of all objects of the kind, as in `["api", "v1", "nodes"]`.
    const PATH: &'static [&'static str];

    /// Returns its name, which no other of the kind has.
    fn name(&self) -> &str;

    /// Returns its `metadata.resourceVersion`.
    fn resource_version(&self) -> &str;
}

/// What is known is not known to be so still: the server was not heard of for too long.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the API server was not heard of lately: {why}")]
pub struct OutOfSync {
    /// What happened last; empty if nothing did.
    pub why: String,
}

/// The objects of a kind, for as long as this is there.
#[derive(Debug)]
pub struct Watched<T> {
    state: Arc<State<T>>,
    _watching: JoinSet<()>,
}

impl<T: Watchable> Watched<T> {
    /// Begins to watch all objects of the kind. The user of `api` may list and watch them.
    #[must_use]
    pub fn begin(api: Api) -> Watched<T> {
        let state = Arc::new(State::default());
        let (server, told) = (ApiServer::new(api), state.clone());
        let mut watching = JoinSet::new();
        watching.spawn(async move { run(&server, &told).await });
        Watched { state, _watching: watching }
    }

    /// Returns the object of this name, if there is one.
    ///
    /// # Errors
    /// [`OutOfSync`] if that may have changed unseen.
    pub fn get(&self, name: &str) -> Result<Option<Arc<T>>, OutOfSync> {
        self.state.get(name)
    }

    /// Returns whether all objects were listed once, and the server has answered the last time it
    /// was asked for something, and has not been silent for long.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state.is_connected()
    }
}

#[cfg(test)]
mod tests;
