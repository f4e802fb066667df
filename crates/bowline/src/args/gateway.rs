//! The flags of `gateway`, named as kube-apiserver's.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use bowline_io::serve::UNAUTHENTICATED_PER_ADDRESS;

use super::config_file;
use super::gates::{self, Gates};
use super::gateway_nodes::{self, GatewayNodes};
use super::living::{self, Sessions};
use super::node::{CLIENT_CA, FILENAME, Pair, TLS_CERT, TLS_KEY, UNAUTHENTICATED, pair};
use super::pflag::Values;
use super::table::{Command, Flag, Words};
use super::upstream::{self, Upstreams};
use super::{BadUsage, HELP, LOG_LEVEL};

/// Be a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Where it listens.
    pub bind_address: IpAddr,
    /// Its port; 0 picks one.
    pub secure_port: u16,
    /// Its certificate and key; without them it makes its own.
    pub certificate: Option<Pair>,
    /// Whose client certificates name users.
    pub client_ca: Option<PathBuf>,
    /// Tokens with their users.
    pub token_auth_file: Option<PathBuf>,
    /// Who may what.
    pub authorization_policy_file: Option<PathBuf>,
    /// What it shows to nodes.
    pub kubelet_client: Option<Pair>,
    /// Whose certificates it believes nodes.
    pub kubelet_ca: Option<PathBuf>,
    /// Which of a node's addresses it prefers, best first.
    pub kubelet_preferred_address_types: Vec<String>,
    /// Kubernetes feature gates.
    pub gates: Gates,
    /// Connections of one address that are not authenticated yet.
    pub unauthenticated_per_address: usize,
    /// Files with Pods and Nodes.
    pub filenames: Vec<String>,
    /// API servers, in place of all of these.
    pub upstreams: Upstreams,
    /// How its sessions live and end.
    pub sessions: Sessions,
    /// The file that some of all this is from.
    pub config: Option<PathBuf>,
    /// Whether to say what would run, and no more.
    pub check: bool,
    /// What the command line said, over what the file may say later.
    pub line: Values,
    /// Their nodes in place of them, for streams.
    pub nodes: Option<GatewayNodes>,
    /// `-v`.
    pub verbosity: i32,
}

impl Gateway {
    /// The fields that another configuration changes and that stay as they are until a restart.
    pub fn fixed_changes(&self, from: &Gateway) -> Vec<&'static str> {
        let sessions =
            |gateway: &Gateway| Sessions { living: Default::default(), ..gateway.sessions };
        let all = [
            ("bindAddress", self.bind_address != from.bind_address),
            ("securePort", self.secure_port != from.secure_port),
            ("tlsCertFile or tlsPrivateKeyFile", self.certificate != from.certificate),
            ("clientCaFile", self.client_ca != from.client_ca),
            (
                "maxUnauthenticatedPerAddress",
                self.unauthenticated_per_address != from.unauthenticated_per_address,
            ),
            ("maxSessionsPerUser and the like, or drain", sessions(self) != sessions(from)),
            ("http2Websockets", self.upstreams.http2_websockets != from.upstreams.http2_websockets),
            ("v", self.verbosity != from.verbosity),
        ];
        all.into_iter().filter(|field| field.1).map(|field| field.0).collect()
    }
}

/// kube-apiserver's default port.
const SECURE_PORT: u16 = 6443;

const ADDRESS_TYPES: Flag = Flag::list(
    "kubelet-preferred-address-types",
    "TYPES",
    "Which of a node's addresses to use, best first.",
)
.default("Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP");

/// `--token-auth-file`.
pub const TOKENS: &str = "token-auth-file";
/// `--authorization-policy-file`.
pub const POLICIES: &str = "authorization-policy-file";
const KUBELET_CERT: &str = "kubelet-client-certificate";
const KUBELET_KEY: &str = "kubelet-client-key";

