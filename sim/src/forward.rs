//! Seeds to port-forwards: client, gateway and node as they ship, with users and pods as models.
//!
//! What is promised: each connection's bytes arrive once and in order; where an end looks good, all
//! of them did; one that is not read holds up no other; and after the end nothing is held.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_client::PortForward;
use bowline_io::drive::join;
use bowline_io::local_sockets::{Failure, Local};
use bowline_io::stream::Upgraded;
use bowline_node::forward as node;
use bowline_node::runtime::Ports;
use bowline_proto::limits::FORWARD_CONNECTIONS;
use bowline_proto::portforward::{Forward, OverSpdy};
use bowline_proto::session::{Channel, Side};
use bowline_proto::splice::Splice;
use bowline_proto::tunnel;
use bowline_proto::websocket::Role as End;
use bytes::BytesMut;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex, split,
};
use tokio::runtime::{Builder, Handle};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::journal::{Journal, byte};
use crate::net::{self, Blow};
use crate::promises::{Broken, Promise};
use crate::scenario::{Hop, Wire};
use crate::world::Verdict;

/// Between a pod's program and the node, in each direction.
const SOCKET_BYTES: usize = 64 * 1024;
/// Whatever a forward waits for, it does not wait that long beyond its users.
const PATIENCE: Duration = Duration::from_secs(400);
/// A user who does not read for so long is in nobody's way.
const AWAY: Duration = Duration::from_secs(2_000);
/// What nobody holds up is over by then, on the slowest of networks here.
const UNHINDERED: Duration = Duration::from_secs(1_000);

/// One forward with all that is around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What randomness grows from while it runs.
    pub seed: u64,
    /// The client speaks through a tunnel.
    pub tunnel: bool,
    /// The node is spoken to through one as well, past a gateway that reads nothing.
    pub whole_tunnel: bool,
    /// Client to gateway, gateway to node.
    pub wires: [Wire; 2],
    /// The connections.
    pub connections: Vec<Connection>,
    /// What goes wrong, and when.
    pub faults: Vec<(Duration, Fault)>,
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// When its user comes.
    pub starts: Duration,
    /// Nobody listens at the port.
    pub refused: bool,
    /// From the user to the pod.
    pub up: Flow,
    /// From the pod to the user.
    pub down: Flow,
}

/// One direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// How much its writer says.
    pub bytes: u64,
    /// And then: ends this direction, or breaks the connection (pods only).
    pub breaks: bool,
    /// When its reader stops to read, and for how long.
    pub pause: Option<(u64, Duration)>,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// To a connection.
    Blow(Hop, Blow),
    /// The user's program is interrupted.
    EndClient,
    /// The gateway is asked to end.
    EndGateway,
    /// The node is asked to end.
    EndNode,
}

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  tunnel          {} {}", self.tunnel, self.whole_tunnel)?;
        writeln!(f, "  client-gateway  {:?}", self.wires[0])?;
        writeln!(f, "  gateway-node    {:?}", self.wires[1])?;
        for (index, connection) in self.connections.iter().enumerate() {
            writeln!(f, "  connection {index}    {connection:?}")?;
        }
        write!(f, "  faults          {:?}", self.faults)
    }
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Scenario {
        let mut random = ChaCha8Rng::seed_from_u64(!seed);
        let random = &mut random;
        let count = [1, 2, 3, 5, 12][random.random_range(0..5)];
        let most: u64 = [200, 20_000, 3_000_000][random.random_range(0..3)];
        let most = if count > 5 { most.min(400_000) } else { most };
        let connections = (0..count).map(|_| connection(random, most)).collect();
        let faults = match random.random_range(0..100) {
            0..50 => Vec::new(),
            _ => vec![fault(random)],
        };
        let tunnel = random.random_range(0..100) < 60;
        Scenario {
            seed,
            tunnel,
            whole_tunnel: tunnel && random.random(),
            wires: [wire(random, most), wire(random, most)],
            connections,
            faults,
        }
    }

    /// Whether nothing goes wrong beside what the pods do.
    #[must_use]
    pub fn is_peaceful(&self) -> bool {
        self.faults.is_empty()
    }
}

