//! A carrier's reconciliation file: what it covers, what each row says, and whether it is whole.
//!
//! Fed piece by piece, so that a file of any size needs the memory of one line. Nothing is trusted: a line that is too
//! long, an unknown mark, an amount that is none, a trailer that does not agree make the file incomplete, and the first
//! such flaw is told with its line. What is incomplete proves nothing.

use std::collections::BTreeMap;
use std::fmt;

use billing_core::ids::OurRef;
use billing_core::money::Currency;
use billing_core::outcome::{Doubt, Outcome};
use billing_core::resolve::Covered;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::adapter::{Alert, Attempt};
use crate::callback::Callback;
use crate::definition::CarrierDefinition;
use crate::dialect::amount::read_decimal;
use crate::dialect::replies::AmountForm;
use crate::msisdn::{Msisdn, MsisdnRule};

/// Bytes of a line at most, its end not counted.
pub const FILE_LINE_BYTES_MAX: usize = 4_096;
/// Characters that are kept of a key, an id, a status.
const TEXT_CHARS_MAX: usize = 64;
/// Currencies of one file at most.
const CURRENCIES_MAX: usize = 16;
/// A file covers so much at most.
const SPAN_MAX: SignedDuration = SignedDuration::from_hours(24 * 62);
/// Years in which a file may lie: what is beyond is a slip, and may be more than a database can keep.
const YEARS: std::ops::RangeInclusive<i16> = 2000..=2099;

/// How a carrier's files are read.
pub(crate) struct FileRules {
    pub(crate) delimiter: u8,
    pub(crate) latin1: bool,
    pub(crate) zone: TimeZone,
    pub(crate) marks: Marks,
    pub(crate) covers: Covers,
    pub(crate) our_ref: Column,
    pub(crate) carrier_txn_id: Option<Column>,
    pub(crate) amount: Column,
    pub(crate) form: AmountForm,
    pub(crate) currency_at: Column,
    pub(crate) msisdn_at: Option<(Column, MsisdnForm)>,
    pub(crate) status_at: Column,
    pub(crate) time_at: Option<Column>,
    /// What is not named here says nothing.
    pub(crate) statuses: Vec<(Box<str>, Outcome)>,
    pub(crate) trailer: Trailer,
    pub(crate) currency: Currency,
    pub(crate) msisdn: MsisdnRule,
}

/// What stands first in a line says what it is.
pub(crate) struct Marks {
    pub(crate) header: Option<Box<str>>,
    pub(crate) names: Option<Box<str>>,
    pub(crate) detail: Box<str>,
    pub(crate) trailer: Box<str>,
}

/// Where it stands which time a file covers.
pub(crate) enum Covers {
    /// Columns of the header; `dates`: whole days, the last one included, else local instants, the last not included.
    Header { from: usize, until: Option<usize>, dates: bool },
    /// One day, in the file's name.
    Name { before: Box<str>, after: Box<str>, day: &'static str },
}

pub(crate) enum Column {
    At(usize),
    Named(Box<str>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MsisdnForm {
    E164,
    Plus,
    National,
}

pub(crate) struct Trailer {
    pub(crate) count: usize,
    pub(crate) sum: usize,
    pub(crate) currency: Option<usize>,
}

pub(crate) struct FileExample {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) rows: u64,
    pub(crate) complete: bool,
}

/// What one row says.
#[derive(Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Its line, from 1.
    pub line: u64,
    /// The key as it stands there, at most 64 characters.
    pub key: Box<str>,
    /// Our key, where it has the form of one.
    pub our_ref: Option<OurRef>,
    /// The carrier's id of the attempt.
    pub carrier_txn_id: Option<Box<str>>,
    /// Minor units of the carrier's currency.
    pub amount_minor: i64,
    /// The currency code.
    pub currency: Box<str>,
    /// The digits of the line in international form, where the file names it.
    pub msisdn: Option<Msisdn>,
    /// What became of the attempt; `Unknown` for a status that the definition does not name.
    pub result: Outcome,
    /// The status as it stands there, at most 64 characters.
    pub code: Box<str>,
    /// The line, byte for byte.
    pub raw: Box<[u8]>,
}

/// Shows no subscriber.
impl fmt::Debug for FileRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRow")
            .field("line", &self.line)
            .field("key", &self.key)
            .field("amount_minor", &self.amount_minor)
            .field("result", &self.result)
            .finish_non_exhaustive()
    }
}

