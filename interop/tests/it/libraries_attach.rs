//! What else client libraries of other languages do with pods: they attach, and copy by tar.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bowline_interop::attach::{Pods, talks_at};
use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::copy::{contents, many_files, noise_file};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::attach;
use crate::libraries::{finished, pods};
use crate::parts::part;

const LANGUAGES: [&str; 2] = ["python", "node"];
/// Of a file, and of a line. What Python's library gathers costs it their square.
const BYTES: usize = 1_000_000;
const LINE_BYTES: usize = 200_000;

/// Each library, with these tools in the pods that it attaches to.
pub fn attach_and_copy(cluster: &Cluster, kubeconfig: &str, tools: &str) {
    let suffix = format!("-{tools}-libraries");
    // What this one does is its shell's.
    let talker = (tools == PODS[0]).then(|| {
        let [talker, ..] = attach::run(cluster, tools, &suffix).names();
        talker
    });
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 20);
    noise_file(&tree.path().join("big"), BYTES as u64);
    for language in LANGUAGES {
        let once = once(cluster, tools, language);
        let name = format!("{language}, {tools}");
        let program = part(&format!("clients/{language}/attach"));
        let mut client = Client::new(&name, program, "", &[kubeconfig, "default", "", ""]);
        client.words.clear();
        let mut at = |pod: &str| {
            client.target[2..].fill(pod.to_owned());
            client.clone()
        };
        if let Some(talker) = &talker {
            talks_at(&at(talker), LINE_BYTES);
        }
        let left = at(&once).run(&["-i"], &[], Input::Bytes(b"a\nb\n"));
        assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"a\nb\n"[..]), "{left:?}");
        copies(language, kubeconfig, tools, tree.path());
    }
    let once = once(cluster, tools, "rust");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pods = pods(kubeconfig).await;
        if let Some(talker) = &talker {
            kube_rs_talks(&pods, talker).await;
        }
        kube_rs_ends_input(&pods, &once).await;
        kube_rs_copies(&pods, tools, tree.path()).await;
    });
}

/// A pod whose input ends with its first client.
fn once(cluster: &Cluster, tools: &str, language: &str) -> String {
    let suffix = format!("-{tools}-{language}");
    let pods = Pods { node: Some("localhost"), tools, suffix: &suffix, runs: false };
    let [_, once, _] = pods.names();
    // It has ended if this cluster has seen this test before.
    let delete = ["delete", "pod", "--ignore-not-found", "--force", "--grace-period=0"];
    cluster.kubectl(&[&delete[..], &[&once]].concat());
    cluster.run_pods(&pods.manifests()[1], &[&once]);
    once
}

/// There and back.
fn copies(language: &str, kubeconfig: &str, pod: &str, tree: &Path) {
    let back = tempfile::tempdir().unwrap();
    let remote = back.path().to_str().unwrap();
    made(kubeconfig, pod, remote);
    let program = part(&format!("clients/{language}/cp"));
    for (way, local) in [("to", tree), ("from", back.path())] {
        let mut copy = Command::new(&program);
        copy.args([way, kubeconfig, "default", pod, pod]).arg(local).arg(remote);
        copy.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let left = left(copy.spawn().unwrap(), Input::Nothing, true);
        let left = left.unwrap_or_else(|| panic!("{language}: cp {way} hangs"));
        assert!(left.status.success(), "{language}: cp {way}: {left:?}");
    }
    // Of these only the contents, as all of them leave modes and times to their tars.
    assert_eq!(contents(back.path()), contents(tree), "{language}");
}

fn made(kubeconfig: &str, pod: &str, remote: &str) {
    let left = crate::parts::kubectl("1.37", kubeconfig, &[pod]);
    let left = left.run(&[], &["mkdir", "-p", remote], Input::Nothing);
    assert!(left.status.success(), "{left:?}");
}

async fn kube_rs_talks(pods: &Api<Pod>, talker: &str) {
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut attached = pods.attach(talker, &params).await.unwrap();
    let mut stdin = attached.stdin().unwrap();
    let mut lines = BufReader::with_capacity(64 * 1024, attached.stdout().unwrap()).lines();
    // The two of another library may still be at it, and are heard as well.
    let request = format!("say from-rust\nbig {}\n", LINE_BYTES - 1);
    stdin.write_all(request.as_bytes()).await.unwrap();
    stdin.flush().await.unwrap();
    let mut has_said = false;
    while let Some(line) = lines.next_line().await.unwrap() {
        has_said |= line == "from-rust";
        if has_said && line.len() == LINE_BYTES - 1 {
            return;
        }
    }
    panic!("kube-rs: the attach ends before all was said");
}

async fn kube_rs_ends_input(pods: &Api<Pod>, once: &str) {
    let params = AttachParams::default().stdin(true);
    let mut attached = pods.attach(once, &params).await.unwrap();
    let mut stdin = attached.stdin().unwrap();
    stdin.write_all(b"a\nb\n").await.unwrap();
    stdin.flush().await.unwrap();
    stdin.shutdown().await.unwrap();
    let (out, _, code) = finished(attached).await;
    assert_eq!((&*out, code), (&b"a\nb\n"[..], Some(0)));
}

/// By a tar on either side, as the library's example has it.
async fn kube_rs_copies(pods: &Api<Pod>, pod: &str, tree: &Path) {
    let back = tempfile::tempdir().unwrap();
    let remote = back.path().to_str().unwrap();
    let archive = back.path().join("archive");
    let tar = |flags: &[&str], at: &Path| {
        let status = Command::new("tar").arg("-C").arg(at).args(flags).arg(&archive).status();
        assert!(status.unwrap().success());
    };
    tar(&["-c", ".", "-f"], tree);
    let params = AttachParams::default();
    let mkdir = pods.exec(pod, ["mkdir", "-p", remote], &params).await.unwrap();
    assert_eq!(finished(mkdir).await.2, Some(0));

    let command = ["tar", "-C", remote, "-xf", "-"];
    let mut unpack = pods.exec(pod, command, &AttachParams::default().stdin(true)).await.unwrap();
    let mut stdin = unpack.stdin().unwrap();
    stdin.write_all(&fs::read(&archive).unwrap()).await.unwrap();
    stdin.flush().await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(finished(unpack).await.2, Some(0));

    let params = AttachParams::default().stderr(false);
    let command = ["tar", "-C", remote, "-cf", "-", "."];
    let mut pack = pods.exec(pod, command, &params).await.unwrap();
    let mut packed = Vec::new();
    pack.stdout().unwrap().read_to_end(&mut packed).await.unwrap();
    fs::write(&archive, packed).unwrap();
    let unpacked = tempfile::tempdir().unwrap();
    tar(&["-xf"], unpacked.path());
    assert_eq!(contents(unpacked.path()), contents(tree));
}