fn connection(random: &mut ChaCha8Rng, most: u64) -> Connection {
    let mut flow = |breaks: u32, pauses: u32| {
        let bytes = random.random_range(0..=most);
        let breaks = random.random_range(0..100) < breaks;
        let paused = random.random_range(0..100) < pauses;
        let pause = match random.random_range(0..2) {
            0 => Duration::from_millis(random.random_range(0..20_000)),
            _ => AWAY,
        };
        let at = random.random_range(0..=bytes);
        Flow { bytes, breaks, pause: paused.then_some((at, pause)) }
    };
    let (up, down) = (flow(0, 12), flow(10, 12));
    Connection {
        starts: Duration::from_millis(random.random_range(0..3_000)),
        refused: random.random_range(0..100) < 10,
        up,
        down,
    }
}

fn wire(random: &mut ChaCha8Rng, most: u64) -> Wire {
    let small = most <= 200;
    let pieces: &[usize] = if small { &[1, 7, 100, 65_536] } else { &[1500, 65_536, 1 << 20] };
    let buffers: &[usize] = if small { &[64, 2048, 65_536] } else { &[65_536, 1 << 20] };
    let micros: u64 = [0, 50, 1000, 20_000][random.random_range(0..4)];
    Wire {
        piece_bytes: pieces[random.random_range(0..pieces.len())],
        buffer_bytes: buffers[random.random_range(0..buffers.len())],
        delay: Duration::from_micros(micros),
        jitter: Duration::from_micros(random.random_range(0..=micros)),
        pauses_percent: [0, 0, 10, 50][random.random_range(0..4)],
        reset_destroys: false,
    }
}

fn fault(random: &mut ChaCha8Rng) -> (Duration, Fault) {
    let hop = if random.random() { Hop::Near } else { Hop::Far };
    let long = Duration::from_millis(random.random_range(1..60_000));
    let what = match random.random_range(0..100) {
        0..25 => Fault::Blow(hop, Blow::Reset),
        25..45 => Fault::Blow(hop, Blow::Close),
        45..60 => Fault::Blow(hop, Blow::Silence),
        60..75 => Fault::Blow(hop, Blow::Stall(long)),
        75..85 => Fault::EndClient,
        85..92 => Fault::EndGateway,
        _ => Fault::EndNode,
    };
    (Duration::from_millis(random.random_range(0..6_000)), what)
}

/// What one direction's two ends have done.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    sent: u64,
    finished: bool,
    got: u64,
    /// The reader's end: in good order or not.
    end: Option<bool>,
    at: Duration,
}

/// Both directions of every connection: up, down.
#[derive(Clone)]
struct Ledger {
    journal: Journal,
    began: Instant,
    lanes: Arc<Mutex<Vec<[Seen; 2]>>>,
}

