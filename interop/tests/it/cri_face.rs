//! The socket in front of a runtime's, beside the runtime itself: calls that no library makes, and
//! a runtime that ends.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bowline_interop::client::{Input, left_within};
use bowline_interop::cluster::{Cluster, RUNTIME_ALONE};
use bowline_interop::grpc::{Answer, Connection, RUNTIME, field, flag};
use bowline_interop::server::until;
use rustix::process::{Pid, Signal};

use crate::cri::face;

/// How long what is made anew may take.
pub const SOON: Duration = Duration::from_secs(10);
/// Codes of gRPC's.
const UNIMPLEMENTED: &str = "12";
pub const RESOURCE_EXHAUSTED: &str = "8";

/// containerd alone, with our face in front of it.
pub fn alone() -> Cluster {
    Cluster::behind(&face(""), &[RUNTIME_ALONE])
}

/// The runtime's own socket, and the one in front of it.
pub fn both(cluster: &Cluster) -> [String; 2] {
    [cluster.containerd(), cluster.env("RUNTIME_ENDPOINT").to_owned()]
}

/// A pod's sandbox and its one container.
pub struct Pod {
    pub sandbox: String,
    pub container: String,
}

impl Pod {
    /// Runs one, by crictl at the runtime itself.
    pub fn run(cluster: &Cluster, name: &str, command: &[&str]) -> Pod {
        let words = command.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let place = cluster.text("");
        let file = |kind: &str, text: String| {
            let path = format!("{place}{name}-{kind}.json");
            fs::write(&path, text).unwrap();
            path
        };
        let sandbox = file(
            "sandbox",
            format!(
                "{{\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"default\",\
                 \"uid\":\"{name}\"}},\"log_directory\":\"{place}machine\",\"linux\":{{}}}}"
            ),
        );
        let container = file(
            "container",
            format!(
                "{{\"metadata\":{{\"name\":\"{name}\"}},\
                 \"image\":{{\"image\":\"localhost/box:1\"}},\"command\":[{words}],\
                 \"stdin\":true,\"log_path\":\"{name}.log\",\"linux\":{{}}}}"
            ),
        );
        let ours = cluster.containerd();
        let id = said(cluster.crictl(&ours).args(["runp", &sandbox]));
        let made = said(cluster.crictl(&ours).args(["create", &id, &container, &sandbox]));
        said(cluster.crictl(&ours).args(["start", &made]));
        Pod { sandbox: id, container: made }
    }

    /// Asks for a command in it that says nothing.
    pub fn exec(&self) -> Vec<u8> {
        [field(1, self.container.as_bytes()), field(2, b"true"), flag(5)].concat()
    }

    pub fn attach(&self) -> Vec<u8> {
        [field(1, self.container.as_bytes()), flag(4)].concat()
    }

    pub fn forward(&self) -> Vec<u8> {
        field(1, self.sandbox.as_bytes())
    }
}

/// What a program says that has to succeed.
pub fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn method(name: &str) -> String {
    [RUNTIME, name].concat()
}

/// A call at the runtime and through the face, each on a connection that knows no other call.
fn alike(cluster: &Cluster, method: &str, message: &[u8]) -> Answer {
    let [straight, through] = both(cluster)
        .map(|endpoint| Connection::open(&endpoint, "localhost").call(method, message));
    assert_eq!(straight, through, "{method}: {:?}, {:?}", straight.status(), through.status());
    straight
}

#[test]
fn calls_are_answered_frame_for_frame_as_by_the_runtime() {
    let cluster = alone();
    let version = method("Version");
    let known = alike(&cluster, &version, &field(1, b"v1"));
    assert_eq!(known.status().unwrap().0, "0");
    for endpoint in both(&cluster) {
        let path = endpoint.trim_start_matches("unix://");
        let names = [path.to_owned(), path.replace('/', "%2F"), "x:1".to_owned(), String::new()];
        for name in names {
            let answer = Connection::open(&endpoint, &name).call(&version, &field(1, b"v1"));
            assert_eq!(answer, known, "{endpoint}: {name:?}: {:?}", answer.status());
        }
    }
    // A field of a later version, and what is no message at all.
    let more = [field(1, b"v1"), field(15, b"nobody knows this")].concat();
    assert_eq!(alike(&cluster, &version, &more), known);
    let broken = alike(&cluster, &version, &[0xff; 7]);
    assert_ne!(broken.status().unwrap().0, "0");
    for unknown in [&*method("Unheard"), "/nobody.v9.Knows/This", "/", "//", "/x"] {
        let answer = alike(&cluster, unknown, b"");
        println!("{unknown}: {:?}", answer.status());
        assert_eq!(answer.status().unwrap().0, UNIMPLEMENTED, "{unknown}");
    }
}

#[test]
fn a_message_that_is_too_large_is_the_runtimes_to_refuse() {
    let cluster = alone();
    let large = vec![0; 60 << 20];
    let [straight, through] = both(&cluster).map(|endpoint| {
        let begun = Instant::now();
        let mut connection = Connection::open(&endpoint, "localhost");
        let answer = connection.call(&method("Version"), &large);
        println!("{endpoint}: {:?}, {:.1} s", answer.status(), begun.elapsed().as_secs_f64());
        // The connection goes on.
        let next = connection.call(&method("Version"), &field(1, b"v1"));
        assert_eq!(next.status().unwrap().0, "0");
        // One that is just small enough goes through.
        let fits = connection.call(&method("Version"), &field(15, &vec![0; 15 << 20]));
        assert_eq!(fits.status().unwrap().0, "0");
        answer.status().unwrap()
    });
    assert_eq!(straight, through);
    assert_eq!(straight.0, RESOURCE_EXHAUSTED);
}

