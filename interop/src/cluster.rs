//! A real Kubernetes for the time of a test.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::Pid;

use crate::client::PATIENCE;
use crate::parts::{cluster_script, part};
use crate::server::{Server, until};

/// The pods that each cluster begins with: one has busybox, the other GNU's tools.
pub const PODS: [&str; 2] = ["box", "gnu"];

/// Names the directory of a cluster that is up, for tests that leave it as it is.
const SHARED: &str = "BOWLINE_CLUSTER";
/// Clusters that can be up at the same time; each has a part of `POD_SUBNET` for its pods. The last
/// part, 255, is for whoever brings up one that is shared.
const PARTS: usize = 16;

/// A container runtime and no Kubernetes: for tests that speak its own language.
pub const RUNTIME_ALONE: (&str, &str) = ("ONLY", "containerd");
/// The last line of containerd that serves old kubelets as well.
pub const OLD_RUNTIME: (&str, &str) = ("CONTAINERD", "old");
/// Kubernetes as it was in 2020, which needs [`OLD_RUNTIME`].
pub const OLD_KUBERNETES: (&str, &str) = ("KUBERNETES", "1.20");

/// A running cluster; dropped, it goes down if it is a test's own.
#[derive(Debug)]
pub struct Cluster {
    place: tempfile::TempDir,
    env: HashMap<String, String>,
    /// Its part of the pods' subnet.
    own: Option<usize>,
}

impl Cluster {
    /// Brings one up with these settings of the script's.
    #[must_use]
    pub fn up(settings: &[(&str, &str)]) -> Cluster {
        let place = tempfile::Builder::new().prefix("bowline-").tempdir().unwrap();
        let mut cluster = Cluster { place, env: HashMap::new(), own: Some(take_part()) };
        let output = cluster.script(&["up"], settings);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        cluster.read_env();
        cluster
    }

    /// Brings one up whose kubelet is pointed at a program that serves the CRI itself.
    /// Of its words, split at spaces, `{face}` becomes its socket, `{containerd}` containerd's and
    /// `{dir}` the cluster's directory.
    #[must_use]
    pub fn behind(face: &str, settings: &[(&str, &str)]) -> Cluster {
        Cluster::up(&[&[("FACE", face)], settings].concat())
    }

    /// One for tests that add objects of names of their own and harm nothing else: the one that
    /// `BOWLINE_CLUSTER` names, or else one of the test's own.
    #[must_use]
    pub fn shared() -> Cluster {
        let Some(shared) = std::env::var_os(SHARED) else { return Cluster::up(&[]) };
        let place = tempfile::Builder::new().prefix("bowline-").tempdir().unwrap();
        // What a test writes is its own.
        for entry in std::fs::read_dir(Path::new(&shared)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            std::os::unix::fs::symlink(&path, place.path().join(name)).unwrap();
        }
        let mut cluster = Cluster { place, env: HashMap::new(), own: None };
        cluster.read_env();
        cluster
    }

    fn read_env(&mut self) {
        let text = std::fs::read_to_string(self.path("env")).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        self.env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    }

    /// Runs the script: the command that is the first word, for this directory.
    fn script(&self, words: &[&str], settings: &[(&str, &str)]) -> Output {
        let mut script = Command::new("bash");
        script.arg(cluster_script()).arg(words[0]).arg(self.place.path()).args(&words[1..]);
        if let Some(part) = self.own {
            script.env("POD_SUBNET", subnet(part));
        }
        // Its servers must not hold a pipe of ours open.
        script.envs(settings.iter().copied()).stdin(Stdio::null());
        let log = std::fs::File::create(self.path("script.log")).unwrap();
        script.stdout(log.try_clone().unwrap()).stderr(log);
        let status = script.status().unwrap();
        let stderr = std::fs::read(self.path("script.log")).unwrap();
        Output { status, stdout: Vec::new(), stderr }
    }

