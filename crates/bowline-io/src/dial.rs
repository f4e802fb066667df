//! Connects to an endpoint: resolves its name, goes through a proxy, speaks TLS.
//!
//! Where an endpoint is named by somebody who is not trusted with that, there are [`Demands`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client};

use crate::addresses::Permitted;
use crate::proxy::{self, Proxy, ProxyError, Scheme};
use crate::read_ahead::ReadAhead;
use crate::stream::{Stream, prepare};
use crate::tls::{self, PeerIdentity, go_errors};

/// Where to connect and how.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// TLS, unless the endpoint is plain HTTP.
    pub tls: Option<Tls>,
    /// The proxy to go through.
    pub proxy: Option<Proxy>,
}

impl Endpoint {
    /// The server of an `http` or `https` URL.
    #[must_use]
    pub fn of(url: &url::Url, tls: Option<Tls>, proxy: Option<Proxy>) -> Endpoint {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        Endpoint { host, port, tls, proxy }
    }
}

/// TLS towards an endpoint.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Which servers are trusted, and the client's certificate.
    pub config: Arc<ClientConfig>,
    /// The name that the certificate must be for, if it is not the host's.
    pub server_name: Option<String>,
}

/// What an endpoint has to be, beyond what TLS asks of it. By default that is nothing.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// The addresses that may be dialled, whatever the name is resolved to; `None` is all. What a
    /// proxy resolves is not seen here.
    pub addresses: Option<Arc<Permitted>>,
    /// The common name of its certificate; `None` is any. Plain HTTP has none.
    pub common_name: Option<String>,
}

/// Why a connection could not be made.
#[derive(Debug, Error)]
pub enum DialError {
    /// The host's name was not resolved.
    #[error("dial tcp: lookup {host}: {}", resolver_text(error))]
    Lookup {
        /// The host's name.
        host: String,
        /// The resolver's error.
        #[source]
        error: io::Error,
    },
    /// The host is at an address that may not be dialled.
    #[error("dial tcp: {host}: address not allowed: {address}")]
    Forbidden {
        /// The host's name.
        host: String,
        /// The address.
        address: IpAddr,
    },
    /// The certificate is another one's.
    #[error("tls: the certificate has the common name {found:?}, not {wanted:?}")]
    CommonName {
        /// The name in the certificate; empty if there is none.
        found: String,
        /// The name that was demanded.
        wanted: String,
    },
    /// None of the addresses could be reached; this is the last one.
    #[error("dial tcp {address}: connect: {}", go_text(error))]
    Connect {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// Not everything was done within the time that there was.
    #[error("dial tcp {host}:{port}: i/o timeout")]
    Timeout {
        /// The endpoint's host.
        host: String,
        /// Its port.
        port: u16,
    },
    /// The proxy could not be used, or refused.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The host has a name that no certificate can be for.
    #[error("{0:?} is not a name that a certificate can have")]
    ServerName(String),
    /// The TLS handshake failed.
    #[error("{}", tls_text(_0))]
    Tls(#[source] io::Error),
    /// The TLS configuration for a proxy could not be made.
    #[error(transparent)]
    Config(#[from] tls::TlsError),
}

impl DialError {
    /// Whether the host answered that nobody listens at the port.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let refused = io::ErrorKind::ConnectionRefused;
        matches!(self, DialError::Connect { error, .. } if error.kind() == refused)
    }

    /// Whether the other side ended the connection before it could be used.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let cut = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)
        };
        match self {
            DialError::Connect { error, .. } | DialError::Tls(error) => cut(error),
            DialError::Proxy(ProxyError::Io(error)) => cut(error),
            _ => false,
        }
    }
}

/// Returns the text of a connection's error as Go has it, which people know and scripts look for.
pub(crate) fn go_text(error: &io::Error) -> String {
    if let Some(tls) = go_errors::find_tls(error) {
        return go_errors::text(tls);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        _ => error.to_string(),
    }
}

/// Returns the text of a resolver's error, as Go has it where it has one.
fn resolver_text(error: &io::Error) -> String {
    let text = error.to_string();
    let said = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    match said {
        // EAI_NONAME and EAI_NODATA, of glibc and of musl.
        "Name or service not known"
        | "No address associated with hostname"
        | "Name does not resolve"
        | "Name has no usable address" => "no such host".to_owned(),
        said => said.to_owned(),
    }
}

