//! Keeps the parser's tree shallow. `toml` bounds nesting and the parts of one key each, but not their product; a tree
//! of some thousand levels is dropped by recursion and would overflow the stack.

use crate::book::problem::Place;

/// The most parts of one dotted key. With `toml`'s bound of 80 nested values, a tree has at most 1,400 levels.
pub(super) const KEY_PARTS_MAX: usize = 16;

/// Where a dotted key has more than [`KEY_PARTS_MAX`] parts.
pub(super) fn deep_key(text: &str) -> Option<Place> {
    let mut dots = 0;
    let mut at = 0;
    while let Some(first) = text.as_bytes().get(at) {
        match first {
            b'.' => dots += 1,
            b'=' | b',' | b'[' | b'{' | b'\r' | b'\n' => dots = 0,
            _ => {}
        }
        if dots >= KEY_PARTS_MAX {
            return Some(Place(at));
        }
        at += token_bytes(text.get(at..).unwrap_or_default());
    }
    None
}

/// Splits as `toml`'s lexer does, its recovery from unclosed strings included: dots inside of strings and comments
/// separate nothing. At least 1.
fn token_bytes(rest: &str) -> usize {
    const ATOM_ENDS: [char; 11] = ['.', '=', ',', '[', ']', '{', '}', ' ', '\t', '#', '\r'];
    let bytes = match rest.as_bytes() {
        [b'.' | b'=' | b',' | b'[' | b']' | b'{' | b'}' | b' ' | b'\t' | b'\r' | b'\n', ..] => 1,
        [b'#', ..] => rest.find(['\r', '\n']).unwrap_or(rest.len()),
        [b'\'', b'\'', b'\'', ..] => multi_line_bytes(rest, b'\'', false),
        [b'"', b'"', b'"', ..] => multi_line_bytes(rest, b'"', true),
        [b'\'', ..] => one_line_bytes(rest, b'\'', false),
        [b'"', ..] => one_line_bytes(rest, b'"', true),
        _ => rest.find(|char| ATOM_ENDS.contains(&char) || char == '\n').unwrap_or(rest.len()),
    };
    bytes.max(1)
}

/// Up to the closing quote, or to the end of the line.
fn one_line_bytes(rest: &str, quote: u8, escapes: bool) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match *byte {
            b'\n' => return at,
            byte if byte == quote => return at + 1,
            b'\\' if escapes && matches!(bytes.get(at + 1), Some(b'\\' | b'"')) => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// Up to the three closing quotes, with up to two more that belong to the text, or to the end of the file.
fn multi_line_bytes(rest: &str, quote: u8, escapes: bool) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 3;
    while at < bytes.len() {
        if bytes[at..].starts_with(&[quote; 3]) {
            let more = bytes[at + 3..].iter().take(2).take_while(|byte| **byte == quote).count();
            return at + 3 + more;
        }
        let escaped = escapes && bytes[at] == b'\\' && matches!(bytes.get(at + 1), Some(b'\\' | b'"'));
        at += if escaped { 2 } else { 1 };
    }
    at
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dots_between_parts_of_one_key_are_counted() {
        let dots = |count: usize| ".a".repeat(count);
        assert_eq!(deep_key(&format!("a{} = 1", dots(15))), None);
        assert_eq!(deep_key(&format!("a{} = 1", dots(16))), Some(Place(31)));
        assert_eq!(deep_key(&format!("é{} = 1", " . \"x.y\"".repeat(16))), Some(Place(123)));
        let lines = format!("a{0} = 1\n[b{0}]\r\nc = {{ a{0} = 1, b{0} = 2 }} # {0}{0}\n", dots(15));
        assert_eq!(deep_key(&lines), None);
    }

    #[test]
    fn dots_inside_of_strings_are_not() {
        let dots = ".".repeat(20);
        let strings = [
            format!("a = \"{dots}\\\"{dots}\\\\\""),
            format!("a = '{dots}\\'"),
            format!("a = '''{dots}''{dots}\n{dots}'''''"),
            format!("a = \"\"\"{dots}\"\"{dots}\\\"\"\"{dots}\n{dots}\"\"\"\"\""),
        ];
        for string in strings {
            assert_eq!(deep_key(&string), None, "{string}");
            toml::de::DeTable::parse(&string).unwrap();
            // The string ends where it ends for the parser: what follows counts.
            assert!(deep_key(&format!("{string}{dots}")).is_some(), "{string}");
        }
        assert!(deep_key(&format!("a = \"unclosed\n{dots}")).is_some());
        assert!(deep_key(&format!("a\"{dots}\"")).is_some(), "a quote inside of a word opens nothing");
    }
}
