//! The client libraries of other languages against `dev`, over v5 and over v4.
//!
//! v4 cannot say that stdin has ended: there a command reads as much as it was promised.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use bowline_interop::client::{Input, Left, PATIENCE, left, noise, noise_digest};
use bowline_interop::forward::app::App;
use bowline_interop::server::{Server, until};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::parts::{bowline, part};

const BYTES: u64 = 3_000_000;
const OFF: &str = "--feature-gates=TranslateStreamCloseWebsocketRequests=false";

/// A library's program, as `interop/clients` has it, and a pod whose container has its name.
pub struct Program {
    path: PathBuf,
    kubeconfig: String,
    pod: String,
}

impl Program {
    pub fn new(program: &str, kubeconfig: &str, pod: &str) -> Program {
        let (kubeconfig, pod) = (kubeconfig.to_owned(), pod.to_owned());
        Program { path: part(program), kubeconfig, pod }
    }

    fn run(&self, flags: &[&str], command: &[&str], input: Input<'_>) -> Left {
        let mut process = Command::new(&self.path);
        process.args(flags).args([&self.kubeconfig, "default", &self.pod, &self.pod]).args(command);
        process.env("SHOW_PROTOCOL", "1");
        process.stdin(if flags.is_empty() { Stdio::null() } else { Stdio::piped() });
        process.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.path));
        left(child, input, true).unwrap_or_else(|| panic!("{:?}: {command:?} hangs", self.path))
    }

    /// `much` is the bytes of an output: what Python's library gathers costs it their square, the
    /// more the smaller the messages are.
    pub fn check(&self, protocol: &str, much: u64) {
        let script = "echo out; echo err >&2; exit 7";
        let left = self.run(&[], &["sh", "-c", script], Input::Nothing);
        assert_eq!(left.status.code(), Some(7), "{left:?}");
        assert_eq!(left.stdout, b"out\n", "{left:?}");
        let mut lines: Vec<_> = left.stderr.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["err", &format!("protocol {protocol}")], "{left:?}");
        assert!(self.run(&[], &["true"], Input::Nothing).status.success());

        let script = format!("head -c {much} /dev/zero; exit 3");
        let left = self.run(&[], &["sh", "-c", &script], Input::Nothing);
        assert_eq!((left.bytes, left.status.code()), (much, Some(3)), "{}", left.stderr);

        if self.path.to_string_lossy().contains("node") && protocol.starts_with("v4") {
            return self.closes_with_stdin();
        }
        let script = if protocol.starts_with("v5") {
            "sha256sum".to_owned()
        } else {
            format!("head -c {BYTES} | sha256sum")
        };
        let left = self.run(&["-i"], &["sh", "-c", &script], Input::Noise(BYTES));
        let said = String::from_utf8_lossy(&left.stdout).into_owned();
        assert_eq!(said, format!("{}  -\n", noise_digest(BYTES)), "{left:?}");
        assert!(left.status.success(), "{left:?}");
    }
}

impl Program {
    /// client-node says that stdin has ended by closing a v4 session, and learns no outcome. The
    /// command still gets all of its input, its end included.
    fn closes_with_stdin(&self) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sha256sum > {}", file.path().display());
        let left = self.run(&["-i"], &["sh", "-c", &script], Input::Noise(BYTES));
        assert_eq!(left.status.code(), Some(255), "{left:?}");
        let expected = format!("{}  -\n", noise_digest(BYTES));
        until("the command has read its input", PATIENCE, || {
            std::fs::read_to_string(file.path()).unwrap() == expected
        });
    }
}

fn check(program: &str) {
    for (flags, protocol) in [(&[][..], "v5.channel.k8s.io"), (&[OFF], "v4.channel.k8s.io")] {
        let dev = Server::dev(&bowline(), flags);
        Program::new(program, &dev.kubeconfig(), "nginx").check(protocol, 20_000_000);
    }
}

#[test]
fn python() {
    check("clients/python/exec");
}

#[test]
fn javascript() {
    check("clients/node/exec");
}

fn check_forward(program: &str) {
    let dev = Server::dev(&bowline(), &[]);
    forwards(program, &dev.kubeconfig(), "nginx");
}

