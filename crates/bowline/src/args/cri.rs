//! The flags of `node` for container runtimes, named as kubelet's and containerd's where they have
//! them.

use std::net::{IpAddr, Ipv4Addr};

use bowline_node::cri::{Endpoint, ExecBy, PortForward};

use super::BadUsage;
use super::node::{Pair, pair};
use super::pflag::{BadFlag, BadValue, Values, bad_value};
use super::table::Flag;

/// A container runtime, and what is between it and those that use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cri {
    /// Where the runtime listens.
    pub endpoint: Endpoint,
    /// Where we listen in front of it, for kubelets and others.
    pub listen: Option<Endpoint>,
    /// The streaming server behind that.
    pub streaming_address: IpAddr,
    /// Its port; 0 picks one.
    pub streaming_port: u16,
    /// Its certificate and key; without them it speaks HTTP.
    pub streaming_certificate: Option<Pair>,
    /// Who runs commands.
    pub exec: ExecBy,
    /// Whether a command ends whose client has gone.
    pub hangs_up: bool,
    /// Who connects to the ports of pods.
    pub port_forward: PortForward,
}

/// `--container-runtime-endpoint`.
pub const ENDPOINT: Flag =
    Flag::text("container-runtime-endpoint", "ENDPOINT", "The socket of the container runtime.")
        .default("unix:///run/containerd/containerd.sock");

/// `--cri-listen`.
pub const LISTEN: Flag = Flag::text(
    "cri-listen",
    "ENDPOINT",
    "Listen there in front of the container runtime, for a kubelet, k3s or crictl that is pointed \
     at it, as in unix:///run/bowline/cri.sock. What is no stream passes as it is. The socket has \
     the mode and the owner of the runtime's. Without --runtime nothing else is served.",
);

/// `--streaming-address`.
pub const STREAMING_ADDRESS: Flag = Flag::address(
    "streaming-address",
    "Where the streams of --cri-listen are served, and /healthz and /readyz. Whoever uses that \
     socket must reach it.",
)
.default("127.0.0.1");

/// `--streaming-port`.
pub const STREAMING_PORT: Flag =
    Flag::port("streaming-port", "The port of that address. 0 picks a free one.").default("0");

/// `--streaming-tls-cert-file`.
pub const STREAMING_CERT: Flag = Flag::text(
    "streaming-tls-cert-file",
    "FILE",
    "The certificate of that address and those above it, in PEM. Without it streams are in plain \
     HTTP, as the runtimes' own.",
);

/// `--streaming-tls-private-key-file`.
pub const STREAMING_KEY: Flag = Flag::text(
    "streaming-tls-private-key-file",
    "FILE",
    "The private key of that certificate, in PEM.",
);

/// `--exec`.
pub const EXEC: Flag = Flag::text(
    "exec",
    "WHO",
    "Who runs the commands of clients in a container runtime. runtime: the runtime's own server. \
     auto: this node, by containerd's own interface, where that can be: no input is lost, the \
     terminal's first size is there, and an environment can be set.",
)
.default("auto");

/// `--stream-hangup`.
pub const HANGUP: Flag = Flag::text(
    "stream-hangup",
    "WHAT",
    "What becomes of a command in a container runtime when its client goes away. none: it runs on, \
     as runtimes have it. end: it gets SIGHUP, and SIGKILL after --stream-hangup-grace, where this \
     node can see the host's processes.",
)
.default("end");

/// `--port-forward`.
pub const PORT_FORWARD: Flag = Flag::text(
    "port-forward",
    "WHO",
    "Who connects to the ports of a container runtime's pods. runtime: the runtime, which ends \
     both directions of a connection a second after one of them. netns: this node, in the pod's \
     network namespace, which ends and resets each direction as it was. auto: this node, where it \
     can enter that, else the runtime.",
)
.default("auto");

/// All that are of no use without a container runtime.
pub const FLAGS: [&Flag; 9] = [
    &ENDPOINT,
    &LISTEN,
    &STREAMING_ADDRESS,
    &STREAMING_PORT,
    &STREAMING_CERT,
    &STREAMING_KEY,
    &EXEC,
    &HANGUP,
    &PORT_FORWARD,
];

/// Reads them.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<Cri, BadUsage> {
    let listen = values.text(LISTEN.long).map(|text| endpoint(&LISTEN, &text)).transpose()?;
    let given = values.text(ENDPOINT.long);
    let runtime = given.as_deref().unwrap_or(ENDPOINT.default);
    Ok(Cri {
        endpoint: endpoint(&ENDPOINT, runtime)?,
        listen,
        streaming_address: values
            .address(STREAMING_ADDRESS.long)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        streaming_port: values.port(STREAMING_PORT.long).unwrap_or(0),
        streaming_certificate: pair(values, STREAMING_CERT.long, STREAMING_KEY.long)?,
        exec: values.choice(&EXEC, &[("auto", ExecBy::Auto), ("runtime", ExecBy::Runtime)])?,
        hangs_up: values.choice(&HANGUP, &[("end", true), ("none", false)])?,
        port_forward: values.choice(
            &PORT_FORWARD,
            &[
                ("auto", PortForward::Auto),
                ("runtime", PortForward::Runtime),
                ("netns", PortForward::Namespace),
            ],
        )?,
    })
}

fn endpoint(flag: &Flag, text: &str) -> Result<Endpoint, BadFlag> {
    Endpoint::parse(text).map_err(|_| bad_value(flag, text, BadValue::Endpoint))
}
