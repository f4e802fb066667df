//! The modes of a terminal: what a program has set that stays when its output is gone.
//!
//! Where terminals differ, this is xterm's understanding.

use alloc::format;
use alloc::vec::Vec;

use super::escape::{Csi, ESC, Piece};
use super::pen::Pen;

/// Private modes that are on or off, each by itself, and whether it is on at first.
const PRIVATE: [(u16, bool); 12] = [
    (1, false),    // cursor keys of applications
    (5, false),    // reverse video
    (6, false),    // the origin is in the region that scrolls
    (7, true),     // lines wrap
    (12, false),   // the cursor blinks
    (25, true),    // the cursor is seen
    (66, false),   // keypad of applications
    (1004, false), // focus is told
    (2004, false), // what is pasted is in brackets
    (2026, false), // nothing is shown until it is off again
    (2031, false), // another colour scheme is told
    (2048, false), // another size is told
];

/// The origin is saved with the cursor.
const ORIGIN: usize = 2;
/// Modes in which a terminal says something at once, or shows nothing more until they are off. They
/// are set last, and only if they are still set then.
pub(super) const SET_LAST: [u16; 4] = [1004, 2026, 2031, 2048];
/// Whoever begins behind its beginning would wait for its end without need.
const HOLDS_UPDATES: u16 = 2026;

/// What the mouse tells: one of them at a time.
const MOUSE: [u16; 5] = [9, 1000, 1001, 1002, 1003];
/// In which form.
const MOUSE_FORM: [u16; 4] = [1005, 1006, 1015, 1016];
/// Ways to the alternate screen.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// How many sets of flags of the keyboard wait for each other; as many as terminals have.
const KEYBOARDS: usize = 8;

/// Ends whatever sequence a terminal is in, and its modes that have a name here.
const RESET: &[&[u8]] = &[
    b"\x18\x1b\\\x1b[?1049l\x1b[!p",
    // The region is reset without moving the cursor.
    b"\x1b7\x1b[r\x1b8",
    PLAIN,
    b"\x1b>\x1b[4l\x1b[20l\x1b[0 q",
    b"\x1b[?9;1000;1001;1002;1003;1005;1006;1015;1016l",
    b"\x1b[>4m\x1b[<8u\x1b[=0u",
];

/// What is saved with the cursor, as at first.
const PLAIN: &[u8] = b"\x1b[m\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[?6l";

const CLEAR: &[u8] = b"\x1b[H\x1b[2J";
const SAVE: &[u8] = b"\x1b7";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charsets {
    /// The last byte of what designates each of the four.
    sets: [u8; 4],
    /// Which is in use.
    shift: u8,
}

impl Charsets {
    const ASCII: Charsets = Charsets { sets: [b'B'; 4], shift: 0 };

    fn write(self, out: &mut Vec<u8>) {
        for (set, place) in self.sets.into_iter().zip(*b"()*+") {
            if set != b'B' {
                out.extend_from_slice(&[ESC, place, set]);
            }
        }
        match self.shift {
            0 => {}
            1 => out.push(0x0e),
            2 => out.extend_from_slice(b"\x1bn"),
            _ => out.extend_from_slice(b"\x1bo"),
        }
    }
}

/// What is saved and restored with the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Saved {
    pen: Pen,
    charsets: Charsets,
    origin: bool,
}

impl Saved {
    const PLAIN: Saved = Saved { pen: Pen::PLAIN, charsets: Charsets::ASCII, origin: false };

    fn write(&self, out: &mut Vec<u8>) {
        self.charsets.write(out);
        self.pen.write(out);
        if self.origin {
            write_private(out, 6, true);
        }
    }
}

/// Flags of the keyboard, the one in use last, over one that is always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Keyboard {
    flags: [u8; KEYBOARDS + 1],
    pushed: u8,
}

impl Keyboard {
    fn last(&mut self) -> &mut u8 {
        &mut self.flags[usize::from(self.pushed).min(KEYBOARDS)]
    }

    fn apply(&mut self, csi: &Csi<'_>) {
        let (first, second) = (csi.number(0), csi.number(1));
        let flags = first.min(0x1f) as u8;
        match csi.private {
            b'=' if second == 2 => *self.last() |= flags,
            b'=' if second == 3 => *self.last() &= !flags,
            b'=' => *self.last() = flags,
            b'>' => {
                if usize::from(self.pushed) == KEYBOARDS {
                    self.flags.copy_within(1.., 0);
                } else {
                    self.pushed += 1;
                }
                *self.last() = flags;
            }
            b'<' => {
                let popped = first.max(1);
                if popped > self.pushed.into() {
                    *self = Keyboard::default();
                } else {
                    self.pushed -= popped as u8;
                }
            }
            _ => {}
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let [first, pushed @ ..] = &self.flags;
        if *first != 0 {
            out.extend_from_slice(format!("\x1b[={first}u").as_bytes());
        }
        for flags in &pushed[..usize::from(self.pushed).min(KEYBOARDS)] {
            out.extend_from_slice(format!("\x1b[>{flags}u").as_bytes());
        }
    }

    fn write_end(&self, out: &mut Vec<u8>) {
        if self.pushed != 0 {
            out.extend_from_slice(format!("\x1b[<{}u", self.pushed).as_bytes());
        }
        if self.flags[0] != 0 {
            out.extend_from_slice(b"\x1b[=0u");
        }
    }
}

/// The modes of one terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    private: [bool; PRIVATE.len()],
    /// The number that was set last; 0 for none.
    mouse: u16,
    mouse_form: u16,
    alternate: u16,
    inserts: bool,
    returns: bool,
    keypad: bool,
    cursor: u8,
    other_keys: u8,
    /// First and last line of what scrolls; 0 is the first, or the last, of all.
    region: (u16, u16),
    pen: Pen,
    charsets: Charsets,
    /// Of the ordinary screen, and of the alternate one.
    saved: [Option<Saved>; 2],
    keyboards: [Keyboard; 2],
}

