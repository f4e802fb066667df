//! Seeds to copies out of a container: the client's as it ships, with a real directory on this side
//! and a tree as a model on the other, over connections that are cut, and an archiver that fails or
//! lies.
//!
//! What is promised: what has the target's name is what the container had, file by file; a copy
//! that is called good is all of it; where nothing went wrong it is good; and nothing else is left.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_archive::Problem;
use bowline_archive::reader::{BLOCK_BYTES, Entry, EntryKind};
use bowline_archive::writer::{self, Owner};
use bowline_client::copy::{CopyError, Options, Remote, Sink, Stdin, Watcher, download};
use bowline_client::{Cause, EndError, Ended, Error, Loss, Outcome};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::promises::{Broken, Promise};
use crate::world::Verdict;

/// No copy here takes longer, in virtual time.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The container's clock, long after its files.
const NOW: i64 = 1_700_000_000;
/// Names that one part of a path may have; some are hard for lists and patterns.
const NAMES: [&str; 12] =
    ["a", "b", "c d", "new\nline", "*", "[a]", "-x", "é", "end ", "q'", "back\\", "..z"];

/// One copy with all that is around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What randomness grows from while it runs.
    pub seed: u64,
    /// Directories and files, below the root; `None` is a directory.
    pub tree: BTreeMap<String, Option<Vec<u8>>>,
    /// After so many bytes of output each connection is cut, the first ones of all.
    pub cuts: Vec<usize>,
    /// How often the client tries again.
    pub retries: u64,
    /// Sums are compared.
    pub verify: bool,
    /// Between two attempts a file changes.
    pub changes: bool,
    /// What the archiver does other than it should.
    pub lie: Option<Lie>,
}

/// A way to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It ends with this code, its archive whole.
    Fails(u8),
    /// It succeeds, its archive cut short.
    Short,
    /// It adds a file out of the tree.
    Escapes,
}

impl Scenario {
    /// The one of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Scenario {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x63_6f_70_79);
        let mut tree = BTreeMap::from([(String::new(), None)]);
        let mut places = vec![String::new()];
        for _ in 0..random.random_range(0..25) {
            let place = places[random.random_range(0..places.len())].clone();
            let name = NAMES[random.random_range(0..NAMES.len())];
            let path = if place.is_empty() { name.to_owned() } else { format!("{place}/{name}") };
            if tree.contains_key(&path) {
                continue;
            }
            if random.random_bool(0.3) {
                places.push(path.clone());
                tree.insert(path, None);
            } else {
                let most = if random.random_bool(0.2) { 20_000 } else { 700 };
                let bytes = (0..random.random_range(0..most)).map(|_| random.random()).collect();
                tree.insert(path, Some(bytes));
            }
        }
        let cuts = (0..random.random_range(0..6)).map(|_| random.random_range(0..12_000)).collect();
        let lie = match random.random_range(0..8) {
            0 => Some(Lie::Fails(random.random_range(1..=2))),
            1 => Some(Lie::Short),
            2 => Some(Lie::Escapes),
            _ => None,
        };
        Scenario {
            seed,
            tree,
            cuts,
            retries: random.random_range(0..8),
            verify: random.random_bool(0.3),
            changes: random.random_bool(0.2),
            lie,
        }
    }
}

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let files = self.tree.values().filter(|file| file.is_some()).count();
        writeln!(f, "  {files} files, {} directories", self.tree.len() - files)?;
        writeln!(f, "  cuts at {:?}, {} retries", self.cuts, self.retries)?;
        writeln!(f, "  verify {}, changes {}, {:?}", self.verify, self.changes, self.lie)
    }
}

/// A container, and what was told of it.
struct Container {
    state: Mutex<State>,
    scenario: Scenario,
    lines: Mutex<Vec<String>>,
}

