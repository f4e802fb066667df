//! Sessions that are kept in a real cluster, by a program in the container, by our socket before
//! containerd, and by our node in the kubelet's place: while everything between their ends is
//! struck, under clients that follow each other, on terminals, and to their ends.

use std::thread;

use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::kept_screen::{self, Leaves, Program};

use crate::cri::{face, in_the_kubelets_place};
use crate::kept_job::Keeper;
use crate::kept_strikes::{Way, run};
use crate::parts::ours;
use crate::{kept_copies, kept_ends, kept_many, kept_resumed};

/// A node takes kept sessions over WebSocket alone.
const OVER_WEBSOCKET: [(&str, bool); 2] = [(PODS[0], false), (PODS[1], false)];

#[test]
fn a_job_outlives_all_that_is_struck_in_any_cluster() {
    let clients = [(PODS[0], false), (PODS[1], true)];
    run(&Cluster::up(&[]), &Way { keeper: Keeper::Program, clients, has_kubelet: true });
}

#[test]
fn a_job_outlives_all_that_is_struck_before_our_socket() {
    let way = Way { keeper: Keeper::Node, clients: OVER_WEBSOCKET, has_kubelet: true };
    run(&Cluster::behind(&face(""), &[]), &way);
}

#[test]
fn a_job_outlives_all_that_is_struck_before_our_node() {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    run(&cluster, &Way { keeper: Keeper::Node, clients: OVER_WEBSOCKET, has_kubelet: false });
    drop(node);
}

/// In both pods.
fn are_resumed(cluster: &Cluster, keeper: Keeper) {
    thread::scope(|scope| {
        for pod in PODS {
            scope.spawn(move || {
                kept_resumed::check(cluster, keeper, pod);
                kept_resumed::is_gone_in_time(cluster, keeper, pod);
            });
        }
    });
}

#[test]
fn killed_clients_are_followed_by_others_in_any_cluster() {
    are_resumed(&Cluster::shared(), Keeper::Program);
}

#[test]
fn killed_clients_are_followed_by_others_before_our_socket() {
    are_resumed(&Cluster::behind(&face(""), &[]), Keeper::Node);
}

#[test]
fn killed_clients_are_followed_by_others_before_our_node() {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    are_resumed(&cluster, Keeper::Node);
    drop(node);
}

/// Programs with a terminal, in the pods that have them, and how their clients go.
const TERMINALS: [(&str, Program, &[Leaves]); 7] = [
    (PODS[0], kept_screen::FULL_SCREEN, &[Leaves::Killed, Leaves::Lost]),
    (PODS[0], kept_screen::VI, &[Leaves::ByKeys]),
    (PODS[0], kept_screen::LESS_OF_BUSYBOX, &[Leaves::Killed, Leaves::Lost]),
    (PODS[0], kept_screen::SHELL, &[Leaves::ByKeys]),
    (PODS[1], kept_screen::FULL_SCREEN, &[Leaves::ByKeys]),
    (PODS[1], kept_screen::LESS, &[Leaves::ByKeys]),
    (PODS[1], kept_screen::BASH, &[Leaves::Killed, Leaves::Lost]),
];

/// Where the machine is busy, it may still write for its old size when its client resumes: then it
/// has to be asked to write its screen once more. So it is tried with the long runs.
const EDITOR: (&str, Program, &[Leaves]) =
    (PODS[1], kept_screen::VIM_TINY, &[Leaves::Killed, Leaves::Lost]);

fn terminals_are_right(cluster: &Cluster, keeper: Keeper) {
    let editor = std::env::var_os("BOWLINE_KEPT_ROUNDS").is_some().then_some(&EDITOR);
    thread::scope(|scope| {
        for pod in PODS {
            let client = keeper.client(&ours(&cluster.admin(), &[pod]).named(pod));
            scope.spawn(move || kept_screen::is_asked_once(&client));
        }
        for (pod, program, leaves) in TERMINALS.iter().chain(editor) {
            let client = keeper.client(&ours(&cluster.admin(), &[pod]).named(pod));
            scope.spawn(move || kept_screen::check(&client, &cluster.address(), program, leaves));
        }
    });
}

#[test]
fn resumed_terminals_show_what_others_show_in_any_cluster() {
    terminals_are_right(&Cluster::shared(), Keeper::Program);
}

#[test]
fn resumed_terminals_show_what_others_show_before_our_node() {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    terminals_are_right(&cluster, Keeper::Node);
    drop(node);
}

#[test]
fn copies_outlive_their_connections_in_any_cluster() {
    kept_copies::check(&Cluster::shared(), Keeper::Program);
}

#[test]
fn copies_outlive_their_connections_before_our_node() {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    kept_copies::check(&cluster, Keeper::Node);
    drop(node);
}

#[test]
fn many_jobs_outlive_the_api_server_in_any_cluster() {
    kept_many::check(&Cluster::up(&[]), Keeper::Program);
}

#[test]
fn many_jobs_outlive_the_api_server_before_our_socket() {
    kept_many::check(&Cluster::behind(&face(""), &[]), Keeper::Node);
}

#[test]
fn many_jobs_outlive_the_api_server_before_our_node() {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    kept_many::check(&cluster, Keeper::Node);
    drop(node);
}

#[test]
fn what_ends_sessions_is_said_in_any_cluster() {
    kept_ends::check(&Cluster::up(&[]), kept_ends::Way::Kubelet);
}

#[test]
fn what_ends_sessions_is_said_before_our_socket() {
    kept_ends::check(&Cluster::behind(&face(""), &[]), kept_ends::Way::Face);
}

#[test]
fn what_ends_sessions_is_said_before_our_node() {
    kept_ends::check(&Cluster::up(&[]), kept_ends::Way::Node);
}
