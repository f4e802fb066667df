//! What a command is, as data: parsing, help and completion are made from the same tables.

/// A command: how it is called, what its help says, which flags it takes.
#[derive(Debug)]
pub struct Command {
    /// The word that calls it.
    pub name: &'static str,
    /// One line for the list of commands; also the first line of its own help.
    pub about: &'static str,
    /// What a newcomer has to know before using it. Paragraphs are divided by empty lines.
    pub text: &'static str,
    /// What follows the name on the usage line.
    pub usage: &'static str,
    /// Each: what one wants, and the line that does it (without the program's name).
    pub examples: &'static [(&'static str, &'static str)],
    /// Its own flags, in the order of the help.
    pub flags: &'static [Flag],
    /// Flags that it shares with other commands.
    pub shared: &'static [Flag],
    /// Whether words that are no flags may follow.
    pub words: Words,
}

impl Command {
    /// All flags that it takes.
    pub fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().chain(self.shared)
    }
}

/// The words that a command takes besides flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// None at all.
    None,
    /// Some; the command itself says how many.
    Some,
    /// Some, and after `--` the words of a command to run.
    AndCommand,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name after `--`.
    pub long: &'static str,
    /// Its letter after `-`.
    pub short: Option<char>,
    /// What it takes.
    pub kind: Kind,
    /// The word that stands for its value in help.
    pub value: &'static str,
    /// The default as help shows it; empty where the default is "nothing".
    pub default: &'static str,
    /// What it does, in one or two sentences.
    pub help: &'static str,
}

/// What a flag takes, and how that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag` or `--flag=BOOL`.
    Bool,
    /// Any text.
    Text,
    /// Texts, divided by commas, and the flag may be repeated.
    List,
    /// Texts with their commas; the flag may be repeated.
    Each,
    /// A whole number.
    Number,
    /// A TCP port; 0 lets the system choose.
    Port,
    /// An IP address.
    Address,
    /// A time as Go writes it: `1m30s`.
    Duration,
}

impl Flag {
    const fn new(long: &'static str, kind: Kind, value: &'static str, help: &'static str) -> Flag {
        Flag { long, short: None, kind, value, default: "", help }
    }

    /// A switch.
    pub const fn switch(long: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Bool, "", help)
    }

    /// A flag with any text as its value.
    pub const fn text(long: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Text, value, help)
    }

    /// A flag with a list as its value.
    pub const fn list(long: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::List, value, help)
    }

    /// A flag that may be repeated.
    pub const fn each(long: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Each, value, help)
    }

    /// A flag with a number as its value.
    pub const fn number(long: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Number, value, help)
    }

    /// A flag with a port as its value.
    pub const fn port(long: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Port, "PORT", help)
    }

    /// A flag with an IP address as its value.
    pub const fn address(long: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Address, "IP", help)
    }

    /// A flag with a time as its value.
    pub const fn duration(long: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Duration, "TIME", help)
    }

    /// With a letter.
    pub const fn short(mut self, letter: char) -> Flag {
        self.short = Some(letter);
        self
    }

    /// With a default.
    pub const fn default(mut self, text: &'static str) -> Flag {
        self.default = text;
        self
    }

    /// The flag as pflag's messages name it: `-t, --tty`.
    pub fn both_names(&self) -> String {
        match self.short {
            Some(letter) => format!("-{letter}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }
}
