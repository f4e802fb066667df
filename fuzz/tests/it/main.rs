//! Every committed input, through its target.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]

use std::panic::catch_unwind;
use std::path::Path;

use bowline_fuzz::TARGETS;

#[test]
fn the_corpora_are_taken() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for entry in std::fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            if catch_unwind(|| target(&data)).is_err() {
                failed.push(path);
            }
            count += 1;
        }
        assert!(count >= 5, "{name} has {count} inputs");
        println!("{name}: {count} inputs");
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn no_input_and_short_ones_do_no_harm() {
    for (_, target) in TARGETS {
        for length in 0..8 {
            for byte in [0, 0x80, 0xff] {
                target(&vec![byte; length]);
            }
        }
    }
}
