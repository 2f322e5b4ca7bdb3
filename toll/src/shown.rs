//! Bytes and words from outside, made fit for a screen: numbers of telephone lines masked, nothing that could steer a
//! terminal.

use std::fmt::Write as _;

/// Digits of a number that stay readable at its beginning and its end.
const HEAD_DIGITS: usize = 2;
const TAIL_DIGITS: usize = 3;
/// Shorter numbers, and shorter parts of one, are not told from other digits.
const PART_DIGITS_MIN: usize = 7;
/// Between two digits of a number people write at most so many other characters.
const SEPARATORS_MAX: usize = 2;

/// Hides a line's number.
#[derive(Debug)]
pub(crate) enum Mask {
    /// Shows everything: somebody asked for it.
    Reveal,
    /// Hides this number, in the forms in which carriers write it.
    Number(Number),
    /// The number is not known here: hides whatever could be one.
    Unknown,
}

/// A line's number and the forms in which it may be written.
pub(crate) struct Number {
    digits: Vec<u8>,
    /// Lengths of the endings of `digits` that count as the number, the longest first.
    endings: Vec<usize>,
}

impl std::fmt::Debug for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Number(..)")
    }
}

impl Number {
    /// The number of these digits; `prefix` is what its carrier's numbers begin with.
    pub(crate) fn new(digits: &str, prefix: Option<&str>) -> Self {
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_digit).collect();
        let all = digits.len();
        let mut endings = vec![all];
        if let Some(national) = prefix.and_then(|prefix| digits.strip_prefix(prefix.as_bytes())) {
            endings.push(national.len());
        }
        // Country codes have one to three digits, and national numbers do not begin with 0.
        let national = (1..=3).filter_map(|code| all.checked_sub(code));
        endings.extend(national.filter(|length| digits.get(all - length) != Some(&b'0')));
        endings.retain(|length| *length == all || *length >= PART_DIGITS_MIN);
        endings.sort_unstable_by(|a, b| b.cmp(a));
        endings.dedup();
        Self { digits, endings }
    }

    /// The places of the number's digits in `bytes` from `start` on, with each digit's place in the number.
    fn at(&self, bytes: &[u8], start: usize) -> Option<Vec<(usize, usize)>> {
        self.endings.iter().find_map(|length| {
            let from = self.digits.len() - length;
            let wanted = self.digits.get(from..).filter(|wanted| !wanted.is_empty())?;
            let mut places = Vec::with_capacity(*length);
            let mut at = start;
            for (offset, digit) in wanted.iter().enumerate() {
                let mut skipped = 0;
                while offset > 0
                    && skipped < SEPARATORS_MAX
                    && bytes.get(at).is_some_and(|b| is_separator(*b))
                {
                    at += 1;
                    skipped += 1;
                }
                if bytes.get(at) != Some(digit) {
                    return None;
                }
                places.push((at, from + offset));
                at += 1;
            }
            Some(places)
        })
    }

    fn keeps(&self, place: usize) -> bool {
        let all = self.digits.len();
        all > PART_DIGITS_MIN + 1 && (place < HEAD_DIGITS || place + TAIL_DIGITS >= all)
    }
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'-' | b'.' | b'/' | b'(' | b')' | b'_')
}

impl Mask {
    /// The bytes with the number's digits replaced by `*`; as long as before.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut masked = bytes.to_vec();
        match self {
            Self::Reveal => {}
            Self::Number(number) => {
                let mut at = 0;
                while at < bytes.len() {
                    let found = if bytes[at].is_ascii_digit() { number.at(bytes, at) } else { None };
                    let Some(places) = found else {
                        at += 1;
                        continue;
                    };
                    for (place, digit) in &places {
                        if !number.keeps(*digit) {
                            masked[*place] = b'*';
                        }
                    }
                    at = places.last().map_or(at, |(place, _)| *place) + 1;
                }
            }
            Self::Unknown => {
                for run in runs_of_digits(bytes) {
                    masked[run].fill(b'*');
                }
            }
        }
        masked
    }

    /// The same for text, fit for a screen.
    pub(crate) fn text(&self, text: &str) -> String {
        printable(&self.bytes(text.as_bytes()))
    }
}

/// Runs of at least [`PART_DIGITS_MIN`] digits.
fn runs_of_digits(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let mut start = None;
    for at in 0..=bytes.len() {
        match (bytes.get(at).is_some_and(u8::is_ascii_digit), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                if at - from >= PART_DIGITS_MIN {
                    runs.push(from..at);
                }
                start = None;
            }
            _ => {}
        }
    }
    runs
}

