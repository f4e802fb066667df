//! Sessions and execs of one container, in any order, to the processes that are known.

use super::*;
use crate::cri::hangup::row::SESSIONS;
use crate::procfs::Process;

const CONTAINER: &str = "c";

/// One container, in which time passes.
struct Scene {
    starts: Starts,
    now: Instant,
}

impl Scene {
    fn new() -> Scene {
        Scene { starts: Starts::default(), now: Instant::now() }
    }

    fn ask(&mut self, words: &[&str]) -> u64 {
        let words = words.iter().copied().map(str::to_owned).collect();
        self.starts.ask(CONTAINER, Asked { words, tty: false }, None, self.now)
    }

    fn add(&mut self, pid: i32) {
        self.starts.added(CONTAINER, &pid.to_string(), self.now);
    }

    fn start(&mut self, pid: i32, words: &[&str]) {
        assert!(self.starts.is_wanted(CONTAINER, &pid.to_string()));
        let words = words.iter().copied().map(str::to_owned).collect();
        let seen = Seen { process: process(pid), has_terminal: false, words };
        self.starts.started(CONTAINER, &pid.to_string(), Some(&seen));
    }

    fn run(&mut self, pid: i32, words: &[&str]) {
        self.add(pid);
        self.start(pid, words);
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn verdict(&self, session: u64) -> Verdict {
        self.starts.verdict(CONTAINER, session, false, self.now)
    }

    #[track_caller]
    fn assert_known(&mut self, expected: &[(u64, i32)]) {
        self.pass(300);
        for (session, pid) in expected {
            assert_eq!(self.verdict(*session), Verdict::Process(process(*pid)), "{session}");
        }
    }

    #[track_caller]
    fn assert_unknown(&mut self, sessions: &[u64]) {
        self.pass(300);
        for session in sessions {
            let verdict = self.verdict(*session);
            assert!(matches!(verdict, Verdict::Unknown(_)), "{session}: {verdict:?}");
        }
    }
}

fn process(pid: i32) -> Process {
    Process { pid, started_ticks: 7 }
}

const SLEEP: &[&str] = &["sleep", "1000"];
const SHELL: &[&str] = &["sh", "-c", "exec sleep 1000"];
const PROBE: &[&str] = &["cat", "/healthz"];

#[test]
fn sessions_get_their_processes_in_turn() {
    let mut scene = Scene::new();
    let mut sessions = Vec::new();
    for pid in 1..=100 {
        let session = scene.ask(if pid % 2 == 0 { SLEEP } else { SHELL });
        scene.add(pid);
        sessions.push((session, pid));
        scene.pass(5);
    }
    for (_, pid) in &sessions {
        scene.start(*pid, SLEEP);
    }
    scene.assert_known(&sessions);
    for (session, _) in &sessions {
        scene.starts.leave(CONTAINER, *session);
    }
    assert!(scene.starts.containers.is_empty());
}

#[test]
fn what_others_started_before_and_later_is_theirs() {
    let mut scene = Scene::new();
    scene.add(1);
    let session = scene.ask(SHELL);
    scene.pass(10);
    scene.run(2, SLEEP);
    scene.pass(2100);
    for probe in 3..50 {
        scene.add(probe);
        assert!(!scene.starts.is_wanted(CONTAINER, &probe.to_string()));
    }
    scene.assert_known(&[(session, 2)]);
}

#[test]
fn a_probe_in_between_is_told_by_its_words() {
    let mut scene = Scene::new();
    let first = scene.ask(SLEEP);
    scene.run(1, PROBE);
    let second = scene.ask(SLEEP);
    scene.run(2, SLEEP);
    let third = scene.ask(&["sh"]);
    scene.run(3, SLEEP);
    // The third's comes while nobody waits for one.
    scene.run(4, &["sh"]);
    scene.assert_known(&[(third, 4)]);
    // The first's may have been overtaken by the second's.
    scene.assert_unknown(&[first, second]);
    // A moment at which nothing is on its way ends the doubt.
    let fourth = scene.ask(SLEEP);
    scene.run(5, SLEEP);
    scene.assert_known(&[(third, 4), (fourth, 5)]);
}

#[test]
fn a_single_session_is_known_beside_a_probe() {
    for early in [true, false] {
        let mut scene = Scene::new();
        let session = scene.ask(SLEEP);
        scene.run(1, if early { PROBE } else { SLEEP });
        scene.run(2, if early { SLEEP } else { PROBE });
        scene.assert_known(&[(session, if early { 2 } else { 1 })]);
    }
}

#[test]
fn nothing_is_said_while_something_may_be_on_its_way() {
    let mut scene = Scene::new();
    let first = scene.ask(SLEEP);
    scene.run(1, SLEEP);
    assert_eq!(scene.verdict(first), Verdict::Waiting);
    scene.pass(240);
    let second = scene.ask(SLEEP);
    scene.pass(300);
    assert_eq!(scene.verdict(first), Verdict::Waiting);
    // Who cannot wait has it, since nothing speaks against it.
    let urgent = |scene: &Scene, session| scene.starts.verdict(CONTAINER, session, true, scene.now);
    assert_eq!(urgent(&scene, first), Verdict::Process(process(1)));
    scene.run(2, PROBE);
    assert_eq!(urgent(&scene, first), Verdict::Waiting);
    assert_eq!(urgent(&scene, second), Verdict::Waiting);
    scene.run(3, SLEEP);
    scene.assert_known(&[(first, 1), (second, 3)]);
}

#[test]
fn after_a_probe_a_process_with_other_words_is_left() {
    let mut scene = Scene::new();
    let session = scene.ask(SHELL);
    scene.run(1, PROBE);
    scene.assert_unknown(&[session]);
    scene.run(2, SLEEP);
    scene.assert_unknown(&[session]);
}

#[test]
fn the_same_command_of_another_is_never_taken() {
    for early in [true, false] {
        let mut scene = Scene::new();
        let session = scene.ask(SHELL);
        scene.add(1);
        scene.add(2);
        let (own, other) = if early { (2, 1) } else { (1, 2) };
        scene.start(own, SLEEP);
        scene.start(other, SLEEP);
        scene.assert_unknown(&[session]);
    }
}

#[test]
fn of_two_who_ask_at_once_only_words_tell() {
    let mut scene = Scene::new();
    let (sleep, shell) = (scene.ask(SLEEP), scene.ask(&["sh"]));
    scene.add(1);
    scene.add(2);
    assert_eq!(scene.verdict(sleep), Verdict::Waiting);
    scene.start(1, &["sh"]);
    assert_eq!(scene.verdict(sleep), Verdict::Waiting);
    scene.start(2, SLEEP);
    scene.assert_known(&[(sleep, 2), (shell, 1)]);
    let mut scene = Scene::new();
    let alike = [scene.ask(SLEEP), scene.ask(SLEEP)];
    scene.run(1, SLEEP);
    scene.run(2, SLEEP);
    scene.assert_unknown(&alike);
}

#[test]
fn a_session_that_failed_before_its_start_takes_nothing() {
    let mut scene = Scene::new();
    let failed = scene.ask(SLEEP);
    scene.starts.leave(CONTAINER, failed);
    let session = scene.ask(SLEEP);
    scene.run(1, SLEEP);
    scene.assert_known(&[(session, 1)]);
    // One whose command cannot be started has an exec, and no process.
    let failed = scene.ask(&["nothing"]);
    scene.add(2);
    scene.starts.leave(CONTAINER, failed);
    let next = scene.ask(SLEEP);
    scene.run(3, SLEEP);
    scene.assert_known(&[(session, 1), (next, 3)]);
}

#[test]
fn a_session_that_is_never_started_does_not_hold_up_others() {
    let mut scene = Scene::new();
    let slow = scene.ask(SLEEP);
    scene.pass(6000);
    scene.assert_unknown(&[slow]);
    let session = scene.ask(SLEEP);
    scene.run(1, SLEEP);
    scene.assert_known(&[(session, 1)]);
}

#[test]
fn a_lost_session_that_was_never_started_takes_nothing_of_the_next_one() {
    for is_lost in [true, false] {
        let mut scene = Scene::new();
        let stuck = scene.ask(SHELL);
        if is_lost {
            scene.starts.lost(CONTAINER, stuck);
        }
        scene.pass(600);
        let next = scene.ask(SHELL);
        scene.run(1, SHELL);
        scene.pass(300);
        for is_urgent in [true, false] {
            for session in [stuck, next] {
                let verdict = scene.starts.verdict(CONTAINER, session, is_urgent, scene.now);
                assert!(!matches!(verdict, Verdict::Process(_)), "{session}: {verdict:?}");
            }
        }
        // Nor once it is late, or when the first one has gone.
        scene.pass(6000);
        scene.assert_unknown(&[stuck, next]);
        scene.starts.leave(CONTAINER, stuck);
        scene.assert_unknown(&[next]);
    }
}

#[test]
fn after_a_lost_session_that_was_never_started_others_are_not_taken_for_each_other() {
    let mut scene = Scene::new();
    let stuck = scene.ask(SHELL);
    scene.starts.lost(CONTAINER, stuck);
    let second = scene.ask(SHELL);
    scene.run(1, SHELL);
    scene.starts.leave(CONTAINER, stuck);
    let third = scene.ask(SHELL);
    // It is the third's, which gets none.
    scene.run(2, SHELL);
    scene.pass(2100);
    let urgent = scene.starts.verdict(CONTAINER, second, true, scene.now);
    assert!(!matches!(urgent, Verdict::Process(_)), "{urgent:?}");
    scene.pass(6000);
    scene.assert_unknown(&[second, third]);
}

#[test]
fn a_lost_session_takes_nothing_that_the_runtime_was_asked_for_by_others() {
    let mut scene = Scene::new();
    let lost = scene.ask(SHELL);
    scene.starts.lost(CONTAINER, lost);
    assert_eq!(scene.verdict(lost), Verdict::Waiting);
    scene.run(1, SHELL);
    scene.assert_unknown(&[lost]);
    // One that is lost later has its own.
    scene.starts.leave(CONTAINER, lost);
    let session = scene.ask(SHELL);
    scene.run(2, SHELL);
    scene.starts.lost(CONTAINER, session);
    scene.assert_known(&[(session, 2)]);
}

#[test]
fn the_process_of_a_session_in_another_row_is_not_taken() {
    let mut scene = Scene::new();
    let stuck = scene.ask(SHELL);
    for number in 1..SESSIONS as u64 {
        let failed = scene.ask(SLEEP);
        assert_eq!(failed, number);
    }
    let other = scene.ask(SHELL);
    assert_eq!(scene.starts.containers[CONTAINER].rows.len(), 2);
    for failed in 1..SESSIONS as u64 {
        scene.starts.leave(CONTAINER, failed);
    }
    scene.run(1, SHELL);
    scene.pass(6000);
    scene.assert_unknown(&[stuck, other]);
}

#[test]
fn what_was_missed_is_unknown() {
    let mut scene = Scene::new();
    let before = scene.ask(SLEEP);
    scene.run(1, SLEEP);
    let waiting = scene.ask(SLEEP);
    scene.starts.missed(scene.now);
    scene.add(2);
    scene.assert_unknown(&[before, waiting]);
    scene.pass(3000);
    let after = scene.ask(SLEEP);
    scene.run(3, SLEEP);
    scene.assert_known(&[(after, 3)]);
}

#[test]
fn a_row_is_bounded() {
    let mut scene = Scene::new();
    let first = scene.ask(SHELL);
    scene.add(0);
    for pid in 1..3000 {
        scene.ask(&["sh", "-c", &pid.to_string()]);
        scene.add(pid);
        scene.add(-pid);
    }
    let container = &scene.starts.containers[CONTAINER];
    assert!(container.rows.len() == 3);
    assert!(container.rows.values().filter(|row| !row.is_full()).count() <= 1);
    scene.assert_unknown(&[first]);
}
