//! Servers with few descriptors, and more clients than they have: nobody is shut out. And what the
//! commands of a node get of its limits, and of the time that they take.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bowline_interop::client::{Input, left};
use bowline_interop::server::{Server, until};

use super::raw::{Place, Wire, rest};
use super::{bowline, client};

const PATIENCE: Duration = Duration::from_secs(20);
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The program below a limit of descriptors, as a program.
struct Limited {
    place: tempfile::TempDir,
}

impl Limited {
    fn new(limit: &str) -> Limited {
        let limited = Limited { place: tempfile::tempdir().unwrap() };
        let script = format!("#!/bin/sh\n{limit}\nexec {} \"$@\"\n", bowline().display());
        std::fs::write(limited.path(), script).unwrap();
        std::fs::set_permissions(limited.path(), PermissionsExt::from_mode(0o700)).unwrap();
        limited
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("bowline")
    }
}

#[test]
fn clients_that_read_nothing_or_say_nothing_shut_nobody_out() {
    const CLIENTS: usize = 242;
    let limited = Limited::new("ulimit -n 256");
    let both = [Place::node_of(&limited.path()), Place::gateway_of(&limited.path())];
    for place in both {
        let mut held: Vec<Box<dyn Wire>> = Vec::new();
        for number in 0..CLIENTS {
            let says = match number % 3 {
                0 => HEALTH.repeat(200),
                1 => "GET /healthz HTTP/1.1\r\n".to_owned(),
                _ => String::new(),
            };
            let mut client = place.connect();
            // Later ones may have pushed out this one already.
            let _ = client.write_all(says.as_bytes());
            let _ = client.flush();
            held.push(client);
            if number % 40 == 0 {
                place.is_well();
            }
        }
        place.is_well();
        drop(held);
    }
}

/// 200 that are silent, again and again: what is asked beside them is answered.
#[test]
fn silent_connections_delay_nobody() {
    let limited = Limited::new("ulimit -n 128");
    let node = Place::node_of(&limited.path());
    for _ in 0..10 {
        let silent: Vec<_> = (0..200).map(|_| node.tcp()).collect();
        let mut asks = node.connect();
        asks.write_all(HEALTH.as_bytes()).unwrap();
        let mut answer = [0; 12];
        asks.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"HTTP/1.1 200");
        drop(silent);
    }
}

/// Whoever may only read logs leaves places to those who may do other things.
#[test]
fn readers_of_logs_leave_places_to_others() {
    const CONNECTIONS: usize = 128 / 3;
    let limited = Limited::new("ulimit -n 128");
    for place in [Place::node_of(&limited.path()), Place::gateway_of(&limited.path())] {
        let path = match &place {
            Place::Node { .. } => "/containerLogs/default/box/box",
            Place::Gateway(_) => "/api/v1/namespaces/default/pods/box/log",
        };
        let ask = format!(
            "GET {path}?follow=true HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n"
        );
        let readers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut reader = place.connect();
                reader.write_all(ask.as_bytes()).unwrap();
                reader.flush().unwrap();
                let mut answer = [0; 12];
                reader.read_exact(&mut answer).unwrap();
                (reader, answer)
            })
            .collect();
        let served = readers.iter().take_while(|reader| &reader.1 == b"HTTP/1.1 200").count();
        assert_eq!(served, CONNECTIONS / 2, "at the {}", place.name());
        let (refused, answer) = readers.into_iter().next_back().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 429", "at the {}", place.name());
        drop(refused);
        place.is_well();
    }
}

#[test]
fn servers_raise_their_limit_and_commands_get_the_old_one() {
    let limited = Limited::new("ulimit -Sn 200");
    let hard = Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap();
    let hard = String::from_utf8(hard.stdout).unwrap();
    let dev = Server::dev(&limited.path(), &[]);
    let limits = format!("/proc/{}/limits", dev.id().as_raw_nonzero());
    let limits = std::fs::read_to_string(limits).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, [hard.trim(), hard.trim()]);
    let left = client(&dev).run(&[], &["sh", "-c", "ulimit -n; ulimit -Hn"], Input::Nothing);
    assert_eq!(String::from_utf8(left.stdout).unwrap(), format!("200\n{hard}"));
}

