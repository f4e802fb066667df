//! A table of flags and the words of a command line to values, by the rules of Go's pflag.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};
use thiserror::Error;

use super::span::{BadSpan, Span};
use super::table::{Command, Flag, Kind, Words};

/// Why a command line cannot be read. The words are pflag's, without `error: `.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadFlag {
    /// `--name` is not in the table.
    #[error("unknown flag: --{0}")]
    Unknown(String),
    /// A letter is not in the table; with the group from that letter on.
    #[error("unknown shorthand flag: {0:?} in -{1}")]
    UnknownShort(char, String),
    /// Nothing follows a flag that takes a value.
    #[error("flag needs an argument: {0}")]
    NeedsValue(String),
    /// `--=x`, `---x`.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// The value does not fit.
    #[error("invalid argument {value:?} for {flag:?} flag: {why}")]
    Value {
        /// What was given.
        value: String,
        /// Both names of the flag.
        flag: String,
        /// What is wrong with it.
        why: BadValue,
    },
    /// A word where the command takes none.
    #[error("unexpected argument {0:?}")]
    Word(String),
}

/// Why one value does not fit its flag, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadValue {
    /// Neither true nor false.
    #[error("strconv.ParseBool: parsing {0:?}: invalid syntax")]
    Bool(String),
    /// No number, or too large.
    #[error("strconv.ParseInt: parsing {0:?}: {1}")]
    Number(String, &'static str),
    /// No port.
    #[error("strconv.ParseUint: parsing {0:?}: {1}")]
    Port(String, &'static str),
    /// No address.
    #[error("failed to parse IP: {0:?}")]
    Address(String),
    /// No time.
    #[error(transparent)]
    Span(#[from] BadSpan),
    /// A number below one.
    #[error("must be greater than 0")]
    Positive,
    /// A time below zero.
    #[error("must not be negative")]
    Negative,
    /// Not one of the values that there are.
    #[error("must be one of: {0}")]
    Choice(&'static str),
    /// Bytes that are no text.
    #[error("invalid UTF-8")]
    Utf8,
}

/// What a command line gave, by the names of the flags.
#[derive(Debug)]
pub struct Values {
    matches: ArgMatches,
}

/// The name of a command's words among its arguments.
pub const WORDS: &str = "words";
const AFTER_DASHES: &str = "command";

/// Reads `args` (without the program's and the command's name) by the command's table.
///
/// # Errors
/// [`BadFlag`] for the first thing that does not fit.
pub fn read(command: &Command, args: &[OsString]) -> Result<Values, BadFlag> {
    let args: Vec<OsString> = dashes(args);
    let result = scanner(command).no_binary_name(true).try_get_matches_from(&args);
    match result {
        Ok(matches) => Ok(Values { matches }),
        Err(error) => Err(translate(command, &args, &error)),
    }
}

/// The command as clap knows it. Completion is made from it as well.
pub fn scanner(command: &Command) -> clap::Command {
    let scanner = clap::Command::new(command.name)
        .about(command.about)
        .disable_help_flag(true)
        .disable_version_flag(true)
        // pflag: the last of several wins.
        .args_override_self(true)
        .args(command.all_flags().map(argument));
    let words = Arg::new(WORDS).action(ArgAction::Append).num_args(0..);
    let words = words.value_parser(clap::value_parser!(OsString));
    match command.words {
        Words::None => scanner,
        Words::Some | Words::OneOf(_) => scanner.arg(words),
        Words::AndCommand => scanner.arg(words).arg(
            Arg::new(AFTER_DASHES)
                .last(true)
                .action(ArgAction::Append)
                .num_args(0..)
                .value_parser(clap::value_parser!(OsString)),
        ),
    }
}

fn argument(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.long).long(flag.long).short(flag.short).help(flag.help);
    let arg = match flag.kind {
        Kind::List | Kind::Each => arg.action(ArgAction::Append),
        _ => arg.action(ArgAction::Set),
    };
    // pflag takes the next word whatever it looks like.
    let takes_next = |arg: Arg| arg.allow_hyphen_values(true).value_name(flag.value);
    match flag.kind {
        Kind::Bool => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(bool_of),
        Kind::Text | Kind::List | Kind::Each => takes_next(arg),
        Kind::Number => takes_next(arg).value_parser(number_of),
        Kind::Port => takes_next(arg).value_parser(port_of),
        Kind::Address => takes_next(arg).value_parser(address_of),
        Kind::Span => takes_next(arg).value_parser(span_of),
    }
}

/// As Go's `strconv.ParseBool` reads it.
pub fn bool_of(text: &str) -> Result<bool, BadValue> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BadValue::Bool(text.to_owned())),
    }
}

fn number_of(text: &str) -> Result<i32, BadValue> {
    whole(text).map_err(|why| BadValue::Number(text.to_owned(), why))
}

fn port_of(text: &str) -> Result<u16, BadValue> {
    whole(text).map_err(|why| BadValue::Port(text.to_owned(), why))
}

fn whole<N: FromStr<Err = std::num::ParseIntError>>(text: &str) -> Result<N, &'static str> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    })
}

fn address_of(text: &str) -> Result<IpAddr, BadValue> {
    text.trim().parse().map_err(|_| BadValue::Address(text.to_owned()))
}

fn span_of(text: &str) -> Result<Span, BadValue> {
    Ok(Span::parse(text)?)
}

/// Kubernetes' programs take `_` for `-` in the names of flags.
fn dashes(args: &[OsString]) -> Vec<OsString> {
    let end = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let dashed = args[..end].iter().map(|arg| match arg.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            OsString::from(name.replace('_', "-") + value)
        }
        _ => arg.clone(),
    });
    dashed.chain(args[end..].iter().cloned()).collect()
}

