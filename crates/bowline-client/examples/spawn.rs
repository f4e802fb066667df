//! `spawn POD`: talks to a command while it runs.

#![expect(clippy::disallowed_macros, reason = "a program of its own, which prints")]

use std::error::Error;

use bowline_client::{Client, Outcome};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let pod = std::env::args().nth(1).ok_or("usage: spawn POD")?;
    let sums = sums(&Client::try_default().await?, &pod, &["1 + 1", "6 * 7"]).await?;
    println!("{sums:?}");
    Ok(())
}

/// Has a shell calculate, one question after the other answer.
pub async fn sums(
    client: &Client,
    pod: &str,
    questions: &[&str],
) -> Result<Vec<String>, Box<dyn Error>> {
    let script = "while read question; do echo $(($question)); done";
    let mut child = client.exec(pod, ["sh", "-c", script]).stdin_piped().spawn().await?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("a child has both, once".into());
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut answers = Vec::new();
    for question in questions {
        stdin.write_all(format!("{question}\n").as_bytes()).await?;
        answers.push(lines.next_line().await?.ok_or("no answer")?);
    }
    // The end of its input is the shell's end.
    drop(stdin);
    match child.wait().await? {
        Outcome::Success => Ok(answers),
        other => Err(format!("the shell ended with {other:?}").into()),
    }
}
