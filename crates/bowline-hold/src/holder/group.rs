//! A process group to whether anything in it still runs.

use std::fs;

use rustix::process::Pid;

/// Whether all of its processes have ended, waited for or not. Nothing tells of that, so it has to
/// be looked for.
pub(super) fn has_ended(group: Pid) -> bool {
    let Ok(all) = fs::read_dir("/proc") else { return false };
    let group = group.as_raw_nonzero().get();
    !all.flatten().any(|entry| {
        let is_process =
            entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
        let stat =
            if is_process { fs::read_to_string(entry.path().join("stat")).ok() } else { None };
        stat.is_some_and(|stat| runs_in(&stat, group))
    })
}

/// Whether a process with this line runs in a group: `PID (NAME) STATE PARENT GROUP …`, where the
/// name may have anything in it.
fn runs_in(stat: &str, group: i32) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut words = rest.split_whitespace();
    let (state, of) = (words.next(), words.nth(1));
    !matches!(state, Some("Z" | "X")) && of.and_then(|of| of.parse().ok()) == Some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name_is() {
        assert!(runs_in("12 (a) S 1 7) S 1 34 34 0", 34));
        assert!(!runs_in("12 (sh) Z 1 34 34 0", 34));
        assert!(!runs_in("12 (sh) S 34 35 34 0", 34));
        assert!(!runs_in("", 34));
    }
}
