//! `bowline port-forward`: what is asked for to listeners that stay, and a forward behind them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bowline_client::UpgradeError;
use bowline_client::forward::Failure;
use bowline_client::reconnect::{self, Change, Connector, Health, PodForward, ReconnectOptions};
use bowline_io::shutdown::Hangup;
use bowline_io::text::sanitized;
use bowline_kube::objects::Pod;
use bowline_kube::ports::{ForwardedPort, resolve};
use bowline_kube::target::{self, Target, TargetError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio_util::sync::CancellationToken;

use crate::args::port_forward as args;
use crate::cluster_access::{self, ClusterAccess};
use crate::listen::{self, addresses};
use crate::outcome::Exit;
use crate::print;
use crate::verbose::Verbose;

/// kubectl's switch.
const WEBSOCKETS: &str = "KUBECTL_PORT_FORWARD_WEBSOCKETS";
/// How much of what a node says is shown.
const MESSAGE_BYTES: usize = 4096;

/// Runs the command. `program` is the name that the program was called by.
pub fn run(asked: &args::PortForward, program: &str) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(forward(asked, program)).unwrap_or_else(|end| end),
        Err(error) => Exit::refused(format_args!("start: {error}")),
    }
}

async fn forward(asked: &args::PortForward, program: &str) -> Result<Exit, Exit> {
    let verbose = Arc::new(Verbose::new(asked.global.verbosity));
    let cluster = cluster_access::of(&asked.global, program, verbose.clone()).await?;
    let source = Arc::new(Pods {
        cluster,
        asked: asked.clone(),
        verbose: verbose.clone(),
        reached: Mutex::default(),
    });
    let interrupted = interrupted()?;
    let (target, ports) = source.target().await?;
    let wanted = addresses(&asked.addresses).map_err(Exit::refused)?;
    let first = source.connect(&target, &ports).await?;

    let mut local = Vec::new();
    for port in &ports {
        let listening = listen::listen(&wanted, *port);
        for line in listening.forwarding {
            print::notice(line);
        }
        for line in listening.problems {
            print::line(line);
        }
        local.push(listening.port);
    }
    if local.iter().all(|port| port.listeners.is_empty()) {
        first.forward.close().await;
        let shown: Vec<String> =
            ports.iter().map(|port| format!("{{{} {}}}", port.local, port.remote)).collect();
        return Err(Exit::refused(format_args!(
            "unable to listen on any of the requested ports: [{}]",
            shown.join(" ")
        )));
    }
    let options =
        ReconnectOptions { exit_on_lost: asked.exit_on_lost, max_wait: asked.reconnect_wait };
    let cut = AtomicUsize::new(0);
    let (exits, waits) = (asked.exit_on_lost, asked.reconnect_wait);
    let tell = Arc::new(move |change| tell(change, &cut, exits, waits));
    let end = CancellationToken::new();
    let ends = end.clone();
    #[expect(clippy::disallowed_methods, reason = "it is waited for, or the run is over")]
    let signal = tokio::spawn(async move {
        let signal = interrupted.await;
        ends.cancel();
        signal
    });
    if let Some(why) = reconnect::run(source, first, local, options, tell, end).await {
        print::line(why);
        return Err(Exit::refused("lost connection to pod"));
    }
    if let Ok(signal) = signal.await
        && signal != SIGINT
    {
        // As kubectl does at once; what was open was reset first. It does not come back.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    Ok(cluster_access::with_warnings(Exit::success(), &asked.global, &verbose))
}

/// Resolves at Ctrl-C, for which this command waits, or at another wish for its end.
fn interrupted() -> Result<impl Future<Output = i32>, Exit> {
    use tokio::signal::unix::{SignalKind, signal};
    let no_signals = |error: io::Error| Exit::refused(format_args!("signals: {error}"));
    let on = |kind: SignalKind| signal(kind).map_err(no_signals);
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut hangup = Hangup::watch().map_err(no_signals)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => SIGINT,
            _ = terminate.recv() => SIGTERM,
            () = hangup.recv() => SIGHUP,
        }
    })
}

