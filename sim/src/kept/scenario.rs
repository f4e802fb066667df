//! A seed to everything that can differ between two kept sessions.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use bowline_proto::kept::{Leave, Stream};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A session is kept for so long where its time is no matter.
pub const LONG: u64 = 600;
/// And for so long at most, whatever its clients want.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// One kept session with all that is around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What randomness grows from while it runs.
    pub seed: u64,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// What the process does, one after the other.
    pub acts: Vec<Act>,
    /// How it ends.
    pub code: u8,
    /// What its pipes hold.
    pub pipe_bytes: usize,
    /// How much of each output the host keeps.
    pub replay_bytes: usize,
    /// How long the session is kept, in seconds.
    pub keep_for: u64,
    /// What each user types, and the most at once.
    pub typed: [usize; 2],
    /// How much of an output a user reads at most before a pause, and the pause.
    pub reads: (usize, Duration),
    /// The network.
    pub wire: Wire,
    /// What goes wrong, or is done, and when.
    pub turns: Vec<(When, Turn)>,
    /// How often somebody asks afterwards how it ended.
    pub results: u8,
}

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Writes so many bytes; blocks while its pipe is full.
    Write(Stream, usize),
    /// Reads so many bytes, or less at the end of its input.
    Read(usize),
    /// Waits.
    Sleep(Duration),
    /// Closes an output.
    Close(Stream),
}

/// How connections behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The most bytes that come at once.
    pub piece_bytes: usize,
    /// The most bytes under way in one direction.
    pub held_bytes: usize,
    /// How long each piece takes.
    pub delay: Duration,
}

/// When something happens: at a step, or at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After so many steps.
    Step(u64),
    /// After so long.
    At(Duration),
}

/// Where a client begins that comes with the id alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Have {
    /// Behind what was written before.
    Written,
    /// Behind what was acknowledged.
    Acknowledged,
    /// At the beginning.
    Nothing,
}

/// Something that happens to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The connection ends; what is under way arrives.
    End,
    /// It breaks off; some of what is under way is lost.
    Reset,
    /// Only the client sees it break off.
    ResetAtClient,
    /// Only the host does.
    ResetAtHost,
    /// Nothing gets through for so long.
    Stall(Duration),
    /// A server on the way stands still with what the client says, which soon gives the connection
    /// up: the host hears the rest of it after so long.
    Late(Duration),
    /// No connection can be made for so long.
    Outage(Duration),
    /// The host is started anew; its process is gone.
    Restart,
    /// Another host is there beside it, and gets some of the connections.
    Beside,
    /// The client is killed, and another one comes after a while.
    Kill(Duration, Have),
    /// The client says goodbye, and another one comes after a while.
    Leave(Leave, Duration, Have),
    /// Another client goes on with the session.
    TakeOver(Have),
    /// The same while the client that has it is without a connection.
    TakeOverAway(Have),
    /// Another client looks.
    Look(Have),
    /// The same start comes from another client.
    StartAgain,
}

