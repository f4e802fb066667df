//! A pseudo-terminal: a side for the holder, and a side for a command.

use std::os::fd::{AsFd, OwnedFd};

use bowline_proto::session::Size;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};

const CTRL_D: u8 = 4;

/// Opens a new pair: the holder's side, and the command's.
pub(super) fn open(size: Option<Size>) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty())?;
    if let Some(size) = size {
        resize(&master, size);
    }
    Ok((master, slave))
}

/// Sets the size; the kernel tells the foreground group. Sizes of zero are no sizes.
pub(super) fn resize(master: impl AsFd, size: Size) {
    if size.width > 0 && size.height > 0 {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal whose command has ended has no size.
        let _ = tcsetwinsize(master, size);
    }
}

/// What a person would type to end the input now: the terminal's EOF character, twice if a line is
/// begun. A program that reads the terminal raw gets Ctrl-D, and decides.
pub(super) fn end_of_input(master: impl AsFd, line_begun: bool) -> Vec<u8> {
    match tcgetattr(master) {
        Ok(attributes) if attributes.local_modes.contains(LocalModes::ICANON) => {
            let eof = attributes.special_codes[SpecialCodeIndex::VEOF];
            vec![eof; if line_begun { 2 } else { 1 }]
        }
        _ => vec![CTRL_D],
    }
}
