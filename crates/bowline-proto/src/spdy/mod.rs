//! SPDY/3.1 as Kubernetes uses it: streams, no windows, the server never speaks first.
//! Above: `session::over_spdy`, port-forward. Below: `frame`, `headers`, `dictionary`, `connection`.
//!
//! The API that the layers above build on (see each item's own documentation):
//!
//! ```ignore
//! pub enum Role { Client, Server }
//! pub struct StreamId(u32);                           // ordered, Copy
//! pub struct Headers(Vec<(String, String)>);          // get(name): any case; iter()
//! pub enum Event {
//!     Opened { id: StreamId, headers: Headers },      // the peer opened it; answer with reply() or reset()
//!     Replied(StreamId),                              // SYN_REPLY for a stream of ours
//!     Data(StreamId, Bytes),                          // never empty; parts of frames as they arrive
//!     Finished(StreamId),                             // the peer's FIN, after its data
//!     Reset(StreamId, u32),                           // RST_STREAM; the stream is gone
//!     Pong(u32),                                      // answer to a ping of ours
//!     Closed(Closed),                                 // the last event
//! }
//! pub enum Closed { Goaway { status: u32 }, Cut, Fault(Fault) } // on Fault a GOAWAY(1) is queued and the outbox finished
//! impl Connection {
//!     pub fn new(role: Role) -> Connection;
//!     pub fn receive(&mut self, input: BytesMut);
//!     pub fn receive_end(&mut self);
//!     pub fn poll(&mut self) -> Option<Event>;        // lazily parses one step
//!     pub fn outbox(&mut self) -> &mut Outbox;
//!     pub fn has_room(&self) -> bool;                 // false while answers to a control flood wait unsent
//!     pub fn open(&mut self, headers: &[(&str, &str)]) -> StreamId; // SYN_STREAM
//!     pub fn reply(&mut self, id: StreamId);          // SYN_REPLY, no headers
//!     pub fn send(&mut self, id: StreamId, payload: Bytes); // DATA; ignored after our finish or any reset
//!     pub fn finish(&mut self, id: StreamId);         // empty DATA with FIN, once
//!     pub fn reset(&mut self, id: StreamId, status: u32); // RST_STREAM, once; drops later data of it
//!     pub fn ping(&mut self) -> Option<u32>;          // urgent; None while a server must still be silent
//!     pub fn goaway(&mut self, status: u32);          // then outbox().finish()
//!     pub fn forget_headers(&mut self);               // no further stream will be taken: frees the inflater; later SYN_STREAMs are refused unread
//! }
//! ```
