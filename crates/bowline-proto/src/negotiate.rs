//! Headers in, verdict out: which protocol a stream speaks, on either side of the handshake.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::session::protocol::{self, Carrier, Protocol};
use crate::websocket::accept_key;

/// The header that names SPDY protocols, one line each.
pub const STREAM_PROTOCOL: &str = "X-Stream-Protocol-Version";
const ACCEPTED_PROTOCOLS: &str = "X-Accepted-Stream-Protocol-Versions";
const WEBSOCKET_PROTOCOL: &str = "Sec-WebSocket-Protocol";
const WEBSOCKET_KEY: &str = "Sec-WebSocket-Key";
const WEBSOCKET_VERSION: &str = "Sec-WebSocket-Version";
const WEBSOCKET_ACCEPT: &str = "Sec-WebSocket-Accept";
/// What SPDY calls itself in `Upgrade`.
pub const SPDY: &str = "SPDY/3.1";

/// A request's or a response's header lines, in order. Values that are not text are left out.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a>(pub &'a [(&'a str, &'a str)]);

impl<'a> Lines<'a> {
    fn all(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = move |line: &&(&str, &str)| line.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|line| line.1)
    }

    fn first(self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    fn has_token(self, name: &'a str, token: &str) -> bool {
        self.all(name).any(|value| contains(value, token))
    }

    /// How many names there are. `Host` is not a header to Go's servers.
    fn count(self) -> usize {
        let is_new = |index: usize, name: &str| {
            self.0[..index].iter().all(|line| !line.0.eq_ignore_ascii_case(name))
        };
        let names = self.0.iter().enumerate().map(|(index, line)| (index, line.0));
        names
            .filter(|(index, name)| !name.eq_ignore_ascii_case("host") && is_new(*index, name))
            .count()
    }
}

/// Kubernetes looks for words anywhere in these values, in any case.
fn contains(value: &str, word: &str) -> bool {
    value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// What kind of stream a request asks for, before any protocol is chosen.
#[must_use]
pub fn asked(request: Lines<'_>) -> Option<Carrier> {
    if !request.has_token("Connection", "upgrade") {
        return None;
    }
    let upgrade = request.first("Upgrade")?;
    if upgrade.trim().eq_ignore_ascii_case("websocket") {
        Some(Carrier::WebSocket)
    } else if contains(upgrade, SPDY) {
        Some(Carrier::Spdy)
    } else {
        None
    }
}

/// Which protocols a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// `v5.channel.k8s.io` over WebSocket, which older servers do not know.
    pub websocket_v5: bool,
}

/// A server's answer to a request that may be upgraded.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What will be spoken.
    pub protocol: &'static Protocol,
    /// The lines of the 101, `Connection` and `Upgrade` among them.
    pub response: Vec<(&'static str, String)>,
}

/// Why a request is not upgraded, with the words and codes of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not an upgrade, or to something unknown.
    #[error("Upgrade request required")]
    NoUpgrade,
    /// WebSocket is asked for with GET (RFC 6455 §4.1).
    #[error("bad method")]
    Method,
    /// RFC 6455 §4.2.1.
    #[error("missing or bad Sec-WebSocket-Key")]
    Key,
    /// RFC 6455 §4.4.
    #[error("missing or bad WebSocket version")]
    Version,
    /// None of the offered subprotocols is spoken here.
    #[error("no supported WebSocket subprotocol among {offered:?}")]
    Subprotocol {
        /// What was offered.
        offered: Vec<String>,
    },
    /// SPDY without a word about what is to be spoken in it.
    #[error(
        "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with \
         {headers} headers"
    )]
    NoStreamProtocol {
        /// How many headers the request has, `Host` left out, as Go's servers count.
        headers: usize,
    },
    /// The same where the header is there, and names nothing.
    #[error(
        "unable to upgrade: header X-Stream-Protocol-Version contains [{}], but no valid protocols",
        values.join(" ")
    )]
    EmptyStreamProtocol {
        /// What it holds, a line each.
        values: Vec<String>,
    },
    /// None of the offered protocols is spoken here.
    #[error(
        "unable to upgrade: unable to negotiate protocol: \
         client supports [{}], server accepts [{}]",
        offered.join(" "),
        accepted.join(" ")
    )]
    StreamProtocol {
        /// What was offered.
        offered: Vec<String>,
        /// What is spoken here.
        accepted: Vec<&'static str>,
    },
}

