//! Problems: what is wrong with a file, at which place, and what would be right.

use std::fmt;
use std::ops::Deref;

/// The most bytes one source may have.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;

/// The most problems that are kept; further ones are only counted.
pub const PROBLEMS_MAX: usize = 200;

/// One file of the book, already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path relative to the book's parent, with forward slashes: `config/plans/daily.toml`.
    pub file: String,
    /// Its whole text.
    pub text: String,
}

/// Where something stands in a source: an offset in bytes, resolved to line and column only when reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub(super) usize);

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it begins.
    pub place: Place,
}

/// One problem. Displays as `config/plans/daily.toml:3:9: what; help`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The source's path.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub help: String,
}

/// All problems found so far, sorted by file, line and column; the same problem is kept once.
#[derive(Debug, Default)]
pub struct Problems {
    kept: Vec<Problem>,
    omitted: usize,
}

impl Source {
    /// A problem at a place of this source.
    #[must_use]
    pub fn problem(&self, place: Place, what: impl Into<String>, help: impl Into<String>) -> Problem {
        let (line, column) = self.line_and_column(place);
        Problem { file: self.file.clone(), line, column, what: what.into(), help: help.into() }
    }

    /// The place of the byte `offset` of a string value, as exactly as the way it is written allows: a string
    /// with escapes before that byte gives the place where the string begins.
    #[must_use]
    pub fn place_within(&self, string: &Spanned<String>, offset: usize) -> Place {
        let raw = self.text.get(string.place.0..).unwrap_or_default();
        let (Some(quote), Some(before)) = (raw.chars().next(), string.value.get(..offset)) else {
            return string.place;
        };
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let mut skip = 1;
        if raw.starts_with(&triple) {
            skip = 3;
            let inner = &raw[3..];
            // A line break right after the opening quotes is no part of the value.
            skip += if inner.starts_with("\r\n") { 2 } else { usize::from(inner.starts_with('\n')) };
        }
        match raw.get(skip..).is_some_and(|inner| inner.starts_with(before)) {
            true => Place(string.place.0 + skip + offset),
            false => string.place,
        }
    }

    fn line_and_column(&self, place: Place) -> (u32, u32) {
        let before = &self.text.as_bytes()[..place.0.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        // Bytes that continue a character do not begin a column.
        let columns = before[line_start..].iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        let from_one = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        (from_one(lines), from_one(columns))
    }
}

impl Place {
    /// Where the source begins.
    pub const START: Self = Self(0);
}

impl<T> Spanned<T> {
    /// The same place with another value.
    #[must_use]
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: f(self.value), place: self.place }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl Problems {
    /// Adds a problem. Beyond [`PROBLEMS_MAX`] it is only counted.
    pub fn push(&mut self, problem: Problem) {
        match self.kept.binary_search(&problem) {
            Ok(_) => {}
            Err(_) if self.kept.len() >= PROBLEMS_MAX => self.omitted += 1,
            Err(index) => self.kept.insert(index, problem),
        }
    }

    /// Adds a problem that is only made when there is room for it: finding its line reads the whole source.
    pub(super) fn push_with(&mut self, problem: impl FnOnce() -> Problem) {
        if self.kept.len() < PROBLEMS_MAX {
            self.push(problem());
        } else {
            self.omitted += 1;
        }
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: Self) {
        self.omitted += other.omitted;
        other.kept.into_iter().for_each(|problem| self.push(problem));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many there are, counted ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len() + self.omitted
    }

    /// The kept ones, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.kept.iter()
    }

    /// The kept ones, sorted.
    #[must_use]
    pub fn into_vec(self) -> Vec<Problem> {
        self.kept
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.what)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "; {}", self.help) }
    }
}

/// One problem a line, without a line break at the end.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.kept.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        if self.omitted == 0 { Ok(()) } else { write!(f, "\nand {} more", self.omitted) }
    }
}

impl std::error::Error for Problems {}
