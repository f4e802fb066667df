//! A scenario that breaks a promise to a smaller one that breaks the same.

use std::time::Duration;

use bowline_proto::session::protocol::{SPDY_V4, WEBSOCKET_V5};

use crate::promises::Promise;
use crate::scenario::{Act, Runtime, Scenario, When, Wire};
use crate::world::run;

/// Makes a scenario that breaks `promise` as small as it can, within `runs` runs.
#[must_use]
pub fn shrink(scenario: &Scenario, promise: Promise, mut runs: usize) -> Scenario {
    let mut best = scenario.clone();
    let mut steps = run(&best, false).steps;
    loop {
        let mut better = false;
        for candidate in smaller(&best) {
            if runs == 0 {
                return best;
            }
            runs -= 1;
            let verdict = run(&candidate, false);
            let same = verdict.broken.is_some_and(|broken| broken.promise == promise);
            // Simpler is better even where it is not shorter, but it must not grow.
            if same && verdict.steps <= steps && candidate != best {
                (best, steps, better) = (candidate, verdict.steps, true);
                break;
            }
        }
        if !better {
            return best;
        }
    }
}

/// A scenario with this change, if it is one.
pub(crate) fn changed<S: Clone + PartialEq>(scenario: &S, change: &dyn Fn(&mut S)) -> Option<S> {
    let mut candidate = scenario.clone();
    change(&mut candidate);
    (candidate != *scenario).then_some(candidate)
}

/// Scenarios that leave something out.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Scenario)| all.extend(changed(scenario, change));
    for index in 0..scenario.faults.len() {
        with(&|it| _ = it.faults.remove(index));
    }
    for index in 0..scenario.script.acts.len() {
        with(&|it| _ = it.script.acts.remove(index));
    }
    with(&|it| it.script.child = None);
    with(&|it| it.runtime = Runtime::Sound);
    with(&|it| it.input.pauses.clear());
    with(&|it| it.reader.pauses = [vec![], vec![]]);
    with(&|it| it.sizes.clear());
    for index in 0..2 {
        with(&|it| it.wires[index] = plain());
        with(&|it| it.wires[index].pauses_percent = 0);
        with(&|it| it.wires[index].jitter = Duration::ZERO);
        with(&|it| it.wires[index].delay = Duration::ZERO);
        with(&|it| it.wires[index].piece_bytes = 1 << 20);
        with(&|it| it.wires[index].buffer_bytes = 1 << 20);
        with(&|it| it.wires[index].reset_destroys = false);
    }
    with(&|it| it.script.pipe_bytes = 65_536);
    with(&|it| it.script.code = 0);
    with(&|it| it.front = &WEBSOCKET_V5);
    with(&|it| it.front = &SPDY_V4);
    with(&|it| it.back = &WEBSOCKET_V5);
    with(&|it| it.back = &SPDY_V4);
    with(&|it| it.input.piece_bytes = 1 << 20);
    with(&|it| it.reader.piece_bytes = 1 << 20);
    if !reads(scenario) {
        for bytes in [0, scenario.input.bytes / 2] {
            with(&|it| it.input.bytes = bytes);
        }
    }
    for index in 0..scenario.script.acts.len() {
        with(&|it| halve(&mut it.script.acts[index]));
    }
    for index in 0..scenario.faults.len() {
        with(&|it| {
            it.faults[index].when = match it.faults[index].when {
                When::Step(step) => When::Step(step / 2),
                When::At(after) => When::At(after / 2),
            }
        });
    }
    all
}

/// Whether the process would wait for input that is left out.
fn reads(scenario: &Scenario) -> bool {
    scenario.script.acts.iter().any(|act| matches!(act, Act::Read(_)))
}

fn halve(act: &mut Act) {
    match act {
        Act::Out(bytes) | Act::Err(bytes) | Act::Read(bytes) => *bytes /= 2,
        Act::Sleep(pause) => *pause /= 2,
        _ => {}
    }
}

fn plain() -> Wire {
    Wire {
        piece_bytes: 1 << 20,
        buffer_bytes: 1 << 20,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        pauses_percent: 0,
        reset_destroys: false,
    }
}
