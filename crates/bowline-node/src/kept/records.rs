//! What is written down of kept sessions, so that a node that begins anew can say what became of
//! them: the commands themselves have ended with the one before.
//!
//! The file has a line of JSON for each session that begins, and one for each that ends. Of the ids
//! there are only marks in it: who reads it can do nothing with them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bowline_proto::kept::{Id, Left, Start, Total};
use bowline_proto::session::Wants;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Place;
use super::shares::Shares;

/// How many lines are added before the file is written anew, with those that still count: many more
/// than there can be of these at a node with the usual limit.
const LINES: usize = 16 * 1024;
/// How many sessions that have ended are known beyond those that the node has itself. Then the
/// container that has the most of them gives its oldest.
const PAST: usize = 4096;
/// How long a line may be. A Status and a name are much shorter.
const LINE_BYTES: u64 = 64 * 1024;
/// Why there is no outcome of a command that ran when its node ended without a word.
const LOST: &str = "the node has begun anew while the command ran";

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    file: File,
    /// How many were added since it was written anew.
    added: usize,
    known: HashMap<String, Line>,
    /// The marks of those that have ended.
    ended: Shares<String>,
    /// How many of these there may be.
    most: usize,
}

/// One session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    mark: String,
    place: String,
    keep_for: u64,
    /// Stdin, stdout, stderr, and whether there was a terminal.
    wants: [bool; 4],
    /// How it ended, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Ended>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    /// Until when somebody may ask, in seconds since 1970.
    until: u64,
    turn: u64,
    stdin: u64,
    stdin_over: bool,
    stdout: (u64, u64),
    stderr: (u64, u64),
    /// How far whoever had the session had taken stdout and stderr.
    taken: [u64; 2],
    /// A Status as JSON, or why there is none.
    outcome: Result<String, String>,
}