/// One line for each change. `cut` counts what a loss has ended, for the line that speaks of it.
fn tell(change: Change, cut: &AtomicUsize, exits: bool, waits: Duration) {
    let line = match change {
        Change::Handling(port) => {
            return print::notice(format_args!("Handling connection for {port}"));
        }
        Change::Failed { why: Failure::Lost, .. } => {
            cut.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Change::Failed { local, remote, why } => {
            let why = why.to_string();
            format!("{local} -> {remote}: {}", sanitized(why.trim(), MESSAGE_BYTES))
        }
        Change::Lost { .. } if exits => return,
        Change::Lost { pod, reason } => {
            let connections = match cut.swap(0, Ordering::Relaxed) {
                0 => String::new(),
                1 => " 1 open connection was reset;".to_owned(),
                many => format!(" {many} open connections were reset;"),
            };
            format!(
                "lost connection to pod {pod}: {reason};{connections} connecting again, new \
                 connections wait up to {} s",
                waits.as_secs()
            )
        }
        Change::StillLost(why) => {
            let why = why.strip_prefix("error: ").unwrap_or(&why);
            format!("not connected yet: {}; trying again", sanitized(why.trim(), MESSAGE_BYTES))
        }
        Change::Restored(pod) => format!("connected again, to pod {pod}"),
        Change::GaveUp(port) => {
            format!("{port}: a connection waited too long for a pod and was reset")
        }
        _ => return,
    };
    print::line(line);
}

/// Finds a pod, and forwards to it, as often as it takes.
struct Pods {
    cluster: ClusterAccess,
    asked: args::PortForward,
    verbose: Arc<Verbose>,
    /// What was reached last.
    reached: Mutex<LastPod>,
}

/// The pod that was reached last.
#[derive(Clone, Debug, Default)]
struct LastPod {
    pod: String,
    uid: String,
    /// It was chosen for something else that was named.
    chosen: bool,
}

impl Pods {
    /// The pod, and what its ports are.
    async fn target(&self) -> Result<(Target, Vec<ForwardedPort>), Exit> {
        let (api, namespace) = (&self.cluster.api, &self.cluster.namespace);
        let wait = self.asked.pod_running_timeout;
        let mut target = target::resolve(api, namespace, &self.asked.target, wait).await?;
        let service = target.chosen_for.as_ref().filter(|owner| owner.kind == "Service");
        let ports = resolve(&self.asked.ports, &target.pod, service);
        let ports = ports.map_err(Exit::refused)?;
        // What was found may be as old as a list.
        target.pod = target::pod(api, namespace, &name(&target.pod)).await?;
        match &*target.pod.status.phase {
            "Running" => Ok((target, ports)),
            phase => Err(Exit::refused(format_args!(
                "unable to forward port because pod is not running. Current status={phase}"
            ))),
        }
    }

    async fn connect(&self, target: &Target, ports: &[ForwardedPort]) -> Result<PodForward, Exit> {
        let pod = name(&target.pod);
        let client = self.cluster.client(WEBSOCKETS, &self.asked.global, &self.verbose);
        let ports: Vec<u16> = ports.iter().map(|port| port.remote).collect();
        let request = client.port_forward(&pod).ports(ports.iter().copied());
        let forward = request.open().await.map_err(|error| refused(&error))?;
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = LastPod {
            pod: pod.clone(),
            uid: target.pod.metadata.uid.clone(),
            chosen: target.chosen_for.is_some(),
        };
        Ok(PodForward { forward, pod, ports })
    }
}

/// kubectl's words.
fn refused(error: &UpgradeError) -> Exit {
    Exit::refused(format_args!("error upgrading connection: {error}"))
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone()
}

impl Connector for Pods {
    async fn open(&self) -> Result<PodForward, String> {
        let reached = async {
            let (target, ports) = self.target().await?;
            self.connect(&target, &ports).await
        };
        reached.await.map_err(|end: Exit| end.lines.join("; "))
    }

    /// A pod that was named is served until it is gone, and waited for then; of others there may be
    /// better as soon as it is to end.
    async fn health(&self) -> Health {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = target::pod(&self.cluster.api, &self.cluster.namespace, &reached.pod).await;
        let found = match found {
            Ok(found) => found,
            Err(TargetError::Api(error)) if error.is_not_found() => return Health::Gone,
            Err(_) => return Health::Healthy,
        };
        // Another of the same name is not the one that was reached.
        let is_another = found.metadata.uid != reached.uid;
        let is_ending = found.metadata.deletion_timestamp.is_some();
        if is_another || found.status.phase != "Running" || is_ending && reached.chosen {
            return Health::Gone;
        }
        if is_ending { Health::Ending } else { Health::Healthy }
    }
}
