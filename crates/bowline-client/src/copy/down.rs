//! Out of a container.
//! Above: [`copy`](super). Below: `bowline_archive::unpack`, [`scripts`].

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bowline_archive::admit::Admission;
use bowline_archive::unpack::{Step, UnpackError, Unpacker};
use bowline_proto::session::Outcome;

use super::listing::{Listing, sums};
use super::scripts::{self, SUMS, script};
use super::{
    Attempts, CopyError, Each, Options, Remote, Shared, Sink, Stdin, Watcher, complaints, failed,
    keep, listed, outcome, own_end, printed,
};

/// Copies what is at `source` in a container to `target` here.
///
/// # Errors
/// [`CopyError`].
pub async fn down(
    remote: &impl Remote,
    source: &str,
    target: &Path,
    options: &Options,
    watcher: Arc<dyn Watcher>,
) -> Result<(), CopyError> {
    let unpacker = Unpacker::new(target, options.preserve)?;
    let copy = Copy {
        remote,
        source,
        target,
        options,
        watcher,
        here: Shared::new(Here { unpacker, fault: None }),
    };
    let (mut attempts, mut before) = (Attempts::new(options), 0);
    let mut ended = copy.first().await;
    let ended = loop {
        let error = match ended {
            Ok(outcome) => break outcome,
            Err(error) => error,
        };
        let bytes = copy.bytes();
        attempts.again(error, &copy.watcher, before, bytes).await?;
        before = bytes;
        ended = copy.again().await;
    };
    copy.conclude(ended, &mut attempts).await
}

/// What the session's end and the copy both use.
struct Here {
    unpacker: Unpacker,
    fault: Option<UnpackError>,
}

struct Copy<'a, R> {
    remote: &'a R,
    source: &'a str,
    target: &'a Path,
    options: &'a Options,
    watcher: Arc<dyn Watcher>,
    here: Shared<Here>,
}

