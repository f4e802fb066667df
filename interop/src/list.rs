//! The list: what a session must show to any client, through any gateway, from any node.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::{Client, Input, noise_digest};
use crate::console::Console;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    /// Of the transfers.
    pub times: usize,
    /// Bytes through `cat`, both ways.
    pub both_ways: u64,
    /// Bytes in one direction.
    pub one_way: u64,
    /// Of the truncated outputs with an exit code.
    pub truncations: usize,
}

/// What a test of every day takes.
pub const SMALL: Amounts =
    Amounts { times: 2, both_ways: 3_000_000, one_way: 10_000_000, truncations: 5 };
/// What interoperation takes.
pub const FULL: Amounts =
    Amounts { times: 20, both_ways: 20_000_000, one_way: 200_000_000, truncations: 50 };

/// A point of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// stdout and stderr apart.
    Apart,
    /// Exit codes and death by signal.
    ExitCodes,
    /// Much data through `cat`, both ways at once.
    BothWays,
    /// Very much data in.
    In,
    /// Very much data out.
    Out,
    /// All output before an exit code.
    Truncation,
    /// The end of stdin reaches the command.
    HalfClose,
    /// stdin to a file by a command whose stdout is closed.
    ToFile,
    /// stdin to a command that ignores it.
    Ignored,
    /// The size of the terminal, as the very first command sees it.
    Size,
    /// A change of the size, Ctrl-C, Ctrl-D.
    Terminal,
    /// A binary that is not there.
    Missing,
}

/// All of them.
pub const POINTS: [Point; 12] = [
    Point::Apart,
    Point::ExitCodes,
    Point::BothWays,
    Point::In,
    Point::Out,
    Point::Truncation,
    Point::HalfClose,
    Point::ToFile,
    Point::Ignored,
    Point::Size,
    Point::Terminal,
    Point::Missing,
];

/// Checks all points but the known shortfalls of the parts at hand.
pub fn check(client: &Client, amounts: &Amounts, except: &[Point]) {
    let except: BTreeSet<_> = except.iter().copied().collect();
    for point in POINTS.into_iter().filter(|point| !except.contains(point)) {
        let begun = std::time::Instant::now();
        one(client, amounts, point);
        println!("{}: {point:?}: {:.1} s", client.name, begun.elapsed().as_secs_f64());
    }
}

/// Checks one point.
pub fn one(client: &Client, amounts: &Amounts, point: Point) {
    match point {
        Point::Apart => apart(client),
        Point::ExitCodes => exit_codes(client),
        Point::BothWays => both_ways(client, amounts),
        Point::In => data_in(client, amounts),
        Point::Out => data_out(client, amounts),
        Point::Truncation => truncation(client, amounts.truncations),
        Point::HalfClose => half_close(client),
        Point::ToFile => to_file(client),
        Point::Ignored => ignored(client),
        Point::Size => size(client),
        Point::Terminal => terminal(client),
        Point::Missing => missing(client),
    }
}

fn apart(client: &Client) {
    let left = client.run(&[], &["sh", "-c", "echo out; echo err >&2"], Input::Nothing);
    assert!(left.status.success(), "{}: {left:?}", client.name);
    assert_eq!(left.stdout, b"out\n", "{}", client.name);
    // kubectl before 1.34 may take the empty message that each server begins with before it has
    // made its streams, says so, and goes on.
    let said = left.stderr.lines().filter(|line| !line.ends_with(", discarding message"));
    assert_eq!(said.collect::<Vec<_>>(), ["err"], "{}", client.name);
}

fn exit_codes(client: &Client) {
    for code in [0, 1, 7, 42, 126, 127, 255] {
        let left = client.run(&[], &["sh", "-c", &format!("exit {code}")], Input::Nothing);
        assert_eq!(left.status.code(), Some(code), "{}: {left:?}", client.name);
        let said = left.stderr.contains(&format!("command terminated with exit code {code}\n"));
        assert_eq!(said, code != 0, "{}: {left:?}", client.name);
    }
    // Death by signal, as runtimes report it: 128 and the signal's number.
    for (signal, code) in [("KILL", 137), ("TERM", 143)] {
        let command = format!("kill -{signal} $$; while :; do :; done");
        let left = client.run(&[], &["sh", "-c", &command], Input::Nothing);
        assert_eq!(left.status.code(), Some(code), "{}: {left:?}", client.name);
    }
}

fn both_ways(client: &Client, amounts: &Amounts) {
    let expected = noise_digest(amounts.both_ways);
    for time in 1..=amounts.times {
        let left = client.hashed(&["-i"], &["cat"], Input::Noise(amounts.both_ways));
        assert_eq!(left.bytes, amounts.both_ways, "{}: time {time}: {left:?}", client.name);
        assert_eq!(left.digest, expected, "{}: time {time}", client.name);
        assert!(left.status.success(), "{}: time {time}: {left:?}", client.name);
    }
}

/// How much goes in one direction at each time: all of it once, for what grows with the amount;
/// then less, for what differs from one time to the next: the beginning and the end.
fn one_way(amounts: &Amounts) -> impl Iterator<Item = (usize, u64)> {
    let amounts = *amounts;
    (1..=amounts.times)
        .map(move |time| (time, if time == 1 { amounts.one_way } else { amounts.one_way / 10 }))
}

fn data_in(client: &Client, amounts: &Amounts) {
    for (time, bytes) in one_way(amounts) {
        let expected = format!("{}  -\n", noise_digest(bytes));
        let left = client.run(&["-i"], &["sha256sum"], Input::Noise(bytes));
        let said = String::from_utf8_lossy(&left.stdout);
        assert_eq!(said, expected, "{}: time {time}: {}", client.name, left.stderr);
        assert!(left.status.success(), "{}: time {time}: {left:?}", client.name);
    }
}

