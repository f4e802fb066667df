//! `ws-echo-client URL`: runs all cases of Autobahn's fuzzing server at URL, and has it write its
//! report.

#![expect(clippy::disallowed_macros, reason = "a program of its own, without a peer's text")]

mod echo;

use std::error::Error;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_io::dial::{Endpoint, dial};
use bowline_io::http::{UpgradeAnswer, head, upgrade};
use bowline_io::random;
use bowline_io::stream::Upgraded;
use bowline_proto::websocket::{Role, accept_key};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::{HeaderValue, header};
use url::Url;

type Failure = Box<dyn Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::args().nth(1).ok_or("usage: ws-echo-client URL")?;
    let url = Url::parse(&url)?;
    let mut count = None;
    let connection = open(&url, "getCaseCount").await?;
    echo::run(connection, Role::Client, |_, bytes| {
        count = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<u32>().ok());
        None
    })
    .await?;
    let count = count.ok_or("the server does not say how many cases it has")?;
    for case in 1..=count {
        let connection = open(&url, &format!("runCase?case={case}&agent=bowline")).await?;
        // What a case does to the connection is in the server's report.
        let _ = echo::run(connection, Role::Client, |kind, bytes| Some((kind, bytes))).await;
    }
    let connection = open(&url, "updateReports?agent=bowline").await?;
    echo::run(connection, Role::Client, |_, _| None).await?;
    println!("{count} cases");
    Ok(())
}

/// Opens a WebSocket at a path of the server.
async fn open(url: &Url, path: &str) -> Result<Upgraded, Failure> {
    let host = url.host_str().ok_or("the URL has no host")?.to_owned();
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let stream = dial(&Endpoint { host, port, tls: None, proxy: None }, PATIENCE).await?;
    let key = STANDARD.encode(random::bytes::<16>());
    let mut request = head("GET", &url.join(path)?, ())?;
    let headers = request.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(&key)?);
    match upgrade(stream, request, PATIENCE).await? {
        UpgradeAnswer::Switched { head, connection }
            if head.headers.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes)
                == Some(accept_key(&key).as_bytes()) =>
        {
            Ok(connection)
        }
        UpgradeAnswer::Switched { .. } => Err("the server's key is wrong".into()),
        UpgradeAnswer::Refused { head, .. } => {
            Err(format!("the server answers {}", head.status).into())
        }
    }
}
