//! The pods of a container runtime that speaks the container runtime interface (CRI): containerd,
//! CRI-O, and what stands in for them.
//!
//! Runtimes stream by themselves: such a one is asked for a URL of its own server, to which the
//! node then relays. containerd's commands are run by its own interface, where that can be. What
//! the node adds is finding what a request names, in the words and with the codes of the kubelet,
//! and everything that such servers do not speak. The runtime is trusted: it is what runs all that
//! is here, with all rights on the host.

mod client;
mod containerd;
mod endpoint;
mod face;
mod find;
mod hangup;
mod health;
mod info;
mod log_files;
mod messages;
mod netns;
mod own_thread;
mod ports;
mod unix_socket;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bowline_io::tls::{self, TlsError, Trust};
use bowline_proto::session::Wants;
use bytes::Bytes;
use prost::Message;
use rustls::ClientConfig;
use tokio::time::timeout;
use tracing::warn;

use self::client::{ANSWER_PATIENCE, Client};
use self::containerd::Containerd;
pub use self::containerd::ExecBy;
pub use self::endpoint::{BadEndpoint, Endpoint};
pub use self::face::Face;
use self::find::{FindError, full_name};
use self::hangup::Hangups;
use self::info::{ContainerInfo, is_running, status};
use self::netns::NamespacePorts;
use self::ports::PodPorts;
pub use self::ports::PortForward;
use crate::runtime::{
    Answer, AttachRequest, Attachment, BoxFuture, ExecRequest, Forwarding, Log, LogRequest,
    PodTarget, Refusal, Runtime, Served, Session, Target, Upstream,
};

/// How long the end of all commands whose client has gone is waited for, once the node ends. What
/// runs the node kills it after 5 s, as its manifest and unit have it.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// How a runtime is reached, and what is left to it.
#[derive(Clone, Debug)]
pub struct CriSettings {
    /// Its socket.
    pub endpoint: Endpoint,
    /// Whom to trust as its streaming server, if that speaks TLS. Default: as the kubelet, the CAs
    /// of the operating system, so that a certificate that the runtime has made for itself is
    /// refused.
    pub streaming_trust: Trust,
    /// Who runs the commands of clients. Default: the node, where it can.
    pub exec: ExecBy,
    /// What becomes of the command of a lost client. Default: it runs on.
    pub hangup: Hangup,
    /// How long the output of a command that the node runs is read on after it has ended, while
    /// others hold it. Default: for as long as they do.
    pub drain: Option<Duration>,
    /// Who connects to the ports of pods. Default: the node, where it can.
    pub port_forward: PortForward,
}

/// What becomes of the command of a client that is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hangup {
    /// It runs on until it ends by itself, as the runtimes have it.
    #[default]
    None,
    /// Its processes get SIGHUP, and SIGKILL after the grace. That takes a node that sees the
    /// processes of its host, and a runtime that tells which are whose; where either is missing, or
    /// there is a doubt, nothing is ended. Of a command that the node runs itself, the first
    /// process is ended in any case.
    End {
        /// The time between the two.
        grace: Duration,
    },
}

impl CriSettings {
    /// Makes the settings for a runtime, all others as by default.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> CriSettings {
        CriSettings {
            endpoint,
            streaming_trust: Trust::System,
            exec: ExecBy::default(),
            hangup: Hangup::default(),
            drain: None,
            port_forward: PortForward::default(),
        }
    }
}

/// The pods of a container runtime.
///
/// It is connected to when it is first asked for something, and again after it was restarted.
#[derive(Debug)]
pub struct CriRuntime {
    shared: Arc<Shared>,
}

/// What streams need that begin later.
#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    client: Arc<Client>,
    containerd: Arc<Containerd>,
    streaming_trust: Trust,
    /// Made for the first URL that wants it: most want none.
    tls: OnceLock<Arc<ClientConfig>>,
    /// What ends the commands of lost clients, if anything does.
    hangups: Option<Hangups>,
    ports: PodPorts,
}

impl CriRuntime {
    /// Makes the runtime behind a socket, which need not be there yet.
    #[must_use]
    pub fn new(settings: CriSettings) -> CriRuntime {
        let CriSettings { endpoint, streaming_trust, exec, hangup, drain, port_forward } = settings;
        let (hangups, grace) = match hangup {
            Hangup::None => (None, None),
            Hangup::End { grace } => (Some(Hangups::new(grace)), Some(grace)),
        };
        let client = Arc::new(Client::new(endpoint.clone()));
        let containerd = Arc::new(Containerd::new(client.clone(), exec, grace, drain));
        let tls = OnceLock::new();
        let ports = PodPorts::new(port_forward);
        let shared = Shared { endpoint, client, containerd, streaming_trust, tls, hangups, ports };
        CriRuntime { shared: Arc::new(shared) }
    }

