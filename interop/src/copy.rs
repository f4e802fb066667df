//! What a copy must show: trees with all that programs get wrong, and what became of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::client::{Client, Input, Left, left_within};
use crate::relay::{Cut, Relay};

/// A copy of a GiB in a debug build may take this long.
const PATIENCE: Duration = Duration::from_secs(300);

/// What there is, by names: kind, mode, time, size, sum.
pub type Manifest = BTreeMap<Vec<u8>, String>;

/// What a tree holds. Of links only where they lead to: few tars give them a time.
#[must_use]
pub fn manifest(root: &Path) -> Manifest {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            format!("dir {:o} {}", meta.mode(), meta.mtime())
        } else if meta.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else {
            format!("file {:o} {} {} {}", meta.mode(), meta.mtime(), meta.len(), sum(&path))
        };
        let name = path.strip_prefix(root).unwrap();
        found.insert(name.as_os_str().as_bytes().to_vec(), what);
    }
    found
}

fn sum(path: &Path) -> String {
    let mut hash = Sha256::new();
    let mut file = File::open(path).unwrap();
    let mut piece = vec![0; 128 * 1024];
    while let length @ 1.. = std::io::Read::read(&mut file, &mut piece).unwrap() {
        hash.update(&piece[..length]);
    }
    crate::client::hex(&hash.finalize())
}

/// The tree is what is expected; of the differences some are told.
pub fn same(root: &Path, expected: &Manifest) {
    let found = manifest(root);
    let names = found.keys().chain(expected.keys());
    let differences: Vec<String> = names
        .filter(|name| found.get(*name) != expected.get(*name))
        .map(|name| {
            let text = String::from_utf8_lossy(name);
            format!("{text:.50}: {:?}, not {:?}", found.get(name), expected.get(name))
        })
        .collect();
    assert!(differences.is_empty(), "{root:?}: {:#?}", &differences[..differences.len().min(9)]);
}

/// The same without modes and times, which kubectl does not keep.
#[must_use]
pub fn contents(root: &Path) -> Manifest {
    let without = |what: String| {
        let words: Vec<&str> = what.split(' ').collect();
        match words[..] {
            ["file", _, _, size, sum] => format!("{size} {sum}"),
            ["dir", ..] => "dir".to_owned(),
            _ => what,
        }
    };
    manifest(root).into_iter().map(|(name, what)| (name, without(what))).collect()
}

/// Names that programs get wrong.
#[must_use]
pub fn odd_names() -> Vec<Vec<u8>> {
    let names: [&[u8]; 18] = [
        b"-rf",
        b"--checkpoint-action=exec=x",
        b" blank ",
        b"new\nline",
        b"tab\t",
        b"co:lon",
        b"quote'\"",
        b"*",
        b"[a-z]?",
        b"back\\slash",
        b"$HOME`id`",
        b"u\xcc\x88",
        b"\xc3\xbc",
        b".hidden",
        b"..dots",
        b"~",
        b"#!x",
        b"trailing\\",
    ];
    names.into_iter().map(<[u8]>::to_vec).chain([vec![b'n'; 255]]).collect()
}

