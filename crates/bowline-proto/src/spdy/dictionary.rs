//! The preset dictionary of SPDY/3 header compression.
//!
//! Source: draft-mbelshe-httpbis-spdy-00, §2.6.10.1. It is words, each behind its length as a
//! big-endian u32, and then a tail of text without lengths.

const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const TAIL: &str = "\
    100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request\
    401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented\
    503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
    gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Its Adler-32, by which a zlib stream names it.
pub(super) const ID: u32 = 0xe3c6_a7c2;

/// The dictionary.
pub(super) static DICTIONARY: [u8; 1423] = build();

const fn build() -> [u8; 1423] {
    let mut bytes = [0; 1423];
    let mut end = 0;
    let mut word = 0;
    while word < WORDS.len() {
        let text = WORDS[word].as_bytes();
        // All lengths are below 256: the first three bytes stay 0.
        bytes[end + 3] = text.len() as u8;
        end = copy(&mut bytes, end + 4, text);
        word += 1;
    }
    copy(&mut bytes, end, TAIL.as_bytes());
    bytes
}

const fn copy(bytes: &mut [u8; 1423], start: usize, text: &[u8]) -> usize {
    let mut index = 0;
    while index < text.len() {
        bytes[start + index] = text[index];
        index += 1;
    }
    start + text.len()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// Length and SHA-256 as docs/protocols/spdy.md, 3.3 and the draft's own copy have them.
    #[test]
    fn is_the_one_of_the_draft() {
        assert_eq!(zlib_rs::adler32::adler32(1, &DICTIONARY), ID);
        let sha256: std::string::String =
            Sha256::digest(DICTIONARY).iter().map(|byte| std::format!("{byte:02x}")).collect();
        assert_eq!(sha256, "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02");
    }
}
