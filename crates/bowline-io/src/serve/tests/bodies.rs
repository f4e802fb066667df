//! Bodies of requests over HTTP/1.1: where they end, who may send one how, and what waits where.

use hyper::server::conn::http1;
use hyper::service::service_fn;
use proptest::prelude::*;
use tokio::io::DuplexStream;

use super::*;

fn settings() -> Settings {
    Settings { request_bodies: true, ..Settings::default() }
}

/// One whose answer has the path, the bytes of the body and its trailers.
async fn echo(is_known: bool) -> SocketAddr {
    let service = move |peer: Peer, request: Request<Incoming>| async move {
        if is_known {
            peer.mark_authenticated();
        }
        echoed(request).await
    };
    server(settings(), service).await
}

async fn echoed(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        let mut reply = ok(format!("{} is cut", head.uri.path()));
        *reply.status_mut() = StatusCode::BAD_REQUEST;
        return reply;
    };
    let trailers = body.trailers().cloned().unwrap_or_default();
    let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    let text =
        format!("{} {} {}|", head.uri.path(), names.join(","), body.to_bytes().escape_ascii());
    ok(text)
}

const CHUNKED: &str = "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn requests_behind_bodies_are_requests() {
    let address = echo(true).await;
    let sent = format!(
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
         {CHUNKED}5;x=\"y\"\r\nhello\r\n00a \r\n0123456789\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n\
         POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n\
         {CHUNKED}0\r\n\r\n{LAST}"
    );
    let whole = ask(address, sent.as_bytes()).await;
    let expected = ["/a  abc|", "/c x-one,x-two hello0123456789|", "/e  |", "/c  |", "/last  |"];
    assert!(expected.iter().all(|text| whole.contains(text)), "{whole}");
    assert_eq!(whole.matches("200 OK").count(), expected.len(), "{whole}");
    // In any pieces.
    let mut client = dial(address).await;
    for byte in sent.as_bytes() {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut found = String::new();
    client.read_to_string(&mut found).await.unwrap();
    let dateless =
        |text: &str| text.lines().filter(|line| !line.starts_with("Date:")).collect::<String>();
    assert_eq!(dateless(&found), dateless(&whole));
}

