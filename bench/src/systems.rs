//! The two whole systems: a real Kubernetes, and Bowline's gateway and node.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bowline_interop::client::Client;
use bowline_interop::cluster::Cluster;
use bowline_interop::pair::{Pair, port};
use bowline_interop::parts::part;
use tempfile::TempDir;

use crate::measure::cpu;

/// What is running, and a client for it.
pub struct System {
    pub name: &'static str,
    pub client: Client,
    /// Its servers by name.
    pub servers: Vec<(&'static str, u32)>,
    /// What precedes every command: the same programs run in both.
    box_: Option<PathBuf>,
    _running: Running,
}

/// Kept until the end.
enum Running {
    Kubernetes { _cluster: Cluster },
    Bowline { _pair: Pair, _busybox: TempDir },
}

impl System {
    /// etcd, kube-apiserver, kubelet, containerd and kubectl.
    pub fn kubernetes() -> Result<System> {
        let cluster = Cluster::up(&[]);
        let program = part("kubectl/1.37/kubectl");
        let client = Client::new("kubectl 1.37", program, &cluster.admin(), &["box"]);
        let id = |name: &str| -> Result<u32> {
            let text = std::fs::read_to_string(cluster.path("pids").join(name))?;
            text.trim().parse().with_context(|| format!("the process id of {name}"))
        };
        let mut servers = vec![
            ("API server", id("kube-apiserver")?),
            ("kubelet", id("kubelet")?),
            ("containerd", id("containerd")?),
        ];
        // One for each pod, which carries what its processes read and write. That of `box` stays.
        cluster.kubectl(&["delete", "pod", "gnu", "--now"]);
        let shims = Command::new("pgrep")
            .args(["-P", &id("node")?.to_string(), "-x", "containerd-shim"])
            .output()?;
        let shims = String::from_utf8(shims.stdout)?;
        let shims: Vec<_> = shims.split_whitespace().collect();
        ensure!(shims.len() == 1, "{} shims run", shims.len());
        servers.push(("shim", shims[0].parse()?));
        let running = Running::Kubernetes { _cluster: cluster };
        Ok(System { name: "Kubernetes", client, servers, box_: None, _running: running })
    }

    /// `bowline gateway` and `bowline node`, with TLS on both legs.
    pub fn bowline() -> Result<System> {
        let program = std::env::current_exe()?.with_file_name("bowline");
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
        Ok(System { name: "Bowline", client, servers, box_, _running: running })
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
        self.servers.iter().map(|(_, id)| Ok(cpu(*id)?.as_secs_f64())).collect()
    }
}
