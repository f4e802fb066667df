//! The terminal of a kept session that is left and resumed: it shows what one shows that was there
//! all the time, modes included, and is as before once the session is left.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_interop::client::PATIENCE;
use bowline_interop::emulated::{Emulated, Seen};
use bowline_interop::relay::{Cut, Relay};
use bowline_interop::server::{Server, until};
use tempfile::TempDir;

use super::bowline;

/// The size in which a session begins, and the one in which it is resumed.
const FIRST: (u16, u16) = (24, 80);
const LATER: (u16, u16) = (30, 100);

/// How much a connection carries that is to be lost.
const LOST_AFTER: u64 = 200_000;

const DETACH: &str = "\x10\x11";

/// A program with the whole screen, which writes it when it hears of another size: 2 MB between
/// that, once there is a file `go`.
const FULL_SCREEN: &str = r#"
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

/// A cluster, where its sessions are written down, and where commands run.
struct Place {
    dev: Server,
    state: TempDir,
    work: TempDir,
}

impl Place {
    fn new() -> Place {
        let dev = Server::dev(bowline(), &[]);
        Place { dev, state: TempDir::new().unwrap(), work: TempDir::new().unwrap() }
    }

    fn bowline(&self, words: &[&str]) -> Command {
        let mut command = Command::new(bowline());
        command.arg(words[0]).args(["--kubeconfig", &self.dev.kubeconfig()]).args(&words[1..]);
        command.env("XDG_STATE_HOME", self.state.path()).env("TERM", "xterm-256color");
        command
    }

    fn has(&self, name: &str) -> bool {
        self.work.path().join(name).exists()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.work.path().join(name), text).unwrap();
    }

    /// Starts a command in the directory for it.
    fn exec(&self, flags: &[&str], command: &[&str], size: (u16, u16)) -> Emulated {
        let go = "cd \"$1\" && shift && export TERM=xterm-256color LC_ALL=C.UTF-8 && exec \"$@\"";
        let work = self.work.path().to_str().unwrap();
        let words = ["sh", "-c", go, "sh", work];
        let words = [&["exec"], flags, &["nginx", "--"], &words, command].concat();
        Emulated::start(&self.bowline(&words), size.0, size.1)
    }

    /// Another address of the server, where the first long connection is lost after so many bytes,
    /// and all others until it is up again.
    fn cut_off(&self, after: u64) -> (String, Arc<AtomicBool>) {
        let is_up = Arc::new(AtomicBool::new(false));
        let (up, mut left) = (is_up.clone(), 2);
        let relay = Relay::start(self.dev.address(), move || {
            // The first one finds the pod, the second is the session's.
            left = i32::max(left - 1, -1);
            let cut = Cut { after: if left >= 0 { after } else { 0 }, resets: true };
            (!up.load(Ordering::Relaxed)).then_some(cut)
        });
        (format!("https://{}", relay.address), is_up)
    }

    /// The only session that was started from here.
    fn session(&self) -> String {
        let list = self.bowline(&["session", "list"]).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let name = list.lines().nth(1).and_then(|line| line.split(' ').next());
        name.unwrap_or_else(|| panic!("no session in {list:?}")).to_owned()
    }

    fn resume(&self, size: (u16, u16)) -> Emulated {
        Emulated::start(&self.bowline(&["session", "resume", &self.session()]), size.0, size.1)
    }
}

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Killed,
    ByKeys,
    /// Its connection is lost while the command writes, and there is none until all is written.
    Lost,
}

/// A program, and what a person does with it.
struct Part<'a> {
    command: &'a [&'a str],
    /// Typed once the program shows the text.
    ready: &'a str,
    keys: &'a str,
    /// What is shown then.
    begun: &'a str,
    /// Starts what is written while nobody is there.
    bursts: &'a dyn Fn(&Path),
    leaves: Leaves,
}

fn begin(place: &Place, part: &Part<'_>, flags: &[&str], size: (u16, u16)) -> Emulated {
    let mut terminal = place.exec(flags, part.command, size);
    terminal.shows(part.ready);
    terminal.types(part.keys);
    terminal.shows(part.begun);
    terminal
}

fn burst(place: &Place, part: &Part<'_>) {
    (part.bursts)(place.work.path());
    place.write("go", "");
    until("the burst is over", PATIENCE, || place.has("done"));
}

/// What a session shows in the end that nobody ever left.
fn undisturbed(part: &Part<'_>, prepare: &dyn Fn(&Place), is_over: &dyn Fn(&Seen) -> bool) -> Seen {
    let place = Place::new();
    prepare(&place);
    let mut terminal = begin(&place, part, &["-it"], LATER);
    burst(&place, part);
    // All that it has to show was read once it has shown the same for a while: nothing says that it
    // is over.
    terminal.until("the burst is shown", |terminal| is_over(&terminal.seen()));
    terminal.seen()
}

