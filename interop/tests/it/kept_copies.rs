//! Copies whose commands are kept, in a real cluster: over connections that are cut, and with
//! clients that are stopped or killed.

use std::process::Child;

use bowline_interop::client::{Client, Input, PATIENCE};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::copy::{Place, over_cut_connections};
use bowline_interop::server::until;
use rustix::process::{Pid, Signal, kill_process};

use crate::kept_job::Keeper;
use crate::parts::ours;

/// In both pods, whose tools differ.
pub fn check(cluster: &Cluster, keeper: Keeper) {
    let program = keeper.flag();
    let flags: Vec<&str> = ["--keep"].into_iter().chain(program.as_deref()).collect();
    for pod in PODS {
        let client = ours(&cluster.admin(), &[pod]).named(pod);
        over_cut_connections(&client, pod, &cluster.address(), &flags, |_, _| ());
        if keeper == Keeper::Program {
            over_cut_connections(&client.over_spdy(), pod, &cluster.address(), &flags, |_, _| ());
        }
        // What is told at once, and what ends in time.
        ends(&client, pod, &[&flags[..], &["--keep-for=1h"]].concat(), Signal::INT);
        ends(&client, pod, &[&flags[..], &["--keep-for=3s"]].concat(), Signal::KILL);
    }
}

/// A client that is sent a signal while a tar in the pod runs that would for long.
fn ends(client: &Client, pod: &str, flags: &[&str], signal: Signal) {
    let place = Place::new(client, pod);
    let path = place.path_there("large");
    let made = client.run(&[], &["truncate", "-s", "100G", &path], Input::Nothing);
    assert!(made.status.success(), "{made:?}");
    // One that is dead may not be buried yet.
    let count = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c '(tar) [^Z]'";
    let runs = || {
        let left = client.run(&[], &["sh", "-c", count], Input::Nothing);
        String::from_utf8_lossy(&left.stdout).trim() != "0"
    };
    assert!(!runs(), "{pod}");
    let (source, target) = (place.there("large"), place.text("copy"));
    let words = [&[&*source, &*target], flags].concat();
    let left = client.copy_while(&words, |process: &Child| {
        until(&format!("{pod}: tar runs"), PATIENCE, runs);
        kill_process(Pid::from_child(process), signal).unwrap();
        until(&format!("{pod}: tar is gone"), PATIENCE, || !runs());
    });
    assert_eq!(left.status.code(), None, "{pod}: {left:?}");
    let remove = ["rm", "-rf", &place.path_there("")];
    assert!(client.run(&[], &remove, Input::Nothing).status.success());
}
