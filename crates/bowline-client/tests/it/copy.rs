//! Copies with a real tar and a real shell, which run here; connections that end when they should
//! not; and archives of an enemy.

mod changes;
mod ends;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bowline_archive::Problem;
use bowline_archive::filter::Limits;
use bowline_client::copy::{
    CopyError, Options, Remote, Sink, Stdin, Watcher, between, download, upload,
};
use bowline_client::{Cause, EndError, Ended, Error, Loss, Outcome, UpgradeError};
use bowline_interop::copy::{manifest, odd_tree, same};
use bowline_io::dial::DialError;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// A container: this machine, with a `PATH` of its own where that is wanted, behind a connection
/// that is lost after so many bytes, in both directions together.
#[derive(Default)]
struct Container {
    cut_every: Option<u64>,
    path: Option<PathBuf>,
    runs: AtomicU64,
    /// As containerd does: a command that closes its output gets no more input.
    drops_stdin: bool,
    /// What was on its way when a connection was lost arrives late, and its command ends later.
    lingers: bool,
    /// As containerd does: a command that leaves input unread has no end.
    waits_for_readers: bool,
    /// The number of a command, from 1 on, whose end is not heard of.
    loses_end_of: Option<u64>,
    /// From this one on there is no connection.
    refuses_from: Option<u64>,
}

/// So much is on its way.
const ON_ITS_WAY: usize = 300_000;

