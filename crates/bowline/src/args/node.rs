//! The flags of `node`, named as kubelet's where kubelet has them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use bowline_io::serve::UNAUTHENTICATED_PER_ADDRESS;
use bowline_proto::limits;

use super::cri::{self, Cri};
use super::kept::{self, Kept};
use super::node_access::{self, NodeAccess};
use super::pflag::{BadFlag, BadValue, Values, bad_value};
use super::table::{Command, Flag, Words};
use super::{BadUsage, HELP, LOG_LEVEL};

/// Be a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where the containers of its kubelet's paths come from; `None` if it has no such paths.
    pub runtime: Option<Runtime>,
    /// The container runtime, where there is one.
    pub cri: Option<Cri>,
    /// Where it listens.
    pub address: IpAddr,
    /// Its port; 0 picks one.
    pub port: u16,
    /// Its certificate and key; without them it makes its own.
    pub certificate: Option<Pair>,
    /// The CA of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Who may use it.
    pub access: NodeAccess,
    /// HTTP without TLS.
    pub plain_http: bool,
    /// From the hangup of a client that has gone to the kill.
    pub stream_hangup_grace: Duration,
    /// How long output is awaited after the command has ended; `None` for as long as it may come.
    pub output_drain_timeout: Option<Duration>,
    /// Connections of one address that are not authenticated yet.
    pub unauthenticated_per_address: usize,
    /// How many connections a port-forward may have at once.
    pub max_connections_per_forward: usize,
    /// The sessions that outlive their connections.
    pub kept: Kept,
    /// `-v`.
    pub verbosity: i32,
}

/// A certificate chain and its private key, both in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The chain, the server's or client's own certificate first.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Where containers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// They are processes of this host, as files say.
    Process(Vec<String>),
    /// A container runtime has them.
    Cri,
}

const RUNTIME: Flag = Flag::text(
    "runtime",
    "NAME",
    "What runs the containers. process: they are processes of this host, and see all of it. cri: \
     the container runtime at --container-runtime-endpoint.",
)
.default("process");

/// kubelet's default port.
const PORT: u16 = 10250;

const HANGUP_GRACE: Flag = Flag::duration(
    "stream-hangup-grace",
    "When a client goes away, its command gets SIGHUP, and SIGKILL after this time.",
)
.default("2s");
const HANGUP_GRACE_DEFAULT: Duration = Duration::from_secs(2);

/// `--output-drain-timeout` of `node` and `dev`: containerd's `drain_exec_sync_io_timeout`.
pub const DRAIN_TIMEOUT: Flag = Flag::duration(
    "output-drain-timeout",
    "After a command has ended, how long to wait for processes that it left behind and that still \
     hold its output. When they are cut off, stderr says so. 0 waits for as long as they do, as \
     containerd does.",
)
.default("0s");

/// `--max-unauthenticated-per-address` of the servers.
pub const UNAUTHENTICATED: Flag = Flag::number(
    "max-unauthenticated-per-address",
    "N",
    "At most so many connections of one address that are not authenticated yet; the oldest goes \
     for a new one. Behind a balancer all clients have one address.",
)
.default("1024");

/// `--max-connections-per-forward` of whoever is a node.
pub const FORWARD_CONNECTIONS: Flag = Flag::number(
    "max-connections-per-forward",
    "NUMBER",
    "How many connections one port-forward may have at once. All of them together never take more \
     than half of the descriptors that this process may have.",
)
.default("4096");

/// `-f` of the servers.
pub const FILENAME: Flag = Flag::list(
    "filename",
    "FILE",
    "Objects in YAML or JSON, as kubectl takes them. May be repeated.",
)
.short('f');

/// `--tls-cert-file` of the servers.
pub const TLS_CERT: Flag = Flag::text(
    "tls-cert-file",
    "FILE",
    "The server's certificate and those above it, in PEM. Without it the server makes one for \
     itself.",
);

/// `--tls-private-key-file` of the servers.
pub const TLS_KEY: Flag =
    Flag::text("tls-private-key-file", "FILE", "The private key of that certificate, in PEM.");

