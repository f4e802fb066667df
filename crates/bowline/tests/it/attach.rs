//! Attached clients, at `dev`: what each gets, and that none holds up the others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use bowline_interop::attach::{Attached, pods_file, talks, two, types};
use bowline_interop::client::{Client, Input, PATIENCE};
use bowline_interop::server::{Server, until};
use rustix::process::{Pid, Signal, kill_process};

use super::bowline;

fn dev() -> (Server, Client, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let dev = Server::dev(bowline(), &["-f", &pods_file(place.path())]);
    let client = Client::new("bowline", bowline(), &dev.kubeconfig(), &["talker"]);
    (dev, client, place)
}

#[test]
fn two_at_once_over_both_carriers() {
    let (_dev, client, _place) = dev();
    for client in [client.clone(), client.over_spdy()] {
        talks(&client, 10_000_000);
        types(&client, true);
    }
}

#[test]
fn the_end_of_the_process_is_a_good_end_for_all() {
    let (_dev, client, _place) = dev();
    let (mut typist, watcher) = two(&client);
    typist.says("end 3");
    assert_eq!((typist.ends().code(), watcher.ends().code()), (Some(0), Some(0)));
    let late = client.attaching("talker").run(&[], &[], Input::Nothing);
    assert_eq!(late.status.code(), Some(1));
    let why = "error: cannot attach a container in a completed pod; current phase is Failed\n";
    assert_eq!(late.stderr, why);
}

#[test]
fn input_ends_with_its_first_client_where_the_spec_says_so() {
    let (_dev, client, _place) = dev();
    let left = client.attaching("once").run(&["-iq"], &[], Input::Bytes(b"a\nb\n"));
    assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"a\nb\n"[..]), "{left:?}");
}

/// With a runtime's own streaming, the answer is lost.
#[test]
fn a_line_that_is_piped_in_is_answered() {
    let (_dev, client, _place) = dev();
    let script = b"big 20000000\nsay done\n";
    let left = client.attaching("talker").run(&["-iq"], &[], Input::Bytes(script));
    assert_eq!(left.status.code(), Some(0), "{}", left.stderr);
    assert!(left.stdout.ends_with(b"x\ndone\n"), "{} bytes", left.bytes);
    assert_eq!(left.bytes, 20_000_006);
}

#[test]
fn replay_begins_with_the_log_and_misses_nothing() {
    let (_dev, client, _place) = dev();
    let (mut typist, _watcher) = two(&client);
    for number in 0..100 {
        typist.says(&format!("say {number}"));
    }
    let _ = typist.finds("99");
    let late = Attached::start(&client.attaching("talker"), &["--replay=10"]);
    for number in 100..200 {
        typist.says(&format!("say {number}"));
    }
    // It came somewhere in between.
    let first: i32 = late.line().text.parse().unwrap();
    assert!((90..=190).contains(&first), "{first}");
    for number in first + 1..200 {
        assert_eq!(late.line().text, number.to_string());
    }
}

/// The process and the others go on; the slow one is told that it missed something.
#[test]
fn who_does_not_read_is_left_behind() {
    let (_dev, client, _place) = dev();
    let (mut typist, watcher) = two(&client);
    let mut process = client.attaching("talker").process(&[], &[]);
    process.stdout(Stdio::piped()).stderr(Stdio::piped());
    let sleeper = process.spawn().unwrap();
    let id = Pid::from_child(&sleeper);
    let stdout = sleeper.stdout.as_ref().unwrap();
    until("the third is attached", PATIENCE, || {
        typist.says("say now");
        let _ = watcher.finds("now");
        rustix::io::ioctl_fionread(stdout).unwrap() > 0
    });
    kill_process(id, Signal::STOP).unwrap();
    typist.says("big 100000000");
    assert_eq!(watcher.finds("x").bytes, 100_000_000);
    assert_eq!(typist.finds("x").bytes, 100_000_000);
    kill_process(id, Signal::CONT).unwrap();
    let left = bowline_interop::client::left(sleeper, Input::Nothing, false).unwrap();
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    assert!(left.stderr.contains("this client was too slow: "), "{left:?}");
    assert!(left.bytes < 100_000_000);
}

/// Other clients than kubectl do not look at the spec first.
#[test]
fn a_terminal_where_there_is_none_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut node = Command::new(bowline());
    node.args(["node", "--runtime", "process", "--plain-http", "--port", "0", "-f"]);
    let node = Server::start(node.arg(pods_file(place.path())));
    let answer = |path: &str| {
        let mut stream = TcpStream::connect(node.address()).unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: \
             SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
            head.push_str(&line);
            if let Some(text) = line.to_lowercase().strip_prefix("content-length: ") {
                length = text.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        head + &String::from_utf8(body).unwrap()
    };
    for (path, code, why) in [
        ("/attach/default/talker/talker?output=1&tty=1", 400, "container talker has no terminal"),
        ("/attach/default/shell/shell?output=1&error=1", 400, "container shell has a terminal"),
        ("/attach/default/shell/x?output=1", 500, "container x not found in pod shell_default"),
        ("/attach/default/shell/shell", 400, "at least 1 of stdin, stdout, stderr"),
        ("/attach/default/talker/talker?output=1&replay=x", 400, "invalid replay \"x\""),
    ] {
        let answer = answer(path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{path}: {answer}");
        assert!(answer.contains(why), "{path}: {answer}");
    }
}
