//! The one place where bytes move between sockets and machines.
//!
//! A machine says what it wants; a driver waits in one `poll_fn` for whatever comes first, and
//! gives it what came. [`Driver`] has a machine with one socket and a role's own ends beside it,
//! [`join`] one with two sockets and nothing else. Nothing here spawns, and no byte passes through
//! a channel.

mod alarm;
mod one;
mod read_buffer;
mod socket;
#[cfg(feature = "server")]
mod two;
mod write_queue;

use tokio::task::yield_now;

pub use self::alarm::Alarm;
pub use self::one::{Driver, Ends, Step};
pub use self::read_buffer::ReadBuffer;
pub use self::socket::{Socket, SocketEvent};
#[cfg(feature = "server")]
pub use self::two::join;
pub use self::write_queue::WriteQueue;

/// After so much at once, others have their turn.
const MUCH_BYTES: usize = 128 * 1024;

/// Lets other tasks run if a loop has just moved much: tokio counts reads, not what they bring.
pub async fn take_turns(moved: usize) {
    if moved >= MUCH_BYTES {
        yield_now().await;
    }
}
