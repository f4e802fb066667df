//! What a log says of sessions and refusals.

use bowline_proto::Time;
use bowline_proto::session::Outcome;

use super::log::without_arguments;
use super::refusals::{MINUTE, Minute, REFUSALS};
use super::{End, Requester, Subject};

#[test]
fn a_flood_of_refusals_is_a_line_each_minute_in_the_end() {
    let mut minute = Minute::default();
    let start = Time::ZERO;
    let logged = (0..5000).filter(|_| minute.take(start).is_some()).count();
    assert_eq!(logged, REFUSALS as usize);
    assert_eq!(minute.take(start + MINUTE), Some(5000 - u64::from(REFUSALS)));
    assert_eq!(minute.take(start + MINUTE), Some(0));
    assert_eq!(minute.take(start + MINUTE + MINUTE), Some(0));
}

#[test]
fn ends_are_told_in_words() {
    let failed = Outcome::Failed { message: "no".into(), code: None, reason: String::new() };
    for (end, expected) in [
        (End::Outcome(Outcome::Success), "exit code 0"),
        (End::Outcome(Outcome::Exited(3)), "exit code 3"),
        (End::Outcome(failed), "failed: no"),
        (End::Lost("cut".into()), "lost: cut"),
    ] {
        assert_eq!(end.to_string(), expected);
    }
}

#[test]
fn no_reason_brings_a_commands_arguments_into_the_log() {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let login = words(&["mysql", "-u", "me", "-psecret"]);
    let quoted = "failed: error executing command [mysql -u me -psecret], exit code 1";
    let expected = "failed: error executing command [mysql -u me …";
    assert_eq!(without_arguments(quoted, &login), expected);
    assert_eq!(without_arguments("failed: \"mysql\" not found", &login).len(), 25);
    // What is cut in the middle of an argument is so much of it, and no more is shown.
    let long = words(&["sh", "-c", &"é".repeat(40_000)]);
    let quoted = format!("failed: [sh -c {}]", long[2]);
    assert_eq!(without_arguments(&quoted, &long), "failed: [sh -c …");
    let many = words(&["x"; 1000]);
    assert_eq!(without_arguments("x", &many), "x");
}

#[test]
fn long_lists_of_groups_are_cut() {
    let groups = (0..40).map(|number| format!("g{number}")).collect();
    let user = Some(Subject { name: "u".into(), groups, by: None });
    let requester = Requester { user, ..Requester::at(([127, 0, 0, 1], 1).into()) };
    let text = requester.groups().unwrap();
    assert!(text.starts_with("g0,g1,") && text.ends_with("g15,…"), "{text}");
}
