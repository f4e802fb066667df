//! What a client offers, and its verdict on the answer.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::lines::{
    Lines, SPDY, STREAM_PROTOCOL, WEBSOCKET_ACCEPT, WEBSOCKET_KEY, WEBSOCKET_PROTOCOL,
    WEBSOCKET_VERSION, requested_carrier,
};
use crate::session::protocol::{self, Carrier, Protocol};
use crate::websocket::accept_key;

/// What a client offers: the method and the header lines that make a request an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the upgraded connection is to carry.
    pub carrier: Carrier,
    /// The offered protocols, best first.
    pub protocols: Vec<&'static Protocol>,
    /// The WebSocket key, base64; empty for SPDY.
    key: String,
}

/// Why a response is not the upgrade that was offered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotUpgraded {
    /// The response has this status rather than 101.
    #[error("the server answered {0}")]
    Code(u16),
    /// The 101 lacks this header, or its value does not fit the request.
    #[error("the server's {0} header does not fit the upgrade")]
    Header(&'static str),
    /// The server chose a protocol that was not offered.
    #[error("invalid protocol, expected one of {expected:?}, got {got:?}")]
    Protocol {
        /// What was offered.
        expected: Vec<String>,
        /// What the server chose.
        got: String,
    },
}

impl Offer {
    /// Offers version 5 of a remote command over WebSocket. `nonce` must be fresh from a
    /// cryptographic source.
    #[must_use]
    pub fn websocket(nonce: [u8; 16]) -> Offer {
        let protocols = alloc::vec![&protocol::WEBSOCKET_V5];
        Offer { carrier: Carrier::WebSocket, protocols, key: STANDARD.encode(nonce) }
    }

    /// Offers every version of a remote command over SPDY.
    #[must_use]
    pub fn spdy() -> Offer {
        let protocols = protocol::SPDY_OFFER.to_vec();
        Offer { carrier: Carrier::Spdy, protocols, key: String::new() }
    }

    /// Offers a [kept](crate::kept) session. `nonce` must be fresh from a cryptographic source.
    #[must_use]
    pub fn kept(nonce: [u8; 16]) -> Offer {
        let protocols = alloc::vec![&protocol::KEPT];
        Offer { carrier: Carrier::WebSocket, protocols, key: STANDARD.encode(nonce) }
    }

    /// Offers a port-forward in a tunnel. `nonce` must be fresh from a cryptographic source.
    #[must_use]
    pub fn tunnel(nonce: [u8; 16]) -> Offer {
        let protocols = alloc::vec![&protocol::FORWARD_TUNNEL];
        Offer { carrier: Carrier::WebSocket, protocols, key: STANDARD.encode(nonce) }
    }

    /// Offers a port-forward in numbered channels, by one of
    /// [`FORWARD_CHANNELS`](protocol::FORWARD_CHANNELS). `nonce` must be fresh from a cryptographic
    /// source.
    #[must_use]
    pub fn channels(protocol: &'static Protocol, nonce: [u8; 16]) -> Offer {
        let protocols = alloc::vec![protocol];
        Offer { carrier: Carrier::WebSocket, protocols, key: STANDARD.encode(nonce) }
    }

    /// Offers a port-forward over SPDY.
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
            Carrier::WebSocket => {
                let offered = names.collect::<Vec<_>>().join(", ");
                let lines = alloc::vec![
                    connection,
                    ("Upgrade", "websocket".to_owned()),
                    (WEBSOCKET_KEY, self.key.clone()),
                    (WEBSOCKET_VERSION, "13".to_owned()),
                    (WEBSOCKET_PROTOCOL, offered),
                ];
                // The one without a name is asked for by naming none.
                let named = lines.iter().filter(|line| !line.1.is_empty()).count();
                lines.into_iter().take(named).collect()
            }
            Carrier::Spdy => [connection, ("Upgrade", SPDY.to_owned())]
                .into_iter()
                .chain(names.map(|name| (STREAM_PROTOCOL, name.to_owned())))
                .collect(),
        }
    }

    /// Returns the protocol that the server's response agrees on.
    ///
    /// # Errors
    /// [`NotUpgraded`] if the response is not a 101 that fits this offer. The connection cannot be
    /// used then.
    pub fn check(&self, code: u16, response: Lines<'_>) -> Result<&'static Protocol, NotUpgraded> {
        if code != 101 {
            return Err(NotUpgraded::Code(code));
        }
        if !response.has_token("Connection", "upgrade") {
            return Err(NotUpgraded::Header("Connection"));
        }
        if requested_carrier(response) != Some(self.carrier) {
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