impl Ledger {
    fn change(&self, index: usize, way: usize, change: impl FnOnce(&mut Seen)) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut lanes[index][way]);
    }

    fn seen(&self, index: usize) -> [Seen; 2] {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)[index]
    }

    /// Says what is there to say, in a direction.
    async fn write(
        &self,
        index: usize,
        way: usize,
        flow: Flow,
        to: &mut (impl AsyncWrite + Unpin),
    ) {
        let mut piece = vec![0; 16 * 1024];
        let mut at = 0;
        while at < flow.bytes {
            let length = piece.len().min(usize::try_from(flow.bytes - at).unwrap_or(usize::MAX));
            for (place, one) in (at..).zip(&mut piece[..length]) {
                *one = pattern(index, way, place);
            }
            match to.write(&piece[..length]).await {
                Ok(written) => {
                    at += written as u64;
                    self.change(index, way, |seen| seen.sent = at);
                }
                Err(_) => return,
            }
        }
        if flow.breaks {
            return;
        }
        self.change(index, way, |seen| seen.finished = true);
        let _ = to.shutdown().await;
    }

    /// Reads to the end, whichever it is.
    async fn read(
        &self,
        index: usize,
        way: usize,
        mut pause: Option<(u64, Duration)>,
        from: &mut (impl AsyncRead + Unpin),
    ) {
        let mut piece = vec![0; 16 * 1024];
        let mut at: u64 = 0;
        let good = loop {
            if let Some((_, long)) = pause.take_if(|pause| at >= pause.0) {
                sleep(long).await;
            }
            match from.read(&mut piece).await {
                Ok(0) => break true,
                Err(_) => break false,
                Ok(read) => {
                    let wrong = (at..)
                        .zip(&piece[..read])
                        .find(|&(place, &seen)| seen != pattern(index, way, place));
                    if let Some((place, _)) = wrong {
                        let how = format!("byte {place} of connection {index}, way {way}");
                        self.journal.open().broke(Promise::OnceAndInOrder, how);
                    }
                    at += read as u64;
                    self.change(index, way, |seen| seen.got = at);
                }
            }
        };
        let elapsed = self.began.elapsed();
        self.change(index, way, |seen| (seen.end, seen.at) = (Some(good), elapsed));
        let mut records = self.journal.open();
        records.note(format_args!("connection {index}, way {way}: {at} bytes, whole: {good}"));
        drop(records);
        let seen = self.seen(index)[way];
        if good && !(seen.finished && seen.sent == at) {
            let how = format!("connection {index}, way {way}: a good end after {at}: {seen:?}");
            self.journal.open().broke(Promise::TrueOutcome, how);
        }
    }
}

fn pattern(index: usize, way: usize, place: u64) -> u8 {
    let channel = if way == 0 { Channel::Stdin } else { Channel::Stdout };
    byte(channel, place + ((index as u64) << 32))
}

/// A pod whose programs are models.
#[derive(Clone)]
struct Pod {
    scenario: Arc<Scenario>,
    ledger: Ledger,
    programs: Arc<Mutex<JoinSet<()>>>,
}

impl Display for Pod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("pod")
    }
}

impl Ports for Pod {
    type Stream = Socket;

    async fn dial(self, port: u16) -> Result<Socket, String> {
        let index = usize::from(port) - 1;
        let Connection { refused, up, down, .. } = self.scenario.connections[index];
        if refused {
            return Err("connection refused".into());
        }
        let (node, program) = duplex(SOCKET_BYTES);
        let broken = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let (ledger, flags) = (self.ledger.clone(), broken.clone());
        let run = async move {
            let program = Socket { pipe: program, broken: flags.clone(), side: 1 };
            let (mut reader, mut writer) = split(program);
            let read = ledger.read(index, 0, up.pause, &mut reader);
            if down.breaks {
                // What it said may still be under way; nothing that comes is read on.
                tokio::select! {
                    () = async {
                        ledger.write(index, 1, down, &mut writer).await;
                        flags[1].store(true, Ordering::Relaxed);
                    } => {}
                    () = async { read.await; std::future::pending::<()>().await } => {}
                }
            } else {
                tokio::join!(read, ledger.write(index, 1, down, &mut writer));
            }
        };
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).spawn(run);
        Ok(Socket { pipe: node, broken, side: 0 })
    }
}

/// A socket between the node (side 0) and a program (side 1), each of which can break it.
struct Socket {
    pipe: DuplexStream,
    broken: Arc<[AtomicBool; 2]>,
    side: usize,
}

impl Local for Socket {
    fn abort(self, _why: Failure) {
        self.broken[self.side].store(true, Ordering::Relaxed);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buffer))?;
        let ended = buffer.filled().len() == before && buffer.remaining() > 0;
        if ended && self.broken[1 - self.side].load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// Plays a scenario; keeps its lines if `keeps_lines`.
