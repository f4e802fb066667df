//! Files to the components of a gateway without a cluster: pods, nodes and services, a small API to
//! read them, users with tokens, and policies.

pub mod api;
pub mod cluster;
pub mod policies;
pub mod tokens;

mod discovery;
mod select;
mod table;
