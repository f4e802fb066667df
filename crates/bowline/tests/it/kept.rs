//! Kept sessions: what comes of them after their clients, and of those that cannot be.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use bowline_interop::client::{Client, Input, Left, left};
use bowline_interop::emulated::Emulated;
use bowline_interop::pair::{Pair, port};
use bowline_interop::server::{Server, until};
use bowline_proto::session::protocol::Carrier;

use super::{bad_server, bowline, client};

/// What no test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// `bowline session` with these words.
fn session(dev: &Server, state: &str, words: &[&str]) -> Left {
    let mut command = Command::new(bowline());
    command.arg("session").args(words).args(["--kubeconfig", &dev.kubeconfig()]);
    command.env("XDG_STATE_HOME", state);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    left(command.spawn().unwrap(), Input::Nothing, true).unwrap()
}

#[test]
fn a_result_is_the_commands_own_though_another_client_has_taken_the_output() {
    let (dev, state) = (Server::dev(bowline(), &[]), tempfile::tempdir().unwrap());
    let state = state.path().to_str().unwrap();
    let mut client = client(&dev);
    client.env.push(("XDG_STATE_HOME".into(), state.into()));
    // More than is kept.
    let script = ["sh", "-c", "head -c 3000000 /dev/zero; exit 7"];
    let left = client.run(&["--detach"], &script, Input::Nothing);
    let id = String::from_utf8(left.stdout).unwrap();
    let id = id.trim();
    let left = session(&dev, state, &["resume", id]);
    assert_eq!((left.status.code(), left.bytes), (Some(7), 3_000_000), "{}", left.stderr);
    for words in [&["result", id][..], &["result", id], &["resume", id, "--from-start"]] {
        let left = session(&dev, state, words);
        assert_eq!(left.status.code(), Some(7), "{words:?}: {}", left.stderr);
        assert!(left.stderr.contains("bytes of stdout are missing here"), "{}", left.stderr);
    }
}

/// Nobody else would take its output, and the command waits until somebody does.
#[test]
fn a_result_takes_what_a_command_that_was_left_would_wait_with() {
    let (dev, state) = (Server::dev(bowline(), &[]), tempfile::tempdir().unwrap());
    let state = state.path().to_str().unwrap();
    let mut client = client(&dev);
    client.env.push(("XDG_STATE_HOME".into(), state.into()));
    let script = ["sh", "-c", "head -c 3000000 /dev/zero; echo end; exit 7"];
    let left = client.run(&["--detach"], &script, Input::Nothing);
    let id = String::from_utf8(left.stdout).unwrap();
    let left = session(&dev, state, &["result", id.trim()]);
    assert_eq!((left.status.code(), left.bytes), (Some(7), 3_000_004), "{}", left.stderr);
    for words in [&["result", id.trim()][..], &["resume", id.trim()]] {
        let left = session(&dev, state, words);
        assert_eq!(left.status.code(), Some(7), "{words:?}: {}", left.stderr);
        assert!((500_000..1_100_000).contains(&left.bytes), "{words:?}: {}", left.bytes);
        assert!(left.stdout.ends_with(b"\0end\n"), "{words:?}: {}", left.stderr);
    }
}

/// A session without a terminal that ends with 0, as other machines name it. Nobody gets its
/// output: the node begins anew.
fn ended_at_a_node_before(pair: &mut Pair, client: &Client) -> String {
    let left = client.run(&["--detach"], &["sh", "-c", "seq 1000; seq 9 >&2"], Input::Nothing);
    let session = String::from_utf8(left.stdout).unwrap().trim().to_owned();
    let id = session.rsplit('/').next().unwrap();
    let left = client.run(&[], &["@bowline", "result", id], Input::Nothing);
    assert_eq!((left.status.code(), left.bytes), (Some(0), 3893), "{}", left.stderr);
    pair.node.kill();
    pair.restart_node();
    session
}

/// Whoever comes from elsewhere, or is no client of kept sessions, does not know that it has none.
#[test]
fn a_terminal_here_excuses_no_gap_of_a_command_without_one() {
    let (mut pair, state) = (Pair::start(bowline(), port), tempfile::tempdir().unwrap());
    let mut client = pair.client("bowline", bowline());
    client.env.push(("XDG_STATE_HOME".into(), state.path().to_str().unwrap().into()));
    let elsewhere = tempfile::tempdir().unwrap();
    for is_asked_by_exec in [false, true] {
        let session = ended_at_a_node_before(&mut pair, &client);
        let id = session.rsplit('/').next().unwrap();
        let mut command = if is_asked_by_exec {
            client.process(&["-it"], &["@bowline", "resume", id])
        } else {
            let mut command = Command::new(bowline());
            command.args(["session", "resume", &session]).args(&client.words[1..]);
            command
        };
        command.env("XDG_STATE_HOME", elsewhere.path());
        let mut terminal = Emulated::start(&command, 24, 200);
        let status = terminal.ends();
        let text = terminal.text();
        assert_eq!(status.code(), Some(255), "{command:?}: {text}");
        assert!(text.contains("bytes of output are missing"), "{command:?}: {text}");
    }
}

