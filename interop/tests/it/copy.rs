//! Copies: every kubectl against `bowline dev`, and `bowline cp` there and in a real cluster, whose
//! containers have busybox in the place of GNU's tools.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::Cluster;
use bowline_interop::copy::{
    CUT_EVERY, Place, contents, keeps_all, keeps_much, many_files, noise_file, there_and_back,
};
use bowline_interop::relay::{Cut, Relay};
use bowline_interop::server::Server;

use crate::parts::{KUBECTLS, bowline, kubectl, ours};

/// How much is copied at once: 64 MiB and 6,250 files, unless `BOWLINE_BULK_MIB` says otherwise
/// (1024 is a GiB, and 100,000 files).
fn bulk_mib() -> u64 {
    let mib = std::env::var("BOWLINE_BULK_MIB").ok();
    mib.map_or(64, |text| text.parse().expect("BOWLINE_BULK_MIB is a number"))
}

fn check(client: &Client, pod: &str) {
    let begun = std::time::Instant::now();
    there_and_back(client, pod);
    keeps_all(client, pod);
    keeps_much(client, pod, bulk_mib(), bulk_mib() as usize * 100_000 / 1024);
    println!("{}: {:.1} s", client.name, begun.elapsed().as_secs_f64());
}

#[test]
fn every_client_against_dev() {
    let dev = Server::dev(&bowline(), &[]);
    for version in KUBECTLS {
        there_and_back(&kubectl(version, &dev.kubeconfig(), &["nginx"]), "nginx");
    }
    check(&ours(&dev.kubeconfig(), &["nginx"]), "nginx");
    there_and_back(&ours(&dev.kubeconfig(), &["nginx"]).over_spdy(), "nginx");
}

#[test]
fn our_client_in_a_real_cluster() {
    let cluster = Cluster::shared();
    let client = ours(&cluster.admin(), &["box"]);
    check(&client, "box");
    there_and_back(&client.over_spdy(), "box");
    // What runs in the second pod differs in its tools alone.
    keeps_all(&ours(&cluster.admin(), &["gnu"]), "gnu");
}

/// The largest file that has to come through it.
const LARGE_BYTES: u64 = 40_000_000;

#[test]
fn a_relay_that_cuts_every_5_mb_only_delays() {
    let dev = Server::dev(&bowline(), &[]);
    let cut = Cut { after: CUT_EVERY, resets: false };
    let relay = Relay::start(dev.address(), move || Some(cut));
    let direct = ours(&dev.kubeconfig(), &["nginx"]);
    let place = Place::new(&direct, "nginx");
    let text = fs::read_to_string(dev.kubeconfig()).unwrap();
    fs::write(place.here("kubeconfig"), text.replace(&dev.address(), &relay.address)).unwrap();
    let client = ours(&place.text("kubeconfig"), &["nginx"]);
    many_files(&place.here("tree"), 1000);
    noise_file(&place.here("tree/large"), LARGE_BYTES);
    for number in 0..60 {
        noise_file(&place.here(&format!("tree/middle{number}")), 1_000_000);
    }
    for (source, target) in
        [(place.text("tree"), place.there("there")), (place.there("there"), place.text("back"))]
    {
        let before = relay.cuts();
        let cut = client.copy(&[&source, &target]);
        assert_eq!(cut.status.code(), Some(255), "{cut:?}");
        assert!(cut.stderr.contains("was lost"), "{cut:?}");
        // What looks like a copy is none: the name is not there.
        let there = direct.run(&[], &["ls", "-A", &place.path_there("")], Input::Nothing);
        let here = fs::read_dir(place.here("")).unwrap();
        let names: Vec<_> =
            here.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        assert!(!names.iter().any(|name| name == "back" || name.starts_with('.')), "{names:?}");
        if target.starts_with("nginx:") {
            assert_eq!(there.stdout, b"", "{there:?}");
        }
        client.copies(&[&source, &target, "--retries=-1", "--verify"]);
        let cuts = relay.cuts() - before;
        // Files that were on their way go on each by itself, and those of 1 MB are not cut.
        assert!(cuts >= LARGE_BYTES / CUT_EVERY - 1, "{cuts} cuts");
        println!("{source} to {target}: {cuts} cuts");
    }
    assert!(contents(&place.here("tree")) == contents(&place.here("back")));
}

/// Runs a script in a mount namespace of its own with a small disk at `DISK`.
fn on_a_small_disk(disk: &Path, script: &str) -> bowline_interop::client::Left {
    fs::create_dir_all(disk).unwrap();
    let mut unshare = Command::new("unshare");
    let mount = format!("mount -t tmpfs -o size=3m none {} && {script}", disk.display());
    unshare.args(["--mount", "sh", "-c", &mount]);
    unshare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    left(unshare.spawn().unwrap(), Input::Nothing, true).unwrap()
}

