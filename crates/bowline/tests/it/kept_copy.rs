//! Copies whose commands are kept: a lost connection begins nothing again, and a copy that is left
//! leaves nothing that runs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use bowline_archive::reader::{Entry, EntryKind};
use bowline_archive::writer::{self, Owner};
use bowline_client::copy::{self, CopyError, Keep};
use bowline_client::kept::{Change, Instance, Stream};
use bowline_interop::client::{Client, PATIENCE};
use bowline_interop::copy::{contents, noise_file, over_cut_connections};
use bowline_interop::relay::{Cut, Relay};
use bowline_interop::server::{Server, until};
use bowline_proto::kept::{Frame, Leave, Reader};
use bowline_proto::outbox::Outbox;
use bowline_proto::session::Wants;
use bowline_proto::tunnel::{Incoming, Wire};
use bowline_proto::websocket::Role;
use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::bad_server::{self, Request};
use super::bowline;

/// A cluster whose pod has a `tar` of this test's.
struct Copies {
    place: TempDir,
    dev: Server,
}

impl Copies {
    /// Of the script, `{dir}` is the place.
    fn with_tar(script: &str) -> Copies {
        let place = tempfile::tempdir().unwrap();
        let bin = place.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let script = script.replace("{dir}", &place.path().to_string_lossy());
        fs::write(bin.join("tar"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(bin.join("tar"), PermissionsExt::from_mode(0o755)).unwrap();
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: pod}}\nspec: {{containers: [{{name: \
             pod, env: [{{name: PATH, value: \"{}:/usr/bin:/bin\"}}]}}]}}\n",
            bin.display()
        );
        let file = place.path().join("pod.yaml");
        fs::write(&file, pod).unwrap();
        let dev = Server::dev(bowline(), &["-f", &file.to_string_lossy()]);
        Copies { place, dev }
    }

    /// One whose tar does nothing, and says which process it is.
    fn stuck() -> Copies {
        Copies::with_tar("echo $$ >{dir}/new; mv {dir}/new {dir}/pid; exec sleep 1000")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn client(&self) -> Client {
        Client::new("bowline", bowline(), &self.dev.kubeconfig(), &["pod"])
    }

    /// The process of the tar that runs.
    fn tar(&self) -> Pid {
        let id = || fs::read_to_string(self.at("pid")).ok();
        until("tar runs", PATIENCE, || id().is_some());
        let id = id().unwrap();
        fs::remove_file(self.at("pid")).unwrap();
        Pid::from_raw(id.trim().parse().unwrap()).unwrap()
    }

    /// The words of a copy in each direction, of which one is stuck.
    fn both_ways(&self) -> [[String; 2]; 2] {
        fs::create_dir_all(self.at("to")).unwrap();
        fs::write(self.at("file"), "text").unwrap();
        let (file, there) = (self.at("file").display().to_string(), self.at("to/copy"));
        let remote = |path: &Path| format!("pod:{}", path.display());
        [[remote(&self.at("file")), there.display().to_string()], [file, remote(&there)]]
    }
}

fn is_gone(id: Pid) {
    until("tar is gone", PATIENCE, || test_kill_process(id).is_err());
}

#[test]
fn over_a_relay_that_cuts_every_5_mb_each_command_is_begun_once() {
    let copies = Copies::with_tar("echo run >>{dir}/runs; exec /bin/tar \"$@\"");
    let runs = || fs::read_to_string(copies.at("runs")).unwrap_or_default().lines().count();
    let (client, mut before) = (copies.client(), 0);
    over_cut_connections(&client, "pod", &copies.dev.address(), &["--keep"], |what, tars| {
        assert_eq!(runs() - before, tars, "{what}");
        before = runs();
    });
}

/// Without what is told by a client, a command is kept for 5 minutes.
#[test]
fn a_copy_that_is_stopped_hangs_its_command_up() {
    let copies = Copies::stuck();
    for [from, to] in copies.both_ways() {
        let left = copies.client().copy_while(&[&from, &to, "--keep"], |client| {
            let tar = copies.tar();
            kill_process(Pid::from_child(client), Signal::INT).unwrap();
            is_gone(tar);
        });
        assert_eq!(left.status.code(), None, "{left:?}");
        assert_eq!(fs::read_dir(copies.at("to")).unwrap().count(), 0, "{from}");
    }
}

#[test]
fn the_command_of_a_copy_that_is_killed_ends_once_its_time_is_over() {
    let copies = Copies::stuck();
    for [from, to] in copies.both_ways() {
        let _ = copies.client().copy_while(&[&from, &to, "--keep", "--keep-for=1s"], |client| {
            let tar = copies.tar();
            kill_process(Pid::from_child(client), Signal::KILL).unwrap();
            is_gone(tar);
        });
    }
}

#[test]
fn a_program_that_cannot_be_read_is_told_before_anything_is_begun() {
    let copies = Copies::stuck();
    let [[from, to], _] = copies.both_ways();
    let left = copies.client().copy(&[&from, &to, "--keep", "--hold-program=/no/such"]);
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    assert!(left.stderr.starts_with("error: --hold-program /no/such: "), "{left:?}");
}

fn library(kubeconfig: &str) -> bowline_client::Client {
    bowline_client::Client::from_kubeconfig(Path::new(kubeconfig), None).unwrap()
}

/// A future that is dropped hangs its command up, and that can be waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_dropped_hangs_its_command_up() {
    let copies = Arc::new(Copies::stuck());
    let keep = Keep::new();
    let container = library(&copies.dev.kubeconfig()).container("pod").keep(keep.clone());
    let (source, target) = (copies.at("file").display().to_string(), copies.at("to"));
    let options = copy::Options::default();
    let copy = copy::download(&container, &source, &target, &options, Arc::new(()));
    let looks = copies.clone();
    let tar = tokio::select! {
        copied = copy => panic!("{copied:?}"),
        tar = tokio::task::spawn_blocking(move || looks.tar()) => tar.unwrap(),
    };
    keep.settled().await;
    is_gone(tar);
    let left: Vec<_> = fs::read_dir(copies.place.path()).unwrap().flatten().collect();
    assert!(
        !left.iter().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b".bowline"))
    );
}

/// Programs are told of losses, and nothing is begun again though no retry is allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_programs_goes_on_behind_a_loss() {
    let copies = Copies::with_tar("exec /bin/tar \"$@\"");
    let mut connections = 0;
    let relay = Relay::start(copies.dev.address(), move || {
        connections += 1;
        let cut = Cut { after: 3_000_000, resets: true };
        (connections < 3).then_some(cut)
    });
    let text = fs::read_to_string(copies.dev.kubeconfig()).unwrap();
    let kubeconfig = copies.at("kubeconfig");
    fs::write(&kubeconfig, text.replace(&copies.dev.address(), &relay.address)).unwrap();
    noise_file(&copies.at("file"), 10_000_000);
    let restored = Arc::new(Notify::new());
    let tell = restored.clone();
    let keep = Keep::new().on_change(move |change| {
        if let Change::Restored(_) = change {
            tell.notify_one();
        }
    });
    let client = library(&kubeconfig.to_string_lossy());
    let source = copies.at("file").display().to_string();
    client.copy_from("pod", source, copies.at("copy")).keep(keep).run().await.unwrap();
    restored.notified().await;
    assert!(contents(&copies.at("file")) == contents(&copies.at("copy")));
}

/// A host whose command packs a file of three blocks, and that has not kept the second one. Tells
/// how its client leaves.
fn forgetful(request: Request, left: &Sender<Leave>) {
    let mut stream = request.upgrade_kept();
    let file = Entry {
        name: b"./file".to_vec(),
        kind: EntryKind::File,
        size: 3 * 512,
        mode: 0o644,
        mtime: 5,
        link: Vec::new(),
    };
    let mut archive = Vec::new();
    writer::entry(&file, Owner::default(), &[b'x'; 3 * 512], &mut archive);
    writer::end(&mut archive);
    let archive = Bytes::from(archive);
    let wants = Wants { stdin: false, stdout: true, stderr: true, tty: false };
    let (version, window, instance) = (1, 1 << 20, Some(Instance([7; 16])));
    let (stdin, stdin_over, outputs, started, turn) = (0, false, [0; 2], true, 1);
    let frames = [
        Frame::Hello { version, window, instance },
        Frame::State { wants, stdin, stdin_over, outputs, started, turn },
        Frame::Data(Stream::Stdout, 0, archive.slice(..1024)),
        Frame::Gap { stream: Stream::Stdout, from: 1024, to: 1536, taken: 0 },
        Frame::Data(Stream::Stdout, 1536, archive.slice(1536..)),
    ];
    let mut outbox = Outbox::new();
    frames.iter().for_each(|frame| frame.write(&mut outbox));
    let mut wire = Wire::tunnel(Role::Server, [7; 32]);
    let mut reader = Reader::default();
    loop {
        let outbox = wire.outbox(&mut outbox);
        let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
        stream.write_all(&bytes).unwrap();
        outbox.advance(bytes.len());
        let mut piece = [0; 4096];
        let Ok(read @ 1..) = stream.read(&mut piece) else { return };
        wire.receive(BytesMut::from(&piece[..read]));
        while let Some(Incoming::Bytes(bytes)) = wire.poll() {
            reader.receive(bytes);
        }
        while let Some(frame) = reader.frame().unwrap() {
            if let Frame::Leave(how) = frame {
                return left.send(how).unwrap();
            }
        }
    }
}

/// What comes behind a gap is not taken, and the command is not left to itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_a_loss_of_the_copy_and_no_file_with_a_hole() {
    let (sender, left) = channel();
    let sender = Mutex::new(sender);
    let address = bad_server::start(move |request| forgetful(request, &sender.lock().unwrap()));
    let place = tempfile::tempdir().unwrap();
    let client = bad_server::library(address, place.path());
    let copy = client.copy_from("pod", "/file", place.path().join("copy")).keep(Keep::new());
    let error = copy.run().await.unwrap_err();
    assert!(matches!(error, CopyError::Lost { .. }), "{error:?}");
    assert!(error.to_string().contains("512 bytes of stdout are missing"), "{error}");
    assert_eq!(left.recv_timeout(PATIENCE).unwrap(), Leave::HungUp);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
