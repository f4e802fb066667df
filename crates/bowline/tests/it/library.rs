//! `bowline-client` as other programs use it: ends of their own instead of a console.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_client::record::{Admission, Denied, End, Ended, Hook, Record};
use bowline_client::{Client, Error, Outcome, Size};
use bowline_interop::forward::app::App;
use bowline_interop::server::{Server, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bowline;

fn client(dev: &Server, websocket: bool) -> Client {
    let client = Client::from_kubeconfig(Path::new(&dev.kubeconfig()), None).unwrap();
    client.websocket(websocket)
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

const SIZE: Size = Size { width: 80, height: 24 };

/// kubectl loses such output and exits with 0.
#[tokio::test]
async fn output_after_the_end_of_a_terminals_stdin_arrives() {
    let dev = Server::dev(bowline(), &[]);
    for websocket in [true, false] {
        let script = "cat; head -c 1000000 /dev/zero; echo after; exit 4";
        let command = client(&dev, websocket).exec("nginx", ["sh", "-c", script]);
        let output = command.stdin(&b"line\n"[..]).tty(SIZE).output().await.unwrap();
        let zeros = output.stdout.iter().filter(|&&byte| byte == 0).count();
        assert_eq!(zeros, 1_000_000, "WebSocket: {websocket}: {:?}", output.status);
        assert!(output.stdout.ends_with(b"after\r\n"), "WebSocket: {websocket}");
        assert_eq!(output.status, Outcome::Exited(4), "WebSocket: {websocket}");
    }
}

#[tokio::test]
async fn output_and_errors_are_kept_apart_and_up_to_a_bound() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev, true);
    let command = || client.exec("nginx", ["sh", "-c", "echo out; echo err >&2; exit 3"]);
    let output = command().output().await.unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n", "err\n"));
    assert_eq!(output.status, Outcome::Exited(3));
    assert_eq!(command().status().await.unwrap(), Outcome::Exited(3));
    let output = command().without_stderr().output().await.unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n", ""));
    let command = || client.exec("nginx", ["echo", "out"]).max_output(3);
    let long = command().output().await.unwrap_err().to_string();
    assert_eq!(long, "write stdout: it is longer than 3 bytes");
    let long = command().spawn().await.unwrap().wait_with_output().await;
    assert_eq!(long.unwrap_err().to_string(), "write stdout: it is longer than 3 bytes");
}

#[tokio::test]
async fn a_child_is_talked_to() {
    let dev = Server::dev(bowline(), &[]);
    for websocket in [true, false] {
        let client = client(&dev, websocket);
        let script = "read line; echo got $line; cat; exit 7";
        let command = client.exec("nginx", ["sh", "-c", script]).stdin_piped();
        let mut child = command.spawn().await.unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        stdin.write_all(b"one\n").await.unwrap();
        let mut answer = [0; 8];
        stdout.read_exact(&mut answer).await.unwrap();
        assert_eq!(text(&answer), "got one\n");
        // Nothing is lost by a wait that is given up.
        assert!(tokio::time::timeout(Duration::ZERO, child.wait()).await.is_err());
        stdin.write_all(b"two").await.unwrap();
        drop(stdin);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "two");
        assert_eq!(child.wait().await.unwrap(), Outcome::Exited(7));
        assert_eq!(child.wait().await.unwrap(), Outcome::Exited(7));
    }
}

#[tokio::test]
async fn a_terminal_has_the_size_that_it_is_given() {
    let dev = Server::dev(bowline(), &[]);
    let command = client(&dev, true).exec("nginx", ["sh", "-c", "stty size; read x; stty size"]);
    let mut child = command.stdin_piped().tty(SIZE).spawn().await.unwrap();
    let mut stdout = child.stdout.take().unwrap();
    assert!(child.stderr.is_none());
    let mut first = [0; 7];
    stdout.read_exact(&mut first).await.unwrap();
    assert_eq!(text(&first), "24 80\r\n");
    child.resize(Size { width: 132, height: 50 });
    child.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let output = tokio::join!(child.wait(), async {
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).await.unwrap();
        rest
    });
    assert_eq!((output.0.unwrap(), &*output.1), (Outcome::Success, "\r\n50 132\r\n"));
}