#[must_use]
pub fn run(scenario: &Scenario, keeps_lines: bool) -> Verdict {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let broken = Broken { promise: Promise::Repeatable, how: format!("{error}") };
            return Verdict {
                broken: Some(broken),
                steps: 0,
                fingerprint: 0,
                lines: Vec::new(),
                end: String::new(),
            };
        }
    };
    runtime.block_on(async {
        let journal = Journal::new(keeps_lines);
        let end = play(scenario, &journal).await;
        let mut records = journal.open();
        Verdict {
            broken: records.broken.clone(),
            steps: records.steps,
            fingerprint: records.fingerprint(),
            lines: records.take_lines(),
            end,
        }
    })
}

async fn play(scenario: &Scenario, journal: &Journal) -> String {
    let count = scenario.connections.len();
    let ledger = Ledger {
        journal: journal.clone(),
        began: Instant::now(),
        lanes: Arc::new(Mutex::new(vec![[Seen::default(); 2]; count])),
    };
    let [near, far] = &scenario.wires;
    let (client_end, near_end, near_cable) = net::connect(Hop::Near, near, scenario.seed, journal);
    let (far_end, node_end, far_cable) = net::connect(Hop::Far, far, !scenario.seed, journal);
    let upgraded = |stream| Upgraded { stream, early: BytesMut::new() };
    let wire = |tunnel: bool, role| {
        if tunnel { tunnel::Wire::tunnel(role, [7; 32]) } else { tunnel::Wire::plain() }
    };
    let ends = [CancellationToken::new(), CancellationToken::new()];
    let in_gateway = wire(scenario.tunnel && !scenario.whole_tunnel, End::Server);
    let gateway = tokio::spawn(join(
        upgraded(near_end),
        upgraded(far_end),
        Splice::new(in_gateway),
        ends[0].clone(),
        "shuts down",
    ));
    let pod = Pod {
        scenario: Arc::new(scenario.clone()),
        ledger: ledger.clone(),
        programs: Arc::new(Mutex::new(JoinSet::new())),
    };
    let programs = pod.programs.clone();
    let at_node = OverSpdy::new(Side::Server, wire(scenario.whole_tunnel, End::Server));
    let node = node::run(
        pod,
        Forward::Spdy(at_node),
        upgraded(node_end),
        FORWARD_CONNECTIONS,
        ends[1].clone(),
    );
    let node = tokio::spawn(async {
        node.await;
    });
    let forward = PortForward::over(upgraded(client_end), wire(scenario.tunnel, End::Client));
    let forward = Arc::new(forward);
    let interrupted = CancellationToken::new();
    let faults =
        spawn_faults(scenario, journal, [near_cable, far_cable], ends, interrupted.clone());
    let mut users = JoinSet::new();
    for index in 0..count {
        users.spawn(user(scenario.connections[index], index, forward.clone(), ledger.clone()));
    }
    let all = async {
        tokio::select! {
            () = async { while users.join_next().await.is_some() {} } => {}
            () = interrupted.cancelled() => {}
        }
    };
    // A user may be away for as long as each pause.
    let longest = AWAY * (2 * u32::try_from(count).unwrap_or(1)) + PATIENCE + UNHINDERED * 2;
    if timeout(longest, all).await.is_err() {
        journal.open().broke(Promise::FoundInTime, format!("users still wait after {longest:?}"));
    }
    users.shutdown().await;
    if scenario.is_peaceful() {
        // What users have said is on its way, and is not to be cut off.
        let longest = AWAY * (2 * u32::try_from(count).unwrap_or(1)) + PATIENCE;
        let quiet = async {
            while !programs.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                sleep(Duration::from_millis(50)).await;
                while programs
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .try_join_next()
                    .is_some()
                {}
            }
        };
        if timeout(longest, quiet).await.is_err() {
            journal.open().broke(Promise::Delivered, "pods still wait for their users".into());
        }
    }
    let end = match Arc::into_inner(forward) {
        Some(forward) => {
            forward.close().await;
            "closed"
        }
        None => "held",
    };
    for fault in faults {
        fault.abort();
        let _ = fault.await;
    }
    leave(journal, programs, [erase(gateway), node]).await;
    if scenario.is_peaceful() {
        delivered(scenario, journal, &ledger);
    }
    end.to_owned()
}

