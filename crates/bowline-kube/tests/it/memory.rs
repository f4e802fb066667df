//! Answers of a hostile server, and the most memory that is held for them.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bowline_io::access::Access;
use bowline_io::dial::Endpoint;
use bowline_kube::api::Api;
use bowline_kube::target;
use serde_json::{Value, json};

/// Counts what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn held(more: usize, less: usize) {
    let now = HELD.fetch_add(more, Ordering::Relaxed) + more;
    MOST.fetch_max(now, Ordering::Relaxed);
    HELD.fetch_sub(less, Ordering::Relaxed);
}

// SAFETY: everything is the system's allocator's; the counters are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        held(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        held(0, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while one is copied to the other.
        held(size, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MIB: usize = 1024 * 1024;

/// One answer: a beginning, a piece as often as it takes for so many bytes, an end.
struct Body {
    begin: &'static str,
    piece: &'static str,
    end: &'static str,
    bytes: usize,
}

/// Answers every request with it, in small writes.
fn server(body: Body) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let many = body.piece.repeat(64 * 1024 / body.piece.len());
        let whole = body.bytes / many.len();
        let length = body.begin.len() + whole * many.len() + body.end.len();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (0_u32, [0]);
            while head != u32::from_be_bytes(*b"\r\n\r\n")
                && stream.read(&mut byte).unwrap_or(0) == 1
            {
                head = head << 8 | u32::from(byte[0]);
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", body.begin);
            let mut written = stream.write_all(head.as_bytes());
            for _ in 0..whole {
                written = written.and_then(|()| stream.write_all(many.as_bytes()));
            }
            // One who has enough goes away.
            let _ = written.and_then(|()| stream.write_all(body.end.as_bytes()));
        }
    });
    port
}

/// What asking for what a name means, or an object, costs at most; and how it ended.
fn asked(body: Body, target: &Value) -> (usize, String) {
    let port = server(body);
    let host = Ipv4Addr::LOCALHOST.to_string();
    let api = Api {
        access: Access::fixed(Endpoint { host, port, tls: None, proxy: None }, Vec::new()),
        server: format!("http://127.0.0.1:{port}").parse().unwrap(),
        headers: Vec::new(),
        patience: Duration::from_secs(60),
        observer: None,
        kept: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let wait = Duration::from_secs(60);
    let found = runtime.block_on(async {
        match target.as_str() {
            Some(name) => target::named(&api, "default", name, wait).await,
            None => target::of_object(&api, "default", target, wait).await,
        }
    });
    let most = MOST.load(Ordering::Relaxed).saturating_sub(before);
    (most, found.map_or_else(|error| error.to_string(), |pod| pod.metadata.name))
}

#[test]
fn no_answer_costs_more_than_a_few_times_its_bound() {
    let of = |begin, piece, end, mib| Body { begin, piece, end, bytes: mib * MIB };
    // More than one object may have: not read to its end.
    let endless = of("{\"a\":[0", ",0", "]}", 60);
    let (most, why) = asked(endless, &json!("p"));
    assert!(why.contains("longer than 16777216 bytes"), "{why}");
    assert!(most < 64 * MIB, "{most}");
    for (begin, piece, end) in [
        // What is passed over.
        ("{\"metadata\":{\"managedFields\":[0", ",{\"a\":[]}", "]}}"),
        ("{\"metadata\":{\"annotations\":{\"a\":\"\"", ",\"b\":\"\"", "}}}"),
        // What is kept, in its smallest form.
        ("{\"spec\":{\"containers\":[{\"name\":\"\"}", ",{\"name\":\"\"}", "]}}"),
        (
            "{\"spec\":{\"containers\":[{\"name\":\"\",\"ports\":[{\"containerPort\":1}",
            ",{\"containerPort\":1}",
            "]}]}}",
        ),
        ("{\"status\":{\"conditions\":[{\"type\":\"\"}", ",{\"type\":\"\"}", "]}}"),
        // What is refused.
        ("{\"spec\":{\"containers\":[{}", ",{}", "]}}"),
        ("{\"spec\":{\"containers\":[", "[", "]}}"),
    ] {
        let (most, _) = asked(of(begin, piece, end, 15), &json!("p"));
        assert!(most < 64 * MIB, "{begin}: {most}");
    }
    let kinds = of(
        "{\"kind\":\"APIGroupDiscoveryList\",\"items\":[{\"versions\":[{\"version\":\"\",\
         \"resources\":[{\"resource\":\"\"}",
        ",{\"resource\":\"\"}",
        "]}]}]}",
        15,
    );
    let (most, why) = asked(kinds, &json!("deploy/p"));
    assert!(why.contains("a list that is too long"), "{why}");
    assert!(most < 64 * MIB, "{most}");
    // Of a list, one item is kept: beside its text there is next to nothing.
    let pods = of(
        "{\"items\":[{}",
        ",{\"metadata\":{\"name\":\"best\"},\"status\":{\"phase\":\"Running\"}}",
        "]}",
        60,
    );
    let owner = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}}});
    let (most, found) = asked(pods, &owner);
    assert_eq!(found, "best");
    assert!(most < 200 * MIB, "{most}");
}