impl Remote for Container {
    async fn run(
        &self,
        words: Vec<String>,
        stdin: Stdin,
        mut stdout: Sink,
        mut stderr: Sink,
    ) -> Result<Ended, Error> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        if self.refuses_from.is_some_and(|from| number >= from) {
            let (host, port) = ("gone".to_owned(), 1);
            return Err(Error::Upgrade(UpgradeError::Dial(DialError::Timeout { host, port })));
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("LC_ALL", "C").kill_on_drop(true);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let input = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(_) => {
                let message = format!("exec: {:?}: executable file not found in $PATH", words[0]);
                let (code, reason) = (Some(500), String::new());
                return Ok(Ended::Known(Outcome::Failed { message, code, reason }));
            }
        };
        let (cut, closed) = (CancellationToken::new(), CancellationToken::new());
        let left = AtomicU64::new(self.cut_every.unwrap_or(u64::MAX));
        // Whether so many bytes still come through.
        let passes = |bytes: usize| {
            let bytes = bytes as u64;
            let less = |left: u64| left.checked_sub(bytes);
            let passes = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
            if !passes {
                cut.cancel();
            }
            passes
        };
        let (mut theirs_in, mut theirs_out) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut theirs_err = child.stderr.take().unwrap();
        let mut stdin = stdin;
        // What was read here and not written there: nothing on a connection overtakes it.
        let mut unsent: Vec<u8> = Vec::new();
        let writing = async {
            let Some(stdin) = &mut stdin else { return true };
            let mut piece = vec![0; 16 * 1024];
            while let Some(read) = closed.run_until_cancelled(stdin.read(&mut piece)).await {
                let length = read.unwrap();
                if length == 0 {
                    break;
                }
                unsent.extend_from_slice(&piece[..length]);
                if !passes(length) {
                    return false;
                }
                let Some(theirs) = &mut theirs_in else { break };
                while let Ok(written @ 1..) = theirs.write(&unsent).await {
                    unsent.drain(..written);
                }
                if !unsent.is_empty() && self.waits_for_readers {
                    std::future::pending::<()>().await;
                }
                if !unsent.is_empty() {
                    break;
                }
            }
            theirs_in = None;
            true
        };
        let reading = async {
            let mut piece = vec![0; 16 * 1024];
            while let length @ 1.. = theirs_out.read(&mut piece).await.unwrap() {
                if !passes(length) {
                    return Ok::<_, Error>(false);
                }
                let write = stdout.write_all(&piece[..length]).await;
                write.map_err(|error| Error::End(EndError::Write("stdout", error)))?;
            }
            if self.drops_stdin {
                closed.cancel();
            }
            Ok(true)
        };
        let complaining = async {
            let mut piece = vec![0; 4096];
            while let length @ 1.. = theirs_err.read(&mut piece).await.unwrap() {
                stderr.write_all(&piece[..length]).await.unwrap();
            }
        };
        let all = async {
            let writing = async { Ok::<_, Error>(writing.await) };
            let complaining = async {
                complaining.await;
                Ok(())
            };
            let (wrote, read, ()) = tokio::try_join!(writing, reading, complaining)?;
            Ok::<_, Error>((wrote, read))
        };
        // A cut ends both directions, whatever the process still wants.
        let whole = cut.run_until_cancelled(all).await;
        if whole.transpose()? != Some((true, true)) {
            if self.lingers
                && let (Some(mut stdin), Some(mut theirs)) = (stdin, theirs_in)
            {
                let mut more = vec![0; ON_ITS_WAY];
                let length = stdin.read(&mut more).await.unwrap();
                let late = [&unsent, &more[..length]].concat();
                tokio::spawn(async move {
                    for piece in late.chunks(4096) {
                        tokio::task::yield_now().await;
                        if theirs.write_all(piece).await.is_err() {
                            break;
                        }
                    }
                    drop(theirs);
                    let _ = child.wait().await;
                });
            }
            return Ok(Ended::Lost { loss: Loss::new(Cause::Cut, ""), received_bytes: 0 });
        }
        let status = child.wait().await.unwrap();
        if self.loses_end_of == Some(number) {
            return Ok(Ended::Lost { loss: Loss::new(Cause::Cut, ""), received_bytes: 0 });
        }
        Ok(Ended::Known(match status.code() {
            Some(0) => Outcome::Success,
            code => Outcome::Exited(code.map_or(137, |code| code as u8)),
        }))
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn hear(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

impl Watcher for Heard {
    fn total(&self, _: Option<u64>) {}
    fn file(&self, _: &[u8]) {}
    fn bytes(&self, _: u64) {}
    fn position(&self, _: u64) {}
    fn problem(&self, problem: &Problem) {
        self.hear(problem.text.clone());
    }
    fn stderr_line(&self, text: &[u8]) {
        self.hear(String::from_utf8_lossy(text).into_owned());
    }
    fn resumes(&self, bytes: u64, retry: u64, why: &str) {
        self.hear(format!("resumes at {bytes}, {retry}: {why}"));
    }
    fn note(&self, text: &str) {
        self.hear(text.to_owned());
    }
}

const OPTIONS: Options = {
    let mut options = Options::new();
    options.verify = true;
    options.symlinks = true;
    options.limits = Limits { bytes: 1 << 30, entries: 100_000 };
    options
};

/// [`OPTIONS`] but for this.
fn with(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = OPTIONS;
    change(&mut options);
    options
}

fn options(retries: Option<u64>) -> Options {
    with(|options| options.retries = retries)
}

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

async fn get(
    container: &Container,
    place: &Place,
    options: &Options,
) -> (Result<(), CopyError>, String) {
    let heard = Arc::new(Heard::default());
    let (source, target) = (place.text("source"), place.path("target"));
    let result = download(container, &source, &target, options, heard.clone()).await;
    (result, heard.text())
}

async fn put(
    container: &Container,
    place: &Place,
    options: &Options,
) -> (Result<(), CopyError>, String) {
    let heard = Arc::new(Heard::default());
    let (source, target) = (place.path("source"), place.text("target"));
    let stop = CancellationToken::new();
    let result = upload(container, &source, &target, options, heard.clone(), &stop).await;
    (result, heard.text())
}

#[tokio::test]
async fn a_tree_comes_and_goes_as_it_is() {
    let place = Place::new();
    odd_tree(&place.path("source"), 3_000_000);
    let expected = manifest(&place.path("source"));
    for attempt in 0..2 {
        let (result, heard) = get(&Container::default(), &place, &OPTIONS).await;
        result.unwrap_or_else(|error| panic!("{attempt}: {error}: {heard}"));
        same(&place.path("target"), &expected);
    }
    fs::rename(place.path("target"), place.path("got")).unwrap();
    let (result, heard) = put(&Container::default(), &place, &OPTIONS).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    same(&place.path("target"), &expected);
    // Now that it is there, the copy goes into it; and over what is there.
    for attempt in 0..2 {
        let (result, heard) = put(&Container::default(), &place, &OPTIONS).await;
        result.unwrap_or_else(|error| panic!("{attempt}: {error}: {heard}"));
        same(&place.path("target/source"), &expected);
    }
    fs::remove_dir_all(place.path("target")).unwrap();
    let (source, target) = (place.text("source"), place.text("target"));
    let (heard, stop) = (Arc::new(Heard::default()), CancellationToken::new());
    let (from, to) = (Container::default(), Container::default());
    between(&from, &source, &to, &target, &OPTIONS, heard, &stop).await.unwrap();
    same(&place.path("target"), &expected);
    assert_eq!(place.names(), ["got", "source", "target"]);
}

#[tokio::test]
async fn one_file_comes_and_goes() {
    for bytes in [0, 1, 511, 512, 513, 2_000_000] {
        let place = Place::new();
        fs::write(place.path("source"), vec![9; bytes]).unwrap();
        get(&Container::default(), &place, &OPTIONS).await.0.unwrap();
        assert_eq!(fs::read(place.path("target")).unwrap().len(), bytes);
        fs::write(place.path("source"), vec![8; bytes]).unwrap();
        put(&Container::default(), &place, &OPTIONS).await.0.unwrap();
        assert_eq!(fs::read(place.path("target")).unwrap(), vec![8; bytes]);
        assert_eq!(place.names(), ["source", "target"]);
    }
}

#[tokio::test]
async fn a_cut_connection_is_no_copy() {
    let place = Place::new();
    odd_tree(&place.path("source"), 3_000_000);
    let container = Container { cut_every: Some(500_000), ..Container::default() };
    let (result, _) = get(&container, &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::Lost { retries: 0, .. })), "{result:?}");
    let (result, _) = put(&container, &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::Lost { retries: 0, .. })), "{result:?}");
    assert_eq!(place.names(), ["source"], "nothing looks like a copy");
}

