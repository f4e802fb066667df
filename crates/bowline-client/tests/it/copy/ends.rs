//! Ends of copies that are no success, or that nobody has heard of.

use std::time::Duration;

use bowline_interop::copy::{contents, noise_file};
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn a_backslash_in_a_name_is_no_escape() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    for name in ["a\\nb", "\\052", "plain"] {
        noise_file(&place.path("source").join(name), 300_000);
        let (source, target) = (place.text("source") + "/" + name, place.path("one"));
        let heard = Arc::new(Heard::default());
        let got = download(&Container::default(), &source, &target, &OPTIONS, heard.clone()).await;
        got.unwrap_or_else(|error| panic!("{name}: {error}: {}", heard.text()));
    }
    let expected = manifest(&place.path("source"));
    let container = Container { cut_every: Some(400_000), ..Container::default() };
    let (result, heard) = get(&container, &place, &options(None)).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    same(&place.path("target"), &expected);
}

#[tokio::test]
async fn what_brings_nothing_is_no_success() {
    let place = Place::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("source"), rustix::fs::Mode::RWXU).unwrap();
    let (result, heard) = put(&Container::default(), &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::Nothing)), "{result:?}");
    assert!(heard.contains("it is a named pipe"), "{heard}");
    // It has bytes, and no size that says so.
    fs::remove_file(place.path("source")).unwrap();
    symlink("/proc/self/status", place.path("source")).unwrap();
    let (result, _) = put(&Container::default(), &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::Incomplete(1))), "{result:?}");
    assert_eq!(place.names(), ["source"]);
}

#[tokio::test]
async fn a_lost_end_of_what_gives_the_name_is_not_known() {
    let place = Place::new();
    fs::write(place.path("source"), "new").unwrap();
    // The place, the archive, the listing, the sums, and then the name.
    let container = Container { loses_end_of: Some(5), ..Container::default() };
    let (result, heard) = put(&container, &place, &OPTIONS).await;
    assert!(matches!(result, Err(CopyError::Unknown { retries: 0, .. })), "{result:?}: {heard}");
    assert_eq!(fs::read(place.path("target")).unwrap(), b"new");
    let container = Container { loses_end_of: Some(5), ..Container::default() };
    let (result, heard) = put(&container, &place, &options(Some(1))).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    assert_eq!(place.names(), ["source", "target"]);
}

#[tokio::test]
async fn a_lost_name_stays_unknown_where_the_server_is_gone_afterwards() {
    let place = Place::new();
    fs::write(place.path("source"), "new").unwrap();
    let container =
        Container { loses_end_of: Some(5), refuses_from: Some(6), ..Container::default() };
    let (result, heard) = put(&container, &place, &options(Some(1))).await;
    assert!(matches!(result, Err(CopyError::Unknown { retries: 1, .. })), "{result:?}: {heard}");
    assert_eq!(fs::read(place.path("target")).unwrap(), b"new");
}

/// What cannot be counted is not believed, whatever a shell makes of an empty number.
#[tokio::test]
async fn what_is_written_in_place_is_counted_without_wc() {
    let place = Place::new();
    fs::write(place.path("source"), "new").unwrap();
    fs::write(place.path("behind"), "longer than new").unwrap();
    symlink("behind", place.path("target")).unwrap();
    let container = container_with_tar(&place, "exec /bin/tar \"$@\"");
    fs::remove_file(place.path("bin/wc")).unwrap();
    let (result, heard) = put(&container, &place, &OPTIONS).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    // It writes less than it should, and says nothing of it.
    fs::remove_file(place.path("bin/cat")).unwrap();
    fs::write(place.path("bin/cat"), "#!/bin/sh\nprintf x\n").unwrap();
    fs::set_permissions(place.path("bin/cat"), PermissionsExt::from_mode(0o755)).unwrap();
    let (result, _) = put(&container, &place, &OPTIONS).await;
    let error = format!("{:?}", result.unwrap_err());
    assert!(error.contains("it could not be written, and may be damaged"), "{error}");
}