/// By a client that asks for input and a terminal, neither of which the session hears of.
#[test]
fn a_terminal_looks_at_a_command_without_one() {
    let (dev, work) = (Server::dev(bowline(), &[]), tempfile::tempdir().unwrap());
    let mut client = client(&dev);
    client.env.push(("XDG_STATE_HOME".into(), work.path().to_str().unwrap().into()));
    let go = work.path().join("go");
    let script = "echo out; echo err >&2; until [ -e \"$1\" ]; do sleep 0.05; done; exit 7";
    let words = ["sh", "-c", script, "sh", go.to_str().unwrap()];
    let left = client.run(&["--detach"], &words, Input::Nothing);
    let session = String::from_utf8(left.stdout).unwrap();
    let id = session.trim().rsplit('/').next().unwrap();
    let looks = client.process(&["-it"], &["@bowline", "result", id]);
    let mut terminal = Emulated::start(&looks, 24, 80);
    terminal.until("both outputs", |seen| {
        let text = seen.text();
        ["out\nerr", "err\nout"].contains(&text.trim_end())
    });
    terminal.types("typed\r");
    std::fs::write(&go, "").unwrap();
    assert_eq!(terminal.ends().code(), Some(7), "{}", terminal.text());
}

#[test]
fn a_node_keeps_as_many_and_as_long_as_its_flags_say() {
    let (mut pair, work) = (Pair::start(bowline(), port), tempfile::tempdir().unwrap());
    let mut client = pair.client("bowline", bowline());
    client.env.push(("XDG_STATE_HOME".into(), work.path().to_str().unwrap().into()));
    let mut with = |flag: &str| {
        pair.node.kill();
        pair.node_flags = vec![flag.to_owned()];
        pair.restart_node();
    };
    let go = work.path().join("go");
    let script = "until [ -e \"$1\" ]; do sleep 0.05; done";
    let waits = ["sh", "-c", script, "sh", go.to_str().unwrap()];

    with("--max-kept-sessions=1");
    let left = client.run(&["--detach"], &waits, Input::Nothing);
    assert_eq!(left.status.code(), Some(0), "{}", left.stderr);
    let left = client.run(&["--detach"], &["true"], Input::Nothing);
    assert_eq!(left.status.code(), Some(1), "{}", left.stderr);
    assert!(left.stderr.contains("this node has 1 kept sessions already"), "{}", left.stderr);
    std::fs::write(&go, "").unwrap();
    let list = || client.run(&[], &["@bowline", "list"], Input::Nothing);
    let ended = || String::from_utf8(list().stdout).unwrap().contains("  ended  ");
    until("it has ended", PATIENCE, ended);
    std::fs::remove_file(&go).unwrap();

    // Its client has left it running for as long as it takes.
    with("--max-keep-for=1s");
    let left = client.run(&["--detach"], &waits, Input::Nothing);
    assert_eq!(left.status.code(), Some(0), "{}", left.stderr);
    until("it is hung up, and forgotten", PATIENCE, || list().bytes == 0);
    std::fs::write(&go, "").unwrap();

    for none in ["--max-kept-sessions=0", "--kept-replay-bytes=0"] {
        with(none);
        let left = list();
        assert_eq!(left.status.code(), Some(1), "{}", left.stderr);
        assert!(left.stderr.contains("this node keeps no sessions"), "{none}: {}", left.stderr);
    }
}

/// `exec --keep` without a program for containers, at a server that answers all with this.
fn refused(answer: &'static str) -> Left {
    let address = bad_server::start(move |mut request| {
        request.stream.write_all(answer.as_bytes()).unwrap();
    });
    let ((client, _pod), state) =
        (bad_server::client(address, Carrier::WebSocket), tempfile::tempdir().unwrap());
    let client = client.with("--keep");
    let mut process = client.process(&[], &["true"]);
    process.env("XDG_STATE_HOME", state.path());
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let left = left(process.spawn().unwrap(), Input::Nothing, true).unwrap();
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    left
}

#[test]
fn who_may_not_is_told_so_and_not_to_bring_a_program() {
    let left = refused(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 71\r\n\r\n\
         {\"kind\":\"Status\",\"message\":\"no, never\",\"reason\":\"Forbidden\",\"code\":403}",
    );
    assert!(left.stderr.contains("no, never"), "{left:?}");
    assert!(!left.stderr.contains("program"), "{left:?}");
}

/// It is what a kubelet says of a subprotocol that it does not know.
#[test]
fn behind_a_bare_403_a_program_is_asked_for() {
    let left = refused("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert!(left.stderr.contains("program"), "{left:?}");
}
