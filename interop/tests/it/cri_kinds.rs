//! Attaches and port-forwards over each carrier, while what is before or behind them ends. Commands
//! are in `cri_ends.rs`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::attach::{Attached, Pods, two_at};
use bowline_interop::client::Client;
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::forward::Forward;
use bowline_interop::forward::app::{App, Place, drain};
use bowline_interop::server::{Server, until};

use crate::ends::both_carriers;
use crate::legs::{FORWARD_SPDY, Legs, SPDY};
use crate::parts::ours;

/// How long an end may take to be known.
pub const SOON: Duration = Duration::from_secs(5);
/// How long that of a tunnel may take that a kubelet keeps open behind the end of its other side,
/// until something is written to it: our client asks once it has heard nothing for 5 s.
const ASKED: Duration = Duration::from_secs(6);
pub const TALKER: &str = "talker";

/// Who connects to the ports of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Our node, in the pod's network.
    Node,
    /// containerd, whose stream is relayed.
    Runtime,
}

/// Runs the pod to attach to, while there is a kubelet.
pub fn run_talker(cluster: &Cluster) {
    let pods = Pods { node: Some("localhost"), tools: PODS[0], ..Pods::default() };
    cluster.run_pods(&pods.manifests()[0], &[TALKER]);
}

/// Where these sessions run: in a pod's network there is a server, and another pod talks.
pub struct Kinds<'a> {
    cluster: &'a Cluster,
    legs: Legs<'a>,
    app: App,
    /// What a client's attaches and forwards come as, first those of a newer one.
    ways: [[&'static str; 2]; 2],
}

/// Sessions of one client's that are under way.
pub struct Running {
    name: String,
    attached: [Attached; 2],
    forward: Forward,
    socket: TcpStream,
}

impl<'a> Kinds<'a> {
    /// Starts the server in a cluster where the talker runs. `newer` is what clients of WebSocket
    /// come as there; those of SPDY come as they are.
    pub fn start(
        cluster: &'a Cluster,
        node: Option<&'a Server>,
        newer: [&'static str; 2],
    ) -> Kinds<'a> {
        let app = App::start_at(&Place::inside(&cluster.network_of(PODS[0])));
        let ways = [newer, [SPDY, FORWARD_SPDY]];
        Kinds { cluster, legs: Legs::of(cluster, node), app, ways }
    }

    /// Begins some over each carrier.
    pub fn begin(&self) -> Vec<Running> {
        let clients = both_carriers(&ours(&self.cluster.admin(), &[PODS[0]]));
        let ways = clients.iter().zip(self.ways);
        ways.map(|(client, way)| self.begin_one(client, way)).collect()
    }

    fn begin_one(&self, client: &Client, [attach, forward]: [&str; 2]) -> Running {
        let name = client.name.clone();
        let attached = self.legs.begin_as(2, attach, &name, || two_at(&client.attaching(TALKER)));
        let (forward, socket) = self.legs.begin_as(1, forward, &name, || {
            let forward = Forward::start(&client.forwarding(), &[self.app.port]);
            let socket = echoing(&forward);
            (forward, socket)
        });
        Running { name, attached: attached.into(), forward, socket }
    }

    /// What clients that are killed leave behind: no session, and no connection to a port. What
    /// they were attached to goes on.
    pub fn are_gone_with_their_clients(&self) {
        for Running { name, attached, forward, socket } in self.begin() {
            let before = self.legs.ended();
            let begun = Instant::now();
            // This kills them.
            drop(attached);
            until(&format!("{name}: its attaches are over"), SOON, || {
                self.legs.ended() >= before + 2
            });
            is_soon(&format!("{name}: the attaches are over"), begun);
            let (begun, open) = (Instant::now(), self.app.open());
            // Its end is that of the forward alone.
            let local = socket.try_clone().unwrap();
            drop(forward);
            until(&format!("{name}: its connection is gone"), SOON, || self.app.open() < open);
            is_soon(&format!("{name}: the connection is gone"), begun);
            drop((local, socket));
        }
        drop(two_at(&ours(&self.cluster.admin(), &[PODS[0]]).attaching(TALKER)));
    }
}

/// The runtime was killed at `begun`. That is a loss to attaches, and to forwards that go
/// through it.
pub fn are_lost(running: Vec<Running>, ports: Ports, begun: Instant) {
    // All at once: each has its own time.
    thread::scope(|scope| {
        for Running { name, attached, forward, mut socket } in running {
            for attached in attached {
                let name = name.clone();
                scope.spawn(move || {
                    assert_eq!(attached.ends().code(), Some(255), "{name}: an attach");
                    is_soon(&format!("{name}: an attach is lost"), begun);
                });
            }
            scope.spawn(move || match ports {
                Ports::Node => {
                    echoes(&mut socket, &name);
                    drop(echoing(&forward));
                }
                Ports::Runtime => {
                    let read = drain(&mut socket);
                    is_within(ASKED, &format!("{name}: a forward is lost"), begun);
                    assert!(!read.whole, "{name}: it looks like a good end");
                    forward.says("lost connection to pod");
                    println!("{name}: {}", forward.stderr().trim());
                }
            });
        }
    });
}

fn is_soon(what: &str, begun: Instant) {
    is_within(SOON, what, begun);
}

fn is_within(most: Duration, what: &str, begun: Instant) {
    let elapsed = begun.elapsed();
    println!("{what}: {:.2} s", elapsed.as_secs_f64());
    assert!(elapsed < most, "{what}: {elapsed:?}");
}

/// A connection that is known to go all the way.
fn echoing(forward: &Forward) -> TcpStream {
    let mut socket = forward.ask(0, "echo");
    echoes(&mut socket, &forward.stderr());
    socket
}

fn echoes(socket: &mut TcpStream, who: &str) {
    let mut read = [0; 5];
    socket.write_all(b"here\n").unwrap();
    let came = socket.read_exact(&mut read);
    assert!(came.is_ok() && read == *b"here\n", "{who}: {came:?}");
}
