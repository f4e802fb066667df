//! Files that change in a container while they are copied out of it, in both pods of a real
//! cluster: GNU's tar fills what is short up with zeros and fails, busybox' ends at once.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Instant;

use bowline_interop::client::{Client, Input, PATIENCE, hex};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::copy::Place;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use crate::parts::ours;

/// More than can be on its way.
const LARGE_BYTES: u64 = 120_000_000;

/// Stops the client as soon as bytes of the file have come below this directory, and lets it go on
/// when this is done.
fn in_the_midst(client: &Child, dir: &Path, does: impl FnOnce()) {
    let id = Pid::from_child(client);
    let begun = Instant::now();
    let has_come = || {
        fs::read_dir(dir).unwrap().flatten().any(|place| {
            let trees = ["tree", "tree/log"].map(|tree| fs::metadata(place.path().join(tree)));
            trees.into_iter().flatten().any(|tree| tree.is_file() && tree.len() > 0)
        })
    };
    while !has_come() {
        assert!(begun.elapsed() < PATIENCE, "nothing comes");
        thread::yield_now();
    }
    kill_process(id, Signal::STOP).unwrap();
    does();
    kill_process(id, Signal::CONT).unwrap();
}

fn shell(client: &Client, script: &str, path: &str) -> String {
    let left = client.run(&[], &["sh", "-c", script, "sh", path], Input::Nothing);
    assert!(left.status.success(), "{left:?}");
    String::from_utf8_lossy(&left.stdout).trim().to_owned()
}

#[test]
fn what_changes_in_a_real_container_has_no_name_unless_it_has_only_grown() {
    let cluster = Cluster::shared();
    for pod in PODS {
        let client = ours(&cluster.admin(), &[pod]);
        let place = Place::new(&client, pod);
        let log = place.path_there("tree/log");
        let fill = format!(
            "mkdir -p \"${{1%/*}}\"; head -c {LARGE_BYTES} /dev/urandom >\"$1\"; touch -d @1 \"$1\"
            echo small >\"${{1%/*}}/a\""
        );
        for (number, (does, grows)) in [
            ("echo more >>\"$1\"", true),
            (": >\"$1\"", false),
            ("head -c 1000000 /dev/zero >\"$1\"", false),
            ("dd if=/dev/zero of=\"$1\" bs=1000000 count=110 seek=5 conv=notrunc", false),
        ]
        .into_iter()
        .enumerate()
        {
            let sources = ["tree/log", "tree"];
            for source in &sources[..if does.starts_with(':') { 2 } else { 1 }] {
                let source = *source;
                shell(&client, &fill, &log);
                let dir = place.here(&format!("{number}"));
                fs::create_dir(&dir).unwrap();
                let words = [place.there(source), dir.join("t").to_string_lossy().into_owned()];
                let left = client.copy_while(&[&words[0], &words[1]], |copy| {
                    in_the_midst(copy, &dir, || {
                        shell(&client, does, &log);
                    });
                });
                println!("{pod}: {source}, {does}: {:?}: {}", left.status.code(), left.stderr);
                assert_eq!(left.status.code(), Some(1), "{pod}: {does}: {left:?}");
                let file = dir.join(if source == "tree" { "t/log" } else { "t" });
                assert_eq!(file.exists(), grows, "{pod}: {does}: {left:?}");
                if grows {
                    assert_eq!(fs::metadata(&file).unwrap().len(), LARGE_BYTES);
                    let sum = format!("head -c {LARGE_BYTES} \"$1\" | sha256sum");
                    let sum = shell(&client, &sum, &log);
                    let ours = hex(&Sha256::digest(fs::read(&file).unwrap()));
                    assert!(sum.starts_with(&ours), "{pod}: {sum}, not {ours}");
                    assert!(left.stderr.contains("it grew, and its first"), "{left:?}");
                }
                let names: Vec<_> =
                    fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                assert!(names.iter().all(|name| name == "t"), "{names:?}");
                fs::remove_dir_all(&dir).unwrap();
            }
        }
        shell(&client, "rm -r \"${1%/*}\"", &log);
    }
}
