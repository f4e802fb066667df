//! Parts that are killed in the middle of a session: whoever is left says what is known, and cleans
//! up.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use bowline_interop::client::{Client, Input, left};
use bowline_interop::pair::{Pair, port};
use bowline_interop::server::{Server, until};

use super::{bowline, children};

/// Starts a command that prints its process id first, and gives that.
fn started(client: &Client, flags: &[&str], command: &str) -> (Child, u32) {
    let (child, line) = client.begin(flags, &format!("echo $$; exec {command}"));
    (child, line.parse().unwrap())
}

fn is_alive(id: u32) -> bool {
    Path::new("/proc").join(id.to_string()).exists()
}

/// A killed one resets its connections: there is nothing to wait for.
fn is_lost(child: Child, client: &Client, hop: &str) {
    let left = left(child, Input::Nothing, false).unwrap();
    assert_eq!(left.status.code(), Some(255), "{}: {left:?}", client.name);
    assert_eq!(left.stderr.lines().count(), 1, "{}: {left:?}", client.name);
    assert!(left.stderr.contains("outcome is unknown"), "{}: {left:?}", client.name);
    assert!(left.stderr.contains(hop), "{}: {left:?}", client.name);
    assert!(left.stderr.contains("may still be running"), "{}: {left:?}", client.name);
}

#[test]
fn a_killed_node_is_a_loss_behind_the_gateway() {
    for command in ["sleep 60", "yes"] {
        let mut pair = Pair::start(bowline(), port);
        let client = pair.client("bowline", bowline());
        let clients = [client.clone(), client.over_spdy()];
        let running = clients.each_ref().map(|client| (client, started(client, &[], command)));
        pair.node.kill();
        for (client, (child, _)) in running {
            is_lost(child, client, "gateway to node: ");
        }
    }
}

#[test]
fn a_killed_gateway_is_a_loss_and_ends_the_commands() {
    for command in ["sleep 60", "yes"] {
        let mut pair = Pair::start(bowline(), port);
        let client = pair.client("bowline", bowline());
        let clients = [client.clone(), client.over_spdy()];
        let running = clients.each_ref().map(|client| (client, started(client, &[], command)));
        pair.gateway.kill();
        for (client, (child, id)) in running {
            is_lost(child, client, "on the way to");
            until("the command is gone", Duration::from_secs(5), || !is_alive(id));
        }
    }
}

#[test]
fn a_killed_client_takes_its_command_along_within_five_seconds() {
    let pair = Pair::start(bowline(), port);
    let client = pair.client("bowline", bowline());
    for client in [client.clone(), client.over_spdy()] {
        for (flags, command) in [
            (&[][..], "sleep 60"),
            (&["-i"], "sleep 60"),
            (&[], "yes"),
            // One that does not mind a hangup.
            (&["-i"], "sh -c 'trap \"\" HUP; sleep 60; sleep 60'"),
        ] {
            let (mut child, id) = started(&client, flags, command);
            assert!(is_alive(id));
            child.kill().unwrap();
            child.wait().unwrap();
            let what = format!("{}: {command} is gone", client.name);
            until(&what, Duration::from_secs(5), || !is_alive(id));
        }
    }
}

#[test]
fn a_killed_dev_takes_its_web_server_along() {
    let mut dev = Server::dev(bowline(), &[]);
    let id = dev.id().as_raw_nonzero().get();
    // A child of a thread that just ends is listed with none, for a moment.
    until("dev has a child", Duration::from_secs(5), || !children(id).is_empty());
    let children = children(id);
    let [web] = children[..] else { panic!("{children:?}") };
    let words = || std::fs::read(format!("/proc/{web}/cmdline")).unwrap_or_default();
    until("the web server runs", Duration::from_secs(5), || {
        String::from_utf8_lossy(&words()).contains("__web")
    });
    dev.kill();
    // Whoever inherits it may not have waited for it yet: a zombie has no words.
    until("the web server is gone", Duration::from_secs(5), || words().is_empty());
}
