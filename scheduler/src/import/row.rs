//! What can be said of a line by itself. The reasons never repeat what the line says, so they may be shown anywhere.

use billing_core::ids::{RefSeed, Shard};
use carriers::Msisdn;
use jiff::Timestamp;
use jiff::civil::Date;

use super::lines::{LINE_BYTES_MAX, Line, split};
use super::{Importer, PlanEntry};

/// The most characters that a merchant's reference may have.
pub const REFERENCE_CHARS_MAX: usize = 64;
/// How far from today the first period may start, either way.
pub const START_DAYS_MAX: i32 = 400;

const REQUIRED: [&str; 3] = ["msisdn", "plan", "reference"];
const OPTIONAL: [&str; 3] = ["zone", "start", "consent_until"];
/// In front of every line of a reject file, so that a mended one can be imported as it is.
pub(super) const REJECT_COLUMNS: [&str; 2] = ["line", "reason"];

/// Which column is what.
pub(super) struct Columns {
    /// The names in the file's sequence, a reject file's own left out.
    pub(super) names: Vec<String>,
    /// How many columns of a reject file stand in front.
    pub(super) skipped: usize,
    places: [Option<usize>; 6],
}

/// A line that is good by itself.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) plan_no: i32,
    pub(super) carrier_no: i32,
    pub(super) merchant_no: i32,
    pub(super) shard: Shard,
    pub(super) msisdn: Msisdn,
    pub(super) hmac: [u8; 32],
    pub(super) ref_seed: i64,
    pub(super) digest: [u8; 32],
    /// What the line says; `None`: the subscriber's, else the carrier's first.
    pub(super) zone_no: Option<i16>,
    pub(super) default_zone_no: i16,
    /// What the line says; `None`: today in the zone.
    pub(super) start: Option<Date>,
    /// The start, when it is before today.
    pub(super) past_start: Option<Date>,
    /// From when on nobody agrees any more, where the line says so.
    pub(super) consent_until: Option<Until>,
}

/// The end of consent, as a line says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// When this date begins in the subscriber's zone.
    Date(Date),
    /// At an instant.
    Instant(Timestamp),
}

impl Columns {
    /// Reads the first line.
    pub(super) fn read(line: Option<&Line>, text: &[u8]) -> Result<Self, String> {
        let line = line.ok_or("the file is empty")?;
        let text = text.get(line.text.clone()).unwrap_or_default();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        if line.too_long {
            return Err(format!("it is longer than {LINE_BYTES_MAX} bytes"));
        }
        let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
        let mut names = split(text)?;
        let skipped =
            if names.starts_with(&REJECT_COLUMNS.map(Into::into)) { REJECT_COLUMNS.len() } else { 0 };
        names.drain(..skipped);
        let mut places = [None; 6];
        let expected = "msisdn, plan and reference are required, zone, start and consent_until may follow, divided by commas";
        for (at, name) in names.iter().enumerate() {
            let known = REQUIRED.iter().chain(&OPTIONAL).position(|known| known == name);
            // A file without names begins with somebody's number: it is not to be shown.
            let place = known.and_then(|known| places.get_mut(known));
            let place = place.ok_or_else(|| format!("column {} has no known name: {expected}", at + 1))?;
            if place.replace(at).is_some() {
                return Err(format!("column {} has a name that came before", at + 1));
            }
        }
        if let Some((name, _)) = REQUIRED.iter().zip(&places).find(|(_, place)| place.is_none()) {
            return Err(format!("column {name} is missing: {expected}"));
        }
        Ok(Self { names: names.iter().map(ToString::to_string).collect(), skipped, places })
    }

    /// Whether a column, counted without a reject file's own, holds the MSISDN.
    pub(super) fn is_msisdn(&self, at: usize) -> bool {
        self.places[0] == Some(at)
    }
}

