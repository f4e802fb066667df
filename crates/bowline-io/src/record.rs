//! What is known of a session, from its request to its end, and the lines that a log gets of it.
//!
//! A command's arguments hold passwords, and more people read a log than may run commands: the log
//! has a command's program and how many words there were. All words are there from debug on.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_proto::Time;
use bowline_proto::session::Outcome;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::chance;
use crate::clock::Clock;
use crate::serve::{Body, Lasting};
use crate::text::harmless;

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
const REFUSALS: u32 = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// From where.
    pub peer: SocketAddr,
    /// Who, where that was found out.
    pub user: Option<Subject>,
}

/// A user, as a log names one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The user's name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Who acts as this user, where it is another one.
    pub by: Option<String>,
}

/// A session, as far as its request tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// By this a log's lines are found again.
    pub id: String,
    /// Who asked.
    pub asker: Asker,
    /// `exec`, `attach`, `portforward`, `log`.
    pub verb: &'static str,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; empty where there is none.
    pub container: String,
    /// The words of the command, where there is one.
    pub command: Vec<String>,
    /// What is spoken with the client.
    pub near: String,
    /// What is spoken with the node; empty where this is the node.
    pub far: String,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the command's outcome.
    Outcome(Outcome),
    /// Both sides have ended, and there is no outcome to know.
    Over,
    /// The client went away first.
    ClientGone(String),
    /// Without an outcome, and why.
    Lost(String),
    /// This server ended.
    Shutdown,
}

/// Bytes that were read from either side, with all that carried them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client.
    pub from_client: u64,
    /// From the command, or from the node.
    pub to_client: u64,
}

impl Traffic {
    /// Adds what was read from the client, or from the other side.
    pub fn count(&mut self, from_client: bool, bytes: usize) {
        let side = if from_client { &mut self.from_client } else { &mut self.to_client };
        *side = side.saturating_add(bytes as u64);
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Outcome(Outcome::Success) => f.write_str("exit code 0"),
            End::Outcome(Outcome::Exited(code)) => write!(f, "exit code {code}"),
            End::Outcome(Outcome::Failed { message, .. }) => write!(f, "failed: {message}"),
            End::Over => f.write_str("over"),
            End::ClientGone(why) => write!(f, "the client went away: {why}"),
            End::Lost(why) => write!(f, "lost: {why}"),
            End::Shutdown => f.write_str("this server shut down"),
        }
    }
}

/// A reason up to where it quotes an argument of `command`, as runtimes do.
fn without_arguments<'a>(reason: &'a str, command: &[String]) -> Cow<'a, str> {
    let searched = &reason[..reason.floor_char_boundary(SEARCHED_BYTES)];
    let arguments = command.iter().skip(1).filter(|word| word.len() >= ARGUMENT_BYTES);
    let heads = arguments.map(|word| &word[..word.floor_char_boundary(HEAD_BYTES)]);
    match heads.take(ARGUMENTS).filter_map(|head| searched.find(head)).min() {
        Some(quoted) => Cow::Owned(format!("{}…", &searched[..quoted])),
        None => Cow::Borrowed(searched),
    }
}

fn name(text: &str) -> Cow<'_, str> {
    harmless(text, NAME_BYTES)
}

fn some(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then(|| name(text))
}

impl Asker {
    /// A session that this one asks for.
    #[must_use]
    pub fn record(&self, verb: &'static str, namespace: &str, pod: &str) -> Record {
        let id = chance::bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect();
        Record {
            id,
            asker: self.clone(),
            verb,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: String::new(),
            command: Vec::new(),
            near: String::new(),
            far: String::new(),
        }
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        self.user.as_ref().map(|user| name(&user.name))
    }

    fn groups(&self) -> Option<String> {
        let groups = self.user.as_ref().map(|user| &user.groups)?;
        let shown: Vec<_> = groups.iter().take(GROUPS).map(|group| name(group)).collect();
        let more = if groups.len() > GROUPS { ",…" } else { "" };
        Some(format!("{}{more}", shown.join(",")))
    }

    fn by(&self) -> Option<Cow<'_, str>> {
        self.user.as_ref().and_then(|user| user.by.as_deref()).map(name)
    }
}

impl Record {
    /// Logs that it begins.
    #[must_use]
    pub fn begin(self) -> Running {
        let program = self.command.first().map(|word| name(word));
        info!(
            id = self.id,
            peer = %self.asker.peer,
            user = self.asker.name().as_deref(),
            groups = self.asker.groups(),
            by = self.asker.by().as_deref(),
            verb = self.verb,
            namespace = &*name(&self.namespace),
            pod = &*name(&self.pod),
            container = some(&self.container).as_deref(),
            command = program.as_deref(),
            words = program.is_some().then_some(self.command.len()),
            near = some(&self.near).as_deref(),
            far = some(&self.far).as_deref(),
            "session begins"
        );
        if !self.command.is_empty() {
            let words = format!("{:?}", self.command);
            debug!(id = self.id, command = &*harmless(&words, COMMAND_BYTES), "command");
        }
        let record = Box::new(self);
        Running { record, clock: Clock::start(), traffic: None, ended: false }
    }
}

/// A session that has begun. Dropped without an end, it was given up, and the log says so.
#[derive(Debug)]
pub struct Running {
    record: Box<Record>,
    clock: Clock,
    traffic: Option<Traffic>,
    ended: bool,
}

