//! The one place where bytes move between sockets and machines.
//!
//! A driver waits in one `poll_fn` for whatever its machine wants, and gives it what comes first.
//! [`Driver`] has a machine with one socket and a role's own ends beside it, [`join`] one with two
//! sockets and nothing else. Nothing here spawns a task, and no byte passes through a channel.

mod alarm;
#[cfg(feature = "server")]
mod bounds;
mod one;
mod read_buffer;
mod socket;
#[cfg(feature = "server")]
mod two;
mod write_queue;

use tokio::task::yield_now;

pub use self::alarm::Alarm;
#[cfg(feature = "server")]
pub use self::bounds::{Bounds, Exceeded};
pub use self::one::{Driver, Ends, Step};
pub use self::read_buffer::ReadBuffer;
pub use self::socket::{Socket, SocketEvent};
#[cfg(feature = "server")]
pub use self::two::{Joint, join, join_within};
pub use self::write_queue::WriteQueue;

/// How many bytes a loop moves at once before other tasks have their turn.
const MUCH_BYTES: usize = 128 * 1024;

/// Lets other tasks run if a loop has just moved many bytes: tokio's budget counts reads, not their
/// bytes.
pub async fn take_turns(moved: usize) {
    if moved >= MUCH_BYTES {
        yield_now().await;
    }
}
