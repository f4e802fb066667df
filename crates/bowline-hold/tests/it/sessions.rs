//! Sessions whose connections are killed, and what is left of them.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use bowline_proto::kept::{
    ClientEvent, Frame, Leave, Mode, Reader, Resume, Start, Stream, refused,
};
use bowline_proto::machine::Machine;
use bowline_proto::outbox::Outbox;
use bowline_proto::session::{Outcome, Size, Wants};
use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::client::{PIPES, Place, Session, TERMINAL, random, read, start};

fn noise(bytes: usize) -> Vec<u8> {
    let block: [u8; 4096] = random();
    (0..bytes).map(|at| block[at % 4096] ^ (at / 4096) as u8).collect()
}

#[test]
fn every_byte_comes_once_though_the_connection_is_killed_many_times() {
    let place = Place::new(&["--linger", "0"]);
    let bytes = noise(20_000_000);
    let script = "echo ran >>ran; cat; echo done >&2; exit 7";
    let mut session = Session::start(&place, start(&["sh", "-c", script], PIPES));
    session = session.type_all(bytes.clone());
    let mut next = 300_000;
    session.until(|session| {
        if session.got() >= next {
            next = session.got() + 600_000;
            session.cut();
        }
        false
    });
    assert_eq!(session.ended(), Outcome::Exited(7));
    assert!(session.out[&Stream::Stdout] == bytes);
    assert_eq!(session.text(Stream::Stderr), "done\n");
    assert!(session.connections > 20, "{}", session.connections);
    assert_eq!(read(&place.file("ran")), "ran\n");
    assert_eq!(place.holders().len(), 1);
}

#[test]
fn two_clients_at_once_begin_one_holder() {
    let place = Place::new(&[]);
    let mut children: Vec<_> = (0..8)
        .map(|_| {
            let mut connect = place.connect();
            connect.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            connect.spawn().unwrap()
        })
        .collect();
    for child in &mut children {
        // The first byte of its HELLO.
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    }
    assert_eq!(place.holders().len(), 1);
    for mut child in children {
        drop(child.stdin.take());
        assert!(child.wait_with_output().unwrap().status.success());
    }
}

#[test]
fn the_holder_removes_itself_with_its_last_session() {
    let place = Place::new(&["--linger", "0"]);
    let start = Start { keep_for: 0, ..start(&["true"], PIPES) };
    assert_eq!(Session::start(&place, start).type_all("").ended(), Outcome::Success);
    assert!(place.is_left() && place.has_no_holder());
    assert_eq!(place.holders(), [0; 0]);
}

#[test]
fn a_second_start_joins_and_another_command_is_refused() {
    let place = Place::new(&[]);
    let first = start(&["sh", "-c", "echo ran >>ran; echo out; cat"], PIPES);
    let mut session = Session::start(&place, first.clone());
    session.until(|session| session.got() == 4);
    let mut second = Session::start(&place, first.clone()).type_all("typed");
    assert_eq!(second.ended(), Outcome::Success);
    assert!(!second.ups[0].started);
    assert!(second.text(Stream::Stdout).ends_with("typed"));
    session.until(|_| false);
    assert!(
        matches!(&session.end, Some(ClientEvent::Refused(why)) if why.code == refused::TAKEN_OVER)
    );
    let mut third = Session::start(&place, Start { command: vec!["true".into()], ..first });
    third.until(|_| false);
    assert!(matches!(&third.end, Some(ClientEvent::Refused(why)) if why.code == refused::CONFLICT));
    assert_eq!(read(&place.file("ran")), "ran\n");
}

