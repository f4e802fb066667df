//! A scenario to a verdict: everybody is put in place, played to the end, and looked at.

use std::sync::Arc;
use std::time::Duration;

use bowline_client::{Ended, Ends, Outcome};
use bowline_io::drive::join;
use bowline_io::stream::Upgraded;
use bowline_node::session as node;
use bowline_proto::limits;
use bowline_proto::relay::Relay;
use bowline_proto::session::{Channel, Session, Side, Size};
use bytes::BytesMut;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::journal::{Journal, Records};
use crate::memory;
use crate::net::{self, Blow, Cable, End};
use crate::process::Scripted;
use crate::promises::{Broken, Promise};
use crate::scenario::{Act, Hop, Role, Runtime, Scenario, What, When, Wire};
use crate::stranger;
use crate::user::{Eyes, Typist};

/// Whatever a session waits for, it does not wait that long.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// From the first thing that goes wrong to the end of every role, besides what its users do: the
/// kernel's patience with a silent host or a grace for clients that have closed, and goodbyes.
const FOUND_WITHIN: Duration = Duration::from_secs(80);
/// What is nobody's pause: well below every timer that would hide a lost wake-up.
const SLACK: Duration = Duration::from_millis(900);

/// What became of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The first promise that was broken, if one was.
    pub broken: Option<Broken>,
    /// How many steps it took.
    pub steps: u64,
    /// All steps in one number.
    pub fingerprint: u64,
    /// The steps, if they were asked for.
    pub lines: Vec<String>,
    /// How the client's session ended, for people.
    pub end: String,
}

/// Plays a scenario; keeps its lines if `keeps_lines`.
#[must_use]
pub fn run(scenario: &Scenario, keeps_lines: bool) -> Verdict {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let how = format!("no runtime: {error}");
            let broken = Some(Broken { promise: Promise::Repeatable, how });
            return Verdict { broken, steps: 0, fingerprint: 0, lines: vec![], end: String::new() };
        }
    };
    let (journal, held) = memory::peak_of(|| {
        runtime.block_on(async {
            let journal = Journal::new(keeps_lines);
            play(scenario, &journal).await;
            journal
        })
    });
    // Its clock is the journal's.
    let _inside = runtime.enter();
    let mut records = journal.open();
    check_memory(scenario, &mut records, held);
    Verdict {
        broken: records.broken.clone(),
        steps: records.steps,
        fingerprint: records.fingerprint(),
        lines: records.take_lines(),
        end: format!("{:?}", records.client),
    }
}

/// Checks what was held in memory at most: what each of the three may hold, whatever the
/// connections and the process's pipe keep for them, and the trace.
fn check_memory(scenario: &Scenario, records: &mut Records, held: usize) {
    const MODELS_BYTES: usize = 4 * 1024 * 1024;
    let wires: usize = scenario.wires.iter().map(|wire| 2 * wire.buffer_bytes).sum();
    let models = 2 * (wires + 3 * scenario.script.pipe_bytes) + MODELS_BYTES;
    let most = 3 * limits::SESSION_HELD_BYTES + models + 2 * records.lines_bytes();
    if held > most {
        let how = format!("{held} bytes were held in memory, at most {most} may be");
        records.broke(Promise::Bounded, how);
    }
}

/// The most that may be under way in one direction: what each of the three keeps at most, with the
/// read that it has just made, the connections, and the process's pipe.
fn most_bytes(scenario: &Scenario) -> u64 {
    let loops = limits::OUTBOX_BYTES + 2 * limits::READ_BYTES;
    let wires: usize = scenario.wires.iter().map(|wire| wire.buffer_bytes).sum();
    let node = limits::STDIN_BYTES + limits::READ_BYTES;
    (3 * loops + wires + node + scenario.script.pipe_bytes) as u64
}

/// Checks what is under way against what may be.
pub(crate) fn check_bounds(records: &mut Records) {
    let takes_input = records.stdin_open;
    let input = if takes_input { records.stdin_given - records.stdin_taken } else { 0 };
    let output = [0, 1].map(|lane| {
        let written = records.written[lane] + records.written_late[lane];
        written.saturating_sub(records.received[lane])
    });
    let most = records.most_bytes;
    if let Some(held) = [input, output[0], output[1]].into_iter().find(|&held| held > most) {
        records.broke(Promise::Bounded, format!("{held} bytes are under way, at most {most}"));
    }
}

