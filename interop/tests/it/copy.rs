//! Copies: every kubectl against `bowline dev`, and `bowline cp` there and in a real cluster, whose
//! containers have busybox in the place of GNU's tools.

use bowline_interop::client::Client;
use bowline_interop::cluster::Cluster;
use bowline_interop::copy::{keeps_all, keeps_much, there_and_back};
use bowline_interop::server::Server;

use crate::parts::{KUBECTLS, bowline, kubectl, ours};

/// How much is copied at once: 64 MiB and 6,250 files, unless `BOWLINE_BULK_MIB` says otherwise
/// (1024 is a GiB, and 100,000 files).
fn bulk_mib() -> u64 {
    let mib = std::env::var("BOWLINE_BULK_MIB").ok();
    mib.map_or(64, |text| text.parse().expect("BOWLINE_BULK_MIB is a number"))
}

fn check(client: &Client, pod: &str) {
    let begun = std::time::Instant::now();
    there_and_back(client, pod);
    keeps_all(client, pod);
    keeps_much(client, pod, bulk_mib(), bulk_mib() as usize * 100_000 / 1024);
    println!("{}: {:.1} s", client.name, begun.elapsed().as_secs_f64());
}

#[test]
fn every_client_against_dev() {
    let dev = Server::dev(&bowline(), &[]);
    for version in KUBECTLS {
        there_and_back(&kubectl(version, &dev.kubeconfig(), &["nginx"]), "nginx");
    }
    check(&ours(&dev.kubeconfig(), &["nginx"]), "nginx");
    there_and_back(&ours(&dev.kubeconfig(), &["nginx"]).over_spdy(), "nginx");
}

#[test]
fn our_client_in_a_real_cluster() {
    let cluster = Cluster::up(&[]);
    let client = ours(&cluster.admin(), &["box"]);
    check(&client, "box");
    there_and_back(&client.over_spdy(), "box");
}
