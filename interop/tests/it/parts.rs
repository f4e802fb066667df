//! Where the real parts are, and the programs of ours that stand beside them.

use std::path::PathBuf;

use bowline_interop::client::Client;
use bowline_interop::cluster::PODS;
use bowline_interop::list::{Amounts, FULL};
pub use bowline_interop::parts::part;
use bowline_interop::parts::root;

/// The kubectls, oldest first: SPDY alone, then WebSocket in three ages.
pub const KUBECTLS: [&str; 4] = ["1.20", "1.32", "1.36", "1.37"];

/// The program itself, as `cargo x interop` builds it.
pub fn bowline() -> PathBuf {
    let path = root().join("target/debug/bowline");
    assert!(path.exists(), "{} is missing: run cargo build", path.display());
    path
}

/// An example of `bowline-io`, as `cargo x interop` builds it.
pub fn example(name: &str) -> PathBuf {
    let path = root().join("target/debug/examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build -p bowline-io --examples", path.display());
    path
}

/// A kubectl of this age, for a pod.
pub fn kubectl(version: &str, kubeconfig: &str, target: &[&str]) -> Client {
    let program = part(&format!("kubectl/{version}/kubectl"));
    Client::new(&format!("kubectl {version}"), program, kubeconfig, target)
}

/// Bowline as a client, for a pod.
pub fn ours(kubeconfig: &str, target: &[&str]) -> Client {
    Client::new("bowline", bowline(), kubeconfig, target)
}

/// Each pod of a real cluster, with how much is transferred: what runs in the second one differs in
/// its tools alone, so that once is enough there.
pub fn pods() -> [(&'static str, Amounts); 2] {
    let few = Amounts { times: 1, truncations: 5, ..amounts() };
    [(PODS[0], amounts()), (PODS[1], few)]
}

/// How much is transferred: all of the list's bytes, but `BOWLINE_TIMES` times (3 where it is not
/// set; 20 is the whole list) to stay within the patience of a CI run.
pub fn amounts() -> Amounts {
    let times = std::env::var("BOWLINE_TIMES").ok();
    let times = times.map_or(3, |text| text.parse().expect("BOWLINE_TIMES is a number"));
    let truncations = FULL.truncations * times / FULL.times;
    Amounts { times, truncations: truncations.max(5), ..FULL }
}
