//! Clients that flood, by frames made by hand.

use super::*;

/// An indexed head: GET, https, `/`, and `x` as the authority.
const HEAD: &[u8] = &[0x82, 0x87, 0x84, 0x41, 1, b'x'];
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

async fn greeted(address: SocketAddr) -> TlsStream<TcpStream> {
    let mut client = dial_tls(address, &[b"h2"]).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    client
}

/// Reads frames until one of this kind, and returns its payload; `None` if the connection ends.
async fn await_frame(client: &mut TlsStream<TcpStream>, kind: u8) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.ok()?;
        if head[3] == kind {
            return Some(payload);
        }
    }
}

/// A server that counts requests, and how many of them are under way.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = served.clone();
    let service = move |peer: Peer, _: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        peer.mark_authenticated();
        std::future::pending::<Reply>()
    };
    (tls_server(settings(), service).await.0, served)
}

#[tokio::test]
async fn limits_are_announced() {
    for http2_websockets in [false, true] {
        let settings = Settings { http2_websockets, ..settings() };
        let (address, _) = tls_server(settings, seen).await;
        let mut client = greeted(address).await;
        let payload = await_frame(&mut client, SETTINGS).await.unwrap();
        let told: Vec<(u8, u32)> = payload
            .chunks(6)
            .map(|one| (one[1], u32::from_be_bytes(one[2..].try_into().unwrap())))
            .collect();
        let expected = [(3, 100), (4, 1024 * 1024), (6, 256 * 1024)];
        assert!(expected.iter().all(|one| told.contains(one)), "{told:?}");
        assert_eq!(told.contains(&(8, 1)), http2_websockets, "{told:?}");
    }
}

#[tokio::test]
async fn floods_end_the_connection() {
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let open = |stream, flags| frame(HEADERS, END_HEADERS | flags, stream, HEAD);
    type Flood = (&'static str, Box<dyn Fn(u32) -> Vec<u8>>);
    let floods: [Flood; 5] = [
        ("rapid reset", Box::new(move |stream| [open(stream, END_STREAM), reset(stream)].concat())),
        (
            "made you reset",
            Box::new(move |stream| {
                let fault = frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
                [open(stream, 0), fault].concat()
            }),
        ),
        (
            "continuation",
            Box::new(|stream| match stream {
                1 => frame(HEADERS, END_STREAM, 1, HEAD),
                _ => frame(CONTINUATION, 0, 1, &[]),
            }),
        ),
        (
            "empty data",
            Box::new(move |stream| match stream {
                1 => open(1, 0),
                _ => frame(DATA, 0, 1, &[]),
            }),
        ),
        ("more at once", Box::new(move |stream| open(stream, END_STREAM))),
    ];
    for (name, flood) in floods {
        let (address, served) = counting().await;
        let client = greeted(address).await;
        let (mut reading, mut writing) = tokio::io::split(client);
        let writes = async {
            // It is of no use to write on once the server has gone.
            for stream in (1..200_001).step_by(2) {
                if writing.write_all(&flood(stream)).await.is_err() {
                    return true;
                }
            }
            false
        };
        let reads = async {
            // Nothing of what comes is kept.
            let mut piece = vec![0; 16 * 1024];
            while reading.read(&mut piece).await.is_ok_and(|bytes| bytes > 0) {}
        };
        let ended = tokio::select! {
            ended = writes => ended,
            () = reads => true,
        };
        let served = served.load(Ordering::Relaxed);
        assert!(served <= 2000, "{name}: {served}");
        assert!(ended || name == "more at once", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn pings_that_nobody_reads_the_answers_of_stay_with_the_client() {
    let (address, _) = counting().await;
    let mut client = greeted(address).await;
    let many = [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])].concat().repeat(1000);
    let blocked = async {
        loop {
            client.write_all(&many).await?;
        }
    };
    // It does not move any more once the clock does, or ends.
    let ended: Result<io::Result<()>, _> = timeout(Duration::from_secs(9), blocked).await;
    assert!(ended.is_err() || ended.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn long_heads_of_unknown_clients_have_one_budget_here_too() {
    let (address, _) = counting().await;
    let mut clients = VecDeque::new();
    let piece = vec![0x40; 16 * 1024];
    // Each begins a head of 200 KiB and does not end it.
    for _ in 0..100 {
        let mut client = greeted(address).await;
        client.write_all(&frame(HEADERS, END_STREAM, 1, HEAD)).await.unwrap();
        for _ in 0..12 {
            // A literal of a name and a value that are long.
            let mut block = vec![0x40, 0x01, b'n', 0x7f];
            block.extend_from_slice(&[0x81, 0x7d]);
            block.extend_from_slice(&piece[..16 * 1024 - 6 - 127]);
            if client.write_all(&frame(CONTINUATION, 0, 1, &block)).await.is_err() {
                break;
            }
        }
        clients.push_back(client);
    }
    // The oldest were ended for the others.
    let mut oldest = clients.pop_front().unwrap();
    assert_eq!(
        await_frame(&mut oldest, GOAWAY).await.map(|payload| payload.len() >= 8),
        Some(true)
    );
}
