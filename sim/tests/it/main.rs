//! The committed seeds keep the promises, reach everything that there is, and can be repeated.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]

mod crowded;
mod hostile;
mod memory;
mod vanished;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bowline_proto::session::Protocol;
use bowline_proto::session::protocol::{SPDY, WEBSOCKET};
use bowline_sim::{
    Scenario, copy, copy_seeds, forward, forward_seeds, kept, kept_seeds, run, seeds,
};

#[test]
fn committed_seeds_keep_the_promises() {
    let seeds: Vec<u64> = seeds().collect();
    assert!(seeds.len() >= 500, "{} seeds", seeds.len());
    let next = AtomicUsize::new(0);
    let play = || {
        let mut broken = Vec::new();
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(how) = run(&Scenario::of(seed), false).broken {
                broken.push(format!("seed {seed}: {how}; see `cargo x sim --seed {seed}`"));
            }
        }
        broken
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let broken: Vec<String> = thread::scope(|scope| {
        let players: Vec<_> = (0..cores).map(|_| scope.spawn(play)).collect();
        players.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn committed_port_forwards_keep_the_promises() {
    let seeds: Vec<u64> = forward_seeds().collect();
    assert!(seeds.len() >= 200, "{} seeds", seeds.len());
    for (index, &seed) in seeds.iter().enumerate() {
        let scenario = forward::Scenario::of(seed);
        let verdict = forward::run(&scenario, false);
        let see = format!("see `cargo x sim --port-forward --seed {seed}`");
        assert_eq!(verdict.broken, None, "seed {seed}; {see}\n{scenario}");
        if index % 10 == 0 {
            assert_eq!(forward::run(&scenario, false), verdict, "seed {seed}; {see}");
        }
    }
    let scenarios: Vec<_> = seeds.iter().map(|&seed| forward::Scenario::of(seed)).collect();
    for (tunnel, whole) in [(false, false), (true, false), (true, true)] {
        assert!(scenarios.iter().any(|it| it.tunnel == tunnel && it.whole_tunnel == whole));
    }
}

#[test]
fn committed_copies_keep_the_promises() {
    let seeds: Vec<u64> = copy_seeds().collect();
    assert!(seeds.len() >= 200, "{} seeds", seeds.len());
    for (index, &seed) in seeds.iter().enumerate() {
        let scenario = copy::Scenario::of(seed);
        let verdict = copy::run(&scenario, false);
        let see = format!("see `cargo x sim --copy --seed {seed}`");
        assert_eq!(verdict.broken, None, "seed {seed}; {see}\n{scenario}");
        if index % 10 == 0 {
            assert_eq!(copy::run(&scenario, false), verdict, "seed {seed}; {see}");
        }
    }
}

#[test]
fn committed_kept_sessions_keep_the_promises() {
    let seeds: Vec<u64> = kept_seeds().collect();
    assert!(seeds.len() >= 400, "{} seeds", seeds.len());
    for (index, &seed) in seeds.iter().enumerate() {
        let scenario = kept::Scenario::of(seed);
        let verdict = kept::run(&scenario, false);
        let see = format!("see `cargo x sim --kept --seed {seed}`");
        assert_eq!(verdict.broken, None, "seed {seed}; {see}\n{scenario}");
        if index % 10 == 0 {
            assert_eq!(kept::run(&scenario, false), verdict, "seed {seed}; {see}");
        }
    }
    let turns: String = seeds.iter().map(|&seed| kept::Scenario::of(seed).to_string()).collect();
    for turn in ["End", "Reset)", "AtClient", "AtHost", "Stall", "Outage", "Restart", "Beside"] {
        assert!(turns.contains(turn), "no session with {turn}");
    }
    for turn in ["Kill", "Leave(Running", "Leave(HungUp", "TakeOver", "Look", "StartAgain"] {
        assert!(turns.contains(turn), "no session with {turn}");
    }
}

#[test]
fn committed_seeds_reach_every_carrier_on_both_sides_and_every_end() {
    let scenarios: Vec<Scenario> = seeds().map(Scenario::of).collect();
    let all: Vec<&Protocol> = WEBSOCKET.into_iter().chain(SPDY).collect();
    for protocol in all {
        let is = |one: &&'static Protocol| *one == protocol;
        assert!(scenarios.iter().any(|it| is(&it.front)), "{protocol:?} in front");
        assert!(scenarios.iter().any(|it| is(&it.back)), "{protocol:?} behind");
    }
    for runtime in [
        "Sound",
        "DropsStdin",
        "LateSize",
        "HidesCrash",
        "NoStatus",
        "Frozen",
        "Abrupt",
        "CutsTail",
        "Invented",
    ] {
        let is = |it: &Scenario| format!("{:?}", it.runtime).starts_with(runtime);
        assert!(scenarios.iter().any(is), "no session with {runtime}");
    }
    let ends: Vec<String> = scenarios.iter().map(|it| run(it, false).end).collect();
    for end in ["Success", "Exited", "Failed", "Cut", "Silent", "Closed", "None"] {
        assert!(ends.iter().any(|seen| seen.contains(end)), "no session ends with {end}");
    }
}

#[test]
fn a_seed_gives_the_same_trace_each_time() {
    for seed in seeds().take(60) {
        let scenario = Scenario::of(seed);
        let (first, second) = (run(&scenario, true), run(&scenario, true));
        assert_eq!(first.lines, second.lines, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
    }
}
