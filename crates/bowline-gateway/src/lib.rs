//! The API server's part of Kubernetes streaming: who may, which node, and any front to any back.
//!
//! A request walks down this list and never back: [`server`] asks [`route`] what it wants,
//! [`identity`] what it says of its sender, [`impersonation`] as whom it
//! runs, and [`authz`] whether it may; [`api`] answers what is read, [`options`] and
//! [`cluster`] find the node of a stream, [`far`] reaches it, and [`stream`] (an exec or attach) or
//! [`forward`] (a port-forward) joins the two; [`logs`] passes on what a container has written.

pub mod authz;
pub mod far;
pub mod files;
pub mod forward;
pub mod gates;
pub mod identity;
pub mod impersonation;
pub mod logs;
pub mod options;
pub mod route;
pub mod server;
pub mod status;
pub mod stream;

mod names;
