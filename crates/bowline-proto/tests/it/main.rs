//! The protocols from outside, as their drivers see them. One binary for all.

mod session;
mod spdy;
