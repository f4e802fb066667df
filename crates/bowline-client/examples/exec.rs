//! `exec POD COMMAND…`: a command's output and how it ended.

#![expect(clippy::disallowed_macros, reason = "a program of its own, which prints")]

use std::error::Error;

use bowline_client::{Client, Output};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let pod = words.next().ok_or("usage: exec POD COMMAND…")?;
    let client = Client::try_default().await?;
    let output = exec(&client, &pod, words.collect()).await?;
    println!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// A loss is an error, a command that has failed is not.
pub async fn exec(
    client: &Client,
    pod: &str,
    command: Vec<String>,
) -> Result<Output, bowline_client::Error> {
    client.exec(pod, command).output().await
}
