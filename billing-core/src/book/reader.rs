//! A reader of one TOML table that collects every problem instead of stopping at the first.
//!
//! Ask a [`Table`] for the keys it may have, then [`Table::finish`] it: whatever was never asked for is an unknown
//! key. Every method that reads takes the list of problems; `None` from a required key means that its problem is
//! already in the list, so a caller goes on reading and gives up only at the end.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use toml::Spanned as TomlSpanned;
use toml::de::{DeTable, DeValue};

pub use super::problem::{PROBLEMS_MAX, Place, Problem, Problems, SOURCE_BYTES_MAX, Source, Spanned};
use super::values::{excerpt, nearest};

mod depth;
mod text;

/// One TOML table being read. Remembers which keys were asked for.
#[derive(Debug)]
pub struct Table<'a> {
    source: &'a Source,
    /// `dunning.no_funds`; empty for the whole file.
    path: String,
    place: Place,
    entries: BTreeMap<String, Entry<'a>>,
    /// Every key that was asked for, whether it is there or not.
    asked: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry<'a> {
    key_place: Place,
    place: Place,
    value: DeValue<'a>,
}

impl<'a> Table<'a> {
    /// The whole file as a table. There is none with syntax errors, which are then all in `problems`, with more than
    /// [`SOURCE_BYTES_MAX`] bytes, or with a key of more than 16 parts.
    pub fn parse(source: &'a Source, problems: &mut Problems) -> Option<Self> {
        if source.text.len() > SOURCE_BYTES_MAX {
            let what = format!("the file has {} bytes", source.text.len());
            problems.push(source.problem(Place::START, what, format!("at most {SOURCE_BYTES_MAX} are read")));
            return None;
        }
        if let Some(place) = depth::deep_key(&source.text) {
            let help = format!("at most {} parts are allowed", depth::KEY_PARTS_MAX);
            problems.push(source.problem(place, "a key with too many dots", help));
            return None;
        }
        let (root, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            problems.push_with(|| syntax_problem(source, error));
        }
        errors.is_empty().then(|| Self::of(source, String::new(), Place::START, root.into_inner()))
    }

    fn of(source: &'a Source, path: String, place: Place, table: DeTable<'a>) -> Self {
        let entry = |(key, value): (TomlSpanned<Cow<'a, str>>, TomlSpanned<_>)| {
            let (key_place, place) = (Place(key.span().start), Place(value.span().start));
            (key.into_inner().into_owned(), Entry { key_place, place, value: value.into_inner() })
        };
        let entries = table.into_iter().map(entry).collect();
        Self { source, path, place, entries, asked: BTreeSet::new() }
    }

