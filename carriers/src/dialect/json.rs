//! Reads from a JSON text only what a carrier's rules name, in one pass, without building a tree.
//!
//! Made by hand because an amount must be compared by its digits: the usual parsers hand out floats, take the
//! last of two equal names, and build every value. Stricter than JSON: equal names in one object are refused,
//! since two readers may disagree about which one counts.

use std::borrow::Cow;

/// Values nest at most this deep.
pub(crate) const DEPTH_MAX: u32 = 32;
/// Members of one object: bounds the search for equal names.
pub(crate) const MEMBERS_MAX: usize = 256;

/// A text that is not JSON, or that this reader refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJson;

/// Where a value of interest is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// What stands at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Absent,
    Text(Cow<'a, str>),
    /// A number as it stood.
    Number(&'a str),
    Bool(bool),
    Null,
    /// An object or an array.
    Nested,
}

impl Found<'_> {
    /// The text of a string, number or boolean.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(text) => Some(text),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            Self::Absent | Self::Null | Self::Nested => None,
        }
    }

    /// Something other than null stands there.
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self, Self::Absent | Self::Null)
    }
}

/// The places of interest (JSON Pointers, RFC 6901), compiled into one tree.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    nodes: Vec<Node>,
    slots: usize,
}

#[derive(Debug, Clone, Default)]
struct Node {
    children: Vec<(Box<str>, usize)>,
    slot: Option<usize>,
}

/// What was found, by slot.
#[derive(Debug)]
pub(crate) struct Values<'a>(Vec<Found<'a>>);

impl<'a> Values<'a> {
    pub(crate) fn get(&self, slot: Slot) -> &Found<'a> {
        self.0.get(slot.0).unwrap_or(&Found::Absent)
    }
}

impl Places {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::default()], slots: 0 }
    }

    /// The slot of a pointer, the same for equal pointers; `None` when it is not a pointer to a member.
    pub(crate) fn slot(&mut self, pointer: &str) -> Option<Slot> {
        let mut at = 0;
        for token in pointer.strip_prefix('/')?.split('/') {
            let name = unescape_token(token)?;
            let known = self.child(at, &name);
            at = match known {
                Some(next) => next,
                None => {
                    let next = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes.get_mut(at)?.children.push((name.into(), next));
                    next
                }
            };
        }
        let (node, next) = (self.nodes.get_mut(at)?, self.slots);
        let slot = *node.slot.get_or_insert(next);
        self.slots = self.slots.max(slot + 1);
        Some(Slot(slot))
    }

    /// Reads the whole text and keeps what stands at the places.
    pub(crate) fn read<'a>(&self, body: &'a [u8]) -> Result<Values<'a>, NotJson> {
        let text = std::str::from_utf8(body).map_err(|_| NotJson)?;
        let mut reader = Reader {
            text,
            at: 0,
            depth: 0,
            names: Vec::with_capacity(16),
            places: self,
            values: vec![Found::Absent; self.slots],
        };
        reader.value(Some(0))?;
        match reader.peek() {
            None => Ok(Values(reader.values)),
            Some(_) => Err(NotJson),
        }
    }

    fn child(&self, node: usize, name: &str) -> Option<usize> {
        let node = self.nodes.get(node)?;
        node.children.iter().find(|(known, _)| **known == *name).map(|(_, next)| *next)
    }
}

/// Nothing found: what the rules see when there is no readable body.
pub(crate) fn nothing<'a>() -> Values<'a> {
    Values(Vec::new())
}

