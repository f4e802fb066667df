//! SPDY/3.1 as Kubernetes uses it: streams without windows, and a server that never sends first.

mod connection;
mod dictionary;
mod fault;
mod frame;
mod headers;

pub use connection::{Closed, Connection, Event, Role, StreamId};
pub use fault::Fault;
pub use headers::Headers;