impl Refusal {
    /// The HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Refusal::NoUpgrade | Refusal::Key | Refusal::Version => 400,
            Refusal::NoStreamProtocol { .. } | Refusal::EmptyStreamProtocol { .. } => 400,
            Refusal::Method => 405,
            Refusal::Subprotocol { .. } | Refusal::StreamProtocol { .. } => 403,
        }
    }

    /// Header lines that go with it.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        match self {
            Refusal::Version => alloc::vec![(WEBSOCKET_VERSION, "13".into())],
            Refusal::StreamProtocol { accepted, .. } => {
                accepted.iter().map(|name| (ACCEPTED_PROTOCOLS, (*name).into())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether Kubernetes sends no body with it.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        matches!(self, Refusal::Subprotocol { .. })
    }
}

/// The most lines of a server's refusal that are passed on. There are four versions.
const ACCEPTED_LINES: usize = 8;

/// What a server that refused would have taken, as lines for whoever it was that asked.
#[must_use]
pub fn accepted_elsewhere(response: Lines<'_>) -> Vec<(&'static str, String)> {
    let names = response.all(ACCEPTED_PROTOCOLS).take(ACCEPTED_LINES);
    names.map(|name| (ACCEPTED_PROTOCOLS, name.to_owned())).collect()
}

/// A server's verdict on a request. WebSocket v5 is taken wherever it is offered, as every server
/// that knows it does; else the client's order of preference decides.
///
/// # Errors
/// [`Refusal`], to be answered instead of the 101.
pub fn accept(method: &str, request: Lines<'_>, taken: Taken) -> Result<Accepted, Refusal> {
    match asked(request).ok_or(Refusal::NoUpgrade)? {
        Carrier::WebSocket => accept_websocket(method, request, |offered| {
            let v5 = &protocol::WEBSOCKET_V5;
            if taken.websocket_v5 && offered.contains(&v5.name) {
                return Some(v5);
            }
            let others = || protocol::WEBSOCKET.into_iter().filter(|row| **row != *v5);
            offered.iter().find_map(|name| others().find(|row| row.name == *name))
        }),
        Carrier::Spdy => accept_spdy(request, &protocol::SPDY),
    }
}

/// The same for a port-forward.
///
/// # Errors
/// [`Refusal`], to be answered instead of the 101.
pub fn accept_forward(method: &str, request: Lines<'_>) -> Result<Accepted, Refusal> {
    match asked(request).ok_or(Refusal::NoUpgrade)? {
        Carrier::WebSocket => accept_websocket(method, request, |offered| {
            let rows = [&protocol::FORWARD_TUNNEL].into_iter().chain(protocol::FORWARD_CHANNELS);
            rows.into_iter().find(|row| offered.contains(&row.name))
        }),
        Carrier::Spdy => accept_spdy(request, &[&protocol::FORWARD_SPDY]),
    }
}

/// Whether a request wants a byte stream of SPDY in a WebSocket.
#[must_use]
pub fn asks_for_tunnel(request: Lines<'_>) -> bool {
    asked(request) == Some(Carrier::WebSocket)
        && request.first(WEBSOCKET_PROTOCOL).is_some_and(|line| {
            line.split(',').any(|name| name.trim() == protocol::FORWARD_TUNNEL.name)
        })
}

fn accept_websocket(
    method: &str,
    request: Lines<'_>,
    choose: impl Fn(&[&str]) -> Option<&'static Protocol>,
) -> Result<Accepted, Refusal> {
    if method != "GET" {
        return Err(Refusal::Method);
    }
    let key = request.first(WEBSOCKET_KEY).map(str::trim).unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(Refusal::Key);
    }
    if request.first(WEBSOCKET_VERSION).map(str::trim) != Some("13") {
        return Err(Refusal::Version);
    }
    // Only the first line counts, as in every Kubernetes server (trap T26 in
    // docs/protocols/traps.md).
    let line = request.first(WEBSOCKET_PROTOCOL).unwrap_or_default();
    let offered: Vec<&str> = line.split(',').map(str::trim).collect();
    let Some(protocol) = choose(&offered) else {
        let offered = offered.into_iter().map(ToOwned::to_owned).collect();
        return Err(Refusal::Subprotocol { offered });
    };
    let response = alloc::vec![
        ("Upgrade", "websocket".to_owned()),
        ("Connection", "Upgrade".to_owned()),
        (WEBSOCKET_ACCEPT, accept_key(key)),
        (WEBSOCKET_PROTOCOL, protocol.name.to_owned()),
    ];
    // RFC 6455 §4.2.2: a client that named no subprotocol must not be given one, not even "".
    let lines = if protocol.name.is_empty() { 3 } else { 4 };
    Ok(Accepted { protocol, response: response.into_iter().take(lines).collect() })
}