async fn play(scenario: &Scenario, journal: &Journal) {
    {
        let mut records = journal.open();
        // What is on its way to somebody who has gone is dropped, and not held.
        if scenario.is_peaceful() && !scenario.runtime.is_stranger() {
            records.most_bytes = most_bytes(scenario);
        }
        records.sizes_given.extend(scenario.sizes.first().map(|&(_, size)| size));
    }
    let [near, far] = &scenario.wires;
    let (client_end, near_end, near_cable) = net::connect(Hop::Near, near, scenario.seed, journal);
    let (far_end, node_end, far_cable) = net::connect(Hop::Far, far, !scenario.seed, journal);
    let ends = [CancellationToken::new(), CancellationToken::new()];
    let gateway = spawn_gateway(scenario, near_end, far_end, ends[0].clone(), journal);
    let node = spawn_node(scenario, node_end, ends[1].clone(), journal);
    let (sizes, mut others) = spawn_sizes(scenario, journal);
    let client = spawn_client(scenario, client_end, sizes, journal);
    let hands = Hands {
        cables: [near_cable, far_cable],
        ends,
        roles: [client.abort_handle(), gateway.abort_handle(), node.abort_handle()],
        journal: journal.clone(),
    };
    for fault in &scenario.faults {
        others.push(hands.clone().wait(fault.when, fault.what));
    }
    finish(scenario, journal, client, [gateway, node]).await;
    drop(hands);
    for other in others {
        other.abort();
        let _ = other.await;
    }
    look_around(journal).await;
}

fn upgraded(end: End) -> Upgraded<End> {
    Upgraded { stream: end, early: BytesMut::new() }
}

fn spawn_gateway(
    scenario: &Scenario,
    near: End,
    far: End,
    end: CancellationToken,
    journal: &Journal,
) -> JoinHandle<()> {
    let session = |side, protocol| Session::new(side, protocol, scenario.wants, mask(scenario));
    let relay =
        Relay::new(session(Side::Server, scenario.front), session(Side::Client, scenario.back));
    let (scenario, journal) = (scenario.clone(), journal.clone());
    tokio::spawn(async move {
        let (ending, _) = join(upgraded(near), upgraded(far), relay, end, "shuts down").await;
        let mut records = journal.open();
        records.note(format_args!("gateway: {ending:?}"));
        if let Some(bowline_proto::relay::Ending::Status(outcome)) = ending {
            check_outcome(&scenario, &mut records, &outcome, "the gateway");
        }
    })
}

fn spawn_node(
    scenario: &Scenario,
    end: End,
    asked: CancellationToken,
    journal: &Journal,
) -> JoinHandle<()> {
    if scenario.runtime.is_stranger() {
        let (scenario, journal) = (scenario.clone(), journal.clone());
        return tokio::spawn(async move {
            let serves = stranger::run(&scenario, upgraded(end), &journal);
            let _ = asked.run_until_cancelled(serves).await;
        });
    }
    let command = Scripted::new(scenario, journal);
    let serves = node::run(command, scenario.wants, scenario.back, upgraded(end), asked);
    tokio::spawn(async {
        serves.await;
    })
}

/// The terminal's sizes as they change.
fn spawn_sizes(
    scenario: &Scenario,
    journal: &Journal,
) -> (Option<watch::Receiver<Size>>, Vec<JoinHandle<()>>) {
    let Some(&(_, first)) = scenario.sizes.first() else { return (None, Vec::new()) };
    let (sender, receiver) = watch::channel(first);
    let (later, journal) = (scenario.sizes[1..].to_vec(), journal.clone());
    let began = Instant::now();
    let changes = tokio::spawn(async move {
        for (at, size) in later {
            sleep_until(began + at).await;
            journal.open().sizes_given.push(size);
            journal.note(format_args!("user: {size:?}"));
            let _ = sender.send(size);
        }
    });
    (Some(receiver), vec![changes])
}

