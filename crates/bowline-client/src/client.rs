//! A server, a namespace and credentials to what can be asked for there.

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

/// How long a server may take to accept a connection, where nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const AGENT: &str = concat!("bowline-client/v", env!("CARGO_PKG_VERSION"));

/// An API server, who asks it, and the namespace of the pods.
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
    /// A client of the API server at `server`, whose path is kept in front of every request's.
    /// `access` says for each connection where it goes and as whom.
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

    /// The same for the pods of another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Client {
        self.namespace = namespace.into();
        self
    }

    /// Sends this header with each request, in place of one of that name. The default is a
    /// `User-Agent`. Headers with credentials belong into [`access`](crate::access).
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Client {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        self
    }

    /// Whether WebSocket is tried before SPDY; it is by default.
    #[must_use]
    pub fn websocket(mut self, first: bool) -> Client {
        self.websocket = first;
        self
    }

    /// How long a server may take to accept a connection, TLS and proxies included; 30 seconds by
    /// default. Its answer to the upgrade may take another minute, which is not up to the caller.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Client {
        self.connect_timeout = timeout;
        self
    }

    /// Tells the server, as kubectl's `--request-timeout` does, in Go's form of a duration (`5s`).
    /// By default nothing is told. No session ends by it.
    #[must_use]
    pub fn server_timeout(mut self, timeout: Option<String>) -> Client {
        self.server_timeout = timeout;
        self
    }

    /// Tells `observer` of requests, their answers and decisions.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Client {
        self.observer = Some(observer);
        self
    }

    /// Asks `admission` before each session, and tells what it gives of the session's beginning and
    /// end. The first that is asked logs both, at debug.
    #[must_use]
    pub fn admission(mut self, admission: Arc<dyn Admission>) -> Client {
        self.admissions.push(admission);
        self
    }

    /// A session of this client's. Where its requests go is known once there is a connection.
    pub(crate) fn record(&self, verb: &'static str, pod: &str) -> Record {
        let peer = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Requester { peer, user: None }.record(verb, &self.namespace, pod)
    }

    pub(crate) fn admit(&self, record: Record) -> Result<Pending, UpgradeError> {
        Ok(Pending::by(&self.admissions, record)?)
    }

    /// A command to run in a pod: the program and its arguments. Without a shell's name in front
    /// nothing in them is expanded.
    pub fn exec<Words>(&self, pod: impl Into<String>, command: Words) -> RemoteCommand
    where
        Words: IntoIterator,
        Words::Item: Into<String>,
    {
        RemoteCommand::exec(self.clone(), pod.into(), command.into_iter().map(Into::into).collect())
    }

    /// The main process of a container that is to be attached to: its output from now on.
    pub fn attach(&self, pod: impl Into<String>) -> RemoteCommand {
        RemoteCommand::attach(self.clone(), pod.into())
    }

    /// A port-forward to a pod, whose ports are named when they are connected to.
    pub fn port_forward(&self, pod: impl Into<String>) -> ForwardRequest {
        ForwardRequest { client: self.clone(), pod: pod.into() }
    }
}

/// Says that a session begins, on this connection and in this protocol.
pub(crate) fn begin(mut pending: Pending, connection: &Upgraded, protocol: &Protocol) -> Running {
    if let Ok(peer) = connection.stream.tcp().peer_addr() {
        pending.record.requester.peer = peer;
    }
    pending.record.near = protocol.label();
    pending.begin()
}
