//! Watches of servers behind sockets: what is asked, and what may come instead of an answer.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_io::access::{Access, Answer, Source};
use bowline_io::dial::Endpoint;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::*;

/// Credentials of which there are others once they were refused.
struct Tries {
    port: u16,
    refused: AtomicU64,
}

impl Source for Tries {
    fn access(&self) -> Answer<'_, Access> {
        let generation = self.refused.load(Ordering::Relaxed);
        let endpoint =
            Endpoint { host: "127.0.0.1".into(), port: self.port, tls: None, proxy: None };
        let value = HeaderValue::try_from(format!("try {generation}")).unwrap();
        Box::pin(async move {
            Ok(Access { endpoint, headers: vec![(AUTHORIZATION, value)], generation })
        })
    }

    fn renew<'a>(&'a self, _: &'a Access) -> Answer<'a, bool> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(true) })
    }
}

/// A server that answers each connection's request with bytes, and then closes it or, for bytes
/// that end with `...`, stays silent. The heads of requests come back.
async fn server(answers: Vec<String>) -> (Api, UnboundedReceiver<String>, JoinSet<Infallible>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, asked) = unbounded_channel();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut silent = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            tell.send(String::from_utf8(head).unwrap()).unwrap();
            stream.write_all(answer.trim_end_matches("...").as_bytes()).await.unwrap();
            if answer.ends_with("...") {
                silent.push(stream);
            }
        }
        std::future::pending().await
    });
    let api = Api {
        access: Arc::new(Tries { port, refused: AtomicU64::new(0) }),
        server: format!("http://127.0.0.1:{port}/prefix").parse().unwrap(),
        headers: Vec::new(),
        patience: Duration::from_secs(30),
        observer: None,
        kept: None,
    };
    (api, asked, serving)
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n")
}

async fn patiently<T>(wanted: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), wanted).await.unwrap()
}

#[tokio::test]
async fn a_real_server_is_asked_as_client_go_does() {
    let list = listed()[0].clone().unwrap().to_string();
    let happens = format!("{}...", chunked(&event("ADDED", &thing("b", 11, "blue"))));
    let refused = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let busy = "HTTP/1.1 429 Too Many\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
    let answers = vec![ok(&list), refused.into(), busy.into(), happens];
    let (api, mut asked, _serving) = server(answers).await;
    let watched = Watched::<Thing>::begin(api);
    let list = patiently(asked.recv()).await.unwrap();
    assert!(list.starts_with("GET /prefix/api/v1/things?limit=250 HTTP/1.1\r\n"), "{list}");
    for credentials in ["try 0", "try 1", "try 1"] {
        let head = patiently(asked.recv()).await.unwrap();
        let begin = "GET /prefix/api/v1/things?watch=true&resourceVersion=10&\
                     allowWatchBookmarks=true&timeoutSeconds=";
        assert!(head.starts_with(begin), "{head}");
        assert!(head.contains(&format!("Authorization: {credentials}\r\n")), "{head}");
    }
    patiently(async {
        while watched.get("b").is_ok_and(|found| found.is_none()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(watched.get("b").unwrap().unwrap().color, "blue");
}

#[tokio::test]
async fn what_a_real_server_does_wrong_is_an_end_and_no_more() {
    let list = listed()[0].clone().unwrap().to_string();
    let garbage = "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned();
    let cut = chunked("{\"type\":\"ADDED\",\"obj");
    let page = "<html>".to_owned();
    for (second, why) in [
        (garbage, "malformed HTTP"),
        (cut, "cut off"),
        (ok(&page), "cut off"),
        (ok("x\n"), "not understood"),
    ] {
        let (api, mut asked, _serving) = server(vec![ok(&list), second]).await;
        let watched = Watched::<Thing>::begin(api);
        for _ in 0..2 {
            patiently(asked.recv()).await.unwrap();
        }
        let error = patiently(async {
            loop {
                match watched.get("a") {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => return error,
                }
            }
        })
        .await;
        assert!(error.why.contains(why), "{error}");
    }
}
