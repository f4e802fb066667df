//! The terminal on this side: raw while a session has it, as before when it ends, however it ends.

use std::io;
use std::sync::{Mutex, PoisonError};

use bowline_client::Size;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What the terminal was before. Also found by the panic hook.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether input comes from a terminal.
pub fn input_is_terminal() -> bool {
    isatty(stdin())
}

/// Whether output goes to a terminal.
pub fn output_is_terminal() -> bool {
    isatty(stdout())
}

/// While this lives, every key goes to the other side, Ctrl-C included.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes the terminal at stdin raw.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn enter() -> io::Result<Raw> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            default(panic);
        }));
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // There is nobody left to tell.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

/// The terminal's size, now and after each change; `None` where output is no terminal.
///
/// # Errors
/// No signal can be had.
pub fn sizes() -> io::Result<Option<watch::Receiver<Size>>> {
    let Some(now) = size() else { return Ok(None) };
    let mut changed = signal(SignalKind::window_change())?;
    let (sender, receiver) = watch::channel(now);
    #[expect(clippy::disallowed_methods, reason = "it ends once nobody asks for sizes")]
    tokio::spawn(async move {
        while changed.recv().await.is_some() {
            let Some(size) = size() else { continue };
            if sender.send(size).is_err() {
                return;
            }
        }
    });
    Ok(Some(receiver))
}

fn size() -> Option<Size> {
    let size = tcgetwinsize(stdout()).ok()?;
    Some(Size { width: size.ws_col, height: size.ws_row })
}

/// Resolves when somebody wants this process to end.
///
/// # Errors
/// No signal can be had.
pub fn termination() -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
        }
    })
}