#[test]
fn paths_that_are_not_clean_are_none() {
    for place in Place::both() {
        let good = String::from_utf8(place.websocket("echo+fine", "v5")).unwrap();
        let path = good.split(' ').nth(1).unwrap();
        for (what, bad) in [
            ("//", format!("/{path}")),
            ("//", path.replacen("/box", "//box", 1)),
            ("..", path.replacen("/box", "/x/../box", 1)),
            ("%2e%2e", path.replacen("/box", "/x/%2e%2e/box", 1)),
            (".", format!("/.{path}")),
            ("%2f", path.replacen("/box", "%2fbox", 1)),
        ] {
            let mut stream = place.connect();
            stream.write_all(good.replacen(path, &bad, 1).as_bytes()).unwrap();
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).unwrap();
            let answer = String::from_utf8_lossy(&piece[..read]).into_owned();
            assert!(answer.starts_with("HTTP/1.1 404 "), "{} {what}: {answer}", place.name());
            assert!(answer.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{answer}");
        }
    }
}

/// A command that leaves somebody behind who holds its output and waits for a line in a pipe.
fn leaves_one(fifo: &Path) -> String {
    format!("(read line <{0}; echo late) & echo done; exit 3", fifo.display())
}

#[test]
fn who_holds_the_output_is_waited_for() {
    let dev = Server::dev(bowline(), &[]);
    let place = tempfile::tempdir().unwrap();
    let fifo = place.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for client in [client(&dev), client(&dev).over_spdy()] {
        for flags in [&[][..], &["-i"]] {
            let (child, line) = client.begin(flags, &leaves_one(&fifo));
            assert_eq!(line, "done");
            std::fs::write(&fifo, "go\n").unwrap();
            let left = left(child, Input::Nothing, true).unwrap();
            assert_eq!((&*left.stdout, left.status.code()), (&b"late\n"[..], Some(3)), "{left:?}");
        }
    }
}

#[test]
fn a_limit_cuts_the_output_and_says_so() {
    let dev = Server::dev(bowline(), &["--output-drain-timeout=300ms", "-v=2"]);
    for client in [client(&dev), client(&dev).over_spdy()] {
        for script in ["echo done; sleep 60 & exit 3", "echo done; yes & exit 3"] {
            let (child, line) = client.begin(&[], &format!("echo $$; {script}"));
            let left = left(child, Input::Nothing, false).unwrap();
            assert_eq!(left.status.code(), Some(3), "{left:?}");
            let said = "the output is cut off: processes that the command left behind still hold \
                        it after 300ms\n";
            assert!(left.stderr.starts_with(said), "{left:?}");
            until("the node says so", PATIENCE, || dev.log().contains(said.trim_end()));
            // What was left behind lives on, unless it writes.
            let group = format!("-{line}");
            let signal = |signal| {
                let kill = Command::new("kill").args([signal, "--", &group]).output();
                kill.unwrap().status.success()
            };
            if script.contains("sleep") {
                assert!(signal("-9"));
            } else {
                until("who writes is gone", PATIENCE, || !signal("-0"));
            }
        }
    }
}

/// Where nobody reads a word beside the output, a part of it must not pass for all.
#[test]
fn a_cut_without_a_place_to_say_it_is_a_failure() {
    let limited = ["--output-drain-timeout=100ms"];
    let node = Place::node_with(&limited);
    for (request, success) in [("echo+done", true), ("echo+done;sleep+60%26", false)] {
        let request = String::from_utf8(node.websocket(request, "v5")).unwrap();
        let request = request.replacen("&error=1", "", 1);
        let mut stream = node.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = rest(stream);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.contains("\"Success\""), success, "{answer}");
        assert_eq!(answer.contains("the output is cut off"), !success, "{answer}");
    }
}

#[test]
fn a_client_that_goes_takes_along_what_is_waited_for() {
    let dev = Server::dev(bowline(), &[]);
    for client in [client(&dev), client(&dev).over_spdy()] {
        let (mut child, line) = client.begin(&["-i"], "sleep 60 & echo $!; exit 0");
        child.kill().unwrap();
        child.wait().unwrap();
        let left_behind = Path::new("/proc").join(line);
        until("it is gone", PATIENCE, || !left_behind.exists());
    }
}
