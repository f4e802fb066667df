//! `port_forward POD PORT`: an HTTP request to a port of a pod.

#![expect(clippy::disallowed_macros, reason = "a program of its own, which prints")]

use std::error::Error;

use bowline_client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(pod), Some(port)) = (words.next(), words.next()) else {
        return Err("usage: port_forward POD PORT".into());
    };
    let page = page(&Client::try_default().await?, &pod, port.parse()?).await?;
    println!("{page}");
    Ok(())
}

/// One forward carries any number of connections, which are streams as those of sockets are.
pub async fn page(client: &Client, pod: &str, port: u16) -> Result<String, Box<dyn Error>> {
    let forward = client.port_forward(pod).open().await?;
    let mut connection = forward.connect(port).await?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    connection.read_to_string(&mut page).await?;
    forward.close().await;
    Ok(page)
}
