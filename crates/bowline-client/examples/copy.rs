//! `copy POD SOURCE TARGET`: a file or a tree out of a pod, tried again where it was lost.

use std::error::Error;
use std::path::Path;

use bowline_client::Client;
use bowline_client::copy::{CopyError, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [pod, source, target] = &words[..] else {
        return Err("usage: copy POD SOURCE TARGET".into());
    };
    let client = Client::try_default().await?;
    Ok(get(&client, pod, source, Path::new(target)).await?)
}

/// The target gets its name when all of it is there, and sums of both sides are the same.
pub async fn get(client: &Client, pod: &str, source: &str, target: &Path) -> Result<(), CopyError> {
    let mut options = Options::new();
    options.retries = Some(5);
    options.verify = true;
    client.copy_from(pod, source, target).options(options).run().await
}