fn tls_text(error: &io::Error) -> String {
    match go_errors::find_tls(error) {
        Some(tls) => go_errors::text(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "tls: unexpected EOF".into(),
        None => format!("tls: {}", go_text(error)),
    }
}

/// Connects to an endpoint. `patience` is for everything, from the lookup to the TLS handshake.
///
/// # Errors
/// [`DialError`] if one of the steps fails, or all of them take longer than `patience`.
pub async fn dial(endpoint: &Endpoint, patience: Duration) -> Result<Stream, DialError> {
    dial_demanding(endpoint, &Demands::default(), patience).await
}

/// Connects as [`dial`] does, to an endpoint that is what is demanded. Each address is looked at
/// when it is dialled, so that no second lookup says another one.
///
/// # Errors
/// [`DialError`] as with [`dial`], and if the endpoint is not what is demanded.
pub async fn dial_demanding(
    endpoint: &Endpoint,
    demands: &Demands,
    patience: Duration,
) -> Result<Stream, DialError> {
    match timeout(patience, dial_on(endpoint, demands, patience)).await {
        Ok(result) => result,
        Err(_) => {
            let (host, port) = (endpoint.host.clone(), endpoint.port);
            Err(DialError::Timeout { host, port })
        }
    }
}

async fn dial_on(
    endpoint: &Endpoint,
    demands: &Demands,
    patience: Duration,
) -> Result<Stream, DialError> {
    let (host, port) = (&*endpoint.host, endpoint.port);
    let Some(by) = &endpoint.proxy else {
        let tcp = connect(host, port, demands.addresses.as_deref(), patience).await?;
        return of_server(tcp, endpoint, demands).await;
    };
    let mut tcp = connect(&by.host, by.port, None, patience).await?;
    match by.scheme {
        Scheme::Http => proxy::connect(&mut tcp, by, host, port).await?,
        Scheme::Socks5 => proxy::socks5(&mut tcp, by, host, port).await?,
        Scheme::Https => {
            // As with kubectl, the server's CAs are those for its proxy as well.
            let config = match &endpoint.tls {
                Some(tls) => tls::without_identity(&tls.config),
                None => tls::client(&tls::Trust::System, None)?,
            };
            let outer = Tls { config, server_name: None };
            let mut outer = speak_tls(ReadAhead::new(tcp), &outer, &by.host).await?;
            proxy::connect(&mut outer, by, host, port).await?;
            return Ok(match &endpoint.tls {
                None => Stream::client(outer),
                Some(tls) => Stream::nested(demanded(speak_tls(outer, tls, host).await?, demands)?),
            });
        }
    }
    of_server(tcp, endpoint, demands).await
}

/// Makes a stream of a connection that leads to the endpoint itself.
async fn of_server(
    tcp: TcpStream,
    endpoint: &Endpoint,
    demands: &Demands,
) -> Result<Stream, DialError> {
    let Some(tls) = &endpoint.tls else { return Ok(Stream::plain(tcp)) };
    let stream = speak_tls(ReadAhead::new(tcp), tls, &endpoint.host).await?;
    Ok(Stream::client(demanded(stream, demands)?))
}

/// Gives back the connection if its certificate is that of whom it is demanded to be. Nothing was
/// sent over it.
fn demanded<S>(
    stream: client::TlsStream<S>,
    demands: &Demands,
) -> Result<client::TlsStream<S>, DialError> {
    let Some(wanted) = &demands.common_name else { return Ok(stream) };
    // A resumed session has the certificate of the one that it resumes.
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let found = chain.first().and_then(PeerIdentity::of).map(|identity| identity.user);
    if found.as_ref() == Some(wanted) {
        return Ok(stream);
    }
    Err(DialError::CommonName { found: found.unwrap_or_default(), wanted: wanted.clone() })
}

async fn speak_tls<S>(stream: S, tls: &Tls, host: &str) -> Result<client::TlsStream<S>, DialError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let name = tls.server_name.as_deref().unwrap_or(host);
    let wrong = |_| DialError::ServerName(name.to_owned());
    let name = ServerName::try_from(name.to_owned()).map_err(wrong)?;
    let connector = TlsConnector::from(tls.config.clone());
    connector.connect(name, stream).await.map_err(DialError::Tls)
}

/// Tries every address in the resolver's order, each with an equal share of the time, so that a
/// dead one does not use up all of it.
async fn connect(
    host: &str,
    port: u16,
    permitted: Option<&Permitted>,
    patience: Duration,
) -> Result<TcpStream, DialError> {
    let lookup = |error| DialError::Lookup { host: host.to_owned(), error };
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => tokio::net::lookup_host((host, port)).await.map_err(lookup)?.collect(),
    };
    if let Some(permitted) = permitted {
        // One that is not is enough, as in Kubernetes: no luck is left to whoever answers lookups.
        let forbidden = addresses.iter().find(|address| !permitted.permits(address.ip()));
        if let Some(address) = forbidden {
            let (host, address) = (host.to_owned(), address.ip());
            return Err(DialError::Forbidden { host, address });
        }
    }
    let share = patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = lookup(io::Error::new(io::ErrorKind::NotFound, "no such host"));
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                prepare(&tcp);
                return Ok(tcp);
            }
            Ok(Err(error)) => last = DialError::Connect { address, error },
            Err(_) => {
                let error = io::ErrorKind::TimedOut.into();
                last = DialError::Connect { address, error };
            }
        }
    }
    Err(last)
}
