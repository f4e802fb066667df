//! A session that a program in a container has kept, where nothing can be run in that container:
//! whether it can be later is the pod's matter.

use std::net::Ipv4Addr;

use bowline_client::access::Access;
use bowline_client::kept::{Id, refused};
use bowline_client::{Client, Error, UpgradeError};
use bowline_io::dial::Endpoint;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::head;

/// What a client is told that resumes a session in a pod of this state. The server knows nothing of
/// kept sessions, and runs no command there.
async fn told(pod: &str) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = Endpoint { host: Ipv4Addr::LOCALHOST.to_string(), port, tls: None, proxy: None };
    let url = format!("http://127.0.0.1:{port}").parse().unwrap();
    let client = Client::new(url, Access::fixed(endpoint, Vec::new()), "default");
    let command = client.resume("web", Id([7; 16])).program(vec![0]).container("box");
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await;
            let (code, body) = match head.split(' ').nth(1).unwrap() {
                "/api/v1/namespaces/default/pods/web" => ("200 OK", pod),
                _ if head.contains("v1.session.bowline") => ("400 Bad Request", "what is that?"),
                _ => ("500 Internal Server Error", "container not found"),
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {code}\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    tokio::select! {
        never = serve => never,
        result = command.run() => result.unwrap_err(),
    }
}

#[tokio::test]
async fn a_session_in_a_pod_that_has_completed_is_gone() {
    let error = told(r#"{"status":{"phase":"Failed","reason":"Evicted"}}"#).await;
    let Error::NotKept(refused) = &error else { panic!("{error:?}") };
    assert_eq!(refused.code, refused::UNKNOWN);
    assert_eq!(refused.text, "the session is gone: its pod has completed: Failed, Evicted");
}

#[tokio::test]
async fn a_session_in_a_pod_that_runs_may_be_there() {
    for pod in [r#"{"status":{"phase":"Running"}}"#, "not JSON", "{}"] {
        let error = told(pod).await;
        let Error::Upgrade(UpgradeError::Refused(refused)) = &error else { panic!("{error:?}") };
        assert_eq!(refused.message, "container not found");
    }
}
