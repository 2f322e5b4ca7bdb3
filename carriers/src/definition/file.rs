//! Reads `[file]`: the dialect of a carrier's reconciliation files.

use billing_core::book::reader::{Problems, Spanned, Table};
use billing_core::book::values::excerpt;
use billing_core::money::Currency;
use billing_core::outcome::{Doubt, Outcome};
use billing_core::zone::Zone;
use jiff::tz::TimeZone;

use super::proof::amount_is_minor;
use crate::dialect::replies::AmountForm;
use crate::dialect::rules::{Subject, Verdict};
use crate::file::{Column, Covers, FileExample, FileRules, Marks, MsisdnForm, Trailer, read_whole};
use crate::msisdn::MsisdnRule;

/// Fields of a line at most.
const COLUMNS_MAX: i64 = 200;
const STATUSES_MAX: usize = 200;
const EXAMPLES_MAX: usize = 20;
const MARK_CHARS_MAX: usize = 32;

/// What stands around the table.
#[derive(Clone, Copy)]
pub(super) struct AroundFile<'a> {
    pub(super) currency: Currency,
    pub(super) zones: &'a [Zone],
    pub(super) msisdn: &'a MsisdnRule,
}

pub(super) fn read_file_table(
    mut table: Table<'_>,
    around: AroundFile<'_>,
    problems: &mut Problems,
) -> Option<FileRules> {
    let before = problems.len();
    let delimiters = [(",", b','), (";", b';'), ("|", b'|'), ("\t", b'\t')];
    let delimiter = table.opt_one_of("delimiter", &delimiters, problems);
    let encoding = table.opt_one_of("encoding", &[("utf-8", false), ("latin-1", true)], problems);
    let zone = read_zone(&mut table, around, problems);
    let marks = table.table("rows", problems).and_then(|rows| read_marks(rows, problems));
    let named = marks.as_ref().is_some_and(|marks| marks.names.is_some());
    let has_header = marks.as_ref().is_none_or(|marks| marks.header.is_some());
    let covers = table.table("covers", problems).and_then(|covers| read_covers(covers, has_header, problems));
    let columns = table.table("columns", problems).and_then(|columns| read_columns(columns, named, problems));
    let statuses = read_statuses(&mut table, problems);
    let trailer = table.table("trailer", problems).and_then(|trailer| read_trailer(trailer, problems));
    let examples = read_example_tables(&mut table, problems);
    let place = table.place();
    let source = table.source();
    table.finish(problems);
    let columns = columns?;
    let rules = FileRules {
        delimiter: delimiter.map_or(b',', |delimiter| delimiter.value),
        latin1: encoding.is_some_and(|encoding| encoding.value),
        zone: zone?,
        marks: marks?,
        covers: covers?,
        our_ref: columns.our_ref,
        carrier_txn_id: columns.carrier_txn_id,
        amount: columns.amount,
        form: columns.form,
        currency_at: columns.currency_at,
        msisdn_at: columns.msisdn_at,
        status_at: columns.status_at,
        time_at: columns.time_at,
        statuses,
        trailer: trailer?,
        currency: around.currency,
        msisdn: around.msisdn.clone(),
    };
    if problems.len() > before {
        return None;
    }
    if !examples.iter().any(|(example, _)| example.complete) {
        let help = "add [[file.example]] with the text of a small one, its rows, complete = true";
        problems.push(source.problem(place, "no example of a complete file", help));
    }
    for (example, place) in &examples {
        let read = read_whole(&rules, &example.name, example.text.as_bytes());
        let what = match (&read.flaw, example.complete) {
            (Some(flaw), true) => format!("an example that should be complete is not: {flaw}"),
            (None, false) => "an example that should not be complete is".to_owned(),
            _ if read.rows != example.rows => {
                format!("an example should have {} rows, {} were read", example.rows, read.rows)
            }
            _ => continue,
        };
        problems.push(source.problem(*place, what, "correct the example, or what [file] says"));
    }
    Some(rules)
}

fn read_zone(table: &mut Table<'_>, around: AroundFile<'_>, problems: &mut Problems) -> Option<TimeZone> {
    let name = match table.opt_str("zone", problems) {
        Some(name) => {
            if let Err(error) = Zone::named(&name) {
                table.problem_at(name.place, error.to_string(), "an IANA name", problems);
                return None;
            }
            name.value
        }
        None => around.zones.first()?.name().to_owned(),
    };
    let zone = TimeZone::get(&name);
    if let Err(error) = &zone {
        table.problem("zone", error.to_string(), "an IANA name", problems);
    }
    zone.ok()
}

