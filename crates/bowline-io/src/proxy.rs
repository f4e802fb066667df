//! Which proxy a connection goes through, and how the proxy is asked to make it.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use url::{Host, Url};

use crate::text::redacted;
use crate::urls;

/// The longest head of an answer to CONNECT.
const CONNECT_HEAD_BYTES: usize = 16 * 1024;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP CONNECT without TLS.
    Http,
    /// HTTP CONNECT in TLS.
    Https,
    /// SOCKS 5 (RFC 1928). Names are resolved by the proxy.
    Socks5,
}

/// A forward proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User and password, decoded.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} proxy {}:{}", self.scheme, self.host, self.port)
    }
}

/// Why a proxy cannot be used, or did not make the connection.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The URL's scheme is none of [`Scheme`]'s.
    #[error("proxy URL scheme not supported: {0}")]
    Scheme(String),
    /// The text is no URL, or one without a host. It is shown without its password.
    #[error("invalid proxy URL {0:?}")]
    Url(String),
    /// The proxy answered CONNECT with another status than 2xx.
    #[error("CONNECT request to {proxy} returned response: {status}")]
    Refused {
        /// The proxy.
        proxy: String,
        /// Its status line, bounded.
        status: String,
    },
    /// The proxy's answer to CONNECT is not HTTP, or too long.
    #[error("the proxy's answer to CONNECT is malformed")]
    Malformed,
    /// The SOCKS proxy refused, for this reason (RFC 1928 §6).
    #[error("the SOCKS proxy refused: {0}")]
    Socks(&'static str),
    /// The connection to the proxy failed.
    #[error("proxy: {}", crate::dial::go_text(_0))]
    Io(#[from] std::io::Error),
}

impl Proxy {
    /// Parses a proxy's URL, whose scheme is `http` if it has none.
    ///
    /// # Errors
    /// [`ProxyError::Scheme`] for a scheme that is not known, and [`ProxyError::Url`] for anything
    /// that is no URL with a host.
    pub fn parse(text: &str) -> Result<Proxy, ProxyError> {
        let bad = || ProxyError::Url(redacted(text).into_owned());
        let with_scheme =
            if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = urls::parse(&with_scheme).ok_or_else(bad)?;
        let (scheme, port) = match url.scheme() {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            "socks5" | "socks5h" => (Scheme::Socks5, 1080),
            other => return Err(ProxyError::Scheme(other.to_owned())),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(bad)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let credentials = (!url.username().is_empty() || url.password().is_some())
            .then(|| (decode(url.username()), decode(url.password().unwrap_or_default())));
        Ok(Proxy { scheme, host, port: url.port().unwrap_or(port), credentials })
    }
}

/// Returns the proxy that the environment names for `target`, by the rules of Go's clients: the
/// target's scheme decides, upper case counts before lower case, `NO_PROXY` is heeded, and loopback
/// is never reached through a proxy.
///
/// # Errors
/// [`ProxyError`] if the environment names one that cannot be parsed, as for [`Proxy::parse`].
pub fn from_env(
    target: &Url,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, ProxyError> {
    url_from_env(target, env).map(|url| Proxy::parse(&url)).transpose()
}

/// Returns what [`from_env`] would parse, as it is written in the environment.
#[must_use]
pub fn url_from_env(target: &Url, env: impl Fn(&str) -> Option<String>) -> Option<String> {
    // An empty variable counts as not set.
    let either = |upper: &str| {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        set(upper).or_else(|| set(&upper.to_lowercase()))
    };
    let name = if target.scheme() == "http" { "HTTP_PROXY" } else { "HTTPS_PROXY" };
    let proxy = either(name)?;
    let direct = is_loopback(target) || either("NO_PROXY").is_some_and(|no| excludes(&no, target));
    (!direct).then_some(proxy)
}

fn is_loopback(target: &Url) -> bool {
    match target.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether `NO_PROXY` excludes `target`, by the rules of golang.org/x/net/http/httpproxy.
fn excludes(list: &str, target: &Url) -> bool {
    let (host, port) = (target.host_str().unwrap_or_default(), target.port_or_known_default());
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(ip), Ok(net)) = (ip, entry.parse::<IpNet>()) {
            return net.contains(&ip);
        }
        let (name, wanted) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
                (name, digits.parse::<u16>().ok())
            }
            _ => (&*entry, None),
        };
        if wanted.is_some() && wanted != port {
            return false;
        }
        let name = name.trim_matches(['[', ']']);
        if let (Some(ip), Ok(other)) = (ip, name.parse::<IpAddr>()) {
            return ip == other;
        }
        // `.example.com` and `*.example.com` are the subdomains, `example.com` itself as well.
        let suffix = if name.starts_with("*.") { &name[1..] } else { name };
        match suffix.strip_prefix('.') {
            Some(domain) => !domain.is_empty() && host.ends_with(suffix),
            None => !name.is_empty() && (host == name || host.ends_with(&format!(".{name}"))),
        }
    })
}

