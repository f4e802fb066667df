//! Copies out of a container whose tar is an enemy, and the words of those that fail.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bowline_archive::reader::{Entry, Kind};
use bowline_archive::writer::{self, Owner};
use bowline_interop::client::Client;
use bowline_interop::server::Server;

use super::{bowline, client};

fn entry(name: &str, kind: Kind, size: u64, link: &str) -> Entry {
    let (name, link) = (name.as_bytes().to_vec(), link.as_bytes().to_vec());
    Entry { name, kind, size, mode: 0o6777, mtime: 5, link }
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (entry, data) in entries {
        writer::whole(entry, Owner::default(), data, &mut bytes);
    }
    writer::end(&mut bytes);
    bytes
}

/// A pod whose `tar` writes what is in a file.
fn evil_pod(place: &Path) -> (Server, Client) {
    let bin = place.join("bin");
    fs::create_dir(&bin).unwrap();
    let payload = place.join("payload");
    let script = format!("#!/bin/sh\n/bin/cat {}\n", payload.display());
    fs::write(bin.join("tar"), script).unwrap();
    fs::set_permissions(bin.join("tar"), PermissionsExt::from_mode(0o755)).unwrap();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: evil}}\nspec: {{containers: [{{name: evil, \
         env: [{{name: PATH, value: \"{}:/usr/bin:/bin\"}}]}}, {{name: bare, env: [{{name: PATH, \
         value: /nowhere}}]}}]}}\n",
        bin.display()
    );
    let file = place.join("pod.yaml");
    fs::write(&file, pod).unwrap();
    let dev = Server::dev(bowline(), &["-f", &file.to_string_lossy()]);
    let client = Client::new("bowline", bowline(), &dev.kubeconfig(), &["evil"]);
    (dev, client)
}

#[test]
fn an_enemys_tar_writes_nothing_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let (_dev, client) = evil_pod(place.path());
    let outside = place.path().join("outside");
    fs::create_dir_all(outside.join("inner")).unwrap();
    let absolute = outside.join("absolute").to_string_lossy().into_owned();
    let file = |name: &str| (entry(name, Kind::File, 1, ""), &b"x"[..]);
    let link = |name: &str, to: &str| (entry(name, Kind::Symlink, 0, to), &b""[..]);
    let hard = |name: &str, to: &str| (entry(name, Kind::HardLink, 0, to), &b""[..]);
    let lying = entry("./d/lying", Kind::File, 1 << 40, "");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("absolute", archive(&[file(&absolute)]), "is outside target destination, skipping"),
        ("up", archive(&[file("./d/../../up")]), "is outside target destination, skipping"),
        ("foreign", archive(&[file("./devil")]), "tar contents corrupted"),
        (
            "symlink up",
            archive(&[link("./d/l", "../.."), file("./d/l/up")]),
            "below a symbolic link",
        ),
        (
            "symlink inside, then up",
            archive(&[link("./d/s", "."), link("./d/m", "s/../../.."), file("./d/m/up")]),
            "below a symbolic link",
        ),
        ("hard link", archive(&[hard("./d/h", "/etc/passwd")]), "a hard link to what is not here"),
        ("device", archive(&[(entry("./d/dev", Kind::Device, 0, ""), b"")]), "it is a device"),
        ("twice", archive(&[file("./d/f"), file("./d/f")]), "the archive has it twice"),
        ("lying size", archive(&[(lying, b"x")]), "unexpected EOF"),
        ("no archive", vec![b'x'; 4096], "checksum is wrong"),
        ("nothing", Vec::new(), "unexpected EOF"),
        ("empty archive", archive(&[]), "nothing was copied"),
    ];
    for (number, (name, payload, words)) in cases.into_iter().enumerate() {
        fs::write(place.path().join("payload"), payload).unwrap();
        let target = outside.join("inner").join(format!("t{number}"));
        let words_of_copy = ["-c", "evil", "evil:/d", &target.to_string_lossy()];
        let left = client.copy(&words_of_copy);
        assert_eq!(left.status.code(), Some(1), "{name}: {left:?}");
        assert!(left.stderr.contains(words), "{name}: {left:?}");
        // Whatever came of it is below the target, and nothing is left beside.
        let names: Vec<_> =
            fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["inner"], "{name}");
        let hidden = fs::read_dir(outside.join("inner"))
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".bowline-cp"));
        assert!(!hidden, "{name}");
    }
}

#[test]
fn modes_of_an_enemy_are_no_privileges() {
    let place = tempfile::tempdir().unwrap();
    let (_dev, client) = evil_pod(place.path());
    let payload = archive(&[(entry("./d", Kind::File, 1, ""), b"x")]);
    fs::write(place.path().join("payload"), payload).unwrap();
    let target = place.path().join("t");
    client.copies(&["-c", "evil", "evil:/d", &target.to_string_lossy()]);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o777);
}

#[test]
fn a_container_without_tar_is_told_so() {
    let place = tempfile::tempdir().unwrap();
    let (_dev, client) = evil_pod(place.path());
    let target = place.path().join("t").to_string_lossy().into_owned();
    for words in [["-c", "bare", "evil:/d", &target], ["-c", "bare", "/etc/hostname", "evil:/x"]] {
        let left = client.copy(&words);
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        assert!(left.stderr.starts_with("error: there is no tar in the container"), "{left:?}");
        assert_eq!(left.stderr.lines().count(), 1, "{left:?}");
    }
}

#[test]
fn refusals_have_kubectls_words() {
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev);
    for (words, expected) in [
        (&["a"][..], "error: source and destination are required\n"),
        (&["a", "b"], "error: one of src or dest must be a remote file specification\n"),
        (&["nginx:", "b"], "error: filepath can not be empty\n"),
        (
            &[":a", "b"],
            "error: filespec must match the canonical format: [[namespace/]pod:]file/path\n",
        ),
        (&["/no/such", "nginx:/tmp/x"], "error: /no/such doesn't exist in local filesystem\n"),
        (&["x:/a", "b"], "Error from server (NotFound): pods \"x\" not found\n"),
    ] {
        let left = client.copy(words);
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        assert!(left.stderr.starts_with(expected), "{words:?}: {left:?}");
    }
    let left = client.copy(&["nginx:/no/such/file", "/tmp/never"]);
    assert_eq!(left.status.code(), Some(2), "{left:?}");
    assert!(left.stderr.contains("No such file"), "{left:?}");
    assert!(left.stderr.ends_with("command terminated with exit code 2\n"), "{left:?}");
}