fn unescape_token(token: &str) -> Option<String> {
    let mut name = String::with_capacity(token.len());
    let mut rest = token.chars();
    while let Some(c) = rest.next() {
        name.push(match c {
            '~' => match rest.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(name)
}

struct Reader<'a, 'p> {
    text: &'a str,
    at: usize,
    depth: u32,
    /// Names of all open objects, innermost last.
    names: Vec<Cow<'a, str>>,
    places: &'p Places,
    values: Vec<Found<'a>>,
}

impl<'a> Reader<'a, '_> {
    fn value(&mut self, node: Option<usize>) -> Result<(), NotJson> {
        let found = match self.peek().ok_or(NotJson)? {
            b'{' => self.object(node).map(|()| Found::Nested),
            b'[' => self.array(node).map(|()| Found::Nested),
            b'"' => self.string().map(Found::Text),
            b'-' | b'0'..=b'9' => self.number().map(Found::Number),
            b't' => self.word("true").map(|()| Found::Bool(true)),
            b'f' => self.word("false").map(|()| Found::Bool(false)),
            b'n' => self.word("null").map(|()| Found::Null),
            _ => Err(NotJson),
        }?;
        let slot = node.and_then(|node| self.places.nodes.get(node)).and_then(|node| node.slot);
        if let Some(place) = slot.and_then(|slot| self.values.get_mut(slot)) {
            *place = found;
        }
        Ok(())
    }

    fn object(&mut self, node: Option<usize>) -> Result<(), NotJson> {
        self.enter()?;
        let first = self.names.len();
        if !self.take(b'}') {
            loop {
                if self.peek() != Some(b'"') {
                    return Err(NotJson);
                }
                let name = self.string()?;
                let siblings = self.names.get(first..).unwrap_or(&[]);
                if siblings.len() >= MEMBERS_MAX || siblings.contains(&name) {
                    return Err(NotJson);
                }
                let child = node.and_then(|node| self.places.child(node, &name));
                self.names.push(name);
                self.expect(b':')?;
                self.value(child)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        self.names.truncate(first);
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self, node: Option<usize>) -> Result<(), NotJson> {
        self.enter()?;
        // Most arrays are of no interest: no names are made for their places.
        let wanted = node.filter(|node| self.places.nodes.get(*node).is_some_and(|n| !n.children.is_empty()));
        let mut index = 0_u32;
        if !self.take(b']') {
            loop {
                let child =
                    wanted.and_then(|node| self.places.child(node, itoa::Buffer::new().format(index)));
                self.value(child)?;
                index = index.saturating_add(1);
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b']')?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn enter(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(NotJson) } else { Ok(()) }
    }

    /// A string; the opening quote has been seen, not taken.
    fn string(&mut self) -> Result<Cow<'a, str>, NotJson> {
        let start = self.at + 1;
        let mut end = start;
        let mut escaped = false;
        loop {
            match self.text.as_bytes().get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    end += 2;
                }
                Some(0x20..) => end += 1,
                _ => return Err(NotJson),
            }
        }
        self.at = end + 1;
        let inside = self.text.get(start..end).ok_or(NotJson)?;
        if escaped { unescape(inside).map(Cow::Owned) } else { Ok(Cow::Borrowed(inside)) }
    }

    fn number(&mut self) -> Result<&'a str, NotJson> {
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
        self.text.get(start..self.at).ok_or(NotJson)
    }

    fn run_of_digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.step_if(|b| b.is_ascii_digit()) {}
        if self.at > start { Ok(()) } else { Err(NotJson) }
    }

    fn step_if(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let yes = self.text.as_bytes().get(self.at).is_some_and(|b| wanted(*b));
        self.at += usize::from(yes);
        yes
    }

    fn word(&mut self, word: &str) -> Result<(), NotJson> {
        let here = self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes()));
        self.at += word.len();
        if here { Ok(()) } else { Err(NotJson) }
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

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.take(byte) { Ok(()) } else { Err(NotJson) }
    }
}

fn unescape(inside: &str) -> Result<String, NotJson> {
    let mut out = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).ok_or(NotJson)?);
        let kind = *rest.as_bytes().get(at + 1).ok_or(NotJson)?;
        let mut taken = at + 2;
        out.push(match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (c, len) = unicode(rest.as_bytes().get(at + 2..).ok_or(NotJson)?)?;
                taken += len;
                c
            }
            _ => return Err(NotJson),
        });
        rest = rest.get(taken..).ok_or(NotJson)?;
    }
    out.push_str(rest);
    Ok(out)
}

/// The character of `XXXX` or, for a surrogate pair, of `XXXX\uXXXX`; and how many bytes that took.
fn unicode(rest: &[u8]) -> Result<(char, usize), NotJson> {
    let first = hex4(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first).map(|c| (c, 4)).ok_or(NotJson);
    }
    if rest.get(4..6) != Some(br"\u") {
        return Err(NotJson);
    }
    let second = hex4(rest.get(6..).ok_or(NotJson)?)?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(NotJson);
    }
    let joined = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    char::from_u32(joined).map(|c| (c, 10)).ok_or(NotJson)
}