    /// The source that it stands in.
    #[must_use]
    pub fn source(&self) -> &'a Source {
        self.source
    }

    /// Where the table begins; the whole file begins at 1:1.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether the key is there. Does not count as asking for it.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The TOML type of a key's value: `string`, `integer`, `float`, `boolean`, `datetime`, `array`, `table`. Does
    /// not count as asking for it.
    #[must_use]
    pub fn type_of(&self, key: &str) -> Option<&'static str> {
        self.entry(key).map(|entry| entry.value.type_str())
    }

    /// All keys as they follow each other in the source, for tables with free keys. Does not count as asking for them.
    #[must_use]
    pub fn keys(&self) -> Vec<Spanned<String>> {
        let spanned =
            |(key, entry): (&String, &Entry<'_>)| Spanned { value: key.clone(), place: entry.key_place };
        let mut keys: Vec<_> = self.entries.iter().map(spanned).collect();
        keys.sort_by_key(|key| key.place);
        keys
    }

    /// Where the value of a key stands, or the table when it has no such key.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Place {
        self.entry(key).map_or(self.place, |entry| entry.place)
    }

    /// Adds a problem at the value of a key, or at the table when it has no such key.
    pub fn problem(
        &self,
        key: &str,
        what: impl Into<String>,
        help: impl Into<String>,
        problems: &mut Problems,
    ) {
        self.problem_at(self.place_of(key), what, help, problems);
    }

    /// Adds a problem at a place.
    pub fn problem_at(
        &self,
        place: Place,
        what: impl Into<String>,
        help: impl Into<String>,
        problems: &mut Problems,
    ) {
        problems.push_with(|| self.source.problem(place, what, help));
    }

    /// A required string.
    pub fn str(&mut self, key: &str, problems: &mut Problems) -> Option<Spanned<String>> {
        self.required(key, "a string", problems)?;
        self.opt_str(key, problems)
    }

    /// A string, if the key is there.
    pub fn opt_str(&mut self, key: &str, problems: &mut Problems) -> Option<Spanned<String>> {
        self.read(key, "a string", problems, |value| value.as_str().map(str::to_owned))
    }

    /// A required integer inside a range.
    pub fn int(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        self.required(key, "an integer", problems)?;
        self.opt_int(key, range, problems)
    }

    /// An integer inside a range, if the key is there.
    pub fn opt_int(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        let number = self.read(key, "an integer", problems, integer)?;
        let path = self.path_of(key);
        self.in_range(&path, number, &range, problems)
    }

    /// A required boolean.
    pub fn bool(&mut self, key: &str, problems: &mut Problems) -> Option<Spanned<bool>> {
        self.required(key, "true or false", problems)?;
        self.opt_bool(key, problems)
    }

    /// A boolean, if the key is there.
    pub fn opt_bool(&mut self, key: &str, problems: &mut Problems) -> Option<Spanned<bool>> {
        self.read(key, "true or false", problems, DeValue::as_bool)
    }

    /// A required table, written `[key]` or inline.
    pub fn table(&mut self, key: &str, problems: &mut Problems) -> Option<Self> {
        self.required(key, "a table", problems)?;
        self.opt_table(key, problems)
    }

    /// A table, if the key is there.
    pub fn opt_table(&mut self, key: &str, problems: &mut Problems) -> Option<Self> {
        let table = self.read(key, "a table", problems, |value| value.as_table().cloned())?;
        Some(Self::of(self.source, self.path_of(key), table.place, table.value))
    }

    /// An array of at most `max` tables, written `[[key]]` or inline; empty when the key is not there.
    pub fn tables(&mut self, key: &str, max: usize, problems: &mut Problems) -> Vec<Self> {
        let items = self.list(key, "a table", max, problems, |value| value.as_table().cloned());
        let source = self.source;
        let path = self.path_of(key);
        let read = |(index, item): (usize, Spanned<DeTable<'a>>)| {
            Self::of(source, format!("{path}[{index}]"), item.place, item.value)
        };
        items.map_or_else(Vec::new, |items| items.value.into_iter().enumerate().map(read).collect())
    }

    /// A required array of at most `max` strings.
    pub fn str_list(
        &mut self,
        key: &str,
        max: usize,
        problems: &mut Problems,
    ) -> Option<Spanned<Vec<Spanned<String>>>> {
        self.required(key, "an array", problems)?;
        self.opt_str_list(key, max, problems)
    }

    /// An array of at most `max` strings, if the key is there.
    pub fn opt_str_list(
        &mut self,
        key: &str,
        max: usize,
        problems: &mut Problems,
    ) -> Option<Spanned<Vec<Spanned<String>>>> {
        self.list(key, "a string", max, problems, |value| value.as_str().map(str::to_owned))
    }

    /// A required array of at most `max` integers inside a range.
    pub fn int_list(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        max: usize,
        problems: &mut Problems,
    ) -> Option<Spanned<Vec<Spanned<i64>>>> {
        self.required(key, "an array", problems)?;
        self.opt_int_list(key, range, max, problems)
    }

    /// An array of at most `max` integers inside a range, if the key is there.
    pub fn opt_int_list(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        max: usize,
        problems: &mut Problems,
    ) -> Option<Spanned<Vec<Spanned<i64>>>> {
        let items = self.list(key, "an integer", max, problems, integer)?;
        let mut numbers = Vec::new();
        for (index, item) in items.value.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            numbers.extend(self.in_range(&path, item, &range, problems));
        }
        Some(Spanned { value: numbers, place: items.place })
    }

    /// A required string out of a closed list.
    pub fn one_of<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
        problems: &mut Problems,
    ) -> Option<Spanned<T>> {
        if !self.has(key) {
            let names = choices.iter().map(|(name, _)| format!("\"{name}\""));
            self.missing(key, &format!("one of {}", names.collect::<Vec<_>>().join(", ")), problems);
        }
        self.opt_one_of(key, choices, problems)
    }

    /// A string out of a closed list, if the key is there.
    pub fn opt_one_of<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
        problems: &mut Problems,
    ) -> Option<Spanned<T>> {
        let text = self.opt_str(key, problems)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text.value) {
            return Some(Spanned { value: *choice, place: text.place });
        }
        let what = format!("`{}` is \"{}\"", self.path_of(key), excerpt(&text));
        let help = one_of_help(&text, choices.iter().map(|(name, _)| *name));
        self.problem_at(text.place, what, help, problems);
        None
    }

    /// Ends the reading: every key that was never asked for is a problem.
    pub fn finish(self, problems: &mut Problems) {
        let asked: Vec<&str> = self.asked.iter().map(String::as_str).collect();
        // A key that is already there is not what was meant.
        let absent: Vec<&str> = asked.iter().copied().filter(|key| !self.has(key)).collect();
        let known = match asked.is_empty() {
            true => "no key is known here".to_owned(),
            false => format!("known keys: {}", asked.join(", ")),
        };
        for (key, entry) in self.entries.iter().filter(|(key, _)| !self.asked.contains(*key)) {
            problems.push_with(|| {
                let meant = nearest(key, absent.iter().copied());
                let meant = meant.map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
                let what = format!("unknown key `{}`", self.path_of(key));
                self.source.problem(entry.key_place, what, meant + &known)
            });
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry<'a>> {
        self.entries.get(key)
    }

    /// How messages name a key: with all tables around it, printable, each part short.
    pub(crate) fn path_of(&self, key: &str) -> String {
        let key = excerpt(key);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    fn required(&mut self, key: &str, expected: &str, problems: &mut Problems) -> Option<()> {
        if self.has(key) {
            return Some(());
        }
        self.missing(key, &format!("{expected} is required"), problems);
        None
    }

    fn missing(&mut self, key: &str, help: &str, problems: &mut Problems) {
        self.asked.insert(key.to_owned());
        let what = format!("missing key `{}`", self.path_of(key));
        self.problem_at(self.place, what, help, problems);
    }

    fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        problems: &mut Problems,
        of: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        self.asked.insert(key.to_owned());
        let entry = self.entry(key)?;
        if let Some(value) = of(&entry.value) {
            return Some(Spanned { value, place: entry.place });
        }
        self.wrong_type(&self.path_of(key), expected, &entry.value, entry.place, problems);
        None
    }

    fn list<T>(
        &mut self,
        key: &str,
        expected: &str,
        max: usize,
        problems: &mut Problems,
        of: impl Fn(&DeValue<'a>) -> Option<T>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let array = self.read(key, "an array", problems, |value| value.as_array().cloned())?;
        let path = self.path_of(key);
        let mut items = Vec::new();
        for (index, item) in array.value.iter().enumerate() {
            let place = Place(item.span().start);
            if index == max {
                let what = format!("`{}` has {} entries", path, array.value.len());
                self.problem_at(place, what, format!("at most {max} are allowed"), problems);
                break;
            }
            match of(item.get_ref()) {
                Some(value) => items.push(Spanned { value, place }),
                None => {
                    let path = format!("{path}[{index}]");
                    self.wrong_type(&path, expected, item.get_ref(), place, problems);
                }
            }
        }
        Some(Spanned { value: items, place: array.place })
    }

    fn wrong_type(
        &self,
        path: &str,
        expected: &str,
        found: &DeValue<'_>,
        place: Place,
        problems: &mut Problems,
    ) {
        let found = match found {
            // Only an integer beyond 64 bits is an integer of the wrong type.
            DeValue::Integer(number) if expected == "an integer" => {
                format!("{}, which does not fit into 64 bits", excerpt(&number.to_string()))
            }
            DeValue::Integer(_) => "an integer".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            other => format!("a {}", other.type_str()),
        };
        let what = format!("`{}`: expected {expected}, found {found}", path);
        let help = match expected {
            "a string" => "write it in quotes",
            "an integer" => "write a whole number without quotes",
            "true or false" => "write it without quotes",
            "an array" => "write it in square brackets",
            text if text.starts_with("a duration") || text.starts_with("a local time") => {
                "write it in quotes"
            }
            _ => "write it in braces or under a [header] of its own",
        };
        self.problem_at(place, what, help, problems);
    }

    fn in_range(
        &self,
        path: &str,
        number: Spanned<i64>,
        range: &RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        if range.contains(&number.value) {
            return Some(number);
        }
        let what = format!("`{}` is {}", path, number.value);
        let help = format!("write a number from {} to {}", range.start(), range.end());
        self.problem_at(number.place, what, help, problems);
        None
    }
}

/// `did you mean "period"? one of "period", "share"`: the help for a word outside of a closed list.
pub fn one_of_help<'c>(word: &str, choices: impl Iterator<Item = &'c str> + Clone) -> String {
    let meant = nearest(word, choices.clone()).map(|name| format!("did you mean \"{name}\"? "));
    let names = choices.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    format!("{}one of {names}", meant.unwrap_or_default())
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn syntax_problem(source: &Source, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(0..0);
    let place = Place(span.start);
    if error.message() == "duplicate key" {
        let key = excerpt(source.text.get(span).unwrap_or_default());
        return source.problem(place, format!("duplicate key `{key}`"), "keep one of them");
    }
    let line_end =
        source.text.get(place.0..).is_none_or(|rest| rest.is_empty() || rest.starts_with(['\r', '\n']));
    if error.message().starts_with("string values must be quoted") && line_end {
        return source.problem(place, "not TOML: the value is missing", "write it after the =");
    }
    match error.message().split_once(", expected ") {
        Some((what, expected)) => {
            source.problem(place, format!("not TOML: {what}"), format!("expected {expected}"))
        }
        None => source.problem(place, format!("not TOML: {}", error.message()), "see the TOML 1.1 syntax"),
    }
}

#[cfg(test)]
mod tests;
