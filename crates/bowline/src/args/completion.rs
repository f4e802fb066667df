//! `completion`: the tables of all commands to a script for a shell.

use clap_complete::Shell as Script;

use super::pflag::{Values, WORDS, scanner};
use super::table::{Command, Words};
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
    let mut root = scanner(&ROOT).name("bowline");
    for command in COMMANDS {
        let known = scanner(command);
        root = root.subcommand(match command.words {
            Words::OneOf(words) => known.mut_arg(WORDS, |arg| arg.value_parser(words.to_vec())),
            _ => known,
        });
    }
    let script = match shell {
        Shell::Bash => Script::Bash,
        Shell::Zsh => Script::Zsh,
        Shell::Fish => Script::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(script, &mut root, "bowline", &mut text);
    text
}