fn spawn_client(
    scenario: &Scenario,
    end: End,
    sizes: Option<watch::Receiver<Size>>,
    journal: &Journal,
) -> JoinHandle<()> {
    let session = Session::new(Side::Client, scenario.front, scenario.wants, mask(scenario));
    let typist = Typist::new(scenario, journal);
    let mut ends = Ends::default();
    ends.stdin = scenario.wants.stdin.then(|| Box::new(typist) as _);
    ends.stdout = Box::new(Eyes::new(scenario, Channel::Stdout, journal));
    ends.stderr = Box::new(Eyes::new(scenario, Channel::Stderr, journal));
    ends.sizes = sizes;
    let (scenario, journal) = (scenario.clone(), journal.clone());
    tokio::spawn(async move {
        let result = bowline_client::run(upgraded(end), session, ends).await;
        let mut records = journal.open();
        records.note(format_args!("client: {result:?}"));
        if let Ok(Ended::Known(outcome)) = &result {
            check_outcome(&scenario, &mut records, outcome, "the client");
            check_output(&scenario, &mut records);
        }
        records.client = Some(result);
    })
}

fn mask(scenario: &Scenario) -> [u8; 32] {
    let mut mask = [0x5a; 32];
    mask[..8].copy_from_slice(&scenario.seed.to_le_bytes());
    mask
}

/// What faults need to do their work.
#[derive(Clone)]
struct Hands {
    cables: [Cable; 2],
    ends: [CancellationToken; 2],
    roles: [AbortHandle; 3],
    journal: Journal,
}

impl Hands {
    fn wait(self, when: When, what: What) -> JoinHandle<()> {
        let step = Arc::new(Notify::new());
        if let When::Step(number) = when {
            self.journal.open().waiting.push((number, step.clone()));
        }
        tokio::spawn(async move {
            match when {
                When::Step(_) => step.notified().await,
                When::At(after) => sleep(after).await,
            }
            self.act(what);
        })
    }

    fn act(&self, what: What) {
        match what {
            What::Blow(hop, blow) => return self.cables[hop as usize].strike(blow),
            What::Kill(role) => self.roles[role as usize].abort(),
            What::End(Role::Gateway) => self.ends[0].cancel(),
            What::End(Role::Node) => self.ends[1].cancel(),
            // A client is asked by a signal, and then goes as if it were killed.
            What::End(Role::Client) => self.roles[0].abort(),
        }
        self.journal.open().fault(format_args!("{what:?}"));
    }
}

/// Waits for everybody, and looks at how long it took.
async fn finish(
    scenario: &Scenario,
    journal: &Journal,
    client: JoinHandle<()>,
    rest: [JoinHandle<()>; 2],
) {
    if timeout(FOR_EVER, client).await.is_err() {
        let mut records = journal.open();
        let promise =
            if records.fault_at.is_some() { Promise::FoundInTime } else { Promise::Awake };
        return records.broke(promise, "the client never ends".into());
    }
    let client_at = journal.open().elapsed();
    for (role, task) in ["gateway", "node"].into_iter().zip(rest) {
        let most = FOUND_WITHIN + pauses(scenario);
        if timeout(most, task).await.is_err() {
            let how = format!("{most:?} after the client, the {role} goes on");
            journal.open().broke(Promise::FoundInTime, how);
        }
    }
    let mut records = journal.open();
    check_time(scenario, &mut records, client_at);
    if scenario.is_peaceful() {
        check_delivery(scenario, &mut records);
    }
}

fn check_time(scenario: &Scenario, records: &mut Records, client_at: Duration) {
    let pauses = pauses(scenario);
    if scenario.is_peaceful() {
        let most = pauses + network(scenario) + SLACK;
        if client_at > most {
            let how =
                format!("the client took {client_at:?}, and nothing takes more than {most:?}");
            records.broke(Promise::Awake, how);
        }
    } else if let Some(fault_at) = records.fault_at {
        let most = fault_at + pauses + network(scenario) + FOUND_WITHIN;
        if client_at > most {
            let how = format!("the client took {client_at:?}, at most {most:?} would do");
            records.broke(Promise::FoundInTime, how);
        }
    }
}

/// All that the process, its user and the faults wait for on purpose.
fn pauses(scenario: &Scenario) -> Duration {
    let script = scenario.script.acts.iter().map(|act| match act {
        Act::Sleep(pause) => *pause,
        _ => Duration::ZERO,
    });
    let typist = scenario.input.pauses.iter().map(|&(_, pause)| pause);
    let reader = scenario.reader.pauses.iter().flatten().map(|&(_, pause)| pause);
    let child = scenario.script.child.map(|(hold, _)| hold);
    let stalls = scenario.faults.iter().map(|fault| match fault.what {
        What::Blow(_, Blow::Stall(pause)) => pause,
        _ => Duration::ZERO,
    });
    // With a terminal, a node waits half a second for its size.
    let terminal = scenario.wants.tty.then_some(Duration::from_millis(500));
    script.chain(typist).chain(reader).chain(child).chain(stalls).chain(terminal).sum()
}

