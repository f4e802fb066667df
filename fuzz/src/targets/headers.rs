//! Header blocks: arbitrary ones never do harm, and what a client writes a server reads.

use bowline_proto::limits::{SPDY_HEADERS, SPDY_HEADERS_INFLATED_BYTES};
use bowline_proto::spdy::{Connection, Event, Role};
use bytes::BytesMut;

use super::written;
use crate::cuts::choose;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    if choices.form & 1 == 0 { block(bytes) } else { pairs(bytes) }
}

/// The bytes as a compressed block of a stream that is opened.
fn block(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(60_000)];
    let length = u32::try_from(bytes.len() + 10).unwrap();
    let mut frame = BytesMut::from(&[0x80, 3, 0, 1][..]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(bytes);
    let mut server = Connection::new(Role::Server);
    server.receive(frame);
    server.receive_end();
    let mut ended = false;
    while let Some(event) = server.poll() {
        assert!(!ended);
        match event {
            Event::Opened { headers, .. } => {
                let (mut count, mut size) = (0, 0);
                for (name, value) in headers.iter() {
                    count += 1;
                    size += name.len() + value.len();
                }
                assert!(count <= SPDY_HEADERS && size <= SPDY_HEADERS_INFLATED_BYTES);
            }
            Event::Closed(_) => ended = true,
            _ => {}
        }
    }
    assert!(ended);
}

/// The bytes as names and values, a line each, for several streams that share a context.
fn pairs(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (mut client, mut server) = (Connection::new(Role::Client), Connection::new(Role::Server));
    for (index, block) in text.split('\n').take(20).enumerate() {
        let name: String =
            block.chars().filter(char::is_ascii_lowercase).take(30).chain(['x']).collect();
        let value: String = block.chars().filter(|&letter| letter != '\0').take(200).collect();
        if value.is_empty() {
            continue;
        }
        client.open(&[("streamtype", "stdin"), (&name, &value)]);
        server.receive(BytesMut::from(&written(client.outbox())[..]));
        match server.poll() {
            Some(Event::Opened { headers, .. }) => {
                assert_eq!(headers.get("streamtype"), Some("stdin"));
                assert_eq!(headers.get(&name), Some(&*value), "block {index}");
            }
            other => panic!("{other:?} for {name:?}: {value:?}"),
        }
    }
}
