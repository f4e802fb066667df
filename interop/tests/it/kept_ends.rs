//! Ends of kept sessions in a real cluster, and containers in which none can be kept: each in the
//! way that docs/sessions.md says, and never a success.

use std::fs;
use std::process::Child;

use bowline_interop::client::{Client, Input, Left, PATIENCE, left};
use bowline_interop::cluster::{Cluster, only_child};
use bowline_interop::server::{Server, until};
use rustix::process::{Pid, Signal, kill_process};

use crate::cri::in_the_kubelets_place;
use crate::ends::pod;
use crate::kept_job::Keeper;
use crate::parts::{bowline, ours};
use crate::wire::{Break, Wire};

/// What a client ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The command's own code.
    Code(i32),
    /// Code 255, with these words.
    Lost(&'static str),
    /// Code 1, with these words, and nothing was begun.
    Refused(&'static str),
}

impl End {
    /// Sees that this is it.
    fn is_of(self, what: &str, left: &Left) {
        println!("{what}: {:?}: {}", left.status.code(), left.stderr.trim());
        let (code, words) = match self {
            End::Code(code) => (code, ""),
            End::Lost(words) => (255, words),
            End::Refused(words) => (1, words),
        };
        assert_eq!(left.status.code(), Some(code), "{what}: {left:?}");
        assert!(left.stderr.contains(words), "{what}: {left:?}");
    }
}

/// A pod in which something is special: of its security, of its mounts, of its main command, and
/// what the program in it and a node of ours end with.
struct Special {
    name: &'static str,
    security: &'static str,
    mounts: &'static str,
    main: &'static str,
    ends: [End; 2],
}

const READ_ONLY: &str = "{readOnlyRootFilesystem: true, runAsUser: 1000}";
/// How long sessions are kept: for as long as a part may take to come again, or not to.
const LONG: &str = "--keep-for=180s";
const SHORT: &str = "--keep-for=6s";
const SLEEP: &str = "sleep 2147483647";
/// What is done in each.
const COMMAND: [&str; 3] = ["sh", "-c", "echo hi; exit 7"];
const NO_PLACE: End =
    End::Refused("there is no place in the container where a program can be put and run");

/// It has room for the program, and for little else.
const FILLED: Special = Special {
    name: "kept-filled",
    security: READ_ONLY,
    mounts: "[{name: small, mountPath: /tmp}]",
    main: SLEEP,
    ends: [End::Code(7); 2],
};
const SPECIALS: [Special; 5] = [
    FILLED,
    Special {
        name: "kept-roomy",
        security: READ_ONLY,
        mounts: "[{name: volume, mountPath: /volume}]",
        main: SLEEP,
        ends: [End::Code(7), End::Code(7)],
    },
    Special {
        name: "kept-read-only",
        security: READ_ONLY,
        mounts: "[]",
        main: SLEEP,
        ends: [NO_PLACE, End::Code(7)],
    },
    Special {
        name: "kept-full",
        security: READ_ONLY,
        mounts: "[{name: little, mountPath: /tmp}]",
        main: SLEEP,
        ends: [NO_PLACE, End::Code(7)],
    },
    Special {
        name: "kept-noexec",
        security: "{readOnlyRootFilesystem: true, privileged: true}",
        mounts: "[{name: volume, mountPath: /tmp}]",
        main: "mount -o remount,noexec /dev; mount -t tmpfs -o noexec none /tmp; sleep 2147483647",
        ends: [NO_PLACE, End::Code(7)],
    },
];

impl Special {
    fn manifest(&self) -> String {
        let Special { name, security, mounts, main, .. } = self;
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
             nodeName: localhost\n  automountServiceAccountToken: false\n  \
             terminationGracePeriodSeconds: 0\n  volumes:\n  - {{name: volume, emptyDir: {{}}}}\n  \
             - {{name: little, emptyDir: {{medium: Memory, sizeLimit: 100Ki}}}}\n  \
             - {{name: small, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}\n  containers:\n  - \
             name: box\n    image: localhost/box:1\n    imagePullPolicy: Never\n    command: [sh, \
             -c, \"{main}\"]\n    securityContext: {security}\n    volumeMounts: {mounts}\n"
        )
    }
}

/// Without a shell, and with nothing of busybox that could be one.
const SCRATCH: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: kept-scratch, namespace: default}
spec:
  nodeName: localhost
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  volumes: [{name: bin, emptyDir: {}}]
  initContainers:
  - name: fill
    image: localhost/box:1
    imagePullPolicy: Never
    command: [sh, -c, "cp /bin/busybox /to/sleep; cp /bin/busybox /to/echo"]
    volumeMounts: [{name: bin, mountPath: /to}]
  containers:
  - name: box
    image: localhost/box:1
    imagePullPolicy: Never
    command: [/bin/sleep, "2147483647"]
    volumeMounts: [{name: bin, mountPath: /bin}]
"#;

/// What is between the API server and the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A kubelet and containerd: a program in the container keeps sessions.
    Kubelet,
    /// A kubelet and, before containerd, our socket.
    Face,
    /// Our node in the kubelet's place. It serves, and looks after no pods.
    Node,
}