/// What the network needs: a way there and back for the beginning and the end, and one for each
/// buffer that has to be emptied.
fn network(scenario: &Scenario) -> Duration {
    let output = scenario.script.acts.iter().map(|act| match act {
        Act::Out(bytes) | Act::Err(bytes) => u64::from(*bytes),
        Act::Cat => scenario.input.bytes,
        _ => 0,
    });
    let child = scenario.script.child.map_or(0, |(_, bytes)| 2 * u64::from(bytes));
    // Headers and base64 at their worst: each byte in a message of its own.
    let bytes = 24 * (scenario.input.bytes + output.sum::<u64>() + child) + 4096;
    let way = |wire: &Wire| {
        let rounds = bytes / wire.buffer_bytes as u64 + 10;
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        (2 * (wire.delay + wire.jitter)).saturating_mul(rounds)
    };
    scenario.wires.iter().map(way).sum()
}

fn check_outcome(scenario: &Scenario, records: &mut Records, outcome: &Outcome, who: &str) {
    // A lie cannot be known; more than was said must not be made of it.
    let (code, said) = match (scenario.runtime, records.said) {
        (Runtime::Sound, _) => (scenario.script.code, records.ended),
        (_, Some(said)) => (said, true),
        (_, None) => (0, false),
    };
    let json = scenario.front.json_status && scenario.back.json_status;
    let is_true = match outcome {
        Outcome::Failed { .. } if !scenario.script.starts => true,
        Outcome::Success => said && code == 0,
        Outcome::Exited(seen) => said && *seen == code && code != 0,
        // Protocols without JSON say it in words.
        Outcome::Failed { message, .. } => {
            !json && said && code != 0 && message.ends_with(&format!("exit code {code}"))
        }
    };
    if !is_true {
        let how = format!(
            "{who} was told {outcome:?}, and what was said is {:?}; the process: {:?}",
            records.said, scenario.script
        );
        records.broke(Promise::TrueOutcome, how);
    }
}

/// An outcome means that all output is there, as far as the node has sent it.
fn check_output(scenario: &Scenario, records: &mut Records) {
    for lane in 0..2 {
        let received = records.received[lane];
        let written = records.written[lane];
        if scenario.runtime.is_stranger() {
            let sent = records.sent[lane];
            if received != sent {
                let how = format!("an outcome with {received} of {sent} bytes of output {lane}");
                records.broke(Promise::TrueOutcome, how);
            }
        } else if !(written..=written + records.written_late[lane]).contains(&received) {
            let how = format!("an outcome with {received} of {written} bytes of output {lane}");
            records.broke(Promise::TrueOutcome, how);
        }
    }
}

/// Where nothing went wrong, the outcome is known, and everything came that should.
fn check_delivery(scenario: &Scenario, records: &mut Records) {
    if !matches!(records.client, Some(Ok(Ended::Known(_)))) {
        let how = format!("the client says {:?}", records.client);
        return records.broke(Promise::Delivered, how);
    }
    let reads_all = scenario.script.acts.iter().find_map(|act| match act {
        Act::ReadAll | Act::Cat => Some(true),
        Act::CloseIn => Some(false),
        _ => None,
    });
    if scenario.script.starts
        && scenario.runtime != Runtime::DropsStdin
        && reads_all == Some(true)
        && records.stdin_taken != scenario.input.bytes
    {
        let (taken, given) = (records.stdin_taken, scenario.input.bytes);
        let how = format!("the process has read {taken} of {given} bytes to their end");
        records.broke(Promise::Delivered, how);
    }
    // Whoever holds the output is heard to the end, where the runtime does so.
    let cuts = scenario.runtime == Runtime::CutsTail;
    if !cuts && records.received != total(records) {
        let how = format!("{:?} of {:?} bytes of output", records.received, total(records));
        records.broke(Promise::Delivered, how);
    }
}

fn total(records: &Records) -> [u64; 2] {
    [0, 1].map(|lane| records.written[lane] + records.written_late[lane])
}

/// After the end nothing may be left.
async fn look_around(journal: &Journal) {
    // Tasks that were woken by what ended before them get their turn.
    for _ in 0..16 {
        yield_now().await;
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
    if records.started.is_some() && records.dropped.is_none() {
        records.broke(Promise::NothingHeld, "the process is left".into());
    }
}
