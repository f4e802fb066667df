//! The processes that a runtime reports for execs, to the session that each of them is for.
//!
//! No runtime says for whom it has started a process. So the sessions of one container ask one
//! after another, and the next exec that the runtime adds to it is that of the one that has asked.
//! What others start there (probes, other clients of the runtime) may come in between, and what was
//! asked for may overtake it. So order is believed only as far as it leaves no choice: a session
//! has a process if, between two moments at which nothing was on its way, one session has asked and
//! one exec was added; of all, or of those with its words. That is judged by a [`row`](super::row)
//! of sessions that follow one another closely: as far as a mistake can go on.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::row::{OTHERS, Row, SETTLED_AFTER, Verdict};
use super::words::{Asked, Seen};

/// How long an exec may take to be added after it was asked for, and to be started then. One that
/// takes longer is not waited for.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(5);
/// All sessions whose processes may have to be ended, by their containers.
#[derive(Debug, Default)]
pub(super) struct Starts {
    containers: HashMap<String, Container>,
    next: u64,
}

#[derive(Debug, Default)]
struct Container {
    /// In the order in which they have asked.
    sessions: BTreeMap<u64, Session>,
    /// By the number of their first session.
    rows: BTreeMap<u64, Row>,
}

#[derive(Debug)]
struct Session {
    row: u64,
    asked_at: Instant,
    /// The place in its row of the exec that was given to it.
    exec: Option<usize>,
    /// Its exec may have been missed.
    is_blind: bool,
    /// Its client went before an exec was given to it.
    is_lost_early: bool,
    /// Held until the runtime has added its exec.
    turn: Option<OwnedSemaphorePermit>,
}

impl Starts {
    /// Notes that a session is about to have the runtime start its exec, and returns its number.
    pub(super) fn ask(
        &mut self,
        container: &str,
        asked: Asked,
        turn: Option<OwnedSemaphorePermit>,
        now: Instant,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        let container = self.containers.entry(container.to_owned()).or_default();
        let row_number = container.row_to_join(now).unwrap_or(number);
        container.rows.entry(row_number).or_default().join(number, asked);
        let session = Session {
            row: row_number,
            asked_at: now,
            exec: None,
            is_blind: false,
            is_lost_early: false,
            turn,
        };
        container.sessions.insert(number, session);
        number
    }

    /// Notes that the client of a session is lost.
    ///
    /// Where no exec was given to it, there may never be one for it, and the next one that is added
    /// may be that of another who has asked for the same, here or of the runtime itself. So it
    /// still gets what is added, for others not to be taken for one another, but never has it.
    pub(super) fn lost(&mut self, container: &str, number: u64) {
        let container = self.containers.get_mut(container);
        let session = container.and_then(|container| container.sessions.get_mut(&number));
        if let Some(session) = session {
            session.is_lost_early = session.exec.is_none();
        }
    }

    /// Notes that the runtime has added an exec to a container.
    pub(super) fn added(&mut self, container: &str, exec: &str, now: Instant) {
        let Some(Container { sessions, rows }) = self.containers.get_mut(container) else { return };
        let mut waiting = sessions.iter_mut().filter(|(_, session)| session.is_waiting(now));
        let Some((number, session)) = waiting.next() else {
            // Where nothing is open, it is another's. Else it may be, or it was one before.
            for row in rows.values_mut().filter(|row| row.is_open(now)) {
                row.add(exec, None, now);
            }
            return;
        };
        session.turn = None;
        if let Some(row) = rows.get_mut(&session.row) {
            session.exec = row.add(exec, Some(*number), now);
            session.is_blind |= session.exec.is_none();
        }
    }

    /// Takes the turn from those of a container that have had it for so long.
    pub(super) fn pass_turns(&mut self, container: &str, held: Duration, now: Instant) {
        let Some(container) = self.containers.get_mut(container) else { return };
        for session in container.sessions.values_mut() {
            if session.asked_at + held <= now {
                session.turn = None;
            }
        }
    }

    /// Whether anybody wants to know the process of an exec.
    pub(super) fn is_wanted(&self, container: &str, exec: &str) -> bool {
        let container = self.containers.get(container);
        container.is_some_and(|container| container.rows.values().any(|row| row.has(exec)))
    }

    /// Whether a process can be what was asked for with an exec.
    pub(super) fn is_asked(&self, container: &str, exec: &str, seen: &Seen) -> bool {
        // Where nobody is any more, nobody wants to know.
        let Some(Container { rows, .. }) = self.containers.get(container) else { return true };
        rows.values().any(|row| row.is_asked(exec, seen))
    }

