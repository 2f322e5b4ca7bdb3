//! Just enough JSON to read one small request: a pull reader that borrows from the body and keeps numbers as they stood.
//!
//! Made by hand for one reason: an amount must be read from its digits, and the usual parsers hand out floats.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

/// Values nest at most this deep.
const DEPTH_MAX: u32 = 32;

/// The text is not JSON (or nests too deep). What was read before the flaw stays read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadJson;

/// Reads one value after another. A typed read of a value of another type skips it and gives `None`.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Result<Self, BadJson> {
        let text = std::str::from_utf8(body).map_err(|_| BadJson)?;
        Ok(Self { text, at: 0, depth: 0 })
    }

    /// Calls `member` at the value of each member; it must read or skip that value. The last of equal names wins.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), BadJson>,
    ) -> Result<(), BadJson> {
        if self.peek() != Some(b'{') {
            return self.skip();
        }
        self.enter()?;
        if !self.take(b'}') {
            loop {
                let name = self.quoted()?;
                self.expect(b':')?;
                member(self, &name)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        self.depth -= 1;
        Ok(())
    }

    pub(super) fn string(&mut self) -> Result<Option<Cow<'a, str>>, BadJson> {
        match self.peek() {
            Some(b'"') => self.quoted().map(Some),
            _ => self.skip().map(|()| None),
        }
    }

    /// The number as it stands in the text.
    pub(super) fn number(&mut self) -> Result<Option<&'a str>, BadJson> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.digits().map(Some),
            _ => self.skip().map(|()| None),
        }
    }

    pub(super) fn skip(&mut self) -> Result<(), BadJson> {
        match self.peek() {
            Some(b'{') => self.object(|reader, _| reader.skip()),
            Some(b'[') => self.array(),
            Some(b'"') => self.quoted().map(drop),
            Some(b'-' | b'0'..=b'9') => self.digits().map(drop),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(BadJson),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&mut self) -> Result<(), BadJson> {
        self.peek().map_or(Ok(()), |_| Err(BadJson))
    }

    fn array(&mut self) -> Result<(), BadJson> {
        self.enter()?;
        if !self.take(b']') {
            loop {
                self.skip()?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b']')?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn enter(&mut self) -> Result<(), BadJson> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(BadJson) } else { Ok(()) }
    }

    fn quoted(&mut self) -> Result<Cow<'a, str>, BadJson> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(BadJson),
            }
        }
        let inside = self.text.get(start..self.at).ok_or(BadJson)?;
        self.at += 1;
        if !escaped {
            return Ok(Cow::Borrowed(inside));
        }
        // Escapes are rare in our fields: a whole parser may look at them.
        let with_quotes = self.text.get(start - 1..self.at).ok_or(BadJson)?;
        serde_json::from_str::<String>(with_quotes).map(Cow::Owned).map_err(|_| BadJson)
    }

    fn digits(&mut self) -> Result<&'a str, BadJson> {
        let start = self.at;
        self.step_if(|b| b == b'-');
        if !self.step_if(|b| b == b'0') {
            self.run_of_digits()?;
        }
        if self.step_if(|b| b == b'.') {
            self.run_of_digits()?;
        }
        if self.step_if(|b| matches!(b, b'e' | b'E')) {
            self.step_if(|b| matches!(b, b'+' | b'-'));
            self.run_of_digits()?;
        }
        self.text.get(start..self.at).ok_or(BadJson)
    }

    fn run_of_digits(&mut self) -> Result<(), BadJson> {
        let start = self.at;
        while self.step_if(|b| b.is_ascii_digit()) {}
        if self.at > start { Ok(()) } else { Err(BadJson) }
    }

    fn step_if(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let yes = self.text.as_bytes().get(self.at).is_some_and(|b| wanted(*b));
        self.at += usize::from(yes);
        yes
    }

    fn word(&mut self, word: &str) -> Result<(), BadJson> {
        if self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            return Ok(());
        }
        Err(BadJson)
    }

    /// The next byte that is not white space, not yet taken.
    fn peek(&mut self) -> Option<u8> {
        while self.step_if(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')) {}
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let yes = self.peek() == Some(byte);
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, byte: u8) -> Result<(), BadJson> {
        if self.take(byte) { Ok(()) } else { Err(BadJson) }
    }
}

/// Writes a JSON string with its quotes.
pub(super) fn push_str(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b < 0x20 || matches!(b, b'"' | b'\\')) {
        let (plain, tail) = rest.split_at(at);
        out.put_slice(plain);
        if let Some((special, tail)) = tail.split_first() {
            match special {
                b'"' => out.put_slice(b"\\\""),
                b'\\' => out.put_slice(b"\\\\"),
                control => {
                    out.put_slice(b"\\u00");
                    out.put_u8(b'0' + (control >> 4));
                    out.put_u8(b"0123456789abcdef".get(usize::from(control & 15)).copied().unwrap_or(b'0'));
                }
            }
            rest = tail;
        }
    }
    out.put_slice(rest);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn accepts(body: &[u8]) -> bool {
        Reader::new(body).and_then(|mut reader| reader.skip().and_then(|()| reader.end())).is_ok()
    }

    #[test]
    fn agrees_with_a_whole_parser_about_what_json_is() {
        let good =
            r#"{"a":{"b":[1,-0.5e+3,true,false,null,"x\"y\\\u00e9\ud83d\ude00"],"c":{}},"d":[],"e":" "}"#;
        assert!(accepts(good.as_bytes()));
        // Every cut, and every single byte replaced, judged by both.
        let mut wrong = 0;
        for at in 0..good.len() {
            let cut = &good.as_bytes()[..at];
            assert_eq!(accepts(cut), serde_json::from_slice::<serde_json::Value>(cut).is_ok());
            for byte in
                [b'"', b'{', b'}', b'[', b']', b',', b':', b'\\', b'0', b'.', b'e', b'-', b'x', b' ', 0, 0xff]
            {
                let mut changed = good.as_bytes().to_vec();
                changed[at] = byte;
                let theirs = serde_json::from_slice::<serde_json::Value>(&changed).is_ok();
                assert_eq!(accepts(&changed), theirs, "{:?}", String::from_utf8_lossy(&changed));
                wrong += usize::from(!theirs);
            }
        }
        assert!(wrong > 100, "the changes must break something");
    }

    #[test]
    fn keeps_numbers_as_they_stood_and_skips_other_types() {
        let mut seen = Vec::new();
        let mut reader =
            Reader::new(br#" {"amount": 1.990, "line": 5, "key": "a\tb", "amount": 1e999} "#).unwrap();
        let read = reader.object(|reader, name| {
            match name {
                "amount" => seen.push(reader.number()?.unwrap().to_owned()),
                _ => seen.push(reader.string()?.unwrap_or(Cow::Borrowed("none")).into_owned()),
            }
            Ok(())
        });
        assert_eq!((read, reader.end()), (Ok(()), Ok(())));
        assert_eq!(seen, ["1.990", "none", "a\tb", "1e999"]);
    }

    #[test]
    fn depth_is_bounded() {
        let nest = |n: usize| [b"[".repeat(n), b"]".repeat(n)].concat();
        assert!(accepts(&nest(32)));
        assert!(!accepts(&nest(33)));
        assert!(!accepts(&b"[".repeat(60_000)));
    }

    #[test]
    fn written_strings_read_back() {
        for text in ["", "plain", "q\"b\\s/", "\u{0}\u{1f}\n\t", "é😀\u{7f}", "end\""] {
            let mut out = BytesMut::new();
            push_str(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
