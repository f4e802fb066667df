//! The terminal of a kept session that is left and resumed in another size: it shows what one shows
//! that was there all the time, modes included, and is as before once the session is left.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::client::{Client, Input, PATIENCE};
use crate::emulated::{Emulated, Seen};
use crate::relay::{Cut, Relay};

/// The size in which a session begins, and the one in which it is resumed.
const FIRST: (u16, u16) = (24, 80);
const LATER: (u16, u16) = (30, 100);

/// What each program writes while nobody is there, at least.
const BURST_BYTES: u64 = 2_000_000;
/// What is shown of it before the client goes, where the client has begun it.
const SHOWN_BYTES: u64 = 20_000;
/// How much a connection still carries that is to be lost.
const LOST_AFTER: u64 = 200_000;

/// How often the whole screen is asked for by a key.
const TIMES: usize = 1500;

const DETACH: &str = "\x10\x11";

/// Makes a directory with a text of 300 lines, and a script of an editor's that writes the whole
/// screen many times.
const PREPARE: &str = "cd \"$(mktemp -d)\" && pwd && seq 300 |
    sed 's/.*/line & of a text that is not quite as wide as a terminal of eighty/' >text &&
    { seq 1500 | sed 's/.*/redraw!/' && echo 'silent w! done'; } >burst";

/// Runs a command in a directory; its arguments are this, a size that is waited for, if one is, and
/// the command's words. A kubelet's runtime starts a command before it has heard of the size.
const GO: &str = "cd \"$1\" && size=$2 && shift 2 && echo $$ >pid &&
    until [ \"$(stty size)\" = \"${size:-$(stty size)}\" ]; do sleep 0.05; done &&
    export TERM=xterm-256color LC_ALL=C.UTF-8 PS1='$ ' && exec \"$@\"";

/// A program, and what a person does with it.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// For messages.
    pub name: &'static str,
    /// What is run.
    pub command: &'static [&'static str],
    /// Typed once the program shows the text.
    pub ready: &'static str,
    /// Make it write the burst: once there is a file `go`, or at once. Behind that it makes a file
    /// `done`.
    pub keys: fn() -> String,
    /// What is shown before its client may go; nothing where the burst begins at once.
    pub begun: Option<&'static str>,
    /// Whether this is what is shown in the end.
    pub is_over: fn(&Emulated) -> bool,
}

/// Has the whole screen, all modes, and writes the screen anew when it hears of another size.
pub const FULL_SCREEN: Program = Program {
    name: "the whole screen",
    command: &["sh", "-c", SCRIPT],
    ready: "body",
    keys: String::new,
    begun: Some("body"),
    is_over: |terminal| terminal.text().contains("body") && !brackets_pastes(terminal),
};

const SCRIPT: &str = r#"
draw() {
    printf '\033[H\033[2J\033[7m size %s \033[m\r\n\n\033[31mbody' "$(stty size)"
}
stty -echo
trap draw WINCH
printf '\033[?1049h\033[?1h\033=\033[?2004h\033[?1002h\033[?1006h\033[?25l\033[4 q'
draw
until [ -e go ]; do sleep 0.05 & wait $!; done
line=$(printf '%01000d' 0)
i=0
while [ $i -lt 2000 ]; do
    printf '\033[H%s' "$line"
    i=$((i + 1))
done
printf '\033[?2004l'
draw
: > done
while :; do sleep 0.05 & wait $!; done
"#;

/// Vim, also the smallest.
pub const VIM: Program = Program {
    name: "vim",
    command: &["vim", "-u", "NONE", "-N", "-c", "set ruler", "text"],
    ready: "line 20 ",
    keys: || ":7\r:source burst\r9G".into(),
    begun: None,
    is_over: |terminal| terminal.text().contains("9,1 ") && is_cursor_shown(terminal),
};

/// Vim where it is called by its whole name.
pub const VIM_TINY: Program =
    Program { command: &["vim.tiny", "-u", "NONE", "-N", "-c", "set ruler", "text"], ..VIM };

/// The editor of busybox. Ctrl-L makes it write the screen anew.
pub const VI: Program = Program {
    name: "vi",
    command: &["vi", "text"],
    ready: "- text 1/300",
    keys: || format!("7G{}:w! done\r9G", "\x0c".repeat(TIMES)),
    begun: None,
    is_over: |terminal| terminal.text().contains("- text 9/300"),
};

/// GNU's pager.
pub const LESS: Program = Program {
    name: "less",
    command: &["less", "text"],
    ready: "line 20 ",
    keys: || format!("{}!: >done\r\r5g", "gG".repeat(TIMES / 2)),
    begun: None,
    is_over: |terminal| terminal.text().starts_with("line 5 ") && is_at_prompt(terminal),
};

