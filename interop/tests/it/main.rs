//! Bowline and the real parts, side by side. One binary for all; run it by `cargo x interop`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]

mod attach;
mod autobahn;
mod certificates;
mod changes;
mod chart;
mod chart_pod;
mod chart_rights;
mod chart_rollout;
mod copy;
mod cri;
mod cri_ends;
mod cri_face;
mod cri_kinds;
mod cri_logs;
mod cri_old;
mod cri_urls;
mod cri_waits;
mod critest;
mod cuts;
mod dev;
mod ends;
mod extended_connect;
mod forward;
mod gateway;
mod gateway_drain;
mod gateway_identity;
mod gateway_limits;
mod gateway_nodes;
mod gateway_plain;
mod gateway_restarts;
mod gateway_upgrades;
mod gateway_waits;
mod kept_copies;
mod kept_ends;
mod kept_job;
mod kept_many;
mod kept_resumed;
mod kept_strikes;
mod kept_waits;
mod kubeconfigs;
mod legs;
mod libraries;
mod libraries_attach;
mod node_access;
mod parts;
mod proxies;
mod real;
mod recorder;
mod services;
mod steady;
mod waits;
mod who;
mod wire;
mod words;