impl Way {
    /// How long a process sleeps that is no other test's.
    fn own_sleep_s(self) -> String {
        format!("{}{}", 21 + self as u32, std::process::id())
    }
}

/// One cluster, and who keeps sessions in it.
struct Place<'a> {
    cluster: &'a Cluster,
    way: Way,
    keeper: Keeper,
    node: Option<Server>,
    state: tempfile::TempDir,
}

impl Place<'_> {
    /// With all of the pods in it.
    fn of(cluster: &Cluster, way: Way) -> Place<'_> {
        let main = |name| if name == KILLED { way.own_sleep_s() } else { "60000".to_owned() };
        let doomed = |name| pod(name, "box", &format!("[sleep, \"{}\"]", main(name)));
        let special = SPECIALS.iter().map(|special| (special.name, special.manifest()));
        let (names, manifests): (Vec<&str>, Vec<String>) = special
            .chain([("kept-scratch", SCRATCH.to_owned())])
            .chain(DOOMED.map(|name| (name, doomed(name))))
            .unzip();
        cluster.run_pods(&manifests.join("---\n"), &names);
        let keeper = if way == Way::Kubelet { Keeper::Program } else { Keeper::Node };
        let node = (way == Way::Node).then(|| in_the_kubelets_place(cluster, &[]));
        Place { cluster, way, keeper, node, state: tempfile::tempdir().unwrap() }
    }

    fn client(&self, kubeconfig: &str, pod: &str) -> Client {
        let mut client = ours(kubeconfig, &[pod]).named(pod);
        client.env.push(("XDG_STATE_HOME".into(), self.state.path().to_str().unwrap().into()));
        client
    }

    fn one_of<T: Copy>(&self, [program, node]: [T; 2]) -> T {
        if self.keeper == Keeper::Program { program } else { node }
    }

    /// What a kubelet does with a pod that is to go. Where there is none, the runtime is asked.
    fn stops(&self, pod: &str) {
        if self.way != Way::Node {
            return;
        }
        let crictl = || self.cluster.crictl(&self.cluster.containerd());
        let output = crictl().args(["pods", "--quiet", "--name", pod]).output().unwrap();
        let id = String::from_utf8(output.stdout).unwrap();
        assert!(crictl().args(["stopp", id.trim()]).status().unwrap().success(), "{pod}: {id:?}");
    }

    /// Our node, or our socket, is killed and comes again.
    fn node_begins_anew(&mut self) {
        let Some(mut node) = self.node.take() else {
            self.cluster.kill("face");
            return self.cluster.restart("face");
        };
        kill_process(only_child(node.id()).unwrap(), Signal::KILL).unwrap();
        node.kill();
        let node = self.cluster.beside_the_kubelet(&bowline(), &[]);
        self.cluster.has_as_kubelet(&node);
        self.node = Some(node);
    }

    /// A command from its beginning to its end.
    fn whole(&self, client: &Client, command: &[&str], end: End) {
        let keeping = self.keeper.client(client);
        let left = keeping.run(&["-i", "--keep", LONG], command, Input::Nothing);
        end.is_of(&client.name, &left);
        let expected: &[u8] = if let End::Code(_) = end { b"hi\n" } else { b"" };
        assert_eq!(left.stdout, expected, "{}: {left:?}", client.name);
    }

    /// One that runs until it is given a line. Its client gives up after a long time.
    fn begun(&self, pod: &str) -> Begun {
        let client = self.client(&self.cluster.admin(), pod);
        self.begun_by(&client, LONG, "")
    }

    /// The same, after a first command, by a client that gives up after `keep_for`.
    fn begun_by(&self, client: &Client, keep_for: &str, first: &str) -> Begun {
        // What has just been started again takes a moment to find each other.
        until(&format!("{}: it runs commands", client.name), PATIENCE, || {
            client.run(&[], &["true"], Input::Nothing).status.success()
        });
        let script = format!("{first}\necho up; read -r word && exit 7; exec sleep 600000");
        let keeping = self.keeper.client(client);
        let (child, line) = keeping.begin(&["-i", "--keep", keep_for], &script);
        assert_eq!(line, "up", "{}", client.name);
        Begun { child, keeper: self.keeper }
    }
}

/// A session under way.
struct Begun {
    child: Child,
    keeper: Keeper,
}

impl Begun {
    /// What it ends with, by a program or a node, if it is given this.
    fn ends(self, what: &str, input: &[u8], ends: [End; 2]) {
        let left = left(self.child, Input::Bytes(input), true).unwrap();
        let [program, node] = ends;
        let end = if self.keeper == Keeper::Program { program } else { node };
        end.is_of(&format!("{what}, {:?}", self.keeper), &left);
    }
}

