//! `completion`: the tables of all commands to a script for a shell.

use clap::{Arg, ArgAction};
use clap_complete::Shell as Script;

use super::pflag::Values;
use super::table::{Command, Flag, Kind, Words};
use super::{BadUsage, COMMANDS, HELP, ROOT};

/// A shell that can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Their names.
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// Its table.
pub static COMMAND: Command = Command {
    name: "completion",
    about: "Print a script that teaches a shell this program's commands and flags.",
    text: "",
    usage: "(bash | zsh | fish)",
    examples: &[
        ("Bash, for this session", "source <({bowline} completion bash)"),
        ("Zsh, for good", "{bowline} completion zsh > \"${fpath[1]}/_bowline\""),
        ("Fish, for good", "{bowline} completion fish > ~/.config/fish/completions/bowline.fish"),
    ],
    flags: &[HELP],
    shared: &[],
    words: Words::OneOf(SHELLS),
};

/// Reads it.
///
/// # Errors
/// [`BadUsage::Shell`] for anything but one of the shells.
pub fn read(values: &Values) -> Result<Shell, BadUsage> {
    match &values.words()[..] {
        [word] if word == "bash" => Ok(Shell::Bash),
        [word] if word == "zsh" => Ok(Shell::Zsh),
        [word] if word == "fish" => Ok(Shell::Fish),
        _ => Err(BadUsage::Shell),
    }
}

/// The script for a shell.
pub fn script(shell: Shell) -> Vec<u8> {
    let commands = COMMANDS.into_iter().map(known);
    let mut root = known(&ROOT).name("bowline").subcommands(commands);
    let script = match shell {
        Shell::Bash => Script::Bash,
        Shell::Zsh => Script::Zsh,
        Shell::Fish => Script::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(script, &mut root, "bowline", &mut text);
    text
}

/// A command as clap knows it, which makes the scripts.
fn known(command: &Command) -> clap::Command {
    let known = clap::Command::new(command.name)
        .about(command.about)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(command.all_flags().map(flag));
    let words = Arg::new("words").num_args(0..);
    match command.words {
        Words::None => known,
        Words::Some => known.arg(words),
        Words::AndCommand => known.arg(words).arg(Arg::new("command").last(true).num_args(0..)),
        Words::OneOf(choices) => known.arg(words.value_parser(choices.to_vec())),
    }
}

fn flag(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.long).long(flag.long).short(flag.short).help(flag.help);
    match flag.kind {
        Kind::Bool => arg.num_args(0..=1).require_equals(true),
        Kind::List | Kind::Each => arg.action(ArgAction::Append).value_name(flag.value),
        _ => arg.value_name(flag.value),
    }
}
