//! A table of flags and the words of a command line to values, by the rules of Go's pflag.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lexopt::Arg;
use thiserror::Error;

use super::go_duration::{BadDuration, GoDuration};
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
    GoDuration(#[from] BadDuration),
    /// A number below one.
    #[error("must be greater than 0")]
    Positive,
    /// A time below zero.
    #[error("must not be negative")]
    Negative,
    /// Not one of the values that there are.
    #[error("must be one of: {0}")]
    Choice(String),
    /// Not a name and a value.
    #[error("must be NAME=VALUE")]
    Pair,
    /// Not the address of a socket.
    #[error("must be a unix socket, as in unix:///run/containerd/containerd.sock")]
    Endpoint,
    /// Not an API server.
    #[error("must be [NAME=]FILE[#CONTEXT]: letters, digits, '-', '.' and '_' for the name")]
    Upstream,
    /// Not a network.
    #[error("must be a network, as in 10.0.0.0/8")]
    Network,
    /// The name of another one.
    #[error("has the name of another one")]
    UpstreamTwice,
    /// Bytes that are no text.
    #[error("invalid UTF-8")]
    Utf8,
}

/// What a command line gave, by the names of the flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Values that fit, in the order of the line.
    given: Vec<(&'static str, String)>,
    words: Vec<OsString>,
    command: Vec<OsString>,
}

/// Reads `args` (without the program's and the command's name) by the command's table.
///
/// # Errors
/// [`BadFlag`] for the first thing that does not fit.
pub fn read(command: &Command, args: &[OsString]) -> Result<Values, BadFlag> {
    let mut values = Values::default();
    let mut parser = lexopt::Parser::from_args(args);
    // The word that is read, and its last flag.
    let (mut word, mut last) = (String::new(), None);
    loop {
        if let Some(raw) = parser.try_raw_args() {
            let next = raw.as_slice().first();
            if command.words == Words::AndCommand && next.is_some_and(|next| next == "--") {
                values.command = raw.skip(1).collect();
                return Ok(values);
            }
            word = next.map(|next| next.to_string_lossy().into_owned()).unwrap_or_default();
        }
        let flag = match parser.next() {
            Ok(None) => return Ok(values),
            Ok(Some(Arg::Value(word))) => {
                if command.words == Words::None {
                    return Err(BadFlag::Word(word.to_string_lossy().into_owned()));
                }
                values.words.push(word);
                continue;
            }
            Ok(Some(Arg::Long(name))) => long(command, name, &word)?,
            Ok(Some(Arg::Short(letter))) => short(command, letter, &word)?,
            // The value of a switch: it takes none that has no `=`.
            Err(lexopt::Error::UnexpectedValue { value, .. }) => {
                if value.is_empty() && !word.starts_with("--") {
                    // To pflag a `=` that ends a group is a letter.
                    return Err(BadFlag::UnknownShort('=', "=".to_owned()));
                }
                values.give(last.ok_or(BadFlag::Syntax(word.clone()))?, value)?;
                continue;
            }
            Err(_) => return Err(BadFlag::Syntax(word)),
        };
        last = Some(flag);
        if flag.kind == Kind::Bool {
            values.give(flag, "true".into())?;
            continue;
        }
        // pflag takes the next word whatever it looks like.
        let value = parser.value().map_err(|_| match flag.short {
            Some(letter) if !word.starts_with("--") => format!("{letter:?} in -{letter}"),
            _ => word.clone(),
        });
        values.give(flag, value.map_err(BadFlag::NeedsValue)?)?;
    }
}

fn long(command: &Command, name: &str, word: &str) -> Result<&'static Flag, BadFlag> {
    if name.is_empty() || name.starts_with('-') {
        return Err(BadFlag::Syntax(word.to_owned()));
    }
    // Kubernetes' programs take `_` for `-` in the names of flags.
    let dashed = name.replace('_', "-");
    let flag = command.all_flags().find(|flag| flag.long == dashed);
    flag.ok_or_else(|| BadFlag::Unknown(name.to_owned()))
}

fn short(command: &Command, letter: char, word: &str) -> Result<&'static Flag, BadFlag> {
    let flag = command.all_flags().find(|flag| flag.short == Some(letter));
    // pflag shows the group from the unknown letter on.
    let rest = || word.find(letter).map_or(letter.to_string(), |at| word[at..].to_owned());
    flag.ok_or_else(|| BadFlag::UnknownShort(letter, rest()))
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

fn duration_of(text: &str) -> Result<GoDuration, BadValue> {
    Ok(GoDuration::parse(text)?)
}

/// A value that does not fit, as an error.
pub fn bad_value(flag: &Flag, value: &str, why: BadValue) -> BadFlag {
    BadFlag::Value { value: value.to_owned(), flag: flag.both_names(), why }
}

impl Values {
    /// Puts these over others, of a file: a flag that is given here is not taken from there.
    #[must_use]
    pub fn over(mut self, file: Values) -> Values {
        let from_file = file.given.into_iter().filter(|(name, _)| !self.is_given(name));
        let mut given: Vec<_> = from_file.collect();
        given.append(&mut self.given);
        Values { given, ..self }
    }

