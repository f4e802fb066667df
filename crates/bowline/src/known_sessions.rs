//! The sessions that were started from here: a file for each, since its id is a secret that only
//! its owner has.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bowline_client::kept::Id;
use bowline_proto::limits::KEPT_LONGEST;
use serde_json::{Value, json};

use crate::cluster_access::env;

/// Where a session is, and its secret. Its text is what another machine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its container.
    pub container: String,
    /// Its id.
    pub id: Id,
}

/// A session that was started from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is.
    pub place: Place,
    /// The API server.
    pub server: String,
    /// The command's words.
    pub command: Vec<String>,
    /// Whether it has input, and a terminal.
    pub stdin: bool,
    /// See there.
    pub tty: bool,
    /// When it was started.
    pub started: SystemTime,
    /// When somebody here heard of its end.
    pub ended: Option<SystemTime>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { namespace, pod, container, id } = self;
        write!(f, "{namespace}/{pod}/{container}/{}", id.secret())
    }
}

impl Place {
    /// Reads what `Display` gives.
    pub fn parse(text: &str) -> Option<Place> {
        let mut parts = text.split('/').map(ToOwned::to_owned);
        let (namespace, pod, container) = (parts.next()?, parts.next()?, parts.next()?);
        let id = Id::parse(&parts.next()?)?;
        let is_whole = parts.next().is_none() && !pod.is_empty() && !container.is_empty();
        is_whole.then_some(Place { namespace, pod, container, id })
    }
}

/// `$XDG_STATE_HOME/bowline/sessions`.
fn directory() -> Option<PathBuf> {
    let state = env("XDG_STATE_HOME").filter(|dir| dir.starts_with('/')).map(PathBuf::from);
    let state = state.or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    state.map(|state| state.join("bowline/sessions"))
}

impl Known {
    /// Writes one down that is new. Those whose results nobody has any more are forgotten.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self) -> io::Result<()> {
        let is_gone =
            |ended: SystemTime| now().duration_since(ended).is_ok_and(|ago| ago > KEPT_LONGEST);
        for known in all().into_iter().filter(|known| known.ended.is_some_and(is_gone)) {
            known.forget();
        }
        self.write()
    }

    /// Writes down that it has ended, for the first time that somebody here hears of it.
    pub fn has_ended(mut self) {
        if self.ended.is_none() {
            self.ended = Some(now());
            // It stays in the list, as it would without this.
            let _ = self.write();
        }
    }

    fn write(&self) -> io::Result<()> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "neither XDG_STATE_HOME nor HOME");
        let directory = directory().ok_or_else(missing)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
        };
        let text = json!({
            "session": self.place.to_string(),
            "server": self.server,
            "command": self.command,
            "stdin": self.stdin,
            "tty": self.tty,
            "startedUnixSeconds": seconds(self.started),
            "endedUnixSeconds": self.ended.map(seconds),
        });
        // Whole, or not there; and for nobody else, as temporary files are.
        let mut file = tempfile::Builder::new().prefix(".").tempfile_in(&directory)?;
        writeln!(file, "{text:#}")?;
        file.persist(directory.join(self.place.id.name())).map_err(|error| error.error)?;
        Ok(())
    }

    /// Forgets it.
    pub fn forget(&self) {
        if let Some(directory) = directory() {
            // One that is not there is forgotten.
            let _ = std::fs::remove_file(directory.join(self.place.id.name()));
        }
    }

    fn read(text: &str) -> Option<Known> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |name: &str| value[name].as_str().map(ToOwned::to_owned);
        let time = |name: &str| {
            let seconds = value[name].as_u64()?;
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        let words = value["command"].as_array()?.iter();
        Some(Known {
            place: Place::parse(&text("session")?)?,
            server: text("server")?,
            command: words
                .map(|word| word.as_str().map(ToOwned::to_owned))
                .collect::<Option<_>>()?,
            stdin: value["stdin"].as_bool()?,
            tty: value["tty"].as_bool()?,
            started: time("startedUnixSeconds")?,
            ended: time("endedUnixSeconds"),
        })
    }
}

/// The date, by which lists show how old a session is.
#[expect(clippy::disallowed_methods, reason = "it is only shown")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// All of them, the oldest first. A file that cannot be read is passed over.
pub fn all() -> Vec<Known> {
    let Some(entries) = directory().and_then(|directory| std::fs::read_dir(directory).ok()) else {
        return Vec::new();
    };
    let files = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    let mut all: Vec<Known> = files.filter_map(|text| Known::read(&text)).collect();
    all.sort_by_key(|known| known.started);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = Place {
            namespace: "default".into(),
            pod: "web".into(),
            container: "app".into(),
            id: Id([0xab; 16]),
        };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for bad in ["", "web", "a/b/c", "a/b/c/d", "a//c/abababababababababababababababab"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
