//! Seeds to kept sessions: both machines as they ship, a host that may be started anew, a process
//! and users as models, and connections that are cut anywhere, or silent, or lead to another host.
//!
//! What is promised: every byte of every stream once and in order, or a gap that is said; the
//! process' own outcome or a loss that is said; one start; nothing that grows; and always something
//! that happens next.

mod host;
mod process;
mod records;
mod scenario;
mod shrink;
mod turns;
mod user;
mod wire;
mod world;

pub use scenario::{Act, Have, Scenario, Turn, When, Wire};
pub use shrink::shrink;

use crate::memory;
use crate::promises::Promise;
use crate::world::Verdict;
use bowline_proto::limits::{KEPT_REPLAY_BYTES, KEPT_WINDOW_BYTES};

/// The secret of the session here.
const ID: [u8; 16] = *b"\xa7\x31never-show-it\xfe";

/// Plays a scenario; keeps its lines if `keeps_lines`.
#[must_use]
pub fn run(scenario: &Scenario, keeps_lines: bool) -> Verdict {
    let (mut records, held) = memory::peak_of(|| world::play(scenario, keeps_lines));
    check_memory(scenario, &mut records, held);
    let (steps, fingerprint) = (records.steps, records.fingerprint());
    let end = records.lines.last().cloned().unwrap_or_default();
    Verdict { broken: records.broken, steps, fingerprint, lines: records.lines, end }
}

/// Checks what was held in memory at most: what the host keeps of both outputs, twice while pieces
/// become one; and for each client its input, and both outboxes with what is under way.
fn check_memory(scenario: &Scenario, records: &mut records::Records, held: usize) {
    const MODELS_BYTES: usize = 1024 * 1024;
    let window = usize::try_from(KEPT_WINDOW_BYTES).unwrap_or(usize::MAX);
    let kept = scenario.replay_bytes + scenario.pipe_bytes;
    let typed = scenario.typed[0].max(scenario.typed[1]).min(KEPT_REPLAY_BYTES + window);
    let clients = 2 + scenario.turns.len();
    let a_client = 2 * typed + 3 * host::OUTBOX_BYTES + 2 * scenario.wire.held_bytes;
    let most = 4 * kept + clients * a_client + MODELS_BYTES + 2 * records.lines_bytes();
    if held > most {
        let how = format!("{held} bytes were held in memory, at most {most} may be");
        records.broke(Promise::Bounded, how);
    }
}

/// Whether a text gives the id away.
fn shows_id(text: &str) -> bool {
    text.contains("never-show-it") || text.contains("167, 49, 110") || text.contains("a7316e65")
}
