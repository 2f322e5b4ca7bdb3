//! Reading an answer: the rules give its class, the echoes must agree with what was asked, and everything else is
//! unknown. Money is never believed on a status alone.

use billing_core::outcome::{Doubt, Fault, Outcome};
use jiff::Timestamp;

use super::amount::read_decimal;
use super::json::{Found, Places, Slot, Values, nothing};
use super::rules::{Rule, Verdict, first};
use crate::adapter::{Alert, Attempt};

/// Characters kept of a carrier's code or id.
const TEXT_CHARS_MAX: usize = 64;
/// The longest wait that a carrier may ask for.
const AFTER_MS_MAX: i64 = 3_600_000;

/// How one operation's answers are read.
#[derive(Debug)]
pub(crate) struct Replies {
    pub(crate) places: Places,
    pub(crate) rules: Vec<Rule>,
    pub(crate) carrier_txn_id: Option<Slot>,
    pub(crate) carrier_code: Option<Slot>,
    pub(crate) echo: Echo,
    /// Statuses with which a `temporary` answer proves that nothing was processed.
    pub(crate) not_processed: Vec<u16>,
    /// Statuses with which a `fault` answer proves that nothing was processed.
    pub(crate) pre_processing: Vec<u16>,
    /// The carrier may collect less than asked.
    pub(crate) partial: bool,
}

/// Where the carrier repeats what was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Echo {
    pub(crate) our_ref: Option<Slot>,
    pub(crate) amount: Option<(Slot, AmountForm)>,
    pub(crate) currency: Option<Slot>,
    pub(crate) msisdn: Option<Slot>,
}

/// How the carrier writes amounts in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AmountForm {
    Decimal,
    Minor,
}

/// A complete answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) headers: &'a http::HeaderMap,
    pub(crate) body: &'a [u8],
    pub(crate) at: Timestamp,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) outcome: Outcome,
    pub(crate) carrier_code: Option<Box<str>>,
    pub(crate) carrier_txn_id: Option<Box<str>>,
    pub(crate) alert: Option<Alert>,
}

impl Replies {
    /// What an answer to the first send of `attempt` means.
    pub(crate) fn read(&self, answer: Answer<'_>, attempt: &Attempt) -> Reading {
        // Nobody asked for a compressed body, and none is inflated: no bombs.
        let encoded = answer.headers.get(http::header::CONTENT_ENCODING);
        let plain = encoded.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
        let values = if plain { self.places.read(answer.body).ok() } else { None };
        let rule = first(&self.rules, answer.status, values.as_ref());
        let readable = values.is_some();
        let values = values.unwrap_or_else(nothing);

        let (outcome, alert) = match rule {
            None if readable => (Outcome::Unknown(Doubt::Unlisted), Some(Alert::UnlistedCode)),
            None => (Outcome::Unknown(Doubt::Unreadable), Some(Alert::UnreadableAnswer)),
            Some(rule) => match self.judged(rule, answer, &values, attempt) {
                Ok(outcome) => (outcome, alert_of(outcome)),
                Err(contradiction) => (Outcome::Unknown(Doubt::Contradictory), Some(contradiction)),
            },
        };
        let code = rule.and_then(|rule| rule.code).or(self.carrier_code);
        let carrier_code = match outcome {
            Outcome::Charged { .. } | Outcome::Partial { .. } => None,
            _ => code
                .and_then(|slot| shortened(values.get(slot)))
                .or_else(|| Some(itoa::Buffer::new().format(answer.status).into())),
        };
        let carrier_txn_id = self.carrier_txn_id.and_then(|slot| shortened(values.get(slot)));
        Reading { outcome, carrier_code, carrier_txn_id, alert }
    }

