//! Copies out of a container whose tar is an enemy, and the words of those that fail.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bowline_archive::reader::{Entry, EntryKind};
use bowline_archive::writer::{self, Owner};
use bowline_interop::client::Client;
use bowline_interop::server::Server;

use super::{bowline, client};

fn entry(name: &str, kind: EntryKind, size: u64, link: &str) -> Entry {
    let (name, link) = (name.as_bytes().to_vec(), link.as_bytes().to_vec());
    Entry { name, kind, size, mode: 0o6777, mtime: 5, link }
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (entry, data) in entries {
        writer::entry(entry, Owner::default(), data, &mut bytes);
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
    let file = |name: &str| (entry(name, EntryKind::File, 1, ""), &b"x"[..]);
    let link = |name: &str, to: &str| (entry(name, EntryKind::Symlink, 0, to), &b""[..]);
    let hard = |name: &str, to: &str| (entry(name, EntryKind::HardLink, 0, to), &b""[..]);
    let lying = entry("./d/lying", EntryKind::File, 1 << 39, "");
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
        ("device", archive(&[(entry("./d/dev", EntryKind::Device, 0, ""), b"")]), "it is a device"),
        ("twice", archive(&[file("./d/f"), file("./d/f")]), "the archive has it twice"),
        ("lying size", archive(&[(lying, b"x")]), "unexpected EOF"),
        ("no archive", vec![b'x'; 4096], "checksum is wrong"),
        ("nothing", Vec::new(), "unexpected EOF"),
        ("empty archive", archive(&[]), "nothing was copied"),
        ("long name", archive(&[file(&format!("./d/{}", "n".repeat(256)))]), "is too long"),
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

/// Names of 32 KiB, as many as it likes: neither what was asked for nor memory gives way.
#[test]
fn long_names_of_an_enemy_take_no_memory() {
    let place = tempfile::tempdir().unwrap();
    let (_dev, client) = evil_pod(place.path());
    let mut entry_bytes = Vec::new();
    let name = format!("./d/{}", "n".repeat(32 * 1024));
    writer::header(&entry(&name, EntryKind::Symlink, 0, &name), Owner::default(), &mut entry_bytes);
    fs::write(place.path().join("payload"), entry_bytes).unwrap();
    let tar = place.path().join("bin/tar");
    let payload = place.path().join("payload").display().to_string();
    let many = vec![payload; 100].join(" ");
    let script =
        format!("#!/bin/sh\nn=0\nwhile [ $n -lt 30 ]; do\n/bin/cat {many}\nn=$((n+1))\ndone\n");
    fs::write(&tar, script).unwrap();
    let target = place.path().join("t").to_string_lossy().into_owned();
    let copy = |flag: &str| {
        let left = client.copy(&["-c", "evil", "evil:/d", &target, flag]);
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        assert!(!Path::new(&target).exists());
        left
    };
    let left = copy("--max-bytes=100000000");
    assert!(left.stderr.contains("more than 100000000 bytes"), "{left:?}");
    assert!(left.memory_mib < 64, "{} MiB", left.memory_mib);
    let left = copy("--max-entries=1000");
    assert!(left.stderr.contains("more than 1000 entries"), "{left:?}");
    let left = copy("--progress=none");
    assert!(left.stderr.contains("is too long"), "{left:?}");
    assert!(left.memory_mib < 64, "{} MiB", left.memory_mib);
}

/// More levels than there are descriptors, there and back, and over what is there.
#[test]
fn a_deep_tree_needs_few_descriptors() {
    let place = tempfile::tempdir().unwrap();
    let dev = Server::dev(bowline(), &[]);
    let source = place.path().join("source");
    fs::create_dir_all(source.join("d/".repeat(300))).unwrap();
    let leaf = "d/".repeat(300) + "leaf";
    let copy = |from: &Path, to: &str| {
        let script = "ulimit -n 64; exec \"$@\"";
        let mut client = std::process::Command::new("sh");
        client.args(["-c", script, "sh"]).arg(bowline());
        client.args(["cp", "--kubeconfig", &dev.kubeconfig()]);
        let there = format!("nginx:{}", place.path().join("there").display());
        match to {
            "" => client.arg(from).arg(&there),
            to => client.arg(format!("{there}/source")).arg(place.path().join(to)),
        };
        let output = client.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    fs::create_dir(place.path().join("there")).unwrap();
    for text in ["one", "two"] {
        fs::write(source.join(&leaf), text).unwrap();
        copy(&source, "");
        copy(&source, "back");
        assert_eq!(fs::read_to_string(place.path().join("back").join(&leaf)).unwrap(), text);
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
}

/// What is no regular file stays, and an open file is written where it is.
#[test]
fn standard_output_and_devices_are_written_to() {
    let place = tempfile::tempdir().unwrap();
    let dev = Server::dev(bowline(), &[]);
    let client = client(&dev);
    let source = place.path().join("source");
    fs::write(&source, "text\n").unwrap();
    let source = format!("nginx:{}", source.display());
    let left = client.copy(&[&source, "/dev/stdout"]);
    assert_eq!((left.status.code(), &left.stdout[..]), (Some(0), &b"text\n"[..]), "{left:?}");
    let left = client.copy(&[&source, "/dev/null"]);
    assert!(left.status.success() && left.stderr.is_empty(), "{left:?}");
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    // Behind what the shell has written.
    let file = place.path().join("file");
    let script = format!(
        "{{ echo first; {} cp --kubeconfig {} {source} /dev/stdout; }} >{}",
        bowline().display(),
        dev.kubeconfig(),
        file.display()
    );
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    assert_eq!(fs::read_to_string(file).unwrap(), "first\ntext\n");
}

#[test]
fn modes_of_an_enemy_are_no_privileges() {
    let place = tempfile::tempdir().unwrap();
    let (_dev, client) = evil_pod(place.path());
    let payload = archive(&[(entry("./d", EntryKind::File, 1, ""), b"x")]);
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
    assert_eq!(client.copy(&["a"]).stderr, "error: source and destination are required\n");
    for (words, expected) in [
        (&["x:/a", "b", "-n", "y"][..], "Error from server (NotFound): pods \"x\" not found\n"),
        (&["a", "b"], "error: one of src or dest must be a remote file specification\n"),
        (&["nginx:", "b"], "error: filepath can not be empty\n"),
        (
            &[":a", "b"],
            "error: filespec must match the canonical format: [[namespace/]pod:]file/path\n",
        ),
        (
            &["a", "./nginx:/tmp/x"],
            "error: one of src or dest must be a remote file specification\n",
        ),
        (&["a", "nginx:~/b"], "error: ~ means no home in a container: write the path, or ./~"),
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