    /// Notes the process of an exec; `None` if it has gone.
    pub(super) fn started(&mut self, container: &str, exec: &str, seen: Option<&Seen>) {
        let Some(Container { rows, .. }) = self.containers.get_mut(container) else { return };
        rows.values_mut().for_each(|row| row.started(exec, seen));
    }

    /// Notes that execs may have been missed.
    pub(super) fn missed(&mut self, now: Instant) {
        for Container { sessions, rows } in self.containers.values_mut() {
            for session in sessions.values_mut().filter(|session| session.is_waiting(now)) {
                session.is_blind = true;
                session.turn = None;
            }
            for row in rows.values_mut().filter(|row| row.is_open(now)) {
                row.has_gap = true;
            }
        }
    }

    /// Forgets a session that has ended.
    pub(super) fn leave(&mut self, container: &str, number: u64) {
        let Some(known) = self.containers.get_mut(container) else { return };
        let Some(session) = known.sessions.remove(&number) else { return };
        let Container { sessions, rows } = known;
        if let Some(row) = rows.get_mut(&session.row) {
            row.forget(number, session.exec);
        }
        rows.retain(|row, _| sessions.values().any(|session| session.row == *row));
        if sessions.is_empty() {
            self.containers.remove(container);
        }
    }

    /// Says which process is a session's. While other sessions of its container have theirs started
    /// it is not known, but for who `is_urgent`, as long as nothing speaks for a mistake: then only
    /// the command of another with its words could be taken for it.
    pub(super) fn verdict(
        &self,
        container: &str,
        number: u64,
        is_urgent: bool,
        now: Instant,
    ) -> Verdict {
        let Some(container) = self.containers.get(container) else { return Verdict::ENDED };
        let Some(session) = container.sessions.get(&number) else { return Verdict::ENDED };
        let Some(row) = container.rows.get(&session.row) else { return Verdict::ENDED };
        if session.is_blind || row.has_gap {
            return Verdict::Unknown("what the runtime tells was interrupted");
        }
        if session.exec.is_none() && !session.is_waiting(now) {
            return Verdict::Unknown("nothing was told of its start");
        }
        if session.is_lost_early && session.exec.is_some() {
            return Verdict::Unknown("its client went before the runtime had begun it");
        }
        let is_quiet = row.is_quiet(now) && !container.is_anybody_waiting(now);
        let is_starting = row.is_starting(now);
        if session.exec.is_none() || is_starting || (!is_quiet && !is_urgent) {
            return Verdict::Waiting;
        }
        let others = container.sessions.values().filter(|other| other.row != session.row);
        if others.filter(|other| other.exec.is_none()).any(|other| {
            // What this row has got may be what that one has asked for.
            row.has_any_of(other.asked_at, other.late_at())
        }) {
            return Verdict::Unknown(OTHERS);
        }
        let is_there = |member: &u64| container.sessions.contains_key(member);
        // Of who has no exec, and was followed by none, nothing was added. Else another may have
        // got it.
        let has_exec = |member: &u64| {
            let known = container.sessions.get(member);
            known.is_none_or(|known| known.exec.is_some()) || row.has_more_since(*member)
        };
        match is_quiet {
            true => row.by_order(number, has_exec),
            false if row.is_as_asked(is_there) => row.by_order(number, has_exec),
            // What is still on its way may tell.
            false => match row.by_words(number, has_exec) {
                Verdict::Unknown(_) => Verdict::Waiting,
                known => known,
            },
        }
    }
}

impl Container {
    /// Returns the row that a session belongs to that asks now, if it does not begin one.
    fn row_to_join(&self, now: Instant) -> Option<u64> {
        let (number, row) = self.rows.last_key_value()?;
        let is_open = row.is_open(now) || self.is_anybody_waiting(now);
        (is_open && !row.is_full()).then_some(*number)
    }

    fn is_anybody_waiting(&self, now: Instant) -> bool {
        self.sessions.values().any(|session| session.is_waiting(now))
    }
}

impl Session {
    fn is_waiting(&self, now: Instant) -> bool {
        self.exec.is_none() && !self.is_blind && now < self.asked_at + START_PATIENCE
    }

    /// When its exec is not waited for any more. That of a blind one was rather missed than late.
    fn late_at(&self) -> Instant {
        self.asked_at + if self.is_blind { SETTLED_AFTER } else { START_PATIENCE }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::SESSIONS;
    use super::*;
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
        let urgent =
            |scene: &Scene, session| scene.starts.verdict(CONTAINER, session, true, scene.now);
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
}