/// Containers in which there may be no room for a program, and users who may not.
fn refusals(place: &Place<'_>) {
    for special in &SPECIALS {
        let client = place.client(&place.cluster.admin(), special.name);
        place.whole(&client, &COMMAND, place.one_of(special.ends));
    }
    let scratch = place.client(&place.cluster.admin(), "kept-scratch");
    let ends = [End::Refused("the container has no shell"), End::Code(0)];
    place.whole(&scratch, &["/bin/echo", "hi"], place.one_of(ends));
    let viewer = place.client(&place.cluster.text("viewer.kubeconfig"), "box");
    place.whole(&viewer, &COMMAND, End::Refused("pods \"box\" is forbidden"));
}

/// The process of a container that sleeps for so long.
fn sleeper(seconds: &str) -> Option<Pid> {
    let words = format!("sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut ids = processes.filter_map(|entry| {
        let cmdline = fs::read(entry.path().join("cmdline")).ok()?;
        let id = entry.file_name().to_str()?.parse().ok()?;
        (cmdline == words.as_bytes()).then_some(id)
    });
    ids.next().and_then(Pid::from_raw)
}

/// Pods to which something happens: their main process is killed, they are deleted, evicted, or out
/// of time, as those are that their kubelet evicts.
const KILLED: &str = "kept-killed";
const DELETED: &str = "kept-deleted";
const EVICTED: &str = "kept-evicted";
const LATE: &str = "kept-late";
const DOOMED: [&str; 4] = [KILLED, DELETED, EVICTED, LATE];

/// What happens to a container and its pod.
fn losses(place: &Place<'_>) {
    let cluster = place.cluster;
    let begun = place.begun(KILLED);
    kill_process(sleeper(&place.way.own_sleep_s()).unwrap(), Signal::KILL).unwrap();
    begun.ends("container killed", b"", [End::Lost("no such session"), End::Code(137)]);

    let begun = place.begun(DELETED);
    cluster.kubectl(&["delete", "pod", DELETED, "--wait=false"]);
    place.stops(DELETED);
    begun.ends("pod deleted", b"", [End::Lost("not found"), End::Code(137)]);

    let begun = place.begun(EVICTED);
    cluster.evict(EVICTED);
    place.stops(EVICTED);
    begun.ends("pod evicted", b"", [End::Lost("not found"), End::Code(137)]);

    let begun = place.begun(LATE);
    cluster.kubectl(&["patch", "pod", LATE, "-p", "{\"spec\":{\"activeDeadlineSeconds\":1}}"]);
    place.stops(LATE);
    let completed = End::Lost("its pod has completed: Failed, DeadlineExceeded");
    begun.ends("pod out of time", b"", [completed, End::Code(137)]);
}

/// What happens to a container's disk, and to its runtime.
fn shortages(place: &Place<'_>) {
    let cluster = place.cluster;
    let wire = Wire::to(&cluster.address());
    let server = format!("--server=https://{}", wire.address);
    let client = place.client(&cluster.admin(), FILLED.name).with(&server);
    let begun = place.begun_by(&client, LONG, "head -c 2000000 /dev/zero >/tmp/fill 2>/dev/null");
    wire.breaks(Break::Reset);
    begun.ends("disk full", b"go on\n", FILLED.ends);

    let begun = place.begun("gnu");
    cluster.kill("containerd");
    cluster.restart("containerd");
    begun.ends("containerd killed", b"go on\n", [End::Code(7); 2]);
}

/// Kills the program that holds sessions, as somebody in the container may.
const KILL_HOLDER: &str = "for p in /proc/[0-9]*; do
    case $(tr '\\0' ' ' <$p/cmdline) in bowline-hold*serve*) kill -9 ${p#/proc/} ;; esac
done";

/// What happens to whoever keeps sessions.
fn keepers(place: &mut Place<'_>) {
    let cluster = place.cluster;
    let begun = place.begun("gnu");
    if place.keeper == Keeper::Program {
        let client = place.client(&cluster.admin(), "gnu");
        let left = client.run(&[], &["sh", "-c", KILL_HOLDER], Input::Nothing);
        assert!(left.status.success(), "{left:?}");
    } else {
        place.node_begins_anew();
    }
    let ends = [End::Lost("no such session"), End::Lost("lost with its node")];
    begun.ends("keeper killed", b"", ends);

    let client = place.client(&cluster.admin(), "gnu");
    let begun = place.begun_by(&client, SHORT, "");
    cluster.kill("kube-apiserver");
    begun.ends("API server killed for good", b"", [End::Lost("no connection could be made"); 2]);
    cluster.restart("kube-apiserver");

    // The last, since there is no runtime after that.
    let begun = place.begun_by(&client, SHORT, "");
    cluster.kill("containerd");
    let ends = [
        End::Lost("no connection could be made for 6 s: unable to upgrade"),
        End::Lost("containerd at "),
    ];
    begun.ends("containerd killed for good", b"", ends);
}

/// All of it, in a cluster of its own.
pub fn check(cluster: &Cluster, way: Way) {
    let mut place = Place::of(cluster, way);
    refusals(&place);
    losses(&place);
    shortages(&place);
    keepers(&mut place);
}