    /// Takes a value that fits its flag.
    ///
    /// # Errors
    /// [`BadFlag`] for one that does not.
    pub fn give(&mut self, flag: &'static Flag, value: OsString) -> Result<(), BadFlag> {
        let value = value
            .into_string()
            .map_err(|bytes| bad_value(flag, &bytes.to_string_lossy(), BadValue::Utf8))?;
        let fits = match flag.kind {
            Kind::Bool => bool_of(&value).map(|_| ()),
            Kind::Text | Kind::List | Kind::Each => Ok(()),
            Kind::Number => number_of(&value).map(|_| ()),
            Kind::Port => port_of(&value).map(|_| ()),
            Kind::Address => address_of(&value).map(|_| ()),
            Kind::Duration => duration_of(&value).map(|_| ()),
        };
        fits.map_err(|why| bad_value(flag, &value, why))?;
        self.given.push((flag.long, value));
        Ok(())
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let all = self.given.iter().filter(move |given| given.0 == name);
        all.map(|given| given.1.as_str())
    }

    /// pflag: the last of several wins.
    fn last<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, BadValue>) -> Option<T> {
        self.all(name).last().and_then(|value| read(value).ok())
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.last(name, bool_of).unwrap_or(false)
    }

    /// Whether the flag stood on the command line.
    pub fn is_given(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// A text that was given and is not empty: these flags take "" for "not given".
    pub fn text(&self, name: &str) -> Option<String> {
        self.all(name).last().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// What the word that was given stands for, or else that of the default. `words` are all that
    /// there are.
    ///
    /// # Errors
    /// [`BadFlag`] for any other word.
    pub fn choice<T: Copy>(&self, flag: &Flag, words: &[(&str, T)]) -> Result<T, BadFlag> {
        let given = self.text(flag.long);
        let word = given.as_deref().unwrap_or(flag.default);
        let found = words.iter().find(|known| known.0 == word);
        found.map(|known| known.1).ok_or_else(|| {
            let all: Vec<_> = words.iter().map(|known| known.0).collect();
            bad_value(flag, word, BadValue::Choice(all.join(", ")))
        })
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
        let values = self.all(name).filter(|value| !value.is_empty());
        values.flat_map(|value| value.split(',')).map(str::to_owned).collect()
    }

    /// Every value of a flag that may be repeated.
    pub fn each(&self, name: &str) -> Vec<String> {
        self.all(name).map(str::to_owned).collect()
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.last(name, number_of)
    }

    /// A port.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.last(name, port_of)
    }

    /// An address.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.last(name, address_of)
    }

    /// A time that may be nothing but not less.
    ///
    /// # Errors
    /// [`BadValue::Negative`].
    pub fn not_negative(&self, flag: &Flag, or: Duration) -> Result<Duration, BadFlag> {
        let Some(duration) = self.duration(flag.long) else { return Ok(or) };
        duration
            .not_negative()
            .ok_or_else(|| bad_value(flag, &duration.to_string(), BadValue::Negative))
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

    /// A number of things of which there may be none; `or` where the flag is not given.
    ///
    /// # Errors
    /// [`BadFlag`] for one below 0.
    pub fn count(&self, flag: &Flag, or: usize) -> Result<usize, BadFlag> {
        let Some(number) = self.number(flag.long) else { return Ok(or) };
        let count = usize::try_from(number);
        count.map_err(|_| bad_value(flag, &number.to_string(), BadValue::Negative))
    }

    /// A time.
    pub fn duration(&self, name: &str) -> Option<GoDuration> {
        self.last(name, duration_of)
    }

    /// The words before `--`.
    pub fn words(&self) -> Vec<OsString> {
        self.words.clone()
    }

    /// The words after `--`.
    pub fn command(&self) -> Vec<OsString> {
        self.command.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::exec::COMMAND;
    use super::*;

    /// The words are those of kubectl 1.37, to which the same lines were given.
    #[test]
    fn the_first_thing_that_does_not_fit_is_told_in_pflags_words() {
        for (line, expected) in [
            ("--=x", "bad flag syntax: --=x"),
            ("---x", "bad flag syntax: ---x"),
            ("--un_known=1", "unknown flag: --un_known"),
            ("pod -ixc", "unknown shorthand flag: 'x' in -xc"),
            ("-i=", "unknown shorthand flag: '=' in -="),
            ("-itc", "flag needs an argument: 'c' in -c"),
            ("pod --container", "flag needs an argument: --container"),
            (
                "-i=maybe --unknown",
                "invalid argument \"maybe\" for \"-i, --stdin\" flag: strconv.ParseBool: parsing \
                 \"maybe\": invalid syntax",
            ),
            (
                "--pod_running_timeout -t=true --unknown",
                "invalid argument \"-t=true\" for \"--pod-running-timeout\" flag: time: invalid \
                 duration \"-t=true\"",
            ),
        ] {
            let args: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert_eq!(read(&COMMAND, &args).unwrap_err().to_string(), expected, "{line}");
        }
    }

    #[test]
    fn the_last_value_wins_and_dashes_end_the_flags() {
        let line = "-i -cx --stdin=false --container y pod - -- -t --";
        let args: Vec<OsString> = line.split(' ').map(Into::into).collect();
        let values = read(&COMMAND, &args).unwrap();
        assert!(values.is_given("stdin") && !values.is_on("stdin"));
        assert_eq!(values.text("container").as_deref(), Some("y"));
        assert_eq!(values.words(), ["pod", "-"]);
        assert_eq!(values.command(), ["-t", "--"]);
    }
}