/// Output that nobody wants does not hold up the command, and does not end it.
#[tokio::test]
async fn output_that_is_dropped_is_passed_over() {
    let dev = Server::dev(bowline(), &[]);
    let script = "head -c 3000000 /dev/zero; exit 5";
    let mut child = client(&dev, true).exec("nginx", ["sh", "-c", script]).spawn().await.unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().await.unwrap(), Outcome::Exited(5));
}

/// The command of a session that is left is hung up on.
#[tokio::test]
async fn a_child_that_is_dropped_is_left() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev, true);
    let place = tempfile::tempdir().unwrap();
    for leave in [true, false] {
        let ended = place.path().join(format!("ended-{leave}"));
        let script = "trap 'touch $0; exit' HUP; echo up; sleep 1000 & wait";
        let words = ["sh", "-c", script, ended.to_str().unwrap()];
        let mut child = client.exec("nginx", words).spawn().await.unwrap();
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).await.unwrap();
        match leave {
            true => child.leave().await,
            false => drop(child),
        }
        tokio::task::spawn_blocking(move || {
            until("the command's end", Duration::from_secs(20), || ended.exists());
        })
        .await
        .unwrap();
    }
}

/// What was cut does not look like the end, to whoever reads and to whoever waits.
#[tokio::test]
async fn a_lost_session_is_an_error() {
    let mut dev = Server::dev(bowline(), &[]);
    let client = client(&dev, true);
    let words = ["sh", "-c", "echo one; exec sleep 1000"];
    let mut child = client.exec("nginx", words).spawn().await.unwrap();
    let mut kept = client.exec("nginx", words).spawn().await.unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut one = [0; 4];
    stdout.read_exact(&mut one).await.unwrap();
    kept.stdout.as_mut().unwrap().read_exact(&mut one[..1]).await.unwrap();
    dev.kill();
    let error = stdout.read(&mut one).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    for _ in 0..2 {
        let Error::Lost { received_bytes, .. } = child.wait().await.unwrap_err() else {
            panic!("a loss is told as something else")
        };
        assert_eq!(received_bytes, 4);
    }
    let lost = kept.wait_with_output().await.unwrap_err();
    let Error::Lost { stdout, .. } = lost else { panic!("{lost}") };
    assert_eq!(text(&stdout), "ne\n");
}

/// Connections are plain streams; what failed says so when it is read, and the next one works.
#[tokio::test]
async fn connections_of_a_forward_are_streams() {
    let dev = Server::dev(bowline(), &[]);
    let app = App::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for websocket in [true, false] {
        let forward = client(&dev, websocket).port_forward("nginx").open().await.unwrap();
        let mut refused = forward.connect(free).await.unwrap();
        let error = refused.read(&mut [0]).await.unwrap_err().to_string();
        assert!(error.contains("connection refused"), "{error}");
        let mut reset = forward.connect(app.port).await.unwrap();
        reset.write_all(b"reset 1000\n").await.unwrap();
        let mut bytes = Vec::new();
        assert!(reset.read_to_end(&mut bytes).await.is_err(), "a reset looks like a good end");
        let mut echo = forward.connect(app.port).await.unwrap();
        echo.write_all(b"echo\nhello").await.unwrap();
        echo.shutdown().await.unwrap();
        let mut text = String::new();
        echo.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        forward.close().await;
    }
}

#[tokio::test]
async fn files_go_there_and_back() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev, true);
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("a"), "text").unwrap();
    client.copy_to("nginx", path("a"), path("b")).run().await.unwrap();
    client.copy_from("nginx", path("b"), path("c")).run().await.unwrap();
    assert_eq!(std::fs::read_to_string(path("c")).unwrap(), "text");
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps what it is told of sessions, and has room for so many.
#[derive(Clone, Debug)]
struct Recorder {
    room: usize,
    told: Arc<Mutex<Vec<String>>>,
}

impl Admission for Recorder {
    fn admit(&self, _: &Record) -> Result<Box<dyn Hook>, Denied> {
        if self.told.lock().unwrap().len() < 2 * self.room {
            return Ok(Box::new(self.clone()));
        }
        Err(Denied { why: "no more sessions".into(), retry_after: Duration::ZERO })
    }
}

impl Hook for Recorder {
    fn begun(&mut self, record: &Record) {
        let Record { verb, namespace, pod, command, near, .. } = record;
        assert!(record.requester.peer.port() > 0);
        let line = format!("{verb} {command:?} in {namespace}/{pod} over {near}");
        self.told.lock().unwrap().push(line);
    }

