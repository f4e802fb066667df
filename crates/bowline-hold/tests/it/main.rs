//! The real program, with a client's machine that starts it for each connection as an exec would.

mod client;
mod sessions;
