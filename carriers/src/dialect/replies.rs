//! Reading an answer: the rules give its class, the echoes must agree with what was asked, and everything else is
//! unknown. Money is never believed on a status alone.

use billing_core::money::Currency;
use billing_core::outcome::{Doubt, Fault, Op, Outcome};
use jiff::Timestamp;

use super::amount::read_decimal;
use super::json::{Found, Places, Slot, Values, nothing};
use super::rules::{Rule, Verdict, first};
use crate::adapter::{Alert, Attempt, Balance, ExchangeKind, Finding, Inquired};

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
    /// Where a balance check's answer names the balance.
    pub(crate) balance: Option<(Slot, AmountForm)>,
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
    /// What a question came to, where the outcome alone does not tell.
    pub(crate) finding: Option<Finding>,
}

impl Reading {
    /// What was learned without an answer.
    pub(crate) fn unanswered(outcome: Outcome, alert: Option<Alert>) -> Self {
        Self { outcome, carrier_code: None, carrier_txn_id: None, alert, finding: None }
    }

    /// The same, as far as the conversation can prove it. The first send's answer stands as it is. A resend's
    /// settles only what the carrier decided: what it refused to process now it may have processed before. A
    /// question that was not answered leaves the attempt unknown.
    pub(crate) fn for_kind(mut self, kind: ExchangeKind) -> Self {
        let doubt = match self.outcome {
            Outcome::Unknown(doubt) => doubt,
            _ => Doubt::NoReply,
        };
        match kind {
            ExchangeKind::Send => {}
            ExchangeKind::Resend => {
                self.outcome = match self.outcome {
                    Outcome::Temporary { why, after_ms, .. } => {
                        Outcome::Temporary { why, listed: false, after_ms }
                    }
                    Outcome::Fault { what, .. } => Outcome::Fault { what, listed: false },
                    Outcome::NotSent(_) | Outcome::NeedsConsent => Outcome::Unknown(Doubt::NoReply),
                    settled => settled,
                };
            }
            ExchangeKind::Inquiry => {
                let inquired = match (self.finding, self.outcome) {
                    (Some(Finding::Inquiry(inquired)), _) => inquired,
                    (_, found) if is_final(found) => Inquired::Found(found),
                    (_, Outcome::Pending) => Inquired::StillWorking,
                    _ => Inquired::NoAnswer,
                };
                self.finding = Some(Finding::Inquiry(inquired));
                if !matches!(inquired, Inquired::Found(_)) {
                    self.outcome = Outcome::Unknown(doubt);
                }
            }
            ExchangeKind::Balance => {
                self.finding = self.finding.or(Some(Finding::Balance(Balance::Unknown)));
                self.outcome = Outcome::Unknown(doubt);
            }
        }
        self
    }
}

fn is_final(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Charged { .. }
            | Outcome::Partial { .. }
            | Outcome::Refunded { .. }
            | Outcome::Reserved
            | Outcome::Released
            | Outcome::Declined(_)
    )
}

impl Replies {
    /// What an answer about `attempt` means; [`Reading::for_kind`] then says how much of it counts.
    pub(crate) fn read(&self, answer: Answer<'_>, attempt: &Attempt) -> Reading {
        // Nobody asked for a compressed body, and none is inflated: no bombs.
        let encoded = answer.headers.get(http::header::CONTENT_ENCODING);
        let plain = encoded.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
        let values = if plain { self.places.read(answer.body).ok() } else { None };
        let rule = first(&self.rules, answer.status, values.as_ref());
        let readable = values.is_some();
        let values = values.unwrap_or_else(nothing);

        let (outcome, alert, finding) = match rule {
            None if readable => (Outcome::Unknown(Doubt::Unlisted), Some(Alert::UnlistedCode), None),
            None => (Outcome::Unknown(Doubt::Unreadable), Some(Alert::UnreadableAnswer), None),
            Some(rule) => match self.judged(rule, answer, &values, attempt) {
                Ok(outcome) => (outcome, alert_of(outcome), self.finding(rule.then, &values, attempt)),
                Err(contradiction) => (Outcome::Unknown(Doubt::Contradictory), Some(contradiction), None),
            },
        };
        let code = rule.and_then(|rule| rule.code).or(self.carrier_code);
        let carrier_code = match outcome {
            settled if is_final(settled) && !matches!(settled, Outcome::Declined(_)) => None,
            _ => code
                .and_then(|slot| shortened(values.get(slot)))
                .or_else(|| Some(itoa::Buffer::new().format(answer.status).into())),
        };
        let carrier_txn_id = self.carrier_txn_id.and_then(|slot| shortened(values.get(slot)));
        Reading { outcome, carrier_code, carrier_txn_id, alert, finding }
    }