struct State {
    random: ChaCha8Rng,
    tree: BTreeMap<String, Option<Vec<u8>>>,
    times: BTreeMap<String, i64>,
    cuts: std::vec::IntoIter<usize>,
    changes: bool,
    runs: u64,
    /// A whole archive has gone out, with the lie in it.
    has_lied: bool,
    /// Every content that a file ever had.
    ever: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Container {
    fn new(scenario: &Scenario) -> Container {
        let file = |(path, file): (&String, &Option<Vec<u8>>)| {
            file.clone().map(|bytes| (path.clone(), vec![bytes]))
        };
        let state = State {
            random: ChaCha8Rng::seed_from_u64(scenario.seed),
            tree: scenario.tree.clone(),
            times: BTreeMap::new(),
            cuts: scenario.cuts.clone().into_iter(),
            changes: scenario.changes,
            runs: 0,
            has_lied: false,
            ever: scenario.tree.iter().filter_map(file).collect(),
        };
        Container { state: Mutex::new(state), scenario: scenario.clone(), lines: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// The output of a command, and its code.
    fn output(&self, words: &[String], stdin: &[u8]) -> (Vec<u8>, u8) {
        let state = &mut *self.state();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["tar", "cf", "-", "-C", "/", "./d"] => self.archive(state, &[]),
            ["sh", "-c", script, "sh", "/"] if script.contains("sha256sum") => {
                let lines: Vec<&[u8]> = stdin.split(|byte| *byte == b'\n').collect();
                let mut text = String::new();
                for asked in lines.chunks_exact(2) {
                    let length = std::str::from_utf8(asked[0]).ok();
                    let length: usize = length.and_then(|text| text.parse().ok()).unwrap_or(0);
                    let path =
                        state.tree.iter().find(|one| name(one.0).as_bytes() == plain(asked[1]));
                    let bytes = path.and_then(|(_, file)| file.as_ref()).map(|file| &file[..]);
                    let bytes = bytes.and_then(|bytes| bytes.get(..length.min(bytes.len())));
                    let sum = bytes.and_then(|bytes| bowline_archive::sum::sha256(bytes).ok());
                    text.push_str(&format!("{}\n", sum.unwrap_or("-".to_owned())));
                }
                text.push_str(&format!("end {}\n", lines.len() / 2));
                (text.into_bytes(), 0)
            }
            ["sh", "-c", script, "sh", "/"] if script.contains("read -r") => {
                let mut out = Vec::new();
                let mut code = 0;
                let lines: Vec<&[u8]> = stdin.split(|byte| *byte == b'\n').collect();
                for names in lines.split(|name| name.is_empty()) {
                    let names: Vec<Vec<u8>> = names.iter().map(|name| plain(name)).collect();
                    if !names.is_empty() {
                        let (more, failed) = self.archive(state, &names);
                        out.extend_from_slice(&more);
                        code = code.max(failed);
                    }
                }
                (out, code)
            }
            ["dd", from, size, skip] => {
                let number = |word: &str| -> usize {
                    word.split_once('=').and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
                };
                let from = from.trim_start_matches("if=//./d").trim_start_matches('/');
                let skip = number(skip) * number(size);
                match state.tree.get(from) {
                    Some(Some(bytes)) => (bytes.get(skip..).unwrap_or_default().to_vec(), 0),
                    _ => (Vec::new(), 1),
                }
            }
            ["sh", "-c", script, "sh", "/", root, mark, from] if script.contains("stat -c") => {
                let line = |(path, file): (&String, &Option<Vec<u8>>)| {
                    let (mode, size) =
                        file.as_ref().map_or(("41ed", 0), |bytes| ("81a4", bytes.len()));
                    format!("{mode} {size} {} {}{mark}\n", state.time(path), name(path))
                };
                let is_below =
                    |path: &str| name(path) == root || name(path).starts_with(&format!("{root}/"));
                let of_root = state.tree.iter().filter(|(path, _)| is_below(path));
                let mut text: String = of_root.map(line).collect();
                text.push_str(&format!("end 0 {NOW}{mark}\n"));
                (rest(text, from), 0)
            }
            ["sh", "-c", script, "sh", "/", "./d", mark, from] if script.contains("sha256sum") => {
                let mut text = String::new();
                for (path, file) in &state.tree {
                    let Some(bytes) = file else { continue };
                    let sum = bowline_archive::sum::sha256(&bytes[..]).unwrap_or_default();
                    let escaped = name(path).replace('\\', "\\\\").replace('\n', "\\n");
                    let escape = if escaped == name(path) { "" } else { "\\" };
                    text.push_str(&format!("{escape}{sum}  {escaped}\n"));
                }
                text.push_str(&format!("end 0 0{mark}\n"));
                (rest(text, from), 0)
            }
            _ => (Vec::new(), 127),
        }
    }

    /// What tar makes of these names and all that is below them; without any, of all.
    fn archive(&self, state: &State, names: &[Vec<u8>]) -> (Vec<u8>, u8) {
        let mut out = Vec::new();
        let mut put = |name: String, file: Option<&Vec<u8>>, mtime: i64| {
            let (kind, size) =
                file.map_or((EntryKind::Directory, 0), |file| (EntryKind::File, file.len() as u64));
            let (name, link) = (name.into_bytes(), Vec::new());
            let entry = Entry { name, kind, size, mode: 0o755, mtime, link };
            let data = file.map_or(&[][..], |file| &file[..]);
            writer::entry(&entry, Owner::default(), data, &mut out);
        };
        for (path, file) in &state.tree {
            let name = name(path);
            let is_meant = |root: &Vec<u8>| {
                let rest = name.as_bytes().strip_prefix(&root[..]);
                rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
            };
            if names.is_empty() || names.iter().any(is_meant) {
                put(name, file.as_ref(), state.time(path));
            }
        }
        if self.scenario.lie == Some(Lie::Escapes) {
            put("./d/../escaped".to_owned(), Some(&vec![1]), 0);
        }
        writer::end(&mut out);
        match self.scenario.lie {
            Some(Lie::Fails(code)) => (out, code),
            Some(Lie::Short) => {
                out.truncate(out.len().saturating_sub(20 * BLOCK_BYTES + 1));
                (out, 0)
            }
            _ => (out, 0),
        }
    }
}

impl State {
    fn time(&self, path: &str) -> i64 {
        self.times.get(path).copied().unwrap_or(1_000_000_000)
    }

    /// Another content for one of the files, as long as the old one, and another time.
    fn change(&mut self) {
        let files: Vec<String> =
            self.tree.iter().filter(|one| one.1.is_some()).map(|one| one.0.clone()).collect();
        if files.is_empty() {
            return;
        }
        let path = files[self.random.random_range(0..files.len())].clone();
        if let Some(Some(bytes)) = self.tree.get_mut(&path) {
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            self.ever.entry(path.clone()).or_default().push(bytes.clone());
        }
        *self.times.entry(path).or_insert(1_000_000_000) += 1;
    }
}

fn name(path: &str) -> String {
    if path.is_empty() { "./d".to_owned() } else { format!("./d/{path}") }
}

/// A name as the shell's `printf %b` makes it of a line.
fn plain(line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut bytes = line;
    while let Some((first, more)) = bytes.split_first() {
        let octal = bytes.strip_prefix(b"\\0").and_then(|rest| rest.get(..3));
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes = if byte.is_some() { &bytes[5..] } else { more };
        plain.push(byte.unwrap_or(*first));
    }
    plain
}

/// What `tail -c` prints of a text from a byte on, counted from 1.
fn rest(text: String, from: &str) -> Vec<u8> {
    let from = from.parse::<usize>().unwrap_or(1) - 1;
    text.into_bytes().get(from..).unwrap_or_default().to_vec()
}

impl Remote for Container {
    async fn run(
        &self,
        words: Vec<String>,
        stdin: Stdin,
        mut stdout: Sink,
        _stderr: Sink,
    ) -> Result<Ended, Error> {
        let mut input = Vec::new();
        if let Some(mut stdin) = stdin {
            let read = stdin.read_to_end(&mut input).await;
            read.map_err(|error| Error::End(EndError::Read(error)))?;
        }
        let (output, code) = self.output(&words, &input);
        let cut = {
            let state = &mut *self.state();
            state.runs += 1;
            if state.runs > 1 && std::mem::take(&mut state.changes) {
                state.change();
            }
            let cut = state.cuts.next().filter(|cut| *cut < output.len());
            let is_archive = words[0] == "tar" || words.len() == 5;
            state.has_lied |= is_archive && cut.is_none();
            cut
        };
        // A mark is another one each time.
        let is_script = words.first().is_some_and(|word| word == "sh");
        let shown = &words[..words.len().min(if is_script { 6 } else { usize::MAX })];
        self.note(format!("{shown:?}: {} bytes, code {code}, cut {cut:?}", output.len()));
        let mut rest = &output[..cut.unwrap_or(output.len())];
        while !rest.is_empty() {
            let most = self.state().random.random_range(1..3000).min(rest.len());
            let wrote = stdout.write_all(&rest[..most]).await;
            wrote.map_err(|error| Error::End(EndError::Write("stdout", error)))?;
            rest = &rest[most..];
        }
        Ok(match (cut, code) {
            (Some(_), _) => Ended::Lost { loss: Loss::new(Cause::Cut, ""), received_bytes: 0 },
            (None, 0) => Ended::Known(Outcome::Success),
            (None, code) => Ended::Known(Outcome::Exited(code)),
        })
    }
}

struct Nobody;

impl Watcher for Nobody {
    fn total(&self, _: Option<u64>) {}
    fn file(&self, _: &[u8]) {}
    fn bytes(&self, _: u64) {}
    fn position(&self, _: u64) {}
    fn problem(&self, _: &Problem) {}
    fn stderr_line(&self, _: &[u8]) {}
    fn resumes(&self, _: u64, _: u64, _: &str) {}
    fn note(&self, _: &str) {}
}

/// Plays a scenario; keeps its lines if `keeps_lines`.
#[must_use]
pub fn run(scenario: &Scenario, keeps_lines: bool) -> Verdict {
    match played(scenario, keeps_lines) {
        Ok(verdict) => verdict,
        Err(error) => {
            let broken = Some(Broken { promise: Promise::Repeatable, how: error.to_string() });
            Verdict { broken, steps: 0, fingerprint: 0, lines: vec![], end: String::new() }
        }
    }
}

fn played(scenario: &Scenario, keeps_lines: bool) -> std::io::Result<Verdict> {
    let place = std::env::temp_dir().join(format!(
        "bowline-sim-{}-{}-{:?}",
        std::process::id(),
        scenario.seed,
        std::thread::current().id()
    ));
    fs::create_dir(&place)?;
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let container = Container::new(scenario);
    let mut options = Options::new();
    options.retries = Some(scenario.retries);
    options.verify = scenario.verify;
    options.symlinks = true;
    let target = place.join("target");
    let copy = download(&container, "/d", &target, &options, Arc::new(Nobody));
    let result = runtime.block_on(async { timeout(PATIENCE, copy).await });
    let broken = judge(scenario, &container, &place, result.ok());
    fs::remove_dir_all(&place)?;
    let lines = container.lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    let fingerprint = lines
        .iter()
        .flat_map(|line| line.bytes())
        .fold(0, |sum: u64, byte| sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte)));
    let steps = lines.len() as u64;
    let lines = if keeps_lines { lines } else { Vec::new() };
    Ok(Verdict { broken, steps, fingerprint, lines, end: String::new() })
}

