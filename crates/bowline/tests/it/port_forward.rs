//! Port-forward from outside: the list over each carrier, and what only `bowline` promises.

use bowline_interop::forward::{SMALL, check};
use bowline_interop::server::Server;

use super::{bowline, client};

#[test]
fn the_list_in_a_tunnel() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev).forwarding(), &SMALL, &[]);
}

#[test]
fn the_list_over_spdy() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev).forwarding().over_spdy(), &SMALL, &[]);
}

#[test]
fn the_list_where_the_tunnel_is_refused() {
    let dev = Server::dev(bowline(), &["--feature-gates=PortForwardWebsockets=false"]);
    check(&client(&dev).forwarding(), &SMALL, &[]);
}
