//! Any log, written in any pieces and rotated anywhere, is read as a plain model reads it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;

use http_body_util::BodyExt;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::lines::LogLines;
use crate::log_options::Options;
use crate::runtime::{LINE_BYTES, Source};

/// A record of a log file: one of stdout, or of stderr; a part of a line, or the rest of it.
#[derive(Clone, Copy, Debug)]
struct Written {
    source: Source,
    is_partial: bool,
    length: usize,
}

fn written() -> impl Strategy<Value = Vec<Written>> {
    let length = prop_oneof![8 => 0..60_usize, 2 => 0..20_000_usize];
    let one = (any::<bool>(), any::<bool>(), length).prop_map(|(is_stdout, is_partial, length)| {
        let source = if is_stdout { Source::Stdout } else { Source::Stderr };
        Written { source, is_partial, length }
    });
    proptest::collection::vec(one, 0..40).prop_map(|mut all| {
        // Longer lines are given in parts, and what comes between these is given between them.
        let mut lengths = [0, 0];
        for one in &mut all {
            let length = &mut lengths[one.source as usize];
            *length += one.length;
            one.is_partial &= *length < LINE_BYTES - 20_000;
            if !one.is_partial {
                *length = 0;
            }
        }
        all
    })
}

/// Makes the records of a log file.
fn records(all: &[Written]) -> Vec<Vec<u8>> {
    let record = |(number, one): (usize, &Written)| {
        let name = if one.source == Source::Stdout { "stdout" } else { "stderr" };
        let tag = if one.is_partial { "P" } else { "F" };
        let zone = if number % 2 == 0 { "Z" } else { "+02:00" };
        let content = content(number, one.length);
        format!("2026-01-31T12:00:00.{number:03}{zone} {name} {tag} {content}\n").into_bytes()
    };
    all.iter().enumerate().map(record).collect()
}

fn content(number: usize, length: usize) -> String {
    format!("{number}-").chars().cycle().take(length).collect()
}

/// Returns the lines in the order in which they end, and the unfinished ones behind them.
fn lines(all: &[Written], wanted: Option<Source>) -> Vec<String> {
    let (mut lines, mut unfinished) = (Vec::new(), [String::new(), String::new()]);
    for (number, one) in all.iter().enumerate() {
        if wanted.is_some_and(|wanted| wanted != one.source) {
            continue;
        }
        let line = &mut unfinished[one.source as usize];
        line.push_str(&content(number, one.length));
        if !one.is_partial {
            lines.push(std::mem::take(line) + "\n");
        }
    }
    lines.extend(unfinished.into_iter().filter(|line| !line.is_empty()));
    lines
}

/// A log that is open to be followed, and the file that its runtime writes.
struct Followed {
    directory: TempDir,
    files: Rotated,
    writer: File,
    rotations: u32,
    /// How many rotations it has not seen.
    unseen: u32,
    found: Vec<LogRecord>,
}

/// Returns when the clock of the files shows another time than that of the beginning of a file.
/// Real rotations are seconds apart.
pub(super) fn after(path: &Path) {
    let began = path.metadata().unwrap().created().unwrap();
    let is_later = || {
        let probe = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
        probe.as_file().metadata().unwrap().created().unwrap() > began
    };
    while !is_later() {}
}

impl Followed {
    fn new(keeps_times: bool) -> Followed {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let writer = File::create(&path).unwrap();
        let (path, file, _) = find(&path).unwrap();
        let form = Form { source: None, keeps_times };
        let files = Rotated::new(path, file, None, form, Instant::now());
        Followed { directory, files, writer, rotations: 0, unseen: 0, found: Vec::new() }
    }

    fn rotate(&mut self) {
        // Who has not looked meanwhile reads one of both, and has missed the other.
        if self.unseen == 2 {
            self.look();
        }
        let path = self.directory.path().join("0.log");
        let renamed = |number| format!("{}.20260131-{number:06}", path.display());
        after(&path);
        let _ = fs::remove_file(renamed(self.rotations));
        self.rotations += 1;
        self.unseen += 1;
        fs::rename(&path, renamed(self.rotations)).unwrap();
        after(Path::new(&renamed(self.rotations)));
        self.writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    }

    fn look(&mut self) {
        while let Batch::Records(records) = self.files.next(Instant::now()).unwrap() {
            self.found.extend(records);
        }
        self.unseen = 0;
    }
}

impl LogRecords for std::vec::IntoIter<LogRecord> {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<io::Result<LogRecord>>> {
        Poll::Ready(self.next().map(Ok))
    }
}

fn text(log: Log, query: &str) -> String {
    let lines = LogLines::new("c", log, Options::parse(query).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bytes = runtime.block_on(lines.collect()).unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_followed_log_is_whole(
        all in written(),
        keeps_times: bool,
        // After each record: cut it there, look there, rotate behind it.
        steps in proptest::collection::vec((0..100_usize, any::<bool>(), 0..10_u8), 40),
    ) {
        let mut followed = Followed::new(keeps_times);
        for (record, (cut, looks, turn)) in records(&all).iter().zip(steps) {
            let (first, rest) = record.split_at(record.len() * cut / 100);
            followed.writer.write_all(first).unwrap();
            if looks {
                followed.look();
            }
            followed.writer.write_all(rest).unwrap();
            if turn == 0 {
                followed.rotate();
            }
        }
        followed.look();
        let records = Box::new(followed.found.into_iter());
        let read = text(Log { records, skip_lines: 0 }, "");
        prop_assert!(read == lines(&all, None).concat(), "{} bytes", read.len());
    }

    #[test]
    fn a_tail_is_the_last_lines(mut all in written(), tail in 0..20_usize, one: Option<bool>) {
        // What is unfinished counts if it is met; here everything is finished.
        for source in [Source::Stdout, Source::Stderr] {
            all.push(Written { source, is_partial: false, length: 3 });
        }
        let wanted = one.map(|one| if one { Source::Stdout } else { Source::Stderr });
        let mut file = tempfile::tempfile().unwrap();
        let bytes = records(&all).concat();
        file.write_all(&bytes).unwrap();
        let mut search = Search::new(bytes.len() as u64, tail as u64, wanted);
        let found = std::iter::from_fn(|| Some(search.step(&file).unwrap())).flatten().next();
        let Tail { offset, skip_lines } = found.unwrap();
        let mut records = Vec::new();
        let from = bytes::BytesMut::from(&bytes[usize::try_from(offset).unwrap()..]);
        let form = Form { source: wanted, keeps_times: false };
        format::Parser::default().parse(from, form, &mut records);
        let read = text(Log { records: Box::new(records.into_iter()), skip_lines }, "");
        let expected = lines(&all, wanted);
        let expected = expected[expected.len().saturating_sub(tail)..].concat();
        prop_assert!(read == expected, "{read:.300}\n---\n{expected:.300}");
    }

    #[test]
    fn anything_is_read_to_its_end(
        bytes: Vec<u8>,
        cuts in proptest::collection::vec(0..64_usize, 0..8),
    ) {
        let (mut parser, mut rest) = (format::Parser::default(), bytes::BytesMut::new());
        let (mut records, mut left) = (Vec::new(), &bytes[..]);
        for cut in cuts.into_iter().chain([bytes.len()]) {
            let (first, behind) = left.split_at(cut.min(left.len()));
            left = behind;
            rest.extend_from_slice(first);
            rest = parser.parse(rest, Form::default(), &mut records);
            prop_assert!(rest.len() < format::HEAD_BYTES);
        }
        let read: usize = records.iter().map(|record| record.bytes.len()).sum();
        prop_assert!(read <= bytes.len());
    }
}