#[test]
fn a_result_is_the_same_for_all_who_ask_until_it_is_gone() {
    let place = Place::new(&[]);
    let wanted = start(&["sh", "-c", "read line; echo $line; exit 3"], PIPES);
    let mut session = Session::start(&place, wanted.clone());
    session.until(|session| !session.ups.is_empty());
    session.leave(Leave::Running);
    let mut other = Session::resume(&place, wanted.id, Mode::Take, Some([0; 2])).type_all("line\n");
    assert_eq!(other.ended(), Outcome::Exited(3));
    assert_eq!(other.text(Stream::Stdout), "line\n");
    for _ in 0..3 {
        let mut again = Session::resume(&place, wanted.id, Mode::Take, None);
        assert_eq!(again.ended(), Outcome::Exited(3));
    }
    let mut unknown = Session::resume(&place, bowline_proto::kept::Id(random()), Mode::Take, None);
    unknown.until(|_| false);
    assert!(
        matches!(&unknown.end, Some(ClientEvent::Refused(why)) if why.code == refused::UNKNOWN)
    );
}

#[test]
fn a_client_that_looks_sees_the_output_and_gives_nothing() {
    let place = Place::new(&[]);
    let wanted = start(&["sh", "-c", "echo begin; read line; echo $line"], PIPES);
    let mut session = Session::start(&place, wanted.clone());
    session.until(|session| session.got() == 6);
    let mut looks = Session::resume(&place, wanted.id, Mode::Look, None);
    looks.until(|looks| !looks.ups.is_empty());
    session = session.type_all("line\n");
    assert_eq!(session.ended(), Outcome::Success);
    assert_eq!(looks.ended(), Outcome::Success);
    assert!(looks.text(Stream::Stdout).ends_with("line\n"));
}

#[test]
fn a_command_that_closes_its_input_goes_on() {
    let place = Place::new(&[]);
    let wanted = start(&["sh", "-c", "head -c 10; exec <&-; echo; echo still here"], PIPES);
    let mut session = Session::start(&place, wanted).type_all(noise(8_000_000));
    assert_eq!(session.ended(), Outcome::Success);
    assert!(session.text(Stream::Stdout).ends_with("still here\n"));
}

#[test]
fn a_signal_and_a_command_that_is_none_are_outcomes() {
    let place = Place::new(&[]);
    let mut killed = Session::start(&place, start(&["sh", "-c", "kill -TERM $$"], PIPES));
    assert_eq!(killed.ended(), Outcome::Exited(143));
    for (command, text) in [
        (&["no-such-program"][..], "executable file not found in $PATH"),
        (&["/no/such/file"], "no such file or directory"),
        (&["/"], "is a directory"),
        (&[], "args must not be empty"),
    ] {
        let outcome = Session::start(&place, start(command, PIPES)).ended();
        assert!(
            matches!(&outcome, Outcome::Failed { message, .. } if message.contains(text)),
            "{outcome:?}"
        );
    }
}

#[test]
fn the_environment_is_the_containers_and_the_requests() {
    let place = Place::new(&[]);
    let env = vec![("ASKED".to_owned(), "two  words".to_owned())];
    let wanted =
        Start { env, ..start(&["sh", "-c", "pwd; echo \"$ASKED\"; echo ${HOME:+has}"], PIPES) };
    let mut session = Session::start(&place, wanted).type_all("");
    assert_eq!(session.ended(), Outcome::Success);
    let dir = fs::canonicalize(place.dir.path()).unwrap();
    assert_eq!(session.text(Stream::Stdout), format!("{}\ntwo  words\nhas\n", dir.display()));
}

#[test]
fn files_are_made_as_without_a_holder() {
    let place = Place::new(&[]);
    let script = "umask 027; exec \"$@\"";
    let hold = place.connect();
    let mut connect = std::process::Command::new("sh");
    connect.args(["-c", script, "sh"]).arg(hold.get_program()).args(hold.get_args());
    connect.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut first = connect.spawn().unwrap();
    // The first byte of its HELLO: the holder is there.
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let mut session = Session::start(&place, start(&["sh", "-c", "umask"], PIPES)).type_all("");
    assert_eq!(session.ended(), Outcome::Success);
    assert_eq!(session.text(Stream::Stdout), "0027\n");
    drop(first.stdin.take());
    assert!(first.wait_with_output().unwrap().status.success());
}

