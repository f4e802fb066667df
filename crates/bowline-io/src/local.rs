//! What a server without authentication must not do: serve web pages' requests, forward to itself.
//!
//! A server on loopback trusts everybody who can connect to it. A web browser can, on behalf of any
//! page; and so can the server itself, on behalf of whoever may only port-forward.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, Request, header};
use thiserror::Error;

/// Why a request does not count as one of a program on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotLocal {
    /// A browser sends it on behalf of a web page.
    #[error("requests of web pages are refused where nobody is asked who they are")]
    Page,
    /// It is for another host, whose name was made to resolve to this one.
    #[error("the request's host is not a loopback address, and nobody is asked who they are here")]
    Host,
}

/// Checks that a request may come from a program on this host, rather than from a web page.
///
/// # Errors
/// [`NotLocal`] if it has a header that only browsers send, or names another host than loopback.
pub fn check<B>(request: &Request<B>) -> Result<(), NotLocal> {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || is_fetched_across_sites(headers) {
        return Err(NotLocal::Page);
    }
    let mut hosts = headers.get_all(header::HOST).iter().peekable();
    let named = hosts.peek().is_some();
    let all = hosts.all(|host| host.to_str().is_ok_and(is_loopback));
    // A target with an authority takes precedence over `Host`.
    let target = request.uri().authority().is_none_or(|host| is_loopback(host.as_str()));
    if named && all && target { Ok(()) } else { Err(NotLocal::Host) }
}

/// Whether a browser says that another site is behind the request. It does so in every request,
/// even without an `Origin`.
fn is_fetched_across_sites(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").iter().any(|site| site != "none" && site != "same-origin")
}

/// Whether a host, perhaps with a port, is `localhost` or a loopback address.
fn is_loopback(host: &str) -> bool {
    let host = host.trim();
    if let Some(six) = host.strip_prefix('[') {
        let Some((address, port)) = six.split_once(']') else { return false };
        let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port && address.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6() && ip.is_loopback());
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: IpAddr| ip.is_ipv4() && ip.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|digit| digit.is_ascii_digit())
}

/// The ports that servers of this process listen on, and how many on each.
static OWN: Mutex<BTreeMap<u16, usize>> = Mutex::new(BTreeMap::new());

/// Marks a port as this process's own until it is dropped.
#[derive(Debug)]
pub struct OwnPort(u16);

impl OwnPort {
    /// Marks a port that a server of this process listens on.
    #[must_use]
    pub fn hold(port: u16) -> OwnPort {
        *OWN.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default() += 1;
        OwnPort(port)
    }
}

impl Drop for OwnPort {
    fn drop(&mut self) {
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = own.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                own.remove(&self.0);
            }
        }
    }
}

/// Whether a server of this process listens on this port, at any address. It might trust what comes
/// from this process.
#[must_use]
pub fn is_own(port: u16) -> bool {
    OWN.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(target: &str, lines: &[(&str, &str)]) -> Result<(), NotLocal> {
        let mut request = Request::builder().uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap())
    }

    #[test]
    fn only_programs_of_this_host_are_served() {
        for host in [
            "localhost",
            "LocalHost:10250",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]",
            "[::1]:80",
        ] {
            assert_eq!(verdict("/", &[("host", host)]), Ok(()), "{host}");
            assert_eq!(verdict(&format!("http://{host}/"), &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example:10250",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0.0.0.0",
            "10.0.0.1",
            "[::]",
            "[::2]:80",
            "[::1",
            "::1",
            "localhost:x",
            "localhost:1:2",
            "",
            "user@localhost",
            "127.0.0.1:80@evil.example",
            "[127.0.0.1]",
            "[::1]x",
            "2130706433",
        ] {
            assert_eq!(verdict("/", &[("host", host)]), Err(NotLocal::Host), "{host}");
        }
        let both = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(verdict("/", &both), Err(NotLocal::Host));
        assert_eq!(verdict("/", &[]), Err(NotLocal::Host));
        let elsewhere = verdict("http://evil.example/", &[("host", "localhost")]);
        assert_eq!(elsewhere, Err(NotLocal::Host));
    }

    #[test]
    fn no_page_is_served_whatever_it_calls_itself() {
        for origin in ["https://evil.example", "http://localhost", "null", ""] {
            let lines = [("host", "localhost"), ("origin", origin)];
            assert_eq!(verdict("/", &lines), Err(NotLocal::Page), "{origin}");
        }
        for (site, expected) in [
            ("cross-site", Err(NotLocal::Page)),
            ("same-site", Err(NotLocal::Page)),
            ("same-origin", Ok(())),
            ("none", Ok(())),
        ] {
            assert_eq!(verdict("/", &[("host", "localhost"), ("sec-fetch-site", site)]), expected);
        }
    }

    #[test]
    fn a_port_is_own_while_anybody_listens_on_it() {
        // 0 is nobody's in earnest, so no other test holds it.
        let (one, other) = (OwnPort::hold(0), OwnPort::hold(0));
        drop(one);
        assert!(is_own(0));
        drop(other);
        assert!(!is_own(0));
    }
}
