//! What brings a terminal that has not seen a session's output to where it is.
//!
//! That is the modes that the output has set, and the last of the output itself, without whatever
//! a terminal would answer: those answers would be input.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::escape::{Csi, Parser, Piece};
use super::modes::{Modes, SET_LAST, write_private};
use crate::limits::{KEPT_SCREEN_BYTES, KEPT_TAIL_BYTES};

/// The modes of a terminal that was written some bytes, from its beginning on.
#[derive(Clone, Debug)]
pub struct TerminalModes {
    parser: Parser,
    modes: Modes,
}

impl Default for TerminalModes {
    fn default() -> TerminalModes {
        TerminalModes { parser: Parser::new(), modes: Modes::new() }
    }
}

impl TerminalModes {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed_and_show(bytes, |_| ());
    }

    fn feed_and_show(&mut self, bytes: &[u8], mut show: impl FnMut(Piece<'_>)) {
        let TerminalModes { parser, modes } = self;
        parser.feed(bytes, &mut |piece| {
            modes.apply(piece);
            show(piece);
        });
    }

    /// What makes such a terminal one that was written nothing, but for what it shows. Nothing if
    /// it is in no mode that has to be left.
    #[must_use]
    pub fn end(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.parser.is_in_text() {
            out.extend_from_slice(b"\x18\x1b\\");
        }
        self.modes.write_end(&mut out);
        out
    }
}

/// From where on nothing more is shown: the rest of the longest piece and the modes have to fit
/// into what a client takes.
const SHOWN_BYTES: usize = KEPT_SCREEN_BYTES - KEPT_TAIL_BYTES - 4096;

/// Output of a terminal that is not kept for its client any more.
#[derive(Debug)]
pub(super) struct Screen {
    /// As they were before the tail.
    modes: TerminalModes,
    tail: VecDeque<u8>,
    tail_bytes: usize,
}

impl Screen {
    /// A terminal that was written nothing. So much of what was written is held, beside its modes.
    pub(super) fn new(tail_bytes: usize) -> Screen {
        Screen { modes: TerminalModes::default(), tail: VecDeque::new(), tail_bytes }
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let too_many = (self.tail.len() + bytes.len()).saturating_sub(self.tail_bytes);
        let (of_tail, of_bytes) =
            (too_many.min(self.tail.len()), too_many.saturating_sub(self.tail.len()));
        let (first, second) = self.tail.as_slices();
        let cut = of_tail.min(first.len());
        self.modes.feed(&first[..cut]);
        self.modes.feed(&second[..of_tail - cut]);
        self.tail.drain(..of_tail);
        let (gone, held) = bytes.split_at(of_bytes);
        self.modes.feed(gone);
        self.tail.extend(held);
    }

    /// What brings any terminal to where the bytes have brought one.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut modes = self.modes.clone();
        let mut out = Vec::with_capacity(self.tail.len() + 512);
        modes.modes.write(&mut out);
        modes.parser.write_character(&mut out);
        let (first, second) = self.tail.as_slices();
        for part in [first, second] {
            modes.feed_and_show(part, |piece| {
                // Short sequences become longer ones.
                if out.len() < SHOWN_BYTES {
                    show(piece, &mut out);
                }
            });
        }
        // Nothing may come between the parts of a character.
        out.truncate(out.len() - modes.parser.character_bytes());
        modes.modes.write_last(&mut out);
        modes.parser.write_character(&mut out);
        modes.parser.write_sequence(&mut out);
        out
    }
}

/// Writes what is seen, and nothing that a terminal answers, rings for, or hands to its system.
fn show(piece: Piece<'_>, out: &mut Vec<u8>) {
    match piece {
        Piece::Text(text) => out.extend_from_slice(text),
        Piece::Control(byte @ (0x08..=0x0f)) => out.push(byte),
        Piece::Control(_) => {}
        Piece::Sequence(sequence) => match Csi::parse(sequence) {
            Some(csi @ Csi { private: b'?', marks: b"", last: b'h' | b'l', .. }) => {
                let shown = csi.each().filter(|number| *number > 0 && !SET_LAST.contains(number));
                shown.for_each(|number| write_private(out, number, csi.last == b'h'));
            }
            csi if is_silent(sequence, csi.as_ref()) => out.extend_from_slice(sequence),
            _ => {}
        },
    }
}

