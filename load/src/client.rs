//! A command to a session, in this process (the library) or as a `bowline exec` of its own.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Response};
use anyhow::{Error, Result, bail};
use bowline_client::{Client, Ended, Ends, Outcome, PortForward, RemoteCommand};
use bowline_interop::cluster::Cluster;
use bowline_io::access::{Access, Source};
use bowline_io::dial::{Endpoint, Tls, dial};
use bowline_io::http::{self, UpgradeAnswer};
use bowline_io::pool::Pool;
use bowline_io::random;
use bowline_io::stream::{Stream, Upgraded};
use bowline_io::tls::{self, Identity, Trust};
use bowline_proto::negotiate::Offer;
use hyper::body::Incoming;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Notify;
use url::Url;

use crate::place::TOKEN;

/// How long a connection or an upgrade may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients of one gateway, or of an API server.
#[derive(Clone)]
pub struct Clients {
    bowline: PathBuf,
    kubeconfig: PathBuf,
    server: Url,
    endpoint: Endpoint,
    /// What says who they are, unless their certificate does.
    bearer: Option<HeaderValue>,
}

/// Reads for a session.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

impl Clients {
    pub fn new(bowline: &Path, kubeconfig: PathBuf, port: u16, ca: &str) -> Result<Clients> {
        let bearer = HeaderValue::try_from(format!("Bearer {TOKEN}"))?;
        let clients = Clients::of(bowline, kubeconfig, port, ca.as_bytes().to_vec(), None)?;
        Ok(Clients { bearer: Some(bearer), ..clients })
    }

    /// Clients of a cluster's API server, as its administrator.
    pub fn of_cluster(bowline: &Path, cluster: &Cluster) -> Result<Clients> {
        let port = cluster.env("APISERVER_PORT").parse()?;
        let pki = |name: &str| cluster.path("pki").join(name);
        let identity = Identity::read(&pki("admin.crt"), &pki("admin.key"))?;
        let ca = tls::read(&pki("ca.crt"))?;
        Clients::of(bowline, cluster.admin().into(), port, ca, Some(&identity))
    }

    fn of(
        bowline: &Path,
        kubeconfig: PathBuf,
        port: u16,
        ca: Vec<u8>,
        identity: Option<&Identity>,
    ) -> Result<Clients> {
        let config = tls::client(&Trust::Ca(ca), identity)?;
        let server = Url::parse(&format!("https://127.0.0.1:{port}"))?;
        let tls = Tls { config, server_name: None };
        let endpoint = Endpoint::of(&server, Some(tls), None);
        Ok(Clients { bowline: bowline.to_owned(), kubeconfig, server, endpoint, bearer: None })
    }

    fn access(&self) -> Arc<dyn Source> {
        let bearer = self.bearer.clone().into_iter();
        let headers = bearer.map(|bearer| (HeaderName::from_static("authorization"), bearer));
        Access::fixed(self.endpoint.clone(), headers.collect())
    }

    /// A session of the library, to its end; `Err` says what is wrong with it.
    pub async fn library(
        &self,
        command: &[&str],
        tty: bool,
        stdin: Option<Input>,
        stdout: &Taken,
    ) -> Result<Ended, String> {
        let mut ends = Ends::default();
        ends.stdin = stdin;
        ends.stdout = Box::new(stdout.clone());
        let command = self.exec(command)?.without_stderr().ends(ends);
        let command = if tty { command.terminal(None) } else { command };
        command.run().await.map_err(|error| error.to_string())
    }

    fn client(&self) -> Result<Client, String> {
        Ok(Client::new(self.server.clone(), self.access(), "default"))
    }

    fn exec(&self, command: &[&str]) -> Result<RemoteCommand, String> {
        Ok(self.client()?.exec("box", command.iter().copied()).container("box"))
    }

    /// An exec that was asked for at the gateway, for whoever speaks for himself on it.
    pub async fn exec_itself(&self, command: &[&str]) -> Result<Upgraded> {
        let command = self.exec(command).map_err(Error::msg)?;
        let url = command.without_stderr().stdin(tokio::io::empty()).url();
        switched(&self.endpoint, &url, &Offer::websocket(random::bytes())).await
    }