fn judge(
    scenario: &Scenario,
    container: &Container,
    place: &Path,
    result: Option<Result<(), CopyError>>,
) -> Option<Broken> {
    let broken = |promise, how: String| Some(Broken { promise, how });
    let Some(result) = result else {
        return broken(Promise::Awake, "the copy does not end".to_owned());
    };
    container.note(format!("{result:?}"));
    let target = place.join("target");
    let names = fs::read_dir(place).into_iter().flatten().flatten().count();
    if names != usize::from(target.exists()) {
        return broken(Promise::NothingHeld, "something is left beside the target".to_owned());
    }
    let state = container.state();
    // Whatever has its name is what the container had at some time, and whole.
    for path in scenario.tree.keys() {
        let here = target.join(OsStr::from_bytes(path.as_bytes()));
        let Ok(bytes) = fs::read(&here) else { continue };
        if !state.ever.get(path).is_some_and(|ever| ever.contains(&bytes)) {
            return broken(Promise::OnceAndInOrder, format!("{path:?} was never so"));
        }
    }
    let is_whole = scenario.tree.iter().all(|(path, file)| {
        let here = target.join(OsStr::from_bytes(path.as_bytes()));
        if file.is_some() { here.is_file() } else { here.is_dir() }
    });
    match (&result, scenario.lie) {
        // All that a short archive had may have come, and the comparison has said so.
        (Ok(()), Some(lie)) if state.has_lied && lie != Lie::Short => {
            return broken(Promise::TrueOutcome, format!("good, for all that {lie:?}"));
        }
        (Ok(()), _) if !is_whole => {
            return broken(Promise::TrueOutcome, "good, and something is missing".to_owned());
        }
        (Err(error), None) => {
            // A change between copy and comparison is one that is told. The other files have their
            // names then.
            if scenario.changes && matches!(error, CopyError::Changed { .. }) {
                return None;
            }
            let told = scenario.changes && matches!(error, CopyError::Unequal(_));
            let cut = matches!(error, CopyError::Lost { .. });
            if !(told || cut && scenario.retries < scenario.cuts.len() as u64) {
                return broken(Promise::Delivered, format!("{error} without a reason"));
            }
            if target.exists() {
                return broken(Promise::TrueOutcome, "lost, and it looks complete".to_owned());
            }
        }
        _ => {}
    }
    None
}
