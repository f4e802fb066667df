//! `-f`: files, directories, standard input and URLs to the objects in them, with kubectl's words.
//! Above: the binary. Below: `bowline_io::{objects, dial, http}`.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bowline_io::dial::{DialError, Endpoint, Tls, dial};
use bowline_io::http::{HttpError, head, request};
use bowline_io::objects::{self, Object, ObjectsError};
use bowline_io::proxy::{self, ProxyError};
use bowline_io::tls::{self, TlsError, Trust};
use bytes::Bytes;
use thiserror::Error;
use url::Url;

/// The most that is read of one place.
const BYTES: u64 = 3 * 1024 * 1024;
/// How long a URL may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The files that count in a directory.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// Why there are no objects.
#[derive(Debug, Error)]
pub enum FilesError {
    /// Nothing is there.
    #[error("the path {0:?} does not exist")]
    Missing(String),
    /// A directory or standard input cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// What was read.
        path: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// Standard input is longer than we take.
    #[error("{0}: longer than {BYTES} bytes")]
    TooLong(String),
    /// What is there are no objects.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The URL's server cannot be reached.
    #[error("unable to read URL {url:?}: {error}")]
    Dial {
        /// The URL.
        url: String,
        /// Why.
        error: DialError,
    },
    /// The URL's server did not answer.
    #[error("unable to read URL {url:?}: {error}")]
    Http {
        /// The URL.
        url: String,
        /// Why.
        error: HttpError,
    },
    /// The URL's server has nothing there.
    #[error("unable to read URL {url:?}, server reported {status}")]
    Status {
        /// The URL.
        url: String,
        /// What it said.
        status: http::StatusCode,
    },
    /// The environment's proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The system's certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The URL cannot be asked for.
    #[error(transparent)]
    Request(#[from] http::Error),
}

/// Reads all objects that `places` name; `-` is standard input.
///
/// # Errors
/// [`FilesError`] for the first place that fails.
pub async fn read(
    places: &[String],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Object>, FilesError> {
    let mut found = Vec::new();
    for place in places {
        let url = Url::parse(place).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if place == "-" {
            found.extend(standard_input()?);
        } else if let Some(url) = url {
            found.extend(fetched(&url, env).await?);
        } else {
            found.extend(local(place)?);
        }
    }
    Ok(found)
}

fn standard_input() -> Result<Vec<Object>, FilesError> {
    let failed = |error| FilesError::Read { path: "standard input".to_owned(), error };
    let mut text = String::new();
    std::io::stdin().take(BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > BYTES {
        return Err(FilesError::TooLong("standard input".to_owned()));
    }
    Ok(objects::parse(&text, Path::new("standard input"))?)
}

fn local(place: &str) -> Result<Vec<Object>, FilesError> {
    let path = Path::new(place);
    if !path.exists() {
        return Err(FilesError::Missing(place.to_owned()));
    }
    if !path.is_dir() {
        return Ok(objects::read(path)?);
    }
    let failed = |error| FilesError::Read { path: place.to_owned(), error };
    let entries = std::fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>();
    let mut files: Vec<_> = entries.map_err(failed)?.iter().map(std::fs::DirEntry::path).collect();
    files.retain(|file| {
        let ending = file.extension().and_then(|ending| ending.to_str());
        file.is_file() && ending.is_some_and(|ending| ENDINGS.contains(&ending))
    });
    files.sort();
    let mut found = Vec::new();
    for file in files {
        found.extend(objects::read(&file)?);
    }
    Ok(found)
}

/// No credential of a cluster goes along.
async fn fetched(
    url: &Url,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Object>, FilesError> {
    let name = || url.as_str().to_owned();
    let tls = match url.scheme() {
        "https" => Some(Tls { config: tls::client(&Trust::System, None)?, server_name: None }),
        _ => None,
    };
    let endpoint = Endpoint::of(url, tls, proxy::from_env(url, env)?);
    let stream = dial(&endpoint, PATIENCE).await;
    let stream = stream.map_err(|error| FilesError::Dial { url: name(), error })?;
    let head = head("GET", url, Bytes::new())?;
    let bytes = usize::try_from(BYTES).unwrap_or(usize::MAX);
    let answer = request(stream, head, bytes, PATIENCE).await;
    let (head, body) = answer.map_err(|error| FilesError::Http { url: name(), error })?;
    if !head.status.is_success() {
        return Err(FilesError::Status { url: name(), status: head.status });
    }
    Ok(objects::parse(&String::from_utf8_lossy(&body), Path::new(url.as_str()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_gives_its_manifests_in_order() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, pod: &str| {
            let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\n");
            std::fs::write(place.path().join(name), text).unwrap();
        };
        write("b.yaml", "two");
        write("a.json", "one");
        write("c.txt", "three");
        let env = |_: &str| None;
        let found = read(&[place.path().to_str().unwrap().to_owned()], &env).await.unwrap();
        let names: Vec<_> =
            found.iter().map(|one| one.value["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["one", "two"]);
        let error = read(&["/nonexistent".to_owned()], &env).await.unwrap_err();
        assert_eq!(error.to_string(), "the path \"/nonexistent\" does not exist");
    }
}
