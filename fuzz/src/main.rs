//! libFuzzer over the target that `BOWLINE_FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("BOWLINE_FUZZ_TARGET").unwrap_or_default();
    match bowline_fuzz::TARGETS.iter().find(|target| target.0 == name) {
        Some(target) => target.1,
        None => {
            eprintln!("BOWLINE_FUZZ_TARGET names no target: {name:?}");
            std::process::exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
