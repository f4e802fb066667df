//! The runtimes' own conformance tests, critest, at an endpoint of the container runtime interface.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use bowline_interop::cluster::{Cluster, RUNTIME_ALONE, our_face};
use serde_json::Value;

use crate::legs::{FORWARD_SPDY, Legs, SPDY, TUNNEL, V5};
use crate::parts::{bowline, part};

/// What became of each spec, by its whole name.
pub type Results = BTreeMap<String, Outcome>;

/// What became of one.
#[derive(Debug)]
pub struct Outcome {
    /// `passed`, `failed` or `skipped`.
    state: String,
    /// Why it is so, where, and what the spec wrote until then.
    why: String,
}

/// How many there are, with those that are skipped here.
const SPECS: usize = 142;
/// How many fail here at the runtime alone: a digest that nothing can have, a host's port, and
/// masked paths.
const FAILING: usize = 3;
/// The specs about exec, attach and port-forward.
pub const STREAMING: &str = "Streaming";
/// All but the benchmarks, which critest leaves out by itself.
pub const ALL: &str = "";
/// What containerd says where it has let go of a container that it is asked to stop.
const LET_GO: &str = "ttrpc: closed";
/// Makes critest ask for WebSocket v5 and for the tunnel.
pub const OVER_WEBSOCKET: [&str; 3] =
    ["--websocket-exec", "--websocket-attach", "--websocket-portforward"];

/// Runs the specs whose names have `focus` in them; the other ones count as skipped.
pub fn run(cluster: &Cluster, endpoint: &str, focus: &str, flags: &[&str]) -> Results {
    let report = cluster.path("critest.json");
    // From the inside, since the runtime has to see what the specs mount.
    let mut critest = cluster.enter(part("bin/critest"));
    critest.arg(format!("--runtime-endpoint={endpoint}")).arg("--ginkgo.no-color");
    critest.arg(format!("--ginkgo.json-report={}", report.display()));
    // The same order each time.
    critest.args(["--ginkgo.seed=1", &format!("--ginkgo.focus={focus}")]).args(flags);
    let output = critest.output().unwrap();
    let text = std::fs::read(&report).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stdout));
    });
    std::fs::remove_file(&report).unwrap();
    results(&serde_json::from_slice(&text).unwrap())
}

/// Reads ginkgo's report.
fn results(report: &Value) -> Results {
    let suites = report.as_array().unwrap().iter();
    let reports = suites.flat_map(|suite| suite["SpecReports"].as_array().unwrap());
    let specs = reports.filter(|report| report["LeafNodeType"] == "It");
    specs.map(|spec| (name(spec), outcome(spec))).collect()
}

fn outcome(spec: &Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (failure, wrote) = (&spec["Failure"], text(&spec["CapturedGinkgoWriterOutput"]));
    let (file, line) = (&failure["Location"]["FileName"], &failure["Location"]["LineNumber"]);
    let message = text(&failure["Message"]);
    // containerd lets go of a container that has just ended while it is asked to stop it, and then
    // fails. By then the spec itself has passed.
    let is_behind = failure["FailureNodeType"] == "AfterEach" && message.contains(LET_GO);
    let state = if is_behind { "passed" } else { spec["State"].as_str().unwrap() };
    Outcome { state: state.to_owned(), why: format!("{message} ({file}:{line})\n{wrote}") }
}

fn name(spec: &Value) -> String {
    let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let names = containers.chain([&spec["LeafNodeText"]]);
    names.map(|name| name.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

/// How many specs have come out so.
pub fn count(results: &Results, state: &str) -> usize {
    results.values().filter(|one| one.state == state).count()
}

/// Those that failed, and why.
pub fn failed(results: &Results) -> String {
    let failed = results.iter().filter(|(_, one)| one.state == "failed");
    failed.map(|(name, one)| format!("{name}: {}\n", one.why)).collect()
}

/// What listens on a port of this host's that critest has chosen. It is among the specs of streams.
const NOT_AT_ONCE: [&str; 1] = ["--ginkgo.skip=support portforward"];

/// All specs at two endpoints, each in a cluster of its own, side by side: what differs in each of
/// two rounds is different. A spec that waits for a busy machine fails once.
fn must_agree(straight: (&Cluster, &str), through: (&Cluster, &str)) {
    let both = |focus: &str| {
        thread::scope(|scope| {
            let [straight, through] = [straight, through]
                .map(|(cluster, at)| scope.spawn(move || run(cluster, at, focus, &NOT_AT_ONCE)));
            (straight.join().unwrap(), through.join().unwrap())
        })
    };
    let (all, seen) = both(ALL);
    for results in [&all, &seen] {
        assert_eq!(results.len(), SPECS, "{:#?}", results.keys());
    }
    // Those that fail here by themselves compare nothing.
    let compared = SPECS - count(&all, "skipped") - FAILING;
    assert!(count(&all, "passed") >= compared, "of the runtime alone: {}", failed(&all));
    let differ = differing(&all, &seen);
    if differ.is_empty() {
        return;
    }
    println!("once: {differ:#?}");
    let (all, seen) = both(&differ.iter().map(|name| escaped(name)).collect::<Vec<_>>().join("|"));
    let differ = differing(&all, &seen);
    assert!(differ.is_empty(), "twice: {differ:#?}\n{}{}", failed(&all), failed(&seen));
}

fn differing(straight: &Results, through: &Results) -> Vec<String> {
    let names = straight.keys().chain(through.keys()).collect::<BTreeSet<_>>();
    let state = |results: &Results, name: &str| results.get(name).map(|one| one.state.clone());
    let differ = names.into_iter().filter(|name| state(straight, name) != state(through, name));
    differ.cloned().collect()
}

/// A name as a regular expression.
fn escaped(name: &str) -> String {
    let special = |one: char| ".+*?()|[]{}^$\\".contains(one);
    name.chars().flat_map(|one| special(one).then_some('\\').into_iter().chain([one])).collect()
}

#[test]
fn containerd_alone_streams_over_spdy_and_knows_no_websocket_v5() {
    let cluster = Cluster::up(&[RUNTIME_ALONE]);
    let over_spdy = run(&cluster, &cluster.containerd(), STREAMING, &[]);
    assert_eq!(count(&over_spdy, "passed"), 5, "{}", failed(&over_spdy));
    // Those about ports would wait two minutes for what never comes.
    let others = "Streaming.*(exec|attach)";
    let over_websocket = run(&cluster, &cluster.containerd(), others, &OVER_WEBSOCKET);
    assert_eq!(count(&over_websocket, "failed"), 3, "{over_websocket:#?}");
}

/// Through our socket every spec comes out as straight, and those of streams pass over WebSocket v5
/// as well.
pub fn through_our_face() {
    let straight = Cluster::up(&[RUNTIME_ALONE]);
    let ours = Cluster::behind(&our_face(&bowline(), "-v=2"), &[RUNTIME_ALONE]);
    let face = ours.env("RUNTIME_ENDPOINT").to_owned();
    let legs = Legs::of(&ours, None);
    for (flags, ways) in [(&[][..], [SPDY, FORWARD_SPDY]), (&OVER_WEBSOCKET, [V5, TUNNEL])] {
        let streamed = legs.come_as_any(&ways, "critest", || run(&ours, &face, STREAMING, flags));
        assert_eq!(count(&streamed, "passed"), 5, "{flags:?}: {}", failed(&streamed));
    }
    must_agree((&straight, &straight.containerd()), (&ours, &face));
}