    async fn find_exec(&self, target: &Target, request: ExecRequest) -> Result<Session, Refusal> {
        if self.shared.containerd.leaves_some() {
            self.shared.prepare_hangup();
        }
        let container_id = find::running_container(&self.shared.client, target).await?;
        self.shared.clone().exec(container_id, request, None).await
    }

    async fn find_attach(
        &self,
        target: &Target,
        request: AttachRequest,
    ) -> Result<Attachment, Refusal> {
        let client = &self.shared.client;
        let found = find::running_container(client, target).await;
        let container_id = found.map_err(|missing| match missing {
            // The kubelet's words for it differ from those of exec.
            FindError::NoContainer(name) => {
                let pod = full_name(&target.pod);
                Refusal::new(500, format!("container {name} not found in pod {pod}"))
            }
            missing => missing.into(),
        })?;
        let info = ContainerInfo::of(client, &container_id).await?;
        let wants = attached(request.wants, info);
        let Wants { stdin, stdout, stderr, tty } = wants;
        let request = messages::AttachRequest { container_id, stdin, tty, stdout, stderr };
        let shared = self.shared.clone();
        let stream = async move { shared.stream("Attach", request, Some(wants)).await };
        Ok(Attachment { session: Served::Upstream(Box::pin(stream)), replay: None })
    }

    async fn find_ports(&self, target: &PodTarget, ports: &[u16]) -> Result<Forwarding, Refusal> {
        let pod_sandbox_id = find::sandbox(&self.shared.client, target).await?;
        let pod = format!("{}/{}", target.namespace, target.name);
        if let Some(inside) = self.shared.ports_inside(&pod, &pod_sandbox_id).await? {
            return Ok(Served::Local(Box::new(inside)));
        }
        let port = ports.iter().copied().map(i32::from).collect();
        let request = messages::PortForwardRequest { pod_sandbox_id, port };
        let shared = self.shared.clone();
        let stream = async move { shared.stream("PortForward", request, None).await };
        Ok(Served::Upstream(Box::pin(stream)))
    }

    async fn find_log(&self, target: &Target, request: LogRequest) -> Result<Log, Refusal> {
        let client = &self.shared.client;
        let id = find::logged_container(client, target, request.previous).await?;
        let status = status(client, &id, false).await?.status.unwrap_or_default();
        let shared = self.shared.clone();
        let is_running = move || -> BoxFuture<'static, io::Result<bool>> {
            let (shared, id) = (shared.clone(), id.clone());
            Box::pin(async move { is_running(&shared.client, &id).await })
        };
        Ok(log_files::open(status.log_path.as_ref(), request, Box::new(is_running)).await?)
    }

    /// Runs a command to its end, for as long as it takes: as with the kubelet, it is the asker who
    /// gives up.
    async fn run_to_its_end(
        &self,
        target: &Target,
        command: Vec<String>,
    ) -> Result<Bytes, Refusal> {
        let client = &self.shared.client;
        let container_id = find::running_container(client, target).await?;
        let words = command.join(" ");
        let request = messages::ExecSyncRequest { container_id, cmd: command };
        let answer = client.call("ExecSync", request, None).await;
        // The kubelet has one code for whatever fails here.
        let answer = answer.map_err(|error| Refusal::new(500, error.to_string()))?;
        let messages::ExecSyncResponse { stdout, stderr, exit_code } = answer;
        if exit_code != 0 {
            let stderr = String::from_utf8_lossy(&stderr);
            let text = format!("command '{words}' exited with {exit_code}: {stderr}");
            return Err(Refusal::new(500, text));
        }
        Ok([stdout, stderr].concat().into())
    }
}

impl Shared {
    /// Who serves a command in a container: the node, where it can run it, else the runtime, at
    /// this `url` of its own, or at one that is asked for once the stream may begin.
    async fn exec(
        self: Arc<Self>,
        container_id: String,
        request: ExecRequest,
        url: Option<String>,
    ) -> Result<Session, Refusal> {
        let ExecRequest { command: cmd, wants, env } = request;
        if let Some(ours) = self.containerd.exec(&container_id, &cmd, &env, wants).await? {
            return Ok(Served::Local(Box::new(ours)));
        }
        if !env.is_empty() {
            // No version of the interface can say it yet.
            let text = "this node's container runtime takes no env for a command";
            return Err(Refusal::new(400, text));
        }
        self.prepare_hangup();
        let Wants { stdin, stdout, stderr, tty } = wants;
        let request = messages::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
        Ok(Served::Upstream(Box::pin(async move {
            let upstream = match url {
                Some(url) => self.upstream(url, None)?,
                None => self.stream("Exec", request.clone(), None).await?,
            };
            let Some(hangups) = &self.hangups else { return Ok(upstream) };
            let messages::ExecRequest { container_id, cmd, tty, .. } = request;
            let watch = hangups.before_start(&container_id, cmd, tty).await;
            Ok(Upstream { on_lost: Some(Box::new(|_| watch.end())), ..upstream })
        })))
    }

