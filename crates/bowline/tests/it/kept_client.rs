//! What the clients of kept sessions do at their own side: terminals, keys, files, exit codes.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use bowline_client::Error;
use bowline_interop::client::{Input, Left, left};
use bowline_interop::emulated::Emulated;
use bowline_interop::pair::{Pair, port};
use bowline_interop::server::Server;
use bowline_proto::kept::{Frame, Refused, refused};
use bowline_proto::session::protocol::Carrier;
use rustix::process::Signal;

use super::kept_left::Host;
use super::{bad_server, bowline, client};

/// A command that is to be started there.
fn command(address: SocketAddr, place: &Path) -> bowline_client::kept::KeptCommand {
    bad_server::library(address, place).exec("pod", ["true"]).container("box").keep()
}

/// A host that is asked to start a command and is gone, and another one in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_which_nothing_is_known_was_not_left_well() {
    let place = tempfile::tempdir().unwrap();
    for is_detached in [true, false] {
        let requests = AtomicU32::new(0);
        let address = bad_server::start(move |request| {
            let number = requests.fetch_add(1, Ordering::Relaxed);
            let mut host = Host::greeting(request.upgrade_kept(), number.min(1) as u8);
            if number == 0 {
                assert!(host.until(|frame| matches!(frame, Frame::Start(_))));
                return;
            }
            assert!(host.until(|frame| matches!(frame, Frame::Resume(_))));
            let text = "there is no such session".to_owned();
            host.says(&Frame::Refused(Refused { code: refused::UNKNOWN, text }));
            host.until(|_| false);
        });
        let command = command(address, place.path());
        let left = if is_detached { command.detach().await } else { command.hang_up().await };
        assert!(matches!(left, Err(Error::Lost { .. })), "{is_detached}: {left:?}");
    }
}

/// `exec --keep` at a server.
fn keeps(address: SocketAddr, flags: &[&str]) -> Left {
    let ((client, _pod), state) =
        (bad_server::client(address, Carrier::WebSocket), tempfile::tempdir().unwrap());
    let mut process = client.with("--keep").process(flags, &["true"]);
    process.env("XDG_STATE_HOME", state.path());
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    left(process.spawn().unwrap(), Input::Nothing, true).unwrap()
}

/// 1 is a refusal, and 255 what nobody knows.
#[test]
fn where_nothing_was_begun_the_exit_code_says_so() {
    for (code, exit) in [
        (refused::BAD_REQUEST, 1),
        (refused::CONFLICT, 1),
        (refused::TOO_MANY, 1),
        (refused::NOT_STARTED, 1),
        (refused::UNKNOWN, 255),
        (refused::TAKEN_OVER, 255),
        (99, 255),
    ] {
        let address = bad_server::start(move |request| {
            let mut host = Host::greeting(request.upgrade_kept(), 0);
            assert!(host.until(|frame| matches!(frame, Frame::Start(_))));
            let text = "not here".to_owned();
            host.says(&Frame::Refused(Refused { code, text }));
            host.until(|_| false);
        });
        let left = keeps(address, &[]);
        assert_eq!(left.status.code(), Some(exit), "{code}: {left:?}");
        assert!(left.stderr.contains("not here"), "{code}: {left:?}");
    }
}

