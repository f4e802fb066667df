//! `cargo x load [LINE…]`: the names of lines to rows of a table; exit code 1 if one fails.
//!
//! Every line has a gateway and a node of its own, as processes, with TLS and certificates on both
//! legs. See docs/load.md.

mod client;
mod lines;
mod place;
mod server;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use lines::LINES;
use place::Place;
use table::Row;

const HELP: &str = "\
Usage: cargo x load [LINE…] [--share SHARE]

  --share 0.05  so much of every line's sessions, for a quick look

Lines, all of them without a name:
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        print!("{HELP}");
        for line in LINES {
            println!("  {:<14}{}", line.name, line.about);
        }
        return ExitCode::SUCCESS;
    }
    match asked(&words).and_then(|(names, share)| run(&names, share)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The lines by name, none for all, and the share of their sessions.
fn asked(words: &[String]) -> Result<(Vec<String>, f64)> {
    let (mut names, mut share) = (Vec::new(), 1.0);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--share" {
            let text = words.next().context("--share needs a number, as 0.05")?;
            share = text.parse().with_context(|| format!("--share {text}"))?;
        } else if LINES.iter().any(|line| line.name == *word) {
            names.push(word.clone());
        } else {
            bail!("there is no line {word:?}; --help names them");
        }
    }
    if !(share > 0.0 && share <= 1.0) {
        bail!("--share is above 0, and at most 1");
    }
    Ok((names, share))
}

fn run(names: &[String], share: f64) -> Result<bool> {
    raise_descriptors()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for line in LINES {
        if !names.is_empty() && !names.contains(&line.name.to_owned()) {
            continue;
        }
        let row = runtime.block_on(async {
            let place = Place::new(share).context("make certificates and files")?;
            let mut row = Row::new(line.about);
            (line.run)(&place, &mut row).await?;
            anyhow::Ok(row)
        });
        rows.push(row.unwrap_or_else(|error| Row::broken(line.about, &error)));
    }
    table::clear_progress();
    Ok(table::print(&rows))
}

/// To the hard limit: servers and clients inherit it.
fn raise_descriptors() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raise the limit of descriptors")
}