#[test]
fn a_terminal_has_its_size_and_its_end_of_input() {
    let place = Place::new(&[]);
    let size = Some(Size { width: 91, height: 17 });
    let script = "stty size; trap 'stty size; exit 5' WINCH; echo $TERM; while :; do read x; done";
    let wanted = Start { size, ..start(&["sh", "-c", script], TERMINAL) };
    let mut session = Session::start(&place, wanted);
    session.until(|session| session.text(Stream::Stdout).contains("xterm"));
    assert!(session.text(Stream::Stdout).starts_with("17 91\r\n"));
    session.resize(30, 12);
    // A shell runs a trap once its read is over.
    session.until(|session| session.client.outbox().is_empty());
    session = session.type_all("\n");
    assert_eq!(session.ended(), Outcome::Exited(5));
    assert!(session.text(Stream::Stdout).contains("12 30\r\n"), "{:?}", session.out);
    let mut session = Session::start(&place, start(&["cat"], TERMINAL)).type_all("begun");
    assert_eq!(session.ended(), Outcome::Success);
    assert_eq!(session.text(Stream::Stdout), "begunbegun");
}

#[test]
fn a_command_whose_client_stays_away_is_hung_up() {
    let place = Place::new(&["--linger", "0"]);
    let script = "trap 'echo hup >hup; exit' HUP; echo up; while :; do sleep 0.1; done";
    let wanted = Start { keep_for: 0, ..start(&["sh", "-c", script], PIPES) };
    let mut session = Session::start(&place, wanted);
    session.until(|session| session.got() > 0);
    session.cut();
    assert!(place.is_left());
    assert_eq!(read(&place.file("hup")), "hup\n");
}

#[test]
fn a_command_that_does_not_hang_up_is_killed() {
    let place = Place::new(&["--linger", "0", "--grace", "0"]);
    let script = "trap '' HUP; sleep 1000 & echo up; wait; wait; sleep 1000";
    let wanted = Start { keep_for: 0, ..start(&["sh", "-c", script], PIPES) };
    let mut session = Session::start(&place, wanted);
    session.until(|session| session.got() > 0);
    session.leave(Leave::HungUp);
    assert!(place.is_left());
}

#[test]
fn what_has_left_the_group_does_not_hold_up_the_end() {
    let place = Place::new(&["--linger", "0", "--grace", "0", "--replay-bytes", "1000"]);
    // It ends with the directory. What may come before is more than is kept, or a pipe holds.
    fs::write(place.file("there"), "").unwrap();
    let waits = "while [ -e $PWD/there ]; do sleep 0.1; done";
    for begins in ["echo up", "head -c 1000000 /dev/zero"] {
        let script = format!("setsid sh -c '{begins}; {waits}' &");
        let wanted = Start { keep_for: 0, ..start(&["sh", "-c", &script], PIPES) };
        let mut session = Session::start(&place, wanted);
        session.until(|session| session.got() > 0);
        session.cut();
        assert!(place.is_left());
    }
}

#[test]
fn what_a_command_leaves_behind_is_cut_off_and_said() {
    let place = Place::new(&["--drain", "1"]);
    // It ends with the directory.
    fs::write(place.file("there"), "").unwrap();
    let script = "echo all of it; while [ -e $PWD/there ]; do sleep 0.1; done & exit 4";
    let mut session = Session::start(&place, start(&["sh", "-c", script], PIPES));
    assert_eq!(session.ended(), Outcome::Exited(4));
    assert_eq!(session.text(Stream::Stdout), "all of it\n");
    assert!(session.text(Stream::Stderr).contains("cut off"), "{:?}", session.out);
    let wants = Wants { stderr: false, ..PIPES };
    let mut session = Session::start(&place, start(&["sh", "-c", script], wants));
    assert!(matches!(session.ended(), Outcome::Failed { .. }));
}