    /// A port-forward over SPDY in the same way.
    pub async fn forward_itself(&self) -> Result<Upgraded> {
        let url = self.client().map_err(Error::msg)?.port_forward("box").url();
        switched(&self.endpoint, &url, &Offer::forward()).await
    }

    /// Plain requests, over connections of HTTP/2 that they share.
    pub fn pool(&self) -> Pool {
        Pool::new(self.access(), "bowline-load")
    }

    /// A plain GET on a connection of its own, of HTTP/1.1.
    pub async fn get_alone(&self, target: &str) -> Result<Response<Incoming>> {
        let mut head = http::head("GET", &self.server.join(target)?, ())?;
        if let Some(bearer) = &self.bearer {
            head.headers_mut().insert("authorization", bearer.clone());
        }
        Ok(http::open(self.dial().await?, head, PATIENCE).await?)
    }

    /// A connection to the gateway, in TLS.
    pub async fn dial(&self) -> Result<Stream> {
        Ok(dial(&self.endpoint, PATIENCE).await?)
    }

    /// One without.
    pub async fn tcp(&self) -> Result<TcpStream> {
        let port = self.server.port().unwrap_or_default();
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?)
    }

    /// Has the kernel keep less for a connection that is not read.
    pub fn small_room(&self, stream: &Stream, bytes: usize) {
        let _ = stream.tcp().map(|tcp| SockRef::from(tcp).set_recv_buffer_size(bytes));
    }

    /// A port-forward of the library.
    pub async fn forward(&self) -> Result<PortForward> {
        Ok(self.client().map_err(Error::msg)?.port_forward("box").open().await?)
    }

    /// A port-forward as a process, with a local port that the system chooses.
    pub fn forward_process(&self, port: u16) -> Command {
        let mut process = Command::new(&self.bowline);
        process.args(["port-forward", "--kubeconfig"]).arg(&self.kubeconfig);
        process.args(["--address", "127.0.0.1", "box", &format!(":{port}")]).kill_on_drop(true);
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        process
    }

    /// A client as a process: its ends are null until they are set.
    pub fn process(&self, flags: &[&str], command: &[&str]) -> Command {
        let mut process = Command::new(&self.bowline);
        process.args(["exec", "--kubeconfig"]).arg(&self.kubeconfig).args(flags);
        process.args(["box", "--"]).args(command).kill_on_drop(true);
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        process
    }
}

/// Asks for an upgrade, and believes that it is what was asked for.
pub async fn switched(endpoint: &Endpoint, url: &Url, offer: &Offer) -> Result<Upgraded> {
    let mut head = http::head(offer.method(), url, ())?;
    head.headers_mut().insert("authorization", HeaderValue::try_from(format!("Bearer {TOKEN}"))?);
    for (name, value) in offer.headers() {
        head.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    if offer.method() == "POST" {
        head.headers_mut().insert("content-length", HeaderValue::from_static("0"));
    }
    match http::upgrade(dial(endpoint, PATIENCE).await?, head, PATIENCE).await? {
        UpgradeAnswer::Switched { connection, .. } => Ok(connection),
        UpgradeAnswer::Refused { head, body } => {
            bail!("{}: {}", head.status, String::from_utf8_lossy(&body))
        }
    }
}

/// Whether a session ended in success.
pub fn success(ended: Result<Ended, String>) -> Result<(), String> {
    match ended? {
        Ended::Known(Outcome::Success) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Counts output, and tells of it.
#[derive(Clone, Debug, Default)]
pub struct Taken(Arc<Counter>);

#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicU64,
    more: Notify,
    over: AtomicBool,
}

impl Taken {
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Acquire)
    }

    /// Nothing more will come.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Release);
        self.0.more.notify_one();
    }

    /// Waits for so many bytes, or the end; whether they came. For one waiter.
    pub async fn reaches(&self, bytes: u64) -> bool {
        while self.bytes() < bytes {
            if self.0.over.load(Ordering::Acquire) {
                return false;
            }
            self.0.more.notified().await;
        }
        true
    }
}

impl AsyncWrite for Taken {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.bytes.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        self.0.more.notify_one();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
