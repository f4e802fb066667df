//! Our gateway in front of real API servers, one of today and one of 2020: all that every client
//! can show of its streams.

use std::fs;
use std::process::Command;
use std::time::Instant;

use bowline_interop::attach::{talks, types};
use bowline_interop::client::{Client, Input, noise_digest};
use bowline_interop::cluster::{Cluster, OLD_KUBERNETES, OLD_RUNTIME, PODS};
use bowline_interop::copy::there_and_back;
use bowline_interop::list::Amounts;
use bowline_interop::server::Server;
use bowline_interop::{forward, list};
use h2::RecvStream;
use http::Response;

use crate::attach;
use crate::extended_connect::{self, BINARY, Browser, Outcome, Socket, TEXT};
use crate::forward::{CONTAINERD as FORWARD_OF_CONTAINERD, OLD_CONTAINERD, host_pod};
use crate::gateway_identity::as_before_1_35;
use crate::gateway_nodes::reaches_kubelets;
use crate::gateway_plain;
use crate::libraries::{Program, forwards, kube_rs_forwards_to, kube_rs_runs};
use crate::libraries_attach::attach_and_copy;
use crate::parts::{KUBECTLS, bowline, kubectl, ours};
use crate::real::CONTAINERD;

/// How much is transferred: that the relay keeps all of it is shown elsewhere, with more.
pub const AMOUNTS: Amounts =
    Amounts { times: 1, both_ways: 3_000_000, one_way: 20_000_000, truncations: 5 };
pub const FORWARDED: forward::Amounts =
    forward::Amounts { parallel: 50, sequential: 100, bulk: 8 << 20 };
pub const WRITTEN_BYTES: usize = 3_000_000;

/// Somebody who may do everything.
const TESTER: &str = r"apiVersion: v1
kind: ServiceAccount
metadata: {name: tester, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: tester}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: tester, namespace: default}]
";

/// A gateway in front of a cluster, and the same user's way to either.
pub struct Front {
    pub gateway: Server,
    pub token: String,
    /// The kubeconfig through the gateway.
    pub through: String,
    /// The kubeconfig of the API server itself.
    pub direct: String,
}

impl Front {
    /// One with these flags.
    pub fn of(cluster: &Cluster, flags: &[&str]) -> Front {
        let token = token(cluster);
        let direct = kubeconfig(cluster, "direct", &cluster.address(), &token);
        let gateway = gateway(cluster, &[&["--upstream", &direct], flags].concat());
        let through = kubeconfig(cluster, "through", &gateway.address(), &token);
        Front { gateway, token, through, direct }
    }
}

/// A gateway with the certificate that the cluster's API server has.
pub fn gateway(cluster: &Cluster, flags: &[&str]) -> Server {
    let mut gateway = Command::new(bowline());
    gateway.args(["gateway", "--secure-port", "0", "--bind-address", "127.0.0.1", "-v=2"]);
    gateway.args(flags).arg("--tls-cert-file").arg(cluster.path("pki/apiserver.crt"));
    gateway.arg("--tls-private-key-file").arg(cluster.path("pki/apiserver.key"));
    Server::start(&mut gateway)
}

/// The token of somebody who may do everything.
pub fn token(cluster: &Cluster) -> String {
    token_of(cluster, "tester")
}

/// The same of somebody of this name.
pub fn token_of(cluster: &Cluster, name: &str) -> String {
    let file = cluster.path("tester.yaml");
    fs::write(&file, TESTER.replace("tester", name)).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    cluster.kubectl(&["create", "token", name, "--duration=2h"]).trim().to_owned()
}