/// The connection of whoever has it may be there for long though nothing comes over it any more.
#[test]
fn however_many_look_at_a_session_it_is_gone_on_with() {
    let place = Place::new(&[]);
    let wanted = start(&["cat"], PIPES);
    let mut first = Session::start(&place, wanted.clone());
    first.until(|session| !session.ups.is_empty());
    let looks = || Session::resume(&place, wanted.id, Mode::Look, None);
    let mut lookers: Vec<_> = (0..15).map(|_| looks()).collect();
    for looker in &mut lookers {
        looker.until(|session| !session.ups.is_empty());
        assert!(looker.end.is_none(), "{:?}", looker.end);
    }
    let mut late = looks();
    late.until(|_| false);
    assert!(matches!(&late.end, Some(ClientEvent::Refused(why)) if why.code == refused::TOO_MANY));
    let mut second = Session::resume(&place, wanted.id, Mode::Take, None).type_all("x");
    assert_eq!(second.ended(), Outcome::Success);
}

/// Input that waits, each piece of it among bytes that are passed over.
#[test]
fn what_waits_for_a_command_holds_no_more_than_itself() {
    let place = Place::new(&[]);
    let wanted = start(&["sh", "-c", "exec sleep 1000"], PIPES);
    let mut session = Session::start(&place, wanted.clone());
    session.until(|session| !session.ups.is_empty());
    let mut connect = place.connect().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (connect.stdin.take().unwrap(), connect.stdout.take().unwrap());
    let mut send = |frames: &[Frame], behind: &[u8]| {
        let mut outbox = Outbox::new();
        frames.iter().for_each(|frame| frame.write(&mut outbox));
        let bytes: Vec<u8> = outbox.chunks().chain([behind]).flatten().copied().collect();
        input.write_all(&bytes).unwrap();
    };
    let (id, mode, have, turn) = (wanted.id, Mode::Take, Some([0; 2]), 0);
    let hello = Frame::Hello { version: 1, window: 1 << 20, instance: None };
    send(&[hello, Frame::Resume(Resume { id, mode, have, turn })], &[]);
    // A length of 60,000, a kind that is none, and what it has.
    let unknown = [&[0xe0, 0xd4, 3, 99][..], &[0; 59_999]].concat();
    for number in 0..1500 {
        send(&[Frame::Data(Stream::Stdin, number * 600, vec![7; 600].into())], &unknown);
    }
    send(&[Frame::Ping(77)], &[]);
    let mut reader = Reader::default();
    let mut has_read_all = false;
    while !has_read_all {
        let mut piece = [0; 4096];
        let read = output.read(&mut piece).unwrap();
        assert!(read > 0, "the holder has ended the connection");
        reader.receive(BytesMut::from(&piece[..read]));
        while let Some(frame) = reader.frame().unwrap() {
            has_read_all |= frame == Frame::Pong(77);
        }
    }
    let status = read(format!("/proc/{}/status", place.holders()[0]).as_ref());
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 40_000, "{line}");
    send(&[Frame::Leave(Leave::HungUp)], &[]);
    connect.wait().unwrap();
}

#[test]
fn a_start_that_was_carried_out_is_not_said_to_be_one_too_many() {
    let place = Place::new(&["--sessions", "1"]);
    let past = Start { keep_for: 0, ..start(&["true"], PIPES) };
    assert_eq!(Session::start(&place, past.clone()).type_all("").ended(), Outcome::Success);
    // The first one is forgotten in a moment.
    let wanted = start(&["cat"], PIPES);
    let running = loop {
        let mut running = Session::start(&place, wanted.clone());
        running.until(|session| !session.ups.is_empty());
        if running.end.is_none() {
            break running;
        }
    };
    let mut again = Session::start(&place, past);
    again.until(|_| false);
    // Refused is what was not begun.
    assert!(matches!(&again.end, Some(ClientEvent::Lost(_))), "{:?}", again.end);
    running.leave(Leave::HungUp);
}