/// Makes a runtime take and send messages that are larger than by default.
const LARGE_MESSAGES: (&str, &str) =
    ("CONTAINERD_GRPC", "  max_recv_message_size = 67108864\n  max_send_message_size = 67108864");

#[test]
fn messages_of_60_mib_pass_in_both_directions_where_the_runtime_takes_them() {
    let cluster = Cluster::behind(&face(""), &[RUNTIME_ALONE, LARGE_MESSAGES]);
    let [straight, through] = both(&cluster);
    let names = [field(1, b"large"), field(2, b"large"), field(3, b"default")].concat();
    let annotation = [field(1, b"large"), field(2, &vec![b'x'; 60 << 20])].concat();
    let logs = field(3, cluster.text("machine").as_bytes());
    let config = [field(1, &names), logs, field(7, &annotation), field(8, b"")].concat();
    let begun = Instant::now();
    let mut connection = Connection::open(&through, "localhost");
    let made = connection.call(&method("RunPodSandbox"), &field(1, &config));
    println!("in: {:?}, {:.1} s", made.status(), begun.elapsed().as_secs_f64());
    // The sandbox's id is as a URL is: the first field of the answer.
    let asks = field(1, made.url().as_bytes());
    let [expected, answer] = [&straight, &through].map(|endpoint| {
        let begun = Instant::now();
        let mut connection = Connection::open(endpoint, "localhost");
        let answer = connection.call(&method("PodSandboxStatus"), &asks);
        println!("{endpoint}: {:?}, {:.1} s", answer.status(), begun.elapsed().as_secs_f64());
        answer
    });
    assert_eq!(answer.status(), expected.status());
    let (message, expected) = (answer.message(), expected.message());
    assert!(message.len() > 60 << 20, "{}", message.len());
    assert!(message == expected, "{} bytes, {} expected", message.len(), expected.len());
}

#[test]
fn a_thousand_cancelled_calls_leave_nothing_behind() {
    let cluster = alone();
    let pod = Pod::run(&cluster, "cancelled", &["sleep", "2147483647"]);
    let [_, face] = both(&cluster);
    let before = descriptors(cluster.id("face"));
    let exec = pod.exec();
    let calls =
        [("ListContainers", &b""[..]), ("GetContainerEvents", &b""[..]), ("Exec", &exec[..])];
    let mut connection = Connection::open(&face, "localhost");
    for number in 0..1000 {
        let (name, message) = calls[number % calls.len()];
        let id = connection.begin(&method(name));
        connection.message(id, message);
        connection.cancel(id);
    }
    connection.ping();
    assert!(!connection.is_over, "the runtime ends the connection");
    let listed = connection.call(&method("ListContainers"), b"");
    let list = String::from_utf8_lossy(&listed.message()).into_owned();
    assert!(list.contains(&pod.container), "{:?}", listed.status());
    // The face still knows which answer is whose.
    let url = connection.call(&method("Exec"), &exec).url();
    assert!(url.starts_with(&streams(&cluster)), "{url}");
    drop(connection);
    until("the face's descriptors are those of before", SOON, || {
        descriptors(cluster.id("face")) <= before
    });
    println!("{before} descriptors");
}

fn descriptors(id: Pid) -> usize {
    fs::read_dir(format!("/proc/{}/fd", id.as_raw_nonzero())).map_or(0, Iterator::count)
}

/// What the URLs of the face's begin with, as it says itself.
pub fn streams(cluster: &Cluster) -> String {
    let log = fs::read_to_string(cluster.path("log/face.log")).unwrap();
    let rest = log.split("streams on ").nth(1).expect("the face says where its streams are");
    rest.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_runtime_that_is_restarted_is_unavailable_to_what_is_open_and_to_nothing_later() {
    let cluster = alone();
    let pod = Pod::run(&cluster, "stays", &["sleep", "2147483647"]);
    let [_, face] = both(&cluster);
    let before = descriptors(cluster.id("face"));
    let mut connection = Connection::open(&face, "localhost");
    let events = connection.begin(&method("GetContainerEvents"));
    connection.message(events, b"");
    connection.ping();
    let mut crictl = cluster.crictl(&face);
    crictl.arg("events").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let crictl = crictl.spawn().unwrap();
    // It listens once a second client is there.
    until("crictl is connected", SOON, || descriptors(cluster.id("face")) >= before + 4);
    cluster.signal("containerd", Signal::KILL);
    let begun = Instant::now();
    connection.ends();
    let answer = connection.answer(events);
    assert_eq!(answer.status(), None, "nobody has said how it ended: {answer:?}");
    println!("ended after {:.2} s", begun.elapsed().as_secs_f64());
    // Nobody is there: that is no other word than the runtime's own absence.
    let mut nobody = UnixStream::connect(face.trim_start_matches("unix://")).unwrap();
    nobody.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(nobody.read(&mut [0]).unwrap(), 0, "nothing but an end");
    cluster.restart("containerd");
    let mut again = Connection::open(&face, "localhost");
    let version = again.call(&method("Version"), &field(1, b"v1"));
    assert_eq!(version.status().unwrap().0, "0");
    let url = again.call(&method("Exec"), &pod.exec()).url();
    assert!(url.starts_with(&streams(&cluster)), "{url}");
    let words = ["exec", &pod.container, "echo", "again"];
    assert_eq!(said(cluster.crictl(&face).args(words)), "again");
    let left = left_within(SOON, crictl, Input::Nothing, true).unwrap();
    assert!(left.stderr.contains("code = Unavailable"), "{left:?}");
}
