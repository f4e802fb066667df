//! Seeds to sessions: the loops of client, gateway and node on virtual time, over a virtual
//! network, with processes as models; each session is held to the promises.
//!
//! A seed becomes a [`Scenario`]: which carriers, what the process does, what the runtime behind it
//! gets wrong, how the network behaves, what goes wrong. [`run`] plays it to its end and gives a
//! [`Verdict`]. Whatever can differ between two runs comes from the seed, so the same seed gives
//! the same trace. A scenario that breaks a promise is made [smaller](shrink) until nothing can be
//! left out.

pub mod copy;
pub mod forward;
pub mod journal;
pub mod kept;
pub mod memory;
pub mod net;
pub mod process;
pub mod promises;
pub mod scenario;
pub mod shrink;
pub mod stranger;
pub mod user;
pub mod world;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

pub use promises::{Broken, Promise};
pub use scenario::Scenario;
pub use world::{Verdict, run};

/// The committed seeds. In their file, what is behind `#` says what a seed found.
pub fn seeds() -> impl Iterator<Item = u64> {
    numbers(include_str!("../seeds.txt"))
}

/// The same for [port-forwards](forward).
pub fn forward_seeds() -> impl Iterator<Item = u64> {
    numbers(include_str!("../forward-seeds.txt"))
}

/// The same for [copies](copy).
pub fn copy_seeds() -> impl Iterator<Item = u64> {
    numbers(include_str!("../copy-seeds.txt"))
}

/// The same for [kept sessions](kept).
pub fn kept_seeds() -> impl Iterator<Item = u64> {
    numbers(include_str!("../kept-seeds.txt"))
}

fn numbers(text: &'static str) -> impl Iterator<Item = u64> {
    text.lines().filter_map(|line| {
        let number = line.split('#').next().unwrap_or_default().trim();
        number.parse().ok()
    })
}