/// The holder finds the output and the end at once, and what holds the output has no more for it.
#[test]
fn the_end_of_a_command_whose_output_is_held_comes_without_a_client_too() {
    let place = Place::new(&["--drain", "1", "--linger", "0"]);
    fs::write(place.file("there"), "").unwrap();
    let script = "echo $$; while [ ! -e go ]; do sleep 0.01; done; echo all of it; \
                  while [ -e $PWD/there ]; do sleep 0.1; done & exit 4";
    let wanted = Start { keep_for: 1, ..start(&["sh", "-c", script], PIPES) };
    let mut session = Session::start(&place, wanted);
    session.until(|session| session.text(Stream::Stdout).ends_with('\n'));
    let stat = format!("/proc/{}/stat", session.text(Stream::Stdout).trim());
    session.leave(Leave::Running);
    let holder = Pid::from_raw(place.holders()[0]).unwrap();
    kill_process(holder, Signal::STOP).unwrap();
    fs::write(place.file("go"), "").unwrap();
    while !read(stat.as_ref()).contains(") Z ") {
        std::thread::yield_now();
    }
    kill_process(holder, Signal::CONT).unwrap();
    assert!(place.is_left());
}

/// Programs that clean up remove what is old.
#[test]
fn a_holder_whose_socket_was_removed_leaves_the_next_one_alone() {
    let place = Place::new(&["--linger", "0"]);
    let mut first = Session::start(&place, Start { keep_for: 0, ..start(&["cat"], PIPES) });
    first.until(|session| !session.ups.is_empty());
    let [holder] = place.holders()[..] else { panic!("one holder") };
    let holder = Pid::from_raw(holder).unwrap();
    let end = pidfd_open(holder, PidfdFlags::empty()).unwrap();
    fs::remove_file(place.path().join("socket")).unwrap();
    let wanted = start(&["cat"], PIPES);
    let mut second = Session::start(&place, wanted.clone());
    second.until(|session| !session.ups.is_empty());
    assert_eq!(place.holders().len(), 2);
    assert_eq!(first.type_all("x").ended(), Outcome::Success);
    poll(&mut [PollFd::new(&end, PollFlags::IN)], None).unwrap();
    let mut again = Session::resume(&place, wanted.id, Mode::Take, None).type_all("y");
    assert_eq!(again.ended(), Outcome::Success);
    assert_eq!(again.text(Stream::Stdout), "y");
}

#[test]
fn there_are_only_so_many_sessions() {
    let place = Place::new(&["--sessions", "1"]);
    let mut first = Session::start(&place, start(&["cat"], PIPES));
    first.until(|session| !session.ups.is_empty());
    let mut second = Session::start(&place, start(&["cat"], PIPES));
    second.until(|_| false);
    assert!(
        matches!(&second.end, Some(ClientEvent::Refused(why)) if why.code == refused::TOO_MANY)
    );
    assert_eq!(first.type_all("x").ended(), Outcome::Success);
}

#[test]
fn sessions_that_have_ended_keep_none_out_and_the_oldest_of_them_goes() {
    let place = Place::new(&["--sessions", "2"]);
    let all: Vec<Start> =
        (0..4).map(|code| start(&["sh", "-c", &format!("exit {code}")], PIPES)).collect();
    for (code, start) in all.iter().enumerate() {
        let outcome = Session::start(&place, start.clone()).type_all("").ended();
        let expected = if code == 0 { Outcome::Success } else { Outcome::Exited(code as u8) };
        assert_eq!(outcome, expected);
    }
    for (code, start) in all.iter().enumerate() {
        let mut again = Session::resume(&place, start.id, Mode::Take, None);
        again.until(|_| false);
        match &again.end {
            Some(ClientEvent::Ended(_)) if code >= 2 => {}
            Some(ClientEvent::Refused(why)) if code < 2 => assert_eq!(why.code, refused::UNKNOWN),
            other => panic!("{code}: {other:?}"),
        }
    }
    // One that is forgotten does not run again.
    let mut again = Session::start(&place, all[0].clone());
    again.until(|_| false);
    assert!(matches!(&again.end, Some(ClientEvent::Lost(_))), "{:?}", again.end);
}

