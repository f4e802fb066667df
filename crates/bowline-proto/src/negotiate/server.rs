//! Turns a request into the 101, or the refusal, with which Kubernetes' servers answer it.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::lines::{
    ACCEPTED_PROTOCOLS, Lines, SPDY, STREAM_PROTOCOL, WEBSOCKET_ACCEPT, WEBSOCKET_KEY,
    WEBSOCKET_PROTOCOL, WEBSOCKET_VERSION, requested_carrier,
};
use crate::session::protocol::{self, Carrier, Protocol};
use crate::websocket::accept_key;

/// Which protocols a server takes beyond those that every server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// The server takes `v5.channel.k8s.io` over WebSocket, which older ones do not know.
    pub websocket_v5: bool,
}

/// A server's answer to a request that it upgrades.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The protocol of the upgraded connection.
    pub protocol: &'static Protocol,
    /// The header lines of the 101, `Connection` and `Upgrade` among them.
    pub response: Vec<(&'static str, String)>,
}

/// Why a request is not upgraded, with Kubernetes' texts and codes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request asks for no upgrade, or for one to something unknown.
    #[error("Upgrade request required")]
    NoUpgrade,
    /// The request for a WebSocket is not a GET (RFC 6455 §4.1).
    #[error("bad method")]
    Method,
    /// The WebSocket key is not 16 bytes in base64 (RFC 6455 §4.2.1).
    #[error("missing or bad Sec-WebSocket-Key")]
    Key,
    /// The WebSocket version is not 13 (RFC 6455 §4.4).
    #[error("missing or bad WebSocket version")]
    Version,
    /// None of the offered subprotocols is known here.
    #[error("no supported WebSocket subprotocol among {offered:?}")]
    Subprotocol {
        /// What was offered.
        offered: Vec<String>,
    },
    /// The request for SPDY has no header that says which protocol it is to carry.
    #[error(
        "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with \
         {headers} headers"
    )]
    NoStreamProtocol {
        /// How many headers the request has, `Host` left out, as Go's servers count.
        headers: usize,
    },
    /// The request for SPDY has a header that names no protocol.
    #[error(
        "unable to upgrade: header X-Stream-Protocol-Version contains [{}], but no valid protocols",
        values.join(" ")
    )]
    EmptyStreamProtocol {
        /// The values of the header's lines.
        values: Vec<String>,
    },
    /// None of the protocols offered over SPDY is known here.
    #[error(
        "unable to upgrade: unable to negotiate protocol: \
         client supports [{}], server accepts [{}]",
        offered.join(" "),
        accepted.join(" ")
    )]
    StreamProtocol {
        /// What was offered.
        offered: Vec<String>,
        /// What is known here.
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

    /// The header lines of the answer.
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

    /// Whether Kubernetes sends the answer without a body.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        matches!(self, Refusal::Subprotocol { .. })
    }
}

/// The most lines of a server's refusal that are passed on. There are four versions to name.
const ACCEPTED_LINES: usize = 8;

/// Returns the lines of a server's refusal that say what it would have taken, for a gateway to pass
/// on.
#[must_use]
pub fn accepted_protocol_lines(response: Lines<'_>) -> Vec<(&'static str, String)> {
    let names = response.all(ACCEPTED_PROTOCOLS).take(ACCEPTED_LINES);
    names.map(|name| (ACCEPTED_PROTOCOLS, name.to_owned())).collect()
}

/// Chooses the protocol of a remote command, as a server. WebSocket v5 is taken wherever it is
/// offered, as every server that knows it does; else the client's order of preference decides.
///
/// # Errors
/// [`Refusal`] if the request is no upgrade, is malformed, or offers nothing that is known here.
/// It is to be answered instead of the 101.
pub fn accept(method: &str, request: Lines<'_>, taken: Accepts) -> Result<Accepted, Refusal> {
    match requested_carrier(request).ok_or(Refusal::NoUpgrade)? {
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

/// Chooses the protocol of a port-forward, as a server.
///
/// # Errors
/// [`Refusal`] if the request is no upgrade, is malformed, or offers nothing that is known here.
/// It is to be answered instead of the 101.
pub fn accept_forward(method: &str, request: Lines<'_>) -> Result<Accepted, Refusal> {
    match requested_carrier(request).ok_or(Refusal::NoUpgrade)? {
        Carrier::WebSocket => accept_websocket(method, request, |offered| {
            let rows = [&protocol::FORWARD_TUNNEL].into_iter().chain(protocol::FORWARD_CHANNELS);
            rows.into_iter().find(|row| offered.contains(&row.name))
        }),
        Carrier::Spdy => accept_spdy(request, &[&protocol::FORWARD_SPDY]),
    }
}

/// Whether a request asks for a tunnel: SPDY's bytes in a WebSocket.
#[must_use]
pub fn asks_for_tunnel(request: Lines<'_>) -> bool {
    requested_carrier(request) == Some(Carrier::WebSocket)
        && request.first(WEBSOCKET_PROTOCOL).is_some_and(|line| {
            line.split(',').any(|name| name.trim() == protocol::FORWARD_TUNNEL.name)
        })
}

/// Whether a request asks for a [kept](crate::kept) session: it offers that, and nothing else.
#[must_use]
pub fn asks_for_kept(request: Lines<'_>) -> bool {
    requested_carrier(request) == Some(Carrier::WebSocket)
        && request.first(WEBSOCKET_PROTOCOL).is_some_and(|line| line.trim() == protocol::KEPT.name)
}

/// Accepts a request that [asks for a kept session](asks_for_kept).
///
/// # Errors
/// [`Refusal`] if it does not, or is malformed. It is to be answered instead of the 101.
pub fn accept_kept(method: &str, request: Lines<'_>) -> Result<Accepted, Refusal> {
    match requested_carrier(request).ok_or(Refusal::NoUpgrade)? {
        Carrier::WebSocket => accept_websocket(method, request, |offered| {
            (*offered == [protocol::KEPT.name]).then_some(&protocol::KEPT)
        }),
        Carrier::Spdy => Err(Refusal::NoUpgrade),
    }
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