impl<R: Remote> Copy<'_, R> {
    /// Bytes of files that are here.
    fn bytes(&self) -> u64 {
        self.here.lock().unpacker.had().values().map(|had| had.bytes).sum()
    }

    async fn first(&self) -> Result<Outcome, CopyError> {
        self.watcher.total(None);
        let (words, root) = scripts::pack(self.source);
        self.archive(words, &root, None).await
    }

    /// Another attempt: of what is here and unchanged, nothing comes again.
    async fn again(&self) -> Result<Outcome, CopyError> {
        let (dir, root) = scripts::split(self.source);
        // The listing comes behind it, and tells whether the file has changed meanwhile.
        self.rest_of_the_unfinished(&dir, &root).await?;
        let Some(listed) = listed(self.remote, &dir, &root).await? else {
            self.watcher.note("the container has no find or no stat: all comes again");
            self.watcher.position(0);
            return self.first().await;
        };
        self.watcher.total(Some(total(&listed)));
        self.forget_what_changed(&listed);
        self.watcher.position(self.bytes());
        let patterns = self.patterns(&listed, &root);
        let stdin: Stdin = Some(Box::new(io::Cursor::new(patterns)));
        let (words, root) = scripts::pack_rest(self.source);
        let ended = self.archive(words, &root, stdin).await?;
        // Patterns are tar's matter. If one meant more than it should, something is missing now.
        let missing = {
            let here = self.here.lock();
            let had = here.unpacker.had();
            let is_here = |path: &Vec<u8>| had.get(path).is_some_and(|had| had.is_whole());
            listed.iter().any(|(path, found)| found.is_file && !is_here(path))
        };
        if missing && ended == Outcome::Success && self.here.lock().unpacker.failures() == 0 {
            self.watcher.position(0);
            return self.first().await;
        }
        Ok(ended)
    }

    fn forget_what_changed(&self, listed: &Listing) {
        let unpacker = &mut self.here.lock().unpacker;
        let had: Vec<_> = unpacker.had().iter().map(|(path, had)| (path.clone(), *had)).collect();
        for (path, had) in had {
            let same = listed.get(&path).is_some_and(|found| {
                found.is_file && (found.size, found.mtime) == (had.size, had.mtime)
            });
            if !same {
                unpacker.forget(&path);
            }
        }
    }

    async fn rest_of_the_unfinished(&self, dir: &str, root: &str) -> Result<(), CopyError> {
        let Some((path, had)) = self.here.lock().unpacker.unfinished() else { return Ok(()) };
        let Ok(name) = std::str::from_utf8(&path) else {
            self.here.lock().unpacker.forget(&path);
            return Ok(());
        };
        let full = match (root, name) {
            (".", _) => format!("{dir}/{name}"),
            (_, "") => format!("{dir}/{root}"),
            _ => format!("{dir}/{root}/{name}"),
        };
        self.watcher.file(&path);
        let (here, watcher, to) = (self.here.clone(), self.watcher.clone(), path.clone());
        let stdout: Sink = Box::new(Each(move |bytes: &[u8]| {
            watcher.bytes(bytes.len() as u64);
            here.lock().unpacker.append(&to, bytes)
        }));
        let (_, stderr) = keep(0);
        let ended = self.remote.run(scripts::rest_of(&full, had.bytes), None, stdout, stderr).await;
        let ended = outcome(ended, self.bytes());
        let mut here = self.here.lock();
        if let Err(error) = ended
            && error.is_loss()
        {
            return Err(error);
        }
        if here.unpacker.unfinished().is_some() {
            // It has become shorter, or longer, or there is no tail.
            here.unpacker.forget(&path);
        }
        Ok(())
    }

    /// What need not come again, as tar's patterns: whole directories where all of them is here.
    fn patterns(&self, listed: &Listing, root: &str) -> Vec<u8> {
        let here = self.here.lock();
        let mut lacking: std::collections::BTreeSet<&[u8]> = Default::default();
        for path in listed.keys().filter(|path| !here.unpacker.has(path)) {
            let mut path = &path[..];
            while lacking.insert(path)
                && let Some(slash) = path.iter().rposition(|byte| *byte == b'/')
            {
                path = &path[..slash];
            }
        }
        let mut patterns = Vec::new();
        let mut covered: Option<&[u8]> = None;
        for (path, found) in listed {
            let is_below = covered
                .is_some_and(|dir| path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'));
            if path.is_empty() || is_below || lacking.contains(&path[..]) {
                continue;
            }
            let name = [root.as_bytes(), b"/", path].concat();
            if let Some(pattern) = scripts::pattern(&name) {
                patterns.extend_from_slice(&pattern);
                patterns.push(b'\n');
                if found.is_dir {
                    covered = Some(path);
                }
            }
        }
        patterns
    }

    /// Runs tar, and takes what it packs.
    async fn archive(
        &self,
        words: Vec<String>,
        root: &str,
        stdin: Stdin,
    ) -> Result<Outcome, CopyError> {
        let options = self.options;
        let admission = Admission::new(root.as_bytes(), options.limits, options.symlinks);
        self.here.lock().unpacker.begin(admission);
        let stderr = complaints(&self.watcher);
        let (here, watcher, target) = (self.here.clone(), self.watcher.clone(), self.target);
        let target = target.to_string_lossy().into_owned();
        let stdout: Sink = Box::new(Each(move |bytes: &[u8]| {
            let mut here = here.lock();
            let taken = here.unpacker.take(bytes, &mut |step| match step {
                Step::File(name) => watcher.file(name),
                Step::Bytes(count) => watcher.bytes(count as u64),
            });
            here.unpacker.troubles().iter().for_each(|trouble| watcher.trouble(trouble));
            if let Err(fault) = taken {
                here.fault = Some(fault);
                return Err(io::Error::other("the archive"));
            }
            if here.unpacker.is_file_for_a_directory() {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, target.clone()));
            }
            Ok(())
        }));
        let ended = self.remote.run(words, stdin, stdout, stderr).await;
        if let Err(error) = ended {
            if self.here.lock().unpacker.is_file_for_a_directory() {
                let name = self.target.to_string_lossy().into_owned();
                return Err(CopyError::IsDirectory(name));
            }
            let fault = self.here.lock().fault.take();
            return Err(own_end(error, fault));
        }
        let outcome = outcome(ended, self.bytes())?;
        if self.here.lock().unpacker.finish().is_err() {
            return Err(match outcome {
                Outcome::Success => CopyError::Cut { retries: 0 },
                outcome => failed(outcome, false),
            });
        }
        Ok(outcome)
    }

    async fn conclude(&self, outcome: Outcome, attempts: &mut Attempts) -> Result<(), CopyError> {
        let sums = match self.options.verify {
            true => attempts.of(&self.watcher, || self.sums()).await?,
            false => None,
        };
        let mut here = self.here.lock();
        let unpacker = &mut here.unpacker;
        if let Some(sums) = sums {
            for path in unpacker.had().keys() {
                let name = || String::from_utf8_lossy(path).into_owned();
                let ours = unpacker
                    .sum(path)
                    .map_err(|error| CopyError::Local { path: self.target.join(name()), error })?;
                match sums.get(path) {
                    Some(theirs) if *theirs == ours => {}
                    Some(_) => return Err(CopyError::Unequal(name())),
                    None => self.watcher.note(&format!("not verified: {:?}", name())),
                }
            }
        }
        unpacker.publish()?;
        unpacker.troubles().iter().for_each(|trouble| self.watcher.trouble(trouble));
        if outcome != Outcome::Success {
            return Err(failed(outcome, unpacker.took_something()));
        }
        match unpacker.failures() {
            0 if unpacker.took_something() => Ok(()),
            0 => Err(CopyError::Nothing),
            failures => Err(CopyError::Incomplete(failures)),
        }
    }

    async fn sums(&self) -> Result<Option<BTreeMap<Vec<u8>, String>>, CopyError> {
        let (dir, root) = scripts::split(self.source);
        let printed = printed(self.remote, script(SUMS, &[&dir, &root]), None).await?;
        if printed.is_none() {
            self.watcher.note("not verified: the container has no sha256sum");
        }
        Ok(printed.map(|text| sums(&text, &root)))
    }
}

fn total(listed: &Listing) -> u64 {
    listed.values().filter(|found| found.is_file).map(|found| found.size).sum()
}
