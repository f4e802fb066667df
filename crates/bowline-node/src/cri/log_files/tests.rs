//! Real files, written and rotated as runtimes and kubelets do it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;
use tokio::time::timeout;

use super::properties::after;
use super::*;
use crate::lines::{LogLines, PIECE_BYTES};
use crate::log_options::Options;

/// How long something may take that goes well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A container's log in a directory of its own.
struct Container {
    directory: TempDir,
    path: PathBuf,
    is_running: Arc<AtomicBool>,
    rotations: u32,
}

impl Container {
    fn new(text: impl AsRef<[u8]>) -> Container {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        fs::write(&path, text).unwrap();
        let is_running = Arc::new(AtomicBool::new(true));
        Container { directory, path, is_running, rotations: 0 }
    }

    /// Opens the file at the path, as a runtime does.
    fn writer(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.path).unwrap()
    }

    /// Renames the log as a kubelet does, and compresses what it renamed before.
    fn rename(&mut self) {
        after(&self.path);
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path != self.path && path.extension().is_some_and(|end| end != "gz") {
                fs::write(format!("{}.gz", path.display()), "compressed").unwrap();
                fs::remove_file(path).unwrap();
            }
        }
        self.rotations += 1;
        let renamed = format!("0.log.20260131-{:06}", self.rotations);
        let renamed = self.path.with_file_name(renamed);
        fs::rename(&self.path, &renamed).unwrap();
        after(&renamed);
    }

    fn remove_compressed(&self) {
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "gz") {
                fs::remove_file(path).unwrap();
            }
        }
    }

    fn is_running(&self) -> IsRunning {
        let is_running = Arc::clone(&self.is_running);
        Box::new(move || {
            let answer = is_running.load(Ordering::SeqCst);
            Box::pin(async move { Ok(answer) })
        })
    }

    async fn lines(&self, query: &str) -> LogLines {
        self.lines_asking(query, self.is_running()).await
    }

    async fn lines_asking(&self, query: &str, is_running: IsRunning) -> LogLines {
        let options = Options::parse(query).unwrap();
        let log = open(&self.path, options.request, is_running).await.unwrap();
        LogLines::new("c", log, options)
    }

    async fn read(&self, query: &str) -> String {
        let read = self.lines(query).await.collect().await.unwrap().to_bytes();
        String::from_utf8(read.to_vec()).unwrap()
    }

    async fn refusal(&self) -> String {
        let log = open(&self.path, LogRequest::default(), self.is_running()).await;
        log.unwrap_err().to_string()
    }
}

/// Asks a runtime that never answers.
fn stuck() -> IsRunning {
    Box::new(|| Box::pin(std::future::pending()))
}