impl Running {
    /// Logs that it has ended, and how; with its bytes where they were counted.
    pub fn end(mut self, end: &End, traffic: Option<Traffic>) {
        self.traffic = traffic;
        self.log(end);
    }

    /// The body of an answer that is a session: it ends with it, or with the server's `end`, and
    /// holds its place for as long.
    pub fn body(self, body: Body, place: Lasting, end: CancellationToken) -> Body {
        Watched { body, running: self, end, _place: place }.boxed_unsync()
    }

    fn log(&mut self, end: &End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let record = &self.record;
        let milliseconds = self.clock.now().as_micros() / 1000;
        let end = end.to_string();
        info!(
            id = record.id,
            peer = %record.asker.peer,
            user = record.asker.name().as_deref(),
            by = record.asker.by().as_deref(),
            verb = record.verb,
            namespace = &*name(&record.namespace),
            pod = &*name(&record.pod),
            container = some(&record.container).as_deref(),
            end = &*harmless(&without_arguments(&end, &record.command), REASON_BYTES),
            ms = milliseconds,
            from_client = self.traffic.map(|traffic| traffic.from_client),
            to_client = self.traffic.map(|traffic| traffic.to_client),
            "session ends"
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.log(&End::Lost("it was given up".into()));
    }
}

struct Watched {
    body: Body,
    running: Running,
    end: CancellationToken,
    _place: Lasting,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let watched = self.get_mut();
        let frame = ready!(Pin::new(&mut watched.body).poll_frame(cx));
        match &frame {
            None => watched.running.log(&End::Over),
            Some(Err(error)) => watched.running.log(&End::Lost(error.to_string())),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                watched.running.traffic.get_or_insert_default().count(false, bytes);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // An end that was known before anybody asked for it is an end.
        let end = if self.body.is_end_stream() {
            End::Over
        } else if self.end.is_cancelled() {
            End::Shutdown
        } else {
            End::ClientGone("it read no more".into())
        };
        self.running.log(&end);
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
struct Minute {
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
    pub fn log(&self, asker: &Asker, method: &str, path: &str, code: u16, why: &str) {
        let minute = &self.minutes[usize::from(asker.user.is_none())];
        let Ok(mut minute) = minute.lock() else { return };
        let Some(left_out) = minute.take(self.clock.now()) else { return };
        drop(minute);
        if left_out > 0 {
            warn!("{left_out} refusals of the last minute are not in this log");
        }
        let (path, why) = (harmless(path, REASON_BYTES), harmless(why, REASON_BYTES));
        let (user, by) = (asker.name(), asker.by());
        let (user, by, peer) = (user.as_deref(), by.as_deref(), asker.peer);
        let (path, why) = (&*path, &*why);
        match code {
            401 | 403 => warn!(%peer, user, by, method, path, code, why, "refused"),
            _ => info!(%peer, user, by, method, path, code, why, "refused"),
        }
    }
}

impl Minute {
    /// Whether one more is logged, and how many were not, in the minute that is over.
    fn take(&mut self, now: Time) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_a_line_each_minute_in_the_end() {
        let mut minute = Minute::default();
        let start = Time::ZERO;
        let logged = (0..5000).filter(|_| minute.take(start).is_some()).count();
        assert_eq!(logged, REFUSALS as usize);
        assert_eq!(minute.take(start + MINUTE), Some(5000 - u64::from(REFUSALS)));
        assert_eq!(minute.take(start + MINUTE), Some(0));
        assert_eq!(minute.take(start + MINUTE + MINUTE), Some(0));
    }

    #[test]
    fn ends_are_told_in_words() {
        let failed = Outcome::Failed { message: "no".into(), code: None, reason: String::new() };
        for (end, expected) in [
            (End::Outcome(Outcome::Success), "exit code 0"),
            (End::Outcome(Outcome::Exited(3)), "exit code 3"),
            (End::Outcome(failed), "failed: no"),
            (End::Lost("cut".into()), "lost: cut"),
        ] {
            assert_eq!(end.to_string(), expected);
        }
    }

    #[test]
    fn no_reason_brings_a_commands_arguments_into_the_log() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let login = words(&["mysql", "-u", "me", "-psecret"]);
        let quoted = "failed: error executing command [mysql -u me -psecret], exit code 1";
        let expected = "failed: error executing command [mysql -u me …";
        assert_eq!(without_arguments(quoted, &login), expected);
        assert_eq!(without_arguments("failed: \"mysql\" not found", &login).len(), 25);
        // What is cut in the middle of an argument is so much of it, and no more is shown.
        let long = words(&["sh", "-c", &"é".repeat(40_000)]);
        let quoted = format!("failed: [sh -c {}]", long[2]);
        assert_eq!(without_arguments(&quoted, &long), "failed: [sh -c …");
        let many = words(&["x"; 1000]);
        assert_eq!(without_arguments("x", &many), "x");
    }

    #[test]
    fn long_lists_of_groups_are_cut() {
        let groups = (0..40).map(|number| format!("g{number}")).collect();
        let user = Some(Subject { name: "u".into(), groups, by: None });
        let asker = Asker { peer: ([127, 0, 0, 1], 1).into(), user };
        let text = asker.groups().unwrap();
        assert!(text.starts_with("g0,g1,") && text.ends_with("g15,…"), "{text}");
    }
}