/// What passes the connection on has left it out.
#[test]
fn without_its_environment_no_command_is_begun() {
    let address = bad_server::start(|request| {
        if request.offers("session.bowline") {
            let mut host = Host::greeting(request.upgrade_kept(), 0);
            assert!(!host.until(|frame| matches!(frame, Frame::Start(_))));
        } else {
            request.answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let left = keeps(address, &["--env=ONE=1"]);
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    assert!(left.stderr.contains("nothing was begun"), "{left:?}");
}

/// Runs until a file is there; then it ends with 7.
const WAITS: &str = "until [ -e \"$1\" ]; do sleep 0.05; done; exit 7";

/// Whoever comes from elsewhere does not know whether the command has a terminal.
#[test]
fn a_terminal_from_elsewhere_is_raw_only_for_a_command_with_one() {
    let (dev, place) = (Server::dev(bowline(), &[]), tempfile::tempdir().unwrap());
    let (here, elsewhere) = (place.path().join("here"), place.path().join("elsewhere"));
    let mut client = client(&dev);
    client.env.push(("XDG_STATE_HOME".into(), here.to_str().unwrap().into()));
    let never = place.path().join("never");
    let words = ["sh", "-c", WAITS, "sh", never.to_str().unwrap()];
    let left = client.run(&["--detach"], &words, Input::Nothing);
    let session = String::from_utf8(left.stdout).unwrap();
    let mut resume = Command::new(bowline());
    resume.args(["session", "resume", session.trim(), "--kubeconfig", &dev.kubeconfig()]);
    resume.env("XDG_STATE_HOME", &elsewhere);
    let mut terminal = Emulated::start(&resume, 24, 80);
    terminal.shows("The session goes on");
    assert!(!terminal.is_raw());
    terminal.types("\x03");
    let status = terminal.ends();
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{status}: {}", terminal.text());

    let shell = client.process(&["-it", "--keep"], &["sh", "-c", "echo up; read -r word; exit 7"]);
    let mut shell = Emulated::start(&shell, 24, 80);
    shell.shows("up");
    assert!(shell.is_raw());
    shell.types("word\r");
    assert_eq!(shell.ends().code(), Some(7), "{}", shell.text());
}

#[test]
fn the_keys_that_leave_are_heard_without_a_connection() {
    let (mut pair, state) = (Pair::start(bowline(), port), tempfile::tempdir().unwrap());
    let mut client = pair.client("bowline", bowline());
    client.env.push(("XDG_STATE_HOME".into(), state.path().to_str().unwrap().into()));
    let shell = client.process(&["-it", "--keep"], &["sh", "-c", "echo up; read -r word"]);
    let mut terminal = Emulated::start(&shell, 24, 200);
    terminal.shows("up");
    pair.node.kill();
    terminal.shows("The connection is lost");
    terminal.types("\x10\x11");
    let status = terminal.ends();
    assert_eq!(status.code(), Some(255), "{}", terminal.text());
    assert!(terminal.text().contains("could not be told"), "{}", terminal.text());
}

#[test]
fn a_command_has_its_terminal_though_its_output_goes_elsewhere() {
    let (dev, state) = (Server::dev(bowline(), &[]), tempfile::tempdir().unwrap());
    let mut client = client(&dev);
    client.env.push(("XDG_STATE_HOME".into(), state.path().to_str().unwrap().into()));
    let asked = client.process(&["-it", "--keep"], &["sh", "-c", "tty -s && echo it has one"]);
    let mut piped = Command::new("sh");
    piped.args(["-c", "\"$@\" | cat", "sh"]).arg(asked.get_program()).args(asked.get_args());
    piped.env("XDG_STATE_HOME", state.path());
    let mut terminal = Emulated::start(&piped, 24, 80);
    terminal.shows("it has one");
    assert!(terminal.ends().success());
}

#[test]
fn a_reader_that_goes_ends_the_client_as_any_writer() {
    let (dev, state) = (Server::dev(bowline(), &[]), tempfile::tempdir().unwrap());
    let client = client(&dev);
    let mut process = client.process(&["--keep"], &["yes"]);
    process.env("XDG_STATE_HOME", state.path());
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process.spawn().unwrap();
    drop(child.stdout.take());
    let left = child.wait_with_output().unwrap();
    assert_eq!(left.status.signal(), Some(Signal::PIPE.as_raw()), "{left:?}");
    assert_eq!(left.stderr, b"", "{left:?}");
}

#[test]
fn sessions_whose_results_nobody_has_any_more_are_forgotten() {
    let (dev, state) = (Server::dev(bowline(), &[]), tempfile::tempdir().unwrap());
    let mut client = client(&dev);
    client.env.push(("XDG_STATE_HOME".into(), state.path().to_str().unwrap().into()));
    let detach = || {
        let left = client.run(&["--detach"], &["sh", "-c", "exit 3"], Input::Nothing);
        String::from_utf8(left.stdout).unwrap().trim().to_owned()
    };
    let files = || {
        let files = fs::read_dir(state.path().join("bowline/sessions")).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    let session = detach();
    for _ in 0..2 {
        let mut result = Command::new(bowline());
        result.args(["session", "result", &session, "--kubeconfig", &dev.kubeconfig()]);
        let result = result.env("XDG_STATE_HOME", state.path()).output().unwrap();
        assert_eq!(result.status.code(), Some(3), "{result:?}");
    }
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    let text = fs::read_to_string(file).unwrap();
    let (before, after) = text.split_once("\"endedUnixSeconds\": ").unwrap();
    let (ended, rest) = after.split_once([',', '\n']).unwrap();
    let long_ago = ended.parse::<u64>().unwrap() - 25 * 3600;
    let comma = if after[ended.len()..].starts_with(',') { "," } else { "" };
    let text = format!("{before}\"endedUnixSeconds\": {long_ago}{comma}\n{rest}");
    fs::File::create(file).unwrap().write_all(text.as_bytes()).unwrap();
    detach();
    let left = files();
    assert!(left.len() == 1 && !left.contains(file), "{left:?}");
}