    fn finding(&self, then: Verdict, values: &Values<'_>, attempt: &Attempt) -> Option<Finding> {
        match then {
            Verdict::NotFound => Some(Finding::Inquiry(Inquired::NotFound)),
            Verdict::StillWorking => Some(Finding::Inquiry(Inquired::StillWorking)),
            Verdict::Enough => Some(Finding::Balance(Balance::Enough)),
            Verdict::TooLow => Some(Finding::Balance(Balance::TooLow)),
            Verdict::Amount => {
                let (slot, form) = self.balance?;
                let text = values.get(slot).as_text()?;
                let minor = read_decimal(text, form.exponent(attempt))?;
                Some(Finding::Balance(Balance::Amount(minor)))
            }
            _ => None,
        }
    }

    /// The rule's verdict, held against what the answer repeats.
    fn judged(
        &self,
        rule: &Rule,
        answer: Answer<'_>,
        values: &Values<'_>,
        attempt: &Attempt,
    ) -> Result<Outcome, Alert> {
        self.check_key(values, attempt, rule.then.is_success())?;
        Ok(match rule.then {
            then if then.is_success() => return self.done(then, values, attempt),
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
            Verdict::NotFound | Verdict::StillWorking => Outcome::Unknown(Doubt::NoReply),
            Verdict::Enough | Verdict::TooLow | Verdict::Amount => {
                self.check_line(values, attempt)?;
                Outcome::Unknown(Doubt::NoReply)
            }
            _ => Outcome::Unknown(Doubt::Unlisted),
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

    /// What is named must be the line and the currency that were asked about.
    fn check_line(&self, values: &Values<'_>, attempt: &Attempt) -> Result<(), Alert> {
        let echo = &self.echo;
        let text = |slot: Slot| values.get(slot).as_text();
        if echo.currency.is_some_and(|slot| text(slot) != Some(attempt.amount.currency.code())) {
            return Err(Alert::WrongCurrency);
        }
        if echo.msisdn.is_some_and(|slot| text(slot).map(digits_of) != Some(attempt.msisdn.digits())) {
            return Err(Alert::WrongSubscriber);
        }
        Ok(())
    }

    /// The request did what it was for, if the answer speaks about this very request.
    fn done(&self, then: Verdict, values: &Values<'_>, attempt: &Attempt) -> Result<Outcome, Alert> {
        if !fits(then, attempt.op) {
            return Err(Alert::WrongOperation);
        }
        self.check_line(values, attempt)?;
        let asked = attempt.amount.minor;
        let told = match self.echo.amount {
            // What gives a reservation back moves no money.
            _ if then == Verdict::Released => return Ok(Outcome::Released),
            None => asked,
            Some((slot, form)) => values
                .get(slot)
                .as_text()
                .and_then(|text| read_decimal(text, form.exponent(attempt)))
                .ok_or(Alert::WrongAmount)?,
        };
        let part_of_it = self.partial && (1..asked).contains(&told);
        match then {
            Verdict::Charged if told == asked => Ok(Outcome::Charged { amount_minor: told }),
            Verdict::Refunded if told == asked => Ok(Outcome::Refunded { amount_minor: told }),
            Verdict::Reserved if told == asked => Ok(Outcome::Reserved),
            Verdict::Charged | Verdict::Partial if part_of_it => Ok(Outcome::Partial { amount_minor: told }),
            _ => Err(Alert::WrongAmount),
        }
    }
}

impl AmountForm {
    fn exponent(self, attempt: &Attempt) -> u32 {
        self.decimals(attempt.amount.currency)
    }

    /// Decimals behind the point of a currency's amounts in this form.
    pub(crate) fn decimals(self, currency: Currency) -> u32 {
        match self {
            Self::Decimal => currency.exponent(),
            Self::Minor => 0,
        }
    }
}

/// The digits of a line as carriers write it.
pub(crate) fn digits_of(text: &str) -> &str {
    text.trim_start_matches("tel:").trim_start_matches('+')
}

/// Success of this kind is what this operation is for.
pub(crate) fn fits(then: Verdict, op: Op) -> bool {
    match op {
        Op::Charge | Op::Confirm => matches!(then, Verdict::Charged | Verdict::Partial),
        Op::Reserve => then == Verdict::Reserved,
        Op::Cancel => then == Verdict::Released,
        Op::Refund => then == Verdict::Refunded,
        Op::Adopt => false,
    }
}

fn alert_of(outcome: Outcome) -> Option<Alert> {
    match outcome {
        Outcome::Fault { what: Fault::BadCredential, .. } => Some(Alert::BadCredential),
        _ => None,
    }
}

/// At most 64 characters of a carrier's word, printable.
pub(crate) fn shortened(found: &Found<'_>) -> Option<Box<str>> {
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
