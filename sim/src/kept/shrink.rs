//! A scenario that breaks a promise to a smaller one that breaks the same.

use std::time::Duration;

use super::run;
use super::scenario::{Act, Scenario, When};
use crate::promises::Promise;
use crate::shrink::changed;

/// Makes a scenario that breaks `promise` as small as it can, within `runs` runs.
#[must_use]
pub fn shrink(scenario: &Scenario, promise: Promise, mut runs: usize) -> Scenario {
    let mut best = scenario.clone();
    let breaks = |candidate: &Scenario| {
        run(candidate, false).broken.is_some_and(|broken| broken.promise == promise)
    };
    loop {
        let candidates = smaller(&best);
        runs = runs.saturating_sub(candidates.len());
        match candidates.into_iter().find(breaks) {
            Some(better) if runs > 0 => best = better,
            _ => return best,
        }
    }
}

/// Scenarios that leave something out.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Scenario)| all.extend(changed(scenario, change));
    for index in 0..scenario.turns.len() {
        with(&|it| _ = it.turns.remove(index));
    }
    for index in 0..scenario.acts.len() {
        with(&|it| _ = it.acts.remove(index));
    }
    with(&|it| it.tty = false);
    with(&|it| it.code = 0);
    with(&|it| it.results = 0);
    with(&|it| it.pipe_bytes = 65_536);
    with(&|it| it.replay_bytes = 1 << 20);
    with(&|it| it.reads = (1 << 20, Duration::ZERO));
    with(&|it| it.wire.delay = Duration::ZERO);
    with(&|it| it.wire.piece_bytes = 100_000);
    with(&|it| it.wire.held_bytes = 400_000);
    for index in 0..2 {
        with(&|it| it.typed[index] = 0);
        with(&|it| it.typed[index] /= 2);
    }
    for index in 0..scenario.acts.len() {
        with(&|it| match &mut it.acts[index] {
            Act::Write(_, bytes) | Act::Read(bytes) => *bytes = (*bytes / 2).max(1),
            Act::Sleep(pause) => *pause /= 2,
            Act::Close(_) => {}
        });
    }
    for index in 0..scenario.turns.len() {
        with(&|it| match &mut it.turns[index].0 {
            When::Step(step) => *step /= 2,
            When::At(after) => *after /= 2,
        });
    }
    all
}
