//! Parses URLs in which Go's `net/url` would find the same host.
//!
//! The `url` crate parses as browsers do: it ignores spaces at the ends and line ends anywhere,
//! takes `\` for `/`, decodes a host, and makes an address of `0x7f.1`. Go does none of that. A
//! token must not go to another host than kubectl would have sent it to.

use url::{Host, Url};

/// Parses a URL with a host; `None` if it is none, or Go would find another host in it.
#[must_use]
pub fn parse(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let (_, behind) = text.split_once("://")?;
    let authority = behind.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |parts| parts.1);
    let is_strange = |letter: char| letter.is_control() || letter == ' ' || letter == '\\';
    let is_read_alike = !host.is_empty()
        && !text.chars().any(char::is_control)
        && text.trim() == text
        && !authority.contains(is_strange)
        && !host.contains('%');
    // The host of the text may be followed by a port.
    let is_written_so = match url.host()? {
        Host::Ipv4(ip) => host.split(':').next() == Some(&*ip.to_string()),
        _ => true,
    };
    (is_read_alike && is_written_so).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_of_go() {
        for good in [
            "https://a",
            "https://A.b:1/c d?e#f",
            "http://me:p%40w@127.0.0.1:80/",
            "https://[::1]:6443",
            "socks5://x:1",
            "https://a/%2e%2e",
        ] {
            assert!(parse(good).is_some(), "{good}");
        }
        for bad in [
            " https://a",
            "https://a ",
            "https://a\n",
            "https://a.b\t.c",
            "https://a\\@b",
            "https://a\\b/c",
            "https:a",
            "//a",
            "https://",
            "https:///a",
            "https://127.1",
            "https://0x7f.1:1",
            "https://2130706433",
            "https://0177.0.0.1",
            "https://127.0.0.1.",
            "https://loc%61lhost",
            "https://me@127.1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