/// A kubeconfig for this address, and perhaps a path, with that token.
pub fn kubeconfig(cluster: &Cluster, name: &str, address: &str, token: &str) -> String {
    let authority = cluster.text("pki/ca.crt");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters: [{{name: it, cluster: \
         {{server: \"https://{address}\", certificate-authority: \"{authority}\"}}}}]\ncontexts: \
         [{{name: it, context: {{cluster: it, user: it, namespace: default}}}}]\nusers: [{{name: \
         it, user: {{token: \"{token}\"}}}}]\n"
    );
    let path = cluster.path(&format!("{name}.kubeconfig"));
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The same for a server of this machine's that adds the user.
pub fn kubeconfig_without_tls(cluster: &Cluster, name: &str, address: &str) -> String {
    let config = kubeconfig(cluster, name, address, "");
    let text = fs::read_to_string(&config).unwrap();
    let authority = format!(", certificate-authority: \"{}\"", cluster.text("pki/ca.crt"));
    let text = text.replace("https://", "http://").replace(&authority, "");
    fs::write(&config, text).unwrap();
    config
}

/// Each client, for a pod; for one with GNU's tools, which differs in these alone, one of each
/// kind.
fn clients(kubeconfig: &str, pod: &str, is_gnu: bool) -> Vec<Client> {
    let ours = ours(kubeconfig, &[pod]).named(pod);
    let ages = if is_gnu { &[KUBECTLS[0], KUBECTLS[3]][..] } else { &KUBECTLS };
    let kubectls = ages.iter().map(|age| kubectl(age, kubeconfig, &[pod]).named(pod));
    kubectls.chain([ours.over_spdy(), ours]).collect()
}

/// All that kubectl and bowline can show. `of_runtime` is what the cluster's runtime gets wrong of
/// a port-forward.
fn everything(cluster: &Cluster, kubeconfig: &str, of_runtime: &[forward::Point]) {
    host_pod(cluster);
    for tools in PODS {
        let is_gnu = tools == "gnu";
        let suffix = format!("-{tools}-front");
        let [talker, ..] = attach::run(cluster, tools, &suffix).names();
        for client in clients(kubeconfig, tools, is_gnu) {
            let begun = Instant::now();
            list::check(&client, &AMOUNTS, CONTAINERD);
            there_and_back(&client, tools);
            println!("{}: {:.1} s", client.name, begun.elapsed().as_secs_f64());
        }
        for client in clients(kubeconfig, &talker, is_gnu) {
            talks(&client, WRITTEN_BYTES);
            let keys = ["1.36", "1.37", "bowline"].iter().any(|name| client.name.contains(name));
            types(&client, keys);
        }
    }
    for client in clients(kubeconfig, "host", false) {
        // kubectl since 1.32 ends with any word on an error stream, and containerd has one for each
        // reset.
        let is_new = ["1.32", "1.36", "1.37"].iter().any(|age| client.name.contains(age));
        let resets: &[forward::Point] = if is_new { &[forward::Point::Reset] } else { &[] };
        let except = [of_runtime, resets].concat();
        forward::check(&client.forwarding(), &FORWARDED, &except);
    }
}

/// The libraries of other languages: whatever the cluster speaks, v5 is what they get.
fn libraries(cluster: &Cluster, kubeconfig: &str) {
    for tools in PODS {
        attach_and_copy(cluster, kubeconfig, tools);
    }
    for language in ["python", "node"] {
        for pod in PODS {
            let program = format!("clients/{language}/exec");
            Program::new(&program, kubeconfig, pod).check("v5.channel.k8s.io", 2_000_000);
        }
        forwards(&format!("clients/{language}/forward"), kubeconfig, "host");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for pod in PODS {
            kube_rs_runs(kubeconfig, pod, true).await;
        }
        kube_rs_forwards_to(kubeconfig, "host").await;
    });
}

#[test]
fn every_client_streams_through_it_into_a_cluster_of_today() {
    let cluster = Cluster::shared();
    let front = Front::of(&cluster, &[]);
    everything(&cluster, &front.through, FORWARD_OF_CONTAINERD);
}

#[test]
fn every_library_streams_through_it_into_a_cluster_of_today() {
    let cluster = Cluster::shared();
    let front = Front::of(&cluster, &[]);
    host_pod(&cluster);
    libraries(&cluster, &front.through);
}

/// WebSocket over HTTP/2, as a browser asks for it: where it is wanted, and where it is not.
#[test]
fn a_browser_over_http2_streams_through_it() {
    let cluster = Cluster::shared();
    host_pod(&cluster);
    let [talker, ..] = attach::run(&cluster, PODS[0], "-box-http2").names();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let without = Front::of(&cluster, &[]);
    let address = without.gateway.address();
    let asked = extended_connect::cat(&address, &without.token, "magic");
    assert_eq!(runtime.block_on(asked), Outcome::NotOffered);

    let front = Front::of(&cluster, &["--http2-websockets"]);
    let address = front.gateway.address();
    let browser = runtime.block_on(Browser::at(&address, &front.token)).unwrap();
    runtime.block_on(every_protocol(&browser));
    // Clients that know no HTTP/2 here show the rest, all of them in the same connection.
    let address = runtime.block_on(browser.serves());
    let config = kubeconfig_without_tls(&cluster, "over-http2", &address);
    for client in [kubectl("1.37", &config, &["box"]), ours(&config, &["box"])] {
        let script = ["sh", "-c", "sha256sum; exit 7"];
        let left = client.run(&["-i"], &script, Input::Noise(AMOUNTS.both_ways));
        let digest = format!("{}  -\n", noise_digest(AMOUNTS.both_ways));
        let found = (left.status.code(), String::from_utf8_lossy(&left.stdout).into_owned());
        assert_eq!(found, (Some(7), digest), "{}: {}", client.name, left.stderr);
    }
    talks(&ours(&config, &[&talker]).named("over HTTP/2"), WRITTEN_BYTES);
    let client = kubectl("1.37", &config, &["host"]).forwarding().named("over HTTP/2");
    // kubectl ends with any word on an error stream, and containerd has one for each reset.
    let except = [FORWARD_OF_CONTAINERD, &[forward::Point::Reset]].concat();
    forward::check(&client, &FORWARDED, &except);
}

/// Every protocol of a command in one connection, at the same time, and refusals among them.
async fn every_protocol(browser: &Browser) {
    let pod = "/api/v1/namespaces/default/pods/box";
    let exec = format!("{pod}/exec?command=head&command=-c5&stdin=true&stdout=true");
    let mut sockets = Vec::new();
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        sockets.push((protocol, browser.opens(&exec, protocol).await.unwrap()));
    }
    let refused = |asked: Result<Socket, Option<Response<RecvStream>>>| {
        asked.err().flatten().map(|said| said.status().as_u16())
    };
    let nobody = exec.replace("/box/", "/nobody/");
    let v5 = "v5.channel.k8s.io";
    assert_eq!(refused(browser.opens(&nobody, v5).await), Some(404));
    for (token, code) in [("viewer-token", 403), ("wrong", 401)] {
        let other = browser.with_token(token);
        assert_eq!(refused(other.opens(&exec, v5).await), Some(code), "{token}");
    }
    for (protocol, socket) in &mut sockets {
        // As some libraries write it: with line breaks.
        match protocol.contains("base64") {
            true => socket.sends(TEXT, b"0bWFn\r\naWM=\n"),
            false => socket.sends(BINARY, b"\0magic"),
        }
    }
    for (protocol, socket) in &mut sockets {
        let (output, status) = socket.rest().await;
        assert_eq!(output, "magic", "{protocol}");
        assert!(status.contains("\"Success\""), "{protocol}: {status}");
    }
}

#[test]
fn every_client_streams_through_it_into_a_cluster_of_2020() {
    let cluster = Cluster::up(&[OLD_RUNTIME, OLD_KUBERNETES]);
    let front = Front::of(&cluster, &[]);
    everything(&cluster, &front.through, OLD_CONTAINERD);
    libraries(&cluster, &front.through);
    two_clusters(&cluster, &front);
    reaches_kubelets(&cluster, &["1.20"], OLD_CONTAINERD);
    gateway_plain::everything(&cluster, &front);
    as_before_1_35(&cluster, &["auto", "spdy"]);
}

/// Both behind one gateway, at paths and at names.
fn two_clusters(old: &Cluster, front: &Front) {
    let new = Cluster::shared();
    let token_of_new = token(&new);
    let direct = kubeconfig(&new, "direct", &new.address(), &token_of_new);
    let [upstream_old, upstream_new] = [format!("old={}", front.direct), format!("new={direct}")];
    let gateway = gateway(old, &["--upstream", &upstream_old, "--upstream", &upstream_new]);
    let address = gateway.address();
    // The old one is built without a word of its own version.
    for (name, token, version) in [
        ("old", &front.token, "\"goVersion\": \"go1.19"),
        ("new", &token_of_new, "\"gitVersion\": \"v1.37."),
    ] {
        let path = format!("{address}/clusters/{name}");
        let kubeconfig = kubeconfig(old, name, &path, token);
        for age in [KUBECTLS[0], KUBECTLS[3]] {
            let client = kubectl(age, &kubeconfig, &["box"]).named(name);
            let left = client.run(&["-i"], &["cat"], Input::Bytes(b"magic"));
            assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"magic"[..]), "{left:?}");
        }
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--insecure", "--noproxy", "*", "--header"]);
        curl.arg(format!("Authorization: Bearer {token}"));
        let port = address.rsplit(':').next().unwrap();
        curl.arg("--resolve").arg(format!("{name}:{port}:127.0.0.1"));
        let output = curl.arg(format!("https://{name}:{port}/version")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(version), "{name}: {said}");
    }
}