#[test]
fn a_full_disk_here_is_told_and_the_rest_is_copied() {
    let dev = Server::dev(&bowline(), &[]);
    let client = ours(&dev.kubeconfig(), &["nginx"]);
    let place = Place::new(&client, "nginx");
    fs::create_dir(place.here("tree")).unwrap();
    noise_file(&place.here("tree/large"), 10_000_000);
    fs::write(place.here("tree/small"), "small").unwrap();
    let disk = place.here("disk");
    let copy = format!(
        "{} cp --kubeconfig {} nginx:{} {disk}/t; echo code $?; ls -A {disk}/t",
        bowline().display(),
        dev.kubeconfig(),
        place.text("tree"),
        disk = disk.display(),
    );
    let left = on_a_small_disk(&disk, &copy);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "code 1\nsmall\n", "{left:?}");
    assert!(left.stderr.contains("\"large\": no space left on device"), "{left:?}");
}

#[test]
fn a_full_disk_there_is_told_and_the_rest_is_copied() {
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mut unshare = Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size=3m none {} && exec {} dev --port 0",
        disk.display(),
        bowline().display()
    );
    let dev = Server::start(unshare.args(["--mount", "sh", "-c", &script]));
    let client = ours(&dev.kubeconfig(), &["nginx"]);
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    noise_file(&tree.join("large"), 10_000_000);
    fs::write(tree.join("a small"), "small").unwrap();
    let target = format!("{}/t", disk.display());
    let left = client.copy(&[&tree.to_string_lossy(), &format!("nginx:{target}")]);
    assert_eq!(left.status.code(), Some(2), "{left:?}");
    // GNU tar's words for it, with or without a part of its last record.
    let has_words = ["Wrote only ", "Cannot write: No space left"]
        .iter()
        .any(|words| left.stderr.contains(&format!("tree/large: {words}")));
    assert!(has_words && left.stderr.contains("not copied: \"large\"\n"), "{left:?}");
    assert!(left.stderr.ends_with("exit code 2; the rest was copied\n"), "{left:?}");
    let there = client.run(&[], &["ls", "-A", &target], Input::Nothing);
    assert_eq!(String::from_utf8_lossy(&there.stdout), "a small\n", "{there:?}");
}

#[test]
fn files_that_cannot_be_read_or_change_are_told() {
    let dev = Server::dev(&bowline(), &[]);
    let client = ours(&dev.kubeconfig(), &["nginx"]);
    let place = Place::new(&client, "nginx");
    fs::create_dir(place.here("tree")).unwrap();
    fs::write(place.here("tree/fine"), "fine").unwrap();
    fs::write(place.here("tree/secret"), "secret").unwrap();
    Command::new("chmod").args(["0", &place.text("tree/secret")]).status().unwrap();
    Command::new("chmod").args(["755", &place.text("")]).status().unwrap();
    // Root reads everything, so somebody else does it, with a copy of the kubeconfig.
    fs::copy(dev.kubeconfig(), place.here("kubeconfig")).unwrap();
    fs::copy(bowline(), place.here("bowline")).unwrap();
    Command::new("chmod").args(["644", &place.text("kubeconfig")]).status().unwrap();
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    setpriv.arg(place.here("bowline")).args(["cp", "--kubeconfig", &place.text("kubeconfig")]);
    setpriv.args([&place.text("tree"), &place.there("t")]);
    setpriv.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = left(setpriv.spawn().unwrap(), Input::Nothing, true).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("secret\": permission denied"), "{ended:?}");
    let there = client.run(&[], &["ls", "-A", &place.path_there("t")], Input::Nothing);
    assert_eq!(String::from_utf8_lossy(&there.stdout), "fine\n", "{there:?}");

    // A file that grows all the time is never what it was.
    noise_file(&place.here("tree/secret"), 50_000_000);
    let (over, path) = (Arc::new(AtomicBool::new(false)), place.here("tree/secret"));
    let writer = {
        let over = over.clone();
        thread::spawn(move || {
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            while !over.load(Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
                thread::yield_now();
            }
        })
    };
    let ended = client.copy(&[&place.text("tree"), &place.there("u")]);
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("file changed as we read it"), "{ended:?}");
    let there = client.run(&[], &["ls", "-A", &place.path_there("u")], Input::Nothing);
    assert_eq!(String::from_utf8_lossy(&there.stdout), "fine\n", "{there:?}");
}