/// Asks the proxy for a connection to `host:port` by CONNECT (RFC 9110 §9.3.6).
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), ProxyError> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some((user, password)) = &proxy.credentials {
        let both = STANDARD.encode(format!("{user}:{password}"));
        request.push_str(&format!("Proxy-Authorization: Basic {both}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let head = connect_head(stream).await?;
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let code: u16 = words.next().and_then(|code| code.parse().ok()).ok_or(ProxyError::Malformed)?;
    if !version.starts_with("HTTP/1.") {
        return Err(ProxyError::Malformed);
    }
    if (200..300).contains(&code) {
        return Ok(());
    }
    let status = crate::text::sanitized(line.get(version.len()..).unwrap_or_default().trim(), 200);
    let proxy = format!("http://{}:{}", proxy.host, proxy.port);
    Err(ProxyError::Refused { proxy, status: status.into() })
}

/// Reads the head of an answer, byte by byte: what follows belongs to the connection.
async fn connect_head<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String, ProxyError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == CONNECT_HEAD_BYTES {
            return Err(ProxyError::Malformed);
        }
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(|_| ProxyError::Malformed)
}

/// Asks the proxy for a connection to `host:port` by SOCKS 5 (RFC 1928; RFC 1929 for passwords).
pub(crate) async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), ProxyError> {
    const NONE: u8 = 0;
    const PASSWORD: u8 = 2;
    let hello: &[u8] =
        if proxy.credentials.is_some() { &[5, 2, NONE, PASSWORD] } else { &[5, 1, NONE] };
    stream.write_all(hello).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, &proxy.credentials) {
        ([5, NONE], _) => {}
        ([5, PASSWORD], Some((user, password))) => {
            let (user, password) = (short(user)?, short(password)?);
            let mut login = vec![1, user.len() as u8];
            login.extend_from_slice(user);
            login.push(password.len() as u8);
            login.extend_from_slice(password);
            stream.write_all(&login).await?;
            let mut verdict = [0; 2];
            stream.read_exact(&mut verdict).await?;
            if verdict[1] != 0 {
                return Err(ProxyError::Socks("wrong user or password"));
            }
        }
        ([5, _], _) => return Err(ProxyError::Socks("it asks for credentials")),
        _ => return Err(ProxyError::Socks("it does not speak SOCKS 5")),
    }
    let mut request = vec![5, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            let name = short(host)?;
            request.extend_from_slice(&[3, name.len() as u8]);
            request.extend_from_slice(name);
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    socks5_answer(stream).await
}

async fn socks5_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), ProxyError> {
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    match answer[1] {
        0 => {}
        2 => return Err(ProxyError::Socks("not allowed by its rules")),
        3 => return Err(ProxyError::Socks("network unreachable")),
        4 => return Err(ProxyError::Socks("host unreachable")),
        5 => return Err(ProxyError::Socks("connection refused")),
        _ => return Err(ProxyError::Socks("general failure")),
    }
    let bound = match answer[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(ProxyError::Socks("its answer is malformed")),
    };
    let mut ignored = [0; 255 + 2];
    stream.read_exact(&mut ignored[..bound + 2]).await?;
    Ok(())
}

fn short(text: &str) -> Result<&[u8], ProxyError> {
    let fits = (1..=255).contains(&text.len());
    if fits { Ok(text.as_bytes()) } else { Err(ProxyError::Socks("a name is too long for it")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(target: &str, vars: &[(&str, &str)]) -> Option<String> {
        let env =
            |name: &str| vars.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
        from_env(&Url::parse(target).unwrap(), env).unwrap().map(|proxy| proxy.host)
    }

    #[test]
    fn the_environment_is_read_as_go_reads_it() {
        let both = [("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://lower:1")];
        assert_eq!(choose("https://api:6443", &both).as_deref(), Some("upper"));
        assert_eq!(choose("https://api:6443", &both[1..]).as_deref(), Some("lower"));
        assert_eq!(choose("http://api", &both), None);
        let unset = [("HTTPS_PROXY", ""), ("https_proxy", "http://lower:1"), ("NO_PROXY", "")];
        assert_eq!(choose("https://api:6443", &unset).as_deref(), Some("lower"));
        let excluded = [&unset[..], &[("no_proxy", "api")]].concat();
        assert_eq!(choose("https://api:6443", &excluded), None);
        assert_eq!(choose("https://127.0.0.1:1", &both), None);
        assert_eq!(choose("https://localhost:1", &both), None);
        assert_eq!(choose("https://api", &[("HTTPS_PROXY", "bare:3128")]).as_deref(), Some("bare"));
    }

    #[test]
    fn no_proxy_takes_names_suffixes_addresses_and_nets() {
        for (no_proxy, target, direct) in [
            ("*", "https://a.b", true),
            ("a.b", "https://a.b", true),
            ("a.b", "https://x.a.b", true),
            ("a.b", "https://xa.b", false),
            (".a.b", "https://x.a.b", true),
            (".a.b", "https://a.b", false),
            ("*.a.b", "https://x.a.b", true),
            ("*a.b", "https://a.b", false),
            ("A.B:6443", "https://a.b:6443", true),
            ("a.b:6443", "https://a.b", false),
            ("10.0.0.0/8", "https://10.1.2.3", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("10.0.0.0/8", "https://host", false),
            ("10.1.2.3", "https://10.1.2.3", true),
            ("fd00::/8", "https://[fd00::1]", true),
            ("x, ,a.b", "https://a.b", true),
            ("", "https://a.b", false),
        ] {
            let vars = [("HTTPS_PROXY", "http://p"), ("NO_PROXY", no_proxy)];
            assert_eq!(choose(target, &vars).is_none(), direct, "{no_proxy} {target}");
        }
    }

    #[test]
    fn urls_of_proxies() {
        let proxy = Proxy::parse("http://us%40er:p%3Aw@[::1]:8080").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 8080));
        assert_eq!(proxy.credentials, Some(("us@er".into(), "p:w".into())));
        assert!(!format!("{proxy:?}").contains("p:w"));
        assert!(matches!(Proxy::parse("ftp://x"), Err(ProxyError::Scheme(_))));
        assert!(matches!(Proxy::parse("http://"), Err(ProxyError::Url(_))));
        let error = Proxy::parse("http://me:SECRET@:::").unwrap_err().to_string();
        assert_eq!(error, "invalid proxy URL \"http://me:xxxxx@:::\"");
    }
}
