//! Files to what `sha256sum` says of them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// The sum of all that is read, in hexadecimal.
///
/// # Errors
/// Those of reading.
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

/// The same of a file of this side.
///
/// # Errors
/// Those of reading it.
pub fn of_file(path: &Path) -> io::Result<String> {
    sha256(File::open(path)?)
}
