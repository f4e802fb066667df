//! A server, a namespace and credentials to commands and port-forwards.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bowline_io::access::Source;
use bowline_io::observe::Observer;
use bowline_io::record::{Admission, ClientLog, Pending, Record, Requester, Running};
use bowline_io::stream::Upgraded;
use bowline_proto::session::Protocol;
use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue};
use url::Url;

use crate::command::RemoteCommand;
use crate::forward::ForwardRequest;
use crate::upgrade::UpgradeError;

/// The default of [`Client::connect_timeout`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const AGENT: &str = concat!("bowline-client/v", env!("CARGO_PKG_VERSION"));

/// An API server, the credentials for it, and the namespace of the pods.
///
/// Each command, copy and port-forward has a connection of its own, for which the credentials are
/// asked for anew, and once more after a 401. Apart from that, and from the other carrier, nothing
/// is tried again: a command that ran twice may do harm. (A copy goes on after losses as often as
/// its options allow, and [`reconnect`](crate::reconnect) makes lost port-forwards again.)
///
/// A clone costs a few allocations and asks the same server.
#[derive(Clone)]
pub struct Client {
    pub(crate) server: Url,
    pub(crate) access: Arc<dyn Source>,
    pub(crate) namespace: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) websocket: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) server_timeout: Option<String>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    admissions: Vec<Arc<dyn Admission>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers may hold credentials.
        let mut shown = f.debug_struct("Client");
        shown.field("server", &self.server.as_str()).field("namespace", &self.namespace);
        shown.finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client of the API server at `server`, whose path is put before every request's.
    /// `access` gives the endpoint and the credentials for each connection.
    #[must_use]
    pub fn new(server: Url, access: Arc<dyn Source>, namespace: impl Into<String>) -> Client {
        Client {
            server,
            access,
            namespace: namespace.into(),
            headers: vec![(USER_AGENT, HeaderValue::from_static(AGENT))],
            websocket: true,
            connect_timeout: CONNECT_TIMEOUT,
            server_timeout: None,
            observer: None,
            admissions: vec![Arc::new(ClientLog)],
        }
    }

    /// Sets the namespace of the pods.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Client {
        self.namespace = namespace.into();
        self
    }

    /// Adds a header to each request, or replaces one. By default there is a `User-Agent`. Headers
    /// with credentials belong into [`access`](crate::access).
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Client {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        self
    }

    /// Sets whether WebSocket is tried before SPDY; `true` by default.
    #[must_use]
    pub fn websocket(mut self, first: bool) -> Client {
        self.websocket = first;
        self
    }

    /// Sets how long a server may take to accept a connection, TLS and proxies included; 30 seconds
    /// by default. Its answer to the upgrade may take another minute, which cannot be changed.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Client {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the `timeout` that is sent to the server, as kubectl's `--request-timeout` is, in Go's
    /// form of a duration (`5s`). By default none is sent. It does not end sessions.
    #[must_use]
    pub fn server_timeout(mut self, timeout: Option<String>) -> Client {
        self.server_timeout = timeout;
        self
    }

    /// Sets an observer of requests, their answers, and decisions such as a fallback.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Client {
        self.observer = Some(observer);
        self
    }

    /// Adds an admission, which is asked before each command, attach, port-forward and copy, and
    /// whose hook gets its begin and end. A copy is one session (`cp`), however many commands it
    /// runs. The first admission, a log of both at debug, is always there.
    #[must_use]
    pub fn admission(mut self, admission: Arc<dyn Admission>) -> Client {
        self.admissions.push(admission);
        self
    }

    /// Returns a client for sessions that are parts of one that was admitted: they are only logged.
    pub(crate) fn inside(&self) -> Client {
        let mut inside = self.clone();
        inside.admissions.truncate(1);
        inside
    }

    /// Returns the record of a session of this client's. The peer is known once there is a
    /// connection.
    pub(crate) fn record(&self, verb: &'static str, pod: &str) -> Record {
        let peer = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Requester::at(peer).record(verb, &self.namespace, pod)
    }

    pub(crate) fn admit(&self, record: Record) -> Result<Pending, UpgradeError> {
        Ok(Pending::by(&self.admissions, record)?)
    }

    /// Returns a command to run in a pod: its program and arguments, which no shell expands.
    pub fn exec<Words>(&self, pod: impl Into<String>, command: Words) -> RemoteCommand
    where
        Words: IntoIterator,
        Words::Item: Into<String>,
    {
        RemoteCommand::exec(self.clone(), pod.into(), command.into_iter().map(Into::into).collect())
    }

    /// Returns an attach to the main process of a container: its output from now on.
    pub fn attach(&self, pod: impl Into<String>) -> RemoteCommand {
        RemoteCommand::attach(self.clone(), pod.into())
    }

    /// Returns a port-forward to a pod, to be opened. Ports are named when they are
    /// connected to, and may be before ([`ForwardRequest::ports`]).
    pub fn port_forward(&self, pod: impl Into<String>) -> ForwardRequest {
        ForwardRequest { client: self.clone(), pod: pod.into(), ports: Vec::new() }
    }
}

/// Says that a session begins, on this connection and in this protocol.
pub(crate) fn begin(mut pending: Pending, connection: &Upgraded, protocol: &Protocol) -> Running {
    if let Some(Ok(peer)) = connection.stream.tcp().map(|tcp| tcp.peer_addr()) {
        pending.record.requester.peer = peer;
    }
    pending.record.near = protocol.label();
    pending.begin()
}