/// Makes a tree of odd names, odd modes and odd places, with one file of `big` bytes.
pub fn odd_tree(root: &Path, big: usize) {
    fs::create_dir_all(root.join("a/b/empty")).unwrap();
    fs::create_dir_all(root.join("deep/".repeat(30).trim_end_matches('/'))).unwrap();
    for (number, name) in odd_names().iter().enumerate() {
        let path = root.join("a").join(OsStr::from_bytes(name));
        fs::write(&path, vec![number as u8; number * 100]).unwrap();
    }
    for number in 0..100 {
        fs::write(root.join(format!("a/b/file {number}")), format!("{number}\n")).unwrap();
    }
    fs::write(root.join("empty"), "").unwrap();
    let big: Vec<u8> = (0..big).map(|number| (number.wrapping_mul(number) / 7) as u8).collect();
    fs::write(root.join("big"), &big).unwrap();
    fs::write(root.join("z last"), "end").unwrap();
    symlink("../big", root.join("a/link")).unwrap();
    fs::set_permissions(root.join("empty"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(root.join("a/b/empty"), PermissionsExt::from_mode(0o555)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["empty", "a/b/empty", "a/b", "a"] {
        let file = File::open(root.join(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
    }
}

/// Makes so many files of some bytes each, in directories of 1,000.
pub fn many_files(root: &Path, files: usize) {
    for number in 0..files {
        let dir = root.join(format!("d{}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write(dir.join(format!("f{number}")), number.to_string().repeat(20)).unwrap();
    }
}

/// Makes a file of so many bytes that do not repeat soon.
pub fn noise_file(path: &Path, bytes: u64) {
    use std::io::Write;
    let mut file = File::create(path).unwrap();
    crate::client::noise(bytes, |piece| file.write_all(piece)).unwrap();
}

impl Client {
    /// Runs a copy with these words behind `cp`.
    #[must_use]
    pub fn copy(&self, words: &[&str]) -> Left {
        self.copy_while(words, |_| ())
    }

    /// The same, and meanwhile something else; that gets the client's process.
    pub fn copy_while(&self, words: &[&str], meanwhile: impl FnOnce(&Child)) -> Left {
        let mut client = self.clone();
        client.words[0] = "cp".to_owned();
        let mut process = std::process::Command::new(&client.program);
        process.args(&client.words).args(words);
        process.envs(client.env.iter().map(|(name, value)| (name, value)));
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process.spawn().expect("the client starts");
        meanwhile(&child);
        left_within(PATIENCE, child, Input::Nothing, true)
            .unwrap_or_else(|| panic!("{}: cp {words:?} does not end", client.name))
    }

    /// A copy that must succeed.
    pub fn copies(&self, words: &[&str]) {
        let left = self.copy(words);
        assert!(left.status.success(), "{}: cp {words:?}: {left:?}", self.name);
    }
}

/// A place for a test, here and (below `/tmp`) in the pod.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
    /// `POD:PATH` of a directory of its own in the pod.
    remote: String,
}

impl Place {
    /// A new one, in this pod.
    #[must_use]
    pub fn new(client: &Client, pod: &str) -> Place {
        let dir = tempfile::Builder::new().prefix("copies-").tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_string_lossy().into_owned();
        let remote = format!("/tmp/{name}-there");
        let left = client.run(&[], &["mkdir", &remote], Input::Nothing);
        assert!(left.status.success(), "{left:?}");
        Place { dir, remote: format!("{pod}:{remote}") }
    }

    /// A path here.
    #[must_use]
    pub fn here(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.here(name).to_string_lossy().into_owned()
    }

    /// A path there, as a copy names it.
    #[must_use]
    pub fn there(&self, name: &str) -> String {
        format!("{}/{name}", self.remote)
    }

    /// The same without the pod.
    #[must_use]
    pub fn path_there(&self, name: &str) -> String {
        let (_, path) = self.remote.split_once(':').unwrap();
        format!("{path}/{name}")
    }
}

/// What is in a real pod goes with it. At `dev` a pod's files are those of this machine.
impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.path_there(""));
    }
}

/// One byte, 20 MB and a tree of 1,000 files, there and back; contents alone count.
pub fn there_and_back(client: &Client, pod: &str) {
    let place = Place::new(client, pod);
    fs::write(place.here("one"), "x").unwrap();
    noise_file(&place.here("large"), 20_000_000);
    many_files(&place.here("tree"), 1000);
    for name in ["one", "large", "tree"] {
        let back = format!("{name}-back");
        client.copies(&[&place.text(name), &place.there(name)]);
        client.copies(&[&place.there(name), &place.text(&back)]);
        let (source, target) = (contents(&place.here(name)), contents(&place.here(&back)));
        assert!(source == target, "{}: {name}", client.name);
    }
}

/// Everything, there and back, by a client that keeps all of it.
pub fn keeps_all(client: &Client, pod: &str) {
    let place = Place::new(client, pod);
    odd_tree(&place.here("tree"), 3_000_000);
    let expected = manifest(&place.here("tree"));
    for time in 0..2 {
        client.copies(&[&place.text("tree"), &place.there(""), "--verify"]);
        let back = format!("back-{time}");
        client.copies(&[&place.there("tree"), &place.text(&back), "--verify"]);
        same(&place.here(&back), &expected);
    }
    client.copies(&[&place.there("tree"), &place.there("between")]);
    client.copies(&[&place.there("between"), &place.text("back-3")]);
    same(&place.here("back-3"), &expected);
}

/// A file of `mib` MiB and `files` small ones in one copy, there and back.
pub fn keeps_much(client: &Client, pod: &str, mib: u64, files: usize) {
    let place = Place::new(client, pod);
    many_files(&place.here("tree"), files);
    noise_file(&place.here("tree/large"), mib << 20);
    let expected = manifest(&place.here("tree"));
    client.copies(&[&place.text("tree"), &place.there("tree")]);
    client.copies(&[&place.there("tree"), &place.text("back")]);
    same(&place.here("back"), &expected);
    let remove = ["rm", "-rf", &place.path_there("tree")];
    assert!(client.run(&[], &remove, Input::Nothing).status.success());
}

/// What comes through a relay before it cuts a connection, both ways together.
pub const CUT_EVERY: u64 = 5_000_000;
/// What goes through it each way.
const CUT_BYTES: u64 = 50_000_000;

/// 50 MB into a pod, from there to there and out of it, through a relay to the server at this
/// address that cuts each connection after 5 MB: by a client that gets these flags, may not begin
/// again, and says of each cut that it went on. Behind each copy `look` gets what it was, and how
/// many tars that takes.
pub fn over_cut_connections(
    direct: &Client,
    pod: &str,
    address: &str,
    flags: &[&str],
    mut look: impl FnMut(&str, usize),
) {
    let cut = Cut { after: CUT_EVERY, resets: false };
    let relay = Relay::start(address.to_owned(), move || Some(cut));
    let place = Place::new(direct, pod);
    let client = direct.at(&relay.address, address, &place.here("kubeconfig"));
    noise_file(&place.here("file"), CUT_BYTES);
    let copies = [
        (place.text("file"), place.there("there"), 1),
        (place.there("there"), place.there("between"), 2),
        (place.there("between"), place.text("back"), 1),
    ];
    for (source, target, tars) in copies {
        let before = relay.cuts();
        let words = [&[&*source, &*target, "--retries=0", "--verify"], flags].concat();
        let left = client.copy(&words);
        let name = format!("{}: {source} to {target}", client.name);
        assert!(left.status.success(), "{name}: {left:?}");
        let cuts = relay.cuts() - before;
        assert!(cuts >= CUT_BYTES / CUT_EVERY - 1, "{name}: {cuts} cuts");
        let count = |words| left.stderr.lines().filter(|line| line.starts_with(words)).count();
        let said = [count("The connection is lost: "), count("The session goes on after ")];
        assert!(said.iter().all(|said| *said as u64 >= cuts - 1), "{name}: {cuts}: {left:?}");
        assert_eq!(left.stderr.lines().count(), said[0] + said[1], "{name}: {left:?}");
        println!("{name}: {cuts} cuts");
        look(&name, tars);
    }
    assert!(contents(&place.here("file")) == contents(&place.here("back")), "{}", client.name);
    let remove = ["rm", "-rf", &place.path_there("")];
    assert!(direct.run(&[], &remove, Input::Nothing).status.success());
}