fn accept_spdy(request: Lines<'_>, table: &[&'static Protocol]) -> Result<Accepted, Refusal> {
    let values: Vec<String> = request.all(STREAM_PROTOCOL).map(ToOwned::to_owned).collect();
    if values.is_empty() {
        return Err(Refusal::NoStreamProtocol { headers: request.count() });
    }
    let names = values.iter().flat_map(|line| line.split(',')).map(str::trim);
    let offered: Vec<String> =
        names.filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
    if offered.is_empty() {
        return Err(Refusal::EmptyStreamProtocol { values });
    }
    let spoken = |name: &String| table.iter().find(|row| row.name == *name).copied();
    let Some(protocol) = offered.iter().find_map(spoken) else {
        let accepted = table.iter().map(|row| row.name).collect();
        return Err(Refusal::StreamProtocol { offered, accepted });
    };
    let response = alloc::vec![
        ("Connection", "Upgrade".to_owned()),
        ("Upgrade", SPDY.to_owned()),
        (STREAM_PROTOCOL, protocol.name.to_owned()),
    ];
    Ok(Accepted { protocol, response })
}

/// A client's offer: the method and the lines that make a request an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What is asked for.
    pub carrier: Carrier,
    /// The protocols, best first.
    pub protocols: Vec<&'static Protocol>,
    /// The WebSocket key, base64; empty for SPDY.
    key: String,
}

/// Why a response is not the upgrade that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotUpgraded {
    /// Any status but 101.
    #[error("the server answered {0}")]
    Code(u16),
    /// A 101 without the header lines that make it one.
    #[error("the server's {0} header does not fit the upgrade")]
    Header(&'static str),
    /// A protocol that was not offered.
    #[error("invalid protocol, expected one of {expected:?}, got {got:?}")]
    Protocol {
        /// What was offered.
        expected: Vec<String>,
        /// What the server chose.
        got: String,
    },
}

impl Offer {
    /// Offers v5 over WebSocket. `nonce` must be fresh from a cryptographic source.
    #[must_use]
    pub fn websocket(nonce: [u8; 16]) -> Offer {
        let protocols = alloc::vec![&protocol::WEBSOCKET_V5];
        Offer { carrier: Carrier::WebSocket, protocols, key: STANDARD.encode(nonce) }
    }

    /// Offers every version over SPDY.
    #[must_use]
    pub fn spdy() -> Offer {
        let protocols = protocol::SPDY_OFFER.to_vec();
        Offer { carrier: Carrier::Spdy, protocols, key: String::new() }
    }

    /// Offers port-forward in a tunnel. `nonce` as with [`websocket`](Self::websocket).
    #[must_use]
    pub fn tunnel(nonce: [u8; 16]) -> Offer {
        let protocols = alloc::vec![&protocol::FORWARD_TUNNEL];
        Offer { carrier: Carrier::WebSocket, protocols, key: STANDARD.encode(nonce) }
    }

    /// Offers port-forward over SPDY.
    #[must_use]
    pub fn forward() -> Offer {
        let protocols = alloc::vec![&protocol::FORWARD_SPDY];
        Offer { carrier: Carrier::Spdy, protocols, key: String::new() }
    }

