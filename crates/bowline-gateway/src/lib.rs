//! The API server's part of Kubernetes streaming: who may, which node, and any front to any back.
//!
//! Where a gateway has several [`clusters`], the first thing is which one is meant.
//!
//! A request walks down this list and never back: [`server`] asks [`route`] what it wants,
//! and the [`callers`] who asks, as whom the request runs, and whether it may: they read
//! [`identity`], and ask here, by [`impersonation`] and [`authz`], or leave that to an API server.
//! A stream then goes to the [`backend`], to [`nodes`] where the [`facts`] say they are or to the
//! API server [`upstream`]: a remote command, a port-forward or a log joins the two sides.
//! Everything else is the [`rest`]'s.
//!
//! What can be replaced is one of the [`components`]; [`files`] has those of a gateway that stands
//! alone.
//!
//! Published because the program stands on it; not meant for use of its own.
#![warn(unnameable_types, unreachable_pub)]

pub mod api_facts;
pub mod authz;
pub mod backend;
pub mod callers;
pub mod clusters;
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
pub mod upstream;

mod forward;
mod kept;
mod logs;
mod names;
mod stream;
