//! What this program is, so that whoever has put it somewhere can tell that it is whole.

use std::fs::File;
use std::io::Read;

use bowline_proto::kept::sum_of;

use crate::error::HoldError;

/// Name, version and the sum of the file, as one line.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn version() -> Result<String, HoldError> {
    let named = |error| HoldError::system("/proc/self/exe", error);
    let mut program = Vec::new();
    let mut file = File::open("/proc/self/exe").map_err(named)?;
    file.read_to_end(&mut program).map_err(named)?;
    Ok(format!("bowline-hold {} {:016x}\n", env!("CARGO_PKG_VERSION"), sum_of(&program)))
}
