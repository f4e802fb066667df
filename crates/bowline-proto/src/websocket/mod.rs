//! RFC 6455 as chunks: frames in, parts of messages out; a message is never buffered whole.
//! Above: `session::over_websocket`, the tunnel. Below: `frame`, `mask`, `connection`.
//!
//! The API that the layers above build on (see each item's own documentation):
//!
//! ```ignore
//! pub enum Role { Client, Server }
//! pub enum Kind { Text, Binary }
//! pub struct Config { pub role: Role, pub continuation: Continuation }
//! pub enum Continuation { Join, AsMessage }   // AsMessage: a continuation frame begins a message of its own
//! pub struct Chunk { pub kind: Kind, pub first: bool, pub last: bool, pub payload: Bytes }
//! pub enum Event {
//!     Chunk(Chunk),          // part of a message; empty only if it is first or last
//!     Pong(Bytes),           // an answer to a ping of ours (or an unsolicited one)
//!     Closed(Closed),        // the last event
//! }
//! pub enum Closed {
//!     Goodbye { code: Option<u16>, reason: String }, // the peer sent Close; our answer is queued if we had not closed before
//!     Cut,                                           // bytes ended without a Close
//!     Fault(Fault),                                  // the peer broke the rules; our Close with the right code is queued
//! }
//! impl Connection {
//!     pub fn new(config: Config, seed: [u8; 32]) -> Connection;
//!     pub fn receive(&mut self, input: BytesMut);
//!     pub fn receive_end(&mut self);
//!     pub fn poll(&mut self) -> Option<Event>;       // lazily parses one step
//!     pub fn outbox(&mut self) -> &mut Outbox;
//!     pub fn has_room(&self) -> bool;                // false while answers to a control flood wait unsent
//!     pub fn message(&mut self, kind: Kind, head: &[u8], payload: Bytes); // one whole unfragmented message: head ++ payload
//!     pub fn ping(&mut self, payload: &[u8]);        // urgent
//!     pub fn close(&mut self, code: u16, reason: &str); // queues Close, then outbox().finish()
//!     pub fn is_closed(&self) -> bool;               // we sent a Close
//! }
//! pub fn accept_key(key: &str) -> String;            // Sec-WebSocket-Accept, RFC 6455 §4.2.2
//! ```
