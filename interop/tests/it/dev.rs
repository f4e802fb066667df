//! Every kubectl and `bowline exec` against `bowline dev`: the whole list.

use bowline_interop::client::{Client, Input};
use bowline_interop::list::check;
use bowline_interop::server::Server;

use crate::parts::{KUBECTLS, amounts, bowline, kubectl, ours};

const TARGET: &[&str] = &["nginx"];

#[test]
fn every_kubectl() {
    let dev = Server::dev(&bowline(), &[]);
    for version in KUBECTLS {
        check(&kubectl(version, &dev.kubeconfig(), TARGET), &amounts(), &[]);
    }
}

#[test]
fn bowline_exec() {
    let dev = Server::dev(&bowline(), &[]);
    let client = ours(&dev.kubeconfig(), TARGET);
    check(&client, &amounts(), &[]);
    check(&client.over_spdy(), &amounts(), &[]);
}

/// Which requests for the stream a client makes, by what it says of them.
fn methods(client: &Client) -> Vec<String> {
    let left = client.with("-v=8").run(&[], &["true"], Input::Nothing);
    assert!(left.status.success(), "{left:?}");
    let lines = left.stderr.lines().filter(|line| line.contains("/exec?"));
    let method = |line: &str| match (line.contains("GET"), line.contains("POST")) {
        (true, false) => Some("GET".to_owned()),
        (false, true) => Some("POST".to_owned()),
        _ => None,
    };
    let mut methods: Vec<_> = lines.filter_map(method).collect();
    methods.dedup();
    methods
}

#[test]
fn with_the_gate_off_the_newest_kubectl_falls_back_and_passes() {
    let dev =
        Server::dev(&bowline(), &["--feature-gates=TranslateStreamCloseWebsocketRequests=false"]);
    let newest = kubectl("1.37", &dev.kubeconfig(), TARGET);
    assert_eq!(methods(&newest), ["GET", "POST"]);
    check(&newest, &amounts(), &[]);
    let client = ours(&dev.kubeconfig(), TARGET);
    assert_eq!(methods(&client), ["GET", "POST"]);
}

#[test]
fn the_variable_leaves_only_spdy_on_the_wire() {
    let dev = Server::dev(&bowline(), &["-v=2"]);
    let newest = kubectl("1.37", &dev.kubeconfig(), TARGET);
    let client = ours(&dev.kubeconfig(), TARGET);
    assert_eq!(methods(&newest), ["GET"]);
    assert_eq!(methods(&client), ["GET"]);
    assert_eq!(methods(&newest.over_spdy()), ["POST"]);
    assert_eq!(methods(&client.over_spdy()), ["POST"]);
}
