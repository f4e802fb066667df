//! What to speak with an API server: as configured, or as it was found out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bowline_proto::session::protocol::Carrier;
use tokio::time::Instant;

/// How long it counts that an API server refused WebSocket and took SPDY. After that it may be
/// another version, or have other proxies before it.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// What is spoken with an API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FarCarrier {
    /// WebSocket, and SPDY where that is refused.
    #[default]
    Auto,
    /// WebSocket alone.
    WebSocket,
    /// SPDY alone.
    Spdy,
}

/// What is spoken with one API server for one kind of streams.
#[derive(Debug)]
pub(super) struct Remembered {
    configured: FarCarrier,
    /// Until when SPDY comes first.
    spdy_until: Mutex<Option<Instant>>,
}

impl Remembered {
    pub(super) fn new(configured: FarCarrier) -> Remembered {
        Remembered { configured, spdy_until: Mutex::new(None) }
    }

    /// Returns the carriers to try, best first.
    pub(super) fn carriers(&self) -> &'static [Carrier] {
        const WEBSOCKET_FIRST: &[Carrier] = &[Carrier::WebSocket, Carrier::Spdy];
        const SPDY_FIRST: &[Carrier] = &[Carrier::Spdy, Carrier::WebSocket];
        match self.configured {
            FarCarrier::WebSocket => &WEBSOCKET_FIRST[..1],
            FarCarrier::Spdy => &SPDY_FIRST[..1],
            FarCarrier::Auto => {
                let mut until = self.spdy_until.lock().unwrap_or_else(PoisonError::into_inner);
                *until = until.filter(|until| Instant::now() < *until);
                if until.is_some() { SPDY_FIRST } else { WEBSOCKET_FIRST }
            }
        }
    }

    /// Records which carrier a stream came about over.
    pub(super) fn took(&self, carrier: Carrier) {
        let mut until = self.spdy_until.lock().unwrap_or_else(PoisonError::into_inner);
        match carrier {
            Carrier::WebSocket => *until = None,
            Carrier::Spdy => {
                until.get_or_insert_with(|| Instant::now() + REMEMBERED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_found_out_counts_for_a_while() {
        let first = |remembered: &Remembered| remembered.carriers()[0];
        let auto = Remembered::new(FarCarrier::Auto);
        assert_eq!(first(&auto), Carrier::WebSocket);
        auto.took(Carrier::Spdy);
        assert_eq!(auto.carriers(), [Carrier::Spdy, Carrier::WebSocket]);
        // It is found out again, however often SPDY does.
        tokio::time::advance(REMEMBERED / 2).await;
        auto.took(Carrier::Spdy);
        tokio::time::advance(REMEMBERED / 2).await;
        assert_eq!(first(&auto), Carrier::WebSocket);
        auto.took(Carrier::Spdy);
        auto.took(Carrier::WebSocket);
        assert_eq!(first(&auto), Carrier::WebSocket);
        for (configured, carrier) in
            [(FarCarrier::Spdy, Carrier::Spdy), (FarCarrier::WebSocket, Carrier::WebSocket)]
        {
            let remembered = Remembered::new(configured);
            remembered.took(Carrier::Spdy);
            assert_eq!(remembered.carriers(), [carrier]);
        }
    }
}
