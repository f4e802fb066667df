//! All that a gateway without a cluster stands on: files to each of its doors. Pods, nodes and
//! services, a small API to read them, users with tokens, and policies.

pub mod api;
pub mod cluster;
pub mod policies;
pub mod tokens;

mod discovery;
mod select;
mod table;
