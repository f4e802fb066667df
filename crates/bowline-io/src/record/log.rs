//! Sessions to the lines that a log gets of them.
//!
//! A command's arguments hold passwords, and more people read a log than may run commands: the log
//! has a command's program and how many words there were. All words are there from debug on.

use std::borrow::Cow;

use tracing::{debug, info};

use super::{Admission, Denied, Ended, Hook, Record, Requester};
use crate::text::sanitized;

/// What is logged of a name. Kubernetes' own have at most 253.
const NAME_BYTES: usize = 256;
/// How many groups are logged.
const GROUPS: usize = 16;
/// What is logged of a reason.
pub(super) const REASON_BYTES: usize = 1024;
/// What is looked at of a reason, for what must not be logged of it.
const SEARCHED_BYTES: usize = 8 * REASON_BYTES;
/// Shorter arguments are in every text, and hold nothing.
const ARGUMENT_BYTES: usize = 4;
/// So many of them are looked for, and so much of each: whoever quotes one quotes those before it.
const ARGUMENTS: usize = 256;
const HEAD_BYTES: usize = 64;
/// What is logged of a command, at debug.
const COMMAND_BYTES: usize = 4096;

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

/// Logs the same of a client's sessions, for who looks closer at a program: at debug.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLog;

impl Admission for ClientLog {
    fn admit(&self, _: &Record) -> Result<Box<dyn Hook>, Denied> {
        Ok(Box::new(ClientLog))
    }
}

impl Hook for ClientLog {
    fn begun(&mut self, record: &Record) {
        debug!(
            id = record.id,
            peer = %record.requester.peer,
            verb = record.verb,
            namespace = &*name(&record.namespace),
            pod = &*name(&record.pod),
            container = some(&record.container).as_deref(),
            command = record.command.first().map(|word| name(word)).as_deref(),
            near = record.near,
            "session begins"
        );
    }

    fn ended(self: Box<Self>, ended: &Ended) {
        let Ended { record, end, traffic, lasted } = ended;
        let end = end.to_string();
        debug!(
            id = record.id,
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
    pub(super) fn name(&self) -> Option<Cow<'_, str>> {
        self.user.as_ref().map(|user| name(&user.name))
    }

    pub(super) fn groups(&self) -> Option<String> {
        let groups = self.user.as_ref().map(|user| &user.groups)?;
        let shown: Vec<_> = groups.iter().take(GROUPS).map(|group| name(group)).collect();
        let more = if groups.len() > GROUPS { ",…" } else { "" };
        Some(format!("{}{more}", shown.join(",")))
    }

    pub(super) fn by(&self) -> Option<Cow<'_, str>> {
        self.user.as_ref().and_then(|user| user.by.as_deref()).map(name)
    }
}
