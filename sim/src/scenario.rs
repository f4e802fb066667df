//! A seed to everything that can differ between two sessions.

use std::fmt;
use std::time::Duration;

use bowline_proto::session::protocol::{SPDY_OFFER, SPDY_V4, WEBSOCKET, WEBSOCKET_V5};
use bowline_proto::session::{Protocol, Size, Wants};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::net::Blow;

/// One session with all that is around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What randomness grows from while it runs.
    pub seed: u64,
    /// What the client speaks.
    pub front: &'static Protocol,
    /// What the node speaks.
    pub back: &'static Protocol,
    /// The channels.
    pub wants: Wants,
    /// The connections: client to gateway, gateway to node.
    pub wires: [Wire; 2],
    /// What the process does.
    pub script: Script,
    /// What runs it.
    pub runtime: Runtime,
    /// What its user types.
    pub input: Input,
    /// How its user reads.
    pub reader: Reader,
    /// The sizes of the user's terminal; the first is there from the beginning.
    pub sizes: Vec<(Duration, Size)>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Between client and gateway.
    Near,
    /// Between gateway and node.
    Far,
}

/// One of a connection's directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Written by the end that faces the client.
    ToNode,
    /// Written by the end that faces the node.
    ToClient,
}

impl Way {
    /// What an end writes: 0 is the client's.
    pub(crate) fn of(end: usize) -> Way {
        if end == 0 { Way::ToNode } else { Way::ToClient }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Hop::Near { "client-gateway" } else { "gateway-node" })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Way::ToNode { "->" } else { "<-" })
    }
}

/// How a connection behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The longest piece that one read or write moves; each draws its own below.
    pub piece_bytes: usize,
    /// What fits between the two ends, a direction.
    pub buffer_bytes: usize,
    /// How long a byte takes,
    pub delay: Duration,
    /// and how much longer at most.
    pub jitter: Duration,
    /// How often, in percent, an end that could go on is told to come again.
    pub pauses_percent: u32,
    /// Whether a reset destroys what has arrived and was not read, as other systems than Linux do.
    pub reset_destroys: bool,
}

/// What the process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Whether it can be started at all.
    pub starts: bool,
    /// In this order.
    pub acts: Vec<Act>,
    /// Its code, 128 + N for death by signal N.
    pub code: u8,
    /// What fits into each of its pipes.
    pub pipe_bytes: usize,
    /// A child that lives longer and holds its output: how long, and what it writes at its end.
    pub child: Option<(Duration, u32)>,
}

/// What runs the process, and what it gets wrong, as real ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Nothing.
    Sound,
    /// Input is dropped, and has ended for the process, once that closes one of its outputs.
    DropsStdin,
    /// The terminal has its size so long after the process has begun.
    LateSize(Duration),
    /// The process has crashed, and success is reported.
    HidesCrash,
    /// A node of others, that ends in good order and gives no Status.
    NoStatus,
    /// One that is stuck when the process has ended: it takes nothing and says nothing.
    Frozen,
    /// One that closes right behind its last word, with what was not read.
    Abrupt,
    /// One that drops the end of the output and reports the true code.
    CutsTail,
    /// One whose runtime falls silent after so long, and that calls that success.
    Invented(Duration),
}

impl Runtime {
    /// Whether the whole node is another's.
    #[must_use]
    pub fn is_stranger(self) -> bool {
        !matches!(
            self,
            Runtime::Sound | Runtime::DropsStdin | Runtime::LateSize(_) | Runtime::HidesCrash
        )
    }

    /// Whether a session may fail to learn its outcome for it.
    #[must_use]
    pub fn is_harmful(self) -> bool {
        matches!(self, Runtime::NoStatus | Runtime::Frozen | Runtime::Abrupt | Runtime::Invented(_))
    }
}

/// A step of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Writes to its output.
    Out(u32),
    /// Writes to its errors.
    Err(u32),
    /// Reads so much, or to the end.
    Read(u32),
    /// Reads to the end.
    ReadAll,
    /// Writes as much as it reads, until the end.
    Cat,
    /// Closes its input.
    CloseIn,
    /// Closes its output.
    CloseOut,
    /// Closes its errors.
    CloseErr,
    /// Does nothing.
    Sleep(Duration),
}

/// What the user types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// How much.
    pub bytes: u64,
    /// Whether it ends then, or stays open.
    pub ends: bool,
    /// The longest piece at once.
    pub piece_bytes: usize,
    /// Pauses: at which byte, how long. In order.
    pub pauses: Vec<(u64, Duration)>,
}

