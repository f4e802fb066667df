//! What a client has to know before it can stream: which cluster, as which user, which pod.
//!
//! In reading order: [`config`] finds the cluster and the user in flags and [`kubeconfig`] files,
//! [`credentials`] makes headers of the user, for each connection, [`api`] asks the API server,
//! [`target`] finds the pod (with [`files`] for `-f`), [`container`] the container, and
//! [`ports`] the ports of a forward. Every error has kubectl's words. Servers ask an API server by
//! `reviews` who somebody is and what they may, and know by a `watch` what there is.
//!
//! Published because `bowline-client` and the program stand on it; not meant for use of its own.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play peers and processes"))]
#![warn(unnameable_types, unreachable_pub)]

pub mod api;
pub mod config;
pub mod container;
pub mod credentials;
pub mod exchange;
#[cfg(feature = "manifests")]
pub mod files;
pub mod flaws;
pub mod kubeconfig;
pub mod nodes;
pub mod objects;
pub mod oidc;
pub mod plugin;
pub mod ports;
pub mod resources;
#[cfg(feature = "reviews")]
pub mod reviews;
pub mod target;
#[cfg(feature = "watch")]
pub mod watch;
pub mod web;
pub mod yaml;