/// The pager of busybox, which saves what it shows in a file.
pub const LESS_OF_BUSYBOX: Program =
    Program { keys: || format!("{}sdone\r5g", "gG".repeat(TIMES / 2)), ..LESS };

/// A shell that asks for brackets around what is pasted.
pub const BASH: Program = Program {
    name: "bash",
    command: &["bash", "--norc", "--noprofile", "-i"],
    ready: "$ ",
    keys: || "until [ -e go ]; do sleep .05; done; seq 330000 | cat; : > done\r".into(),
    begun: Some(": > done"),
    is_over: |terminal| terminal.text().ends_with("330000\n$ ") && brackets_pastes(terminal),
};

/// Any shell.
pub const SHELL: Program = Program {
    name: "sh",
    command: &["sh", "-i"],
    is_over: |terminal| terminal.text().ends_with("330000\n$ "),
    ..BASH
};

fn brackets_pastes(terminal: &Emulated) -> bool {
    terminal.seen().input_modes.contains("\x1b[?2004h")
}

/// An editor hides it until it waits for keys.
fn is_cursor_shown(terminal: &Emulated) -> bool {
    !terminal.seen().is_cursor_hidden
}

fn is_at_prompt(terminal: &Emulated) -> bool {
    terminal.text().ends_with("\n:")
}

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// Killed, and another one resumes.
    Killed,
    /// By the keys for that, and another one resumes.
    ByKeys,
    /// Its connection is lost while the command writes, and there is none until all is written.
    Lost,
}

/// All of them.
pub const LEAVES: [Leaves; 3] = [Leaves::Killed, Leaves::ByKeys, Leaves::Lost];

/// A directory where commands run, and where their sessions are written down.
struct Place<'a> {
    client: &'a Client,
    state: TempDir,
    directory: String,
}

impl<'a> Place<'a> {
    fn new(client: &'a Client) -> Place<'a> {
        let left = client.run(&[], &["sh", "-c", PREPARE], Input::Nothing);
        assert!(left.status.success(), "{}: {left:?}", client.name);
        let directory = String::from_utf8(left.stdout).unwrap().trim().to_owned();
        Place { client, state: TempDir::new().unwrap(), directory }
    }

    /// Runs a script in the directory.
    fn does(&self, script: &str) -> bool {
        let words = ["sh", "-c", "cd \"$1\" && eval \"$2\"", "sh", &self.directory, script];
        self.client.run(&[], &words, Input::Nothing).status.success()
    }

    fn starts(&self, flags: &[&str], program: &Program, size: (u16, u16)) -> Emulated {
        let awaited = match flags.contains(&"--keep") {
            true => String::new(),
            false => format!("{} {}", size.0, size.1),
        };
        let words = [&["sh", "-c", GO, "sh", &self.directory, &awaited], program.command].concat();
        self.on_terminal(&mut self.client.process(flags, &words), size)
    }

    fn on_terminal(&self, command: &mut Command, size: (u16, u16)) -> Emulated {
        command.env("XDG_STATE_HOME", self.state.path()).env("TERM", "xterm-256color");
        Emulated::start(command, size.0, size.1)
    }

    /// `bowline session` with these words.
    fn session(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.client.program);
        command.arg("session").args(words).args(&self.client.words[1..]);
        command
    }

    /// The only session that was started from here goes on.
    fn resumes(&self) -> Emulated {
        let mut list = self.session(&["list"]);
        let list = list.env("XDG_STATE_HOME", self.state.path()).output().unwrap();
        let text = String::from_utf8(list.stdout).unwrap();
        let name = text.lines().nth(1).and_then(|line| line.split(' ').next());
        let name = name.unwrap_or_else(|| panic!("no session in {text:?}"));
        self.on_terminal(&mut self.session(&["resume", name]), LATER)
    }

    /// Types what makes the program write the burst.
    fn begins(&self, terminal: &mut Emulated, program: &Program) {
        terminal.shows(program.ready);
        let before = terminal.read_bytes();
        terminal.types(&(program.keys)());
        if let Some(text) = program.begun {
            return terminal.shows(text);
        }
        terminal.until("the burst begins", |now| now.read_bytes() > before + SHOWN_BYTES);
    }

    /// Waits there until this is so; whether it was within the patience of all tests. A command
    /// for each question would take the time from what is waited for.
    fn becomes(&self, condition: &str) -> bool {
        let looks = 10 * (PATIENCE.as_secs() - 20);
        self.does(&format!(
            "i=0; until {condition}; do [ $((i += 1)) -lt {looks} ] || exit; sleep 0.1; done"
        ))
    }