/// How the user reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The longest piece at once.
    pub piece_bytes: usize,
    /// Pauses, by channel: at which byte, how long. In order.
    pub pauses: [Vec<(u64, Duration)>; 2],
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it happens.
    pub when: When,
    /// What happens.
    pub what: What,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After so many steps of the trace.
    Step(u64),
    /// So long after the beginning.
    At(Duration),
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// To a connection.
    Blow(Hop, Blow),
    /// A role is gone, as by `kill -9`.
    Kill(Role),
    /// A role is asked to end.
    End(Role),
}

/// A participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `bowline exec`.
    Client,
    /// `bowline gateway`.
    Gateway,
    /// `bowline node`.
    Node,
}

/// A stall of up to this long is nothing that a session may notice.
pub const HARMLESS: Duration = Duration::from_secs(4);

impl Fault {
    /// Whether a session may fail to learn its outcome for it.
    #[must_use]
    pub fn is_harmful(&self) -> bool {
        !matches!(self.what, What::Blow(_, Blow::Stall(pause)) if pause <= HARMLESS)
    }
}

impl Scenario {
    /// Whether the process can be told that its input ends.
    #[must_use]
    pub fn half_closes(&self) -> bool {
        self.front.half_closes && self.back.half_closes
    }

    /// Whether nothing goes wrong that a session may notice.
    #[must_use]
    pub fn is_peaceful(&self) -> bool {
        !self.runtime.is_harmful() && !self.faults.iter().any(Fault::is_harmful)
    }

    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Scenario {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let random = &mut random;
        let front = front(random);
        let back = back(random);
        let wants = wants(random);
        let volume = volume(random);
        let mut scenario = Scenario {
            seed,
            front,
            back,
            wants,
            wires: [wire(random, volume), wire(random, volume)],
            script: Script {
                starts: !percent(random, 3),
                acts: Vec::new(),
                code: [0, 0, 0, 1, 7, 42, 126, 127, 130, 137, 255][random.random_range(0..11)],
                pipe_bytes: [512, 4096, 65_536, 1 << 20][random.random_range(0..4)],
                child: None,
            },
            runtime: Runtime::Sound,
            input: Input { bytes: 0, ends: false, piece_bytes: 1, pauses: Vec::new() },
            reader: Reader { piece_bytes: piece(random, volume), pauses: [vec![], vec![]] },
            sizes: Vec::new(),
            faults: Vec::new(),
        };
        if wants.stdin {
            let bytes = amount(random, volume);
            scenario.input.bytes = bytes;
            scenario.input.ends = percent(random, 70);
            scenario.input.piece_bytes = piece(random, volume);
            scenario.input.pauses = pauses(random, bytes);
        }
        scenario.script.acts = acts(random, &scenario, volume);
        if percent(random, 10) {
            let hold = Duration::from_millis(random.random_range(0..6000));
            scenario.script.child = Some((hold, random.random_range(0..500)));
        }
        for pauses_of in &mut scenario.reader.pauses {
            if percent(random, 20) {
                *pauses_of = pauses(random, volume);
            }
        }
        if wants.tty {
            for index in 0..random.random_range(0..4_u16) {
                let at = Duration::from_millis(random.random_range(0..3000) * u64::from(index));
                scenario.sizes.push((at, Size { width: 80 + index, height: 24 }));
            }
            scenario.sizes.sort_by_key(|&(at, size)| (at, size.width));
        }
        if percent(random, 4) {
            away(random, &mut scenario);
        }
        if percent(random, 55) {
            scenario.faults = (0..random.random_range(1..3)).map(|_| fault(random)).collect();
            let harmful = !scenario.is_peaceful();
            for wire in &mut scenario.wires {
                wire.reset_destroys = harmful && random.random();
            }
        }
        // From randomness of its own, so that the rest of a seed's scenario is what it was before.
        let random = &mut ChaCha8Rng::seed_from_u64(seed ^ 0x72_75_6e_73);
        if percent(random, 25) {
            runtime(random, &mut scenario);
        }
        scenario
    }
}

