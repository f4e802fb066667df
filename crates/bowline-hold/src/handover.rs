//! How a connection's ends pass from the process that was started for it to the holder.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The version of what is said here, which the byte beside the descriptors is. The two ends may be
/// of different programs: one that was put there today may find the holder of yesterday's.
pub(crate) const VERSION: u8 = 1;
/// The holder's answer: it has both.
pub(crate) const TAKEN: u8 = b'+';

/// Gives the holder two ends: what the client sends, and where answers go.
pub(crate) fn give(control: impl AsFd, ends: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&ends)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let byte = [VERSION];
    rustix::io::retry_on_intr(|| {
        sendmsg(&control, &[IoSlice::new(&byte)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Takes them; `None` if they are not there yet.
///
/// # Errors
/// If the peer is gone, or what came is something else.
pub(crate) fn take(control: impl AsFd) -> io::Result<Option<[OwnedFd; 2]>> {
    // Room for more, so that nothing is cut.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(&control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags);
    let received = match received {
        Ok(received) => received,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut ends = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            ends.extend(descriptors);
        }
    }
    if received.bytes != 1 || byte != [VERSION] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    <[OwnedFd; 2]>::try_from(ends).map(Some).map_err(|_| io::ErrorKind::InvalidData.into())
}
