//! The program that is put into a container: words to what is done.

use std::process::ExitCode;

fn main() -> ExitCode {
    bowline_hold::run(&[], std::env::args_os().skip(1))
}
