//! A time as Go writes and reads it (`1m30s`, `-5s`, `1.5h`) to nanoseconds and back.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// A signed time, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

/// Why a text is not a time. The words are those of Go's `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadDuration {
    /// Not numbers with units, or too large.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    NoUnit(String),
    /// A unit that is none.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    Unit {
        /// What stands where a unit should.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// The units with their nanoseconds. Both micro signs are used in the wild.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    /// Reads a time.
    ///
    /// # Errors
    /// [`BadDuration`] with Go's words.
    pub fn parse(text: &str) -> Result<GoDuration, BadDuration> {
        let invalid = || BadDuration::Invalid(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(GoDuration(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (number, after) = split_while(rest, |c| c.is_ascii_digit() || c == '.');
            if number.is_empty() {
                return Err(invalid());
            }
            let (unit, after) = split_while(after, |c| !c.is_ascii_digit() && c != '.');
            if unit.is_empty() {
                return Err(BadDuration::NoUnit(text.to_owned()));
            }
            let known = UNITS.iter().find(|(name, _)| *name == unit);
            let (_, nanos) = known.ok_or_else(|| BadDuration::Unit {
                unit: unit.to_owned(),
                text: text.to_owned(),
            })?;
            let piece = scale(number, *nanos).ok_or_else(invalid)?;
            total = total.checked_add(piece).ok_or_else(invalid)?;
            rest = after;
        }
        let nanos = i64::try_from(total).map_err(|_| invalid())?;
        Ok(GoDuration(if negative { -nanos } else { nanos }))
    }

    /// The time as a duration, if it is more than nothing.
    pub fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    /// The time as a duration, if it is not negative.
    pub fn not_negative(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl fmt::Display for GoDuration {
    /// As Go does: `1m0s`, `1.5s`, `2ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let below = |unit: u64| (nanos / unit, nanos % unit);
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => decimal(f, below(1_000), 3, "µs"),
            1_000_000..1_000_000_000 => decimal(f, below(1_000_000), 6, "ms"),
            _ => {
                let (seconds, fraction) = below(1_000_000_000);
                let (minutes, hours) = (seconds / 60 % 60, seconds / 3600);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if seconds >= 60 {
                    write!(f, "{minutes}m")?;
                }
                decimal(f, (seconds % 60, fraction), 9, "s")
            }
        }
    }
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

/// `number` (such as `1.25`) times `unit`, cut to whole nanoseconds.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Eighteen digits are finer than a nanosecond of the largest unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = part * u128::from(unit) / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

fn decimal(
    f: &mut fmt::Formatter<'_>,
    (whole, fraction): (u64, u64),
    places: usize,
    unit: &str,
) -> fmt::Result {
    let digits = format!("{fraction:0places$}");
    match digits.trim_end_matches('0') {
        "" => write!(f, "{whole}{unit}"),
        digits => write!(f, "{whole}.{digits}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_writes_times_like_this() {
        let cases = [
            ("1m0s", 60_000_000_000, "1m0s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("-2s", -2_000_000_000, "-2s"),
            ("0", 0, "0s"),
            ("+1h1ns", 3_600_000_000_001, "1h0m0.000000001s"),
            ("250ms", 250_000_000, "250ms"),
            ("1.25us", 1_250, "1.25µs"),
            ("3µs", 3_000, "3µs"),
            (".5s", 500_000_000, "500ms"),
            ("7ns", 7, "7ns"),
        ];
        for (text, nanos, shown) in cases {
            assert_eq!(GoDuration::parse(text), Ok(GoDuration(nanos)), "{text}");
            assert_eq!(GoDuration(nanos).to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_time_is_refused_in_gos_words() {
        let cases = [
            ("", r#"time: invalid duration """#),
            ("-", r#"time: invalid duration "-""#),
            ("soon", r#"time: invalid duration "soon""#),
            ("5", r#"time: missing unit in duration "5""#),
            ("5y", r#"time: unknown unit "y" in duration "5y""#),
            ("1.2.3s", r#"time: invalid duration "1.2.3s""#),
            (".s", r#"time: invalid duration ".s""#),
            ("9999999999h", r#"time: invalid duration "9999999999h""#),
        ];
        for (text, words) in cases {
            assert_eq!(GoDuration::parse(text).map_err(|bad| bad.to_string()), Err(words.into()));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_back(nanos in -i64::MAX..i64::MAX) {
            let duration = GoDuration(nanos);
            proptest::prop_assert_eq!(GoDuration::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = GoDuration::parse(&text);
        }
    }
}
