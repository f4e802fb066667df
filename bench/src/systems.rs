//! The whole systems: a real Kubernetes, the same with Bowline on its node in two ways, and
//! Bowline's gateway and node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_interop::client::Client;
use bowline_interop::cluster::{Cluster, only_child, our_face};
use bowline_interop::pair::{Pair, port};
use bowline_interop::parts::part;
use bowline_interop::server::Server;
use tempfile::TempDir;

use crate::measure::cpu;

/// What is running, and a client for it.
pub struct System {
    pub name: &'static str,
    pub client: Client,
    /// Its servers by name.
    pub servers: Vec<(&'static str, u32)>,
    /// The name of programs that come and go in containers, and count as one more server.
    pub held_by: Option<&'static str>,
    /// What precedes every command: the same programs run in both.
    box_: Option<PathBuf>,
    _running: Running,
}

/// Kept until the end.
enum Running {
    Kubernetes { _node: Option<Server>, _cluster: Cluster },
    Bowline { _pair: Pair, _busybox: TempDir },
}

impl System {
    /// etcd, kube-apiserver, kubelet, containerd and kubectl.
    pub fn kubernetes() -> Result<System> {
        System::of("Kubernetes", with_one_pod(Cluster::up(&[])), &[("kubelet", "kubelet")])
    }

    /// The same, with its kubelet pointed at our socket in front of containerd's.
    pub fn behind_our_socket() -> Result<System> {
        let cluster = with_one_pod(Cluster::behind(&our_face(&bowline()?, ""), &[]));
        let servers = [("kubelet", "kubelet"), ("our socket", "face")];
        System::of("Kubernetes, our socket", cluster, &servers)
    }

    /// The same, with our node on its containerd in the kubelet's place.
    pub fn on_our_node() -> Result<System> {
        let cluster = with_one_pod(Cluster::up(&[]));
        let node = cluster.in_the_kubelets_place(&bowline()?, &[]);
        let process = only_child(node.id()).context("the node runs")?;
        let mut system = System::of("Kubernetes, our node", cluster, &[])?;
        system.servers.insert(1, ("our node", process.as_raw_nonzero().get().cast_unsigned()));
        if let Running::Kubernetes { _node, .. } = &mut system._running {
            *_node = Some(node);
        }
        Ok(system)
    }

    /// A cluster, with what is between its API server and its containerd.
    fn of(
        name: &'static str,
        cluster: Cluster,
        between: &[(&'static str, &str)],
    ) -> Result<System> {
        let program = part("kubectl/1.37/kubectl");
        let client = Client::new("kubectl 1.37", program, &cluster.admin(), &["box"]);
        let id = |name: &str| -> Result<u32> {
            let text = std::fs::read_to_string(cluster.path("pids").join(name))?;
            text.trim().parse().with_context(|| format!("the process id of {name}"))
        };
        let mut servers = vec![("API server", id("kube-apiserver")?)];
        for (name, file) in between {
            servers.push((name, id(file)?));
        }
        servers.push(("containerd", id("containerd")?));
        // One for each pod.
        let shims = Command::new("pgrep")
            .args(["-P", &id("node")?.to_string(), "-x", "containerd-shim"])
            .output()?;
        let shims = String::from_utf8(shims.stdout)?;
        let shims: Vec<_> = shims.split_whitespace().collect();
        ensure!(shims.len() == 1, "{} shims run", shims.len());
        servers.push(("shim", shims[0].parse()?));
        let running = Running::Kubernetes { _node: None, _cluster: cluster };
        Ok(System { name, client, servers, held_by: None, box_: None, _running: running })
    }

    /// `bowline gateway` and `bowline node`, with TLS on both legs.
    pub fn bowline() -> Result<System> {
        let program = bowline()?;
        let pair = Pair::start(&program, port);
        let client = pair.client("bowline", &program);
        let process = |server: &bowline_interop::server::Server| {
            server.id().as_raw_nonzero().get().cast_unsigned()
        };
        let servers = vec![("gateway", process(&pair.gateway)), ("node", process(&pair.node))];
        let busybox = tempfile::tempdir()?;
        let unpacked = Command::new("tar")
            .arg("-xf")
            .arg(part("image/rootfs.tar"))
            .arg("-C")
            .arg(busybox.path())
            .arg("./bin/busybox")
            .status()?;
        ensure!(unpacked.success(), "busybox cannot be unpacked");
        let box_ = Some(busybox.path().join("bin/busybox"));
        let running = Running::Bowline { _pair: pair, _busybox: busybox };
        Ok(System { name: "Bowline", client, servers, held_by: None, box_, _running: running })
    }

    /// A client that runs these words of busybox.
    pub fn exec(&self, flags: &[&str], words: &[&str]) -> Command {
        match &self.box_ {
            None => self.client.process(flags, words),
            Some(program) => {
                let program = program.to_string_lossy();
                self.client.process(flags, &[&[&*program], words].concat())
            }
        }
    }

    /// The program that commands are of, where it is this machine's.
    pub fn busybox(&self) -> Option<&Path> {
        self.box_.as_deref()
    }

    /// CPU seconds of each server so far.
    pub fn cpu(&self) -> Result<Vec<f64>> {
        let servers = self.servers.iter().map(|(_, id)| Ok(cpu(*id)?.as_secs_f64()));
        let shim = || self.servers.iter().find(|(name, _)| *name == "shim").context("a shim");
        let held = self.held_by.map(|name| Ok(cpu_of_all(name, shim()?.1)?.as_secs_f64()));
        servers.chain(held).collect()
    }
}

/// What all programs have used that live in a system's containers and begin with this name.
fn cpu_of_all(name: &str, shim: u32) -> Result<Duration> {
    let found = Command::new("ps").args(["-eo", "pid=,ppid=,args="]).output()?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let lines: Vec<Vec<&str>> =
        found.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let shim = shim.to_string();
    let begun: Vec<&str> =
        lines.iter().filter(|line| line.get(1) == Some(&&*shim)).map(|line| line[0]).collect();
    // It has left what began it, and so belongs to the first process of its container.
    let is_one = |line: &&Vec<&str>| {
        let [_, parent, program] = line[..] else { return false };
        let program = program.rsplit('/').next().unwrap_or(program);
        begun.contains(&parent) && program.starts_with(name)
    };
    let ids = lines.iter().filter(is_one).filter_map(|line| line[0].parse().ok());
    // One that has just ended is not there.
    Ok(ids.filter_map(|id| cpu(id).ok()).sum())
}

/// Without the other pod, so that there is one shim, which carries what is measured.
fn with_one_pod(cluster: Cluster) -> Cluster {
    cluster.kubectl(&["delete", "pod", "gnu", "--now"]);
    cluster
}

/// The program itself, which `cargo x bench` builds beside this one.
pub fn bowline() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("bowline"))
}
