//! A command's table to its help.

use crate::args::COMMANDS;
use crate::args::table::{Command, Flag};

/// The columns that help is written for: what every terminal has.
const COLUMNS: usize = 80;
/// Where the explanations of flags begin.
const INDENT: usize = 8;

/// The help of a command of the program that was called as `program`.
pub fn of(command: &Command, program: &str) -> String {
    let mut text = String::new();
    let is_root = command.name.is_empty();
    section(&mut text, "", &wrapped(command.about, 0));
    if !command.text.is_empty() {
        let paragraphs: Vec<_> = command.text.split("\n\n").map(|text| wrapped(text, 0)).collect();
        section(&mut text, "", &paragraphs.join("\n"));
    }
    let usage: Vec<_> = [program, command.name, command.usage]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    section(&mut text, "Usage:", &format!("  {}\n", usage.join(" ")));
    if is_root {
        let mut list = String::new();
        for command in COMMANDS {
            list.push_str(&format!("  {:<14}{}\n", command.name, command.about));
        }
        section(&mut text, "Commands:", &list);
    }
    let example = |(why, line): &(&str, &str)| format!("  # {why}\n{}", continued(line));
    let examples: Vec<_> = command.examples.iter().map(example).collect();
    section(&mut text, "Examples:", &examples.join("\n"));
    section(&mut text, "Flags:", &flags(command.flags));
    if is_root {
        let line = "`{bowline} exec --help` also lists the flags that say which cluster, as whom.";
        section(&mut text, "", &wrapped(line, 0));
    } else {
        section(&mut text, "Which cluster, as whom, and how:", &flags(command.shared));
    }
    text.replace("{bowline}", program)
}

fn section(text: &mut String, title: &str, body: &str) {
    if body.is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    if !title.is_empty() {
        text.push_str(title);
        text.push('\n');
    }
    text.push_str(body);
}

fn flags(flags: &[Flag]) -> String {
    let mut sorted: Vec<&Flag> = flags.iter().collect();
    sorted.sort_by_key(|flag| flag.long);
    sorted.into_iter().map(flag).collect()
}

fn flag(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
    let value = if flag.value.is_empty() { String::new() } else { format!(" {}", flag.value) };
    let default = match flag.default {
        "" => String::new(),
        default => format!(" (default {default})"),
    };
    let help = wrapped(&format!("{}{default}", flag.help), INDENT);
    format!("  {short}--{}{value}\n{help}", flag.long)
}

/// A shell's line, over several where it is long, so that it can be copied as it stands.
fn continued(line: &str) -> String {
    if line.len() + 2 <= COLUMNS {
        return format!("  {line}\n");
    }
    let lines = wrapped(line, 6);
    let lines: Vec<_> = lines.lines().map(str::trim).collect();
    format!("  {}\n", lines.join(" \\\n      "))
}

/// Lines of at most [`COLUMNS`], each with its line end.
fn wrapped(text: &str, indent: usize) -> String {
    let blank = " ".repeat(indent);
    let mut lines = String::new();
    let mut line = blank.clone();
    for word in text.split_whitespace() {
        let is_first = line.len() == indent;
        if !is_first && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push_str(&line);
            lines.push('\n');
            line = format!("{blank}{word}");
            continue;
        }
        if !is_first {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ROOT;

    #[test]
    fn help_of_every_command() {
        insta::assert_snapshot!("root", of(&ROOT, "bowline"));
        for command in COMMANDS {
            insta::assert_snapshot!(command.name, of(command, "bowline"));
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        for command in COMMANDS {
            for line in of(command, "bowline").lines() {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
    }
}