/// Whether a sequence draws or sets a mode, and does nothing else.
fn is_silent(sequence: &[u8], csi: Option<&Csi<'_>>) -> bool {
    let Some(csi) = csi else {
        return match sequence {
            [_, last] => b"78DEHMNOcno=>|}~".contains(last),
            [_, mark, _] => b"#()*+-./%".contains(mark),
            _ => false,
        };
    };
    match (csi.private, csi.marks) {
        (0, b"") => b"@ABCDEFGHIJKLMPSTXZ`abdefghlmrsu".contains(&csi.last),
        (b'?', b"") => b"JK".contains(&csi.last),
        (b'<' | b'=' | b'>', b"") => csi.last == b'u' || (csi.last == b'm' && csi.private == b'>'),
        (0, b" ") => csi.last == b'q',
        (0, b"!") => csi.last == b'p',
        (0, b"\"") => csi.last == b'q',
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;

    use proptest::prelude::*;

    use super::*;

    const ROWS: u16 = 10;

    fn terminal() -> vt100::Parser {
        let size = |number| core::num::NonZeroU16::new(number).unwrap();
        vt100::Parser::new(size(ROWS), size(40), 0)
    }

    /// All modes that the emulator knows, as it would say them.
    fn modes(terminal: &vt100::Parser) -> String {
        let screen = terminal.screen();
        let (alternate, style) = (screen.alternate_screen(), screen.cursor_style());
        let hidden = screen.hide_cursor();
        let (inputs, pen) = (screen.input_mode_formatted(), screen.attributes_formatted());
        format!("{alternate} {hidden} {style:?} {inputs:?} {pen:?}")
    }

    /// What is seen of modes that it does not say: the region, the origin, and what is saved.
    fn probed(mut terminal: vt100::Parser) -> String {
        terminal.process(b"\x1b[H\x1b[m\x1b[2J");
        for row in 1..=ROWS {
            terminal.process(format!("\x1b[{row};1Hline {row}").as_bytes());
        }
        terminal.process(b"\n\n\n\x1b[1;9Htop\x1b8\x1b[1;20Hsaved");
        terminal.screen().contents_formatted()
    }

    fn assert_like(there: &vt100::Parser, here: &vt100::Parser) {
        assert_eq!(modes(here), modes(there));
    }

    fn screen_of(bytes: &[u8], tail_bytes: usize) -> Vec<u8> {
        let mut screen = Screen::new(tail_bytes);
        bytes.chunks(7).for_each(|piece| screen.feed(piece));
        screen.bytes()
    }

    const ALTERNATE: &str = "\x1b[?1049h";
    const ORDINARY: &str = "\x1b[?1049l";

    /// Terminals differ in what it means to go where they are already.
    fn well_formed(mut pieces: Vec<String>) -> String {
        let mut is_alternate = false;
        pieces.retain(|piece| match &piece[..] {
            ALTERNATE => !core::mem::replace(&mut is_alternate, true),
            ORDINARY => core::mem::replace(&mut is_alternate, false),
            "\x1bc" => {
                is_alternate = false;
                true
            }
            _ => true,
        });
        pieces.concat()
    }

    /// What a full-screen program, a shell and a job write, by turns.
    fn output(of_region: bool) -> impl Strategy<Value = String> {
        let private = |numbers: &'static [&'static str]| {
            (prop::sample::select(numbers), any::<bool>()).prop_map(|(number, is_on)| {
                format!("\x1b[?{number}{}", if is_on { 'h' } else { 'l' })
            })
        };
        let sequences: &[&str] = if of_region {
            &["\x1b[2;6r", "\x1b[r", "\x1b[3;9r", "\x1b[?6h", "\x1b[?6l", "\x1b7", "\x1b8"]
        } else {
            &[ALTERNATE, ORDINARY, "\x1bc"]
        };
        let modes = private(&["1", "25", "2004", "7", "12", "1004", "1;2004"]);
        let mouse = prop::sample::select(&["9", "1000", "1002", "1003"][..])
            .prop_map(|number| format!("\x1b[?1003;1002;1000;9l\x1b[?{number}h"));
        let form = prop::sample::select(&["1005h", "1006h", "1005l\x1b[?1006l"][..]);
        let pen = prop::sample::select(
            &[
                "22;1",
                "22;2",
                "3",
                "4",
                "7",
                "22",
                "23",
                "24",
                "27",
                "0",
                "",
                "31",
                "42",
                "97",
                "105",
                "38;5;200",
                "48;2;1;2;3",
                "38:5:7",
                "48:2:9:8:7",
                "39",
                "49",
                "22;1;4;38;2;9;8;7",
            ][..],
        );
        let others = prop::sample::select(
            &["=", ">", "[3 q", "[0 q", "[>4;2m", "[>1u", "[<u", "]0;title\x07", "P$qm\x1b\\"][..],
        );
        let moves = (1..=ROWS, 1..40).prop_map(|(row, column)| format!("\x1b[{row};{column}H"));
        let draws = prop::sample::select(&["[K", "[J", "[2J", "[L", "[M", "[P", "[3@", "M"][..]);
        prop::collection::vec(
            prop_oneof![
                "[a-zé漢]{1,9}",
                "(\r\n){1,2}",
                modes,
                mouse,
                form.prop_map(|form| format!("\x1b[?{form}")),
                pen.prop_map(|pen| format!("\x1b[{pen}m")),
                others.prop_map(|rest| format!("\x1b{rest}")),
                moves,
                draws.prop_map(|rest| format!("\x1b{rest}")),
                prop::sample::select(sequences).prop_map(String::from),
            ],
            1..24,
        )
        .prop_map(well_formed)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_terminal_that_comes_later_is_in_the_same_modes(
            (all, of_region) in any::<bool>().prop_flat_map(|of| (output(of), Just(of))),
            before in output(false),
            tail_bytes in 0_usize..60,
        ) {
            let (all, before) = (all.as_bytes(), before.as_bytes());
            let mut there = terminal();
            there.process(all);
            for cut in 0..=all.len() {
                // It may have been left in the middle of anything.
                let mut here = terminal();
                here.process(&before[..before.len() * cut / all.len().max(1)]);
                here.process(&screen_of(&all[..cut], tail_bytes));
                here.process(&all[cut..]);
                assert_like(&there, &here);
                if of_region {
                    let mut there = terminal();
                    there.process(all);
                    prop_assert_eq!(probed(here), probed(there));
                }
            }
        }

        #[test]
        fn with_all_that_was_written_it_shows_the_same(
            (all, before) in any::<bool>().prop_flat_map(|of| (output(of), output(of))),
        ) {
            let (all, before) = (all.as_bytes(), before.as_bytes());
            for cut in 0..=all.len() {
                let (mut there, mut here) = (terminal(), terminal());
                there.process(&all[..cut]);
                here.process(before);
                here.process(&screen_of(&all[..cut], all.len()));
                for terminal in [&mut here, &mut there] {
                    terminal.process(&all[cut..]);
                }
                assert_like(&there, &here);
                let contents = |terminal: &vt100::Parser| terminal.screen().contents_formatted();
                prop_assert_eq!(contents(&here), contents(&there));
            }
        }

        #[test]
        fn a_terminal_that_is_left_is_as_a_new_one(
            all in any::<bool>().prop_flat_map(output), places: [u16; 8],
        ) {
            for place in places {
                let (mut here, mut modes) = (terminal(), TerminalModes::default());
                let all = &all.as_bytes()[..usize::from(place) % (all.len() + 1)];
                here.process(all);
                modes.feed(all);
                here.process(&modes.end());
                assert_like(&terminal(), &here);
            }
        }

        #[test]
        fn hostile_bytes_cost_no_more_than_others(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    prop::sample::select(&b"\x1b[]P?;:0194hlmrqu78c\x07\x18\xe2\x82"[..])
                        .prop_map(|byte| Vec::from([byte])),
                    Just(b"\x1b[".to_vec()),
                    Just(b"9;".repeat(90)),
                ],
                0..200,
            ),
            tail_bytes in 0_usize..300,
        ) {
            let mut screen = Screen::new(tail_bytes);
            for piece in pieces {
                screen.feed(&piece);
                prop_assert!(screen.tail.len() <= tail_bytes);
            }
            prop_assert!(screen.bytes().len() < 2000 + 3 * tail_bytes);
            prop_assert!(screen.modes.end().len() < 1000);
        }
    }

    #[test]
    fn whatever_was_written_a_client_takes_what_is_shown() {
        for (numbers, last) in
            [(";".repeat(92), 'h'), ("1;".repeat(46), 'l'), ("7;".repeat(46), 'h')]
        {
            let sequence = format!("\x1b[?{numbers}{last}");
            let all = sequence.repeat(KEPT_TAIL_BYTES / sequence.len() + 9);
            let shown = screen_of(all.as_bytes(), KEPT_TAIL_BYTES);
            assert!(shown.len() <= KEPT_SCREEN_BYTES, "{} bytes of {numbers:?}", shown.len());
        }
    }

    /// What programs ask their terminal, and what else nobody should hear twice.
    #[test]
    fn nothing_is_asked_again() {
        let asked = [
            "\x1b[c",
            "\x1b[>c",
            "\x1b[0c",
            "\x1b[6n",
            "\x1b[?6n",
            "\x1b[?2004$p",
            "\x1b[>q",
            "\x1b[?u",
            "\x1b[18t",
            "\x1b[x",
            "\x1bZ",
            "\x05",
            "\x07",
            "\x1b]11;?\x07",
            "\x1b]52;c;aGk=\x1b\\",
            "\x1bP+q544e\x1b\\",
            "\x1bP$qm\x1b\\",
            "\x1b_Gi=1\x1b\\",
            "\x1b[?1004h",
            "\x1b[?996n",
            "\x1b[?2048h",
        ];
        let quiet = screen_of(b"\x1b[?1004h\x1b[?1004l\x1b[?2048h\x1b[?2048la", 1000);
        for query in asked {
            let all = format!("{query}\x1b[?1004l\x1b[?2048la");
            let said = screen_of(all.as_bytes(), 1000);
            assert_eq!(said, screen_of(b"a", 1000), "{query:?}");
            assert_eq!(said, quiet);
        }
    }

    #[test]
    fn what_is_still_asked_for_is_set_in_the_end() {
        let said = screen_of(b"\x1b[?1004h\x1b[?2026hab\xc3", 1000);
        assert!(said.ends_with(b"ab\x1b[?1004h\xc3"), "{}", said.escape_ascii());
        for (cut, open) in [
            (&b"a\x1b[1;"[..], &b"\x1b[1;"[..]),
            (b"a\x1b]0;ti", b"\x1b]7777;"),
            (b"a\x1bP1;2", b"\x1b_"),
            (b"a\x1b(", b"\x1b("),
            (b"a\xe6\xbc", b"\xe6\xbc"),
        ] {
            for tail_bytes in 0..10 {
                let said = screen_of(cut, tail_bytes);
                assert!(said.ends_with(open), "{} {tail_bytes}", said.escape_ascii());
            }
        }
    }

    #[test]
    fn a_terminal_in_no_mode_is_left_alone() {
        let mut modes = TerminalModes::default();
        modes.feed(b"\x1b[?2004h$ \x1b[31mls\x1b[m\r\n\x1b[?2004l\x1b]0;title\x07");
        assert_eq!(modes.end(), b"");
        modes
            .feed(b"\x1b[?1049h\x1b[>1u\x1b[?1002;1006h\x1b[?25l\x1b[2;5r\x1b[>4;2m\x1b[4:3m\x1b[");
        let end = modes.end();
        for said in ["\x18", "\x1b[<1u", "\x1b[?1049l", "\x1b[?1002l", "\x1b[?25h", "\x1b[>4m"] {
            let is_said = end.windows(said.len()).any(|part| part == said.as_bytes());
            assert!(is_said, "{said:?} in {}", end.escape_ascii());
        }
    }
}
