//! A command whose session is kept, next to the same one without that: CPU of every program on the
//! way, where a node of ours keeps it and where the program in the container does.

use std::path::Path;

use anyhow::{Context, Result};
use bowline_interop::parts::hold;

use crate::measure::{median, progress};
use crate::systems::{System, bowline};
use crate::whole::{Way, transfer};

const ROUNDS: usize = 5;

/// Who keeps it.
struct Keeper {
    name: &'static str,
    system: System,
    /// What a client says for it.
    flags: Vec<String>,
}

pub fn run() -> Result<()> {
    let program = format!("--hold-program={}", hold().display());
    let node = System::bowline()?;
    let busybox = node.busybox().context("Bowline's commands are busybox'")?.to_owned();
    let mut kubernetes = System::kubernetes()?;
    kubernetes.client.program = bowline()?;
    kubernetes.held_by = Some("bowline-hold");
    let flags = |more: &[String]| [&["--keep".to_owned()], more].concat();
    let keepers = [
        Keeper { name: "our node", system: node, flags: flags(&[]) },
        Keeper {
            name: "the program in the container",
            system: kubernetes,
            flags: flags(&[program]),
        },
    ];
    println!("### A kept session: CPU seconds per GB, medians of {ROUNDS} rounds\n");
    println!("| kept by | way | without | kept | more |\n|---|---|--:|--:|--:|");
    for keeper in &keepers {
        for (way, name) in [(Way::Down, "down"), (Way::Up, "up")] {
            let [plain, kept] = keeper.rounds(way, &busybox)?;
            let more = 100.0 * (kept / plain - 1.0);
            println!("| {} | {name} | {plain:.2} | {kept:.2} | {more:.0} % |", keeper.name);
        }
    }
    println!();
    Ok(())
}

impl Keeper {
    /// The sums of all programs without and with it, in turns.
    fn rounds(&self, way: Way, busybox: &Path) -> Result<[f64; 2]> {
        let flags: Vec<&str> = self.flags.iter().map(|flag| &**flag).collect();
        let mut sums = [Vec::new(), Vec::new()];
        for round in 0..=ROUNDS {
            progress(&format!("{}, round {round} of {ROUNDS}", self.name));
            for (flags, sums) in [&[][..], &flags].into_iter().zip(&mut sums) {
                let used = transfer(&self.system, way, flags, busybox)?;
                if round > 0 {
                    sums.push(used.cpu.iter().sum());
                }
            }
        }
        progress("");
        Ok(sums.map(median))
    }
}
