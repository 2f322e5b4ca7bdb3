//! Values that TOML has no type for and that are written as strings: durations and local times.

use std::ops::RangeInclusive;

use super::Table;
use crate::book::problem::{Problems, Spanned};
use crate::book::values::{duration_ms, duration_text, excerpt, local_minute, minute_text};

/// What is expected, as messages say it.
const SECONDS: &str = "a duration such as \"15m\"";
const MILLISECONDS: &str = "a duration such as \"50ms\" or \"5s\"";
const LOCAL_TIME: &str = "a local time such as \"06:00\"";

impl Table<'_> {
    /// A required duration of whole seconds: `"90s"`, `"15m"`, `"4h"`, `"2d"`. The range is in seconds.
    pub fn duration_s(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        self.required(key, SECONDS, problems)?;
        self.opt_duration_s(key, range, problems)
    }

    /// A duration of whole seconds, if the key is there. The range is in seconds.
    pub fn opt_duration_s(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        let text = self.text(key, SECONDS, problems)?;
        let path = self.path_of(key);
        self.duration_s_of(&path, &text, &range, problems)
    }

    /// A required duration: `"50ms"`, `"5s"`, `"15m"`. The range is in milliseconds.
    pub fn duration_ms(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        self.required(key, MILLISECONDS, problems)?;
        self.opt_duration_ms(key, range, problems)
    }

    /// A duration, if the key is there. The range is in milliseconds.
    pub fn opt_duration_ms(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        let text = self.text(key, MILLISECONDS, problems)?;
        let help = "write a duration such as \"50ms\", \"5s\" or \"15m\"";
        let path = self.path_of(key);
        self.duration_of(&path, &text, &range, 1, help, problems)
    }

    /// A required array of at most `max` durations of whole seconds. The range is in seconds.
    pub fn duration_s_list(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        max: usize,
        problems: &mut Problems,
    ) -> Option<Spanned<Vec<Spanned<i64>>>> {
        self.required(key, "an array of durations", problems)?;
        self.opt_duration_s_list(key, range, max, problems)
    }

    /// An array of at most `max` durations of whole seconds, if the key is there. The range is in seconds.
    pub fn opt_duration_s_list(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        max: usize,
        problems: &mut Problems,
    ) -> Option<Spanned<Vec<Spanned<i64>>>> {
        let items = self.opt_str_list(key, max, problems)?;
        let mut durations = Vec::new();
        for (index, item) in items.value.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            durations.extend(self.duration_s_of(&path, item, &range, problems));
        }
        Some(Spanned { value: durations, place: items.place })
    }

    /// A required local time of day, `"06:00"`, as minutes of the day, at most `latest` (1439, or 1440 = `"24:00"`
    /// where an end is meant).
    pub fn local_minute(&mut self, key: &str, latest: u16, problems: &mut Problems) -> Option<Spanned<u16>> {
        self.required(key, LOCAL_TIME, problems)?;
        self.opt_local_minute(key, latest, problems)
    }

    /// A local time of day, if the key is there; see [`Table::local_minute`].
    pub fn opt_local_minute(
        &mut self,
        key: &str,
        latest: u16,
        problems: &mut Problems,
    ) -> Option<Spanned<u16>> {
        let text = self.text(key, LOCAL_TIME, problems)?;
        let path = self.path_of(key);
        self.local_minute_of(&path, &text, latest, problems)
    }

    /// An array of exactly two local times, `["06:00", "22:00"]`, if the key is there; only the second may be
    /// `"24:00"`. Their sequence is not checked.
    pub fn opt_local_minutes(
        &mut self,
        key: &str,
        problems: &mut Problems,
    ) -> Option<(Spanned<u16>, Spanned<u16>)> {
        let items = self.opt_str_list(key, 2, problems)?;
        let path = self.path_of(key);
        let [from, to] = items.value.as_slice() else {
            let what = format!("`{path}` has {} local times", items.value.len());
            self.problem(key, what, "write two, such as [\"06:00\", \"22:00\"]", problems);
            return None;
        };
        let from = self.local_minute_of(&format!("{path}[0]"), from, 1_439, problems);
        let to = self.local_minute_of(&format!("{path}[1]"), to, 1_440, problems);
        from.zip(to)
    }

    fn text(&mut self, key: &str, expected: &str, problems: &mut Problems) -> Option<Spanned<String>> {
        self.read(key, expected, problems, |value| value.as_str().map(str::to_owned))
    }

    fn duration_s_of(
        &self,
        path: &str,
        text: &Spanned<String>,
        range: &RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        let help = "write a duration such as \"90s\", \"15m\", \"4h\" or \"2d\"";
        self.duration_of(path, text, range, 1_000, help, problems)
    }

    fn duration_of(
        &self,
        path: &str,
        text: &Spanned<String>,
        range: &RangeInclusive<i64>,
        unit_ms: i64,
        help: &str,
        problems: &mut Problems,
    ) -> Option<Spanned<i64>> {
        let units = duration_ms(text).filter(|ms| ms % unit_ms == 0).map(|ms| ms / unit_ms);
        let what = format!("`{}` is \"{}\"", path, excerpt(text));
        match units {
            Some(value) if range.contains(&value) => Some(Spanned { value, place: text.place }),
            Some(_) => {
                let end = |units: &i64| duration_text(units.saturating_mul(unit_ms));
                let help = format!("write a duration from {} to {}", end(range.start()), end(range.end()));
                self.problem_at(text.place, what, help, problems);
                None
            }
            None => {
                self.problem_at(text.place, what, help, problems);
                None
            }
        }
    }

    fn local_minute_of(
        &self,
        path: &str,
        text: &Spanned<String>,
        latest: u16,
        problems: &mut Problems,
    ) -> Option<Spanned<u16>> {
        if let Some(value) = local_minute(text).filter(|minute| *minute <= latest) {
            return Some(Spanned { value, place: text.place });
        }
        let what = format!("`{}` is \"{}\"", path, excerpt(text));
        let help = format!("write a local time from 00:00 to {}", minute_text(latest));
        self.problem_at(text.place, what, help, problems);
        None
    }
}