/// clap's error in pflag's words.
fn translate(command: &Command, args: &[OsString], error: &clap::Error) -> BadFlag {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let culprit = text(ContextKind::InvalidArg);
    let value = text(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument => unknown(args, culprit),
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).and_then(|why| why.downcast_ref());
            let flag = named(command, culprit).map_or(culprit.to_owned(), Flag::both_names);
            let why: BadValue = why.cloned().unwrap_or(BadValue::Utf8);
            BadFlag::Value { value: value.to_owned(), flag, why }
        }
        ErrorKind::InvalidValue => match (args.last().and_then(|arg| arg.to_str()), culprit) {
            // Only the last word of all can lack its value.
            (Some(last), _) if last.starts_with("--") => BadFlag::NeedsValue(last.to_owned()),
            (Some(last), _) => match last.chars().next_back() {
                Some(letter) => BadFlag::NeedsValue(format!("{letter:?} in -{letter}")),
                None => BadFlag::Syntax(last.to_owned()),
            },
            (None, culprit) => BadFlag::NeedsValue(culprit.to_owned()),
        },
        // What is left is a value that is no text; clap does not say whose.
        _ => {
            let not_text = args.iter().find(|arg| arg.to_str().is_none());
            let shown = not_text.map(|arg| arg.to_string_lossy().into_owned());
            BadFlag::Syntax(shown.unwrap_or_else(|| culprit.to_owned()))
        }
    }
}

fn unknown(args: &[OsString], culprit: &str) -> BadFlag {
    if let Some(name) = culprit.strip_prefix("--") {
        let name = name.split('=').next().unwrap_or_default();
        return if name.is_empty() || name.starts_with('-') {
            BadFlag::Syntax(culprit.to_owned())
        } else {
            BadFlag::Unknown(name.to_owned())
        };
    }
    let letter = culprit.strip_prefix('-').and_then(|rest| rest.chars().next());
    let Some(letter) = letter else { return BadFlag::Word(culprit.to_owned()) };
    // pflag shows the group from the unknown letter on.
    let groups = args.iter().take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str());
    let mut groups = groups.filter(|arg| arg.starts_with('-') && !arg.starts_with("--"));
    let rest = groups.find_map(|group| group.find(letter).map(|at| group[at..].to_owned()));
    BadFlag::UnknownShort(letter, rest.unwrap_or_else(|| letter.to_string()))
}

/// A value that does not fit, as an error.
pub fn bad_value(flag: &Flag, value: &str, why: BadValue) -> BadFlag {
    BadFlag::Value { value: value.to_owned(), flag: flag.both_names(), why }
}

fn named(command: &Command, shown: &str) -> Option<&'static Flag> {
    let name = shown.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    command.all_flags().find(|flag| flag.long == name)
}

impl Values {
    fn one<T: Clone + Send + Sync + 'static>(&self, name: &str) -> Option<T> {
        self.matches.try_get_one::<T>(name).ok().flatten().cloned()
    }

    fn many<T: Clone + Send + Sync + 'static>(&self, name: &str) -> Vec<T> {
        let values = self.matches.try_get_many::<T>(name).ok().flatten();
        values.map(|values| values.cloned().collect()).unwrap_or_default()
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.one(name).unwrap_or(false)
    }

    /// Whether the flag stood on the command line.
    pub fn is_given(&self, name: &str) -> bool {
        self.matches.try_contains_id(name).unwrap_or(false)
    }

    /// A text that was given and is not empty: these flags take "" for "not given".
    pub fn text(&self, name: &str) -> Option<String> {
        self.one(name).filter(|text: &String| !text.is_empty())
    }

    /// A path that was given and is not empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// The parts of a list that are not empty.
    pub fn list(&self, name: &str) -> Vec<String> {
        let mut parts = self.items(name);
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// The parts of a list, by pflag's rule: a value of no letters has none, between two commas is
    /// an empty one.
    pub fn items(&self, name: &str) -> Vec<String> {
        let values = self.many::<String>(name);
        let values = values.iter().filter(|value| !value.is_empty());
        values.flat_map(|value| value.split(',')).map(str::to_owned).collect()
    }

    /// Every value of a flag that may be repeated.
    pub fn each(&self, name: &str) -> Vec<String> {
        self.many(name)
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.one(name)
    }

    /// A port.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.one(name)
    }

    /// An address.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.one(name)
    }

    /// A time that may be nothing but not less.
    ///
    /// # Errors
    /// [`BadValue::Negative`].
    pub fn not_negative(&self, flag: &Flag, or: Duration) -> Result<Duration, BadFlag> {
        let Some(span) = self.span(flag.long) else { return Ok(or) };
        span.not_negative().ok_or_else(|| bad_value(flag, &span.to_string(), BadValue::Negative))
    }

    /// A number of things of which there must be one.
    ///
    /// # Errors
    /// [`BadFlag`] for one below 1.
    pub fn positive(&self, flag: &Flag, or: usize) -> Result<usize, BadFlag> {
        let Some(number) = self.number(flag.long) else { return Ok(or) };
        let positive = usize::try_from(number).ok().filter(|number| *number > 0);
        positive.ok_or_else(|| bad_value(flag, &number.to_string(), BadValue::Positive))
    }

    /// A time.
    pub fn span(&self, name: &str) -> Option<Span> {
        self.one(name)
    }

    /// The words before `--`.
    pub fn words(&self) -> Vec<OsString> {
        self.many(WORDS)
    }

    /// The words after `--`.
    pub fn command(&self) -> Vec<OsString> {
        self.many(AFTER_DASHES)
    }
}
