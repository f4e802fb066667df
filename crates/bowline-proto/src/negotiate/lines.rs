//! Header lines, and what kind of stream they ask for.

use crate::session::protocol::Carrier;

/// The header that names SPDY protocols, one line each.
pub const STREAM_PROTOCOL: &str = "X-Stream-Protocol-Version";
pub(super) const ACCEPTED_PROTOCOLS: &str = "X-Accepted-Stream-Protocol-Versions";
pub(super) const WEBSOCKET_PROTOCOL: &str = "Sec-WebSocket-Protocol";
pub(super) const WEBSOCKET_KEY: &str = "Sec-WebSocket-Key";
pub(super) const WEBSOCKET_VERSION: &str = "Sec-WebSocket-Version";
pub(super) const WEBSOCKET_ACCEPT: &str = "Sec-WebSocket-Accept";
/// What SPDY calls itself in `Upgrade`.
pub const SPDY: &str = "SPDY/3.1";

/// A request's or a response's header lines, in order. Values that are not text are left out.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a>(pub &'a [(&'a str, &'a str)]);

impl<'a> Lines<'a> {
    pub(super) fn all(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = move |line: &&(&str, &str)| line.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|line| line.1)
    }

    pub(super) fn first(self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    pub(super) fn has_token(self, name: &'a str, token: &str) -> bool {
        self.all(name).any(|value| contains(value, token))
    }

    /// How many names there are. `Host` is not a header to Go's servers.
    pub(super) fn count(self) -> usize {
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
