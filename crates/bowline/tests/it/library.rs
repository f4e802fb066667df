//! `bowline-client` as other programs use it: ends of their own instead of a console.

use std::sync::{Arc, Mutex};

use bowline_client::{Ended, Ends, Exec, ForwardRequest, Outcome, PortForward, Wants, exec};
use bowline_interop::forward::app::App;
use bowline_interop::server::Server;
use bowline_kube::credentials::Credentials;
use bowline_kube::stream_url::ExecQuery;
use bowline_kube::{config, stream_url};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::bowline;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Kept {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

fn request(dev: &Server, websocket: bool, wants: Wants, command: &[&str]) -> Exec {
    let overrides =
        config::Overrides { kubeconfig: Some(dev.kubeconfig()), ..config::Overrides::default() };
    let env = |_: &str| None;
    let chosen = config::choose(&overrides, &env).unwrap();
    let server = chosen.server.clone();
    let access = Arc::new(Credentials::new(chosen, Arc::new(env), false).unwrap());
    let query = ExecQuery {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        container: "nginx".to_owned(),
        stdin: wants.stdin,
        stdout: wants.stdout,
        stderr: wants.stderr,
        tty: wants.tty,
        timeout: None,
        replay: None,
    };
    Exec {
        access,
        url: stream_url::exec(&server, "default", "nginx", &query),
        headers: Vec::new(),
        wants,
        websocket,
        replay: false,
        observer: None,
    }
}

/// kubectl loses such output and exits with 0.
#[tokio::test]
async fn output_after_the_end_of_a_terminals_stdin_arrives() {
    let dev = Server::dev(bowline(), &[]);
    for websocket in [true, false] {
        let wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };
        let script = ["sh", "-c", "cat; head -c 1000000 /dev/zero; echo after; exit 4"];
        let stdout = Kept::default();
        let ends = Ends {
            stdin: Some(Box::new(&b"line\n"[..])),
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(tokio::io::sink()),
            sizes: None,
            redraws: false,
        };
        let ended = exec(&request(&dev, websocket, wants, &script), ends).await.unwrap();
        let bytes = stdout.0.lock().unwrap().clone();
        let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
        assert_eq!(zeros, 1_000_000, "WebSocket: {websocket}: {ended:?}");
        assert!(bytes.ends_with(b"after\r\n"), "WebSocket: {websocket}: {ended:?}");
        assert_eq!(ended, Ended::Known(Outcome::Exited(4)), "WebSocket: {websocket}");
    }
}

/// Connections are plain streams; what failed says so when it is read, and the next one works.
#[tokio::test]
async fn connections_of_a_forward_are_streams() {
    let dev = Server::dev(bowline(), &[]);
    let app = App::start();
    let wants = Wants::default();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for websocket in [true, false] {
        let Exec { access, url, headers, .. } = request(&dev, websocket, wants, &["x"]);
        let url = stream_url::port_forward(&url.join("/").unwrap(), "default", "nginx", None);
        let request = ForwardRequest { access, url, headers, websocket, observer: None };
        let forward = PortForward::open(&request).await.unwrap();
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