fn read_marks(mut rows: Table<'_>, problems: &mut Problems) -> Option<Marks> {
    let before = problems.len();
    let header = rows.opt_str("header", problems);
    let names = rows.opt_str("names", problems);
    let detail = rows.str("detail", problems);
    let trailer = rows.str("trailer", problems);
    let given = [&header, &names, &detail, &trailer];
    let given: Vec<&Spanned<String>> = given.into_iter().flatten().collect();
    for (at, mark) in given.iter().enumerate() {
        let fine =
            (1..=MARK_CHARS_MAX).contains(&mark.chars().count()) && !mark.chars().any(char::is_control);
        if !fine || given.iter().take(at).any(|other| other.value == mark.value) {
            let help = "1 to 32 characters, each mark another: what stands first in a line says what it is";
            rows.problem_at(mark.place, format!("mark \"{}\"", excerpt(mark)), help, problems);
        }
    }
    rows.finish(problems);
    let boxed = |mark: Option<Spanned<String>>| mark.map(|mark| mark.value.into());
    (problems.len() == before).then_some(Marks {
        header: boxed(header),
        names: boxed(names),
        detail: detail?.value.into(),
        trailer: trailer?.value.into(),
    })
}

fn read_covers(mut covers: Table<'_>, has_header: bool, problems: &mut Problems) -> Option<Covers> {
    let name = covers.opt_str("name", problems);
    let from = covers.opt_int("from", 2..=COLUMNS_MAX, problems);
    let until = covers.opt_int("until", 2..=COLUMNS_MAX, problems);
    let forms = [("date", true), ("local", false)];
    let form = covers.opt_one_of("as", &forms, problems);
    let read = match (name, from) {
        (Some(name), None) if until.is_none() && form.is_none() => read_name(&covers, &name, problems),
        (None, Some(from)) => {
            let dates = form.is_none_or(|form| form.value);
            if !has_header {
                let help = "add rows.header, or take the day from the file's name: covers.name";
                covers.problem("from", "a column of a header that the file does not have", help, problems);
            }
            if !dates && until.is_none() {
                let help = "with as = \"local\" the header has to say where the span ends, too";
                covers.problem("from", "`covers.until` is missing", help, problems);
            }
            Some(Covers::Header {
                from: column_of(from.value),
                until: until.map(|until| column_of(until.value)),
                dates,
            })
        }
        _ => {
            let help = "either `name`, such as \"charges_%Y%m%d.csv\", or `from` (and `until`), columns of the header";
            covers.problem_at(
                covers.place(),
                "nothing says which time a file covers, or two things do",
                help,
                problems,
            );
            None
        }
    };
    covers.finish(problems);
    read
}

/// A pattern of file names: what stands around one day.
fn read_name(covers: &Table<'_>, name: &Spanned<String>, problems: &mut Problems) -> Option<Covers> {
    let parts = name.split_once("%Y%m%d").map(|parts| (parts, "%Y%m%d"));
    let parts = parts.or_else(|| name.split_once("%Y-%m-%d").map(|parts| (parts, "%Y-%m-%d")));
    let fine = |(before, after): (&str, &str)| ![before, after].iter().any(|part| part.contains(['%', '/']));
    match parts.filter(|(parts, _)| fine(*parts)) {
        Some(((before, after), day)) => {
            Some(Covers::Name { before: before.into(), after: after.into(), day })
        }
        None => {
            let help = "a name with %Y%m%d or %Y-%m-%d once, such as \"charges_%Y%m%d.csv\"";
            covers.problem_at(name.place, format!("name \"{}\"", excerpt(name)), help, problems);
            None
        }
    }
}

fn column_of(number: i64) -> usize {
    usize::try_from(number - 1).unwrap_or(0)
}

struct Columns {
    our_ref: Column,
    carrier_txn_id: Option<Column>,
    amount: Column,
    form: AmountForm,
    currency_at: Column,
    msisdn_at: Option<(Column, MsisdnForm)>,
    status_at: Column,
    time_at: Option<Column>,
}