/// A runtime that gets something wrong, and a script by which that is seen.
fn runtime(random: &mut ChaCha8Rng, scenario: &mut Scenario) {
    let wants = scenario.wants;
    let after = Duration::from_millis(random.random_range(0..5_000));
    scenario.runtime = match random.random_range(0..100) {
        0..25 if wants.stdin && wants.stdout && !wants.tty => Runtime::DropsStdin,
        25..35 if wants.tty => Runtime::LateSize(after),
        35..50 => Runtime::HidesCrash,
        50..65 => Runtime::NoStatus,
        // With input on its way, it cannot be told from one whose process does not read.
        65..75 if !wants.stdin => Runtime::Frozen,
        65..85 => Runtime::Abrupt,
        85..93 => Runtime::CutsTail,
        _ => Runtime::Invented(after),
    };
    match scenario.runtime {
        Runtime::DropsStdin => {
            let at = random.random_range(0..=scenario.script.acts.len());
            scenario.script.acts.insert(at, Act::CloseOut);
            if scenario.input.ends && scenario.half_closes() {
                scenario.script.acts.push(Act::ReadAll);
            }
        }
        Runtime::HidesCrash => scenario.script.code = [1, 134, 137, 139][random.random_range(0..4)],
        _ => {}
    }
}

fn percent(random: &mut ChaCha8Rng, odds: u32) -> bool {
    random.random_range(0..100) < odds
}

fn front(random: &mut ChaCha8Rng) -> &'static Protocol {
    match random.random_range(0..100) {
        0..35 => &WEBSOCKET_V5,
        35..60 => &SPDY_V4,
        60..80 => WEBSOCKET[random.random_range(0..WEBSOCKET.len())],
        _ => SPDY_OFFER[random.random_range(0..SPDY_OFFER.len())],
    }
}

fn back(random: &mut ChaCha8Rng) -> &'static Protocol {
    match random.random_range(0..100) {
        0..40 => &WEBSOCKET_V5,
        40..80 => &SPDY_V4,
        80..90 => WEBSOCKET[random.random_range(0..WEBSOCKET.len())],
        _ => SPDY_OFFER[random.random_range(0..SPDY_OFFER.len())],
    }
}

fn wants(random: &mut ChaCha8Rng) -> Wants {
    let tty = percent(random, 20);
    let stdout = percent(random, 95);
    Wants { stdin: percent(random, 65), stdout, stderr: !tty && percent(random, 70), tty }
}

/// About how many bytes a session moves.
fn volume(random: &mut ChaCha8Rng) -> u64 {
    match random.random_range(0..100) {
        0..60 => random.random_range(0..2_000),
        60..92 => random.random_range(0..200_000),
        _ => random.random_range(200_000..16_000_000),
    }
}

fn amount(random: &mut ChaCha8Rng, volume: u64) -> u64 {
    random.random_range(0..=volume)
}

/// A piece's limit that does not make a run of so many bytes endless.
fn piece(random: &mut ChaCha8Rng, volume: u64) -> usize {
    let choices: &[usize] = match volume {
        0..2_000 => &[1, 3, 7, 100, 1500, 65_536],
        2_000..200_000 => &[200, 1500, 9000, 65_536, 1 << 20],
        _ => &[16_384, 65_536, 1 << 20],
    };
    choices[random.random_range(0..choices.len())]
}

fn wire(random: &mut ChaCha8Rng, volume: u64) -> Wire {
    let buffers: &[usize] = match volume {
        0..200_000 => &[64, 2048, 65_536, 1 << 20],
        // Up to what Linux grows a socket's buffer to.
        _ => &[65_536, 1 << 20, 4 << 20],
    };
    let micros: u64 = [0, 0, 50, 1000, 20_000][random.random_range(0..5)];
    Wire {
        piece_bytes: piece(random, volume),
        buffer_bytes: buffers[random.random_range(0..buffers.len())],
        delay: Duration::from_micros(micros),
        jitter: Duration::from_micros(random.random_range(0..=micros)),
        pauses_percent: [0, 0, 10, 50][random.random_range(0..4)],
        reset_destroys: false,
    }
}

fn pauses(random: &mut ChaCha8Rng, bytes: u64) -> Vec<(u64, Duration)> {
    if !percent(random, 40) {
        return Vec::new();
    }
    let longest: u64 = [50, 3_000, 100_000][random.random_range(0..3)];
    let mut pauses: Vec<_> = (0..random.random_range(1..4))
        .map(|_| {
            let pause = Duration::from_millis(random.random_range(0..longest));
            (random.random_range(0..=bytes), pause)
        })
        .collect();
    pauses.sort_by_key(|&(at, _)| at);
    pauses
}

