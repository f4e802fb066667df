//! Header lines, and the carrier that they ask for.

use crate::session::protocol::Carrier;

/// The header that names SPDY protocols, one line each.
pub const STREAM_PROTOCOL: &str = "X-Stream-Protocol-Version";
pub(super) const ACCEPTED_PROTOCOLS: &str = "X-Accepted-Stream-Protocol-Versions";
pub(super) const WEBSOCKET_PROTOCOL: &str = "Sec-WebSocket-Protocol";
pub(super) const WEBSOCKET_KEY: &str = "Sec-WebSocket-Key";
pub(super) const WEBSOCKET_VERSION: &str = "Sec-WebSocket-Version";
pub(super) const WEBSOCKET_ACCEPT: &str = "Sec-WebSocket-Accept";
/// The value of `Upgrade` for SPDY.
pub const SPDY: &str = "SPDY/3.1";

/// The header lines of a request or a response, in order, without those whose values are not text.
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

    /// How many different names there are. Go's servers do not count `Host`.
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

/// Whether `word` is anywhere in a value, in any case: that is how Kubernetes looks for it.
fn contains(value: &str, word: &str) -> bool {
    value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// Returns the carrier that a request asks for, or that a 101 switches to; `None` if it is no
/// upgrade.
#[must_use]
pub fn requested_carrier(request: Lines<'_>) -> Option<Carrier> {
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