/// The command says on stderr what the digest of its output was.
fn data_out(client: &Client, amounts: &Amounts) {
    for (time, bytes) in one_way(amounts) {
        let script = format!(
            "head -c {bytes} /dev/urandom > /tmp/bowline.$$; sha256sum < /tmp/bowline.$$ >&2; \
             cat /tmp/bowline.$$; rm /tmp/bowline.$$"
        );
        let left = client.hashed(&[], &["sh", "-c", &script], Input::Nothing);
        assert_eq!(left.bytes, bytes, "{}: time {time}: {left:?}", client.name);
        let expected = left.stderr.split(' ').next().unwrap_or_default();
        assert_eq!(left.digest, expected, "{}: time {time}", client.name);
        assert!(left.status.success(), "{}: time {time}: {left:?}", client.name);
    }
}

fn truncation(client: &Client, times: usize) {
    for time in 1..=times {
        let command = ["sh", "-c", "head -c 5000000 /dev/zero; exit 3"];
        let left = client.hashed(&[], &command, Input::Nothing);
        assert_eq!(left.bytes, 5_000_000, "{}: time {time}: {left:?}", client.name);
        assert_eq!(left.status.code(), Some(3), "{}: time {time}: {left:?}", client.name);
    }
}

fn half_close(client: &Client) {
    let left = client.run(&["-i"], &["wc", "-c"], Input::Bytes(&[b'x'; 100_000]));
    let said = String::from_utf8_lossy(&left.stdout).trim().to_owned();
    assert_eq!(said, "100000", "{}: {left:?}", client.name);
    let left = client.run(&["-i"], &["wc", "-c"], Input::Bytes(b""));
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "0", "{}: {left:?}", client.name);
    let bytes = 1_000_000;
    let left = client.run(&["-i"], &["sha256sum"], Input::Noise(bytes));
    let expected = format!("{}  -\n", noise_digest(bytes));
    assert_eq!(String::from_utf8_lossy(&left.stdout), expected, "{}: {left:?}", client.name);
}

/// Writes 6 MB to a file and gives how many arrived, with the client's exit code.
#[must_use]
pub fn written(client: &Client) -> (u64, Option<i32>) {
    const BYTES: u64 = 6_000_000;
    // Tests of one process, and of several in namespaces of their own, run beside each other.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let random: u64 = RandomState::new().hash_one(number);
    let file = format!("/tmp/bowline-to-file-{number}-{random:x}");
    // Who replaces itself closes the stdout that it was given.
    let script = format!("exec cat > {file}");
    let left = client.run(&["-i"], &["sh", "-c", &script], Input::Noise(BYTES));
    let command = format!("sha256sum < {file}; wc -c < {file}; rm {file}");
    let read = client.run(&[], &["sh", "-c", &command], Input::Nothing);
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    let mut lines = text.lines();
    let digest = lines.next().unwrap_or_default().split(' ').next().unwrap_or_default();
    let bytes = lines.next().unwrap_or_default().trim().parse().expect("wc prints a number");
    if bytes == BYTES {
        assert_eq!(digest, noise_digest(BYTES), "{}: {left:?}", client.name);
    }
    (bytes, left.status.code())
}

fn to_file(client: &Client) {
    assert_eq!(written(client), (6_000_000, Some(0)), "{}", client.name);
}

fn ignored(client: &Client) {
    let left = client.run(&["-i"], &["true"], Input::Noise(20_000_000));
    assert!(left.status.success(), "{}: {left:?}", client.name);
}

/// What the very first command sees as its terminal's size.
#[must_use]
pub fn first_size(client: &Client) -> String {
    let console = Console::start(client, 33, 111, &["stty", "size"]);
    let (status, seen) = console.ends();
    assert!(status.success(), "{}: {seen:?}", client.name);
    // What kubectl before 1.34 says of an empty message is on the terminal as well.
    let lines = seen.lines().filter(|line| !line.trim_end().ends_with(", discarding message"));
    lines.map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn size(client: &Client) {
    for time in 1..=5 {
        assert_eq!(first_size(client), "33 111", "{}: time {time}", client.name);
    }
}

fn terminal(client: &Client) {
    let script = "until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; echo resi''zed";
    let mut console =
        Console::start(client, 24, 80, &["sh", "-c", &format!("echo rea''dy; {script}")]);
    console.sees("ready");
    assert!(console.is_raw(), "{}", client.name);
    console.resize(40, 120);
    console.sees("resized");
    let (status, _) = console.ends();
    assert!(status.success(), "{}", client.name);

    let script = "trap 'echo caught; exit 9' INT; echo rea''dy; while :; do sleep 0.1; done";
    let mut console = Console::start(client, 24, 80, &["sh", "-c", script]);
    console.sees("ready");
    console.types("\x03");
    console.sees("caught");
    let (status, seen) = console.ends();
    assert_eq!(status.code(), Some(9), "{}: {seen:?}", client.name);

    let mut console = Console::start(client, 24, 80, &["cat"]);
    console.types("hello\r");
    console.sees("hello\r\nhello\r\n");
    console.types("\x04");
    let (status, seen) = console.ends();
    assert!(status.success(), "{}: {seen:?}", client.name);
}

fn missing(client: &Client) {
    let left = client.run(&[], &["/no/such/binary"], Input::Nothing);
    let code = left.status.code().unwrap_or_default();
    assert_ne!(code, 0, "{}: {left:?}", client.name);
    let text = left.stderr.to_lowercase();
    let says = text.contains("no such file") || text.contains("not found");
    assert!(says, "{}: {left:?}", client.name);
}
