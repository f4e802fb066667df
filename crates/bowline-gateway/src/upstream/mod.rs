//! An API server behind this gateway: streams of pods are ended here and made again there, all else
//! is passed on.

mod exchange;
mod far_carrier;
mod front_proxy;
mod headers;
mod leave;
mod presence;
mod question;
mod redirects;
mod rest;
mod streams;
mod upgrades;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bowline_io::access::{Access, AccessError, Source};
use bowline_io::dial::Demands;
use bowline_io::pool::Pool;
use bowline_io::text::sanitized;
use bowline_io::upstream::{UPGRADE_PATIENCE, Upstream};
use bowline_kube::exchange::Exchange;
use bowline_proto::limits::REASON_BYTES;
use http::{HeaderMap, HeaderValue, header};

use self::exchange::Kept;
pub use self::far_carrier::FarCarrier;
use self::far_carrier::Remembered;
use self::front_proxy::Belief;
use self::presence::Presence;
use crate::callers::Onward;
use crate::status::Refusal;

/// The `User-Agent` of requests that have none of their client's.
const AGENT: &str = concat!("bowline-gateway/", env!("CARGO_PKG_VERSION"));

/// An API server.
pub struct ApiServer {
    /// The server with this gateway's own credentials, by which it vouches for users.
    own: Arc<dyn Source>,
    /// The same server without any, for callers who go on with theirs.
    bare: Arc<dyn Source>,
    /// What stands in front of each path, without a slash at its end.
    prefix: String,
    own_pool: Pool,
    bare_pool: Pool,
    /// For questions without credentials: API servers end a connection on which one was asked.
    questions_pool: Pool,
    /// How many answers are being passed on that may last for hours.
    long_answers: Arc<AtomicUsize>,
    /// Whether the server believes this gateway when it names users.
    belief: Belief,
    presence: Presence,
    commands: Remembered,
    forwards: Remembered,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Makes it of its two sources, the path of its URL, and what is spoken with it.
    #[must_use]
    pub fn new(
        own: Arc<dyn Source>,
        bare: Arc<dyn Source>,
        path: &str,
        carrier: FarCarrier,
    ) -> ApiServer {
        let prefix = path.trim_end_matches('/').to_owned();
        let remembered = || Remembered::new(carrier);
        ApiServer {
            own_pool: Pool::new(own.clone(), AGENT),
            bare_pool: Pool::new(bare.clone(), AGENT),
            questions_pool: Pool::new(bare.clone(), AGENT),
            long_answers: Arc::default(),
            own,
            bare,
            prefix,
            belief: Belief::default(),
            presence: Presence::default(),
            commands: remembered(),
            forwards: remembered(),
        }
    }

    /// Returns what sends this gateway's own requests over the connections on which it passes on
    /// those of users for whom it vouches.
    #[must_use]
    pub fn own_exchange(&self) -> Arc<dyn Exchange> {
        Arc::new(Kept(self.own_pool.clone()))
    }

    fn source(&self, onward: &Onward) -> &dyn Source {
        if onward.own_identity { &*self.own } else { &*self.bare }
    }

    /// Returns where a caller's request goes, and the headers that say there who it is.
    async fn way(&self, onward: &Onward) -> Result<(Upstream, HeaderMap, Access), Refusal> {
        let access = self.source(onward).access().await.map_err(|error| no_credentials(&error))?;
        if onward.own_identity {
            // What is asked next goes with the same.
            let followed = self.own_pool.follow(access.clone());
            followed.map_err(|error| unreachable_because(&error))?;
        }
        self.demand_believed(onward).await?;
        let mut headers = onward.headers.clone();
        for (name, value) in &access.headers {
            headers.append(name, value.clone());
        }
        let (endpoint, demands) = (access.endpoint.clone(), Demands::default());
        let upstream = Upstream { endpoint, demands, agent: AGENT, patience: UPGRADE_PATIENCE };
        Ok((upstream, headers, access))
    }
}

/// The log says why; a client is not to learn what this gateway has.
fn no_credentials(error: &AccessError) -> Refusal {
    Refusal {
        cause: format!("credentials for the API server: {error}"),
        ..unreachable("the gateway has no credentials for the API server")
    }
}

/// An API server that cannot be reached now.
pub(crate) fn unreachable(message: impl Into<String>) -> Refusal {
    Refusal {
        code: 503,
        reason: "ServiceUnavailable",
        message: message.into(),
        headers: vec![("Retry-After", "1".to_owned())],
        ..Refusal::default()
    }
}

/// The same, and why. The log has it all; the client has the beginning, as of a node.
pub(crate) fn unreachable_because(error: &dyn Error) -> Refusal {
    let error = error.to_string();
    unreachable(format!("error dialing the API server: {}", sanitized(&error, REASON_BYTES)))
}

/// Adds to `headers` what a stream's request has of its client's beside the handshake: who wrote
/// it, and what finds it again in traces.
fn add_client_headers(headers: &mut HeaderMap, client: &HeaderMap) {
    const PASSED: [&str; 5] =
        ["user-agent", "kubectl-command", "kubectl-session", "traceparent", "tracestate"];
    for name in PASSED {
        for value in client.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
    }
}