/// `--client-ca-file` of the servers.
pub const CLIENT_CA: Flag = Flag::text(
    "client-ca-file",
    "FILE",
    "Let in clients with a certificate of one of these CAs: its common name is the user, its \
     organisations are the groups.",
);

/// As `--client-ca-file` of the gateway, which knows what each user may.
const NODE_CLIENT_CA: Flag = Flag::text(
    "client-ca-file",
    "FILE",
    "Know clients by certificates of one of these CAs: the common name is the user, the \
     organisations are the groups.",
);

/// Its table.
pub static COMMAND: Command = Command {
    name: "node",
    about: "Serve a node's streaming paths, as kubelet does.",
    text: "Serves exec, attach, port-forward and logs on kubelet's paths, over WebSocket and SPDY: \
           for the pods of a container runtime, or for the Pods in the given files, whose \
           containers it runs itself.\n\n\
           With --cri-listen it is also, or only, a container runtime interface in front of the \
           real one, by which a kubelet of any age gets WebSocket and true ends.\n\n\
           Whoever can reach a node can run commands on it. Without --client-ca-file and \
           --kubeconfig nobody is asked who they are, and the node serves on loopback only. With \
           --client-ca-file, whoever has a certificate of that CA and one of the names of \
           --client-name or --client-group may do everything: name those in front of the node, \
           API servers or gateways. With --kubeconfig its API server is asked, as by kubelet: who \
           has a token, and who may `create` (for logs `get`) nodes/proxy of this node.",
    usage: "(-f FILE | --runtime=cri | --cri-listen=ENDPOINT) [flags]",
    examples: &[
        (
            "Stand in front of containerd for a kubelet that is pointed at this socket",
            "{bowline} node --cri-listen=unix:///run/bowline/cri.sock",
        ),
        (
            "Serve the streams of containerd's pods beside a kubelet",
            "{bowline} node --runtime=cri --port=10260 --client-ca-file ca.crt",
        ),
        (
            "Try it on this machine, without certificates",
            "{bowline} node --plain-http -f pods.yaml",
        ),
        (
            "Serve a gateway whose certificate has the common name gw",
            "{bowline} node -f pods.yaml --client-ca-file ca.crt --client-name gw",
        ),
        (
            "Serve an API server that shows its own certificate",
            "{bowline} node -f pods.yaml --client-ca-file ca.crt \
             --tls-cert-file node.crt --tls-private-key-file node.key",
        ),
        (
            "Ask the API server who has a token, and who may",
            "{bowline} node -f pods.yaml --client-ca-file ca.crt --kubeconfig node.kubeconfig \
             --hostname-override node1",
        ),
    ],
    flags: &[
        Flag::address(
            "address",
            "Where to listen; 127.0.0.1 without --client-ca-file and --kubeconfig.",
        )
        .default("0.0.0.0"),
        node_access::ALLOW_GET_STREAMS,
        node_access::TOKEN_WEBHOOK,
        node_access::AUTHORIZATION_MODE,
        NODE_CLIENT_CA,
        node_access::CLIENT_GROUP,
        node_access::CLIENT_NAME,
        cri::ENDPOINT,
        cri::LISTEN,
        cri::EXEC,
        FILENAME,
        node_access::HOSTNAME,
        node_access::KUBECONFIG,
        UNAUTHENTICATED,
        DRAIN_TIMEOUT,
        FORWARD_CONNECTIONS,
        kept::REPLAY,
        kept::FILE,
        kept::LONGEST,
        kept::PER_NODE,
        kept::PER_CONTAINER,
        Flag::switch("plain-http", "Serve HTTP without TLS, on loopback only."),
        Flag::port("port", "The port to listen on. 0 picks a free one.").default("10250"),
        cri::PORT_FORWARD,
        RUNTIME,
        cri::HANGUP,
        HANGUP_GRACE,
        cri::STREAMING_ADDRESS,
        cri::STREAMING_PORT,
        cri::STREAMING_CERT,
        cri::STREAMING_KEY,
        TLS_CERT,
        TLS_KEY,
        LOG_LEVEL,
        HELP,
    ],
    shared: &[],
    words: Words::None,
};

