//! Plain requests to one server, over connections that are kept: HTTP/2 where the server speaks it,
//! else HTTP/1.1.
//!
//! `connections.rs` says which connection takes a request, and when another one is made;
//! `connect.rs` makes it, and `http2.rs` has what is special about HTTP/2. An answer's body comes as
//! the server sends it, and little is read that nobody takes. How long an answer may take is the
//! caller's to say: a watch may be silent for hours. That the server is gone is found all the same,
//! by pings.

mod alone;
mod body;
mod connect;
mod connections;
mod error;
mod http2;
mod target;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::body::Lending;
pub use self::body::PoolAnswer;
use self::connections::Shared;
pub use self::error::PoolError;
use self::target::Target;
use crate::access::{Access, Source};
use crate::request_target::Query;

/// How old credentials may be before their source is asked again. It reads files each time.
const ACCESS_AGE: Duration = Duration::from_secs(1);
/// How often other credentials are asked for after a 401. A plugin may have to run for them, and a
/// 401 may have another cause.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How many connections one request is tried on, as long as no server has begun it.
const TRIES: usize = 4;

/// The body of a request. If it fails, the server sees that it is not complete.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A client of one server. Cheap to clone: clones share their connections, which end when the last
/// clone is dropped and the answers that are still read are over.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    source: Arc<dyn Source>,
    agent: HeaderValue,
    /// When the source was asked last, and when for others than those that were refused. Whoever
    /// asks holds it.
    asked: Arc<Mutex<Asked>>,
}

/// In which way requests go to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolState {
    generation: u64,
    ended: u64,
}

#[derive(Debug, Default)]
struct Asked {
    at: Option<Instant>,
    renewed_at: Option<Instant>,
}

/// What is sent of a request, but for its body and for what depends on the connection.
#[derive(Debug)]
struct Head {
    method: Method,
    target: PathAndQuery,
    /// A query that is too long for the HTTP library.
    long_query: Option<Query>,
    headers: HeaderMap,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// Makes a client of the server that `source` has credentials for. `agent` is the `User-Agent`
    /// of requests that have none.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, agent: &'static str) -> Pool {
        let (shared, asked) = (Arc::default(), Arc::default());
        Pool { shared, source, agent: HeaderValue::from_static(agent), asked }
    }

    /// Sends a request to the server, and returns its answer once the head has come. The path with
    /// the query goes as it is; scheme and authority are the server's, and the source's credentials
    /// are added.
    ///
    /// A request that no server has begun is sent again: always if nothing of it was sent, and a
    /// GET, HEAD, OPTIONS or TRACE also if a kept connection broke, which the server may have ended
    /// just then. None is of whose body more was taken than is kept (64 KiB). If credentials are
    /// refused and the source has others, it is sent again with those.
    ///
    /// Dropped before it is done, it cancels the request; so does dropping the answer.
    ///
    /// # Errors
    /// [`PoolError`] if there is no answer.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<PoolAnswer>, PoolError> {
        let (mut parts, body) = request.into_parts();
        let long_query = parts.extensions.remove::<Query>();
        let target = parts.uri.path_and_query().cloned();
        let mut head = Head {
            method: parts.method,
            target: target.unwrap_or_else(|| PathAndQuery::from_static("/")),
            long_query,
            headers: parts.headers,
        };
        let agent = head.headers.entry(header::USER_AGENT);
        agent.or_insert_with(|| self.agent.clone());
        let lending = Lending::new(body);
        let (mut renewed, mut repeated) = (false, false);
        let mut tries = 1;
        loop {
            let target = self.target().await?;
            match self.attempt(&target, &head, &lending).await {
                Ok(answer) => {
                    let refused = answer.status() == StatusCode::UNAUTHORIZED;
                    let again = refused && !renewed && lending.is_whole();
                    if !again || !self.renew(&target).await? {
                        return Ok(answer);
                    }
                    renewed = true;
                }
                Err(failed) => {
                    let broke = failed.was_kept && failed.error.is_broken();
                    let repeats = !repeated && broke && is_safe(&head.method);
                    let again = failed.is_unsent || repeats;
                    if !again || tries == TRIES || !lending.is_whole() {
                        return Err(failed.error);
                    }
                    repeated |= !failed.is_unsent;
                    tries += 1;
                }
            }
        }
    }

    /// How many requests there may be at once, as far as is known of the server.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity()
    }

    /// Has the next requests go with these credentials, which the source has given just now.
    ///
    /// # Errors
    /// [`PoolError::Request`] if the server has no name that a request can have.
    pub fn follow(&self, access: Access) -> Result<(), PoolError> {
        self.shared.set_target(access).map(drop)
    }

    /// Returns what is another one once requests go to the server in another way: with other
    /// credentials, or since a connection of HTTP/2 that was shared by all has ended. Connections
    /// of HTTP/1.1 come and go.
    ///
    /// # Errors
    /// [`PoolError`] if there are no credentials.
    pub async fn state(&self) -> Result<PoolState, PoolError> {
        let generation = self.target().await?.access.generation;
        Ok(PoolState { generation, ended: self.shared.ended() })
    }

    async fn attempt(
        &self,
        target: &Arc<Target>,
        head: &Head,
        lending: &Lending,
    ) -> Result<Response<PoolAnswer>, Failed> {
        if head.long_query.is_some() {
            // In memory of its own: it dials, and hardly any request needs it.
            return Box::pin(alone::send(&self.shared, target, head, lending)).await;
        }
        let place = self.shared.place().await?;
        place.send(head, lending).await
    }

    /// Returns the server and the credentials as they are now.
    async fn target(&self) -> Result<Arc<Target>, PoolError> {
        let known = self.shared.target();
        // One asks; meanwhile the others go on with what there is, if there is something.
        let mut asked = match (known, self.asked.try_lock()) {
            (Some(known), Err(_)) => return Ok(known),
            (_, Ok(asked)) => asked,
            (None, Err(_)) => self.asked.lock().await,
        };
        if let Some(known) = self.shared.target()
            && asked.at.is_some_and(|at| at.elapsed() < ACCESS_AGE)
        {
            return Ok(known);
        }
        let access = self.source.access().await.map_err(PoolError::Access)?;
        asked.at = Some(Instant::now());
        self.shared.set_target(access)
    }

    /// Asks for other credentials than those that were refused; whether there may be others.
    async fn renew(&self, refused: &Target) -> Result<bool, PoolError> {
        let mut asked = self.asked.lock().await;
        let current = self.shared.target();
        if current.is_some_and(|target| target.access.generation != refused.access.generation) {
            return Ok(true);
        }
        if asked.renewed_at.is_some_and(|at| at.elapsed() < RENEW_EVERY) {
            return Ok(false);
        }
        asked.renewed_at = Some(Instant::now());
        let may = self.source.renew(&refused.access).await.map_err(PoolError::Access)?;
        if may {
            asked.at = None;
        }
        Ok(may)
    }
}

/// Whether a request changes nothing, so that it may be sent twice. As in Go, a PUT is not among
/// them.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// Why one try to send a request gave no answer.
#[derive(Debug)]
struct Failed {
    error: PoolError,
    /// The server has not begun the request.
    is_unsent: bool,
    /// The connection had been used before.
    was_kept: bool,
}

/// Without a connection nothing was sent, and nothing will be.
impl From<PoolError> for Failed {
    fn from(error: PoolError) -> Failed {
        Failed { error, is_unsent: false, was_kept: false }
    }
}
