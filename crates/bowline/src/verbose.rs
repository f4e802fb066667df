//! `-v`: requests and answers to lines on stderr, in kubectl's layout, with credentials masked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bowline_io::observe::Observer;
use bowline_io::text::sanitized;
use http::{HeaderMap, StatusCode};

use crate::print;

/// How much of one header's value is shown.
const VALUE_BYTES: usize = 4096;

/// Shows what a level of `-v` asks for, and the server's warnings at any level.
#[derive(Debug)]
pub struct Verbose {
    level: i32,
    warnings: AtomicUsize,
}

impl Verbose {
    /// For a level of `-v`.
    pub fn new(level: i32) -> Verbose {
        Verbose { level, warnings: AtomicUsize::new(0) }
    }

    /// How many warnings the server sent.
    pub fn warnings(&self) -> usize {
        self.warnings.load(Ordering::Relaxed)
    }

    fn warn(&self, headers: &HeaderMap) {
        for value in headers.get_all(http::header::WARNING) {
            let Some(text) = value.to_str().ok().and_then(warning) else { continue };
            self.warnings.fetch_add(1, Ordering::Relaxed);
            print::line(format_args!("Warning: {}", sanitized(&text, VALUE_BYTES)));
        }
    }
}

impl Observer for Verbose {
    fn request(&self, method: &str, url: &str, headers: &HeaderMap) {
        match self.level {
            7 | 8 => {
                print::line(format_args!("{method} {url}"));
                say_headers("Request Headers:", headers);
            }
            9.. => print::line(curl(method, url, headers)),
            _ => {}
        }
    }

    fn response(
        &self,
        method: &str,
        url: &str,
        status: StatusCode,
        headers: &HeaderMap,
        took: Duration,
    ) {
        self.warn(headers);
        let took = format!("in {} milliseconds", took.as_millis());
        match self.level {
            6 | 9.. => print::line(format_args!("{method} {url} {status} {took}")),
            7 | 8 => print::line(format_args!("Response Status: {status} {took}")),
            _ => {}
        }
        if self.level >= 8 {
            say_headers("Response Headers:", headers);
        }
    }

    fn body(&self, body: &[u8]) {
        let most = match self.level {
            ..8 => return,
            8 => 1024,
            9 => 10 * 1024,
            _ => usize::MAX,
        };
        let shown = String::from_utf8_lossy(&body[..body.len().min(most)]).into_owned();
        let rest = match body.len() - body.len().min(most) {
            0 => String::new(),
            rest => format!(" [truncated {rest} chars]"),
        };
        print::long_line(format_args!("Response Body: {shown}{rest}"));
    }

    fn note(&self, level: u8, text: &str) {
        if self.level >= i32::from(level) {
            print::line(sanitized(text, VALUE_BYTES));
        }
    }
}

fn say_headers(title: &str, headers: &HeaderMap) {
    print::line(title);
    for (name, value) in headers {
        let value = masked(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        print::line(format_args!("    {}: {value}", canonical(name.as_str())));
    }
}

fn curl(method: &str, url: &str, headers: &HeaderMap) -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let mut text = format!("curl -v -X{method} ");
    for (name, value) in headers {
        let value = masked(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        text.push_str(&format!(" -H '{}: {}'", canonical(name.as_str()), quoted(&value)));
    }
    format!("{text} '{}'", quoted(url))
}

/// A header's name as Go writes it: `Sec-Websocket-Protocol`.
fn canonical(name: &str) -> String {
    let mut start = true;
    let letter = |letter: char| {
        let upper = std::mem::replace(&mut start, letter == '-');
        if upper { letter.to_ascii_uppercase() } else { letter }
    };
    name.chars().map(letter).collect()
}

/// What of a value may be seen. A credential shows its scheme alone.
fn masked(name: &str, value: &str) -> String {
    let is_secret = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
    if !is_secret.contains(&name) {
        return sanitized(value, VALUE_BYTES).into_owned();
    }
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let known = ["bearer", "basic", "negotiate"].contains(&&*scheme.to_ascii_lowercase());
    match (known, rest) {
        (true, "") => scheme.to_owned(),
        (true, _) => format!("{scheme} <masked>"),
        (false, _) if value.is_empty() => String::new(),
        (false, _) => "<masked>".to_owned(),
    }
}

/// The text of a `Warning` header: `299 - "text"`. Obsolete (RFC 9111 §5.5), but in use here.
fn warning(value: &str) -> Option<String> {
    let quoted = value.split_once('"')?.1;
    let mut text = String::new();
    let mut letters = quoted.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Some(text),
            '\\' => text.extend(letters.next()),
            letter => text.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked() {
        assert_eq!(masked("authorization", "Bearer abc"), "Bearer <masked>");
        assert_eq!(masked("authorization", "abc"), "<masked>");
        assert_eq!(masked("authorization", "Digest abc"), "<masked>");
        assert_eq!(masked("authorization", "Basic"), "Basic");
        assert_eq!(masked("cookie", "a=b"), "<masked>");
        assert_eq!(masked("accept", "a\u{1b}[2J"), "a\u{fffd}[2J");
    }

    #[test]
    fn names_and_warnings() {
        assert_eq!(canonical("sec-websocket-protocol"), "Sec-Websocket-Protocol");
        assert_eq!(warning(r#"299 - "a \"b\" c" "date""#).as_deref(), Some("a \"b\" c"));
        assert_eq!(warning("299 - x"), None);
    }
}
