//! A server that refuses credentials, and a source that has others.

use std::future::ready;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_client::access::{Access, Answer, Source};
use bowline_client::{Client, Error, UpgradeError};
use bowline_io::dial::Endpoint;
use http::{HeaderName, HeaderValue};
use tokio::io::{AsyncWriteExt, empty};
use tokio::net::TcpListener;

use super::head;

/// Gives the number of its generation, as often as it may, another one after a refusal.
struct Numbered {
    endpoint: Endpoint,
    now: AtomicU64,
    last: u64,
}

impl Source for Numbered {
    fn access(&self) -> Answer<'_, Access> {
        let generation = self.now.load(Ordering::Relaxed);
        let value = HeaderValue::try_from(generation.to_string()).unwrap();
        let headers = vec![(HeaderName::from_static("authorization"), value)];
        Box::pin(ready(Ok(Access { endpoint: self.endpoint.clone(), headers, generation })))
    }

    fn renew<'a>(&'a self, refused: &'a Access) -> Answer<'a, bool> {
        let next = (refused.generation + 1).min(self.last);
        Box::pin(ready(Ok(self.now.swap(next, Ordering::Relaxed) != next)))
    }
}

/// What is asked, in order, of a server that lets nobody in but `good`, whom it knows not either.
async fn asked(last: u64, good: &str) -> (Vec<String>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = Ipv4Addr::LOCALHOST.to_string();
    let endpoint = Endpoint { host, port, tls: None, proxy: None };
    let url = format!("http://127.0.0.1:{port}").parse().unwrap();
    let access = Arc::new(Numbered { endpoint, now: AtomicU64::new(1), last });
    let command = Client::new(url, access, "default").exec("web", ["x"]).stdin(empty());
    let mut seen = Vec::new();
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await.to_lowercase();
            let method = head.split(' ').next().unwrap();
            let who = head.split("authorization: ").nth(1).unwrap().lines().next().unwrap();
            seen.push(format!("{method} {who}"));
            let code = if who == good { "403 Forbidden" } else { "401 Unauthorized" };
            let answer = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let result = tokio::select! {
        never = serve => never,
        result = command.run() => result,
    };
    match result.unwrap_err() {
        Error::Upgrade(UpgradeError::Refused(refused)) => (seen, refused.code),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn other_credentials_are_tried_once() {
    // The second are good, and then both carriers are refused for another reason.
    assert_eq!(asked(9, "2").await, (vec!["get 1".into(), "get 2".into(), "post 2".into()], 403));
    // None are: no more than one other is asked for.
    let all = vec!["get 1".into(), "get 2".into(), "post 2".into()];
    assert_eq!(asked(9, "none").await, (all, 401));
    // There are no others.
    assert_eq!(asked(1, "none").await, (vec!["get 1".into(), "post 1".into()], 401));
}
