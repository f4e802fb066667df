//! How a terminal writes characters: their attributes and colours (SGR).

use alloc::format;
use alloc::vec::Vec;

use super::escape::number;

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    /// The terminal's own.
    Plain,
    /// One of the terminal's 256.
    Indexed(u8),
    Rgb(u8, u8, u8),
}

/// Attributes that are on or off: the number that sets each.
const ATTRIBUTES: [u8; 8] = [1, 2, 3, 5, 7, 8, 9, 53];

/// Attributes and colours of what is written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pen {
    /// A bit for each of `ATTRIBUTES`.
    attributes: u8,
    /// 0 for none, 1 to 5 for its form.
    underline: u8,
    colours: [Colour; 3],
}

/// What each colour of a [`Pen`] is of, as the number in front of one.
const COLOURS: [u16; 3] = [38, 48, 58];

impl Pen {
    pub(super) const PLAIN: Pen = Pen { attributes: 0, underline: 0, colours: [Colour::Plain; 3] };

    /// Obeys the numbers of an SGR sequence.
    pub(super) fn apply(&mut self, numbers: &[u8]) {
        let mut groups = numbers.split(|byte| *byte == b';');
        while let Some(group) = groups.next() {
            let mut parts = group.split(|byte| *byte == b':').map(number);
            let first = parts.next().unwrap_or(0);
            if let Some(at) = COLOURS.iter().position(|of| *of == first) {
                let colour = if group.contains(&b':') {
                    with_parts(&parts.collect::<Vec<u16>>())
                } else {
                    colour(&mut groups.by_ref().map(number))
                };
                if let Some(colour) = colour {
                    self.colours[at] = colour;
                }
                continue;
            }
            match (first, parts.next()) {
                (4, form) => self.underline = form.unwrap_or(1).min(5) as u8,
                (first, _) => self.set(first),
            }
        }
    }

    fn set(&mut self, number: u16) {
        match number {
            0 => *self = Pen::PLAIN,
            6 => self.attribute(5, true),
            21 => self.underline = 2,
            22 => {
                self.attribute(1, false);
                self.attribute(2, false);
            }
            24 => self.underline = 0,
            23 | 25 | 27 | 28 | 29 => self.attribute(number as u8 - 20, false),
            55 => self.attribute(53, false),
            30..=37 => self.colours[0] = Colour::Indexed(number as u8 - 30),
            40..=47 => self.colours[1] = Colour::Indexed(number as u8 - 40),
            90..=97 => self.colours[0] = Colour::Indexed(number as u8 - 90 + 8),
            100..=107 => self.colours[1] = Colour::Indexed(number as u8 - 100 + 8),
            39 => self.colours[0] = Colour::Plain,
            49 => self.colours[1] = Colour::Plain,
            59 => self.colours[2] = Colour::Plain,
            _ => self.attribute(u8::try_from(number).unwrap_or(0), true),
        }
    }

    fn attribute(&mut self, number: u8, is_on: bool) {
        let Some(at) = ATTRIBUTES.iter().position(|known| *known == number) else { return };
        self.attributes = self.attributes & !(1 << at) | u8::from(is_on) << at;
    }

    /// Writes what makes any pen this one.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\x1b[0");
        for (at, number) in ATTRIBUTES.iter().enumerate() {
            if self.attributes & 1 << at != 0 {
                out.extend_from_slice(format!(";{number}").as_bytes());
            }
        }
        out.extend_from_slice(
            match self.underline {
                0 => "",
                1 => ";4",
                2 => ";21",
                3 => ";4:3",
                4 => ";4:4",
                _ => ";4:5",
            }
            .as_bytes(),
        );
        for (colour, of) in self.colours.iter().zip(COLOURS) {
            // What does not know the colour of lines would take its numbers for others, if they
            // were not in one group.
            let text = match (colour, of) {
                (Colour::Plain, _) => continue,
                (Colour::Indexed(index), 58) => format!(";58:5:{index}"),
                (Colour::Rgb(red, green, blue), 58) => format!(";58:2::{red}:{green}:{blue}"),
                (Colour::Indexed(index), of) => format!(";{of};5;{index}"),
                (Colour::Rgb(red, green, blue), of) => format!(";{of};2;{red};{green};{blue}"),
            };
            out.extend_from_slice(text.as_bytes());
        }
        out.push(b'm');
    }
}

/// A colour whose numbers follow.
fn colour(numbers: &mut impl Iterator<Item = u16>) -> Option<Colour> {
    let kind = numbers.next()?;
    let mut part = || u8::try_from(numbers.next().unwrap_or(0)).ok();
    match kind {
        5 => Some(Colour::Indexed(part()?)),
        2 => Some(Colour::Rgb(part()?, part()?, part()?)),
        _ => None,
    }
}

/// A colour whose numbers are in one group. Between the 2 of an RGB colour and its parts may be the
/// number of a space of colours.
fn with_parts(parts: &[u16]) -> Option<Colour> {
    match parts {
        [2, _, red, green, blue, ..] | [2, red, green, blue] => {
            colour(&mut [2, *red, *green, *blue].into_iter())
        }
        parts => colour(&mut parts.iter().copied()),
    }
}