/// Why a file is not complete: the first thing that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct FileFlaw {
    /// Where, from 1; of something that is missing the last line.
    pub line: u64,
    /// What, in words. Names no subscriber.
    pub what: String,
}

/// What is known of a file at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSummary {
    /// Which time it covers; `None` where that cannot be read.
    pub covers: Option<Covered>,
    /// Rows that could be read.
    pub rows: u64,
    /// What they sum up to, minor units by currency.
    pub sums: BTreeMap<Box<str>, i64>,
    /// `None`: header, rows and trailers agree.
    pub flaw: Option<FileFlaw>,
}

/// Reads a file as it comes.
pub struct FileReader<'d> {
    rules: &'d FileRules,
    pending: Vec<u8>,
    /// The line that is being read is too long: the rest of it is passed over.
    skipping: bool,
    line: u64,
    names: Option<Vec<String>>,
    covers: Option<Covered>,
    seen_header: bool,
    /// By currency: rows, sum, and whether a trailer agreed.
    totals: BTreeMap<Box<str>, (u64, i64, bool)>,
    rows: u64,
    trailers: u64,
    flaw: Option<FileFlaw>,
}

impl CarrierDefinition {
    /// Reads a reconciliation file of this carrier, whose name may say which day it covers; `None` when the carrier's
    /// file has no `[file]`.
    #[must_use]
    pub fn file_reader(&self, name: &str) -> Option<FileReader<'_>> {
        self.file.as_ref().map(|rules| FileReader::new(rules, name))
    }

    /// What is wrong with a file's name, where the name has to say which day it covers; `None` when nothing is.
    #[must_use]
    pub fn file_name_flaw(&self, name: &str) -> Option<String> {
        Some(self.file_reader(name)?.flaw?.what)
    }

    /// The zone that the carrier's files are kept in; `None` when it sends none.
    #[must_use]
    pub fn file_zone(&self) -> Option<&TimeZone> {
        self.file.as_ref().map(|rules| &rules.zone)
    }
}

impl FileRow {
    /// What the row means for an attempt, when it is about this very attempt: key, line, currency and amount agree.
    ///
    /// # Errors
    /// The alert that says what does not agree.
    pub fn held_against(&self, attempt: &Attempt, partial: bool) -> Result<Outcome, Alert> {
        let told = Callback {
            authenticated: true,
            our_ref: self.our_ref,
            carrier_txn_id: self.carrier_txn_id.clone(),
            amount_minor: Some(self.amount_minor),
            currency: Some(self.currency.clone()),
            msisdn: self.msisdn.as_ref().map(|msisdn| msisdn.digits().into()),
            result: self.result,
            carrier_code: Some(self.code.clone()),
            callback_id: Box::default(),
        };
        told.held_against(attempt, partial)
    }
}

impl<'d> FileReader<'d> {
    fn new(rules: &'d FileRules, name: &str) -> Self {
        let mut reader = Self {
            rules,
            pending: Vec::new(),
            skipping: false,
            line: 0,
            names: None,
            covers: None,
            seen_header: false,
            totals: BTreeMap::new(),
            rows: 0,
            trailers: 0,
            flaw: None,
        };
        if let Covers::Name { before, after, day } = &rules.covers {
            let text = name.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
            let date = text.and_then(|text| Date::strptime(day, text).ok());
            match date.and_then(|date| span_of_days(&rules.zone, date, date)) {
                Some(covers) => reader.covers = Some(covers),
                None => {
                    reader.flawed(format!("its name does not say which day it covers: {before}{day}{after}"))
                }
            }
        }
        reader
    }