    /// A file of the cluster's.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The same as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// One of the script's settings, as they came out.
    #[must_use]
    pub fn env(&self, name: &str) -> &str {
        self.env.get(name).unwrap_or_else(|| panic!("{name} is not in the cluster's env"))
    }

    /// Where its API server listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.env("APISERVER_PORT"))
    }

    /// The kubeconfig of its administrator.
    #[must_use]
    pub fn admin(&self) -> String {
        self.text("admin.kubeconfig")
    }

    /// Creates pods that are not there yet, and waits until they are ready.
    pub fn run_pods(&self, manifests: &str, names: &[&str]) {
        let file = self.path("pods.yaml");
        std::fs::write(&file, manifests).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
        let names: Vec<String> = names.iter().map(|name| format!("pod/{name}")).collect();
        let wait = ["wait", "--for=condition=Ready", "--timeout=60s"];
        let names = names.iter().map(String::as_str);
        if let Err(fault) = self.try_kubectl(&wait.into_iter().chain(names).collect::<Vec<_>>()) {
            let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]);
            panic!("{fault}{events}");
        }
    }

    /// Creates or replaces an object, status included.
    pub fn apply(&self, object: &str) {
        let file = self.path("object.yaml");
        std::fs::write(&file, object).unwrap();
        let file = file.to_str().unwrap();
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", file];
        self.kubectl(&apply);
        self.kubectl(&[&apply[..], &["--subresource=status"]].concat());
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, words: &[&str]) -> String {
        self.try_kubectl(words).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// The same; a failure is what it says.
    fn try_kubectl(&self, words: &[&str]) -> Result<String, String> {
        let mut kubectl = Command::new(part("kubectl/1.37/kubectl"));
        kubectl.arg("--kubeconfig").arg(self.admin()).args(words);
        let output = kubectl.output().unwrap();
        let said = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    /// Sends one of its programs a signal.
    pub fn signal(&self, name: &str, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.id(name), signal).unwrap();
    }

    /// Ends one of its programs the hard way, and waits until its ports are free for another one.
    pub fn kill(&self, name: &str) {
        let id = self.id(name);
        self.signal(name, rustix::process::Signal::KILL);
        let is_there = || rustix::process::test_kill_process(id).is_ok();
        until(&format!("{name} is gone"), PATIENCE, || !is_there());
    }

    /// The process of one of its programs.
    #[must_use]
    pub fn id(&self, name: &str) -> Pid {
        let id = std::fs::read_to_string(self.path("pids").join(name)).unwrap();
        Pid::from_raw(id.trim().parse().unwrap()).unwrap()
    }

    /// Starts one of the node's programs, or the API server, again with the words that it had; one
    /// that runs is ended.
    pub fn restart(&self, name: &str) {
        let output = self.script(&["restart", name], &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A command inside of the node's namespaces: it sees the processes of the pods and their
    /// network namespaces. It ends with the process that this starts, of which it is the
    /// [`only_child`].
    #[must_use]
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("bash");
        command.arg(cluster_script()).arg("enter").arg(self.place.path()).arg(program);
        command
    }

    /// Our node on the cluster's containerd, started with these flags. The API server is told that
    /// it is the kubelet, which is there no more.
    #[must_use]
    pub fn in_the_kubelets_place(&self, bowline: &Path, flags: &[&str]) -> Server {
        let node = self.beside_the_kubelet(bowline, flags);
        self.signal("kubelet", rustix::process::Signal::KILL);
        self.has_as_kubelet(&node);
        node
    }

    /// Tells the API server where the kubelet is: it is this node of ours.
    pub fn has_as_kubelet(&self, node: &Server) {
        let address = node.address();
        let port = address.rsplit(':').next().unwrap();
        let status = format!(
            "{{\"status\":{{\"daemonEndpoints\":{{\"kubeletEndpoint\":{{\"Port\":{port}}}}}}}}}"
        );
        let patch = ["patch", "node", "localhost", "--subresource=status", "--type=merge", "-p"];
        self.kubectl(&[&patch[..], &[&status]].concat());
    }

    /// Asks the API server to evict a pod, as those do who drain its node.
    pub fn evict(&self, pod: &str) {
        let file = self.path("eviction.json");
        let object = format!(
            "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\
             \"metadata\":{{\"name\":\"{pod}\",\"namespace\":\"default\"}}}}"
        );
        std::fs::write(&file, object).unwrap();
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        self.kubectl(&["create", "--raw", &path, "-f", file.to_str().unwrap()]);
    }

    /// Our node on the cluster's containerd, started with these flags. The kubelet looks after its
    /// pods, and the API server knows of that alone.
    #[must_use]
    pub fn beside_the_kubelet(&self, bowline: &Path, flags: &[&str]) -> Server {
        let mut node = self.enter(bowline);
        node.args(["node", "--runtime=cri", "--port=0", "--address=127.0.0.1"]).args(flags);
        node.args(["--container-runtime-endpoint", &self.containerd()]);
        for (flag, file) in [
            ("--tls-cert-file", "pki/kubelet.crt"),
            ("--tls-private-key-file", "pki/kubelet.key"),
            ("--client-ca-file", "pki/kubelet-client-ca.crt"),
        ] {
            node.arg(flag).arg(self.path(file));
        }
        Server::start(&mut node)
    }

    /// The network namespace of a pod, as this machine reaches it.
    #[must_use]
    pub fn network_of(&self, pod: &str) -> PathBuf {
        let crictl = |words: &[&str]| {
            let output = self.crictl(&self.containerd()).args(words).output().unwrap();
            assert!(output.status.success(), "{words:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let id = crictl(&["pods", "--quiet", "--name", &format!("^{pod}$")]);
        let pid = ["inspectp", "-o", "go-template", "--template", "{{.info.pid}}", id.trim()];
        let pid: u32 = crictl(&pid).trim().parse().unwrap();
        // Its number is the node's own.
        let node = self.id("node").as_raw_nonzero();
        PathBuf::from(format!("/proc/{node}/root/proc/{pid}/ns/net"))
    }

    /// crictl at an endpoint of a runtime's: containerd's own, or what is in front of it.
    #[must_use]
    pub fn crictl(&self, endpoint: &str) -> Command {
        let mut crictl = Command::new(part("bin/crictl"));
        crictl.args(["--config", "/dev/null", "--runtime-endpoint", endpoint]);
        crictl
    }

    /// containerd's own endpoint.
    #[must_use]
    pub fn containerd(&self) -> String {
        format!("unix://{}", self.env("CONTAINERD_SOCKET"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(part) = self.own else { return };
        let output = self.script(&["down"], &[]);
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[part] = false;
    }
}

/// The words of a socket of ours in front of the cluster's containerd, for [`Cluster::behind`].
#[must_use]
pub fn our_face(bowline: &Path, flags: &str) -> String {
    format!(
        "{} node --cri-listen=unix://{{face}} --container-runtime-endpoint=unix://{{containerd}} \
         {flags}",
        bowline.display()
    )
}

/// The process that another has started, if that is one.
#[must_use]
pub fn only_child(parent: Pid) -> Option<Pid> {
    let parent = parent.as_raw_nonzero();
    let children =
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Pid::from_raw(children.trim().parse().ok()?)
}

static TAKEN: Mutex<[bool; PARTS]> = Mutex::new([false; PARTS]);

fn take_part() -> usize {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let free = taken.iter().position(|taken| !taken);
    let free = free.expect("not that many clusters are up at once");
    taken[free] = true;
    free
}

/// A part of the subnet for pods, with room for as many as a kubelet runs, and for those that have
/// ended and still have their address.
fn subnet(part: usize) -> String {
    let whole = std::env::var("POD_SUBNET").unwrap_or_else(|_| "10.88.0.0/16".to_owned());
    let base = whole.strip_suffix(".0.0/16").expect("POD_SUBNET is A.B.0.0/16");
    format!("{base}.{part}.0/24")
}
