//! Where the real parts are.

use std::path::{Path, PathBuf};

/// The project's directory.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("interop is in the project").to_owned()
}

/// A part of the installation; it must be there.
#[must_use]
pub fn part(name: &str) -> PathBuf {
    let place = std::env::var_os("BOWLINE_PARTS").map(PathBuf::from);
    let path = place.unwrap_or_else(|| root().join("target/parts")).join(name);
    assert!(path.exists(), "{} is missing: run interop/parts/install.sh", path.display());
    path
}

/// The program that keeps sessions in containers of this machine's kind; it must be there.
#[must_use]
pub fn hold() -> PathBuf {
    let path = root().join(format!("target/hold/bowline-hold-{}", std::env::consts::ARCH));
    assert!(path.exists(), "{} is missing: run cargo x hold", path.display());
    path
}

/// The script that brings a whole Kubernetes up and down.
#[must_use]
pub fn cluster_script() -> PathBuf {
    root().join("interop/parts/cluster.sh")
}