    /// Sees to it that it can be known which command is whose, where the runtime streams them.
    fn prepare_hangup(&self) {
        if let Some(hangups) = &self.hangups {
            hangups.prepare(|| self.client.channel());
        }
    }

    /// Asks for a URL once a stream may begin: it is good for a minute, and for one request.
    /// `wants` are its channels, where they may be others than the client's.
    async fn stream(
        &self,
        method: &'static str,
        request: impl Message + Clone + 'static,
        wants: Option<Wants>,
    ) -> Result<Upstream, Refusal> {
        let asked = self.client.call(method, request, Some(ANSWER_PATIENCE));
        let messages::StreamResponse { url } = asked.await?;
        if url.is_empty() {
            return Err(Refusal::new(500, "URL is not set"));
        }
        self.upstream(url, wants)
    }

    /// The runtime's own server, at a URL of it.
    fn upstream(&self, url: String, wants: Option<Wants>) -> Result<Upstream, Refusal> {
        let tls = if is_https(&url) { Some(self.tls()?) } else { None };
        let name = Some(format!("the container runtime at {}", self.endpoint));
        Ok(Upstream { name, tls, wants, ..Upstream::spdy(url) })
    }

    /// A stream that the runtime serves at a URL of its own.
    fn served<L: ?Sized>(&self, url: String) -> Served<L> {
        let upstream = self.upstream(url, None);
        Served::Upstream(Box::pin(std::future::ready(upstream)))
    }

    /// The ports of a sandbox, where the node connects to them. `pod` is its name in logs.
    async fn ports_inside(
        &self,
        pod: &str,
        sandbox: &str,
    ) -> Result<Option<NamespacePorts>, Refusal> {
        self.ports.inside(&self.client, pod, sandbox).await
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Refusal> {
        if let Some(made) = self.tls.get() {
            return Ok(made.clone());
        }
        let bad = |error: TlsError| Refusal::new(500, format!("the runtime's streams: {error}"));
        let made = tls::client(&self.streaming_trust, None).map_err(bad)?;
        Ok(self.tls.get_or_init(|| made).clone())
    }
}

fn is_https(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

/// Returns what an attach is to ask the runtime for. The terminal is the container's, whatever the
/// client has said: it cannot be changed any more (docs/protocols/traps.md, T33). With one there is
/// no stderr. A container without a stdin takes no input: what nobody reads would hold up the
/// stream.
fn attached(wants: Wants, info: ContainerInfo) -> Wants {
    let tty = info.tty.unwrap_or(wants.tty);
    let stdin = wants.stdin && info.stdin.unwrap_or(true);
    Wants { stdin, stdout: wants.stdout, stderr: wants.stderr && !tty, tty }
}

impl Runtime for CriRuntime {
    fn exec<'a>(&'a self, target: &'a Target, request: ExecRequest) -> Answer<'a, Session> {
        Box::pin(self.find_exec(target, request))
    }

    fn attach<'a>(&'a self, target: &'a Target, request: AttachRequest) -> Answer<'a, Attachment> {
        Box::pin(self.find_attach(target, request))
    }

    fn port_forward<'a>(
        &'a self,
        target: &'a PodTarget,
        ports: &'a [u16],
    ) -> Answer<'a, Forwarding> {
        Box::pin(self.find_ports(target, ports))
    }

    fn logs<'a>(&'a self, target: &'a Target, request: LogRequest) -> Answer<'a, Log> {
        Box::pin(self.find_log(target, request))
    }

    fn run<'a>(&'a self, target: &'a Target, command: Vec<String>) -> Answer<'a, Bytes> {
        Box::pin(self.run_to_its_end(target, command))
    }

    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(health::check(&self.shared.client))
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        let Shared { hangups, containerd, .. } = &*self.shared;
        let relayed = async move {
            if let Some(hangups) = hangups {
                hangups.shut_down().await;
            }
        };
        Box::pin(async {
            // Both kill at once.
            let ends = async { tokio::join!(relayed, containerd.shut_down()) };
            if timeout(END_PATIENCE, ends).await.is_err() {
                warn!("the commands of some lost clients may still run: the node ends");
            }
        })
    }
}