    /// The request's method: WebSocket must be GET, SPDY is POST (and so needs `create`).
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self.carrier {
            Carrier::WebSocket => "GET",
            Carrier::Spdy => "POST",
        }
    }

    /// The request's header lines.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let connection = ("Connection", "Upgrade".to_owned());
        let names = self.protocols.iter().map(|row| row.name);
        match self.carrier {
            Carrier::WebSocket => alloc::vec![
                connection,
                ("Upgrade", "websocket".to_owned()),
                (WEBSOCKET_KEY, self.key.clone()),
                (WEBSOCKET_VERSION, "13".to_owned()),
                (WEBSOCKET_PROTOCOL, names.collect::<Vec<_>>().join(", ")),
            ],
            Carrier::Spdy => [connection, ("Upgrade", SPDY.to_owned())]
                .into_iter()
                .chain(names.map(|name| (STREAM_PROTOCOL, name.to_owned())))
                .collect(),
        }
    }

    /// The client's verdict on the response.
    ///
    /// # Errors
    /// [`NotUpgraded`]: the connection cannot be used.
    pub fn check(&self, code: u16, response: Lines<'_>) -> Result<&'static Protocol, NotUpgraded> {
        if code != 101 {
            return Err(NotUpgraded::Code(code));
        }
        if !response.has_token("Connection", "upgrade") {
            return Err(NotUpgraded::Header("Connection"));
        }
        if asked(response) != Some(self.carrier) {
            return Err(NotUpgraded::Header("Upgrade"));
        }
        match self.carrier {
            Carrier::WebSocket => {
                let expected = accept_key(&self.key);
                if response.first(WEBSOCKET_ACCEPT).map(str::trim) != Some(expected.as_str()) {
                    return Err(NotUpgraded::Header(WEBSOCKET_ACCEPT));
                }
                self.chosen(response.first(WEBSOCKET_PROTOCOL).unwrap_or_default())
            }
            // docs/protocols/handshakes.md, 3.1: a server that names none means version 1, where
            // there are versions.
            Carrier::Spdy => match response.first(STREAM_PROTOCOL).map(str::trim) {
                None | Some("") if self.protocols.len() > 1 => Ok(&protocol::SPDY_V1),
                name => self.chosen(name.unwrap_or_default()),
            },
        }
    }

    fn chosen(&self, name: &str) -> Result<&'static Protocol, NotUpgraded> {
        let row = self.protocols.iter().find(|row| row.name == name.trim());
        row.copied().ok_or_else(|| NotUpgraded::Protocol {
            expected: self.protocols.iter().map(|row| row.name.to_string()).collect(),
            got: format!("{name:.80}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const V5: Taken = Taken { websocket_v5: true };
    const OLD: Taken = Taken { websocket_v5: false };
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn websocket<'a>(protocols: &'a [&'a str]) -> Vec<(&'a str, &'a str)> {
        let mut lines = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "13"),
        ];
        lines.extend(protocols.iter().map(|line| ("sec-websocket-protocol", *line)));
        lines
    }

    fn spdy<'a>(protocols: &'a [&'a str]) -> Vec<(&'a str, &'a str)> {
        let mut lines = vec![("Connection", "Upgrade"), ("Upgrade", "spdy/3.1")];
        lines.extend(protocols.iter().map(|line| ("x-stream-protocol-version", *line)));
        lines
    }

    fn name(method: &str, lines: &[(&str, &str)], taken: Taken) -> Result<&'static str, u16> {
        match accept(method, Lines(lines), taken) {
            Ok(accepted) => Ok(accepted.protocol.name),
            Err(refusal) => Err(refusal.code()),
        }
    }

    #[test]
    fn v5_is_taken_where_it_is_offered_and_else_the_clients_order_decides() {
        type Row = (&'static [&'static str], Result<&'static str, u16>, Result<&'static str, u16>);
        let table: [Row; 12] = [
            (&["v5.channel.k8s.io"], Ok("v5.channel.k8s.io"), Err(403)),
            (
                &["v5.channel.k8s.io,v4.channel.k8s.io"],
                Ok("v5.channel.k8s.io"),
                Ok("v4.channel.k8s.io"),
            ),
            (
                &["v4.channel.k8s.io, v5.channel.k8s.io"],
                Ok("v5.channel.k8s.io"),
                Ok("v4.channel.k8s.io"),
            ),
            (
                &["x,base64.channel.k8s.io,v4.channel.k8s.io,,v5.channel.k8s.io"],
                Ok("v5.channel.k8s.io"),
                Ok("base64.channel.k8s.io"),
            ),
            (
                &["v4.channel.k8s.io", "v5.channel.k8s.io"],
                Ok("v4.channel.k8s.io"),
                Ok("v4.channel.k8s.io"),
            ),
            (
                &["v4.channel.k8s.io, V5.channel.k8s.io"],
                Ok("v4.channel.k8s.io"),
                Ok("v4.channel.k8s.io"),
            ),
            (&["v3.channel.k8s.io"], Err(403), Err(403)),
            (&["v3.channel.k8s.io", "v4.channel.k8s.io"], Err(403), Err(403)),
            (&["channel.k8s.io"], Ok("channel.k8s.io"), Ok("channel.k8s.io")),
            (&["base64.channel.k8s.io"], Ok("base64.channel.k8s.io"), Ok("base64.channel.k8s.io")),
            (&["x", "v4.base64.channel.k8s.io"], Err(403), Err(403)),
            (&[], Ok(""), Ok("")),
        ];
        for (offered, new, old) in table {
            let lines = websocket(offered);
            assert_eq!(name("GET", &lines, V5), new, "{offered:?}");
            assert_eq!(name("GET", &lines, OLD), old, "{offered:?}");
            assert_eq!(name("POST", &lines, V5), Err(405));
        }
    }

    #[test]
    fn the_101_is_that_of_kubernetes() {
        let lines = websocket(&["v5.channel.k8s.io"]);
        let accepted = accept("GET", Lines(&lines), V5).unwrap();
        assert_eq!(
            accepted.response,
            [
                ("Upgrade", "websocket".to_owned()),
                ("Connection", "Upgrade".to_owned()),
                ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()),
                ("Sec-WebSocket-Protocol", "v5.channel.k8s.io".to_owned()),
            ]
        );
        let unnamed = accept("GET", Lines(&websocket(&[])), V5).unwrap();
        assert_eq!(unnamed.response.len(), 3);
    }

    #[test]
    fn bad_handshakes_get_their_code() {
        let without = |name: &str| -> Vec<(&str, &str)> {
            websocket(&["v4.channel.k8s.io"]).into_iter().filter(|line| line.0 != name).collect()
        };
        assert_eq!(name("GET", &without("connection"), V5), Err(400));
        assert_eq!(name("GET", &without("upgrade"), V5), Err(400));
        assert_eq!(name("GET", &without("sec-websocket-key"), V5), Err(400));
        assert_eq!(name("GET", &without("sec-websocket-version"), V5), Err(400));
        assert_eq!(Refusal::Version.headers(), [("Sec-WebSocket-Version", "13".to_owned())]);
        assert_eq!(name("POST", &spdy(&[]), V5), Err(400));
        assert_eq!(name("POST", &[], V5), Err(400));
        assert_eq!(Refusal::NoUpgrade.to_string(), "Upgrade request required");
    }

    #[test]
    fn spdy_takes_lines_and_lists() {
        let all = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
        assert_eq!(name("POST", &spdy(&all), V5), Ok("v4.channel.k8s.io"));
        assert_eq!(
            name("GET", &spdy(&["v2.channel.k8s.io, v3.channel.k8s.io"]), OLD),
            Ok("v2.channel.k8s.io")
        );
        let refusal = accept("POST", Lines(&spdy(&["v5.channel.k8s.io"])), V5).unwrap_err();
        assert_eq!(refusal.code(), 403);
        assert_eq!(refusal.headers().len(), 4);
        assert_eq!(
            refusal.to_string(),
            "unable to upgrade: unable to negotiate protocol: client supports \
             [v5.channel.k8s.io], server accepts [v4.channel.k8s.io v3.channel.k8s.io \
             v2.channel.k8s.io channel.k8s.io]"
        );
    }

    #[test]
    fn spdy_without_a_protocol_is_a_bad_request_and_its_cause_is_told() {
        let both = |lines: &[(&str, &str)]| {
            let command = accept("POST", Lines(lines), V5).unwrap_err();
            let forward = accept_forward("POST", Lines(lines)).unwrap_err();
            assert_eq!(command, forward);
            assert_eq!((command.code(), command.headers().len()), (400, 0));
            command.to_string()
        };
        let lines = [("Host", "x"), ("upgrade", "SPDY/3.1"), ("connection", "upgrade")];
        assert_eq!(
            both(&[&lines[..], &[("Connection", "close")]].concat()),
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with 2 \
             headers"
        );
        for (values, shown) in [(&[""][..], "[]"), (&[" , ,"], "[ , ,]"), (&[",", ""], "[, ]")] {
            assert_eq!(
                both(&spdy(values)),
                format!(
                    "unable to upgrade: header X-Stream-Protocol-Version contains {shown}, but no \
                     valid protocols"
                )
            );
        }
        let one = spdy(&[",v9.channel.k8s.io,", "", "v4.channel.k8s.io"]);
        assert_eq!(name("POST", &one, V5), Ok("v4.channel.k8s.io"));
    }

    #[test]
    fn what_a_client_offers_a_server_takes_and_the_client_finds_right() {
        for (offer, expected) in
            [(Offer::websocket([7; 16]), "v5.channel.k8s.io"), (Offer::spdy(), "v4.channel.k8s.io")]
        {
            let headers = offer.headers();
            let request: Vec<(&str, &str)> =
                headers.iter().map(|line| (line.0, line.1.as_str())).collect();
            let accepted = accept(offer.method(), Lines(&request), V5).unwrap();
            let response: Vec<(&str, &str)> =
                accepted.response.iter().map(|line| (line.0, line.1.as_str())).collect();
            let protocol = offer.check(101, Lines(&response)).unwrap();
            assert_eq!((protocol.name, protocol.carrier), (expected, offer.carrier));

            assert_eq!(offer.check(403, Lines(&response)), Err(NotUpgraded::Code(403)));
            for missing in 0..response.len() {
                let mut cut = response.clone();
                cut.remove(missing);
                let verdict = offer.check(101, Lines(&cut));
                let version_1 = Ok(&protocol::SPDY_V1);
                assert!(verdict.is_err() || verdict == version_1, "{cut:?}");
            }
        }
    }

    #[test]
    fn a_forward_is_a_tunnel_channels_or_spdy() {
        const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
        let name = |lines: &[(&str, &str)]| match accept_forward("GET", Lines(lines)) {
            Ok(accepted) => Ok(accepted.protocol.name),
            Err(refusal) => Err(refusal.code()),
        };
        let table: [(&[&str], Result<&str, u16>); 6] = [
            (&[TUNNEL], Ok(TUNNEL)),
            (&["v5.channel.k8s.io,v4.channel.k8s.io"], Ok("v4.channel.k8s.io")),
            (&["v5.channel.k8s.io"], Ok("v5.channel.k8s.io")),
            (&["v4.base64.channel.k8s.io"], Ok("v4.base64.channel.k8s.io")),
            (&["portforward.k8s.io"], Err(403)),
            (&[], Ok("")),
        ];
        for (offered, expected) in table {
            let lines = websocket(offered);
            assert_eq!(name(&lines), expected, "{offered:?}");
            assert_eq!(asks_for_tunnel(Lines(&lines)), offered == [TUNNEL]);
        }
        assert_eq!(name(&spdy(&["portforward.k8s.io"])), Ok("portforward.k8s.io"));
        assert_eq!(name(&spdy(&["v4.channel.k8s.io"])), Err(403));
        for offer in [Offer::tunnel([7; 16]), Offer::forward()] {
            let headers = offer.headers();
            let request: Vec<(&str, &str)> =
                headers.iter().map(|line| (line.0, line.1.as_str())).collect();
            let accepted = accept_forward(offer.method(), Lines(&request)).unwrap();
            let response: Vec<(&str, &str)> =
                accepted.response.iter().map(|line| (line.0, line.1.as_str())).collect();
            assert_eq!(offer.check(101, Lines(&response)), Ok(accepted.protocol));
            let unnamed = &response[..response.len() - 1];
            assert!(matches!(offer.check(101, Lines(unnamed)), Err(NotUpgraded::Protocol { .. })));
        }
    }

    #[test]
    fn a_protocol_that_was_not_offered_is_refused() {
        let offer = Offer::spdy();
        let response = spdy(&["v9.channel.k8s.io"]);
        assert!(matches!(offer.check(101, Lines(&response)), Err(NotUpgraded::Protocol { .. })));
    }
}