impl Scenario {
    /// The one of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Scenario {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x6b_65_70_74);
        let tty = random.random_bool(0.3);
        let large = random.random_bool(0.1);
        let acts = (0..random.random_range(0..12)).map(|_| act(&mut random, tty, large)).collect();
        let mut turns: Vec<(When, Turn)> =
            (0..random.random_range(0..9)).map(|_| turn(&mut random)).collect();
        if random.random_bool(0.1) {
            // The answer to a start is lost, and the next connection leads elsewhere.
            turns.push((When::Step(0), Turn::Beside));
            turns.push((When::Step(3), Turn::Reset));
        }
        let pause = Duration::from_millis([0, 0, 20, 700, 3000][random.random_range(0..5)]);
        let mut scenario = Scenario {
            seed,
            tty,
            acts,
            code: [0, 0, 1, 137][random.random_range(0..4)],
            pipe_bytes: [200, 4096, 65_536][random.random_range(0..3)]
                .max(usize::from(large) * 4096),
            replay_bytes: [1, 5000, 100_000, 1 << 20][random.random_range(0..4)],
            keep_for: if random.random_bool(0.1) { random.random_range(0..40) } else { LONG },
            typed: [
                [0, 1, 5000, 100_000, 2_000_000 * usize::from(large)][random.random_range(0..5)],
                random.random_range(1..60_000),
            ],
            reads: (
                if pause.is_zero() { 1 << 20 } else { random.random_range(5000..60_000) },
                pause,
            ),
            wire: Wire {
                piece_bytes: [700, 9000, 100_000][random.random_range(0..3)],
                held_bytes: [5000, 65_536, 400_000][random.random_range(0..3)],
                delay: Duration::from_millis([0, 1, 40, 300][random.random_range(0..4)]),
            },
            turns,
            results: if random.random_bool(0.2) { 3 } else { 0 },
        };
        if random.random_bool(0.2) {
            let late = Duration::from_millis(random.random_range(200..25_000));
            let most = [8, 8, 200][random.random_range(0..3)];
            scenario.turns.push((When::Step(random.random_range(1..most)), Turn::Late(late)));
        }
        scenario
    }

    /// Whether the host stays the one that it is, and keeps the session as long as anybody can
    /// want it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        let loses = |turn: &(When, Turn)| matches!(turn.1, Turn::Restart | Turn::Beside);
        self.keep_for == LONG && !self.turns.iter().any(loses)
    }
}

fn act(random: &mut ChaCha8Rng, tty: bool, large: bool) -> Act {
    let stderr = !tty && random.random_bool(0.3);
    let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
    match random.random_range(0..10) {
        0..5 => {
            let size = random.random_range(0..3 + usize::from(large));
            let most = [5000, 150_000, 600_000, 3_000_000][size];
            Act::Write(stream, random.random_range(1..most))
        }
        5..7 => Act::Read(random.random_range(1..120_000)),
        7..9 => {
            Act::Sleep(Duration::from_millis([5, 300, 3000, 30_000][random.random_range(0..4)]))
        }
        _ => Act::Close(stream),
    }
}

fn turn(random: &mut ChaCha8Rng) -> (When, Turn) {
    let when = if random.random_bool(0.6) {
        let most = [6, 40, 200, 1000][random.random_range(0..4)];
        When::Step(random.random_range(0..most))
    } else {
        let most = [300, 5000, 60_000][random.random_range(0..3)];
        When::At(Duration::from_millis(random.random_range(0..most)))
    };
    let after = Duration::from_millis([0, 100, 4000, 50_000][random.random_range(0..4)]);
    let have = [Have::Written, Have::Acknowledged, Have::Acknowledged, Have::Nothing];
    let have = have[random.random_range(0..4)];
    let turn = match random.random_range(0..45) {
        0..3 => Turn::End,
        3..12 => Turn::Reset,
        12..14 => Turn::ResetAtClient,
        14..17 => Turn::ResetAtHost,
        17..20 => Turn::Stall(Duration::from_secs(random.random_range(1..40))),
        20..22 => Turn::Outage(Duration::from_secs(random.random_range(1..60))),
        22 => Turn::Restart,
        23..25 => Turn::Beside,
        25..33 => Turn::Kill(after, have),
        33..35 => Turn::Leave(Leave::Running, after, have),
        35 => Turn::Leave(Leave::HungUp, after, have),
        36..38 => Turn::TakeOver(have),
        38..41 => Turn::TakeOverAway(have),
        41..44 => Turn::Look(have),
        _ => Turn::StartAgain,
    };
    (when, turn)
}

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = if self.tty { "terminal" } else { "pipes" };
        writeln!(f, "  {kind} of {} bytes, ends with {}", self.pipe_bytes, self.code)?;
        writeln!(f, "  does {:?}", self.acts)?;
        writeln!(f, "  {} bytes are kept, for {} s", self.replay_bytes, self.keep_for)?;
        writeln!(f, "  users type {:?} and read {:?}", self.typed, self.reads)?;
        writeln!(f, "  {:?}", self.wire)?;
        self.turns.iter().try_for_each(|turn| writeln!(f, "  {turn:?}"))
    }
}
