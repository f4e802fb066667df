//! What a session may not outlast, and not be faster than, as real clients see it. These tests run
//! side by side, since waiting costs nothing.

use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input, Left, PATIENCE, left, noise_digest};
use bowline_interop::cluster::Cluster;
use bowline_interop::forward::Forward;
use bowline_interop::server::until;
use rustix::process::{Pid, Signal, kill_process};

use crate::gateway::Front;
use crate::gateway_limits::clients;
use crate::parts::{kubectl, ours};

/// How much, and how much of it in a second: both ways at the same time.
const BYTES: u64 = 1_200_000;
const RATE: &str = "--max-bytes-per-second=400000";
/// The least that this takes: its last piece has no time of its own.
const TAKES: Duration = Duration::from_millis(2800);

#[test]
fn a_session_is_no_faster_than_its_bandwidth_and_keeps_every_byte() {
    let cluster = Cluster::shared();
    let front = Front::of(&cluster, &[RATE]);
    thread::scope(|scope| {
        for client in clients(&front.through, "box") {
            scope.spawn(move || {
                for (words, input) in [
                    (&["sh", "-c", "head -c 1200000 /dev/zero; exit 3"][..], Input::Nothing),
                    (&["sh", "-c", "sha256sum; exit 3"], Input::Noise(BYTES)),
                ] {
                    let begun = Instant::now();
                    let left = client.run(&["-i"], words, input);
                    let took = begun.elapsed();
                    assert_eq!(left.status.code(), Some(3), "{}: {left:?}", client.name);
                    assert!(took >= TAKES, "{}: {words:?}: {took:?}", client.name);
                    match input {
                        Input::Noise(bytes) => {
                            let digest = format!("{}  -\n", noise_digest(bytes));
                            assert_eq!(left.stdout, digest.as_bytes(), "{}", client.name);
                        }
                        _ => assert_eq!(left.bytes, BYTES, "{}", client.name),
                    }
                }
            });
        }
    });
}

/// It has no end, and says why.
fn is_lost(client: &Client, child: Child, why: &str) {
    let Left { status, stderr, .. } = left(child, Input::Nothing, false).unwrap();
    let is_ours = client.name.starts_with("bowline");
    let (expected, words) = if is_ours { (255, "outcome is unknown") } else { (1, "error: ") };
    assert_eq!(status.code(), Some(expected), "{}: {stderr}", client.name);
    let says = stderr.contains(words) && stderr.contains(why);
    assert!(says, "{}: {stderr}", client.name);
}

/// Runs something with each client at once, for as long as `script` has input.
fn each(kubeconfig: &str, script: &str, judge: impl Fn(&Client, Child) + Sync) {
    thread::scope(|scope| {
        for client in clients(kubeconfig, "box") {
            let judge = &judge;
            scope.spawn(move || {
                let (mut child, line) = client.begin(&["-i"], script);
                assert_eq!(line, "begun", "{}", client.name);
                // Its input does not end before it does.
                let _input = child.stdin.take();
                judge(&client, child);
            });
        }
    });
}

#[test]
fn a_session_that_is_old_is_lost_and_says_so() {
    let cluster = Cluster::shared();
    let front = Front::of(&cluster, &["--max-session-age=4s"]);
    // However much it does.
    each(&front.through, "echo begun; while sleep 0.2; do echo more; done", |client, child| {
        is_lost(client, child, "the session has reached its age of 4 s");
    });
    for age in ["1.20", "1.37"] {
        let client = kubectl(age, &front.through, &["box"]).forwarding();
        let mut forward = Forward::start_words(&client, &[":80"]);
        until("a port-forward that is old ends", PATIENCE, || forward.has_ended().is_some());
        // An old kubectl ends with 0 all the same.
        forward.says("lost connection to pod");
    }
    until("the log has the end of each", PATIENCE, || {
        front.gateway.log().matches("the session has reached its age of 4 s").count() == 6
    });
}

#[test]
fn a_session_in_which_nothing_passes_is_lost_and_says_so() {
    let cluster = Cluster::shared();
    // Pings pass, and do not count.
    let front = Front::of(&cluster, &["--idle-timeout=4s", "--ping-interval=500ms"]);
    each(&front.through, "echo begun; cat", |client, child| {
        is_lost(client, child, "the session was idle for 4 s");
    });
    let busy = "echo begun; for n in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; echo $n; done; exit 3";
    each(&front.through, busy, |client, child| {
        let left = left(child, Input::Nothing, true).unwrap();
        assert_eq!(left.status.code(), Some(3), "{}: {left:?}", client.name);
    });
}

#[test]
fn a_client_that_does_not_even_answer_pings_is_lost_and_one_that_does_is_not() {
    let cluster = Cluster::shared();
    let front = Front::of(&cluster, &["--silence-timeout=6s", "--ping-interval=500ms"]);
    let why = "the client sent nothing for 6 s";
    let ours = ours(&front.through, &["box"]);
    let begin = |client: &Client| {
        let (child, line) = client.begin(&["-i"], "echo begun; cat; exit 3");
        assert_eq!(line, "begun", "{}", client.name);
        child
    };
    let [.., websocket] = clients(&front.through, "box");
    let present = [begin(&websocket), begin(&kubectl("1.37", &front.through, &["box"]))];
    let mut stopped = begin(&ours);
    let id = Pid::from_child(&stopped);
    kill_process(id, Signal::STOP).unwrap();
    until("who is silent is lost", PATIENCE, || front.gateway.log().contains(why));
    kill_process(id, Signal::CONT).unwrap();
    let _input = stopped.stdin.take();
    is_lost(&ours, stopped, why);
    for child in present {
        let left = left(child, Input::Bytes(b"here"), true).unwrap();
        let found = (left.status.code(), &*left.stdout);
        assert_eq!(found, (Some(3), &b"here"[..]), "{left:?}");
    }
    assert_eq!(front.gateway.log().matches(why).count(), 1, "{}", front.gateway.log());
}