fn read_columns(mut columns: Table<'_>, named: bool, problems: &mut Problems) -> Option<Columns> {
    let mut column = |key: &str, needed: bool| -> Option<Column> {
        if named {
            let name = if needed { columns.str(key, problems) } else { columns.opt_str(key, problems) }?;
            if name.is_empty() {
                columns.problem_at(name.place, "a column without a name", "as the file names it", problems);
            }
            return Some(Column::Named(name.value.into()));
        }
        // The first is the mark.
        let range = 2..=COLUMNS_MAX;
        let number =
            if needed { columns.int(key, range, problems) } else { columns.opt_int(key, range, problems) };
        number.map(|number| Column::At(column_of(number.value)))
    };
    let our_ref = column("our_ref", true);
    let carrier_txn_id = column("carrier_txn_id", false);
    let amount = column("amount", true);
    let currency_at = column("currency", true);
    let msisdn = column("msisdn", false);
    let status_at = column("status", true);
    let time_at = column("at", false);
    let form = if amount_is_minor(&mut columns, problems) { AmountForm::Minor } else { AmountForm::Decimal };
    let forms = [("e164", MsisdnForm::E164), ("plus", MsisdnForm::Plus), ("national", MsisdnForm::National)];
    let msisdn_form = columns.opt_one_of("msisdn_as", &forms, problems);
    columns.finish(problems);
    Some(Columns {
        our_ref: our_ref?,
        carrier_txn_id,
        amount: amount?,
        form,
        currency_at: currency_at?,
        msisdn_at: msisdn.map(|column| (column, msisdn_form.map_or(MsisdnForm::E164, |form| form.value))),
        status_at: status_at?,
        time_at,
    })
}

fn read_statuses(table: &mut Table<'_>, problems: &mut Problems) -> Vec<(Box<str>, Outcome)> {
    let words: Vec<(&str, Verdict)> = Subject::Callback { signed: true }.words();
    let words: Vec<(&str, Verdict)> =
        words.into_iter().filter(|(_, verdict)| !matches!(verdict, Verdict::Pending)).collect();
    let mut statuses: Vec<(Box<str>, Outcome)> = Vec::new();
    let given = table.tables("status", STATUSES_MAX, problems);
    if given.is_empty() {
        let help = "a table of { is = \"what the carrier writes\", then = \"charged\" }";
        table.problem("status", "no status means anything", help, problems);
    }
    for mut one in given {
        let is = one.str("is", problems);
        let then = one.one_of("then", &words, problems);
        if let (Some(is), Some(then)) = (is, then) {
            if statuses.iter().any(|(known, _)| **known == *is.value) {
                one.problem_at(is.place, format!("\"{}\" stands twice", excerpt(&is)), "keep one", problems);
            }
            statuses.push((is.value.into(), outcome_of(then.value)));
        }
        one.finish(problems);
    }
    statuses
}

/// Amounts are those of the row.
fn outcome_of(then: Verdict) -> Outcome {
    match then {
        Verdict::Charged => Outcome::Charged { amount_minor: 0 },
        Verdict::Partial => Outcome::Partial { amount_minor: 0 },
        Verdict::Refunded => Outcome::Refunded { amount_minor: 0 },
        Verdict::Reserved => Outcome::Reserved,
        Verdict::Released => Outcome::Released,
        Verdict::Declined(refusal) => Outcome::Declined(refusal),
        _ => Outcome::Unknown(Doubt::Unlisted),
    }
}

fn read_trailer(mut trailer: Table<'_>, problems: &mut Problems) -> Option<Trailer> {
    let count = trailer.int("count", 2..=COLUMNS_MAX, problems);
    let sum = trailer.int("sum", 2..=COLUMNS_MAX, problems);
    let currency = trailer.opt_int("currency", 2..=COLUMNS_MAX, problems);
    trailer.finish(problems);
    Some(Trailer {
        count: column_of(count?.value),
        sum: column_of(sum?.value),
        currency: currency.map(|currency| column_of(currency.value)),
    })
}

fn read_example_tables(
    table: &mut Table<'_>,
    problems: &mut Problems,
) -> Vec<(FileExample, billing_core::book::reader::Place)> {
    let mut examples = Vec::new();
    for mut one in table.tables("example", EXAMPLES_MAX, problems) {
        let text = one.str("text", problems);
        let rows = one.int("rows", 0..=1_000_000, problems);
        let complete = one.bool("complete", problems);
        let name = one.opt_str("name", problems).map_or_else(String::new, |name| name.value);
        let place = one.place();
        one.finish(problems);
        if let (Some(text), Some(rows), Some(complete)) = (text, rows, complete) {
            let rows = u64::try_from(rows.value).unwrap_or(0);
            examples.push((FileExample { name, text: text.value, rows, complete: complete.value }, place));
        }
    }
    examples
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
