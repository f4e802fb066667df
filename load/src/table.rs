//! Rows to a table on stdout, progress to a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// One line's result.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub sessions: u64,
    pub failed: u64,
    begun: Instant,
    wall: Option<Duration>,
    /// The largest resident memory of gateway and node.
    pub gateway_peak_kib: u64,
    pub node_peak_kib: u64,
    /// Whether everything is as before the line.
    pub baseline: Option<bool>,
    /// Numbers of this line alone.
    pub notes: Vec<String>,
    /// What is wrong.
    pub faults: Vec<String>,
}

/// As many reasons as anybody reads.
const FAULTS_SHOWN: usize = 8;

impl Row {
    pub fn new(name: &'static str) -> Row {
        Row {
            name,
            sessions: 0,
            failed: 0,
            begun: Instant::now(),
            wall: None,
            gateway_peak_kib: 0,
            node_peak_kib: 0,
            baseline: None,
            notes: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// A line that could not be run to its end.
    pub fn broken(name: &'static str, error: &anyhow::Error) -> Row {
        let mut row = Row::new(name);
        row.fault(format!("{error:#}"));
        row
    }

    /// From here on it counts.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// The sessions are over; what comes now is looking.
    pub fn end(&mut self) {
        self.wall = Some(self.begun.elapsed());
    }

    pub fn wall(&self) -> Duration {
        self.wall.unwrap_or_else(|| self.begun.elapsed())
    }

    /// One session's end.
    pub fn session(&mut self, result: Result<(), String>) {
        self.sessions += 1;
        if let Err(fault) = result {
            self.failed += 1;
            self.fault(fault);
        }
        if self.sessions.is_multiple_of(50) {
            progress(&format!("{}: {} sessions", self.name, self.sessions));
        }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// A number that must not be above another.
    pub fn at_most(&mut self, what: &str, number: f64, limit: f64, unit: &str) {
        self.note(format!("{what} {number:.1} of at most {limit:.1} {unit}"));
        if number > limit {
            self.fault(format!("{what}: {number:.1} {unit} is above {limit:.1}"));
        }
    }

    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.faults.is_empty()
    }
}

/// Says on a terminal how far it is.
pub fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
    }
}

pub fn clear_progress() {
    progress("");
}

/// Prints all; whether all are good.
pub fn print(rows: &[Row]) -> bool {
    println!("| line | sessions | failed | wall | gateway peak | node peak | baseline | more |");
    println!("|---|--:|--:|--:|--:|--:|---|---|");
    for row in rows {
        let baseline = match row.baseline {
            Some(true) => "back",
            Some(false) => "NOT back",
            None => "not looked at",
        };
        println!(
            "| {} | {} | {} | {:.1} s | {} | {} | {baseline} | {} |",
            row.name,
            row.sessions,
            row.failed,
            row.wall().as_secs_f64(),
            mib(row.gateway_peak_kib),
            mib(row.node_peak_kib),
            row.notes.join("; "),
        );
    }
    for row in rows.iter().filter(|row| !row.is_good()) {
        println!("\n{} FAILED", row.name);
        for fault in row.faults.iter().take(FAULTS_SHOWN) {
            println!("  {fault}");
        }
        if row.faults.len() > FAULTS_SHOWN {
            println!("  and {} more", row.faults.len() - FAULTS_SHOWN);
        }
    }
    rows.iter().all(Row::is_good)
}

/// Memory for people; a part that is not there has none.
pub fn mib(kib: u64) -> String {
    if kib == 0 {
        return "–".to_owned();
    }
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
