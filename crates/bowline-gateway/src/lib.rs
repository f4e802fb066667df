//! The API server's part of Kubernetes streaming: who may, which node, and any front to any back.
//!
//! A request walks down this list and never back: [`server`] asks [`route`] what it wants,
//! [`identity`] what it says of its sender, the authenticator who that is, [`impersonation`] as
//! whom the request runs, and [`authz`] whether it may. A stream then goes to the [`backend`], as a
//! rule to [`nodes`] where the [`facts`] say they are: a remote command, a port-forward or a log
//! joins the two sides. Everything else is the [`rest`]'s.
//!
//! What can be replaced is one of the [`components`]; [`files`] has those of a gateway that stands
//! alone.
//!
//! Published because the program stands on it; not meant for use of its own.
#![warn(unnameable_types, unreachable_pub)]

pub mod authz;
pub mod backend;
pub mod components;
pub mod facts;
pub mod files;
pub mod gates;
pub mod identity;
pub mod impersonation;
pub mod nodes;
pub mod options;
pub mod rest;
pub mod route;
pub mod server;
pub mod status;

mod forward;
mod logs;
mod names;
mod stream;