impl Importer<'_> {
    /// Checks a line by itself.
    pub(super) fn check_line(&self, columns: &Columns, line: &Line, text: &[u8]) -> Result<Row, String> {
        if line.too_long {
            return Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
        }
        let text = std::str::from_utf8(text.get(line.text.clone()).unwrap_or_default());
        let text = text.map_err(|_| "the line is not UTF-8")?;
        if text.chars().any(char::is_control) {
            return Err("the line holds a control character".to_owned());
        }
        let fields = split(text)?;
        let width = columns.names.len() + columns.skipped;
        if fields.len() != width {
            return Err(format!("the line has {} columns, the header has {width}", fields.len()));
        }
        let field = |which: usize| {
            let place = columns.places.get(which).copied().flatten()?;
            fields.get(place + columns.skipped).map(AsRef::<str>::as_ref)
        };
        let [msisdn, plan, reference] = [0, 1, 2].map(|which| field(which).unwrap_or_default());
        let [zone, start, consent] = [3, 4, 5].map(|which| field(which).filter(|text| !text.is_empty()));

        let entry = self.plans.get(plan).ok_or_else(|| self.no_plan(plan))?;
        let msisdn = entry.msisdn.check(msisdn).map_err(|error| error.to_string())?;
        check_reference(reference)?;
        let default_zone_no = entry.zones.first().map_or(0, |(_, number)| *number);
        let zone_no = zone.map(|name| zone_number(entry, name)).transpose()?;
        let today = self.days.get(&zone_no.unwrap_or(default_zone_no)).map(|day| day.today);
        let today = today.ok_or("the zone is not in the book")?;
        let start = start.map(|text| check_start(entry, text, today)).transpose()?;

        let consent_until = consent.map(check_consent).transpose()?;

        let hmac = self.vault.msisdn_hmac(msisdn.digits());
        let slice = u32::from_be_bytes([hmac[0], hmac[1], hmac[2], hmac[3]]) % entry.slices;
        let (RefSeed(ref_seed), digest) = RefSeed::derive(&entry.plan.rules.merchant, reference, 0);
        Ok(Row {
            plan_no: entry.plan.plan_no,
            carrier_no: entry.plan.carrier_no,
            merchant_no: entry.merchant_no,
            shard: Shard::new(entry.plan.carrier_no, slice).map_err(|error| error.to_string())?,
            msisdn,
            hmac,
            ref_seed,
            digest,
            zone_no,
            default_zone_no,
            start,
            past_start: start.filter(|start| *start < today),
            consent_until,
        })
    }

    fn no_plan(&self, name: &str) -> String {
        match billing_core::book::values::nearest(name, self.plans.keys().copied()) {
            Some(near) => format!("the book has no such plan, {near} comes near"),
            None => "the book has no such plan".to_owned(),
        }
    }
}

fn zone_number(entry: &PlanEntry<'_>, name: &str) -> Result<i16, String> {
    let found = entry.zones.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number).ok_or_else(|| {
        let known: Vec<&str> = entry.zones.iter().map(|(known, _)| *known).collect();
        format!("the zone is none of the carrier's: {}", known.join(", "))
    })
}

fn read_date(text: &str) -> Option<Date> {
    let form = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    form.then(|| text.parse::<Date>().ok()).flatten()
}

fn check_consent(text: &str) -> Result<Until, String> {
    let instant = || text.parse::<Timestamp>().ok().map(Until::Instant);
    let until = read_date(text).map(Until::Date).or_else(instant);
    Ok(until.ok_or("consent_until is neither a date of the form 2026-11-21 nor an instant of the form 2026-11-21T09:30:00Z")?)
}

fn check_start(entry: &PlanEntry<'_>, text: &str, today: Date) -> Result<Date, String> {
    let date = read_date(text).ok_or("start is not a date of the form 2026-11-21")?;
    let days = jiff::Span::new().days(START_DAYS_MAX);
    if date < today.saturating_sub(days) || date > today.saturating_add(days) {
        return Err(format!("start is more than {START_DAYS_MAX} days from {today}, today in the zone"));
    }
    let schedule = &entry.plan.rules.schedule;
    let anchor = schedule.anchor_date(date).map_err(|error| error.to_string())?;
    match schedule.has_period_from(anchor, anchor) {
        true => Ok(date),
        false => Err(format!("the plan has no period from {anchor} on")),
    }
}

