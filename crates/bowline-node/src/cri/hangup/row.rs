//! The sessions of one container that asked closely one after another, and the execs that were
//! added since, to which exec is whose.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::starts::START_PATIENCE;
use super::words::{Asked, Seen};
use crate::procfs::Process;

/// How long an exec that was given to a session may still turn out to be another's: a runtime adds
/// an exec within milliseconds, and this is for one that has much to do.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// How long nothing may have been added for a row to be quiet.
const QUIET_AFTER: Duration = Duration::from_millis(250);
/// Why a process is not known.
pub(super) const OTHERS: &str = "others have started commands in its container at the same time";
/// The most sessions of one row.
pub(super) const SESSIONS: usize = 1024;
/// The most execs that are remembered of one row; of what others start there is little.
const EXECS: usize = 2 * SESSIONS;

/// Which process is a session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is not known yet: it was not started, or others are being started.
    Waiting,
    /// This one.
    Process(Process),
    /// It cannot be told from those of others.
    Unknown(&'static str),
}

/// What belongs to a row, also of sessions that have left it. A session is a number.
#[derive(Debug, Default)]
pub(super) struct Row {
    execs: Vec<Exec>,
    /// Its sessions, by their numbers.
    members: BTreeMap<u64, Member>,
    /// The different things that they have asked for.
    asked: Vec<Asked>,
    /// When an exec was given to a session last.
    given_at: Option<Instant>,
    /// Some of its execs may have been missed.
    pub(super) has_gap: bool,
}

/// What is remembered of a session.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// The place of what it has asked for.
    asked: usize,
    /// How many execs there were when it asked: its own has this place or a later one.
    position: usize,
}

#[derive(Debug)]
struct Exec {
    id: String,
    added_at: Instant,
    /// The session that it was given to, by its number.
    given: Option<u64>,
    process: ExecProcess,
}

#[derive(Debug)]
enum ExecProcess {
    /// It was not started yet.
    None,
    /// It had gone before it was looked at.
    Gone,
    /// It is this one.
    Seen {
        process: Process,
        /// The place of what was asked for in exactly its words.
        asked: Option<usize>,
        /// Whether it can be that of the session that the exec was given to.
        fits: bool,
    },
}

impl Verdict {
    pub(super) const ENDED: Verdict = Verdict::Unknown("it has ended");
}

impl Exec {
    fn is_starting(&self, now: Instant) -> bool {
        matches!(self.process, ExecProcess::None) && now < self.added_at + START_PATIENCE
    }

    /// Whether it has the words that were asked for by who got it.
    fn is_certain(&self) -> bool {
        matches!(self.process, ExecProcess::Seen { asked: Some(_), fits: true, .. })
    }
}

impl Row {
    /// Adds a session that asks now.
    pub(super) fn join(&mut self, number: u64, asked: Asked) {
        let place = self.asked.iter().position(|known| *known == asked).unwrap_or_else(|| {
            self.asked.push(asked);
            self.asked.len() - 1
        });
        self.members.insert(number, Member { asked: place, position: self.execs.len() });
    }

    pub(super) fn is_full(&self) -> bool {
        self.members.len() >= SESSIONS
    }

    /// Takes note that a session leaves, with the place of its exec.
    pub(super) fn forget(&mut self, number: u64, exec: Option<usize>) {
        match exec.map(|place| &mut self.execs[place].process) {
            // Nothing was started for it, nor will be.
            None => drop(self.members.remove(&number)),
            // What was not started by now will not be.
            Some(process @ ExecProcess::None) => *process = ExecProcess::Gone,
            Some(_) => {}
        }
    }

    pub(super) fn has(&self, exec: &str) -> bool {
        self.place(exec).is_some()
    }

    /// Whether a process can be what was asked for with an exec.
    pub(super) fn is_asked(&self, exec: &str, seen: &Seen) -> bool {
        self.place(exec).is_some_and(|place| self.likeness(place, seen) != (None, false))
    }

    /// Notes the process of an exec; `None` if it has gone.
    pub(super) fn started(&mut self, exec: &str, seen: Option<&Seen>) {
        let Some(place) = self.place(exec) else { return };
        self.execs[place].process = match seen {
            None => ExecProcess::Gone,
            Some(seen) => {
                let (asked, fits) = self.likeness(place, seen);
                ExecProcess::Seen { process: seen.process, asked, fits }
            }
        };
    }

    /// Whether the process of any of its execs is still to come.
    pub(super) fn is_starting(&self, now: Instant) -> bool {
        self.execs.iter().any(|exec| exec.is_starting(now))
    }

