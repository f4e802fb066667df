//! The terminal of a kept session that is left and resumed, with the programs of this machine; what
//! they show is compared in `bowline_interop::kept_screen`, also in real pods.

use bowline_interop::kept_screen::{
    BASH, FULL_SCREEN, LEAVES, LESS, Leaves, Program, VIM, check, is_asked_once,
};
use bowline_interop::server::Server;

use super::{bowline, client};

fn at_dev(program: &Program, leaves: &[Leaves]) {
    let dev = Server::dev(bowline(), &[]);
    check(&client(&dev), &dev.address(), program, leaves);
}

/// A program that this machine may lack. What is certain is tested without any.
#[expect(clippy::disallowed_macros, reason = "a test says what it leaves out")]
fn if_here(program: &Program, leaves: &[Leaves]) {
    let name = program.command[0];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|path| path.join(name).exists()) {
        at_dev(program, leaves);
    } else {
        eprintln!("{name} is not here: nothing is said of it");
    }
}

#[test]
fn a_program_with_the_whole_screen() {
    at_dev(&FULL_SCREEN, &LEAVES);
}

#[test]
fn a_program_that_asks_the_terminal() {
    let dev = Server::dev(bowline(), &[]);
    is_asked_once(&client(&dev));
}

#[test]
fn an_editor() {
    if_here(&VIM, &[Leaves::Killed, Leaves::Lost]);
}

#[test]
fn a_pager() {
    if_here(&LESS, &[Leaves::Killed, Leaves::ByKeys]);
}

#[test]
fn a_shell_with_brackets_around_what_is_pasted() {
    if_here(&BASH, &[Leaves::ByKeys]);
}