#[tokio::test]
async fn a_copy_goes_on_where_it_was_cut() {
    let place = Place::new();
    odd_tree(&place.path("source"), 3_000_000);
    let expected = manifest(&place.path("source"));
    let container =
        Container { cut_every: Some(500_000), drops_stdin: true, ..Container::default() };
    let (result, heard) = get(&container, &place, &options(None)).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    same(&place.path("target"), &expected);
    assert!(heard.matches("resumes").count() >= 6, "{heard}");
    fs::remove_dir_all(place.path("target")).unwrap();
    let (result, heard) = put(&container, &place, &options(None)).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    same(&place.path("target"), &expected);
    assert!(heard.matches("resumes").count() >= 6, "{heard}");
    assert_eq!(place.names(), ["source", "target"]);
}

/// What still runs of an attempt that was lost, and still writes, harms none that comes after it.
#[tokio::test]
async fn late_writers_change_nothing() {
    let place = Place::new();
    odd_tree(&place.path("source"), 3_000_000);
    fs::write(place.path("source/large"), vec![7; 1_000_000]).unwrap();
    let expected = manifest(&place.path("source"));
    for cut_every in [400_000, 700_000] {
        let (drops_stdin, lingers) = (true, true);
        let cut_every = Some(cut_every);
        let container = Container { cut_every, drops_stdin, lingers, ..Container::default() };
        let (result, heard) = put(&container, &place, &options(None)).await;
        result.unwrap_or_else(|error| panic!("{error}: {heard}"));
        same(&place.path("target"), &expected);
        assert!(heard.matches("resumes").count() >= 3, "{heard}");
        assert_eq!(place.names(), ["source", "target"]);
        fs::remove_dir_all(place.path("target")).unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_the_rest_copied() {
    let place = Place::new();
    odd_tree(&place.path("source"), 1000);
    let fifo = place.path("source/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("source/socket")).unwrap();
    let (result, heard) = put(&Container::default(), &place, &OPTIONS).await;
    result.unwrap();
    assert!(heard.contains("it is a named pipe") && heard.contains("it is a socket"), "{heard}");
    let (result, heard) = get(&Container::default(), &place, &OPTIONS).await;
    result.unwrap();
    assert!(heard.contains("it is a named pipe"), "{heard}");
    // Gone between its listing and its reading; as good as unreadable, also for root.
    let gone = place.text("gone");
    let heard = Arc::new(Heard::default());
    let lost =
        download(&Container::default(), &gone, &place.path("x"), &OPTIONS, heard.clone()).await;
    let is_2 = matches!(
        lost,
        Err(CopyError::Remote { outcome: Outcome::Exited(2), published: false, .. })
    );
    assert!(is_2 && heard.text().contains("No such file"), "{lost:?} {}", heard.text());
    fs::rename(place.path("source"), place.path("away")).unwrap();
    let (nothing, _) = put(&Container::default(), &place, &OPTIONS).await;
    assert!(matches!(nothing, Err(CopyError::NoSource(_))));
}

/// A container whose `tar` is this script.
fn container_with_tar(place: &Place, script: &str) -> Container {
    let bin = place.path("bin");
    fs::create_dir(&bin).unwrap();
    let names = [
        "sh",
        "cat",
        "find",
        "stat",
        "mv",
        "rm",
        "mkdir",
        "head",
        "printf",
        "sha256sum",
        "date",
        "tail",
        "dd",
        "wc",
        "touch",
        "chmod",
        "sleep",
        "ls",
    ];
    for name in names {
        for dir in ["/bin", "/usr/bin"] {
            let path = Path::new(dir).join(name);
            if path.exists() && !bin.join(name).exists() {
                symlink(path, bin.join(name)).unwrap();
            }
        }
    }
    if !script.is_empty() {
        fs::write(bin.join("tar"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(bin.join("tar"), PermissionsExt::from_mode(0o755)).unwrap();
    }
    Container { path: Some(bin), ..Container::default() }
}

#[tokio::test]
async fn a_container_without_tar_is_told_apart() {
    let place = Place::new();
    fs::write(place.path("source"), "x").unwrap();
    let container = container_with_tar(&place, "");
    let (result, _) = get(&container, &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::NoTar)), "{result:?}");
    let (result, _) = put(&container, &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::NoTar)), "{result:?}");
    assert_eq!(place.names(), ["bin", "source"]);
}

#[tokio::test]
async fn the_remote_tars_failure_is_ours() {
    let place = Place::new();
    odd_tree(&place.path("source"), 1000);
    let container = container_with_tar(&place, "/bin/tar \"$@\"; echo oops >&2; exit 2");
    let (result, heard) = get(&container, &place, &with(|options| options.verify = false)).await;
    let exited = |result: &Result<(), CopyError>| {
        matches!(
            result,
            Err(CopyError::Remote { outcome: Outcome::Exited(2), published: true, .. })
        )
    };
    assert!(exited(&result) && heard.contains("oops"), "{result:?} {heard}");
    assert!(place.path("target/big").exists(), "the rest is copied");
}

/// Tar fails on a full disk and leaves short files; whatever they are called, none may stay under a
/// name where it looks complete.
#[tokio::test]
async fn what_a_failed_tar_has_cut_short_does_not_stay() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    let many = (0..300).map(|number| format!("cut {number}").into_bytes());
    let odd = [&b"cut\nline"[..], b"cut \xff", b"-cut\\0101\\", b"cut\n", b" cut", b"whole"];
    for name in odd.map(<[u8]>::to_vec).into_iter().chain(many) {
        let path = place.path("source").join(std::ffi::OsStr::from_bytes(&name));
        fs::write(path, "not short").unwrap();
    }
    let cuts = "/bin/tar \"$@\"
        for f in tree/*cut*; do printf x >\"$f\"; done; exit 2";
    let container = container_with_tar(&place, cuts);
    let (result, heard) = put(&container, &place, &OPTIONS).await;
    let is_2 = matches!(
        result,
        Err(CopyError::Remote { outcome: Outcome::Exited(2), published: true, .. })
    );
    assert!(is_2, "{result:?} {heard}");
    let left: Vec<_> = fs::read_dir(place.path("target")).unwrap().map(Result::unwrap).collect();
    assert!(left.len() == 1 && left[0].file_name() == "whole", "{left:?}");
    fs::remove_dir_all(place.path("target")).unwrap();

    // It cannot be removed, or nobody can tell which it is.
    fs::remove_file(place.path("bin/rm")).unwrap();
    let rm =
        "#!/bin/sh\n[ \"$1\" != -f ] || { echo not today >&2; exit 1; }\nexec /bin/rm \"$@\"\n";
    fs::write(place.path("bin/rm"), rm).unwrap();
    fs::set_permissions(place.path("bin/rm"), PermissionsExt::from_mode(0o755)).unwrap();
    let (result, _) = put(&container, &place, &OPTIONS).await;
    assert!(
        matches!(&result, Err(CopyError::NotWhole(why)) if why == "stays: not today"),
        "{result:?}"
    );
    for name in ["find", "stat", "ls", "wc"] {
        fs::remove_file(place.path("bin").join(name)).unwrap();
    }
    let (result, _) = put(&container, &place, &OPTIONS).await;
    assert!(
        matches!(&result, Err(CopyError::NotWhole(why)) if why.contains("cannot be told")),
        "{result:?}"
    );
    assert_eq!(place.names(), ["bin", "source"]);
}

/// A request is text.
#[tokio::test]
async fn a_name_that_no_request_can_carry_is_not_changed_in_silence() {
    let place = Place::new();
    let source = place.0.path().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    fs::write(&source, "x").unwrap();
    fs::create_dir(place.path("target")).unwrap();
    let heard = Arc::new(Heard::default());
    let stop = CancellationToken::new();
    let container = Container::default();
    let to = async |target: &str| {
        let target = place.text(target);
        upload(&container, &source, &target, &OPTIONS, heard.clone(), &stop).await
    };
    let refused = to("target").await.unwrap_err().to_string();
    assert_eq!(refused, "\"odd\\xFF\" is not UTF-8: give the target a name of its own");
    to("target/even").await.unwrap();
    assert_eq!(fs::read(place.path("target/even")).unwrap(), b"x");
}

#[tokio::test]
async fn endless_and_oversized_archives_are_refused() {
    let place = Place::new();
    let header = "/bin/tar cf - --transform='s,.*,./source,' -C / etc/hostname | head -c 512";
    for (script, expected) in [
        ("cat /dev/zero", "bytes behind the end"),
        ("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", "checksum"),
        (header, "unexpected EOF"),
    ] {
        let container = container_with_tar(&place, script);
        let (result, _) = get(&container, &place, &OPTIONS).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{script}: {error}");
        fs::remove_dir_all(place.path("bin")).unwrap();
    }
    fs::create_dir(place.path("source")).unwrap();
    for number in 0..20 {
        fs::write(place.path("source").join(number.to_string()), [0; 1000]).unwrap();
    }
    for (limits, expected) in [
        (Limits { bytes: 10_000, entries: 1000 }, "--max-bytes"),
        (Limits { bytes: 1 << 20, entries: 10 }, "--max-entries"),
    ] {
        let options = with(|options| options.limits = limits);
        let (result, _) = get(&Container::default(), &place, &options).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(place.names(), ["source"]);
}

/// As kubectl does.
#[tokio::test]
async fn missing_directories_are_made_and_a_targets_own_mode_stays() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    fs::write(place.path("source/f"), "x").unwrap();
    fs::set_permissions(place.path("source"), PermissionsExt::from_mode(0o777)).unwrap();
    let (source, target) = (place.text("source"), place.path("not/there/yet"));
    let copy = || async {
        let heard = Arc::new(Heard::default());
        download(&Container::default(), &source, &target, &OPTIONS, heard).await.unwrap();
        fs::metadata(&target).unwrap().mode() & 0o777
    };
    assert_eq!(copy().await, 0o777);
    fs::set_permissions(&target, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(copy().await, 0o700);
}

#[tokio::test]
async fn a_directory_is_not_overwritten_by_a_file() {
    let place = Place::new();
    fs::write(place.path("source"), "x").unwrap();
    fs::create_dir(place.path("target")).unwrap();
    let (result, _) = get(&Container::default(), &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::IsDirectory(_))), "{result:?}");
    let heard = Arc::new(Heard::default());
    let source = place.text("source");
    let below_a_file = place.path("source/target");
    let result = download(&Container::default(), &source, &below_a_file, &OPTIONS, heard).await;
    assert!(matches!(result, Err(CopyError::Unpack(_))), "{result:?}");
}

/// Whatever a container's tar and runtime say: a difference is a failure with a name.
#[tokio::test]
async fn what_is_not_there_is_a_failure_and_has_no_name() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    for name in ["a", "b"] {
        fs::write(place.path("source").join(name), "content").unwrap();
    }
    // Long ago: it has not changed while it was copied.
    for path in ["source/a", "source/b", "source"] {
        old(&place.path(path));
    }
    let plain = with(|options| options.verify = false);
    for (does, what) in [
        ("printf x >tree/b", "\"b\": it has 1 bytes there, not 7"),
        ("rm tree/b", "\"b\": it is not there"),
        ("rm tree/b; /bin/ln -s a tree/b", "\"b\": it is a symbolic link there, not a file"),
    ] {
        // Where there is no find, and where there is no stat either.
        for missing in [&[][..], &["find"], &["find", "stat"]] {
            let script = format!("/bin/tar \"$@\"; {does}");
            let container = container_with_tar(&place, &script);
            for name in missing {
                fs::remove_file(place.path("bin").join(name)).unwrap();
            }
            let (result, heard) = put(&container, &place, &plain).await;
            let error = result.expect_err(&heard).to_string();
            assert_eq!(error, format!("{what}; nothing has the target's name"), "{missing:?}");
            let (from, stop) = (Container::default(), CancellationToken::new());
            let (source, target) = (place.text("source"), place.text("target"));
            let heard = Arc::new(Heard::default());
            let copied = between(&from, &source, &container, &target, &plain, heard, &stop).await;
            assert!(copied.unwrap_err().to_string().starts_with(what));
            fs::remove_dir_all(place.path("bin")).unwrap();
            assert_eq!(place.names(), ["source"]);
        }
    }
    let container = container_with_tar(&place, "shift; /bin/tar --exclude=./source/b -cf \"$@\"");
    let (result, _) = get(&container, &place, &plain).await;
    let error = result.unwrap_err().to_string();
    assert_eq!(error, "\"b\": it has not come; nothing has the target's name");
    assert_eq!(place.names(), ["bin", "source"]);
    // What cannot be told is said.
    fs::write(place.path("bin/tar"), "#!/bin/sh\nexec /bin/tar \"$@\"\n").unwrap();
    for name in ["find", "stat", "ls", "wc"] {
        fs::remove_file(place.path("bin").join(name)).unwrap();
    }
    let (result, heard) = put(&container, &place, &plain).await;
    result.unwrap();
    assert!(heard.starts_with("names and sizes were not compared: "), "{heard}");
}

fn old(path: &Path) {
    let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let times = fs::FileTimes::new().set_modified(past);
    fs::File::open(path).unwrap().set_times(times).unwrap();
}

#[tokio::test]
async fn a_source_that_is_a_link_means_what_it_leads_to() {
    let place = Place::new();
    fs::create_dir_all(place.path("there/sub")).unwrap();
    fs::write(place.path("there/sub/file"), "x").unwrap();
    for (to, file) in [("there/sub", "target/file"), ("there/sub/file", "target")] {
        symlink(to, place.path("inner")).unwrap();
        symlink("inner", place.path("source")).unwrap();
        let (from, stop) = (Container::default(), CancellationToken::new());
        let (source, target) = (place.text("source"), place.text("target"));
        for way in 0..3 {
            let heard = match way {
                0 => {
                    let (result, heard) = get(&from, &place, &OPTIONS).await;
                    result.map(|()| heard)
                }
                1 => {
                    let (result, heard) = put(&from, &place, &OPTIONS).await;
                    result.map(|()| heard)
                }
                _ => {
                    let heard = Arc::new(Heard::default());
                    let to = &Container::default();
                    let copy = between(&from, &source, to, &target, &OPTIONS, heard.clone(), &stop);
                    copy.await.map(|()| heard.text())
                }
            };
            assert_eq!(heard.unwrap(), "", "{way} {to}");
            assert_eq!(fs::read(place.path(file)).unwrap(), b"x", "{way} {to}");
            let gone = fs::remove_dir_all(place.path("target"));
            gone.or_else(|_| fs::remove_file(place.path("target"))).unwrap();
        }
        fs::remove_file(place.path("inner")).unwrap();
        fs::remove_file(place.path("source")).unwrap();
    }
}

#[tokio::test]
async fn what_is_in_a_source_that_ends_in_a_dot_comes_into_the_target_itself() {
    let place = Place::new();
    fs::create_dir_all(place.path("source/a")).unwrap();
    fs::write(place.path("source/a/f"), "x").unwrap();
    let (container, stop) = (Container::default(), CancellationToken::new());
    for (end, file) in [("/.", "target/a/f"), ("/a/..", "target/a/f"), ("", "target/source/a/f")] {
        let source = place.text("source") + end;
        for way in 0..2 {
            fs::create_dir(place.path("target")).unwrap();
            fs::write(place.path("target/mine"), "stays").unwrap();
            let (heard, target) = (Arc::new(Heard::default()), place.text("target"));
            let copied = if way == 0 {
                upload(&container, Path::new(&source), &target, &OPTIONS, heard, &stop).await
            } else {
                let to = &Container::default();
                between(&container, &source, to, &target, &OPTIONS, heard, &stop).await
            };
            copied.unwrap();
            assert!(place.path(file).exists(), "{end} {way}");
            assert!(place.path("target/mine").exists());
            fs::remove_dir_all(place.path("target")).unwrap();
        }
    }
}

/// A link, a pipe: on either side, only what is a regular file or absent is replaced.
#[tokio::test]
async fn what_is_no_regular_file_is_written_through() {
    let place = Place::new();
    fs::write(place.path("source"), "new").unwrap();
    let container = Container::default();
    for way in 0..2 {
        let copied = async || match way {
            0 => get(&container, &place, &OPTIONS).await,
            _ => put(&container, &place, &OPTIONS).await,
        };
        fs::write(place.path("behind"), "longer than new").unwrap();
        for exists in [true, false] {
            symlink("behind", place.path("target")).unwrap();
            let (result, heard) = copied().await;
            result.unwrap_or_else(|error| panic!("{way}: {error}: {heard}"));
            assert!(place.path("target").is_symlink(), "{way} {exists}");
            assert_eq!(fs::read(place.path("behind")).unwrap(), b"new", "{way} {exists}");
            fs::remove_file(place.path("behind")).unwrap();
            fs::remove_file(place.path("target")).unwrap();
        }
        let pipe = place.path("target");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
        let (result, heard) = copied().await;
        result.unwrap_or_else(|error| panic!("{way}: {error}: {heard}"));
        assert_eq!(reader.join().unwrap(), b"new", "{way}");
        fs::remove_file(place.path("target")).unwrap();
        assert_eq!(place.names(), ["source"], "{way}");
    }
}

/// A mounted file, a directory that is not one's own: what has the name is written, once all is
/// there, and it is said.
#[tokio::test]
async fn what_cannot_be_replaced_in_a_container_is_written_in_place() {
    let place = Place::new();
    fs::write(place.path("source"), "new").unwrap();
    fs::create_dir(place.path("dir")).unwrap();
    fs::write(place.path("dir/target"), "longer than new").unwrap();
    let container = container_with_tar(&place, "exec /bin/tar \"$@\"");
    let replace = |name: &str, script: &str| {
        let path = place.path("bin").join(name);
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\nexec /bin/{name} \"$@\"\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let target = place.text("dir/target");
    let busy = format!("[ \"$3\" != {target} ] || {{ echo mv: busy >&2; exit 1; }}");
    replace("mv", &busy);
    let copied = async |target: &str| {
        let (heard, stop) = (Arc::new(Heard::default()), CancellationToken::new());
        let source = place.path("source");
        let result = upload(&container, &source, target, &OPTIONS, heard.clone(), &stop).await;
        (result, heard.text())
    };
    let (result, heard) = copied(&target).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    assert_eq!(heard, format!("{target}: written in place: busy"));
    assert_eq!(fs::read(&target).unwrap(), b"new");
    // Nothing can be made beside it.
    let denied =
        format!("case $* in *{}*) echo mkdir: denied >&2; exit 1 ;; esac", place.text("dir"));
    replace("mkdir", &denied);
    fs::write(&target, "old").unwrap();
    let (result, heard) = copied(&target).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    assert_eq!(fs::read(&target).unwrap(), b"new");
    let absent = place.text("dir/absent");
    let (result, _) = copied(&absent).await;
    let denied = "mkdir: denied";
    let refused =
        matches!(&result, Err(CopyError::Remote { stderr_text, .. }) if stderr_text == denied);
    assert!(refused, "{result:?}");
    assert_eq!(fs::read_dir(place.path("dir")).unwrap().count(), 1);
}