    /// Whether an exec that was given to one of its sessions may still turn out to be another's.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let is_recent = self.given_at.is_some_and(|given| now < given + SETTLED_AFTER);
        is_recent && (!self.is_quiet(now) || !self.execs.iter().all(Exec::is_certain))
    }

    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.execs.last().is_none_or(|last| last.added_at + QUIET_AFTER <= now)
    }

    /// Adds an exec, for the session that it is given to, and returns its place.
    pub(super) fn add(&mut self, id: &str, given: Option<u64>, now: Instant) -> Option<usize> {
        if self.execs.len() >= EXECS {
            self.has_gap = true;
            return None;
        }
        if given.is_some() {
            self.given_at = Some(now);
        }
        let process = ExecProcess::None;
        self.execs.push(Exec { id: id.to_owned(), added_at: now, given, process });
        Some(self.execs.len() - 1)
    }

    /// Whether any exec was added since a session of it asked.
    pub(super) fn has_more_since(&self, number: u64) -> bool {
        self.members.get(&number).is_some_and(|member| member.position < self.execs.len())
    }

    /// Whether any exec was added within this time.
    pub(super) fn has_any_of(&self, from: Instant, until: Instant) -> bool {
        self.execs.iter().any(|exec| (from..until).contains(&exec.added_at))
    }

    fn place(&self, exec: &str) -> Option<usize> {
        self.execs.iter().position(|known| known.id == exec)
    }

    /// Returns which of the things that were asked for has exactly the words of the process of an
    /// exec, and whether it can be that of the session that the exec was given to.
    fn likeness(&self, exec: usize, seen: &Seen) -> (Option<usize>, bool) {
        let same = self.asked.iter().position(|asked| seen.is_same(asked));
        let given = self.execs[exec].given.and_then(|given| self.members.get(&given));
        let fits = given.is_some_and(|given| {
            same == Some(given.asked) || seen.may_be(&self.asked[given.asked])
        });
        (same, fits)
    }

    /// Whether no exec of it is seen to be another's: each can be that of who got it, or has ended
    /// with it.
    pub(super) fn is_as_asked(&self, is_there: impl Fn(&u64) -> bool) -> bool {
        self.execs.iter().all(|exec| match (&exec.process, exec.given) {
            (ExecProcess::Seen { fits, .. }, _) => *fits,
            (_, Some(given)) => !is_there(&given),
            (_, None) => false,
        })
    }

    /// Finds a session's exec by the order of all, or else of those with its words.
    pub(super) fn by_order(&self, number: u64, is_counted: impl Fn(&u64) -> bool) -> Verdict {
        let only = self.only_one(number, &is_counted, |_| true, |_| true);
        let Some(exec) = only.map(|place| &self.execs[place]) else {
            return self.by_words(number, is_counted);
        };
        match exec.process {
            ExecProcess::Seen { process, fits: true, .. } if exec.given == Some(number) => {
                Verdict::Process(process)
            }
            ExecProcess::Seen { .. } => Verdict::Unknown("what was started has other words"),
            _ => Verdict::Unknown("its process had ended before it was seen"),
        }
    }

    /// Finds a session's exec by its words.
    pub(super) fn by_words(&self, number: u64, is_counted: impl Fn(&u64) -> bool) -> Verdict {
        let words = self.members.get(&number).map(|member| member.asked);
        let is_alike = |member: &Member| Some(member.asked) == words;
        let has_words =
            |exec: &Exec| matches!(exec.process, ExecProcess::Seen { asked, .. } if asked == words);
        let only = self.only_one(number, is_counted, is_alike, has_words);
        match only.map(|place| &self.execs[place].process) {
            Some(ExecProcess::Seen { process, .. }) => Verdict::Process(*process),
            _ => Verdict::Unknown(OTHERS),
        }
    }

    /// Returns the place of the only exec that can be a session's, among some of the members and
    /// some of the execs, which have to be as many.
    ///
    /// Between two execs nothing is on its way if as many were added later as were asked for later.
    /// What was asked for between two such moments was added between them.
    fn only_one(
        &self,
        number: u64,
        is_counted: impl Fn(&u64) -> bool,
        is_member: impl Fn(&Member) -> bool,
        is_exec: impl Fn(&Exec) -> bool,
    ) -> Option<usize> {
        let position = self.members.get(&number)?.position;
        let members = self.members.iter().filter(|(member, _)| is_counted(member));
        let asked: Vec<usize> = members
            .filter(|(_, member)| is_member(member))
            .map(|(_, member)| member.position)
            .collect();
        let execs = self.execs.iter().enumerate().filter(|(_, exec)| is_exec(exec));
        let added: Vec<usize> = execs.map(|(place, _)| place).collect();
        // By place: how many more were added from there on than were asked for.
        let mut more = vec![0_isize; self.execs.len() + 1];
        asked.iter().for_each(|at| more[*at] -= 1);
        added.iter().for_each(|at| more[*at] += 1);
        for place in (0..self.execs.len()).rev() {
            more[place] += more[place + 1];
        }
        let is_still = |place: &usize| more[*place] == 0;
        if !is_still(&0) {
            return None;
        }
        let begin = (0..=position).rev().find(is_still)?;
        let end = (position + 1..more.len()).find(is_still)?;
        let mut asked = asked.iter().filter(|at| (begin..end).contains(*at));
        let mut added = added.iter().filter(|at| (begin..end).contains(*at));
        let only = (asked.next(), asked.next(), added.next(), added.next());
        if let (Some(_), None, Some(place), None) = only { Some(*place) } else { None }
    }
}
