//! A server whose every word gives orders to a terminal: names, phases, annotations, messages,
//! reasons. None of them arrives at the terminal of who runs a command, whichever it is.

use std::net::SocketAddr;
use std::process::Command;

use super::bad_server::{Request, start};
use super::bowline;

/// A title, the screen cleared, both controls of one byte, a line of our own making, and text that
/// is read backwards.
const ORDERS: &str = "x\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}2J\u{85}\n\rerror: forged\u{202e}y";

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A pod in which all is `ORDERS` that a server may choose.
fn pod(phase: &str, containers: usize) -> String {
    let container = format!("{{\"name\": {}, \"stdin\": false}}", json(ORDERS));
    let containers = vec![container; containers].join(",");
    format!(
        "{{\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"metadata\": {{\"name\": {name}, \
         \"annotations\": {{\"kubectl.kubernetes.io/default-container\": {name}}}}}, \"spec\": \
         {{\"containers\": [{containers}]}}, \"status\": {{\"phase\": {phase}}}}}",
        name = json(ORDERS),
        phase = json(phase),
    )
}

fn answer(request: Request, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    request.answer(&[head.as_bytes(), body.as_bytes()].concat());
}

/// Runs the command against the server, and gives what it said. Nothing of it is the output of a
/// container.
fn said(server: SocketAddr, words: &[&str]) -> String {
    let mut process = Command::new(bowline());
    let server = format!("--server=http://{server}");
    process.env("KUBECONFIG", "/dev/null").arg(words[0]).arg(server).args(&words[1..]);
    let output = process.output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8(both).unwrap()
}

fn obeys_nobody(text: &str, what: &str) {
    let orders = text.chars().find(|&one| one != '\n' && (one.is_control() || one == '\u{202e}'));
    assert_eq!(orders, None, "{what}: {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{what}: {text:?}");
}

/// Each command, quiet and with all that `-v` shows.
fn each_command(server: SocketAddr, what: &str) {
    let files = tempfile::tempdir().unwrap();
    let target = format!("{}/x", files.path().display());
    let commands: [&[&str]; 6] = [
        &["exec", "box", "--", "date"],
        &["exec", "-it", "box", "--", "date"],
        &["attach", "-it", "box"],
        &["cp", "box:/etc/hosts", &target],
        &["cp", "/dev/null", "box:/tmp/x"],
        &["port-forward", "--exit-on-lost", "box", ":80"],
    ];
    let mut said_it = false;
    for words in commands {
        for verbosity in ["-v=0", "-v=9"] {
            let words = [&words[..1], &[verbosity], &words[1..]].concat();
            let text = said(server, &words);
            obeys_nobody(&text, &format!("{what}: {words:?}"));
            said_it |= text.contains("title");
        }
    }
    assert!(said_it, "{what}: nothing of it was shown at all");
}

#[test]
fn what_a_server_says_of_a_pod_gives_no_orders() {
    for (phase, containers) in [("Running", 1), ("Running", 2), (ORDERS, 1), ("Running", 0)] {
        let pod = pod(phase, containers);
        let server = start(move |request| answer(request, "200 OK", &pod));
        each_command(server, &format!("{phase:?}, {containers} containers"));
    }
}

#[test]
fn what_a_server_refuses_with_gives_no_orders() {
    let status = format!(
        "{{\"kind\": \"Status\", \"message\": {orders}, \"reason\": {orders}, \"code\": 403}}",
        orders = json(ORDERS)
    );
    for body in [&*status, ORDERS, &json(ORDERS)] {
        let (first, then) = (body.to_owned(), body.to_owned());
        let server = start(move |request| answer(request, "403 Forbidden", &first));
        each_command(server, &format!("all is refused: {body:?}"));
        let server = start(move |request| {
            if request.is_upgrade() {
                answer(request, "500 Internal Server Error", &then);
            } else {
                answer(request, "200 OK", &pod("Running", 1));
            }
        });
        each_command(server, &format!("streams are refused: {body:?}"));
    }
}

#[test]
fn what_a_session_ends_with_gives_no_orders() {
    type Script = fn(Request);
    let ends: [(&str, Script); 2] = [
        ("a close", |request| request.upgrade_bare().close(1011, ORDERS)),
        ("a status", |request| {
            let mut live = request.upgrade_bare();
            let status = format!("{{\"status\": \"Failure\", \"message\": {}}}", json(ORDERS));
            live.frame(2, &[&[3], status.as_bytes()].concat());
            live.close(1000, "");
        }),
    ];
    for (what, end) in ends {
        let server = start(move |request| {
            if !request.is_upgrade() {
                answer(request, "200 OK", &pod("Running", 1));
            } else if request.method == "GET" && !request.offers("SPDY/3.1") {
                end(request);
            }
        });
        let text = said(server, &["exec", "box", "--", "date"]);
        obeys_nobody(&text, what);
        assert!(text.contains("title"), "{what}: {text}");
        each_command(server, what);
    }
}