fn erase<T: Send + 'static>(task: JoinHandle<T>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let _ = task.await;
    })
}

fn spawn_faults(
    scenario: &Scenario,
    journal: &Journal,
    cables: [net::Cable; 2],
    ends: [CancellationToken; 2],
    interrupted: CancellationToken,
) -> Vec<JoinHandle<()>> {
    let strike = |&(after, fault): &(Duration, Fault)| {
        let (journal, cables, ends) = (journal.clone(), cables.clone(), ends.clone());
        let interrupted = interrupted.clone();
        tokio::spawn(async move {
            sleep(after).await;
            journal.open().fault(format_args!("{fault:?}"));
            match fault {
                Fault::Blow(Hop::Near, blow) => cables[0].strike(blow),
                Fault::Blow(Hop::Far, blow) => cables[1].strike(blow),
                Fault::EndClient => interrupted.cancel(),
                Fault::EndGateway => ends[0].cancel(),
                Fault::EndNode => ends[1].cancel(),
            }
        })
    };
    scenario.faults.iter().map(strike).collect()
}

async fn user(connection: Connection, index: usize, forward: Arc<PortForward>, ledger: Ledger) {
    sleep(connection.starts).await;
    let port = u16::try_from(index + 1).unwrap_or(u16::MAX);
    let Ok(stream) = forward.connect(port).await else { return };
    drop(forward);
    let (mut reader, mut writer) = split(stream);
    tokio::join!(
        ledger.write(index, 0, connection.up, &mut writer),
        ledger.read(index, 1, connection.down.pause, &mut reader),
    );
}

/// All roles end, and nothing is left of them.
async fn leave(journal: &Journal, programs: Arc<Mutex<JoinSet<()>>>, roles: [JoinHandle<()>; 2]) {
    let mut programs =
        std::mem::take(&mut *programs.lock().unwrap_or_else(PoisonError::into_inner));
    let all = async {
        for role in roles {
            let _ = role.await;
        }
        while programs.join_next().await.is_some() {}
    };
    let longest = AWAY + PATIENCE;
    if timeout(longest, all).await.is_err() {
        journal
            .open()
            .broke(Promise::FoundInTime, format!("a role or a program after {longest:?}"));
    }
    // What has lost its forward still gives its users what came before, and closes in order.
    for _ in 0..600 {
        if Handle::current().metrics().num_alive_tasks() == 0 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut records = journal.open();
    if tasks > 0 {
        records.broke(Promise::NothingHeld, format!("{tasks} tasks are left"));
    }
    if records.open_ends > 0 {
        let how = format!("{} ends of connections are left", records.open_ends);
        records.broke(Promise::NothingHeld, how);
    }
}

/// Where nothing went wrong, each connection has what its ends said, and none waited for another.
fn delivered(scenario: &Scenario, journal: &Journal, ledger: &Ledger) {
    for (index, connection) in scenario.connections.iter().enumerate() {
        let seen = ledger.seen(index);
        let Connection { refused, up, down, .. } = connection;
        if *refused {
            if seen[1].end != Some(false) {
                let how = format!("connection {index} was refused: {seen:?}");
                journal.open().broke(Promise::TrueOutcome, how);
            }
            continue;
        }
        if down.breaks {
            if seen[1].end == Some(true) {
                let how = format!("connection {index} was broken: {seen:?}");
                journal.open().broke(Promise::TrueOutcome, how);
            }
            continue;
        }
        for (way, flow) in [(0, up), (1, down)] {
            if seen[way].end != Some(true) || seen[way].got != flow.bytes {
                let how = format!("connection {index}, way {way}: {:?}", seen[way]);
                journal.open().broke(Promise::Delivered, how);
            }
        }
        let paused = up.pause.is_some() || down.pause.is_some();
        let last = seen[0].at.max(seen[1].at);
        if !paused && last > UNHINDERED {
            let how = format!("connection {index} was held up by others until {last:?}");
            journal.open().broke(Promise::LanesApart, how);
        }
    }
}
