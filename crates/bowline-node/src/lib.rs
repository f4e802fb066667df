//! The node's part of Kubernetes streaming: the kubelet's exec endpoints over a runtime.
//!
//! [`manifest`] reads Pods, [`runtime`] runs them as processes of this host, [`kubelet`] answers
//! the API server, [`session`] joins an upgraded connection with one process, new or [attached
//! to](attach), and [`forward`] with the ports of a pod.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play peers and processes"))]

pub mod admitted;
pub mod attach;
pub mod forward;
pub mod kubelet;
pub mod manifest;
pub mod process;
pub mod runtime;
pub mod session;

mod census;
mod child;
mod console;
mod family;
mod leader;
mod lines;
mod log;
mod pipes;
mod spawn;
mod terminal;
mod watched;
