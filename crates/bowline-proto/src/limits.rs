//! Every bound of the protocols, each with its reason.

use core::time::Duration;

/// How many bytes may wait for a peer before whatever feeds its outbox is no longer read. In memory
/// they take at most three times as much: what waits of a read is three quarters of it or a copy,
/// and a read fills at least half of its buffer ([`queue`](crate::queue)).
pub const OUTBOX_BYTES: usize = 1024 * 1024;

/// The most that is read at once. How many bytes a system call moves decides the cost of a hop,
/// more than anything else.
pub const READ_BYTES: usize = 1024 * 1024;

/// The most that one role holds in memory for one session: a full queue and what the last read
/// added to it, times three, the read that the queue has begun to write, and the buffer of the
/// next one.
pub const SESSION_HELD_BYTES: usize = 3 * (OUTBOX_BYTES + READ_BYTES) + 2 * READ_BYTES;

/// How many bytes may wait for a peer, the answers to its own frames among them, before it is no
/// longer read.
pub const OUTBOX_WITH_ANSWERS_BYTES: usize = 4 * OUTBOX_BYTES;

/// How much stdin may wait for the process. Past it the client's socket stays unread.
pub const STDIN_BYTES: usize = 1024 * 1024;

/// The most bytes in one WebSocket message of a session, as they travel: base64 is counted as text.
/// (A binary message's channel byte comes on top.) It is kubectl's own size, which servers and
/// proxies are known to take.
pub const MESSAGE_BYTES: usize = 32 * 1024;

/// The longest header of a WebSocket frame: 2 bytes, 8 of length, 4 of mask (RFC 6455 §5.2).
pub const WEBSOCKET_HEADER_BYTES: usize = 14;

/// The longest payload of a WebSocket control frame (RFC 6455 §5.5).
pub const WEBSOCKET_CONTROL_BYTES: usize = 125;

/// The longest SPDY control frame; a longer one ends the connection. Those that Kubernetes uses are
/// under 200 bytes, and the format allows 16 MiB.
pub const SPDY_CONTROL_BYTES: usize = 64 * 1024;

/// The most that a SPDY header block may inflate to, whatever lengths it declares.
pub const SPDY_HEADERS_INFLATED_BYTES: usize = 64 * 1024;

/// The most name-value pairs in one SPDY header block. Kubernetes uses three.
pub const SPDY_HEADERS: usize = 256;

/// The most streams that one SPDY connection may have open at once. A port-forward has two for each
/// forwarded connection, and some programs open thousands of those.
pub const SPDY_STREAMS: usize = 16 * 1024;

/// The longest Status; the outcome of a session with a longer one is unknown.
pub const STATUS_BYTES: usize = 1024 * 1024;

/// The longest terminal size as JSON. Real ones are 30 bytes; after a longer one, which is a fault
/// of the peer, sizes are no longer read.
pub const RESIZE_BYTES: usize = 512;

/// How much of the text of a loss or a refusal is kept and shown.
pub const REASON_BYTES: usize = 1024;

/// How long a client has to open all streams of a session over SPDY, and to see them answered.
pub const STREAMS_PATIENCE: Duration = Duration::from_secs(30);

/// How long the two streams of a forwarded connection may take to come, or to be answered.
pub const PAIR_PATIENCE: Duration = Duration::from_secs(30);

/// How many bytes of one forwarded connection may be sent before the other end has taken them,
/// where both ends keep count. With a round trip of 50 ms that allows 20 MB/s.
pub const WINDOW_BYTES: u32 = 1024 * 1024;

/// The most bytes on those data streams of one forward whose error streams have not come.
/// Kubernetes opens the error stream first, so that there are none.
pub const EARLY_BYTES: usize = 64 * 1024;

/// The default for how many connections one port-forward may have. Each holds a descriptor at the
/// node, and some programs open thousands.
pub const FORWARD_CONNECTIONS: usize = 4096;

/// How many bytes may wait for the local ends of one port-forward together. Past it the peer is not
/// read: where it does not keep count, nothing else can hold it back. In memory they take at most
/// twice as much, and a read.
pub const FORWARDED_BYTES: usize = 32 * 1024 * 1024;

/// How often a client pings: as often as kubectl.
pub const PING_EVERY: Duration = Duration::from_secs(5);

/// How long a peer that was pinged may send nothing at all before it counts as dead.
pub const SILENCE_PATIENCE: Duration = Duration::from_secs(30);

/// How long, after the last byte, the peer may take to close. Until then the connection stays open,
/// so that nothing that the peer has yet to read is lost to a reset.
pub const CLOSING_PATIENCE: Duration = Duration::from_secs(5);

/// How long a process may still run after its client has closed, in protocols that cannot
/// half-close: closing is how a client ends stdin there. Likewise, how long a port of a pod that
/// takes nothing is waited for once its client has gone.
pub const CLOSED_CLIENT_GRACE: Duration = Duration::from_secs(30);

/// The largest dynamic table of header compression that is kept for a client of a container
/// runtime. Runtimes allow the default of 4 KiB, which is also what Go's clients use at most; past
/// this one the client's headers are no longer read.
pub const HPACK_TABLE_BYTES: usize = 64 * 1024;

