//! Lines of bounded length, and the fields of one line.
//!
//! A quoted field may hold commas and doubled quotes, never a line end: so a forgotten quote costs one line, not the
//! rest of the file, and line numbers are those that an editor shows.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

/// The most bytes that a line may have, its end not counted.
pub const LINE_BYTES_MAX: usize = 4_096;

/// What is kept of a longer line, to find it again.
const LONG_LINE_KEPT_BYTES: usize = 128;
const BUFFER_BYTES: usize = 256 * 1_024;

/// The lines of a file.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    number: u64,
    bytes_read: u64,
}

/// One line.
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: u64,
    /// Where its text lies, the line end left out; of a line that is too long, the beginning only.
    pub(super) text: Range<usize>,
    pub(super) too_long: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(BUFFER_BYTES, input), number: 0, bytes_read: 0 }
    }

    /// The number of the last line that was read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Appends the next line to `text`; `None` at the end of the file.
    pub(super) fn next_into(&mut self, text: &mut Vec<u8>) -> io::Result<Option<Line>> {
        let start = text.len();
        let most = LINE_BYTES_MAX as u64 + 2;
        let read = self.input.by_ref().take(most).read_until(b'\n', text)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes_read += read as u64;
        if text.last() == Some(&b'\n') {
            text.pop();
            if text.len() > start && text.last() == Some(&b'\r') {
                text.pop();
            }
        } else if read as u64 == most {
            self.bytes_read += self.input.skip_until(b'\n')? as u64;
        }
        let too_long = text.len() - start > LINE_BYTES_MAX;
        if too_long {
            text.truncate(start + LONG_LINE_KEPT_BYTES);
        }
        Ok(Some(Line { number: self.number, text: start..text.len(), too_long }))
    }
}

/// The fields of a line, unquoted.
pub(super) fn split(line: &str) -> Result<Vec<Cow<'_, str>>, &'static str> {
    if !line.contains('"') {
        return Ok(line.split(',').map(Cow::Borrowed).collect());
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    return Err("a quote stands inside a field that does not begin with one");
                }
                (Cow::Borrowed(field), after)
            }
        };
        fields.push(field);
        if after.is_empty() {
            return Ok(fields);
        }
        rest = after.strip_prefix(',').ok_or("text stands after a closing quote")?;
    }
}

/// The field up to its closing quote, and what follows.
fn quoted_field(quoted: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let mut from = 0;
    loop {
        let close = quoted[from..].find('"').ok_or("a quoted field is not closed on its line")? + from;
        let after = &quoted[close + 1..];
        if !after.starts_with('"') {
            let field = &quoted[..close];
            let field =
                if from == 0 { Cow::Borrowed(field) } else { Cow::Owned(field.replace("\"\"", "\"")) };
            return Ok((field, after));
        }
        from = close + 2;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn read_all(input: &[u8]) -> (Vec<(u64, usize, bool)>, u64) {
        let mut lines = Lines::new(input);
        let mut text = Vec::new();
        let mut seen = Vec::new();
        while let Some(line) = lines.next_into(&mut text).unwrap() {
            seen.push((line.number, line.text.len(), line.too_long));
        }
        (seen, lines.bytes_read())
    }

    #[test]
    fn lines_end_in_either_way_and_the_last_needs_no_end() {
        let (lines, bytes) = read_all(b"ab\r\n\nabc\n\r\nx");
        assert_eq!(lines, [(1, 2, false), (2, 0, false), (3, 3, false), (4, 0, false), (5, 1, false)]);
        assert_eq!(bytes, 12);
        assert_eq!(read_all(b""), (vec![], 0));
    }

    #[test]
    fn the_limit_is_exact_and_a_long_line_is_skipped_whole() {
        for (length, end, too_long) in [
            (LINE_BYTES_MAX, "\n", false),
            (LINE_BYTES_MAX, "\r\n", false),
            (LINE_BYTES_MAX + 1, "\n", true),
            (LINE_BYTES_MAX + 1, "\r\n", true),
            (LINE_BYTES_MAX + 2, "\n", true),
            (1 << 20, "\n", true),
        ] {
            let mut input = vec![b'x'; length];
            input.extend_from_slice(end.as_bytes());
            input.extend_from_slice(b"next");
            let (lines, bytes) = read_all(&input);
            let kept = if too_long { LONG_LINE_KEPT_BYTES } else { length };
            assert_eq!(lines, [(1, kept, too_long), (2, 4, false)], "{length} {end:?}");
            assert_eq!(bytes, input.len() as u64);
        }
        assert_eq!(read_all(&vec![b'x'; LINE_BYTES_MAX]).0, [(1, LINE_BYTES_MAX, false)]);
        assert_eq!(read_all(&vec![b'x'; LINE_BYTES_MAX + 2]).0, [(1, LONG_LINE_KEPT_BYTES, true)]);
    }

    #[test]
    fn fields_are_cut_and_unquoted() {
        for (line, fields) in [
            ("a,b,c", vec!["a", "b", "c"]),
            ("", vec![""]),
            (",", vec!["", ""]),
            (r#""a,b",c"#, vec!["a,b", "c"]),
            (r#"a,"say ""hi"", twice""#, vec!["a", "say \"hi\", twice"]),
            (r#""","""""#, vec!["", "\""]),
            (r#""é",ü,"#, vec!["é", "ü", ""]),
        ] {
            assert_eq!(split(line).unwrap(), fields, "{line}");
        }
        for line in [r#"""#, r#"a,"b"#, r#"a,"b"""#, r#""a"b,c"#, r#"a"b,c"#, r#""a" ,c"#] {
            assert!(split(line).is_err(), "{line}");
        }
    }
}