#[test]
fn a_directory_of_others_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(&[]);
    fs::create_dir(place.path()).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = place.connect().output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("other users may reach it"));
    let output = place.command("list").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_list_names_sessions_without_their_secrets() {
    let place = Place::new(&[]);
    let wanted = start(&["cat"], PIPES);
    let mut session = Session::start(&place, wanted.clone());
    session.until(|session| !session.ups.is_empty());
    let list = || String::from_utf8(place.command("list").output().unwrap().stdout).unwrap();
    let line = |has_client: bool| {
        let name = wanted.id.name();
        let states = format!("\"hasEnded\":false,\"hasClient\":{has_client}");
        format!("{{\"name\":\"{name}\",\"command\":\"cat\",{states}}}\n")
    };
    assert_eq!(list(), line(true));
    session.leave(Leave::Running);
    assert_eq!(list(), line(false));
}

#[test]
fn a_session_that_is_forgotten_does_not_run_again() {
    let place = Place::new(&[]);
    let mut other = Session::start(&place, start(&["cat"], PIPES));
    other.until(|session| !session.ups.is_empty());
    let wanted = Start { keep_for: 0, ..start(&["sh", "-c", "echo ran >>ran"], PIPES) };
    assert_eq!(Session::start(&place, wanted.clone()).ended(), Outcome::Success);
    let mut again = Session::start(&place, wanted);
    again.until(|_| false);
    assert!(matches!(&again.end, Some(ClientEvent::Lost(_))), "{:?}", again.end);
    assert_eq!(read(&place.file("ran")), "ran\n");
    other.leave(Leave::HungUp);
}

#[test]
fn a_command_waits_while_nobody_takes_its_output_and_nothing_is_lost() {
    let place = Place::new(&["--replay-bytes", "1000"]);
    let script =
        "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; echo >there; exit 2";
    let wanted = start(&["sh", "-c", script], PIPES);
    let mut session = Session::start(&place, wanted.clone());
    session.until(|session| session.got() > 0);
    let have = session.got() as u64;
    let begun = session.text(Stream::Stdout);
    session.leave(Leave::Running);
    assert_eq!(read(&place.file("there")), "");
    let mut other = Session::resume(&place, wanted.id, Mode::Take, Some([have, 0])).type_all("");
    assert_eq!(other.ended(), Outcome::Exited(2));
    let all: String = (0..30000).map(|i| format!("line {i}\n")).collect();
    assert!(begun + &other.text(Stream::Stdout) == all);
}

#[test]
fn the_oldest_output_of_a_terminal_goes_while_nobody_is_there() {
    let place = Place::new(&[]);
    let script =
        "stty -onlcr; echo begun; head -c 3000000 /dev/zero | tr '\\0' x; echo >there; read l";
    let wanted = start(&["sh", "-c", script], TERMINAL);
    let mut session = Session::start(&place, wanted.clone());
    session.until(|session| session.got() > 0);
    session.leave(Leave::Running);
    place.appears("there");
    let mut other = Session::resume(&place, wanted.id, Mode::Take, None).type_all("\n");
    assert_eq!(other.ended(), Outcome::Success);
    assert!(other.got() < 200_000, "{}", other.got());
}

#[test]
fn who_talks_nonsense_is_dropped_and_disturbs_nobody() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let place = Place::new(&[]);
    let mut session = Session::start(&place, start(&["cat"], PIPES));
    session.until(|session| !session.ups.is_empty());
    let silent = UnixStream::connect(place.path().join("socket")).unwrap();
    for words in [&b"\x01"[..], b"\x02", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut peer = UnixStream::connect(place.path().join("socket")).unwrap();
        peer.write_all(words).unwrap();
        // It has descriptors to give, or is not heard.
        assert!(!matches!(peer.read(&mut [0; 16]), Ok(1..)));
    }
    let mut connect = place.connect();
    connect.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = connect.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(&noise(100_000));
    // It is told that this was no request, after its HELLO.
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.len() < 200, "{output:?}");
    assert_eq!(session.type_all("x").ended(), Outcome::Success);
    drop(silent);
}
