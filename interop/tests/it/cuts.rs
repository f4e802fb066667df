//! Copies over connections that are cut, in both pods of a real cluster: what is called good is all
//! of it, what is not has no name, and each connection brings something to its end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use bowline_interop::client::{Client, Input};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::copy::{Place, noise_file};
use bowline_interop::relay::{Cut, Relay};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::parts::ours;

/// How many copies up and as many down, unless `BOWLINE_CUT_ROUNDS` says otherwise: 100 is a proof.
fn rounds() -> u64 {
    let rounds = std::env::var("BOWLINE_CUT_ROUNDS").ok();
    rounds.map_or(12, |text| text.parse().expect("BOWLINE_CUT_ROUNDS is a number"))
}

/// A client at a relay, with a kubeconfig in this place.
fn through(relay: &Relay, cluster: &Cluster, place: &Place, pod: &str) -> Client {
    let text = fs::read_to_string(cluster.admin()).unwrap();
    let name = format!("kubeconfig-{}", relay.address);
    fs::write(place.here(&name), text.replace(&cluster.address(), &relay.address)).unwrap();
    ours(&place.text(&name), &[pod])
}

/// What a tree or a file holds, by names: sums of files, targets of links.
type Sums = BTreeMap<String, String>;

fn sums_here(root: &Path) -> Sums {
    let mut sums = Sums::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let name = format!("./{}", path.strip_prefix(root).unwrap().display());
        let found = fs::symlink_metadata(&path).unwrap();
        if found.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if found.is_symlink() {
            sums.insert(name, fs::read_link(&path).unwrap().display().to_string());
        } else {
            let sum = Sha256::digest(fs::read(&path).unwrap());
            sums.insert(name, sum.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    sums
}

/// The same in a pod, by its own tools; `None` if nothing has the name.
fn sums_there(direct: &Client, path: &str) -> Option<Sums> {
    let script = "if [ ! -e \"$1\" ] && [ ! -h \"$1\" ]; then exit 7; fi
        if [ ! -d \"$1\" ]; then s=$(sha256sum <\"$1\") && echo \"./ ${s%% *}\"; exit; fi
        cd \"$1\" || exit
        find . -type f -exec sha256sum {} + | while read -r s n; do echo \"$n $s\"; done
        find . -type l | while read -r n; do echo \"$n $(readlink \"$n\")\"; done";
    let left = direct.run(&[], &["sh", "-c", script, "sh", path], Input::Nothing);
    if left.status.code() == Some(7) {
        return None;
    }
    assert!(left.status.success(), "{left:?}");
    let text = String::from_utf8(left.stdout).unwrap();
    let pairs = text.lines().map(|line| line.rsplit_once(' ').unwrap());
    Some(pairs.map(|(name, sum)| (name.to_owned(), sum.to_owned())).collect())
}

/// A tree of files of all sizes, so that cuts come within and between them.
fn mixed_tree(root: &Path, chance: &mut ChaCha8Rng) {
    for number in 0..30 {
        let dir = root.join(format!("d{}/e{}", number % 3, number % 2));
        fs::create_dir_all(&dir).unwrap();
        let bytes = (1_u64 << (chance.next_u32() % 19)) + u64::from(chance.next_u32() % 1000);
        noise_file(&dir.join(format!("f {number}")), bytes);
    }
    noise_file(&root.join("large"), 700_000);
    symlink("large", root.join("link")).unwrap();
}

struct Round<'a> {
    direct: &'a Client,
    place: &'a Place,
    chance: ChaCha8Rng,
    good: u64,
    bad: u64,
}

impl Round<'_> {
    /// Whether the copy was good; then all of it is there, and else nothing that was not.
    fn up(&mut self, client: &Client, source: &str, retries: &str, number: u64) {
        let name = format!("up-{number}");
        let (there, path) = (self.place.there(&name), self.place.path_there(&name));
        let is_file = self.place.here(source).is_file();
        let has_name = is_file && self.chance.next_u32().is_multiple_of(2);
        if has_name {
            let script = "echo old >\"$1\"";
            let left = self.direct.run(&[], &["sh", "-c", script, "sh", &path], Input::Nothing);
            assert!(left.status.success(), "{left:?}");
        }
        let before = sums_there(self.direct, &path);
        let left = client.copy(&[&self.place.text(source), &there, retries]);
        let after = sums_there(self.direct, &path);
        if left.status.success() {
            assert_eq!(after, Some(sums_here(&self.place.here(source))), "{number}: {left:?}");
        } else {
            assert_eq!(after, before, "{number}: {left:?}");
        }
        self.count(left.status.success());
        let _ = self.direct.run(&[], &["rm", "-rf", &path], Input::Nothing);
    }

    fn down(&mut self, client: &Client, source: &str, retries: &str, number: u64) {
        let target = self.place.here(&format!("down-{number}"));
        let is_file = self.place.here(source).is_file();
        if is_file && self.chance.next_u32().is_multiple_of(2) {
            fs::write(&target, "old").unwrap();
        }
        let sums = |target: &Path| target.symlink_metadata().is_ok().then(|| sums_here(target));
        let before = sums(&target);
        let there = self.place.there(source);
        let left = client.copy(&[&there, &target.to_string_lossy(), retries]);
        let after = sums(&target);
        if left.status.success() {
            assert_eq!(after, Some(sums_here(&self.place.here(source))), "{number}: {left:?}");
        } else {
            assert_eq!(after, before, "{number}: {left:?}");
        }
        self.count(left.status.success());
        let gone = fs::remove_dir_all(&target).or_else(|_| fs::remove_file(&target));
        assert!(gone.is_ok() || after.is_none());
    }

    fn count(&mut self, is_good: bool) {
        if is_good {
            self.good += 1;
        } else {
            self.bad += 1;
        }
    }
}

#[test]
fn cuts_at_random_places_never_leave_half_of_it() {
    let cluster = Cluster::shared();
    for (seed, pod) in (1..).zip(PODS) {
        let direct = ours(&cluster.admin(), &[pod]);
        let place = Place::new(&direct, pod);
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        mixed_tree(&place.here("tree"), &mut chance);
        noise_file(&place.here("file"), 2_500_000);
        for name in ["tree", "file"] {
            direct.copies(&[&place.text(name), &place.there(name)]);
        }
        // Two of three connections are cut, some at once and some late.
        let mut cuts = ChaCha8Rng::seed_from_u64(seed + 100);
        let relay = Relay::start(cluster.address(), move || {
            let (any, size) = (cuts.next_u64(), 12 + cuts.next_u32() % 10);
            let after = any % (1 << size);
            let resets = cuts.next_u32() % 2 == 0;
            (cuts.next_u32() % 3 != 0).then_some(Cut { after, resets })
        });
        let client = through(&relay, &cluster, &place, pod);
        let mut round = Round { direct: &direct, place: &place, chance, good: 0, bad: 0 };
        let begun = Instant::now();
        for number in 0..rounds().div_ceil(2) {
            let source = if number % 2 == 0 { "file" } else { "tree" };
            let retries = ["--retries=0", "--retries=4", "--retries=-1"][number as usize / 2 % 3];
            round.up(&client, source, retries, number);
            round.down(&client, source, retries, number);
        }
        println!(
            "{pod}: {} good, {} bad, {} cuts, {:.1} s",
            round.good,
            round.bad,
            relay.cuts(),
            begun.elapsed().as_secs_f64()
        );
        assert!(round.good > 0 && round.bad > 0 && relay.cuts() > 0);
        let remove = ["rm", "-rf", &place.path_there("")];
        assert!(direct.run(&[], &remove, Input::Nothing).status.success());
    }
}

/// What comes through before a connection is cut.
const CUT_EVERY: u64 = 2_000_000;

#[test]
fn each_connection_brings_something_to_its_end() {
    let cluster = Cluster::shared();
    for pod in PODS {
        let direct = ours(&cluster.admin(), &[pod]);
        let place = Place::new(&direct, pod);
        noise_file(&place.here("file"), 50_000_000);
        fs::create_dir(place.here("tree")).unwrap();
        for number in 0..10 {
            noise_file(&place.here(&format!("tree/{number}")), 1_000_000);
        }
        let mut resets = false;
        let relay = Relay::start(cluster.address(), move || {
            resets = !resets;
            Some(Cut { after: CUT_EVERY, resets })
        });
        let client = through(&relay, &cluster, &place, pod);
        for (name, bytes) in [("file", 50_000_000), ("tree", 10_000_000)] {
            let expected = sums_here(&place.here(name));
            let there = place.there(name);
            let ways = [(place.text(name), there.clone()), (there, place.text("back"))];
            for (source, target) in ways {
                let (before, cuts) = (relay.bytes(), relay.cuts());
                let begun = Instant::now();
                client.copies(&[&source, &target, "--retries=-1"]);
                let (passed, cuts) = (relay.bytes() - before, relay.cuts() - cuts);
                let seconds = begun.elapsed().as_secs_f64();
                println!("{source} to {target}: {passed} bytes, {cuts} cuts, {seconds:.1} s");
                assert!(passed < 2 * bytes, "{passed} bytes");
                assert!(name == "tree" || cuts >= 24, "{cuts} cuts");
            }
            assert_eq!(sums_there(&direct, &place.path_there(name)), Some(expected.clone()));
            assert_eq!(sums_here(&place.here("back")), expected);
            let back = place.here("back");
            fs::remove_dir_all(&back).or_else(|_| fs::remove_file(&back)).unwrap();
        }
        let remove = ["rm", "-rf", &place.path_there("")];
        assert!(direct.run(&[], &remove, Input::Nothing).status.success());
    }
}
