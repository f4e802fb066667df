//! What is to be known of a request's head before the HTTP library reads it.

/// Whether a line, without its end, may be the first one of a request.
pub(super) fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
}

/// Returns where the first head ends, if it does. There is no end in the first `searched` bytes.
pub(super) fn end_of_head(read: &[u8], searched: usize) -> Option<usize> {
    // An end may begin in the last three of them.
    let from = searched.saturating_sub(3);
    let ends = read[from..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let mut ends = ends.map(|(index, _)| from + index);
    ends.find_map(|end| match read[end + 1..] {
        [b'\n', ..] => Some(end + 2),
        [b'\r', b'\n', ..] => Some(end + 3),
        _ => None,
    })
}

/// Whether a head says more than once how long its body is: those who read it on its way could then
/// disagree about that. The lines are those that the HTTP library finds, which refuses folded ones.
pub(super) fn has_two_lengths(head: &[u8]) -> bool {
    let says_length = |line: &&[u8]| {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"content-length")
            || name.eq_ignore_ascii_case(b"transfer-encoding")
    };
    head.split(|&byte| byte == b'\n').filter(says_length).nth(1).is_some()
}
