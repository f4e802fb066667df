//! The node's part of Kubernetes streaming: the kubelet's endpoints over a container runtime.
//!
//! [`runtime`] is what a runtime has to do, [`process`] one that runs Pods as processes of this
//! host, and [`cri`] one that has a container runtime do it. [`kubelet`] answers the API server,
//! [`session`] joins an upgraded connection with one command, [`forward`] with the ports of a pod,
//! and [`kept`] commands with as many connections as their clients need.
//! [`streaming`] serves the same streams behind URLs, as the servers of container runtimes do.
//! Nothing but [`process`] knows of processes, and nothing but [`cri`] of container runtimes.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play peers and processes"))]
#![warn(unnameable_types, unreachable_pub)]

pub mod cri;
pub mod forward;
pub mod health;
pub mod kept;
pub mod kubelet;
pub mod process;
pub mod runtime;
pub mod session;
pub mod streaming;

mod answers;
mod async_fd;
mod course;
#[cfg(test)]
mod endless;
mod lines;
mod localhost;
mod log_options;
mod pipes;
mod procfs;
mod relay;
mod streams;
mod upstream;