/// Reads it.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<Node, BadUsage> {
    let filenames = values.list(FILENAME.long);
    let cri = cri::read(values)?;
    let is_in_front = cri.listen.is_some();
    let runtime = match values.text(RUNTIME.long).as_deref() {
        None if is_in_front && filenames.is_empty() => None,
        None | Some("process") if filenames.is_empty() => return Err(BadUsage::NoObjects),
        None | Some("process") => Some(Runtime::Process(filenames)),
        Some("cri") if filenames.is_empty() => Some(Runtime::Cri),
        Some("cri") => return Err(BadUsage::Conflict("runtime=cri", FILENAME.long)),
        Some(other) => {
            return Err(
                bad_value(&RUNTIME, other, BadValue::Choice("process, cri".to_owned())).into()
            );
        }
    };
    let cri = (is_in_front || runtime == Some(Runtime::Cri)).then_some(cri);
    let useless = cri::FLAGS.iter().find(|flag| cri.is_none() && values.is_given(flag.long));
    if let Some(flag) = useless {
        return Err(BadUsage::NoContainerRuntime(flag.long));
    }
    let client_ca = values.path(CLIENT_CA.long);
    let certificate = pair(values, TLS_CERT.long, TLS_KEY.long)?;
    let plain_http = values.is_on("plain-http");
    if plain_http && certificate.is_some() {
        return Err(BadUsage::Conflict("plain-http", TLS_CERT.long));
    }
    if plain_http && client_ca.is_some() {
        return Err(BadUsage::Conflict("plain-http", CLIENT_CA.long));
    }
    let access = node_access::read(values)?;
    if plain_http && access.kubeconfig.is_some() {
        return Err(BadUsage::Conflict("plain-http", node_access::KUBECONFIG.long));
    }
    let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = values.address("address");
    let is_asked = client_ca.is_some() || access.kubeconfig.is_some();
    let address = address.unwrap_or(if is_asked { everywhere } else { here });
    if !is_asked && !address.is_loopback() {
        return Err(BadUsage::OpenToAll(address));
    }
    Ok(Node {
        runtime,
        cri,
        address,
        port: values.port("port").unwrap_or(PORT),
        certificate,
        client_ca,
        access,
        plain_http,
        stream_hangup_grace: values.not_negative(&HANGUP_GRACE, HANGUP_GRACE_DEFAULT)?,
        output_drain_timeout: drain_timeout(values)?,
        unauthenticated_per_address: values
            .positive(&UNAUTHENTICATED, UNAUTHENTICATED_PER_ADDRESS)?,
        max_connections_per_forward: forward_connections(values)?,
        kept: kept::read(values)?,
        verbosity: values.number(LOG_LEVEL.long).unwrap_or(0),
    })
}

/// Reads [`FORWARD_CONNECTIONS`].
///
/// # Errors
/// [`BadFlag`] for less than one.
pub fn forward_connections(values: &Values) -> Result<usize, BadFlag> {
    values.positive(&FORWARD_CONNECTIONS, limits::FORWARD_CONNECTIONS)
}

/// `--output-drain-timeout`, where it is more than 0.
///
/// # Errors
/// [`BadFlag`] for a time below zero.
pub fn drain_timeout(values: &Values) -> Result<Option<Duration>, BadFlag> {
    let timeout = values.not_negative(&DRAIN_TIMEOUT, Duration::ZERO)?;
    Ok((!timeout.is_zero()).then_some(timeout))
}

/// A certificate and its key, which come together or not at all.
///
/// # Errors
/// [`BadUsage::Pair`] for one without the other.
pub fn pair(
    values: &Values,
    certificate: &'static str,
    key: &'static str,
) -> Result<Option<Pair>, BadUsage> {
    let lone = |given, missing| Err(BadUsage::Pair { given, missing });
    match (values.path(certificate), values.path(key)) {
        (Some(certificate), Some(key)) => Ok(Some(Pair { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => lone(certificate, key),
        (None, Some(_)) => lone(key, certificate),
    }
}
