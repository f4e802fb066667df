//! The headers of requests and answers that are passed on: what is of one connection alone stays
//! behind, and what says where a request comes from is said anew.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers that are of one connection alone (RFC 9110 §7.6.1), and those for the next proxy.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
];
/// Headers that say where a request comes from, which anybody can write, and the beginning of more.
const FORWARDED: [&str; 2] = ["forwarded", "x-real-ip"];
const X_FORWARDED: &str = "x-forwarded-";
/// Beginnings of headers that `Connection` cannot take away: others act upon them, so that a client
/// must not choose who sees them.
const KEPT: [&str; 16] = [
    "accept",
    "audit-",
    "authorization",
    "cache-",
    "content-",
    "cookie",
    "date",
    "expect",
    "host",
    "if-",
    "impersonate-",
    "origin",
    "range",
    "user-agent",
    "x-forwarded-",
    "x-remote-",
];
/// More of `Connection` is not read; no list is as long.
const LISTED: usize = 32;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) address: IpAddr,
    pub(super) is_tls: bool,
    /// The host that the client asked for.
    pub(super) host: Option<&'a HeaderValue>,
}

/// Takes the headers of one connection out of a request. What it says of trailers stays.
pub(super) fn leave_connection(headers: &mut HeaderMap) {
    take_listed(headers);
    headers.remove(header::UPGRADE);
    headers.remove("http2-settings");
    let wants_trailers = headers.get_all(header::TE).iter().any(|value| {
        let words = value.as_bytes().split(|&byte| byte == b',');
        words.map(<[u8]>::trim_ascii).any(|word| word.eq_ignore_ascii_case(b"trailers"))
    });
    headers.remove(header::TE);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes the headers of one connection out of an answer, and what would lead its client to another
/// server.
pub(super) fn leave_answer_connection(headers: &mut HeaderMap) {
    take_listed(headers);
    headers.remove(header::UPGRADE);
    headers.remove(header::ALT_SVC);
}

/// Says anew where a request comes from.
pub(super) fn say_origin(headers: &mut HeaderMap, origin: Origin<'_>) {
    let host = origin.host.cloned();
    let is_said = |name: &&HeaderName| {
        name.as_str().starts_with(X_FORWARDED) || FORWARDED.contains(&name.as_str())
    };
    let said: Vec<HeaderName> = headers.keys().filter(is_said).cloned().collect();
    for name in said {
        headers.remove(name);
    }
    if let Ok(address) = HeaderValue::try_from(origin.address.to_canonical().to_string()) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), address);
    }
    let proto = HeaderValue::from_static(if origin.is_tls { "https" } else { "http" });
    headers.insert(HeaderName::from_static("x-forwarded-proto"), proto);
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
}

fn take_listed(headers: &mut HeaderMap) {
    let mut listed = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for word in value.as_bytes().split(|&byte| byte == b',') {
            let name = HeaderName::from_bytes(word.trim_ascii());
            if let Ok(name) = name
                && listed.len() < LISTED
                && !KEPT.iter().any(|kept| name.as_str().starts_with(kept))
            {
                listed.push(name);
            }
        }
    }
    for name in listed.iter().filter(|name| **name != header::TE) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn what_is_of_one_connection_stays_behind() {
        let mut request = headers(&[
            ("connection", "keep-alive, X-Own , TE"),
            ("connection", "Content-Type, x-other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "x"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("x-own", "1"),
            ("x-other", "1"),
            ("content-type", "a/b"),
            ("trailer", "x-end"),
            ("accept-encoding", "gzip"),
        ]);
        leave_connection(&mut request);
        let mut left = names(&request);
        left.sort_unstable();
        assert_eq!(left, ["accept-encoding", "content-type", "te", "trailer"]);
        assert_eq!(request["te"], "trailers");
        let mut plain = headers(&[("te", "gzip"), ("accept", "*/*")]);
        leave_connection(&mut plain);
        assert_eq!(names(&plain), ["accept"]);
    }

    /// CVE-2021-31999, CVE-2022-23652, CVE-2022-31813.
    #[test]
    fn nobody_can_have_an_identity_taken_away() {
        for name in [
            "Authorization",
            "Impersonate-User",
            "impersonate-extra-a",
            "X-Remote-User",
            "X-REMOTE-GROUP",
            "X-Forwarded-For",
            "Host",
        ] {
            let mut request = HeaderMap::new();
            request.insert(header::CONNECTION, HeaderValue::from_static(name));
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.insert(name.clone(), HeaderValue::from_static("x"));
            leave_connection(&mut request);
            assert_eq!(request.len(), 1, "{name}");
        }
    }

    #[test]
    fn where_a_request_comes_from_is_said_anew() {
        let mut request = headers(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-uri", "/x"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
        ]);
        let address = "::ffff:10.0.0.1".parse().unwrap();
        let host = HeaderValue::from_static("gw:8443");
        say_origin(&mut request, Origin { address, is_tls: true, host: Some(&host) });
        assert_eq!(request.len(), 3);
        assert_eq!(request["x-forwarded-for"], "10.0.0.1");
        assert_eq!(request["x-forwarded-host"], "gw:8443");
        assert_eq!(request["x-forwarded-proto"], "https");
    }

    #[test]
    fn answers_lead_nobody_elsewhere() {
        let mut answer = headers(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("alt-svc", "h3=\":6443\""),
            ("upgrade", "h2c"),
            ("content-encoding", "gzip"),
            ("warning", "299 - \"x\""),
            ("audit-id", "7"),
            ("trailer", "x"),
        ]);
        leave_answer_connection(&mut answer);
        let mut left = names(&answer);
        left.sort_unstable();
        assert_eq!(left, ["audit-id", "content-encoding", "trailer", "warning"]);
    }
}
