//! Small values that are written as text: durations, local minutes, names that were nearly right.

use rust_decimal::Decimal;

use super::reader::{Problems, Table};
use crate::split::Shares;
use crate::zone::DAY_MINUTES;

/// Units of a duration, smallest first, in milliseconds.
const UNITS_MS: [(&str, i64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of a size, smallest first, in MiB.
const UNITS_MIB: [(&str, i64); 3] = [("MiB", 1), ("GiB", 1_024), ("TiB", 1_048_576)];

/// The most characters of a foreign text that a message repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// The milliseconds of `"50ms"`, `"90s"`, `"15m"`, `"4h"`, `"2d"`; `None` when it is not written like that.
#[must_use]
pub fn duration_ms(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, unit_ms) = UNITS_MS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<i64>().ok()?.checked_mul(*unit_ms)
}

/// How [`duration_ms`] reads it: the largest unit that divides it.
#[must_use]
pub fn duration_text(ms: i64) -> String {
    let unit = UNITS_MS.iter().rev().find(|(_, unit_ms)| ms != 0 && ms % unit_ms == 0);
    let (name, unit_ms) = unit.copied().unwrap_or(("s", 1_000));
    format!("{}{name}", ms / unit_ms)
}

/// The MiB of `"512MiB"`, `"4GiB"`, `"1TiB"`; `None` when it is not written like that.
#[must_use]
pub fn size_mib(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, unit_mib) = UNITS_MIB.iter().find(|(name, _)| *name == unit)?;
    number.parse::<i64>().ok()?.checked_mul(*unit_mib)
}

/// How [`size_mib`] reads it: the largest unit that divides it.
#[must_use]
pub fn size_text(mib: i64) -> String {
    let unit = UNITS_MIB.iter().rev().find(|(_, unit_mib)| mib != 0 && mib % unit_mib == 0);
    let (name, unit_mib) = unit.copied().unwrap_or(("MiB", 1));
    format!("{}{name}", mib / unit_mib)
}

/// A rate in percent, such as `"19"` or `"7.7"`, if the key is there. The outer `None`: it is there and is none, which is
/// then among the problems.
#[allow(clippy::option_option, reason = "left out and wrong are two things")]
pub fn opt_percent(table: &mut Table<'_>, key: &str, problems: &mut Problems) -> Option<Option<Decimal>> {
    let Some(text) = table.opt_str(key, problems) else {
        // A value that is no text has its problem already.
        return (!table.has(key)).then_some(None);
    };
    let rate = Decimal::from_str_exact(&text).ok().filter(|rate| Shares::new(*rate, Decimal::ZERO).is_ok());
    if rate.is_none() {
        let help = "write percent from \"0\" to \"100\" with at most 4 decimals, such as \"19\" or \"7.7\"";
        table.problem_at(text.place, format!("`{key}` is \"{}\"", excerpt(&text)), help, problems);
    }
    rate.map(Some)
}

/// The minute of the day of `"06:00"` (360); `"24:00"` is the day's end (1440). `None` for anything else.
#[must_use]
pub fn local_minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two_digits = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (two_digits(hour)?, two_digits(minute)?);
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= DAY_MINUTES).then_some(of_day)
}

/// How [`local_minute`] reads it.
#[must_use]
pub fn minute_text(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// A foreign text as a message repeats it: control characters escaped, at most 64 characters.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    // `escape_debug` escapes quotes too, which only makes a message harder to read.
    shown.replace("\\'", "'").replace("\\\"", "\"")
}

/// The candidate that was probably meant; `None` when none is near.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = word.chars().take(QUOTED_CHARS_MAX + 1).count();
    if length > QUOTED_CHARS_MAX {
        return None;
    }
    let near = |candidate: &str| {
        let longer = length.max(candidate.chars().count());
        let distance = distance(word, candidate);
        (distance <= longer.div_ceil(3) && distance < longer).then_some(distance)
    };
    let scored = candidates.into_iter().filter_map(|candidate| Some((near(candidate)?, candidate)));
    scored.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// How many characters must be put in, left out, replaced or swapped with a neighbour.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(QUOTED_CHARS_MAX * 2).collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut left_before = None;
    for (row, left_char) in left.chars().enumerate() {
        let mut this = vec![row + 1];
        for (column, right_char) in right.iter().enumerate() {
            let replaced = last[column] + usize::from(left_char != *right_char);
            let mut best = replaced.min(last[column + 1] + 1).min(this[column] + 1);
            let swapped = column > 0 && left_before == Some(*right_char) && right[column - 1] == left_char;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            this.push(best);
        }
        before_last = std::mem::replace(&mut last, this);
        left_before = Some(left_char);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration_ms("50ms"), Some(50));
        assert_eq!(duration_ms("90s"), Some(90_000));
        assert_eq!(duration_ms("15m"), Some(900_000));
        assert_eq!(duration_ms("4h"), Some(14_400_000));
        assert_eq!(duration_ms("2d"), Some(172_800_000));
        assert_eq!(duration_ms("0s"), Some(0));
        for wrong in ["", "5", "s", "-5s", "1.5h", "5 s", "5S", "1h30m", "99999999999999999d", "٣s"] {
            assert_eq!(duration_ms(wrong), None, "{wrong}");
        }
        for text in ["50ms", "1500ms", "90s", "15m", "4h", "2d", "0s"] {
            assert_eq!(duration_ms(text).map(duration_text).as_deref(), Some(text));
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(
            (size_mib("512MiB"), size_mib("4GiB"), size_mib("1TiB")),
            (Some(512), Some(4_096), Some(1 << 20))
        );
        for wrong in ["", "4", "4GB", "4 GiB", "-1GiB", "9999999999999999999TiB"] {
            assert_eq!(size_mib(wrong), None, "{wrong}");
        }
        assert_eq!(
            (size_text(0), size_text(1_536), size_text(4_096)),
            ("0MiB".into(), "1536MiB".into(), "4GiB".into())
        );
    }

    #[test]
    fn local_minutes() {
        assert_eq!(local_minute("00:00"), Some(0));
        assert_eq!(local_minute("06:30"), Some(390));
        assert_eq!(local_minute("24:00"), Some(1_440));
        for wrong in ["", "6:00", "24:01", "12:60", "12-00", "+1:00", "12:00:00", "é:00"] {
            assert_eq!(local_minute(wrong), None, "{wrong}");
        }
        assert_eq!(minute_text(390), "06:30");
    }

    #[test]
    fn near_names() {
        assert_eq!(nearest("pirce", ["price", "text"]), Some("price"));
        assert_eq!(nearest("schedul", ["schedule", "ladder"]), Some("schedule"));
        assert_eq!(nearest("foo", ["for", "price"]), Some("for"));
        assert_eq!(nearest("zzz", ["price", "text"]), None);
        assert_eq!(nearest("", ["a"]), None);
        assert_eq!(nearest(&"a".repeat(100_000), ["a"]), None);
        assert_eq!((distance("abc", "abc"), distance("ab", "ba"), distance("", "abc")), (0, 1, 3));
    }

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(excerpt("a\u{1b}\n\"b'"), "a\\u{1b}\\n\"b'");
        assert_eq!(excerpt(&"é".repeat(65)).chars().count(), 65);
    }
}