/// Its table.
pub static COMMAND: Command = Command {
    name: "gateway",
    about: "Serve the API server's side of sessions, in front of API servers or of nodes.",
    text: "In front of API servers (--upstream) it passes on what clients ask for, with their own \
           credentials. Streams are ended here and made again there, so that clients that speak \
           SPDY pass through what takes WebSocket alone, and those that speak WebSocket reach a \
           cluster that does not.\n\n\
           In front of nodes (--filename) it takes requests for exec, attach, port-forward and \
           logs as kube-apiserver does, \
           asks who it is and whether they may, and passes the session on to the node of the \
           pod. Clients may speak WebSocket or SPDY, whatever the node speaks.\n\n\
           The Pods and Nodes that there are then come from the given files: a Pod's nodeName, a \
           Node's \
           status.addresses, status.daemonEndpoints and status.declaredFeatures.",
    usage: "(--upstream FILE | -f FILE) [flags]",
    examples: &[
        (
            "In front of the cluster of a kubeconfig",
            "{bowline} gateway --upstream ~/.kube/config --tls-cert-file gw.crt \
             --tls-private-key-file gw.key",
        ),
        (
            "Two clusters, at /clusters/old and /clusters/new",
            "{bowline} gateway --upstream old=old.yaml --upstream new=new.yaml",
        ),
        (
            "In place of an API server, in front of its cluster's nodes",
            "{bowline} gateway --backend nodes --upstream gw.kubeconfig \
             --kubelet-client-certificate gw.crt --kubelet-client-key gw.key \
             --kubelet-certificate-authority ca.crt",
        ),
        (
            "Tokens for users, a policy for what they may",
            "{bowline} gateway -f cluster.yaml --token-auth-file tokens.csv \
             --authorization-policy-file policy.jsonl",
        ),
        (
            "Nodes that ask for a certificate, and have one of their own",
            "{bowline} gateway -f cluster.yaml --token-auth-file tokens.csv \
             --kubelet-client-certificate gw.crt --kubelet-client-key gw.key \
             --kubelet-certificate-authority nodes-ca.crt",
        ),
        (
            "Behave like a cluster older than 1.30",
            "{bowline} gateway -f cluster.yaml --token-auth-file tokens.csv \
             --feature-gates=TranslateStreamCloseWebsocketRequests=false",
        ),
    ],
    flags: &[
        upstream::ALLOW_IMPERSONATION,
        gateway_nodes::ALLOW_NODE_ADDRESSES,
        gateway_nodes::AUTHORIZATION_MODE,
        Flag::text(
            POLICIES,
            "FILE",
            "Who may what, in kube-apiserver's ABAC format: one JSON object a line. Members of \
             system:masters may do everything in any case.",
        ),
        gateway_nodes::BACKEND,
        Flag::address("bind-address", "Where to listen.").default("0.0.0.0"),
        config_file::CHECK,
        CLIENT_CA,
        upstream::CLIENT_IDENTITY,
        config_file::CONFIG,
        gateway_nodes::NO_COMMON_NAMES,
        living::DRAIN,
        living::DRAIN_DELAY,
        gates::FLAG,
        FILENAME,
        upstream::HTTP2_WEBSOCKETS,
        living::IDLE,
        Flag::text(
            "kubelet-certificate-authority",
            "FILE",
            "Believe nodes with a certificate of this CA. Without it their certificates are not \
             checked, as in kube-apiserver.",
        ),
        Flag::text(
            KUBELET_CERT,
            "FILE",
            "The certificate to show to nodes, in PEM. bowline node serves the common name \
             kube-apiserver-kubelet-client, or those of its --client-name.",
        ),
        Flag::text(KUBELET_KEY, "FILE", "The private key of that certificate, in PEM."),
        ADDRESS_TYPES,
        living::RATE,
        living::AGE,
        living::PER_NAMESPACE,
        living::PER_POD,
        living::PER_USER,
        living::PING,
        UNAUTHENTICATED,
        Flag::port("secure-port", "The port to listen on. 0 picks a free one.").default("6443"),
        living::SILENCE,
        TLS_CERT,
        TLS_KEY,
        Flag::text(
            TOKENS,
            "FILE",
            "The tokens of users, in kube-apiserver's format: token,user,uid,\"group1,group2\".",
        ),
        gateway_nodes::TOKEN_REVIEW,
        upstream::UPSTREAM,
        upstream::PROTOCOL,
        LOG_LEVEL,
        HELP,
    ],
    shared: &[],
    words: Words::None,
};

/// Reads it, and its configuration file if one is named.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(line: &Values) -> Result<Gateway, BadUsage> {
    let config = line.path(config_file::CONFIG.long);
    let values = match &config {
        Some(path) => line.clone().over(config_file::read(&COMMAND, path)?),
        None => line.clone(),
    };
    let values = &values;
    let filenames = values.list(FILENAME.long);
    let upstreams = upstream::read(values)?;
    let nodes = gateway_nodes::read(values)?;
    let contradiction = gateway_nodes::contradicts_upstream(values, nodes.is_some());
    match (upstreams.servers.is_empty(), contradiction) {
        (true, _) if filenames.is_empty() => return Err(BadUsage::NothingBehind),
        (false, Some(name)) => return Err(BadUsage::Conflict(upstream::UPSTREAM.long, name)),
        _ => {}
    }
    let mut types = values.list(ADDRESS_TYPES.long);
    if types.is_empty() {
        types = ADDRESS_TYPES.default.split(',').map(str::to_owned).collect();
    }
    Ok(Gateway {
        bind_address: values.address("bind-address").unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        secure_port: values.port("secure-port").unwrap_or(SECURE_PORT),
        certificate: pair(values, TLS_CERT.long, TLS_KEY.long)?,
        client_ca: values.path(CLIENT_CA.long),
        token_auth_file: values.path(TOKENS),
        authorization_policy_file: values.path(POLICIES),
        kubelet_client: pair(values, KUBELET_CERT, KUBELET_KEY)?,
        kubelet_ca: values.path("kubelet-certificate-authority"),
        kubelet_preferred_address_types: types,
        gates: gates::read(values)?,
        unauthenticated_per_address: values
            .positive(&UNAUTHENTICATED, UNAUTHENTICATED_PER_ADDRESS)?,
        filenames,
        upstreams,
        sessions: living::read(values)?,
        config,
        check: line.is_on(config_file::CHECK.long),
        line: line.clone(),
        nodes,
        verbosity: values.number(LOG_LEVEL.long).unwrap_or(0),
    })
}
