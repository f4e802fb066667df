//! What a client of a terminal is shown that has not seen all of it.

use super::*;

fn terminal() -> Host {
    let wants = Wants { stderr: false, tty: true, ..WANTS };
    Host::new(Time::ZERO, Start { wants, ..start(1) }, BOUNDS)
}

/// What a client gets that says that it has so much: what counts for no offset, and what does.
fn shown(said: &[Frame]) -> (Vec<Bytes>, Vec<u8>) {
    let (mut screens, mut output) = (Vec::new(), Vec::new());
    for frame in said {
        match frame {
            Frame::Screen { anew: true, bytes } => screens.push(bytes.clone()),
            Frame::Data(Stream::Stdout, _, bytes) => output.extend_from_slice(bytes),
            _ => {}
        }
    }
    (screens, output)
}

#[test]
fn who_has_not_seen_a_terminal_is_shown_it_first() {
    let (mut host, now) = (terminal(), Time::ZERO);
    let first = resume(&mut host, None, 0).0.unwrap();
    stdout(&mut host, b"\x1b[?2004h$ ls\x1b[c");
    while let Next::Event(_) = host.poll(now) {}
    assert_eq!(shown(&frames(host.outbox(first).unwrap())).0, Vec::<Bytes>::new());
    host.receive(now, first, bytes_of(&[Frame::Ack(Stream::Stdout, 15)]));
    while let Next::Event(_) = host.poll(now) {}
    stdout(&mut host, b" more");

    // Beside the one that has seen it, and in its place.
    for have in [None, Some([0; 2])] {
        let (_, said) = resume(&mut host, have, 0);
        let (screens, output) = shown(&said);
        assert_eq!((screens.len(), &output[..]), (1, &b" more"[..]));
        assert!(screens[0].ends_with(b"\x1b[?2004h$ ls"), "{}", screens[0].escape_ascii());
        let Frame::State { outputs, .. } = &said[1] else { panic!("{said:?}") };
        assert_eq!(*outputs, have.unwrap_or([15, 0]));
        let place = said.iter().position(|frame| matches!(frame, Frame::Screen { .. })).unwrap();
        assert_eq!(matches!(said[place - 1], Frame::Gap { from: 0, to: 15, .. }), have.is_some());
    }
    // Whoever has seen it goes on.
    assert_eq!(shown(&resume(&mut host, Some([15, 0]), 0).1), (Vec::new(), b" more".to_vec()));
    assert_eq!(shown(&resume(&mut host, Some([17, 0]), 0).1), (Vec::new(), b"ore".to_vec()));
}

#[test]
fn behind_a_gap_a_terminal_is_in_the_right_modes() {
    let mut host = terminal();
    stdout(&mut host, b"\x1b[?1049h\x1b[?1h");
    for _ in 0..200 {
        stdout(&mut host, &[b'x'; 1000]);
    }
    let (_, said) = resume(&mut host, Some([0; 2]), 0);
    let (screens, output) = shown(&said);
    assert_eq!((screens.len(), output.len()), (1, BOUNDS.replay_bytes));
    let modes = screens[0].split(|byte| *byte == b'x').next().unwrap();
    for set in [&b"\x1b[?1049h"[..], b"\x1b[?1h"] {
        assert!(modes.windows(set.len()).any(|part| part == set), "{}", modes.escape_ascii());
    }
}

/// A terminal forgets its region with its size; here its size was another one all the time.
#[test]
fn a_region_of_another_size_ends_with_what_was_written_in_it() {
    let (mut host, now) = (terminal(), Time::ZERO);
    stdout(&mut host, b"\x1b[1;24r");
    for _ in 0..100 {
        stdout(&mut host, &[b'x'; 1000]);
    }
    let (seat, said) = resume(&mut host, Some([0; 2]), 0);
    let seat = seat.unwrap();
    let at = said.len();
    stdout(&mut host, b"before");
    host.receive(now, seat, bytes_of(&[Frame::Resize(Size { width: 80, height: 30 })]));
    while let Next::Event(_) = host.poll(now) {}
    stdout(&mut host, b"more\x1b[H behind");
    while let Next::Event(_) = host.poll(now) {}
    let said = frames(host.outbox(seat).unwrap());
    let place = |is: &dyn Fn(&Frame) -> bool| said.iter().position(is);
    let reset = place(&|frame| matches!(frame, Frame::Screen { anew: false, .. })).unwrap();
    let data = |text: &'static [u8]| {
        place(&|frame| matches!(frame, Frame::Data(_, _, bytes) if bytes.ends_with(text))).unwrap()
    };
    assert!(at > 0 && data(b"more") < reset && reset < data(b"behind"), "{said:?}");
}

#[test]
fn without_a_terminal_there_is_no_screen() {
    let mut host = Host::new(Time::ZERO, start(1), BOUNDS);
    let first = resume(&mut host, None, 0).0.unwrap();
    stdout(&mut host, b"0123");
    acknowledges(&mut host, first, 4);
    for have in [None, Some([0; 2])] {
        assert_eq!(shown(&resume(&mut host, have, 0).1).0, Vec::<Bytes>::new());
    }
}

/// What a client says once it is shown a screen, and some time later.
fn sizes_behind_a_screen(mode: Mode, size: Option<Size>) -> [Vec<Size>; 2] {
    let screen = Bytes::from_static(b"\x1b[m");
    let shown = Frame::Screen { anew: true, bytes: screen.clone() };
    let mut client = resumed(mode, size, [5, 0], shown);
    assert!(matches!(client.poll(Time::ZERO), Next::Event(ClientEvent::Up(_))));
    assert_eq!(client.poll(Time::ZERO), Next::Event(ClientEvent::Screen(screen)));
    let Next::Idle(Some(due)) = client.poll(Time::ZERO) else { panic!("nothing is due") };
    [Time::ZERO, due].map(|now| {
        assert!(matches!(client.poll(now), Next::Idle(_)));
        let sizes = frames(client.outbox()).into_iter();
        sizes
            .filter_map(|frame| if let Frame::Resize(size) = frame { Some(size) } else { None })
            .collect()
    })
}

#[test]
fn a_program_hears_of_another_size_to_write_its_screen_anew() {
    let size = |width, height| Size { width, height };
    let [first, later] = sizes_behind_a_screen(Mode::Take, Some(size(80, 24)));
    assert_eq!(first, [size(80, 24), size(80, 23)]);
    assert_eq!(later, [size(80, 24)]);
    assert_eq!(sizes_behind_a_screen(Mode::Take, Some(size(9, 1)))[0], [size(9, 1), size(9, 2)]);
    let none = [Vec::new(), Vec::new()];
    assert_eq!(sizes_behind_a_screen(Mode::Look, None), none);
    assert_eq!(sizes_behind_a_screen(Mode::Take, None), none);
}
