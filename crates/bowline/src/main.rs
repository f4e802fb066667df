//! Turns a command line into an exit code.
//! Above: the shell. Below: everything else.
fn main() {}
