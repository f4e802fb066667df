//! Files to what `sha256sum` says of them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Returns the SHA-256 of all that is read, in hexadecimal.
///
/// # Errors
/// The error of the source, if it cannot be read.
pub fn sha256(mut source: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 128 * 1024];
    loop {
        match source.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => hash.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns the SHA-256 of a local file, in hexadecimal.
///
/// # Errors
/// The system's error, if the file cannot be opened or read.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    sha256(File::open(path)?)
}
