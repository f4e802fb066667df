//! Requests that come late, and sessions whose clients have gone.

use core::time::Duration;

use super::*;

const KEPT: Duration = Duration::from_secs(600);

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

/// A connection that began then, and on which this was asked for since.
fn asked(began: Time, frame: Frame) -> Greeting {
    let mut greeting = Greeting::new(began, Instance([9; 16]));
    greeting.receive(began, bytes_of(&[hello(None), frame]));
    assert!(matches!(greeting.poll(began), Next::Event(Asked::Start(_) | Asked::Resume(_))));
    greeting
}

fn start_frame() -> Frame {
    Frame::Start(Start { instance: Instance([9; 16]), ..start(1) })
}

fn resume_frame(turn: u64) -> Frame {
    Frame::Resume(Resume { id: start(1).id, mode: Mode::Take, have: None, turn })
}

fn events(host: &mut Host, now: Time) -> Vec<HostEvent> {
    let mut events = Vec::new();
    while let Next::Event(event) = host.poll(now) {
        events.push(event);
    }
    events
}

fn refusal(joined: Result<u32, Box<Greeting>>) -> u64 {
    let said = frames(joined.unwrap_err().outbox());
    let Some(Frame::Refused(refused)) = said.last() else { panic!("{said:?}") };
    refused.code
}

/// A server on the way stands still with it; its client has come again by another one.
#[test]
fn a_request_of_an_earlier_connection_takes_the_session_from_nobody() {
    for late in [start_frame(), resume_frame(0), resume_frame(1)] {
        let late = asked(at(0), late);
        let mut host = Host::new(at(1), start(1), BOUNDS);
        let seat = host.join(asked(at(1), start_frame()), Mode::Take, Some([0; 2]), true).unwrap();
        assert_eq!(events(&mut host, at(1)), []);
        let said = frames(host.outbox(seat).unwrap());
        assert_eq!(turn_of(&said), Some(1));
        assert_eq!(refusal(host.join(late, Mode::Take, None, false)), refused::TAKEN_OVER);
        assert_eq!(events(&mut host, at(2)), []);
        assert_eq!(frames(host.outbox(seat).unwrap()), []);
        // It comes again, whatever came late.
        host.remove(at(3), seat);
        host.join(asked(at(4), resume_frame(1)), Mode::Take, None, false).unwrap();
    }
}

/// Nobody is there who would be asked to come back.
#[test]
fn a_request_that_comes_behind_the_goodbye_leaves_the_command_running() {
    for late in [start_frame(), resume_frame(0), resume_frame(1)] {
        let late = asked(at(0), late);
        let mut host = Host::new(at(1), start(1), BOUNDS);
        let seat = host.join(asked(at(1), start_frame()), Mode::Take, Some([0; 2]), true).unwrap();
        host.receive(at(2), seat, bytes_of(&[Frame::Leave(Leave::Running)]));
        assert!(matches!(events(&mut host, at(2))[..], [HostEvent::Left(..)]));
        host.remove(at(2), seat);
        assert_eq!(refusal(host.join(late, Mode::Take, None, false)), refused::TAKEN_OVER);
        assert_eq!(events(&mut host, at(3) + 2 * KEPT), []);
    }
}

#[test]
fn nobody_is_away_for_longer_than_the_host_allows() {
    let longest = Duration::from_secs(3600);
    let forever = Start { keep_for: u64::MAX, ..start(1) };
    for leave in [None, Some(Leave::Running)] {
        let mut host = Host::new(at(0), forever.clone(), Bounds { longest, ..BOUNDS });
        let seat = host.join(asked(at(0), start_frame()), Mode::Take, Some([0; 2]), true).unwrap();
        // As long as somebody is there it goes on.
        for minutes in 0..120 {
            host.receive(at(60 * minutes), seat, bytes_of(&[Frame::Ping(1)]));
            assert_eq!(events(&mut host, at(60 * minutes)), []);
        }
        let gone = at(7200);
        host.receive(
            gone,
            seat,
            bytes_of(&leave.map(Frame::Leave).into_iter().collect::<Vec<_>>()),
        );
        events(&mut host, gone);
        host.remove(gone, seat);
        assert_eq!(host.poll(gone), Next::Idle(Some(gone + longest)), "{leave:?}");
        assert_eq!(events(&mut host, gone + longest), [HostEvent::HangUp], "{leave:?}");
        let ended = gone + longest;
        host.ended(ended, Ok(Status::success().json().clone()));
        assert_eq!(host.poll(ended), Next::Idle(Some(ended + longest)));
        assert_eq!(host.poll(ended + longest), Next::Done);
    }
}
