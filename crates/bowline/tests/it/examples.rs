//! The examples of `bowline-client`, each against `bowline dev`.

use std::path::Path;

use bowline_client::{Client, Outcome};
use bowline_interop::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::bowline;

#[path = "../../../bowline-client/examples/copy.rs"]
#[expect(dead_code, reason = "it has a `main`")]
mod copy;
#[path = "../../../bowline-client/examples/exec.rs"]
#[expect(dead_code, reason = "it has a `main`")]
mod exec;
#[path = "../../../bowline-client/examples/port_forward.rs"]
#[expect(dead_code, reason = "it has a `main`")]
mod port_forward;
#[path = "../../../bowline-client/examples/spawn.rs"]
#[expect(dead_code, reason = "it has a `main`")]
mod spawn;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A web server's answer to one request.
async fn answer(server: TcpListener) {
    let (mut stream, _) = server.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(ANSWER.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn each_does_what_it_says() {
    let dev = Server::dev(bowline(), &[]);
    let client = Client::from_kubeconfig(Path::new(&dev.kubeconfig()), None).unwrap();
    let words = ["sh", "-c", "echo a; exit 2"].map(str::to_owned).to_vec();
    let output = exec::exec(&client, "nginx", words).await.unwrap();
    assert_eq!((&*output.stdout, output.status), (&b"a\n"[..], Outcome::Exited(2)));
    let sums = spawn::sums(&client, "nginx", &["1 + 1", "6 * 7"]).await.unwrap();
    assert_eq!(sums, ["2", "42"]);
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let (page, ()) = tokio::join!(port_forward::page(&client, "nginx", port), answer(server));
    assert_eq!(page.unwrap(), ANSWER);
    let place = tempfile::tempdir().unwrap();
    let (there, here) = (place.path().join("there"), place.path().join("here"));
    std::fs::write(&there, "text").unwrap();
    copy::get(&client, "nginx", there.to_str().unwrap(), &here).await.unwrap();
    assert_eq!(std::fs::read_to_string(here).unwrap(), "text");
}