fn hex4(bytes: &[u8]) -> Result<u32, NotJson> {
    bytes
        .get(..4)
        .ok_or(NotJson)?
        .iter()
        .try_fold(0, |value, b| char::from(*b).to_digit(16).map(|digit| value << 4 | digit).ok_or(NotJson))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn accepts(body: &[u8]) -> bool {
        Places::new().read(body).is_ok()
    }

    /// The foreign parser's word, asked for a tree so that it looks at everything.
    fn serde_accepts(body: &[u8]) -> bool {
        serde_json::from_slice::<serde_json::Value>(body).is_ok()
    }

    #[test]
    fn agrees_with_a_foreign_parser_about_what_json_is() {
        let good =
            r#"{"a":{"b":[1,-0.5e+3,true,false,null,"x\"y\\\u00e9\ud83d\ude00"],"c":{}},"d":[],"e":" "}"#;
        assert!(accepts(good.as_bytes()));
        let mut wrong = 0;
        for at in 0..good.len() {
            let cut = &good.as_bytes()[..at];
            assert_eq!(accepts(cut), serde_accepts(cut));
            for byte in 0..=255_u8 {
                let mut changed = good.as_bytes().to_vec();
                changed[at] = byte;
                let theirs = serde_accepts(&changed);
                let ours = accepts(&changed);
                // Stricter only about equal names: "c" may have become "b".
                assert!(ours == theirs || (theirs && !ours && !distinct(&changed)), "{}", show(&changed));
                wrong += usize::from(!theirs);
            }
        }
        assert!(wrong > 1_000, "the changes must break something");
    }

    fn show(body: &[u8]) -> String {
        String::from_utf8_lossy(body).into_owned()
    }

    /// No name stands twice in an object: the foreign tree keeps one of two equal names.
    fn distinct(body: &[u8]) -> bool {
        let tree: serde_json::Value = serde_json::from_slice(body).unwrap();
        members(&tree) == 5
    }

    fn members(value: &serde_json::Value) -> usize {
        value.as_object().map_or(0, |object| object.len() + object.values().map(members).sum::<usize>())
    }

    #[test]
    fn values_of_interest_are_kept_as_they_stood() {
        let mut places = Places::new();
        let amount = places.slot("/price/amount").unwrap();
        let state = places.slot("/state").unwrap();
        let price = places.slot("/price").unwrap();
        let second = places.slot("/lines/1/id").unwrap();
        let odd = places.slot("/a~1b~0c").unwrap();
        let missing = places.slot("/nowhere").unwrap();
        assert_eq!(places.slot("/state"), Some(state));
        let body = br#" {"lines":[{"id":1},{"id":"z\n"}],"price":{"amount":1.990,"x":[{"amount":5}]},"state":null,"a/b~c":true} "#;
        let values = places.read(body).unwrap();
        assert_eq!(*values.get(amount), Found::Number("1.990"));
        assert_eq!(*values.get(state), Found::Null);
        assert_eq!(*values.get(price), Found::Nested);
        assert_eq!(*values.get(second), Found::Text("z\n".into()));
        assert_eq!(*values.get(odd), Found::Bool(true));
        assert_eq!(*values.get(missing), Found::Absent);
    }

    #[test]
    fn pointers_must_name_a_member() {
        for bad in ["", "state", "/a~", "/a~2"] {
            assert_eq!(Places::new().slot(bad), None, "{bad}");
        }
    }

    #[test]
    fn equal_names_are_refused_even_when_spelled_differently() {
        assert!(!accepts(br#"{"amount":1,"amount":2}"#));
        assert!(!accepts(br#"{"x":{"amount":1,"\u0061mount":2}}"#));
        assert!(accepts(br#"{"amount":1,"x":{"amount":2}}"#));
    }

    #[test]
    fn depth_and_members_are_bounded() {
        let nest = |n: usize| [b"[".repeat(n), b"]".repeat(n)].concat();
        assert!(accepts(&nest(32)));
        assert!(!accepts(&nest(33)));
        assert!(!accepts(&b"[".repeat(60_000)));
        let members =
            |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"{i}\":0")).collect::<Vec<_>>().join(","));
        assert!(accepts(members(256).as_bytes()));
        assert!(!accepts(members(257).as_bytes()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut places = Places::new();
            places.slot("/a/0/b");
            let _ = places.read(&body);
        }

        #[test]
        fn jsonish_text_agrees_with_the_foreign_parser(body in r#"[\[\]{}:,"\\ue0-9a.\-+ tfn]{0,24}"#) {
            let (ours, theirs) = (accepts(body.as_bytes()), serde_accepts(body.as_bytes()));
            // What we take, they take; what they take and we do not holds equal names (or a number they read as infinite).
            prop_assert!(!ours || theirs || body.contains(['e', 'E']), "{}", body);
        }

        #[test]
        fn strings_read_as_the_foreign_parser_reads_them(text in any::<String>()) {
            let mut places = Places::new();
            let slot = places.slot("/t").unwrap();
            let body = serde_json::to_vec(&serde_json::json!({ "t": text })).unwrap();
            let values = places.read(&body).unwrap();
            prop_assert_eq!(values.get(slot).as_text(), Some(text.as_str()));
        }
    }
}
