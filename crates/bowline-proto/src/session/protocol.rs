//! Every protocol, as a row of a table.

use alloc::format;
use alloc::string::String;

use crate::limits;

/// What a session travels in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// WebSocket messages; the protocol's name is a `Sec-WebSocket-Protocol`.
    WebSocket,
    /// SPDY/3.1 streams; the protocol's name is an `X-Stream-Protocol-Version`.
    Spdy,
}

/// How a WebSocket message carries its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The channel's number as a byte, then the bytes.
    Binary,
    /// The channel's number as a digit, then the bytes in base64.
    Base64,
}

impl Encoding {
    /// The most bytes that go into one message. A message of text is within
    /// [`MESSAGE_BYTES`](limits::MESSAGE_BYTES) with its channel's digit.
    #[must_use]
    pub const fn payload_bytes(self) -> usize {
        match self {
            Encoding::Binary => limits::MESSAGE_BYTES,
            Encoding::Base64 => (limits::MESSAGE_BYTES - 1) / 4 * 3,
        }
    }
}

/// One protocol. Compare rows by [`Protocol::name`] and [`Protocol::carrier`].
#[derive(Debug, PartialEq, Eq)]
pub struct Protocol {
    /// What it travels in.
    pub carrier: Carrier,
    /// Its name in the handshake; empty for WebSocket without a subprotocol.
    pub name: &'static str,
    /// How messages carry bytes; of no meaning over SPDY.
    pub encoding: Encoding,
    /// Whether the error channel carries a JSON Status, also on success. Otherwise it carries the
    /// plain text of a failure, and nothing at all on success.
    pub json_status: bool,
    /// Whether a client can end stdin and go on reading.
    pub half_closes: bool,
    /// Whether terminal sizes have a channel. Over WebSocket they have one in every version.
    pub resizes: bool,
}

impl Protocol {
    /// The carrier and the name, for a log.
    #[must_use]
    pub fn label(&self) -> String {
        let carrier = match self.carrier {
            Carrier::WebSocket => "WebSocket",
            Carrier::Spdy => "SPDY/3.1",
        };
        if self.name.is_empty() { carrier.into() } else { format!("{carrier} {}", self.name) }
    }
}

const fn websocket(name: &'static str, encoding: Encoding, json_status: bool) -> Protocol {
    let half_closes = false;
    let carrier = Carrier::WebSocket;
    Protocol { carrier, name, encoding, json_status, half_closes, resizes: true }
}

const fn spdy(name: &'static str, json_status: bool, half_closes: bool, resizes: bool) -> Protocol {
    let (carrier, encoding) = (Carrier::Spdy, Encoding::Binary);
    Protocol { carrier, name, encoding, json_status, half_closes, resizes }
}

/// `v5.channel.k8s.io` over WebSocket: v4 and a message that ends stdin. Since Kubernetes 1.29.
pub static WEBSOCKET_V5: Protocol =
    Protocol { half_closes: true, ..websocket("v5.channel.k8s.io", Encoding::Binary, true) };
/// `v4.channel.k8s.io` over WebSocket.
pub static WEBSOCKET_V4: Protocol = websocket("v4.channel.k8s.io", Encoding::Binary, true);
/// `v4.base64.channel.k8s.io`: v4 in messages of text, for old browsers.
pub static WEBSOCKET_V4_BASE64: Protocol =
    websocket("v4.base64.channel.k8s.io", Encoding::Base64, true);
/// `channel.k8s.io`: version 1, failures as plain text.
pub static WEBSOCKET_V1: Protocol = websocket("channel.k8s.io", Encoding::Binary, false);
/// `base64.channel.k8s.io`: version 1 in messages of text.
pub static WEBSOCKET_V1_BASE64: Protocol =
    websocket("base64.channel.k8s.io", Encoding::Base64, false);
/// A WebSocket request without a subprotocol: version 1.
pub static WEBSOCKET_UNNAMED: Protocol = websocket("", Encoding::Binary, false);

/// `v5.channel.k8s.io` over SPDY, which is v4: clients offer it, and no server takes it.
pub static SPDY_V5: Protocol = spdy("v5.channel.k8s.io", true, true, true);
/// `v4.channel.k8s.io` over SPDY: a JSON Status on the error stream.
pub static SPDY_V4: Protocol = spdy("v4.channel.k8s.io", true, true, true);
/// `v3.channel.k8s.io` over SPDY: adds terminal sizes.
pub static SPDY_V3: Protocol = spdy("v3.channel.k8s.io", false, true, true);
/// `v2.channel.k8s.io` over SPDY.
pub static SPDY_V2: Protocol = spdy("v2.channel.k8s.io", false, true, false);
/// `channel.k8s.io` over SPDY: version 1, in which a client never ends stdin.
pub static SPDY_V1: Protocol = spdy("channel.k8s.io", false, false, false);

/// Port-forward's pairs of SPDY streams in the messages of a WebSocket. Since Kubernetes 1.30.
pub static FORWARD_TUNNEL: Protocol = Protocol {
    half_closes: true,
    ..websocket("SPDY/3.1+portforward.k8s.io", Encoding::Binary, false)
};
/// Port-forward's pairs of streams over SPDY.
pub static FORWARD_SPDY: Protocol = spdy("portforward.k8s.io", false, true, false);

/// `v1.session.bowline`: the frames of a [kept](crate::kept) session in the messages of a
/// WebSocket, whose boundaries mean nothing. No protocol of channels, and none of Kubernetes'.
pub static KEPT: Protocol =
    Protocol { half_closes: true, ..websocket("v1.session.bowline", Encoding::Binary, true) };

/// What a port-forward's server takes over WebSocket, best first, whatever the client's order. Both
/// v4 and v5 mean the same channels here, and some clients offer v5 first but need v4.
pub static FORWARD_CHANNELS: [&Protocol; 4] =
    [&WEBSOCKET_V4, &WEBSOCKET_V4_BASE64, &WEBSOCKET_V5, &WEBSOCKET_UNNAMED];

/// What a remote command's server takes over WebSocket. v5 is taken wherever it is offered; else
/// the client's order decides, not this one.
pub static WEBSOCKET: [&Protocol; 6] = [
    &WEBSOCKET_V5,
    &WEBSOCKET_V4,
    &WEBSOCKET_V4_BASE64,
    &WEBSOCKET_V1,
    &WEBSOCKET_V1_BASE64,
    &WEBSOCKET_UNNAMED,
];

/// What a remote command's server takes over SPDY.
pub static SPDY: [&Protocol; 4] = [&SPDY_V4, &SPDY_V3, &SPDY_V2, &SPDY_V1];

/// What a remote command's client offers over SPDY, best first.
pub static SPDY_OFFER: [&Protocol; 5] = [&SPDY_V5, &SPDY_V4, &SPDY_V3, &SPDY_V2, &SPDY_V1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_within_a_carrier() {
        for table in [&WEBSOCKET[..], &SPDY_OFFER[..]] {
            for (index, row) in table.iter().enumerate() {
                assert!(table[index + 1..].iter().all(|other| other.name != row.name));
            }
        }
    }
}