    /// Waits until the program has written it; whether it has.
    fn bursts(&self) -> bool {
        self.becomes(": >go && [ -e done ]")
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.does("kill -KILL $(cat pid); rm -rf \"$1\"");
    }
}

/// What a session shows in the end that nobody ever left.
fn undisturbed(client: &Client, program: &Program) -> Seen {
    let place = Place::new(client);
    let mut terminal = place.starts(&["-it"], program, LATER);
    place.begins(&mut terminal, program);
    assert!(place.bursts(), "{}, {}: the burst is over", client.name, program.name);
    terminal.until("the burst is shown", program.is_over);
    assert!(terminal.read_bytes() > BURST_BYTES, "{}: {}", program.name, terminal.read_bytes());
    terminal.seen()
}

/// Leaves a program's session in each of these ways, and resumes it. The client is one of a pod
/// that keeps sessions, by a server at this address.
///
/// # Panics
/// If it does not show what one shows that was never left.
pub fn check(client: &Client, address: &str, program: &Program, leaves: &[Leaves]) {
    let expected = undisturbed(client, program);
    for leaves in leaves {
        let name = format!("{}, {leaves:?}", program.name);
        let client = client.named(&name);
        let is_same = format!("{}: the same as {expected:#?}", client.name);
        let place = Place::new(&client);
        if *leaves == Leaves::Lost {
            is_lost(&place, address, program, &|seen| *seen == expected, &is_same);
            continue;
        }
        let mut first = place.starts(&["--keep", "-it"], program, FIRST);
        place.begins(&mut first, program);
        if *leaves == Leaves::Killed {
            first.kill()
        } else {
            leave(&mut first)
        }
        let is_over = place.bursts();
        let mut second = place.resumes();
        if !is_over {
            second.until(&format!("{}: the burst is over", client.name), |_| false);
        }
        second.until(&is_same, |second| second.seen() == expected);
        // Once more, in the size that it has now.
        leave(&mut second);
        let mut third = place.resumes();
        third.until(&is_same, |third| third.seen() == expected);
    }
}

/// Asks the terminal where its cursor is, and keeps what is typed.
const ASKS: Program = Program {
    name: "a question",
    command: &["sh", "-c", "stty raw -echo; printf 'asked\\033[6n'; head -c 6 >got; cat >>got"],
    ready: "asked",
    keys: String::new,
    begun: None,
    is_over: |_| true,
};

/// A terminal's answer has come from a client that is killed then: another terminal is not asked
/// again.
///
/// # Panics
/// If it is.
pub fn is_asked_once(client: &Client) {
    let place = Place::new(client);
    let mut first = place.starts(&["--keep", "-it"], &ASKS, LATER);
    first.shows(ASKS.ready);
    assert!(place.becomes("[ -s got ]"), "{}: the answer has come", client.name);
    first.kill();
    let mut second = place.resumes();
    second.shows(ASKS.ready);
    second.types("typed");
    assert!(place.becomes("grep -q typed got"), "{}: what is typed has come", client.name);
    let file = format!("{}/got", place.directory);
    let got = client.run(&[], &["cat", &file], Input::Nothing);
    let text = String::from_utf8_lossy(&got.stdout);
    assert_eq!(text, "\x1b[1;6Rtyped", "{}", client.name);
}

/// The same client goes on.
fn is_lost(
    place: &Place<'_>,
    address: &str,
    program: &Program,
    is_expected: &dyn Fn(&Seen) -> bool,
    is_same: &str,
) {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = is_away.clone();
    let none = Cut { after: 0, resets: true };
    let cut = move || away.load(Ordering::Relaxed).then_some(none);
    let relay = Relay::start(address.to_owned(), cut);
    let server = format!("--server=https://{}", relay.address);
    let mut terminal = place.starts(&["--keep", "-itq", &server], program, LATER);
    place.begins(&mut terminal, program);
    is_away.store(true, Ordering::Relaxed);
    relay.cut(Cut { after: LOST_AFTER, resets: true });
    assert!(place.bursts(), "{is_same}: the burst is over");
    is_away.store(false, Ordering::Relaxed);
    terminal.until(is_same, |terminal| is_expected(&terminal.seen()));
    assert!(relay.cuts() > 0, "{is_same}");
    leave(&mut terminal);
}

/// Leaves by the keys: the terminal is as before.
fn leave(terminal: &mut Emulated) {
    terminal.types(DETACH);
    assert!(terminal.ends().success());
    let new = Emulated::start(&Command::new("true"), FIRST.0, FIRST.1).seen();
    let modes = |seen: Seen| Seen { contents: String::new(), ..seen };
    assert_eq!(modes(terminal.seen()), modes(new), "a terminal is left as it was");
    assert!(!terminal.is_raw());
}