/// What became of a session that a node before this one had.
pub(super) enum Past {
    /// It has ended.
    Ended {
        left: Left,
        wants: Wants,
        /// For how long it is kept yet.
        kept: Duration,
    },
    Lost(&'static str),
}

impl Records {
    /// Reads what a node before has left, and goes on with it. Who was running then is lost.
    /// `per_node` is how many sessions that have ended the node has itself.
    ///
    /// # Errors
    /// If there is no file at `path` and none can be made, or it cannot be read.
    pub(super) fn open(path: &Path, per_node: usize) -> io::Result<Records> {
        let mut known: HashMap<String, Line> = HashMap::new();
        match File::open(path) {
            Ok(file) => read_into(&mut BufReader::new(file), &mut known)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let now = unix_now();
        for line in known.values_mut().filter(|line| line.end.is_none()) {
            let until = now.saturating_add(line.keep_for);
            line.end = Some(Ended { until, ..Ended::lost() });
        }
        known.retain(|_, line| line.counts(now));
        let mut oldest: Vec<_> = known.values().collect();
        oldest.sort_unstable_by_key(|line| line.end.as_ref().map(|end| end.until));
        let mut ended = Shares::default();
        oldest.into_iter().for_each(|line| ended.push(&line.place, line.mark.clone()));
        let most = per_node.saturating_add(PAST);
        forget_oldest(&mut ended, most, &mut known);
        let file = written(path, known.values())?;
        Ok(Records { path: path.to_owned(), file, added: 0, known, ended, most })
    }

    pub(super) fn began(&mut self, start: &Start, place: &Place) {
        let Wants { stdin, stdout, stderr, tty } = start.wants;
        self.add(Line {
            mark: start.id.mark(),
            place: place.name.clone(),
            keep_for: start.keep_for,
            wants: [stdin, stdout, stderr, tty],
            end: None,
        });
    }

    /// Writes down how a session has ended.
    pub(super) fn ended(&mut self, id: &Id, left: &Left) {
        let mark = id.mark();
        let Some(mut line) = self.known.remove(&mark) else { return };
        // Again once a client that had it has left, which has taken more by then.
        let until = line.end.as_ref().map(|end| end.until);
        if until.is_none() {
            self.ended.push(&line.place, mark);
        }
        let total = |total: Total| (total.bytes, total.sum);
        let [stdout, stderr] = left.totals.map(total);
        let outcome = left.end.clone();
        line.end = Some(Ended {
            until: until.unwrap_or_else(|| unix_now().saturating_add(line.keep_for)),
            turn: left.turn,
            stdin: left.stdin,
            stdin_over: left.stdin_over,
            stdout,
            stderr,
            taken: left.taken,
            outcome: outcome.map(|json| String::from_utf8_lossy(&json).into_owned()),
        });
        self.add(line);
        forget_oldest(&mut self.ended, self.most, &mut self.known);
    }

    /// What became of a session of this container, as far as it was written down and still counts.
    pub(super) fn past(&self, id: &Id, place: &Place) -> Option<Past> {
        let line = self.known.get(&id.mark()).filter(|line| line.place == place.name)?;
        let ended = line.end.as_ref()?;
        let kept = ended.until.checked_sub(unix_now()).filter(|seconds| *seconds > 0)?;
        if matches!(&ended.outcome, Err(why) if why == LOST) {
            return Some(Past::Lost(LOST));
        }
        let total = |(bytes, sum): (u64, u64)| Total { bytes, sum };
        let outcome = ended.outcome.clone();
        let left = Left {
            turn: ended.turn,
            stdin: ended.stdin,
            stdin_over: ended.stdin_over,
            totals: [total(ended.stdout), total(ended.stderr)],
            taken: ended.taken,
            end: outcome.map(Bytes::from),
        };
        let [stdin, stdout, stderr, tty] = line.wants;
        let wants = Wants { stdin, stdout, stderr, tty };
        Some(Past::Ended { left, wants, kept: Duration::from_secs(kept) })
    }

    /// What cannot be written is known until this node ends, and no longer.
    fn add(&mut self, line: Line) {
        let text = serde_json::to_string(&line);
        self.known.insert(line.mark.clone(), line);
        self.added += 1;
        let added = if self.added > LINES.max(self.known.len()) {
            // Whether or not it succeeds: a disk that is full is not tried with each line.
            self.added = 0;
            self.write_anew()
        } else {
            let text = text.map_err(io::Error::from);
            text.and_then(|text| self.file.write_all(format!("{text}\n").as_bytes()))
        };
        if let Err(error) = added {
            warn!("{}: {error}", self.path.display());
        }
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let now = unix_now();
        self.known.retain(|_, line| line.counts(now));
        let known = &self.known;
        self.ended.retain(|mark| known.contains_key(mark));
        self.file = written(&self.path, known.values())?;
        Ok(())
    }
}

impl Line {
    /// Whether somebody may ask for it yet.
    fn counts(&self, now: u64) -> bool {
        self.end.as_ref().is_none_or(|end| end.until > now)
    }
}

impl Ended {
    fn lost() -> Ended {
        let outcome = Err(LOST.to_owned());
        let (stdout, stderr, taken) = ((0, 0), (0, 0), [0; 2]);
        Ended { until: 0, turn: 0, stdin: 0, stdin_over: false, stdout, stderr, taken, outcome }
    }
}

fn forget_oldest(ended: &mut Shares<String>, most: usize, known: &mut HashMap<String, Line>) {
    while ended.count() > most
        && let Some(mark) = ended.pop()
    {
        known.remove(&mark);
    }
}

/// Reads lines. One that is cut off, or no line of ours, is passed over.
fn read_into(file: &mut impl BufRead, known: &mut HashMap<String, Line>) -> io::Result<()> {
    let mut text = Vec::new();
    loop {
        text.clear();
        if io::Read::take(&mut *file, LINE_BYTES).read_until(b'\n', &mut text)? == 0 {
            return Ok(());
        }
        if let Ok(line) = serde_json::from_slice::<Line>(&text) {
            known.insert(line.mark.clone(), line);
        }
    }
}

/// Writes lines to a new file in place of the old one, for its owner alone.
fn written<'a>(path: &Path, lines: impl Iterator<Item = &'a Line>) -> io::Result<File> {
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    fs::rename(&fresh, path)?;
    Ok(file)
}

fn unix_now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "what is in the file has an end by date")]
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use bowline_proto::kept::Instance;

    use super::*;

    fn start(id: Id, keep_for: u64) -> Start {
        let wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
        let (command, env) = (Vec::new(), Vec::new());
        Start { id, instance: Instance([0; 16]), wants, keep_for, size: None, command, env }
    }

    #[test]
    fn a_node_that_begins_anew_knows_what_became_of_sessions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kept-sessions");
        let place = Place { name: "ns/p/c".into(), uid: None };
        let left = Left {
            turn: 3,
            stdin: 5,
            stdin_over: true,
            totals: [Total { bytes: 7, sum: u64::MAX }, Total::default()],
            taken: [0; 2],
            end: Ok(Bytes::from_static(b"{\"status\":\"Success\"}")),
        };
        let [ended, running, over] = [1, 2, 3].map(|id| Id([id; 16]));
        let mut records = Records::open(&path, 1).unwrap();
        for (id, keep_for) in [(&ended, 600), (&running, 600), (&over, 0)] {
            records.began(&start(*id, keep_for), &place);
        }
        records.ended(&ended, &left);
        records.ended(&over, &left);
        let left = Left { taken: [5, 1], ..left };
        records.ended(&ended, &left);
        drop(records);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&ended.secret()));
        // A line that was not finished when the node was killed.
        fs::write(&path, format!("{text}{{\"mark\":")).unwrap();
        for _ in 0..2 {
            let records = Records::open(&path, 1).unwrap();
            let past = records.past(&ended, &place);
            let Some(Past::Ended { left: said, kept, .. }) = past else { panic!() };
            assert!(said == left && kept.as_secs() > 500);
            assert!(matches!(records.past(&running, &place), Some(Past::Lost(_))));
            assert!(records.past(&over, &place).is_none());
            let elsewhere = Place { name: "ns/p/d".into(), uid: None };
            assert!(records.past(&ended, &elsewhere).is_none());
        }
    }

    #[test]
    fn only_so_many_are_known_and_the_file_is_seldom_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kept-sessions");
        let place = Place { name: "ns/p/c".into(), uid: None };
        let left = Left {
            turn: 1,
            stdin: 0,
            stdin_over: true,
            totals: [Total::default(); 2],
            taken: [0; 2],
            end: Ok(Bytes::from_static(b"{\"status\":\"Success\"}")),
        };
        let mut records = Records::open(&path, 2).unwrap();
        let mut anew = 0;
        let sessions = LINES as u64;
        let id = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            Id(id)
        };
        for number in 0..sessions {
            records.began(&start(id(number), 600), &place);
            anew += usize::from(records.added == 0);
            records.ended(&id(number), &left);
            anew += usize::from(records.added == 0);
        }
        assert_eq!((anew, records.known.len(), records.ended.count()), (1, PAST + 2, PAST + 2));
        drop(records);
        let records = Records::open(&path, 0).unwrap();
        assert_eq!((records.known.len(), records.ended.count()), (PAST, PAST));
    }
}
