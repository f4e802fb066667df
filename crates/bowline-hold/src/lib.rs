//! Holds commands for clients that may lose their connections, inside of a container.
//!
//! Two processes of one program. The **holder** is one process a directory: it has the commands,
//! and for each of them a [`Host`](bowline_proto::kept::Host). A **connection** is what an ordinary
//! exec runs: it hands its stdin and stdout to the holder over a socket in the directory, and lasts
//! until the holder lets go of them. So bytes are carried once, and a connection that is killed
//! costs its session nothing.
//!
//! - `connect` finds the holder of a directory, or begins one (`begin`).
//! - `holder` is its loop: one thread, poll(2), no runtime.
//! - `directory` says whose directory it is, and that there is one holder at most.
#![warn(unnameable_types, unreachable_pub)]

mod begin;
mod connect;
mod directory;
mod error;
mod handover;
mod holder;
mod list;
mod settings;
mod system;
mod version;
mod watched;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use rustix::stdio::{stderr, stdout};

use error::HoldError;
use settings::Asked;

/// Does what the words after the program's name ask for. `invoked_as` is what stands between the
/// two where this is a part of another program.
#[must_use]
pub fn run(invoked_as: &[&str], args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match perform(invoked_as, args.into_iter().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told of another failure.
            let _ = write_all(stderr(), format!("bowline-hold: {error}\n").as_bytes());
            ExitCode::from(error.code())
        }
    }
}

fn perform(invoked_as: &[&str], args: Vec<OsString>) -> Result<(), HoldError> {
    match Asked::read(args)? {
        Asked::Connect(directory, settings) => connect::connect(&directory, &settings, invoked_as),
        Asked::Begin(directory, settings) => begin::begin(&directory, &settings, invoked_as),
        Asked::Serve(directory, settings) => holder::serve(&directory, settings),
        Asked::List(directory) => print(&list::list(&directory)?),
        Asked::Version => print(&version::version()?),
        Asked::Help => print(settings::HELP),
    }
}

fn print(text: &str) -> Result<(), HoldError> {
    write_all(stdout(), text.as_bytes()).map_err(|error| HoldError::system("stdout", error))
}

fn write_all(fd: impl std::os::fd::AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes))?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
