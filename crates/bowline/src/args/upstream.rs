//! The flags of `gateway` for API servers behind it.

use bowline_gateway::callers::Vouching;
use bowline_gateway::upstream::FarCarrier;

use super::pflag::{BadFlag, BadValue, Values, bad_value};
use super::table::Flag;

/// API servers behind a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// Each of them; none for a gateway in front of nodes alone.
    pub servers: Vec<Server>,
    /// What is spoken with them.
    pub carrier: FarCarrier,
    /// How users with a certificate go on.
    pub vouching: Vouching,
    /// Whether they may act as others, where the API server allows it to them.
    pub allow_impersonation: bool,
    /// Whether clients may ask for WebSockets over HTTP/2.
    pub http2_websockets: bool,
}

/// One API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// By this a request names it; may be empty.
    pub name: String,
    /// The kubeconfig with its address, its CA and this gateway's credentials.
    pub kubeconfig: String,
    /// The context there; `None` for the current one.
    pub context: Option<String>,
}

/// In place of a kubeconfig: the cluster in which this program runs.
pub const IN_CLUSTER: &str = "in-cluster";

/// `--upstream`.
pub const UPSTREAM: Flag = Flag::each(
    "upstream",
    "[NAME=]FILE[#CONTEXT]",
    "An API server to stand in front of: a kubeconfig, and perhaps a context of it, or \
     in-cluster for that of its own pod. With a name it \
     is reached at the host of that name and at /clusters/NAME. The flag may be repeated.",
);

/// `--upstream-protocol`.
pub const PROTOCOL: Flag = Flag::text(
    "upstream-protocol",
    "PROTOCOL",
    "What to speak with it in streams: websocket, spdy, or auto, which is WebSocket, and SPDY \
     where \
     that is refused.",
)
.default("auto");

/// `--client-identity`.
pub const CLIENT_IDENTITY: Flag = Flag::text(
    "client-identity",
    "HOW",
    "How users with a certificate of --client-ca-file go on to the API server. impersonate: the \
     user in the kubeconfig acts as them. request-header: its certificate is that of a front \
     proxy. \
     none: they do not. Tokens go on as they are.",
)
.default("impersonate");

/// `--allow-impersonation`.
pub const ALLOW_IMPERSONATION: Flag = Flag::switch(
    "allow-impersonation",
    "Let users with a certificate act as others (kubectl --as), where the API server allows them \
     to impersonate those. Users with a token may always ask it themselves.",
);

/// `--http2-websockets`.
pub const HTTP2_WEBSOCKETS: Flag = Flag::switch(
    "http2-websockets",
    "Take WebSockets over HTTP/2 (RFC 8441), from proxies and browsers that ask for them so. Once \
     this is announced, browsers use it for every WebSocket of this host. kubectl never does.",
);

/// Reads them.
///
/// # Errors
/// [`BadFlag`] for the first value that is not understood.
pub fn read(values: &Values) -> Result<Upstreams, BadFlag> {
    let mut servers: Vec<Server> = Vec::new();
    for text in values.each(UPSTREAM.long) {
        let server = server(&text);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if server.kubeconfig.is_empty() || !server.name.bytes().all(is_name) {
            return Err(bad_value(&UPSTREAM, &text, BadValue::Upstream));
        }
        if servers.iter().any(|other| other.name == server.name) {
            return Err(bad_value(&UPSTREAM, &text, BadValue::UpstreamTwice));
        }
        servers.push(server);
    }
    let carriers = [
        ("auto", FarCarrier::Auto),
        ("websocket", FarCarrier::WebSocket),
        ("spdy", FarCarrier::Spdy),
    ];
    let vouching = [
        ("none", Vouching::Nobody),
        ("request-header", Vouching::RequestHeader),
        ("impersonate", Vouching::Impersonate),
    ];
    Ok(Upstreams {
        servers,
        carrier: values.choice(&PROTOCOL, &carriers)?,
        vouching: values.choice(&CLIENT_IDENTITY, &vouching)?,
        allow_impersonation: values.is_on(ALLOW_IMPERSONATION.long),
        http2_websockets: values.is_on(HTTP2_WEBSOCKETS.long),
    })
}

/// A name has neither a slash nor a dot at its beginning, so that most files need none in front.
fn server(text: &str) -> Server {
    let (name, file) = match text.split_once('=') {
        Some((name, file)) if !name.contains('/') => (name.to_ascii_lowercase(), file),
        _ => (String::new(), text),
    };
    let (file, context) = match file.split_once('#') {
        Some((file, context)) => (file, Some(context.to_owned())),
        None => (file, None),
    };
    Server { name, kubeconfig: file.to_owned(), context }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_file_with_a_name_and_a_context_or_without() {
        let read = |text: &str| {
            let Server { name, kubeconfig, context } = server(text);
            (name, kubeconfig, context)
        };
        let of = |name: &str, file: &str, context: Option<&str>| {
            (name.to_owned(), file.to_owned(), context.map(str::to_owned))
        };
        assert_eq!(read("a.yaml"), of("", "a.yaml", None));
        assert_eq!(read("./k=1/a.yaml"), of("", "./k=1/a.yaml", None));
        assert_eq!(read("Prod=/k/a.yaml#ctx"), of("prod", "/k/a.yaml", Some("ctx")));
    }
}