#[tokio::test]
async fn a_body_whose_end_is_unclear_is_refused() {
    let address = echo(true).await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\n";
    let cl = "Content-Length: 5\r\n";
    let te = "Transfer-Encoding: chunked\r\n";
    for (lines, code) in [
        (format!("{cl}{te}"), 400),
        (format!("{te}{cl}"), 400),
        (format!("{cl}content-length: 5\r\n"), 400),
        (format!("{cl}Content-Length: 6\r\n"), 400),
        (format!("{te}{te}"), 400),
        ("Content-Length: 5, 5\r\n".to_owned(), 400),
        ("Content-Length: +5\r\n".to_owned(), 400),
        ("Content-Length: -5\r\n".to_owned(), 400),
        ("Content-Length: 0x5\r\n".to_owned(), 400),
        ("Content-Length: \r\n".to_owned(), 400),
        ("Content-Length: 18446744073709551616\r\n".to_owned(), 400),
        ("Content-Length : 5\r\n".to_owned(), 400),
        ("Content-Length: 5\r\n 5\r\n".to_owned(), 400),
        ("Transfer-Encoding:\r\n chunked\r\n".to_owned(), 400),
        ("X: \rContent-Length: 5\r\n".to_owned(), 400),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), 400),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), 400),
        ("Transfer-Encoding: gzip, chunked\r\n".to_owned(), 501),
        (format!("{te}Expect: the-unexpected\r\n"), 417),
    ] {
        let answer = ask(address, format!("{head}{lines}\r\n0\r\n\r\n{LAST}").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{lines:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{lines:?}: {answer}");
    }
    let old = format!("POST / HTTP/1.0\r\n{te}\r\n0\r\n\r\n{LAST}");
    let answer = ask(address, old.as_bytes()).await;
    assert!(answer.contains(" 400 ") && answer.matches("HTTP/1.").count() == 1, "{answer}");
}

#[tokio::test]
async fn what_is_no_chunk_ends_the_body_as_a_cut_one() {
    let address = echo(true).await;
    let long = "x".repeat(1024 * 1024);
    let padded = format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(100);
    for chunks in [
        "g\r\n",
        "\r\n",
        "-1\r\n",
        "0x1\r\nx\r\n",
        "10000000000000000\r\n",
        "1\nx\r\n",
        "1\rx\r\n",
        "1\r\nxy\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1;a\nb\r\nx\r\n",
        "1 1\r\nx\r\n",
        "0\r\nA: 1\nB: 2\r\n\r\n",
        "0\r\nA: 1\rB: 2\r\n\r\n",
        "0\r\n\n",
        &format!("1;{long}\r\nx\r\n"),
        &format!("0\r\nX: {long}\r\n\r\n"),
        &format!("0\r\n{}\r\n", "A: 1\r\n".repeat(500)),
        &padded,
    ] {
        let answer = ask(address, format!("{CHUNKED}{chunks}{LAST}").as_bytes()).await;
        let begin = &chunks[..chunks.len().min(20)];
        assert!(!answer.contains("200 OK"), "{begin:?}: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_cut_is_never_complete() {
    let address = echo(true).await;
    for sent in [
        "POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcd".to_owned(),
        format!("{CHUNKED}5\r\nabcde\r\n"),
        format!("{CHUNKED}5\r\nabcde\r\n0\r\n"),
        format!("{CHUNKED}5\r\nabc"),
    ] {
        let mut client = dial(address).await;
        client.write_all(sent.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        assert!(!answer.contains("200 OK"), "{sent:?}: {answer}");
    }
}

#[tokio::test]
async fn continue_is_said_once_the_body_is_wanted() {
    let service = |peer: Peer, request: Request<Incoming>| async move {
        peer.mark_authenticated();
        if request.uri().path() == "/no" { ok("no thanks") } else { echoed(request).await }
    };
    let address = server(settings(), service).await;
    let head = |path| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
    };
    let mut client = dial(address).await;
    for _ in 0..2 {
        client.write_all(head("/yes").as_bytes()).await.unwrap();
        read_answer(&mut client, "").await;
        client.write_all(b"ab").await.unwrap();
        read_answer(&mut client, "/yes  ab|").await;
    }
    let answer = ask(address, head("/no").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("no thanks"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_stays_with_the_client() {
    let (given, mut bodies) = unbounded_channel();
    let service = move |peer: Peer, request: Request<Incoming>| {
        peer.mark_authenticated();
        given.send(request.into_body()).unwrap();
        std::future::pending::<Reply>()
    };
    let address = server(settings(), service).await;
    for head in [
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {MUCH_BYTES}\r\n\r\n"),
        format!("{CHUNKED}{MUCH_BYTES:x}\r\n"),
    ] {
        let mut client = dial(address).await;
        client.write_all(head.as_bytes()).await.unwrap();
        let much = vec![b'x'; MUCH_BYTES];
        let mut body = bodies.recv().await.unwrap();
        let (reading, mut writing) = client.split();
        let writes = writing.write_all(&much);
        tokio::pin!(writes);
        // It does not move any more once the clock does, for however long.
        assert!(timeout(Duration::from_secs(24 * 60 * 60), &mut writes).await.is_err());
        let reads = async {
            let mut count = 0;
            while count < MUCH_BYTES {
                count += body.frame().await.unwrap().unwrap().data_ref().unwrap().len();
            }
        };
        let (written, ()) = tokio::join!(writes, reads);
        written.unwrap();
        assert!(reading.try_read(&mut [0]).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn patience_with_bodies() {
    for (is_known, patience) in [(false, 10), (true, 90)] {
        let address = echo(is_known).await;
        let mut client = dial(address).await;
        client.write_all(format!("{CHUNKED}5\r\nab").as_bytes()).await.unwrap();
        let left = ends_after(&mut client).await.as_secs();
        assert!((patience..patience + 6).contains(&left), "{left} s");
        // What comes slowly comes.
        let mut client = dial(address).await;
        client.write_all(CHUNKED.as_bytes()).await.unwrap();
        for _ in 0..20 {
            sleep(Duration::from_secs(patience - 1)).await;
            client.write_all(b"1\r\nx\r\n").await.unwrap();
        }
        client.write_all(b"0\r\n\r\n").await.unwrap();
        read_answer(&mut client, &format!("/c  {}|", "x".repeat(20))).await;
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_body_and_the_connection_goes_on() {
    let service = |peer: Peer, request: Request<Incoming>| async move {
        peer.mark_authenticated();
        if request.uri().path() == "/last" {
            return ok("last");
        }
        // The body of the answer is that of the request.
        let body = request.into_body().map_frame(|frame| frame).map_err(io::Error::other);
        Response::new(body.boxed_unsync())
    };
    let address = server(settings(), service).await;
    let mut client = dial(address).await;
    client.write_all(CHUNKED.as_bytes()).await.unwrap();
    read_answer(&mut client, "").await;
    for _ in 0..3 {
        client.write_all(b"3\r\nabc\r\n").await.unwrap();
        let mut echoed = [0; 8];
        client.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"3\r\nabc\r\n");
    }
    client.write_all(format!("0\r\n\r\n{LAST}").as_bytes()).await.unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("0\r\n\r\nHTTP/1.1 200 OK") && rest.ends_with("last"), "{rest}");
}

/// What the HTTP library alone makes of bytes: path and body of each complete request.
async fn library_view(sent: &[u8]) -> Vec<String> {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let noted = noted.clone();
        async move { Ok::<_, Infallible>(noted_reply(&noted, request).await) }
    });
    let (mut client, server): (DuplexStream, _) = tokio::io::duplex(1024 * 1024);
    client.write_all(sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = Vec::new();
    let mut builder = http1::Builder::new();
    let served = builder.half_close(true).serve_connection(TokioIo::new(server), service);
    let _ = tokio::join!(served, client.read_to_end(&mut answers));
    std::mem::take(&mut *seen.lock().unwrap())
}

async fn noted_reply(noted: &Mutex<Vec<String>>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    if let Ok(body) = body.collect().await {
        let text = format!("{} {}", head.uri, body.to_bytes().escape_ascii());
        noted.lock().unwrap().push(text);
    }
    ok("")
}

/// What this server makes of them, cut into pieces of these sizes.
async fn our_view(sent: &[u8], cuts: &[usize], is_cut: bool) -> Vec<String> {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = seen.clone();
    let service = move |peer: Peer, request: Request<Incoming>| {
        let noted = noted.clone();
        peer.mark_authenticated();
        async move { noted_reply(&noted, request).await }
    };
    let mut client = dial(server(settings(), service).await).await;
    let (mut rest, mut cuts) = (sent, cuts.iter().cycle());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        // It may refuse, and end, before all was sent.
        if client.write_all(piece).await.is_err() {
            break;
        }
        rest = behind;
        tokio::task::yield_now().await;
    }
    // A client that ends its direction has gone: one that wants the last answer does not.
    if is_cut {
        let _ = client.shutdown().await;
    }
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers).await;
    std::mem::take(&mut *seen.lock().unwrap())
}

/// Requests with bodies of any kind, and what a service sees of them.
fn pipelines() -> impl Strategy<Value = (Vec<u8>, Vec<String>)> {
    let body = prop::collection::vec(any::<u8>(), 0..3000);
    let one = (body, prop::collection::vec(1_usize..1500, 1..6), any::<bool>(), any::<bool>());
    prop::collection::vec(one, 1..6).prop_map(|all| {
        let (mut sent, mut seen) = (Vec::new(), Vec::new());
        for (index, (body, sizes, is_chunked, has_trailers)) in all.into_iter().enumerate() {
            seen.push(format!("/{index} {}", body.escape_ascii()));
            let head = format!("POST /{index} HTTP/1.1\r\nHost: x\r\n");
            sent.extend_from_slice(head.as_bytes());
            if !is_chunked {
                sent.extend_from_slice(
                    format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                );
                sent.extend_from_slice(&body);
                continue;
            }
            sent.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            let (mut rest, mut sizes) = (&*body, sizes.into_iter().cycle());
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(rest.len().min(sizes.next().unwrap()));
                sent.extend_from_slice(format!("{:X};x\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
                rest = behind;
            }
            sent.extend_from_slice(if has_trailers { b"0\r\nA: b\r\n\r\n" } else { b"0\r\n\r\n" });
        }
        sent.extend_from_slice(LAST.as_bytes());
        seen.push("/last ".to_owned());
        (sent, seen)
    })
}

/// What may be a body in chunks, or nearly, with requests in it.
fn nearly_chunks() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "0\r\n\r\n",
        "0\r\n",
        "\r\n",
        "1\r\nx\r\n",
        "3\r\nabc\r\n",
        "A\r\n0123456789\r\n",
        "0",
        "5",
        "\r",
        "\n",
        ";",
        " ",
        "x",
        "T: v\r\n",
        "GET /in HTTP/1.1\r\nHost: x\r\n\r\n",
        CHUNKED,
        "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n",
        "0\r\nT: v\r\n\r\n",
        "0000\r\n\r\n",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_bodies_and_requests_arrive_however_they_are_cut(
        (sent, expected) in pipelines(),
        cuts in prop::collection::vec(1_usize..5000, 1..8),
    ) {
        prop_assert!(run(library_view(&sent)) == expected);
        prop_assert!(run(our_view(&sent, &cuts, false)) == expected);
    }

    /// Whatever is taken for a request or a body is one to the library also. What the library takes
    /// may be refused here.
    #[test]
    fn no_request_is_seen_that_the_library_does_not_see(
        chunks in nearly_chunks(),
        cuts in prop::collection::vec(1_usize..40, 1..8),
    ) {
        let sent = [CHUNKED.as_bytes(), &chunks, LAST.as_bytes()].concat();
        let ours = run(our_view(&sent, &cuts, true));
        let library = run(library_view(&sent));
        prop_assert!(library.starts_with(&ours), "{ours:?} {library:?}");
    }
}