/// Text as it is, line ends kept (CR LF as LF); what is no text or could steer a terminal as `\xNN`, `\u{NNNN}`.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let mut chars = valid.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\n' => text.push('\n'),
                '\r' if chars.peek() == Some(&'\n') => {}
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push('\\'),
                c if steers(c) => {
                    let _ = match u32::from(c) {
                        low @ 0..=0xff => write!(text, "\\x{low:02x}"),
                        high => write!(text, "\\u{{{high:04x}}}"),
                    };
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Control characters, and invisible ones that turn or hide what is around them.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c), 0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff
            | 0xfff9..=0xfffb | 0xe0000..=0xe007f)
}

/// The same on one line.
pub(crate) fn one_line(text: &str) -> String {
    printable(text.as_bytes()).replace('\n', "\\n")
}

/// Bytes in hex with their place, 16 a line.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, part) in bytes.chunks(16).enumerate() {
        let _ = write!(text, "{:06x} ", line * 16);
        for byte in part {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(number: &str, prefix: Option<&str>, text: &str) -> String {
        Mask::Number(Number::new(number, prefix)).text(text)
    }

    #[test]
    fn the_number_is_hidden_in_every_form_that_carriers_write() {
        let mask = |text| masked("34600123456", Some("34"), text);
        assert_eq!(mask("m=34600123456&x=1"), "m=34******456&x=1");
        assert_eq!(mask("\"+34600123456\""), "\"+34******456\"");
        assert_eq!(mask("/%2B34600123456/"), "/%2B34******456/");
        assert_eq!(mask("tel:+34 600-123.456;"), "tel:+34 ***-***.456;");
        assert_eq!(mask("0034600123456"), "0034******456");
        assert_eq!(mask("national 600123456"), "national ******456");
        assert_eq!(mask("(34) 600 123 456"), "(34) *** *** 456");
        assert_eq!(mask("twice 34600123456,34600123456"), "twice 34******456,34******456");
        assert_eq!(mask("ref 99934600123456999"), "ref 99934******456999");
    }

    #[test]
    fn other_digits_stay_readable() {
        let mask = |text| masked("34600000001", Some("34"), text);
        for text in ["p-000000000001", "1.500", "2026-12-01T06:00:00", "00000001", "34600000002"] {
            assert_eq!(mask(text), text);
        }
        assert_eq!(mask("600000001"), "******001");
    }

    #[test]
    fn a_national_form_is_known_without_the_carriers_prefix_and_short_numbers_are_hidden_altogether() {
        assert_eq!(masked("4917012345678", None, "17012345678"), "********678");
        assert_eq!(masked("1234567", None, "x1234567x"), "x*******x");
        assert_eq!(masked("12345678", None, "12345678"), "********");
        assert_eq!(masked("", None, "0012345678"), "0012345678", "no number, nothing to hide");
    }

    #[test]
    fn whatever_could_be_a_number_is_hidden_when_it_is_not_known() {
        assert_eq!(
            Mask::Unknown.text("to 4917012345678, 1.99 EUR, code 123456"),
            "to *************, 1.99 EUR, code 123456"
        );
        assert_eq!(Mask::Unknown.text("1234567"), "*******");
    }

    #[test]
    fn revealing_shows_all_and_debug_shows_nothing() {
        assert_eq!(Mask::Reveal.text("34600123456"), "34600123456");
        let mask = Mask::Number(Number::new("34600123456", None));
        assert!(!format!("{mask:?}").contains("3456"));
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nbody"), "HTTP/1.1 200 OK\nx: y\n\nbody");
        assert_eq!(printable(b"\x1b[2J\x07\r\x00\x7f"), "\\x1b[2J\\x07\\r\\x00\\x7f");
        assert_eq!(printable("a\u{202e}b\u{200b}\u{9b}é漢".as_bytes()), "a\\u{202e}b\\u{200b}\\x9bé漢");
        assert_eq!(printable(b"\xff\xc3"), "\\xff\\xc3");
        assert_eq!(one_line("a\nb"), "a\\nb");
    }

    #[test]
    fn hex_has_sixteen_bytes_a_line() {
        assert_eq!(hex(&[0x41; 17]).lines().nth(1), Some("000010  41"));
    }
}
