//! Every kubectl and `bowline exec` against `bowline dev`: the whole list.

use std::process::Command;
use std::time::Duration;

use bowline_interop::client::{Client, Input};
use bowline_interop::list::check;
use bowline_interop::server::Server;
use rustix::process::Pid;

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

/// So it is in a container that somebody entered from outside: `getsid` says 0 there.
#[test]
fn a_session_without_a_leader_in_the_pid_namespace_is_no_trouble() {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    let dev = Server::start(unshare.arg(bowline()).args(["dev", "--port", "0"]));
    let client = ours(&dev.kubeconfig(), TARGET);
    let leave = "sleep 300 > /dev/null 2>&1 & echo $!";
    let left = client.run(&[], &["sh", "-c", leave], Input::Nothing);
    assert!(left.status.success(), "{left:?}");
    let id = dev.id().as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let inner: i32 = children.trim().parse().unwrap();
    let took = dev.stop_by(Pid::from_raw(inner).unwrap());
    assert!(took < Duration::from_secs(1), "{took:?}");
}
