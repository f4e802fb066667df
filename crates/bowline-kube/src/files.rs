//! `-f`: files, directories, standard input and URLs to the objects in them, with kubectl's words.

use std::io::Read;
use std::path::Path;

use bowline_io::objects::{self, Object, ObjectsError};
use bowline_io::text::redacted;
use bowline_io::tls::Trust;
use thiserror::Error;
use url::Url;

use crate::web::{Web, WebError};

/// The most bytes that are read from standard input or a URL.
const BYTES: u64 = 3 * 1024 * 1024;
/// The extensions of the files that are read in a directory.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Why there are no objects.
#[derive(Debug, Error)]
pub enum FilesError {
    /// There is no such file or directory.
    #[error("the path {0:?} does not exist")]
    Missing(String),
    /// A directory has no file with a known extension.
    #[error("error reading [{0}]: recognized file extensions are [.json .yaml .yml]")]
    NoManifests(String),
    /// A directory or standard input cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// What was read.
        path: String,
        /// Why it failed.
        #[source]
        error: std::io::Error,
    },
    /// Standard input is too long.
    #[error("{0}: longer than {BYTES} bytes")]
    TooLong(String),
    /// The text is no objects.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The URL cannot be read.
    #[error("unable to read URL {url:?}: {error}")]
    Web {
        /// The URL, without its password.
        url: String,
        /// How the request failed.
        #[source]
        error: WebError,
    },
    /// The URL's server answers with an error.
    #[error("unable to read URL {url:?}, server reported {status}")]
    Status {
        /// The URL.
        url: String,
        /// The HTTP status.
        status: http::StatusCode,
    },
}

/// Reads all objects that `places` name; `-` is standard input.
///
/// # Errors
/// [`FilesError`] for the first place that fails.
pub async fn read(
    places: &[String],
    env: &(dyn Fn(&str) -> Option<String> + Send + Sync),
) -> Result<Vec<Object>, FilesError> {
    let mut found = Vec::new();
    for place in places {
        if place == "-" {
            found.extend(standard_input()?);
        } else if let Some(url) = url_of(place) {
            found.extend(fetched(&url, env).await?);
        } else {
            found.extend(local(place)?);
        }
    }
    Ok(found)
}

/// Checks that all of `places` that are paths exist, without reading them.
///
/// # Errors
/// [`FilesError::Missing`] for the first that does not.
pub fn exist(places: &[String]) -> Result<(), FilesError> {
    let is_path = |place: &&String| *place != "-" && url_of(place).is_none();
    match places.iter().filter(is_path).find(|place| !Path::new(place).exists()) {
        Some(missing) => Err(FilesError::Missing(missing.clone())),
        None => Ok(()),
    }
}

fn url_of(place: &str) -> Option<Url> {
    Url::parse(place).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
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
        let extension = file.extension().and_then(|extension| extension.to_str());
        file.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    });
    if files.is_empty() {
        return Err(FilesError::NoManifests(place.to_owned()));
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        found.extend(objects::read(&file)?);
    }
    Ok(found)
}

/// Gets the objects of a URL, without any credential of a cluster.
async fn fetched(
    url: &Url,
    env: &(dyn Fn(&str) -> Option<String> + Send + Sync),
) -> Result<Vec<Object>, FilesError> {
    let name = || redacted(url.as_str()).into_owned();
    let bytes = usize::try_from(BYTES).unwrap_or(usize::MAX);
    let answer = Web { trust: &Trust::System, env, bytes }.get(url).await;
    let (head, body) = answer.map_err(|error| FilesError::Web { url: name(), error })?;
    if !head.status.is_success() {
        return Err(FilesError::Status { url: name(), status: head.status });
    }
    Ok(objects::parse(&String::from_utf8_lossy(&body), Path::new(&name()))?)
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
        let missing = place.path().join("missing").to_str().unwrap().to_owned();
        let error = read(std::slice::from_ref(&missing), &env).await.unwrap_err();
        assert_eq!(error.to_string(), format!("the path {missing:?} does not exist"));
    }
}