fn acts(random: &mut ChaCha8Rng, scenario: &Scenario, volume: u64) -> Vec<Act> {
    let (wants, input) = (scenario.wants, &scenario.input);
    let ends = input.ends && scenario.half_closes();
    // What can be read without waiting for ever.
    let mut left = input.bytes;
    let mut acts = Vec::new();
    for _ in 0..random.random_range(0..8) {
        let size = u32::try_from(amount(random, volume)).unwrap_or(u32::MAX);
        match random.random_range(0..100) {
            0..30 if wants.stdout => acts.push(Act::Out(size)),
            30..45 if wants.stderr => acts.push(Act::Err(size)),
            45..60 if wants.stdin => {
                let size = u64::from(size).min(left);
                left -= size;
                acts.push(Act::Read(u32::try_from(size).unwrap_or(u32::MAX)));
            }
            60..70 if wants.stdin && ends => acts.push(Act::ReadAll),
            70..78 if wants.stdin && wants.stdout && ends => acts.push(Act::Cat),
            78..80 if wants.stdin => {
                left = 0;
                acts.push(Act::CloseIn);
            }
            80..83 if wants.stdout && !wants.tty => acts.push(Act::CloseOut),
            83..85 if wants.stderr => acts.push(Act::CloseErr),
            85..95 => {
                let longest: u64 = [20, 2_000, 50_000][random.random_range(0..3)];
                acts.push(Act::Sleep(Duration::from_millis(random.random_range(0..longest))));
            }
            _ => {}
        }
    }
    acts
}

/// A user who is away while the process ends, with output on every part of the way, and who types
/// before reading on.
fn away(random: &mut ChaCha8Rng, scenario: &mut Scenario) {
    let mut seconds = |range| Duration::from_secs(random.random_range(range));
    let (typed, back) = (seconds(1..60), seconds(10..100));
    scenario.reader.pauses[0] = vec![(0, back)];
    scenario.reader.piece_bytes = 1 << 20;
    if scenario.wants.stdin {
        scenario.input = Input { bytes: 20_000, ends: true, piece_bytes: 4096, pauses: vec![] };
        scenario.input.pauses.push((10_000, typed));
    }
    for wire in &mut scenario.wires {
        wire.piece_bytes = wire.piece_bytes.max(16_384);
        wire.buffer_bytes = [65_536, 1 << 20, 4 << 20][random.random_range(0..3)];
    }
    scenario.script.acts.clear();
    if scenario.wants.stdout {
        scenario.script.acts.push(Act::Out(random.random_range(1_000_000..10_000_000)));
    }
}

fn fault(random: &mut ChaCha8Rng) -> Fault {
    let when = match random.random_range(0..4) {
        0 => When::At(Duration::from_millis(random.random_range(0..20_000))),
        1 => When::Step(random.random_range(1..20)),
        _ => When::Step(random.random_range(1..400)),
    };
    let hop = if random.random() { Hop::Near } else { Hop::Far };
    let pause = Duration::from_millis(random.random_range(1..4000));
    let long = Duration::from_millis(random.random_range(4000..90_000));
    let what = match random.random_range(0..100) {
        0..20 => What::Blow(hop, Blow::Reset),
        20..35 => What::Blow(hop, Blow::Close),
        35..50 => What::Blow(hop, Blow::Silence),
        50..60 => What::Blow(hop, Blow::Stall(pause)),
        60..68 => What::Blow(hop, Blow::Stall(long)),
        68..76 => What::Kill(Role::Client),
        76..82 => What::Kill(Role::Gateway),
        82..88 => What::Kill(Role::Node),
        88..94 => What::End(Role::Gateway),
        _ => What::End(Role::Node),
    };
    Fault { when, what }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = |protocol: &Protocol| format!("{:?} {:?}", protocol.carrier, protocol.name);
        writeln!(f, "  client speaks   {}", protocol(self.front))?;
        writeln!(f, "  node speaks     {}", protocol(self.back))?;
        writeln!(f, "  channels        {:?}", self.wants)?;
        writeln!(f, "  client-gateway  {:?}", self.wires[0])?;
        writeln!(f, "  gateway-node    {:?}", self.wires[1])?;
        writeln!(f, "  process         {:?}", self.script)?;
        writeln!(f, "  run by          {:?}", self.runtime)?;
        writeln!(f, "  input           {:?}", self.input)?;
        writeln!(f, "  reader          {:?}", self.reader)?;
        writeln!(f, "  sizes           {:?}", self.sizes)?;
        write!(f, "  faults          {:?}", self.faults)
    }
}
