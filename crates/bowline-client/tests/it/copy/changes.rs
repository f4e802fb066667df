//! Files that change while they are copied out of a container, and those that its tar cannot read.

use super::*;

/// A tree of a file and a log, as long ago, and a container whose tar does this.
fn log_and(place: &Place, does: &str) -> Container {
    fs::create_dir(place.path("source")).unwrap();
    fs::write(place.path("source/log"), "one").unwrap();
    fs::write(place.path("source/other"), "other\0").unwrap();
    for path in ["source/log", "source/other", "source"] {
        old(&place.path(path));
    }
    container_with_tar(place, does)
}

/// Copies the tree, or one file of it, here and to another container; what each has said and how it
/// has ended, and that both are there alike.
async fn both_ways(place: &Place, does: &str, source: &str) -> (String, String) {
    let mut ends = Vec::new();
    for verify in [false, true] {
        for is_between in [false, true] {
            let container = log_and(place, does);
            let (source, options) = (place.text(source), with(|options| options.verify = verify));
            let (heard, stop) = (Arc::new(Heard::default()), CancellationToken::new());
            let result = if is_between {
                let (to, target) = (Container::default(), place.text("target"));
                between(&container, &source, &to, &target, &options, heard.clone(), &stop).await
            } else {
                download(&container, &source, &place.path("target"), &options, heard.clone()).await
            };
            let end = result.err().map_or(String::new(), |error| error.to_string());
            let there = [("", "log"), ("log ", "target/log"), ("other ", "target/other")]
                .into_iter()
                .filter(|(_, name)| place.path(name).is_file())
                .map(|(shown, name)| {
                    shown.to_owned() + &fs::read_to_string(place.path(name)).unwrap()
                });
            let there = there.chain(fs::read_to_string(place.path("target"))).collect::<Vec<_>>();
            ends.push((heard.text(), format!("{} | {end}", there.join(", "))));
            assert!(place.names().iter().all(|name| !name.starts_with('.')), "{:?}", place.names());
            for name in ["bin", "source", "target"] {
                let _ = fs::remove_dir_all(place.path(name));
                let _ = fs::remove_file(place.path(name));
            }
        }
    }
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:#?}");
    ends.remove(0)
}

const REST: &str = "1 file was changed during the copy; the rest was copied";

#[tokio::test]
async fn what_changed_meanwhile_has_no_name_unless_it_has_only_grown() {
    let place = Place::new();
    let log = place.text("source/log");
    for (does, said, end) in [
        (
            format!("echo two >>{log}"),
            "\"log\": file changed as we read it: it grew, and its first 3 bytes are here",
            format!("log one, other other\0 | {REST}"),
        ),
        (
            format!("echo more >{log}"),
            "\"log\": file changed as we read it: it is not copied",
            format!("other other\0 | {REST}"),
        ),
        (
            format!(": >{log}"),
            "\"log\": file changed as we read it: it is not copied",
            format!("other other\0 | {REST}"),
        ),
        (
            format!("printf two >{log}"),
            "\"log\": file changed as we read it: it is not copied",
            format!("other other\0 | {REST}"),
        ),
        (format!("touch {log}"), "", "log one, other other\0 | ".to_owned()),
    ] {
        let found = both_ways(&place, &format!("/bin/tar \"$@\"; {does}"), "source").await;
        assert_eq!(found, (said.to_owned(), end), "{does}");
    }
}

#[tokio::test]
async fn a_single_file_that_changed_leaves_nothing() {
    let place = Place::new();
    let does = format!("/bin/tar \"$@\"; : >{}", place.text("source/log"));
    let (said, end) = both_ways(&place, &does, "source/log").await;
    assert_eq!(said, "the file: file changed as we read it: it is not copied");
    assert_eq!(end, " | the file changed while it was copied; nothing has the target's name");
}

/// GNU's tar fills a file up with zeros that has become shorter or has an end that cannot be read,
/// and fails.
#[tokio::test]
async fn what_tar_has_filled_up_has_no_name() {
    let place = Place::new();
    let outcome = |code, published| {
        let outcome = Outcome::Exited(code);
        CopyError::Remote { outcome, stderr_text: String::new(), published }.to_string()
    };
    // Its size and its time are what they were.
    let padded = "mkdir -p bad; /bin/tar \"$@\" | /bin/tar xf - -C bad; f=$(echo bad/*/log bad/log)
        for f in $f; do
            if [ -f $f ]; then printf 'o\\0\\0' >$f; touch -d @1000000000 $f; fi
        done
        for last; do :; done
        /bin/tar cf - -C bad \"$last\"; rm -rf bad; exit 2";
    let padded = format!("cd {} && {padded}", place.text(""));
    let said = "\"log\": file is not here as it is there: it is not copied";
    let found = both_ways(&place, &padded, "source").await;
    assert_eq!(found, (said.to_owned(), format!("other other\0 | {}", outcome(2, true))));
    let (_, end) = both_ways(&place, &padded, "source/log").await;
    assert_eq!(end, format!(" | {}", outcome(2, false)));
    // It became shorter, and it is seen.
    let shrunk = format!("/bin/tar \"$@\"; : >{}; exit 1", place.text("source/log"));
    let said = "\"log\": file changed as we read it: it is not copied";
    let found = both_ways(&place, &shrunk, "source").await;
    assert_eq!(found, (said.to_owned(), format!("other other\0 | {}", outcome(1, true))));
}

#[tokio::test]
async fn what_cannot_be_compared_has_no_name() {
    let place = Place::new();
    let grows = format!("/bin/tar \"$@\"; echo two >>{}", place.text("source/log"));
    let container = log_and(&place, &grows);
    fs::remove_file(place.path("bin/sha256sum")).unwrap();
    let (result, heard) = get(&container, &place, &with(|options| options.verify = false)).await;
    assert_eq!(result.unwrap_err().to_string(), REST);
    let why =
        "the container cannot say what has changed in its files: it has no sha256sum, or no sh";
    assert_eq!(heard, format!("{why}\n\"log\": file changed as we read it: it is not copied"));
    assert!(!place.path("target/log").exists() && place.path("target/other").exists());
    // Of a tar that has failed nothing is known, where names and sizes cannot be compared.
    fs::remove_dir_all(place.path("target")).unwrap();
    fs::remove_dir_all(place.path("bin")).unwrap();
    let container = container_with_tar(&place, "/bin/tar \"$@\"; exit 1");
    fs::remove_file(place.path("bin/sh")).unwrap();
    let (result, heard) = get(&container, &place, &OPTIONS).await;
    let is_failed = matches!(result, Err(CopyError::Remote { published: false, .. }));
    assert!(is_failed && heard.starts_with("names and sizes were not compared"), "{heard}");
    assert!(!place.path("target").exists());
}
