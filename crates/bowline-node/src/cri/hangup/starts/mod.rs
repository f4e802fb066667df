//! The processes that a runtime reports for execs, to the session that each of them is for.
//!
//! No runtime says for whom it has started a process. So the sessions of one container ask one
//! after another, and the next exec that the runtime adds to it is that of the one that has asked.
//! What others start there (probes, other clients of the runtime) may come in between, and what was
//! asked for may overtake it. So order is believed only as far as it leaves no choice: a session
//! has a process if, between two moments at which nothing was on its way, one session has asked and
//! one exec was added; of all, or of those with its words. That is judged by a [`row`](super::row)
//! of sessions that follow one another closely: as far as a mistake can go on.

#[cfg(test)]
mod tests;

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