/// A library's port-forward, in its numbered channels, to a pod with this machine's ports.
pub fn forwards(program: &str, kubeconfig: &str, pod: &str) {
    let app = App::start();
    let run = |port: u16, bytes: u64, input: &[u8]| {
        let mut process = Command::new(part(program));
        process.args([kubeconfig, "default", pod]);
        process.args([port.to_string(), bytes.to_string()]);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        left(child, Input::Bytes(input), false).unwrap_or_else(|| panic!("{program} hangs"))
    };
    // To the end that the pod makes.
    let left = run(app.port, u64::MAX >> 12, format!("send {BYTES}\n").as_bytes());
    assert_eq!((left.bytes, &*left.digest), (BYTES, &*noise_digest(BYTES)), "{left:?}");
    // There and back.
    let mut input = b"echo\n".to_vec();
    let _ = noise::<()>(BYTES, |piece| {
        input.extend_from_slice(piece);
        Ok(())
    });
    let left = run(app.port, BYTES, &input);
    assert_eq!((left.bytes, &*left.digest), (BYTES, &*noise_digest(BYTES)), "{left:?}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let left = run(free, 1, b"x");
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    assert!(left.stderr.contains("connection refused"), "{left:?}");
}

#[test]
fn python_forwards() {
    check_forward("clients/python/forward");
}

#[test]
fn javascript_forwards() {
    check_forward("clients/node/forward");
}

#[tokio::test]
async fn kube_rs_forwards() {
    let dev = Server::dev(&bowline(), &[]);
    kube_rs_forwards_to(&dev.kubeconfig(), "nginx").await;
}

pub async fn pods(kubeconfig: &str) -> Api<Pod> {
    let config = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await.unwrap();
    Api::default_namespaced(kube::Client::try_from(config).unwrap())
}

pub async fn kube_rs_forwards_to(kubeconfig: &str, pod: &str) {
    let app = App::start();
    let pods = pods(kubeconfig).await;
    let mut forward = pods.portforward(pod, &[app.port]).await.unwrap();
    let mut stream = forward.take_stream(app.port).unwrap();
    stream.write_all(format!("send {BYTES}\n").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let mut expected = Vec::new();
    let _ = noise::<()>(BYTES, |piece| {
        expected.extend_from_slice(piece);
        Ok(())
    });
    assert!(bytes == expected, "{} bytes came", bytes.len());
    drop(stream);
    // The server has closed behind the last byte; the library would have, too, and says so.
    let _ = forward.join().await;
}

#[tokio::test]
async fn kube_rs() {
    for (flags, v5) in [(&[][..], true), (&[OFF], false)] {
        let dev = Server::dev(&bowline(), flags);
        kube_rs_runs(&dev.kubeconfig(), "nginx", v5).await;
    }
}

pub async fn kube_rs_runs(kubeconfig: &str, pod: &str, v5: bool) {
    let pods = pods(kubeconfig).await;

    let params = AttachParams::default();
    let script = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    let (out, err, code) = finished(pods.exec(pod, script, &params).await.unwrap()).await;
    assert_eq!((&*out, &*err, code), (&b"out\n"[..], &b"err\n"[..], Some(7)));

    let script = ["sh", "-c", "head -c 20000000 /dev/zero; exit 3"];
    let (out, _, code) = finished(pods.exec(pod, script, &params).await.unwrap()).await;
    assert_eq!((out.len(), code), (20_000_000, Some(3)));

    let script = if v5 { "sha256sum".into() } else { format!("head -c {BYTES} | sha256sum") };
    let params = AttachParams::default().stdin(true);
    let mut process = pods.exec(pod, ["sh", "-c", &script], &params).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    let mut pieces = Vec::new();
    let _ = noise::<()>(BYTES, |piece| {
        pieces.push(piece.to_vec());
        Ok(())
    });
    for piece in pieces {
        stdin.write_all(&piece).await.unwrap();
    }
    stdin.flush().await.unwrap();
    // In v4 the library would say it by closing the session.
    if v5 {
        stdin.shutdown().await.unwrap();
    }
    let (out, _, code) = finished(process).await;
    drop(stdin);
    let said = String::from_utf8_lossy(&out).into_owned();
    assert_eq!((said, code), (format!("{}  -\n", noise_digest(BYTES)), Some(0)));
}

/// What a process wrote, and its exit code.
pub async fn finished(mut process: AttachedProcess) -> (Vec<u8>, Vec<u8>, Option<i32>) {
    let status = process.take_status().unwrap();
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (read_out, read_err) =
        tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    read_out.unwrap();
    read_err.unwrap();
    let status = status.await.unwrap();
    let code = match status.status.as_deref() {
        Some("Success") => Some(0),
        _ => {
            let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
            let exit = causes.into_iter().find(|one| one.reason.as_deref() == Some("ExitCode"));
            exit.and_then(|exit| exit.message?.parse().ok())
        }
    };
    (out, err, code)
}