async fn frame(lines: &mut LogLines) -> String {
    let frame = timeout(PATIENCE, lines.frame()).await.unwrap();
    let bytes: Bytes = frame.unwrap().unwrap().into_data().unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A line of a log file, a second after the last one of the same minute.
fn line(seconds: usize, source: &str, tag: &str, content: &str) -> String {
    format!("2026-01-31T12:00:{seconds:02}.5Z {source} {tag} {content}\n")
}

fn log(records: &[(&str, &str, &str)]) -> String {
    let number = records.iter().enumerate();
    number.map(|(seconds, (source, tag, content))| line(seconds, source, tag, content)).collect()
}

#[tokio::test]
async fn lines_of_both_outputs_are_put_together() {
    let container = Container::new(log(&[
        ("stdout", "P", "one "),
        ("stderr", "F", "error 1"),
        ("stderr", "P:x", "er"),
        ("stdout", "F:y", "line"),
        ("stdout", "F", ""),
        ("stdout", "P", "thr"),
        ("stderr", "F", "ror 2"),
    ]));
    assert_eq!(container.read("").await, "error 1\none line\n\nerror 2\nthr");
    assert_eq!(container.read("stream=Stderr").await, "error 1\nerror 2\n");
    assert_eq!(container.read("limitBytes=12").await, "error 1\none ");
    assert_eq!(container.read("sinceTime=2026-01-31T12:00:02Z").await, "\nerror 2\nthr");
    let stamped = "2026-01-31T12:00:02.500000000Z error 2\n2026-01-31T12:00:05.500000000Z thr";
    assert_eq!(container.read("timestamps=1&tailLines=2").await, stamped);
    assert_eq!(Container::new("").read("").await, "");
}

#[tokio::test]
async fn a_tail_begins_where_its_lines_begin() {
    let container = Container::new(log(&[
        ("stderr", "F", "e1"),
        ("stdout", "P", "o"),
        ("stderr", "F", "e2"),
        ("stdout", "F", "1"),
        ("stdout", "P", "o"),
        ("stdout", "P", "2"),
        ("stderr", "F", "e3"),
        ("stdout", "P", "..."),
    ]));
    for (lines, expected) in [
        (0, ""),
        (1, "o2..."),
        (2, "e3\no2..."),
        (3, "o1\ne3\no2..."),
        (4, "e2\no1\ne3\no2..."),
        (5, "e1\ne2\no1\ne3\no2..."),
        (99, "e1\ne2\no1\ne3\no2..."),
    ] {
        assert_eq!(container.read(&format!("tailLines={lines}")).await, expected, "{lines}");
    }
    assert_eq!(container.read("tailLines=1&stream=Stderr").await, "e3\n");
    assert_eq!(container.read("tailLines=2&stream=Stdout").await, "o1\no2...");
    let both = Container::new(log(&[("stdout", "P", "a"), ("stderr", "P", "b")]));
    assert_eq!(both.read("tailLines=1").await, "b");
}

/// It is asked for in the middle of a line, of a part of one, and of a head.
#[tokio::test]
async fn a_tail_of_nothing_begins_with_the_next_line() {
    for cut in ["2026-01-31T12:00:00Z stdout F o", "2026-01-31T12:00:00Z stdout P o\n"] {
        let container = Container::new(cut);
        let mut lines = container.lines_asking("follow=1&tailLines=0", stuck()).await;
        let rest = if cut.ends_with('\n') { line(1, "stdout", "F", "ne") } else { "ne\n".into() };
        write!(container.writer(), "{rest}{}", line(2, "stdout", "F", "two")).unwrap();
        assert_eq!(frame(&mut lines).await, "two\n");
    }
    let container = Container::new("2026-01-31T12:0");
    let mut lines = container.lines_asking("follow=1&tailLines=0", stuck()).await;
    writeln!(container.writer(), "0:00Z stdout F one").unwrap();
    assert_eq!(frame(&mut lines).await, "one\n");
}

#[tokio::test]
async fn a_line_in_another_form_is_passed_over() {
    let good = line(0, "stdout", "F", "good");
    for bad in [
        "",
        "\0\0\0\0",
        "2026-01-31T12:00:00Z stdout F",
        "2026-01-31T12:00:00Z stdnone F x",
        "yesterday stdout F x",
        "2026-01-31T12:00:00Z  stdout F x",
        "{\"log\":\"x\",\"stream\":\"stdout\"}",
    ] {
        let container = Container::new(format!("{good}{bad}\n{good}"));
        assert_eq!(container.read("").await, "good\ngood\n", "{bad}");
        assert_eq!(container.read("tailLines=2").await, "good\ngood\n", "{bad}");
        let path = container.path.display();
        let text = format!("failed to read log file \"{path}\": unsupported log format: {bad:?}");
        assert_eq!(Container::new(format!("{bad}\n")).refusal().await.len(), text.len());
    }
}

#[tokio::test]
async fn what_is_no_log_is_refused_in_the_kubelets_words() {
    let container = Container::new("");
    fs::remove_file(&container.path).unwrap();
    let path = container.path.display().to_string();
    let text = container.refusal().await;
    let expected = format!(
        "failed to try resolving symlinks in path {path:?}: lstat {path}: no such file or directory"
    );
    assert_eq!(text, expected);
    mkfifoat(CWD, &container.path, Mode::RUSR).unwrap();
    let text = container.refusal().await;
    assert_eq!(text, format!("failed to open log file {path:?}: not a regular file"));
    fs::remove_file(&container.path).unwrap();
    fs::write(container.directory.path().join("file"), line(0, "stdout", "F", "x")).unwrap();
    std::os::unix::fs::symlink("file", &container.path).unwrap();
    assert_eq!(container.read("").await, "x\n");
}

#[tokio::test]
async fn an_answer_ends_where_the_log_ended_when_it_was_asked_for() {
    let piece = line(0, "stdout", "F", &"x".repeat(999));
    let container = Container::new(piece.repeat(300) + &line(1, "stdout", "F", "last")[..37]);
    let mut writer = container.writer();
    let mut lines = container.lines("").await;
    writer.write_all(b"st\n").unwrap();
    let mut read = String::new();
    while let Some(frame) = lines.frame().await {
        read.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        writer.write_all(piece.as_bytes()).unwrap();
    }
    assert_eq!(read.lines().count(), 301);
    assert!(read.ends_with("\nlast\n"));
}

/// No time passes: it does not have to look again and again.
#[tokio::test(start_paused = true)]
async fn a_follower_is_woken_by_what_is_written() {
    let begun = Instant::now();
    let container = Container::new(line(0, "stdout", "F", "one"));
    let mut lines = container.lines_asking("follow=1", stuck()).await;
    assert_eq!(frame(&mut lines).await, "one\n");
    let mut writer = container.writer();
    for word in ["two", "three"] {
        let line = line(0, "stderr", "F", word);
        let (first, rest) = line.split_at(11);
        writer.write_all(first.as_bytes()).unwrap();
        writer.write_all(rest.as_bytes()).unwrap();
        assert_eq!(frame(&mut lines).await, format!("{word}\n"));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// It is looked at after pauses then.
#[tokio::test]
async fn a_log_that_grows_line_by_line_is_followed() {
    let container = Container::new("");
    let mut lines = container.lines_asking("follow=1", stuck()).await;
    let mut writer = container.writer();
    for number in 0..100 {
        writer.write_all(line(0, "stdout", "F", &number.to_string()).as_bytes()).unwrap();
        assert_eq!(frame(&mut lines).await, format!("{number}\n"));
    }
}

#[tokio::test]
async fn a_follower_ends_with_its_container() {
    let container = Container::new(line(0, "stdout", "F", "one"));
    let mut lines = container.lines("follow=1").await;
    assert_eq!(frame(&mut lines).await, "one\n");
    write!(container.writer(), "{}", line(0, "stdout", "P", "tw")).unwrap();
    container.is_running.store(false, Ordering::SeqCst);
    assert_eq!(lines.collect().await.unwrap().to_bytes(), "tw");
    let over = container.read("follow=1&tailLines=1").await;
    assert_eq!(over, "tw");
}

/// The system has only so many watches.
#[tokio::test(start_paused = true)]
async fn a_follower_without_notices_looks_again() {
    let mut container = Container::new("");
    let options = Options::parse("follow=1").unwrap();
    let watch = |_: &Path| Err(io::Error::other("too many"));
    let log = open_watched(&container.path, options.request, container.is_running(), watch).await;
    let mut lines = LogLines::new("c", log.unwrap(), options);
    write!(container.writer(), "{}", line(0, "stdout", "F", "one")).unwrap();
    assert_eq!(frame(&mut lines).await, "one\n");
    container.rename();
    write!(container.writer(), "{}", line(0, "stdout", "F", "two")).unwrap();
    assert_eq!(frame(&mut lines).await, "two\n");
    container.is_running.store(false, Ordering::SeqCst);
    assert!(lines.frame().await.is_none());
}

#[tokio::test]
async fn a_runtime_that_does_not_say_whether_the_container_runs_cuts_the_log_off() {
    let container = Container::new(line(0, "stdout", "F", "one"));
    let failing: IsRunning = Box::new(|| Box::pin(async { Err(io::Error::other("no runtime")) }));
    let mut lines = container.lines_asking("follow=1", failing).await;
    assert_eq!(frame(&mut lines).await, "one\n");
    assert_eq!(lines.frame().await.unwrap().unwrap_err().to_string(), "no runtime");
    assert!(lines.frame().await.is_none());
}

#[tokio::test]
async fn a_follower_goes_on_in_the_next_file_and_loses_nothing_of_the_last_one() {
    let mut container = Container::new(line(0, "stdout", "F", "one"));
    let mut old = container.writer();
    let mut lines = container.lines_asking("follow=1", stuck()).await;
    assert_eq!(frame(&mut lines).await, "one\n");
    container.rename();
    write!(old, "{}", line(1, "stdout", "F", "between")).unwrap();
    assert_eq!(frame(&mut lines).await, "between\n");
    let mut new = container.writer();
    write!(old, "{}", line(2, "stdout", "P", "la")).unwrap();
    write!(new, "{}", line(3, "stdout", "F", "te")).unwrap();
    assert_eq!(frame(&mut lines).await, "late\n");
    write!(old, "{}", line(4, "stdout", "F", "later")).unwrap();
    assert_eq!(frame(&mut lines).await, "later\n");
}

/// It reads what is between the last file that it has read and the newest, or says that it cannot.
#[tokio::test]
async fn a_follower_that_is_too_slow_for_rotations_is_told() {
    let words = ["two", "three", "four"];
    for (rotations, is_kept) in [(2, true), (2, false), (3, true), (3, false)] {
        let mut container = Container::new(line(0, "stdout", "F", "one"));
        let mut lines = container.lines_asking("follow=1", stuck()).await;
        for word in &words[..rotations] {
            container.rename();
            if !is_kept {
                container.remove_compressed();
            }
            write!(container.writer(), "{}", line(0, "stdout", "F", word)).unwrap();
        }
        let whole: String =
            ["one"].iter().chain(&words[..rotations]).map(|w| format!("{w}\n")).collect();
        let mut read = String::new();
        let fault = loop {
            if read == whole {
                break None;
            }
            match lines.frame().await.unwrap() {
                Ok(frame) => read += std::str::from_utf8(&frame.into_data().unwrap()).unwrap(),
                Err(fault) => break Some(fault.to_string()),
            }
        };
        // Its own look may come between any two rotations: then there is nothing to tell.
        assert!(whole.starts_with(&read), "{read:?}");
        assert!(rotations == 3 || fault.is_none(), "{fault:?} behind {read:?}");
        assert!(fault.as_deref().is_none_or(|fault| fault.contains("too slow")), "{fault:?}");
    }
}

/// Some runtimes put a new file in the place of one that has become too long.
#[tokio::test]
async fn a_follower_goes_on_where_a_log_is_replaced() {
    let mut container = Container::new(line(0, "stdout", "F", "one"));
    container.rename();
    write!(container.writer(), "{}", line(0, "stdout", "F", "two")).unwrap();
    let mut lines = container.lines_asking("follow=1", stuck()).await;
    assert_eq!(frame(&mut lines).await, "two\n");
    after(&container.path);
    let next = container.path.with_extension("tmp");
    fs::write(&next, line(0, "stdout", "F", "three")).unwrap();
    fs::rename(&next, &container.path).unwrap();
    assert_eq!(frame(&mut lines).await, "three\n");
}

#[tokio::test]
async fn a_log_that_became_shorter_is_read_from_its_beginning() {
    let container = Container::new(line(0, "stdout", "F", "one, and more of it"));
    let mut lines = container.lines_asking("follow=1", stuck()).await;
    frame(&mut lines).await;
    fs::write(&container.path, line(1, "stdout", "F", "two")).unwrap();
    assert_eq!(frame(&mut lines).await, "two\n");
}

#[tokio::test]
async fn endless_lines_come_in_pieces() {
    let bytes = 10 * 1024 * 1024;
    let container = Container::new(format!("2026-01-31T12:00:00Z stdout F {}", "x".repeat(bytes)));
    for query in ["", "timestamps=1", "tailLines=1", "follow=1"] {
        container.is_running.store(false, Ordering::SeqCst);
        let mut lines = container.lines(query).await;
        let mut read = 0;
        while let Some(frame) = lines.frame().await {
            let frame = frame.unwrap().into_data().unwrap();
            assert!(frame.len() <= 3 * PIECE_BYTES);
            read += frame.iter().filter(|byte| **byte == b'x').count();
        }
        assert_eq!(read, bytes, "{query}");
    }
    for other in [vec![b'x'; bytes], vec![0; bytes], vec![b'\n'; bytes], vec![b' '; bytes]] {
        let text = Container::new(other).refusal().await;
        assert!(text.contains("unsupported log format") && text.len() < 2000, "{text}");
    }
}

/// What is no text stays as it is.
#[tokio::test]
async fn any_bytes_are_content() {
    let mut bytes: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    let mut file = b"2026-01-31T12:00:00Z stdout F ".to_vec();
    bytes.push(b'\n');
    file.extend_from_slice(&bytes);
    let lines = Container::new(file).lines("").await;
    assert_eq!(lines.collect().await.unwrap().to_bytes(), bytes);
}
