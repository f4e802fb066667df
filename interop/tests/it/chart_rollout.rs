//! The chart's Deployment as users have it: the image of deploy/Containerfile, controllers,
//! kube-proxy. It is rolled out anew under a constant load of requests, and fails none.

use std::fs::File;
use std::io::Read;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use bowline_interop::client::{Input, PATIENCE};
use bowline_interop::cluster::Cluster;
use bowline_interop::parts::root;
use bowline_interop::server::until;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

use crate::chart::{NAMESPACE, apply, rendered};
use crate::gateway::{kubeconfig, token};
use crate::parts::{kubectl, part};
use crate::steady::{Door, Steady};

const IMAGE: &str = "localhost/bowline-gateway:1";
const VALUES: &str = "{image: {repository: localhost/bowline-gateway, tag: '1'}}";
const DEPLOYMENT: &str = "deployment/bowline-gateway";

/// The static program, as `cargo x interop` builds it.
fn program() -> PathBuf {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let path = root().join("target").join(&target).join("debug/bowline");
    let command = format!("cargo build --package bowline --target {target}");
    assert!(path.exists(), "{} is missing: run {command}", path.display());
    path
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes the image as its file says, and gives it to the cluster's containerd.
fn import_image(cluster: &Cluster) {
    let place = tempfile::tempdir().unwrap();
    let [context, archive] = ["context", "image.tar"].map(|name| place.path().join(name));
    std::fs::create_dir(&context).unwrap();
    std::fs::hard_link(program(), context.join("bowline"))
        .or_else(|_| std::fs::copy(program(), context.join("bowline")).map(|_| ()))
        .unwrap();
    let build = ["build", "--isolation", "chroot", "--target", "gateway", "--tag", IMAGE];
    let file = root().join("deploy/Containerfile");
    succeeds(buildah(place.path(), &build).arg("--file").arg(file).arg(&context));
    let to = format!("docker-archive:{}:{IMAGE}", archive.display());
    succeeds(buildah(place.path(), &["push"]).args([IMAGE, &to]));
    let mut ctr = cluster.enter(part("bin/ctr"));
    ctr.args(["--address", cluster.env("CONTAINERD_SOCKET"), "--namespace", "k8s.io"]);
    succeeds(ctr.args(["images", "import"]).arg(archive));
}

/// It keeps all that it has in this place.
fn buildah(place: &Path, words: &[&str]) -> Command {
    let mut buildah = Command::new(part("buildah/buildah"));
    buildah.arg("--root").arg(place.join("root")).arg("--runroot").arg(place.join("run"));
    buildah.args(["--storage-driver", "vfs", "--registries-conf", "/dev/null"]);
    buildah.args(&words[..1]).arg("--signature-policy").arg(part("buildah/policy.json"));
    buildah.args(&words[1..]);
    buildah
}

/// The namespace, and the certificate of the Service.
fn surroundings(cluster: &Cluster) -> String {
    let read = |name: &str| std::fs::read_to_string(cluster.path("pki").join(name)).unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "bowline-gateway-tls", "namespace": NAMESPACE},
        "stringData": {"tls.crt": read("apiserver.crt"), "tls.key": read("apiserver.key")}});
    json!({"apiVersion": "v1", "kind": "List", "items": [namespace, secret]}).to_string()
}

/// A kubeconfig for an address that is not in the certificate.
fn door(cluster: &Cluster, name: &str, address: &str, token: &str) -> Door {
    let file = kubeconfig(cluster, name, address, token);
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("server:", "tls-server-name: localhost, server:");
    std::fs::write(&file, text).unwrap();
    Door { address: address.to_owned(), token: token.to_owned(), kubeconfig: file }
}

/// Gives this thread, and what it starts, a network of its own: kube-proxy's rules are for nobody
/// else.
fn leave_the_network() {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "sh", "-c", "echo made; read -r _"]);
    let mut child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    let network = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn its_deployment_is_rolled_out_under_load_and_no_request_fails() {
    let apart = thread::spawn(|| {
        leave_the_network();
        is_rolled_out();
    });
    apart.join().unwrap();
}

fn is_rolled_out() {
    let cluster = Cluster::up(&[("CONTROLLERS", "1")]);
    import_image(&cluster);
    apply(&cluster, &surroundings(&cluster));
    apply(&cluster, &rendered(VALUES).unwrap());
    let of = ["--namespace", NAMESPACE];
    let rollout = |words: &[&str]| cluster.kubectl(&[&["rollout"], words, &of].concat());
    let is_there = ["status", DEPLOYMENT, "--timeout=90s"];
    rollout(&is_there);

    let service = ["get", "service", "bowline-gateway", "--output"];
    let service = cluster.kubectl(&[&service[..], &["jsonpath={.spec.clusterIP}"], &of].concat());
    let token = token(&cluster);
    let service = format!("{service}:443");
    let through = door(&cluster, "service", &service, &token);
    // kube-proxy hears of the pods later than whoever has waited for them.
    until("the service has pods", PATIENCE, || TcpStream::connect(&service).is_ok());
    let direct = door(&cluster, "straight", &cluster.address(), &token);
    let steady = Steady::begin(&through, &direct);
    rollout(&["restart", DEPLOYMENT]);
    rollout(&is_there);
    // The old ones go on until nobody needs them.
    let wait = ["wait", "--for=jsonpath={.status.terminatingReplicas}=0", DEPLOYMENT];
    cluster.kubectl(&[&wait[..], &["--timeout=120s"], &of].concat());
    steady.ends();

    let client = kubectl("1.37", &through.kubeconfig, &["box"]);
    let left = client.run(&[], &["echo", "one"], Input::Nothing);
    assert_eq!(left.stdout, b"one\n", "{left:?}");
}
