//! Plain requests and requests for streams, at a server that answers as a test says: what is tried
//! again, what is followed, what is shown.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::bowline;

/// What a server does with a connection whose request it has read.
enum Answer {
    Say(&'static str),
    Cut,
}

const BUSY: Answer =
    Answer::Say("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
const DOWN: Answer =
    Answer::Say("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n");
const MISSING: Answer = Answer::Say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
const MOVED: Answer =
    Answer::Say("HTTP/1.1 307 Moved\r\nLocation: /over/there\r\nContent-Length: 0\r\n\r\n");
const AWAY: Answer = Answer::Say(
    "HTTP/1.1 307 Moved\r\nLocation: http://me:SECRET@127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
);
const POD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"default"},
"spec":{"containers":[{"name":"c"}]},"status":{"phase":"Running"}}"#;

/// A server that has these answers, one a connection, the last one for all that follow; and the
/// first lines of what it was asked.
fn server(answers: Vec<Answer>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, lines) = channel();
    thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let _ = sender.send(head.lines().next().unwrap_or_default().to_owned());
            match &answers[index.min(answers.len() - 1)] {
                Answer::Cut => {}
                Answer::Say("pod") => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", POD.len());
                    stream.write_all(format!("{head}{POD}").as_bytes()).unwrap();
                }
                Answer::Say(text) => stream.write_all(text.as_bytes()).unwrap(),
            }
        }
    });
    (address, lines)
}

fn exec(server: &str, flags: &[&str]) -> Output {
    let mut process = Command::new(bowline());
    process.env("KUBECONFIG", "/dev/null").args(["exec", "--server", server]).args(flags);
    process.args(["p", "--", "true"]).output().unwrap()
}

#[track_caller]
fn ends(output: &Output, why: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(why), "{text}");
    assert!(!text.contains("SECRET"), "{text}");
}

#[test]
fn a_plain_request_is_tried_again_and_follows_its_server() {
    let (address, lines) = server(vec![BUSY, DOWN, Answer::Cut, MOVED, MISSING]);
    ends(&exec(&format!("http://{address}"), &[]), "Error from server (NotFound)");
    let lines: Vec<_> = lines.try_iter().collect();
    let pod = "GET /api/v1/namespaces/default/pods/p HTTP/1.1";
    assert_eq!(lines, [pod, pod, pod, pod, "GET /over/there HTTP/1.1"]);
}

#[test]
fn trying_again_has_an_end_and_so_has_following() {
    for (answer, why, times) in [
        (BUSY, "Error from server", 11),
        (MOVED, "is not followed", 11),
        (AWAY, "redirects the request to http://me:xxxxx@127.0.0.1:1/, which is not followed", 1),
    ] {
        let (address, lines) = server(vec![answer]);
        ends(&exec(&format!("http://{address}"), &[]), why);
        assert_eq!(lines.try_iter().count(), times, "{why}");
    }
}

#[test]
fn a_stream_is_asked_for_once_over_each_carrier_and_follows_nobody() {
    for (answer, why) in [
        (DOWN, "unable to upgrade connection"),
        (AWAY, "redirects the stream to http://me:xxxxx@127.0.0.1:1/, which is not followed"),
        (MOVED, "redirects the stream to /over/there, which is not followed"),
    ] {
        let (address, lines) = server(vec![Answer::Say("pod"), answer]);
        ends(&exec(&format!("http://{address}"), &[]), why);
        let methods: Vec<_> =
            lines.try_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(methods, ["GET", "GET", "POST"], "{why}");
    }
}

#[test]
fn a_password_in_a_url_is_not_shown() {
    let (address, lines) = server(vec![MISSING]);
    let proxied = |flags: &[&str], name: &str, url: &str| {
        let mut process = Command::new(bowline());
        process.env("KUBECONFIG", "/dev/null").env(name, url).arg("exec").args(flags);
        process.args(["p", "--", "true"]).output().unwrap()
    };
    for level in 6..=10 {
        let level = format!("-v={level}");
        let output = exec(&format!("http://me:SECRET@{address}"), &[&level]);
        ends(&output, "NotFound");
        assert!(lines.try_recv().is_ok());
        let proxy = format!("http://me:SECRET@{address}");
        let flags = [&*level, "--server=https://192.0.2.1"];
        ends(&proxied(&flags, "HTTPS_PROXY", &proxy), "returned response: 404");
        assert!(lines.try_recv().is_ok());
    }
    ends(&exec("https://me:SECRET@:::", &[]), "host must be a URL");
    ends(&proxied(&["--server=https://192.0.2.1"], "HTTPS_PROXY", "http://me:SECRET@:::"), "proxy");
    let (from, lines) = server(vec![MISSING]);
    let mut of_file = Command::new(bowline());
    of_file.env("KUBECONFIG", "/dev/null").args(["exec", "--server", &format!("http://{address}")]);
    of_file.args(["-f", &format!("http://me:SECRET@{from}/"), "--", "true"]);
    ends(&of_file.output().unwrap(), "unable to read URL");
    assert!(lines.try_recv().is_ok());
}