fn compare(part: &Part<'_>, prepare: &dyn Fn(&Place), is_over: &dyn Fn(&Seen) -> bool) {
    let expected = undisturbed(part, prepare, is_over);
    let place = Place::new();
    prepare(&place);
    let is_same = format!("the same as {expected:#?}");
    let is_lost = part.leaves == Leaves::Lost;
    let (mut first, is_up) = if is_lost {
        let (server, is_up) = place.cut_off(LOST_AFTER);
        let flags = ["--keep", "-itq", "--server", &server];
        (begin(&place, part, &flags, LATER), Some(is_up))
    } else {
        (begin(&place, part, &["--keep", "-it"], FIRST), None)
    };
    match part.leaves {
        Leaves::Killed => first.kill(),
        Leaves::ByKeys => leave(&mut first),
        Leaves::Lost => {}
    }
    burst(&place, part);
    if let Some(is_up) = is_up {
        is_up.store(true, Ordering::Relaxed);
        first.until(&is_same, |first| first.seen() == expected);
        leave(&mut first);
        return;
    }
    let mut second = place.resume(LATER);
    second.until(&is_same, |second| second.seen() == expected);
    // Once more, in the size that it has now.
    leave(&mut second);
    let mut third = place.resume(LATER);
    third.until(&is_same, |third| third.seen() == expected);
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

#[test]
fn a_program_with_the_whole_screen() {
    for leaves in [Leaves::Killed, Leaves::ByKeys, Leaves::Lost] {
        let part = Part {
            command: &["sh", "-c", FULL_SCREEN],
            ready: "size 24 80",
            keys: "",
            begun: "body",
            bursts: &|_| (),
            leaves,
        };
        let ready = Part { ready: "body", ..part };
        compare(&ready, &|_| (), &|seen| seen.contents.contains("body") && paste_is_off(seen));
    }
}

fn paste_is_off(seen: &Seen) -> bool {
    !seen.input_modes.contains("\x1b[?2004h")
}

/// Whether this machine has a program that a test would like to have as well. What is certain is
/// tested without any.
#[expect(clippy::disallowed_macros, reason = "a test says what it leaves out")]
fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_here = std::env::split_paths(&paths).any(|path| path.join(program).exists());
    if !is_here {
        eprintln!("{program} is not here: nothing is said of it");
    }
    is_here
}

#[test]
fn an_editor() {
    if !has("vim") {
        return;
    }
    let part = Part {
        command: &["vim", "-u", "NONE", "-N", "-c", "set mouse=a ruler", "text"],
        ready: "line 20",
        keys: ":7\r:source burst.vim\r",
        begun: ":source burst.vim",
        bursts: &|_| (),
        leaves: Leaves::Killed,
    };
    let prepare = |place: &Place| {
        let lines: String = (1..=300).map(|line| format!("line {line}\n")).collect();
        place.write("text", &lines);
        place.write(
            "burst.vim",
            "while !filereadable('go') | sleep 20m | endwhile\n\
             for i in range(3000) | redraw! | endfor\n\
             call setline(9, 'changed') | redraw! | call writefile([], 'done')\n",
        );
    };
    compare(&part, &prepare, &|seen| {
        // It is hidden until the editor waits for keys.
        seen.contents.contains("changed") && !seen.is_cursor_hidden
    });
}

#[test]
fn a_pager() {
    if !has("less") {
        return;
    }
    let part = Part {
        command: &["sh", "-c", "echo $$ > pid && exec less +F log"],
        ready: "Waiting for data",
        keys: "",
        begun: "first",
        bursts: &|work| {
            let lines: String = (1..=300_000).map(|line| format!("{line}\n")).collect();
            let log = work.join("log");
            let mut file = std::fs::File::options().append(true).open(&log).unwrap();
            std::io::Write::write_all(&mut file, lines.as_bytes()).unwrap();
            let id = std::fs::read_to_string(work.join("pid")).unwrap();
            let end = format!("pos:\t{}\n", std::fs::metadata(&log).unwrap().len());
            let is_read = || {
                let all = std::fs::read_dir(format!("/proc/{}/fdinfo", id.trim())).unwrap();
                all.flatten().any(|file| {
                    std::fs::read_to_string(file.path()).is_ok_and(|info| info.starts_with(&end))
                })
            };
            until("the pager has read it", PATIENCE, is_read);
            std::fs::write(work.join("done"), "").unwrap();
        },
        leaves: Leaves::Killed,
    };
    compare(&part, &|place| place.write("log", "first\n"), &|seen| {
        seen.contents.contains("300000") && seen.contents.contains("Waiting for data")
    });
}

#[test]
fn a_shell_with_brackets_around_what_is_pasted() {
    if !has("bash") {
        return;
    }
    let part = Part {
        command: &["bash", "--norc", "--noprofile", "-i"],
        ready: "bash-",
        keys: "until [ -e go ]; do sleep .05; done; seq 330000; : > done\r",
        begun: ": > done",
        bursts: &|_| (),
        leaves: Leaves::ByKeys,
    };
    compare(&part, &|_| (), &|seen| {
        seen.contents.contains("330000\r\nbash-") && !paste_is_off(seen)
    });
}