    fn ended(self: Box<Self>, ended: &Ended) {
        let traffic = ended.traffic.unwrap();
        assert!(traffic.to_client > 0 || matches!(ended.end, End::Lost(_)), "{ended:?}");
        self.told.lock().unwrap().push(ended.end.to_string());
    }
}

/// A client's sessions are known as those of servers are.
#[tokio::test]
async fn a_clients_sessions_are_told_from_their_beginning_to_their_end() {
    let mut dev = Server::dev(bowline(), &[]);
    let recorder = Recorder { room: 4, told: Arc::default() };
    let client = client(&dev, true).admission(Arc::new(recorder.clone()));
    let told = || std::mem::take(&mut *recorder.told.lock().unwrap());
    let until_told = async |count| {
        let told = recorder.told.clone();
        let waits = move || until("the end", PATIENCE, || told.lock().unwrap().len() == count);
        tokio::task::spawn_blocking(waits).await.unwrap();
        std::mem::take(&mut *recorder.told.lock().unwrap())
    };
    let begins = "exec [\"sh\", \"-c\", \"exit 3\"] in default/nginx over WebSocket \
                  v5.channel.k8s.io";
    let of = |end: &str| [begins.to_owned(), end.to_owned()];
    let command = || client.exec("nginx", ["sh", "-c", "exit 3"]);
    assert_eq!(command().status().await.unwrap(), Outcome::Exited(3));
    assert_eq!(told(), of("exit code 3"));
    assert!(command().run().await.is_ok());
    assert_eq!(told(), of("exit code 3"));
    let forward = client.port_forward("nginx").open().await.unwrap();
    // Nobody listens there, and that is no fault of the session's.
    let mut connection = forward.connect(1).await.unwrap();
    assert!(connection.read_to_end(&mut Vec::new()).await.is_err());
    forward.close().await;
    let lines = until_told(2).await;
    assert!(lines[0].starts_with("portforward [] in default/nginx over "), "{lines:?}");
    assert_eq!(lines[1..], ["over"]);
    // One that is lost, and one for which there is no room: it is not asked for at all.
    let child = client.exec("nginx", ["sleep", "1000"]).spawn().await.unwrap();
    let full = Recorder { room: 0, ..recorder.clone() };
    let none = client.clone().admission(Arc::new(full)).exec("nginx", ["true"]).status().await;
    assert_eq!(none.unwrap_err().to_string(), "no more sessions");
    dev.kill();
    assert!(child.wait_with_output().await.is_err());
    let lines = told();
    assert!(lines.len() == 2 && lines[1].starts_with("lost: "), "{lines:?}");
}

/// So many sessions at once.
#[derive(Clone, Debug)]
struct AtMost(usize, Arc<()>);

#[derive(Debug)]
struct Held(#[expect(dead_code, reason = "it counts")] Arc<()>);

impl Hook for Held {}

impl Admission for AtMost {
    fn admit(&self, _: &Record) -> Result<Box<dyn Hook>, Denied> {
        if Arc::strong_count(&self.1) <= self.0 {
            return Ok(Box::new(Held(self.1.clone())));
        }
        Err(Denied { why: "no more sessions".into(), retry_after: Duration::ZERO })
    }
}

/// A copy runs many commands and is one session; one that has ended makes room at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_one_session_is_enough_for_each_kind() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev, true).admission(Arc::new(AtMost(1, Arc::new(()))));
    let place = tempfile::tempdir().unwrap();
    let (source, there) = (place.path().join("source"), place.path().join("there"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "text").unwrap();
    client.copy_to("nginx", &source, there.to_str().unwrap()).run().await.unwrap();
    assert_eq!(std::fs::read(there.join("file")).unwrap(), b"text");
    for _ in 0..50 {
        client.port_forward("nginx").open().await.unwrap().close().await;
        assert_eq!(client.exec("nginx", ["true"]).status().await.unwrap(), Outcome::Success);
    }
    let held = client.exec("nginx", ["cat"]).stdin_piped().spawn().await.unwrap();
    let refused = client.copy_to("nginx", &source, "/tmp/x").run().await.unwrap_err().to_string();
    assert_eq!(refused, "no more sessions");
    held.leave().await;
}
