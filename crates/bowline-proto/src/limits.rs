//! Every bound of the protocols, each with its reason.

use core::time::Duration;

/// A leg whose peer has not taken this much is full: whatever feeds it stops being read. Two
/// large reads' worth, so that one can be written while the next is read. In memory it is at most
/// three times as much: what waits of a read is three quarters of it or a copy, and a read fills
/// half of its buffer ([`queue`](crate::queue)).
pub const OUTBOX_BYTES: usize = 1024 * 1024;

/// The most that is read at once. Bytes per system call decide the cost of a hop, more than
/// anything else.
pub const READ_BYTES: usize = 1024 * 1024;

/// What one part holds in memory for one session at most: a full queue with what the last read
/// added to it, three times, and two reads: the one that the queue has begun to write, and the
/// buffer of the next.
pub const SESSION_HELD_BYTES: usize = 3 * (OUTBOX_BYTES + READ_BYTES) + 2 * READ_BYTES;

/// The same with the answers that the peer's own frames ask for: past it, it is not read.
pub const OUTBOX_WITH_ANSWERS_BYTES: usize = 4 * OUTBOX_BYTES;

/// Stdin that the process has not taken yet. Past it the client's socket stays unread.
pub const STDIN_BYTES: usize = 1024 * 1024;

/// The most bytes in one WebSocket message of a session, as they travel: base64 is counted as text.
/// (A binary message's channel byte comes on top.) kubectl's own size: servers and boxes in between
/// are known to take it. Headers cost nothing at this size.
pub const MESSAGE_BYTES: usize = 32 * 1024;

/// The longest header of a WebSocket frame: 2 bytes, 8 of length, 4 of mask (RFC 6455 §5.2).
pub const WEBSOCKET_HEADER_BYTES: usize = 14;

/// The longest payload of a WebSocket control frame (RFC 6455 §5.5).
pub const WEBSOCKET_CONTROL_BYTES: usize = 125;

/// A SPDY control frame longer than this ends the connection. The ones that Kubernetes uses are
/// under 200 bytes; the format allows 16 MiB.
pub const SPDY_CONTROL_BYTES: usize = 64 * 1024;

/// A SPDY header block may inflate to this and no further; the peer's declared counts are never
/// believed.
pub const SPDY_HEADERS_INFLATED_BYTES: usize = 64 * 1024;

/// Pairs in one SPDY header block. Kubernetes uses three.
pub const SPDY_HEADERS: usize = 256;

/// Streams that one SPDY connection may have open at once: a port-forward has two for each
/// connection, and some programs open thousands of those.
pub const SPDY_STREAMS: usize = 16 * 1024;

/// A Status longer than this is not read to its end; the outcome is then unknown.
pub const STATUS_BYTES: usize = 1024 * 1024;

/// One terminal size as JSON. Real ones are 30 bytes; a longer one is a fault of the peer, and
/// resizing stops.
pub const RESIZE_BYTES: usize = 512;

/// The text of a loss or a refusal that is kept and shown.
pub const REASON_BYTES: usize = 1024;

/// How long a client has to open all streams of a session over SPDY, and to see them answered.
pub const STREAMS_PATIENCE: Duration = Duration::from_secs(30);

/// How long the two streams of a forwarded connection may take to come, or to be answered.
pub const PAIR_PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of one forwarded connection that one end may send before the other has taken them, where
/// both ends keep count. At 50 ms of round trip it lets 20 MB/s through.
pub const WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes on all data streams of one forward whose error streams have not come. Kubernetes opens
/// those first, so that there are none.
pub const EARLY_BYTES: usize = 64 * 1024;

/// Connections that one port-forward may have, unless its server was told otherwise: each holds a
/// descriptor at the node, and some programs open thousands.
pub const FORWARD_CONNECTIONS: usize = 4096;

/// What all connections of one port-forward may hold for local ends that do not take it. Past it
/// the peer is not read: without a count of both ends, nothing else can hold it back. In memory it
/// is at most twice as much, and a read.
pub const FORWARDED_BYTES: usize = 32 * 1024 * 1024;

/// A client pings this often, as kubectl does.
pub const PING_EVERY: Duration = Duration::from_secs(5);

/// A peer that was asked and has said nothing at all for this long is dead.
pub const SILENCE_PATIENCE: Duration = Duration::from_secs(30);

/// After the last byte, how long the peer may take to close, so that nothing it has yet to read is
/// lost to a reset.
pub const CLOSING_PATIENCE: Duration = Duration::from_secs(5);

/// In protocols that cannot half-close, a client ends stdin by closing. Its process may then run
/// this much longer before the client counts as gone. Likewise for what waits for the ports of a
/// pod: whoever takes nothing for so long, once its client has gone, is not waited for.
pub const CLOSED_CLIENT_GRACE: Duration = Duration::from_secs(30);