impl Modes {
    pub(super) fn new() -> Modes {
        Modes {
            private: PRIVATE.map(|(_, is_on)| is_on),
            mouse: 0,
            mouse_form: 0,
            alternate: 0,
            inserts: false,
            returns: false,
            keypad: false,
            cursor: 0,
            other_keys: 0,
            region: (0, 0),
            pen: Pen::PLAIN,
            charsets: Charsets::ASCII,
            saved: [None; 2],
            keyboards: [Keyboard::default(); 2],
        }
    }

    fn screen(&self) -> usize {
        usize::from(self.alternate != 0)
    }

    /// Obeys what a program has written.
    pub(super) fn apply(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Control(0x0e) => self.charsets.shift = 1,
            Piece::Control(0x0f) => self.charsets.shift = 0,
            Piece::Text(_) | Piece::Control(_) => {}
            Piece::Sequence(sequence) => match Csi::parse(sequence) {
                Some(csi) => self.csi(&csi),
                None => self.escape(&sequence[1..]),
            },
        }
    }

    fn escape(&mut self, behind: &[u8]) {
        match behind {
            b"7" => self.save(),
            b"8" => self.restore(),
            b"=" => self.keypad = true,
            b">" => self.keypad = false,
            b"n" => self.charsets.shift = 2,
            b"o" => self.charsets.shift = 3,
            b"c" => *self = Modes::new(),
            [place @ b'('..=b'+', set] => {
                self.charsets.sets[usize::from(place - b'(')] = *set;
            }
            _ => {}
        }
    }

    fn csi(&mut self, csi: &Csi<'_>) {
        match (csi.private, csi.marks, csi.last) {
            (b'?', b"", last @ (b'h' | b'l')) => {
                csi.each().for_each(|number| self.private(number, last == b'h'));
            }
            (0, b"", last @ (b'h' | b'l')) => csi.each().for_each(|number| match number {
                4 => self.inserts = last == b'h',
                20 => self.returns = last == b'h',
                _ => {}
            }),
            (0, b"", b'm') => self.pen.apply(csi.numbers),
            (0, b"", b'r') => {
                let (first, last) = (csi.number(0), csi.number(1));
                self.region = (if first == 1 { 0 } else { first }, last);
            }
            (0, b"", b's') if csi.numbers.is_empty() => self.save(),
            (0, b"", b'u') if csi.numbers.is_empty() => self.restore(),
            (b'<' | b'=' | b'>', b"", b'u') => {
                let screen = self.screen();
                self.keyboards[screen].apply(csi);
            }
            (b'>', b"", b'm') if csi.number(0) == 4 => {
                self.other_keys = csi.number(1).min(3) as u8;
            }
            (0, b" ", b'q') => self.cursor = csi.number(0).min(6) as u8,
            (0, b"!", b'p') => self.reset_softly(),
            _ => {}
        }
    }

    fn private(&mut self, number: u16, is_on: bool) {
        if let Some(at) = PRIVATE.iter().position(|(known, _)| *known == number) {
            self.private[at] = is_on;
        } else if MOUSE.contains(&number) {
            self.mouse = if is_on { number } else { 0 };
        } else if MOUSE_FORM.contains(&number) && (is_on || self.mouse_form == number) {
            self.mouse_form = if is_on { number } else { 0 };
        } else if ALTERNATE.contains(&number) {
            if is_on && number == 1049 {
                self.save();
            }
            self.alternate = if is_on { number } else { 0 };
            if !is_on && number == 1049 {
                self.restore();
            }
        } else if number == 1048 {
            if is_on { self.save() } else { self.restore() }
        }
    }

    /// What a program would save now.
    fn drawing(&self) -> Saved {
        Saved { pen: self.pen, charsets: self.charsets, origin: self.private[ORIGIN] }
    }

    fn save(&mut self) {
        let screen = self.screen();
        self.saved[screen] = Some(self.drawing());
    }

    fn restore(&mut self) {
        let Saved { pen, charsets, origin } = self.saved[self.screen()].unwrap_or(Saved::PLAIN);
        (self.pen, self.charsets, self.private[ORIGIN]) = (pen, charsets, origin);
    }

    fn reset_softly(&mut self) {
        let Modes { private, mouse, mouse_form, alternate, saved, keyboards, .. } = self.clone();
        let screen = self.screen();
        *self = Modes { mouse, mouse_form, alternate, saved, keyboards, ..Modes::new() };
        self.saved[screen] = None;
        for (at, (number, is_on)) in PRIVATE.into_iter().enumerate() {
            let is_reset = matches!(number, 1 | 6 | 7 | 25 | 66);
            self.private[at] = if is_reset { is_on } else { private[at] };
        }
    }

    /// Writes what brings a terminal from any modes into these, with nothing on its screen, but for
    /// those that are [set last](Self::write_last). Of two screens, only the one that is in use is
    /// cleared.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        RESET.iter().for_each(|part| out.extend_from_slice(part));
        PRIVATE.iter().for_each(|(number, is_on)| write_private(out, *number, *is_on));
        self.keyboards[0].write(out);
        if self.alternate == 0 {
            // Whatever was saved is replaced.
            out.extend_from_slice(CLEAR);
            self.saved[0].unwrap_or(Saved::PLAIN).write(out);
            out.extend_from_slice(SAVE);
        } else {
            self.saved[0].unwrap_or(Saved::PLAIN).write(out);
            // This one saves by itself.
            out.extend_from_slice(if self.alternate == 1049 { b"" } else { SAVE });
            write_private(out, self.alternate, true);
            out.extend_from_slice(PLAIN);
            out.extend_from_slice(CLEAR);
            self.keyboards[1].write(out);
            if let Some(saved) = self.saved[1] {
                saved.write(out);
                out.extend_from_slice(SAVE);
            }
        }
        out.extend_from_slice(PLAIN);
        match self.region {
            (0, 0) => {}
            (first, 0) => out.extend_from_slice(format!("\x1b[{first}r").as_bytes()),
            (first, last) => {
                out.extend_from_slice(format!("\x1b[{};{last}r", first.max(1)).as_bytes());
            }
        }
        self.each_that_differs(|number, is_on| {
            if !SET_LAST.contains(&number) {
                write_private(out, number, is_on);
            }
        });
        self.write_flags(out);
        self.drawing().write(out);
    }

    /// Writes the rest of them, once the terminal shows what it has to.
    pub(super) fn write_last(&self, out: &mut Vec<u8>) {
        self.each_that_differs(|number, is_on| {
            if SET_LAST.contains(&number) && number != HOLDS_UPDATES {
                write_private(out, number, is_on);
            }
        });
    }

    /// Tells of private modes that are not as at first.
    fn each_that_differs(&self, mut tell: impl FnMut(u16, bool)) {
        for ((number, at_first), is_on) in PRIVATE.into_iter().zip(self.private) {
            if is_on != at_first {
                tell(number, is_on);
            }
        }
    }

    fn write_flags(&self, out: &mut Vec<u8>) {
        for number in [self.mouse, self.mouse_form].into_iter().filter(|number| *number != 0) {
            write_private(out, number, true);
        }
        let flags: [(bool, &[u8]); 3] =
            [(self.inserts, b"\x1b[4h"), (self.returns, b"\x1b[20h"), (self.keypad, b"\x1b=")];
        for (_, sequence) in flags.into_iter().filter(|(is_on, _)| *is_on) {
            out.extend_from_slice(sequence);
        }
        if self.cursor != 0 {
            out.extend_from_slice(format!("\x1b[{} q", self.cursor).as_bytes());
        }
        if self.other_keys != 0 {
            out.extend_from_slice(format!("\x1b[>4;{}m", self.other_keys).as_bytes());
        }
    }

    /// Writes what brings a terminal from these modes into those of a new one. What is as at first
    /// is not touched.
    pub(super) fn write_end(&self, out: &mut Vec<u8>) {
        if self.alternate != 0 {
            self.keyboards[1].write_end(out);
            write_private(out, self.alternate, false);
        }
        self.keyboards[0].write_end(out);
        if self.region != (0, 0) {
            out.extend_from_slice(b"\x1b7\x1b[r\x1b8");
        }
        self.each_that_differs(|number, is_on| write_private(out, number, !is_on));
        for number in [self.mouse, self.mouse_form].into_iter().filter(|number| *number != 0) {
            write_private(out, number, false);
        }
        let others: [(bool, &[u8]); 6] = [
            (self.inserts, b"\x1b[4l"),
            (self.returns, b"\x1b[20l"),
            (self.keypad, b"\x1b>"),
            (self.cursor != 0, b"\x1b[0 q"),
            (self.other_keys != 0, b"\x1b[>4m"),
            (self.alternate != 0 || self.drawing() != Saved::PLAIN, PLAIN),
        ];
        for (_, sequence) in others.into_iter().filter(|(is_on, _)| *is_on) {
            out.extend_from_slice(sequence);
        }
    }
}

pub(super) fn write_private(out: &mut Vec<u8>, number: u16, is_on: bool) {
    let last = if is_on { 'h' } else { 'l' };
    out.extend_from_slice(format!("\x1b[?{number}{last}").as_bytes());
}
