//! What a server takes of its clients.

use super::Limits;

/// What a server takes of its clients. The default is what Kubernetes' streams need: requests
/// without bodies over HTTP/1.1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// How many connections there may be.
    pub limits: Limits,
    /// Whether the service gets the bodies of requests. They come as it reads them: what it does
    /// not read stays with the client, but for the first piece, and an answer to a request whose
    /// body was not read to its end closes the connection. `Expect: 100-continue` is answered once
    /// the service begins to read. A client that sends nothing of a body that is waited for is let
    /// go after 90 s, one that is not authenticated after 10 s.
    pub request_bodies: bool,
    /// Whether clients in TLS may choose HTTP/2. Its requests have bodies whatever else is set. A
    /// request for an upgrade cannot come over it, but for those of
    /// [`http2_websockets`](Self::http2_websockets); a service sees the version, and refuses what
    /// needs one.
    pub http2: bool,
    /// Whether WebSockets may come over HTTP/2 (RFC 8441). It is announced to every client, and
    /// browsers then use it for all WebSockets of the origin. The service sees an ordinary request
    /// for an upgrade, of HTTP/1.1, and answers it with an ordinary 101.
    pub http2_websockets: bool,
}

impl From<Limits> for Settings {
    fn from(limits: Limits) -> Settings {
        Settings { limits, ..Settings::default() }
    }
}