/// The most that is held of an answer with a URL, as it travels. Real ones are below 200 bytes; a
/// longer one passes as it came.
pub const CRI_ANSWER_BYTES: usize = 64 * 1024;

/// The most that is held of such answers on one connection; past it they pass as they come.
/// Runtimes write each of them in one piece, so that next to nothing is.
pub const CRI_HELD_BYTES: usize = 1024 * 1024;

/// How many calls for a URL are watched at once on one connection; the answers to further ones pass
/// as they come. A runtime answers one in milliseconds, but has no bound of its own: containerd
/// allows any number of streams.
pub const CRI_CALLS: usize = 1024;

/// The longest id of a container or a sandbox in a call for a URL. Runtimes use 64 bytes.
pub const CRI_ID_BYTES: usize = 256;

/// The longest command, in bytes of its words, that is known to whoever exchanges a call's URL.
/// With a longer one the runtime is left to run it.
pub const CRI_COMMAND_BYTES: usize = 64 * 1024;

/// The most words of such a command.
pub const CRI_COMMAND_WORDS: usize = 4096;

/// The most ports in one call for a port-forward's URL. The kubelet names those of one request, and
/// none for SPDY and the tunnel.
pub const CRI_PORTS: usize = 1024;

/// The most bytes in one DATA frame of a kept session that are sent, so that frames of the other
/// streams are not held up for long.
pub const KEPT_PIECE_BYTES: usize = 64 * 1024;

/// How much of its input the client of a kept session reads at once: with the head of a DATA frame
/// it is one message, and no second one has what is left over.
pub const KEPT_INPUT_BYTES: usize = MESSAGE_BYTES - 32;

/// The most bytes in one DATA frame that are taken. They are given as they come, so it costs
/// nothing.
pub const KEPT_DATA_BYTES: usize = 16 * 1024 * 1024;

/// The longest frame of another kind: a command with its words and variables. Servers take requests
/// of at most 1 MiB, in which these have to be as well.
pub const KEPT_FRAME_BYTES: usize = 1024 * 1024;

/// The most words, or variables, of a command of a kept session.
pub const KEPT_WORDS: u64 = 64 * 1024;

/// How many bytes of a kept session may wait for its connection before no more are queued.
pub const KEPT_OUTBOX_BYTES: usize = 512 * 1024;

/// How many bytes of each stream of a kept session a peer may send ahead of what is acknowledged.
/// With a round trip of 50 ms that allows 20 MB/s.
pub const KEPT_WINDOW_BYTES: u64 = 1024 * 1024;

/// The default for how much of each output is kept for a client that has not acknowledged it. Past
/// it the process waits; where it has a terminal and nobody is there, the oldest goes.
pub const KEPT_REPLAY_BYTES: usize = 1024 * 1024;

/// The default for how long a kept session may have no client, and how long its end may be asked
/// for.
pub const KEPT_LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How many clients may look at a kept session at once. Whoever goes on with it always has a seat.
pub const KEPT_LOOKERS: usize = 15;

/// How many seats a kept session has, with those of clients that have yet to take their last words.
pub const KEPT_SEATS: usize = 32;

/// How much of a terminal's output is kept while nobody is there: more than any screen shows. Also
/// the most that brings a terminal to where another one is.
pub const KEPT_SCREEN_BYTES: usize = 64 * 1024;

/// How much of a terminal's output is held of what is not kept any more, to show it to a client
/// that has not seen it.
pub const KEPT_TAIL_BYTES: usize = 16 * 1024;

/// How long a program is told of a size that is not the true one, so that it writes its screen
/// anew. A program that looks at its size now and then has to see it, what it has written before
/// has to be through its terminal, and a person shall hardly see it.
pub const KEPT_REDRAW_WITHIN: Duration = Duration::from_millis(300);

/// How many bytes of a kept session are acknowledged at once: half of the window, so that the other
/// half is under way meanwhile. Each acknowledgement is a message of its own through every hop,
/// which costs as much as 20 KB of data. What comes slower than 25 MB/s does not wait for so many.
pub const KEPT_ACK_BYTES: u64 = KEPT_WINDOW_BYTES / 2;

/// How long fewer bytes may wait for their acknowledgement.
pub const KEPT_ACK_WITHIN: Duration = Duration::from_millis(500);

/// From how many bytes on they wait less, because a peer that has little room for what is not
/// acknowledged may stand still.
pub const KEPT_ACK_SOON_BYTES: u64 = 16 * 1024;

/// How long these wait.
pub const KEPT_ACK_SOON: Duration = Duration::from_millis(20);

/// How long a peer of a kept session may be silent before it is pinged.
pub const KEPT_PING_EVERY: Duration = Duration::from_secs(5);

/// How long it may be silent before the connection counts as dead. Since both ends read at all
/// times, whatever waits for a slow reader, silence means that nothing gets through.
pub const KEPT_SILENCE: Duration = Duration::from_secs(15);

/// How long a client waits for an answer of a host before it makes another connection.
pub const KEPT_GREETING: Duration = Duration::from_secs(30);

/// How long after a loss the client of a kept session makes another connection; doubled with each
/// one that fails, up to the next.
pub const KEPT_RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest wait between two connections.
pub const KEPT_RETRY_LAST: Duration = Duration::from_secs(5);