#[tokio::test]
async fn a_tar_that_fails_early_is_heard_of() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    fs::write(place.path("source/a"), "small").unwrap();
    noise_file(&place.path("source/b"), 3_000_000);
    let mut container = container_with_tar(&place, "mkdir tree; head -c 20000 >/dev/null; exit 3");
    container.waits_for_readers = true;
    let put = put(&container, &place, &OPTIONS);
    let (result, heard) = timeout(Duration::from_secs(20), put).await.expect("an end");
    let is_failed = matches!(
        result,
        Err(CopyError::Remote { outcome: Outcome::Exited(3), published: true, .. })
    );
    assert!(is_failed && heard.contains("not copied: \"a\" (and 1 more)"), "{result:?}: {heard}");
    assert_eq!(fs::read_dir(place.path("target")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_never_begins_can_be_stopped() {
    let place = Place::new();
    fs::write(place.path("source"), "x").unwrap();
    let container = Container { cut_every: Some(0), ..Container::default() };
    let (source, target) = (place.text("source"), place.text("target"));
    let (heard, stop) = (Arc::new(Heard::default()), CancellationToken::new());
    stop.cancel();
    let forever = options(None);
    let path = place.path("source");
    let hour = Duration::from_secs(3600);
    let upload = upload(&container, &path, &target, &forever, heard.clone(), &stop);
    let result = timeout(hour, upload).await.expect("an end");
    assert!(matches!(result, Err(CopyError::Stopped)), "{result:?}");
    let between = between(&container, &source, &container, &target, &forever, heard, &stop);
    let result = timeout(hour, between).await.expect("an end");
    assert!(matches!(result, Err(CopyError::Stopped)), "{result:?}");
}

#[tokio::test]
async fn a_copy_into_its_own_source_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    for name in ["a", "b", "c"] {
        noise_file(&place.path("source").join(name), 100_000);
    }
    // Not the directory's own time: the place of the copy was in it.
    let expected = contents(&place.path("source"));
    let (source, container) = (place.text("source"), Container::default());
    let (heard, stop) = (Arc::new(Heard::default()), CancellationToken::new());
    for target in [&source, &place.text("")] {
        let heard = heard.clone();
        let copied = between(&container, &source, &container, target, &OPTIONS, heard, &stop);
        let error = copied.await.unwrap_err().to_string();
        assert_eq!(error, "the target is in the source");
    }
    let got = download(&container, &source, &place.path("source"), &OPTIONS, heard).await;
    assert_eq!(got.unwrap_err().to_string(), "the target is in the source");
    assert!(contents(&place.path("source")) == expected);
    assert_eq!(place.names(), ["source"]);
}

#[tokio::test]
async fn of_two_copies_to_one_name_none_goes_into_the_other() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    fs::write(place.path("source/a"), "a").unwrap();
    let container = container_with_tar(&place, "exec /bin/tar \"$@\"");
    // Another copy gets the name at the last moment.
    let mv = "#!/bin/sh
        for last; do :; done
        case $last in
            */target) if [ ! -e \"$last\" ]; then mkdir \"$last\"; echo b >\"$last/b\"; fi ;;
        esac
        exec /bin/mv \"$@\"";
    fs::remove_file(place.path("bin/mv")).unwrap();
    fs::write(place.path("bin/mv"), mv).unwrap();
    fs::set_permissions(place.path("bin/mv"), PermissionsExt::from_mode(0o755)).unwrap();
    let (result, heard) = put(&container, &place, &OPTIONS).await;
    result.unwrap_or_else(|error| panic!("{error}: {heard}"));
    let found = manifest(&place.path("target"));
    assert_eq!(found.len(), manifest(&place.path("source")).len() + 1, "{found:?}");
    assert!(place.path("target/a").is_file() && place.path("target/b").is_file());
    assert_eq!(place.names(), ["bin", "source", "target"]);
}

#[tokio::test]
async fn a_copy_between_containers_is_verified() {
    let place = Place::new();
    fs::create_dir(place.path("source")).unwrap();
    for name in ["a", "b"] {
        fs::write(place.path("source").join(name), "content").unwrap();
    }
    let (source, target) = (place.text("source"), place.text("target"));
    for (does, error) in [("printf another >tree/b", Some("sha256 of \"b\" differs")), ("", None)] {
        let to = container_with_tar(&place, &format!("/bin/tar \"$@\"; {does}"));
        let (from, heard) = (Container::default(), Arc::new(Heard::default()));
        let stop = CancellationToken::new();
        let copied = between(&from, &source, &to, &target, &OPTIONS, heard.clone(), &stop).await;
        let found = copied.err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), error);
        assert!(!heard.text().contains("not verified"), "{}", heard.text());
        fs::remove_dir_all(place.path("bin")).unwrap();
        assert_eq!(place.path("target").exists(), error.is_none());
    }
}