    /// Takes more bytes; rows that are whole by now are added to `rows`.
    pub fn feed(&mut self, mut bytes: &[u8], rows: &mut Vec<FileRow>) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            self.take(line);
            self.end_line(rows);
            bytes = &rest[1..];
        }
        self.take(bytes);
    }

    /// The end of the file. A last line without an end was read as far as it goes: then it is not whole.
    #[must_use]
    pub fn end(mut self, rows: &mut Vec<FileRow>) -> FileSummary {
        if !self.pending.is_empty() || self.skipping {
            self.end_line(rows);
        }
        if self.trailers == 0 {
            let mark = &self.rules.marks.trailer;
            self.flawed(format!("no trailer ({mark}): the file is cut off, or of another kind"));
        }
        let untold = self.totals.iter().find(|(_, (count, _, told))| *count > 0 && !told);
        if let Some((currency, _)) = untold {
            self.flawed(format!("no trailer for {currency}"));
        }
        if self.covers.is_none() {
            self.flawed("nothing says which time it covers".to_owned());
        }
        let sums = self.totals.into_iter().filter(|(_, (count, _, _))| *count > 0);
        FileSummary {
            covers: self.covers,
            rows: self.rows,
            sums: sums.map(|(currency, (_, sum, _))| (currency, sum)).collect(),
            flaw: self.flaw,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > FILE_LINE_BYTES_MAX + 1 {
            self.pending.clear();
            self.skipping = true;
        }
        if !self.skipping {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn flawed(&mut self, what: String) {
        let what = what.chars().map(|c| if c.is_control() { '?' } else { c }).take(400).collect();
        let line = self.line.max(1);
        self.flaw.get_or_insert(FileFlaw { line, what });
    }

    fn end_line(&mut self, rows: &mut Vec<FileRow>) {
        self.line += 1;
        let mut line = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.skipping) {
            return self.flawed(format!("longer than {FILE_LINE_BYTES_MAX} bytes"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if self.line == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            return;
        }
        // What follows it would be read as another line, and lost.
        if line.contains(&b'\r') {
            return self.flawed("a carriage return inside the line".to_owned());
        }
        match self.fields(&line).and_then(|fields| self.read_line(&fields, &line)) {
            Ok(row) => rows.extend(row),
            Err(what) => self.flawed(what),
        }
        line.clear();
        self.pending = line;
    }

    fn fields(&self, line: &[u8]) -> Result<Vec<String>, String> {
        let mut csv = csv::ReaderBuilder::new();
        let mut csv = csv
            .delimiter(self.rules.delimiter)
            .has_headers(false)
            .buffer_capacity(line.len())
            .from_reader(line);
        let mut record = csv::ByteRecord::new();
        match csv.read_byte_record(&mut record) {
            Ok(true) => {}
            _ => return Err("not a line of fields".to_owned()),
        }
        let text = |field: &[u8]| match self.rules.latin1 {
            true => Ok(field.iter().map(|byte| char::from(*byte)).collect()),
            false => String::from_utf8(field.to_vec()).map_err(|_| "not UTF-8".to_owned()),
        };
        record.iter().map(text).collect()
    }

    fn read_line(&mut self, fields: &[String], raw: &[u8]) -> Result<Option<FileRow>, String> {
        let marks = &self.rules.marks;
        let mark = fields.first().map_or("", String::as_str);
        let is = |known: &Option<Box<str>>| known.as_deref() == Some(mark);
        if is(&marks.header) {
            if std::mem::replace(&mut self.seen_header, true) || self.rows + self.trailers > 0 {
                return Err("a header that is not the first line".to_owned());
            }
            return self.read_header(fields).map(|()| None);
        }
        if marks.header.is_some() && !self.seen_header {
            return Err("it does not begin with a header".to_owned());
        }
        if is(&marks.names) {
            if self.names.is_some() || self.rows + self.trailers > 0 {
                return Err("the columns are named twice, or after the first row".to_owned());
            }
            self.names = Some(fields.to_vec());
            return Ok(None);
        }
        if mark == &*marks.trailer {
            self.trailers += 1;
            return self.read_trailer(fields).map(|()| None);
        }
        if mark != &*marks.detail {
            // Where the dialect is another one this may be a subscriber's number.
            let shown: String =
                mark.chars().take(32).map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
            return Err(format!("it begins with {shown:?}, which is no mark of this carrier's files"));
        }
        if self.trailers > 0 {
            return Err("a row after the trailer".to_owned());
        }
        self.read_row(fields, raw).map(Some)
    }

    fn read_header(&mut self, fields: &[String]) -> Result<(), String> {
        let Covers::Header { from, until, dates } = &self.rules.covers else { return Ok(()) };
        let text = |at: usize| fields.get(at).map(|field| field.trim()).filter(|text| !text.is_empty());
        let zone = &self.rules.zone;
        let covers = if *dates {
            let date = |at: usize| text(at).and_then(date_of);
            date(*from).and_then(|first| span_of_days(zone, first, until.map_or(Some(first), date)?))
        } else {
            let local = |at: usize| text(at).and_then(|text| text.parse::<DateTime>().ok());
            local(*from).zip(until.and_then(local)).and_then(|(from, until)| span_of(zone, from, until))
        };
        self.covers =
            Some(covers.ok_or("the header does not say which time the file covers, up to 62 days")?);
        Ok(())
    }

    fn read_row(&mut self, fields: &[String], raw: &[u8]) -> Result<FileRow, String> {
        let rules = self.rules;
        let key: Box<str> = self.field(fields, &rules.our_ref, "key")?.into();
        if key.chars().count() > TEXT_CHARS_MAX || key.chars().any(char::is_control) {
            return Err("a key of more than 64 characters".to_owned());
        }
        let amount = self.field(fields, &rules.amount, "amount")?;
        let amount_minor = read_decimal(amount, rules.form.decimals(rules.currency));
        let amount_minor = amount_minor.ok_or("an amount that is none")?;
        let currency = self.field(fields, &rules.currency_at, "currency")?;
        if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err("a currency that is none".to_owned());
        }
        let msisdn = match &rules.msisdn_at {
            None => None,
            Some((column, form)) => {
                let text = self.field(fields, column, "line")?;
                let international = match form {
                    MsisdnForm::E164 => text.to_owned(),
                    MsisdnForm::Plus => {
                        text.strip_prefix('+').ok_or("a line without its plus sign")?.to_owned()
                    }
                    MsisdnForm::National => format!("{}{text}", rules.msisdn.prefix),
                };
                Some(Msisdn::parse(&international).map_err(|_| "a line that is none")?)
            }
        };
        if let Some(column) = &rules.time_at {
            self.check_time(self.field(fields, column, "time")?)?;
        }
        let code = self.field(fields, &rules.status_at, "status")?;
        let known = rules.statuses.iter().find(|(is, _)| **is == *code).map(|(_, outcome)| *outcome);
        let result = match known.unwrap_or(Outcome::Unknown(Doubt::Unlisted)) {
            Outcome::Charged { .. } => Outcome::Charged { amount_minor },
            Outcome::Partial { .. } => Outcome::Partial { amount_minor },
            Outcome::Refunded { .. } => Outcome::Refunded { amount_minor },
            other => other,
        };
        let moves =
            matches!(result, Outcome::Charged { .. } | Outcome::Partial { .. } | Outcome::Refunded { .. });
        if moves && amount_minor == 0 {
            return Err("money of no amount".to_owned());
        }
        let short = |text: &str| -> Box<str> {
            text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect::<String>().into()
        };
        let carrier_txn_id = match &rules.carrier_txn_id {
            Some(column) => self.field(fields, column, "id of the carrier").ok().map(short),
            None => None,
        };
        if !self.totals.contains_key(currency) && self.totals.len() >= CURRENCIES_MAX {
            return Err(format!("more than {CURRENCIES_MAX} currencies"));
        }
        let total = self.totals.entry(currency.into()).or_default();
        total.0 += 1;
        total.1 = total.1.checked_add(amount_minor).ok_or("the sum is beyond what can be counted")?;
        self.rows += 1;
        Ok(FileRow {
            line: self.line,
            our_ref: OurRef::parse(&key).ok().filter(|our_ref| our_ref.parts().is_ok()),
            key,
            carrier_txn_id,
            amount_minor,
            currency: currency.into(),
            msisdn,
            result,
            code: short(code),
            raw: raw.into(),
        })
    }

    /// A row beyond what the file says that it covers: one of the two is wrong.
    fn check_time(&self, text: &str) -> Result<(), String> {
        let local: DateTime = text.parse().map_err(|_| "a time that is none, such as 2026-12-01T08:30:00")?;
        let at = self.rules.zone.to_ambiguous_timestamp(local);
        let (earlier, later) = (at.earlier(), at.later());
        let inside = |at: Result<Timestamp, jiff::Error>| {
            at.is_ok_and(|at| self.covers.is_none_or(|covers| covers.from <= at && at < covers.until))
        };
        if inside(earlier) || inside(later) {
            Ok(())
        } else {
            Err("a time that the file does not cover".to_owned())
        }
    }

    fn read_trailer(&mut self, fields: &[String]) -> Result<(), String> {
        let rules = self.rules;
        let text = |at: usize| fields.get(at).map(|field| field.trim());
        let count: u64 = text(rules.trailer.count)
            .and_then(|text| text.parse().ok())
            .ok_or("a trailer without a count of rows")?;
        let sum = text(rules.trailer.sum)
            .and_then(|text| read_decimal(text, rules.form.decimals(rules.currency)))
            .ok_or("a trailer without a sum")?;
        let (rows, total) = match rules.trailer.currency {
            Some(at) => {
                let currency =
                    text(at).filter(|text| text.len() == 3).ok_or("a trailer without a currency")?;
                if !self.totals.contains_key(currency) && self.totals.len() >= CURRENCIES_MAX {
                    return Err(format!("more than {CURRENCIES_MAX} currencies"));
                }
                let total = self.totals.entry(currency.into()).or_default();
                if std::mem::replace(&mut total.2, true) {
                    return Err(format!("two trailers for {currency}"));
                }
                (total.0, total.1)
            }
            None => {
                if self.totals.len() > 1 {
                    return Err("one trailer for rows of several currencies".to_owned());
                }
                if self.trailers > 1 {
                    return Err("two trailers".to_owned());
                }
                self.totals.values_mut().for_each(|total| total.2 = true);
                self.totals.values().next().map_or((0, 0), |total| (total.0, total.1))
            }
        };
        if count != rows {
            return Err(format!("the trailer counts {count} rows, there are {rows}"));
        }
        if sum != total {
            return Err(format!("the trailer's sum is {sum} minor units, that of the rows {total}"));
        }
        Ok(())
    }

    fn field<'f>(&self, fields: &'f [String], column: &Column, what: &str) -> Result<&'f str, String> {
        let at = match column {
            Column::At(at) => Some(*at),
            Column::Named(name) => {
                let names = self.names.as_ref().ok_or("a row before the columns are named")?;
                names.iter().position(|known| known.trim() == &**name)
            }
        };
        let text = at.and_then(|at| fields.get(at)).map(|text| text.trim()).filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("a row without its {what}"))
    }
}

