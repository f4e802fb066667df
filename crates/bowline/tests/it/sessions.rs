//! Sessions that end well, over both carriers: the list, in small amounts.

use bowline_interop::client::{Input, PATIENCE};
use bowline_interop::console::Console;
use bowline_interop::list::{POINTS, SMALL, check};
use bowline_interop::server::{Server, until};
use rustix::process::{Signal, kill_process};

use super::{bowline, client};

#[test]
fn the_list_over_websocket() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev), &SMALL, &[]);
}

#[test]
fn the_list_over_spdy() {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev).over_spdy(), &SMALL, &[]);
}

#[test]
fn the_list_where_websocket_is_refused() {
    let dev =
        Server::dev(bowline(), &["--feature-gates=TranslateStreamCloseWebsocketRequests=false"]);
    let client = client(&dev).with("-v=6");
    let left = client.run(&[], &["true"], Input::Nothing);
    assert!(left.stderr.contains("RemoteCommand fallback"), "{left:?}");
    assert!(left.stderr.contains("POST https://"), "{left:?}");
    check(&super::client(&dev), &SMALL, &POINTS[8..]);
}

#[test]
fn dev_ends_within_a_second_children_included() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let script = format!("echo $$ > {path}; exec sleep 600");
    let mut process = client.process(&[], &["sh", "-c", &script]).spawn().unwrap();
    let mut text = String::new();
    bowline_interop::server::until("the command runs", bowline_interop::client::PATIENCE, || {
        text = std::fs::read_to_string(&path).unwrap();
        text.ends_with('\n')
    });
    let id = text.trim();
    assert!(std::path::Path::new("/proc").join(id).exists());
    let took = dev.stop();
    assert!(!std::path::Path::new("/proc").join(id).exists(), "the command lives on");
    assert_eq!(process.wait().unwrap().code(), Some(255));
    assert!(took.as_secs_f64() < 1.5, "{took:?}");
}

/// Over SPDY, whatever else is spoken: there nothing begins before the answer was seen.
#[test]
fn a_command_gets_the_environment_that_is_asked_for() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev);
    let script = "echo \"$ONE|$EMPTY|$PATH\"";
    let flags = ["--env", "ONE=a,b=c d", "--env=EMPTY=", "--env", "PATH=/bin:/usr/bin", "-v=6"];
    let left = client.run(&flags, &["/bin/sh", "-c", script], Input::Nothing);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "a,b=c d||/bin:/usr/bin\n", "{left:?}");
    assert!(left.stderr.contains("POST https://"), "{left:?}");
    for (env, expected) in [
        ("A", "error: invalid argument \"A\" for \"--env\" flag: must be NAME=VALUE\n"),
        ("1=x", "error: unable to upgrade connection: invalid env \"1\": a name must consist of "),
        (
            "KUBERNETES_X=1",
            "error: unable to upgrade connection: env names must not begin with KUBERNETES_\n",
        ),
    ] {
        let left = client.run(&["--env", env], &["true"], Input::Nothing);
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        assert!(left.stderr.starts_with(expected), "{left:?}");
    }
}

/// Its temporary kubeconfig included: `stop_with` looks.
#[test]
fn dev_leaves_nothing_behind_at_whichever_signal() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        // Whoever runs the tests may ignore hangups.
        let mut dev = std::process::Command::new("env");
        dev.arg("--default-signal=HUP").arg(bowline()).args(["dev", "--port", "0"]);
        let dev = Server::start(&mut dev);
        assert!(std::path::Path::new(&dev.kubeconfig()).exists());
        dev.stop_with(signal);
    }
}

#[test]
fn without_a_terminal_a_terminal_is_not_had() {
    let dev = Server::dev(bowline(), &[]);
    let left = client(&dev).run(&["-it"], &["sh", "-c", "echo out; tty"], Input::Nothing);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "out\nnot a tty\n");
    let warning = "Unable to use a TTY - input is not a terminal or the right kind of file\n";
    assert_eq!(left.stderr, format!("{warning}command terminated with exit code 1\n"));
    let left = client(&dev).run(&["-itq"], &["true"], Input::Nothing);
    assert_eq!((left.status.code(), &*left.stderr), (Some(0), ""));
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let dev = Server::dev(bowline(), &[]);
    for client in [client(&dev), client(&dev).over_spdy()] {
        let mut console = Console::start(&client, 24, 80, &["sh", "-c", "echo ready; cat"]);
        console.sees("ready\r\n");
        console.types("x\r");
        console.sees("x\r\nx\r\n");
        assert!(console.is_raw());
        kill_process(console.id(), Signal::TERM).unwrap();
        until("the terminal is as before", PATIENCE, || !console.is_raw());
        let (status, seen) = console.ends();
        assert_eq!(status.code(), Some(1), "{seen:?}");
        assert_eq!(seen, "ready\r\nx\r\nx\r\n");
    }
}
