//! What stands before servers in the world, each program in its configurations: those of
//! `deploy/proxies`, which people copy, and the ones that people have already.

mod rows;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Pid;

pub use rows::{HAPROXY, REPLICAS, ROWS, Row, Suite};

use crate::cluster::only_child;
use crate::parts::{part, root};
use crate::server::until;

/// The slowest of them compiles its configuration by a C compiler.
const READY: Duration = Duration::from_secs(60);
const ATTEMPTS: usize = 5;

/// Certificates for all, and whom to believe: names of files in PEM.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Whom to believe.
    pub authority: PathBuf,
    /// What a server for `localhost` and 127.0.0.1 shows.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A running proxy. Dropped, it is killed with all that it has started.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients come to it, with TLS.
    pub address: String,
    place: tempfile::TempDir,
    programs: Vec<Child>,
}

impl Proxy {
    /// Starts it in front of the server at `port`, and waits until that answers through it.
    #[must_use]
    pub fn start(row: &Row, port: u16, trust: &Trust) -> Proxy {
        Proxy::start_before(row, &[port], trust)
    }

    /// The same in front of as many servers as its configuration has.
    #[must_use]
    pub fn start_before(row: &Row, servers: &[u16], trust: &Trust) -> Proxy {
        let started = (0..ATTEMPTS).find_map(|_| Proxy::tried(row, servers, trust));
        started.unwrap_or_else(|| panic!("{} does not start", row.name()))
    }

    /// `None` if it has ended: somebody has got one of its ports meanwhile.
    fn tried(row: &Row, servers: &[u16], trust: &Trust) -> Option<Proxy> {
        let place = tempfile::tempdir().expect("there is room for temporary files");
        let [front, middle, back] = free_ports();
        let servers = servers.iter().zip(6443..).map(|(ours, shipped)| (shipped, *ours));
        let around = [(8443, front), (8080, middle), (8081, back)];
        let ports: Vec<_> = servers.chain(around).collect();
        configure(row, &ports, trust, place.path());
        let mut proxy = Proxy { address: format!("127.0.0.1:{front}"), place, programs: vec![] };
        for words in row.commands {
            proxy.run(row.suite, words, middle);
        }
        for file in row.around {
            let file = format!("/etc/bowline/{file}");
            proxy.run(Suite::Bookworm, &["haproxy", "-db", "-f", &file], middle);
        }
        let mut has_ended = false;
        until(&format!("{} answers", row.name()), READY, || {
            has_ended = proxy.programs.iter_mut().any(|one| !matches!(one.try_wait(), Ok(None)));
            has_ended || proxy.answers(trust)
        });
        if has_ended {
            println!("{} has ended: {}", row.name(), proxy.log());
        }
        (!has_ended).then_some(proxy)
    }

    fn run(&mut self, suite: Suite, words: &[&str], middle: u16) {
        let log = self.place.path().join(format!("log-{}", self.programs.len()));
        let log = fs::File::create(log).expect("a log can be written");
        let mut command = Command::new(part("proxies/run"));
        command.arg(suite.folder());
        command.arg(self.place.path().join("etc")).arg(self.place.path().join("run"));
        command.args(words.iter().map(|word| word.replace("8080", &middle.to_string())));
        command.env("TS_RUNROOT", "/etc/bowline/runroot.yaml").stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        self.programs.push(command.spawn().expect("a proxy starts"));
    }

    /// Whether what is behind it has answered anything.
    fn answers(&self, trust: &Trust) -> bool {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "2", "--noproxy", "*", "--cacert"]);
        curl.arg(&trust.authority).arg(format!("https://{}/readyz", self.address));
        let output = curl.output().expect("curl starts");
        output.status.success()
    }

    /// The process of its first program, which is in a root of its own.
    #[must_use]
    pub fn id(&self) -> Option<Pid> {
        only_child(only_child(Pid::from_child(self.programs.first()?))?)
    }

    /// What its programs have said.
    #[must_use]
    pub fn log(&self) -> String {
        let names = (0..self.programs.len()).map(|index| format!("log-{index}"));
        let texts = names.map(|name| fs::read(self.place.path().join(name)).unwrap_or_default());
        texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// Writes its files, with the ports of this run in place of those that are in them.
fn configure(row: &Row, ports: &[(u16, u16)], trust: &Trust, place: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let (etc, run) = (place.join("etc"), place.join("run"));
    fs::create_dir(&etc).expect("a directory can be made");
    fs::create_dir(&run).expect("a directory can be made");
    // Some of them give up root.
    for path in [place, &etc, &run] {
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(path, mode).expect("it is ours");
    }
    let shipped = root().join("deploy/proxies");
    let (mut changed, mut made) = (0, Vec::new());
    for name in row.files.iter().chain(row.around) {
        let path = shipped.join(name);
        let mut text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        for (from, to) in row.changes {
            changed += usize::from(text.contains(from));
            text = text.replace(from, to);
        }
        // By way of marks: a port of this run may look like one that is shipped.
        for (index, (shipped, _)) in ports.iter().enumerate() {
            text = text.replace(&shipped.to_string(), &format!("<port {index}>"));
        }
        for (index, (_, ours)) in ports.iter().enumerate() {
            text = text.replace(&format!("<port {index}>"), &ours.to_string());
        }
        made.push((path.file_name().expect("it has a name").to_owned(), text));
    }
    assert_eq!(changed, row.changes.len(), "{}: a change finds no place", row.name());
    let read = |path: &Path| fs::read_to_string(path).expect("a certificate is there");
    let (certificate, key) = (read(&trust.certificate), read(&trust.key));
    made.push(("both.pem".into(), format!("{certificate}{key}")));
    made.push(("tls.crt".into(), certificate));
    made.push(("tls.key".into(), key));
    made.push(("ca.crt".into(), read(&trust.authority)));
    for (name, text) in made {
        fs::write(etc.join(name), text).expect("a file can be written");
    }
}

/// Ports of this moment: none of these programs lets the system choose one and says which.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("it has an address").port())
}

/// The version of a package, as its suite has it: what is behind the second point is mended faults.
#[must_use]
pub fn version(row: &Row) -> String {
    let list = part(&format!("proxies/{}.versions", row.suite.list(row.package)));
    let text = fs::read_to_string(list).expect("a list of versions can be read");
    let prefix = format!("{}_", row.package);
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    let version = line.unwrap_or_else(|| panic!("{} has no version", row.package));
    let version = version.rsplit("%3a").next().unwrap_or_default();
    let version = version.split(['-', '+', '_', '~']).next().unwrap_or_default();
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}
