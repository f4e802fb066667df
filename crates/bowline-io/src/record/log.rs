//! Sessions and refusals to the lines that a log gets of them.
//!
//! A command's arguments hold passwords, and more people read a log than may run commands: the log
//! has a command's program and how many words there were. All words are there from debug on.

use std::borrow::Cow;
use std::sync::Mutex;
use std::time::Duration;

use bowline_proto::Time;
use tracing::{debug, info, warn};

use super::{Admission, Denied, Ended, Hook, Record, Requester};
use crate::clock::Clock;
use crate::text::sanitized;

/// What is logged of a name. Kubernetes' own have at most 253.
const NAME_BYTES: usize = 256;
/// How many groups are logged.
const GROUPS: usize = 16;
/// What is logged of a reason.
const REASON_BYTES: usize = 1024;
/// What is looked at of a reason, for what must not be logged of it.
const SEARCHED_BYTES: usize = 8 * REASON_BYTES;
/// Shorter arguments are in every text, and hold nothing.
const ARGUMENT_BYTES: usize = 4;
/// So many of them are looked for, and so much of each: whoever quotes one quotes those before it.
const ARGUMENTS: usize = 256;
const HEAD_BYTES: usize = 64;
/// What is logged of a command, at debug.
const COMMAND_BYTES: usize = 4096;
/// So many refusals are logged a minute, each of senders that are known and that are not: whoever
/// may nothing must not fill a disk, nor hide what the others did.
pub(super) const REFUSALS: u32 = 100;
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Logs where each session begins, and where and how it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Admission for Log {
    fn admit(&self, _: &Record) -> Result<Box<dyn Hook>, Denied> {
        Ok(Box::new(Log))
    }
}

impl Hook for Log {
    fn begun(&mut self, record: &Record) {
        let program = record.command.first().map(|word| name(word));
        info!(
            id = record.id,
            peer = %record.requester.peer,
            user = record.requester.name().as_deref(),
            groups = record.requester.groups(),
            by = record.requester.by().as_deref(),
            verb = record.verb,
            namespace = &*name(&record.namespace),
            pod = &*name(&record.pod),
            container = some(&record.container).as_deref(),
            command = program.as_deref(),
            words = program.is_some().then_some(record.command.len()),
            near = some(&record.near).as_deref(),
            far = some(&record.far).as_deref(),
            "session begins"
        );
        if !record.command.is_empty() {
            let words = format!("{:?}", record.command);
            debug!(id = record.id, command = &*sanitized(&words, COMMAND_BYTES), "command");
        }
    }

    fn ended(self: Box<Self>, ended: &Ended) {
        let Ended { record, end, traffic, lasted } = ended;
        let end = end.to_string();
        info!(
            id = record.id,
            peer = %record.requester.peer,
            user = record.requester.name().as_deref(),
            by = record.requester.by().as_deref(),
            verb = record.verb,
            namespace = &*name(&record.namespace),
            pod = &*name(&record.pod),
            container = some(&record.container).as_deref(),
            end = &*sanitized(&without_arguments(&end, &record.command), REASON_BYTES),
            ms = lasted.as_millis() as u64,
            from_client = traffic.map(|traffic| traffic.from_client),
            to_client = traffic.map(|traffic| traffic.to_client),
            "session ends"
        );
    }
}

/// A reason up to where it quotes an argument of `command`, as runtimes do.
pub(super) fn without_arguments<'a>(reason: &'a str, command: &[String]) -> Cow<'a, str> {
    let searched = &reason[..reason.floor_char_boundary(SEARCHED_BYTES)];
    let arguments = command.iter().skip(1).filter(|word| word.len() >= ARGUMENT_BYTES);
    let heads = arguments.map(|word| &word[..word.floor_char_boundary(HEAD_BYTES)]);
    match heads.take(ARGUMENTS).filter_map(|head| searched.find(head)).min() {
        Some(quoted) => Cow::Owned(format!("{}…", &searched[..quoted])),
        None => Cow::Borrowed(searched),
    }
}

fn name(text: &str) -> Cow<'_, str> {
    sanitized(text, NAME_BYTES)
}

fn some(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then(|| name(text))
}

impl Requester {
    fn name(&self) -> Option<Cow<'_, str>> {
        self.user.as_ref().map(|user| name(&user.name))
    }

    pub(super) fn groups(&self) -> Option<String> {
        let groups = self.user.as_ref().map(|user| &user.groups)?;
        let shown: Vec<_> = groups.iter().take(GROUPS).map(|group| name(group)).collect();
        let more = if groups.len() > GROUPS { ",…" } else { "" };
        Some(format!("{}{more}", shown.join(",")))
    }

    fn by(&self) -> Option<Cow<'_, str>> {
        self.user.as_ref().and_then(|user| user.by.as_deref()).map(name)
    }
}

/// A server's refusals to a log that they cannot fill.
#[derive(Debug)]
pub struct Refusals {
    clock: Clock,
    /// Of senders that are known, and of all others.
    minutes: [Mutex<Minute>; 2],
}

#[derive(Debug, Default)]
pub(super) struct Minute {
    until: Time,
    logged: u32,
    left_out: u64,
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals { clock: Clock::start(), minutes: Default::default() }
    }
}

impl Refusals {
    /// Logs one: who asked for what, and why it was refused. `path` is without the query, which
    /// holds commands.
    pub fn log(&self, requester: &Requester, method: &str, path: &str, code: u16, why: &str) {
        let minute = &self.minutes[usize::from(requester.user.is_none())];
        let Ok(mut minute) = minute.lock() else { return };
        let Some(left_out) = minute.take(self.clock.now()) else { return };
        drop(minute);
        if left_out > 0 {
            warn!("{left_out} refusals of the last minute are not in this log");
        }
        let (path, why) = (sanitized(path, REASON_BYTES), sanitized(why, REASON_BYTES));
        let (user, by) = (requester.name(), requester.by());
        let (user, by, peer) = (user.as_deref(), by.as_deref(), requester.peer);
        let (path, why) = (&*path, &*why);
        match code {
            401 | 403 => warn!(%peer, user, by, method, path, code, why, "refused"),
            _ => info!(%peer, user, by, method, path, code, why, "refused"),
        }
    }
}

impl Minute {
    /// Whether one more is logged, and how many were not, in the minute that is over.
    pub(super) fn take(&mut self, now: Time) -> Option<u64> {
        let mut left_out = 0;
        if now >= self.until {
            left_out = self.left_out;
            *self = Minute { until: now + MINUTE, ..Minute::default() };
        }
        if self.logged == REFUSALS {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(left_out)
    }
}
