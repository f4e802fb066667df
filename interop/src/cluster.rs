//! A real Kubernetes for the time of a test.
//! Above: tests, benchmarks. Below: `parts/cluster.sh`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::parts::{cluster_script, part};

/// A running cluster; dropped, it goes down.
#[derive(Debug)]
pub struct Cluster {
    place: tempfile::TempDir,
    env: HashMap<String, String>,
}

impl Cluster {
    /// Brings one up with these settings of the script's.
    #[must_use]
    pub fn up(settings: &[(&str, &str)]) -> Cluster {
        let place = tempfile::Builder::new().prefix("bowline-").tempdir().unwrap();
        let mut cluster = Cluster { place, env: HashMap::new() };
        let output = cluster.script("up", settings);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(cluster.path("env")).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        cluster.env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        cluster
    }

    fn script(&self, command: &str, settings: &[(&str, &str)]) -> Output {
        let mut script = Command::new("bash");
        script.arg(cluster_script()).arg(command).arg(self.place.path());
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

    /// The kubeconfig of its administrator.
    #[must_use]
    pub fn admin(&self) -> String {
        self.text("admin.kubeconfig")
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
        let mut kubectl = Command::new(part("kubectl/1.37/kubectl"));
        kubectl.arg("--kubeconfig").arg(self.admin()).args(words);
        let output = kubectl.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends one of its programs a signal.
    pub fn signal(&self, name: &str, signal: rustix::process::Signal) {
        let id = std::fs::read_to_string(self.path("pids").join(name)).unwrap();
        let id = rustix::process::Pid::from_raw(id.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let output = self.script("down", &[]);
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
