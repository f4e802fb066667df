//! Commands that never begin: kubectl's words and its exit code, and nothing on stdout.

use std::net::SocketAddr;

use bowline_interop::client::{Client, Input};
use bowline_interop::server::Server;

use super::{bowline, client};

fn refused(client: &Client, flags: &[&str], command: &[&str]) -> String {
    let left = client.run(flags, command, Input::Nothing);
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    assert_eq!(left.stdout, b"", "{left:?}");
    left.stderr
}

/// The same client for another target.
fn at(client: &Client, target: &[&str]) -> Client {
    let target = target.iter().map(|&word| word.to_owned()).collect();
    Client { target, ..client.clone() }
}

#[test]
fn refusals_have_kubectls_words() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev);
    let files = tempfile::tempdir().unwrap();
    let empty = files.path().to_str().unwrap().to_owned();
    let there = files.path().join("there.txt").to_str().unwrap().to_owned();
    std::fs::write(&there, "no object").unwrap();
    let missing = files.path().join("missing").to_str().unwrap().to_owned();
    let (_bound, nobody) = port_of_nobody();
    let nobody = format!("http://{nobody}");
    let mut text = String::new();
    for (target, flags) in [
        (&["missing"][..], &[][..]),
        (&["nginx"], &["-c", "nope"]),
        (&["foo/bar"], &[]),
        (&["pod/a/b"], &[]),
        (&["pod/"], &[]),
        (&[".."], &[]),
        (&["svc/nope"], &[]),
        (&["node/nope"], &[]),
        (&["pod.v1./nope"], &[]),
        (&["nope"], &["-n", "nope"]),
        (&[""], &[]),
        (&["nginx"], &["--context", "nope"]),
        (&["nginx"], &["--user", "nope"]),
        (&["nginx"], &["--token", "wrong"]),
        (&["nginx"], &["--context", "viewer"]),
        (&["nginx"], &["--as-group", "g"]),
        (&["nginx"], &["--request-timeout", "soon"]),
        (&["nginx"], &["--request-timeout", "-1"]),
        (&["nginx"], &["--pod-running-timeout", "0"]),
        (&["nginx"], &["--bogus"]),
        (&["nginx", "ls"], &[]),
        (&[], &[]),
        (&["nginx"], &["-f", "MISSING"]),
        (&["nginx"], &["-f", "THERE"]),
        (&[], &["-f", "EMPTY"]),
        (&[], &["-f", "MISSING"]),
        (&["nginx"], &["--server", "NOBODY"]),
        (&["nginx"], &["--kubeconfig", "MISSING"]),
        (&["nginx"], &["--kubeconfig", "EMPTY"]),
    ] {
        // What differs from machine to machine stands for itself in the snapshot.
        let real = flags.iter().map(|&flag| match flag {
            "MISSING" => &*missing,
            "EMPTY" => &*empty,
            "THERE" => &*there,
            "NOBODY" => &*nobody,
            flag => flag,
        });
        let said = refused(&at(&client, target), &real.collect::<Vec<_>>(), &["date"]);
        let said = said
            .replace(&missing, "MISSING")
            .replace(&empty, "EMPTY")
            .replace(&nobody["http://".len()..], "NOBODY");
        text.push_str(&format!("$ exec {} -- date\n{said}\n", [flags, target].concat().join(" ")));
    }
    insta::assert_snapshot!(text);
}

fn tried(dev: &Server, words: &[&str]) -> (Option<i32>, String) {
    let mut process = std::process::Command::new(bowline());
    process.args(["--kubeconfig", &dev.kubeconfig()]).args(words);
    let left = process.stdin(std::process::Stdio::null()).output().unwrap();
    (left.status.code(), String::from_utf8(left.stderr).unwrap())
}

#[test]
fn an_attach_takes_its_words_as_kubectl() {
    let dev = Server::dev(bowline(), &[]);
    for (words, expected) in [
        (&[][..], "at least 1 argument is required for attach"),
        (&["", "nginx"], "the argument \"nginx\" must be RESOURCE/NAME"),
        (&["pod", ""], "resource name may not be empty"),
        (&[""], "resource name may not be empty"),
        (&["pod/nginx", "pod"], "the server doesn't have a resource type \"pod/nginx\""),
        (
            &["a", "b", "c"],
            "expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw 3: [a b c]",
        ),
    ] {
        let said = tried(&dev, &[&["attach"], words].concat());
        assert_eq!(said, (Some(1), format!("error: {expected}\n")), "{words:?}");
    }
    // A name that says its kind itself is believed.
    let said = tried(&dev, &["attach", "svc", "pod/nope"]);
    assert_eq!(said.1, "Error from server (NotFound): pods \"nope\" not found\n");
    let said = tried(&dev, &["attahc", "nginx"]);
    let expected =
        "error: unknown command \"attahc\" for \"bowline\"\n\nDid you mean this?\n  attach\n";
    assert_eq!(said, (Some(1), expected.to_owned()));
}

/// An address at which nobody listens, for as long as its socket is kept.
fn port_of_nobody() -> (std::os::fd::OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let bound = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = getsockname(&bound).unwrap().try_into().unwrap();
    (bound, address)
}

/// So many words of the 100 KB that the system takes in one, at most 128 KiB.
fn long_words(count: usize) -> Vec<String> {
    vec!["x".repeat(100_000); count]
}

#[test]
fn a_command_line_that_no_server_takes_is_refused() {
    let dev = Server::dev(bowline(), &[]);
    let words = long_words(12);
    let said = refused(&client(&dev), &[], &words.iter().map(|word| &**word).collect::<Vec<_>>());
    let kubectls = "error: unable to upgrade connection: 431 Request Header Fields Too Large\n";
    assert_eq!(said, kubectls);
}

#[test]
fn a_command_line_that_servers_take_arrives() {
    let dev = Server::dev(bowline(), &[]);
    let words = long_words(9);
    let count = ["sh", "-c", "printf %s \"$@\" | wc -c", "sh"];
    let command: Vec<&str> = count.into_iter().chain(words.iter().map(|word| &**word)).collect();
    let client = client(&dev);
    for client in [client.over_spdy(), client] {
        let left = client.run(&[], &command, Input::Nothing);
        assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"900000\n"[..]), "{left:?}");
    }
}

#[test]
fn a_reader_that_has_had_enough_ends_the_client_as_every_filter() {
    let dev = Server::dev(bowline(), &[]);
    let words = client(&dev).process(&[], &["yes"]);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", "\"$@\" | head -c 10000 | wc -c; echo ${PIPESTATUS[0]}", "bash"]);
    shell.arg(words.get_program()).args(words.get_args());
    let output = shell.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // 128 and SIGPIPE's number, as kubectl.
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["10000", "141"], "{output:?}");
}

#[test]
fn a_full_disk_is_a_loss() {
    let dev = Server::dev(bowline(), &[]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut process = client(&dev).process(&[], &["echo", "out"]);
    let output = process.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("write stdout: no space left on device"), "{text}");
}