    /// The rule's verdict, held against what the answer repeats.
    fn judged(
        &self,
        rule: &Rule,
        answer: Answer<'_>,
        values: &Values<'_>,
        attempt: &Attempt,
    ) -> Result<Outcome, Alert> {
        let moved = matches!(rule.then, Verdict::Charged | Verdict::Partial);
        self.check_key(values, attempt, moved)?;
        Ok(match rule.then {
            Verdict::Charged | Verdict::Partial => return self.collected(rule.then, values, attempt),
            Verdict::Pending => Outcome::Pending,
            Verdict::Duplicate => Outcome::Duplicate,
            Verdict::NeedsConsent => Outcome::NeedsConsent,
            Verdict::Declined(refusal) => Outcome::Declined(refusal),
            Verdict::Temporary(why) => Outcome::Temporary {
                why,
                listed: rule.listed || self.not_processed.contains(&answer.status),
                after_ms: rule.after.as_ref().and_then(|header| after_ms(answer, header)),
            },
            Verdict::Fault(what) => {
                Outcome::Fault { what, listed: rule.listed || self.pre_processing.contains(&answer.status) }
            }
            Verdict::Unknown => Outcome::Unknown(Doubt::Unlisted),
        })
    }

    /// An answer about another key belongs to another attempt, whatever it says. Only answers that claim money
    /// must repeat the key: refusals often name none.
    fn check_key(&self, values: &Values<'_>, attempt: &Attempt, must_be_there: bool) -> Result<(), Alert> {
        let Some(slot) = self.echo.our_ref else { return Ok(()) };
        let found = values.get(slot);
        let equal = found.as_text().is_some_and(|text| text.as_bytes() == attempt.our_ref.base32());
        if equal || (!must_be_there && !found.is_present()) { Ok(()) } else { Err(Alert::WrongKey) }
    }

    fn collected(&self, then: Verdict, values: &Values<'_>, attempt: &Attempt) -> Result<Outcome, Alert> {
        let echo = &self.echo;
        let text = |slot: Slot| values.get(slot).as_text();
        if echo.currency.is_some_and(|slot| text(slot) != Some(attempt.amount.currency.code())) {
            return Err(Alert::WrongCurrency);
        }
        let digits =
            |slot: Slot| text(slot).map(|text| text.trim_start_matches("tel:").trim_start_matches('+'));
        if echo.msisdn.is_some_and(|slot| digits(slot) != Some(attempt.msisdn.digits())) {
            return Err(Alert::WrongSubscriber);
        }
        let asked = attempt.amount.minor;
        let told = match echo.amount {
            None => asked,
            Some((slot, form)) => {
                let exponent = match form {
                    AmountForm::Decimal => attempt.amount.currency.exponent(),
                    AmountForm::Minor => 0,
                };
                text(slot).and_then(|text| read_decimal(text, exponent)).ok_or(Alert::WrongAmount)?
            }
        };
        let part_of_it = self.partial && (1..asked).contains(&told);
        match then {
            Verdict::Charged if told == asked => Ok(Outcome::Charged { amount_minor: told }),
            _ if part_of_it => Ok(Outcome::Partial { amount_minor: told }),
            _ => Err(Alert::WrongAmount),
        }
    }
}

fn alert_of(outcome: Outcome) -> Option<Alert> {
    match outcome {
        Outcome::Fault { what: Fault::BadCredential, .. } => Some(Alert::BadCredential),
        _ => None,
    }
}

/// At most 64 characters of a carrier's word, printable.
fn shortened(found: &Found<'_>) -> Option<Box<str>> {
    let text = found.as_text()?;
    if text.len() <= TEXT_CHARS_MAX && !text.chars().any(char::is_control) {
        return (!text.is_empty()).then(|| text.into());
    }
    let kept: String = text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect();
    (!kept.is_empty()).then(|| kept.into())
}

/// Seconds or an HTTP date, as milliseconds from the answer on; at most an hour.
fn after_ms(answer: Answer<'_>, header: &http::HeaderName) -> Option<u32> {
    let text = answer.headers.get(header)?.to_str().ok()?.trim();
    let ms = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse::<i64>().map_or(AFTER_MS_MAX, |seconds| seconds.saturating_mul(1_000))
    } else {
        let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        date.as_millisecond().saturating_sub(answer.at.as_millisecond())
    };
    u32::try_from(ms.clamp(0, AFTER_MS_MAX)).ok()
}