fn date_of(text: &str) -> Option<Date> {
    Date::strptime("%Y-%m-%d", text).or_else(|_| Date::strptime("%Y%m%d", text)).ok()
}

fn span_of_days(zone: &TimeZone, first: Date, last: Date) -> Option<Covered> {
    span_of(zone, first.at(0, 0, 0, 0), last.tomorrow().ok()?.at(0, 0, 0, 0))
}

/// Where the clock is put back an instant stands twice: then the span is the shorter one.
fn span_of(zone: &TimeZone, from: DateTime, until: DateTime) -> Option<Covered> {
    if !YEARS.contains(&from.year()) || !YEARS.contains(&until.year()) {
        return None;
    }
    let from = zone.to_ambiguous_timestamp(from).later().ok()?;
    let until = zone.to_ambiguous_timestamp(until).earlier().ok()?;
    let span = until.duration_since(from);
    (span > SignedDuration::ZERO && span <= SPAN_MAX).then_some(Covered { from, until })
}

/// A file that was read at once.
pub(crate) fn read_whole(rules: &FileRules, name: &str, bytes: &[u8]) -> FileSummary {
    let mut rows = Vec::new();
    let mut reader = FileReader::new(rules, name);
    reader.feed(bytes, &mut rows);
    reader.end(&mut rows)
}