fn check_reference(text: &str) -> Result<(), String> {
    if !(1..=REFERENCE_CHARS_MAX).contains(&text.chars().take(REFERENCE_CHARS_MAX + 1).count()) {
        return Err(format!("a reference has 1 to {REFERENCE_CHARS_MAX} characters"));
    }
    if text.chars().any(invisible) || text.trim() != text {
        return Err("a reference has printable characters only, and no space at its ends".to_owned());
    }
    if looks_like_card(text) {
        return Err(
            "the reference could be the number of a payment card: 13 to 19 digits with a valid check digit"
                .to_owned(),
        );
    }
    Ok(())
}

/// Characters that nobody sees, or that change how others are shown.
fn invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// 13 to 19 digits, perhaps divided by spaces or dashes, with a valid check digit (Luhn).
pub(super) fn looks_like_card(text: &str) -> bool {
    let mut digits = 0_u32;
    let mut sum = 0;
    for byte in text.bytes().rev() {
        let digit = match byte {
            b'0'..=b'9' => u32::from(byte - b'0'),
            b' ' | b'-' => continue,
            _ => return false,
        };
        let doubled = digit << (digits % 2);
        sum += if doubled > 9 { doubled - 9 } else { doubled };
        digits += 1;
    }
    (13..=19).contains(&digits) && sum % 10 == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn card_numbers_are_told_from_others() {
        for card in ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"] {
            assert!(looks_like_card(card), "{card}");
        }
        for other in ["4111111111111112", "R4111111111111111", "411111111111", "", "00000000000000000000"] {
            assert!(!looks_like_card(other), "{other}");
        }
    }

    #[test]
    fn the_end_of_consent_is_a_date_or_an_instant() {
        assert_eq!(check_consent("2026-12-31"), Ok(Until::Date(jiff::civil::date(2026, 12, 31))));
        assert_eq!(
            check_consent("2026-12-31T10:00:00+01:00"),
            Ok(Until::Instant("2026-12-31T09:00:00Z".parse().unwrap()))
        );
        for bad in ["2026-02-30", "31.12.2026", "2026-12-31T10:00", "never", "2026-1-1"] {
            assert!(check_consent(bad).unwrap_err().starts_with("consent_until is neither a date"), "{bad}");
        }
    }

    #[test]
    fn references_are_printable() {
        let longest = "é".repeat(REFERENCE_CHARS_MAX);
        for good in ["a", "nr 7", "名前/7", "=1+1", &longest] {
            assert!(check_reference(good).is_ok(), "{good}");
        }
        let too_long = "é".repeat(REFERENCE_CHARS_MAX + 1);
        for bad in
            ["", " a", "a ", "a\u{a0}b", "a\u{200b}b", "a\u{202e}b", "a\u{85}", &too_long, "4111111111111111"]
        {
            assert!(check_reference(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_header_names_every_column_once() {
        let read = |text: &str| {
            let mut bytes = Vec::new();
            let line = super::super::lines::Lines::new(text.as_bytes()).next_into(&mut bytes).unwrap();
            Columns::read(line.as_ref(), &bytes)
        };
        for good in [
            "msisdn,plan,reference",
            "\u{feff}reference,start,zone,plan,msisdn\r\n",
            "\"msisdn\",plan,reference\n",
            "line,reason,msisdn,plan,reference",
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "empty"),
            ("\n", "column 1"),
            ("msisdn,plan", "reference is missing"),
            ("msisdn,plan,reference,age", "column 4"),
            ("msisdn,plan,reference,plan", "came before"),
            ("msisdn;plan;reference", "column 1"),
            ("msisdn,plan,reference,line,reason", "column 4"),
            ("34600000001,alfa-news-daily,r1", "column 1"),
            ("msisdn,\"plan,reference", "not closed"),
        ] {
            let text = read(bad).err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert!(text.contains(why) && !text.contains("34600000001"), "{bad}: {text}");
        }
    }
}
