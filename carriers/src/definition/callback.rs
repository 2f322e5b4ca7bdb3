//! Reads `[callback]`: how a carrier's own messages are known, read and answered.

use billing_core::book::reader::{Problems, Table};
use billing_core::ids::OurRef;
use billing_core::money::Currency;
use billing_core::outcome::{Doubt, Outcome};
use http::HeaderName;
use zeroize::Zeroizing;

use super::operation::{Around, opt_pointer, read_condition, read_rules};
use super::proof::amount_is_minor;
use crate::callback::{Acknowledgement, Callback, CallbackError};
use crate::dialect::amount::read_decimal;
use crate::dialect::json::{Places, Slot, Values};
use crate::dialect::replies::{AmountForm, Echo, digits_of, shortened};
use crate::dialect::rules::{Condition, Rule, Subject, Verdict, first};

const BODY_BYTES_MAX: i64 = 256 * 1024;
const BODY_BYTES_DEFAULT: i64 = 64 * 1024;
const ACK_BYTES_MAX: usize = 4_096;
const CONDITIONS_MAX: usize = 16;

/// How a carrier's own messages are read.
pub(crate) struct CallbackRules {
    /// How the sender is known; `None`: not at all.
    pub(crate) signature: Option<Signature>,
    pub(crate) acknowledgement: Acknowledgement,
    pub(crate) body_bytes_max: usize,
    places: Places,
    recognise: Vec<Condition>,
    rules: Vec<Rule>,
    id: Option<Slot>,
    our_ref: Option<Slot>,
    carrier_txn_id: Option<Slot>,
    carrier_code: Option<Slot>,
    amount: Option<(Slot, AmountForm)>,
    currency_at: Option<Slot>,
    msisdn: Option<Slot>,
    currency: Currency,
}

/// HMAC-SHA256 of the raw body, in hexadecimal, in a header.
pub(crate) struct Signature {
    pub(crate) header: HeaderName,
    /// What stands in front of the digits, such as `sha256=`.
    pub(crate) prefix: Box<str>,
    pub(crate) key: Zeroizing<String>,
}

impl CallbackRules {
    pub(super) fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// What a body says. Who sent it is settled before.
    pub(crate) fn read(&self, body: &[u8], authenticated: bool) -> Result<Callback, CallbackError> {
        let values = self.places.read(body).map_err(|_| CallbackError::NotJson)?;
        if !self.recognise.iter().all(|condition| condition.holds(&values)) {
            return Err(CallbackError::NotRecognised);
        }
        let text = |slot: Option<Slot>| slot.and_then(|slot| shortened(values.get(slot)));
        let our_ref = match text(self.our_ref) {
            Some(key) => Some(OurRef::parse(&key).map_err(|_| CallbackError::NoKey)?),
            None => None,
        };
        let carrier_txn_id = text(self.carrier_txn_id);
        if our_ref.is_none() && carrier_txn_id.is_none() {
            return Err(CallbackError::NoKey);
        }
        let amount_minor = self.amount_minor(&values);
        let rule = first(&self.rules, 0, Some(&values));
        let result = self.result(rule.map_or(Verdict::Unknown, |rule| rule.then), amount_minor)?;
        let callback_id = text(self.id).unwrap_or_else(|| {
            let key = our_ref.map_or_else(
                || carrier_txn_id.clone().unwrap_or_default().into_string(),
                |our_ref| our_ref.to_string(),
            );
            format!("{key}:{}", result.reason().name()).into()
        });
        Ok(Callback {
            authenticated,
            our_ref,
            carrier_txn_id,
            amount_minor,
            currency: text(self.currency_at),
            msisdn: text(self.msisdn).map(|line| digits_of(&line).into()),
            result,
            carrier_code: text(rule.and_then(|rule| rule.code).or(self.carrier_code)),
            callback_id,
        })
    }

    fn amount_minor(&self, values: &Values<'_>) -> Option<i64> {
        let (slot, form) = self.amount?;
        read_decimal(values.get(slot).as_text()?, form.decimals(self.currency))
    }

    fn result(&self, then: Verdict, amount_minor: Option<i64>) -> Result<Outcome, CallbackError> {
        let amount = || amount_minor.filter(|minor| *minor > 0).ok_or(CallbackError::NoAmount);
        Ok(match then {
            Verdict::Charged => Outcome::Charged { amount_minor: amount()? },
            Verdict::Partial => Outcome::Partial { amount_minor: amount()? },
            Verdict::Refunded => Outcome::Refunded { amount_minor: amount()? },
            Verdict::Reserved => Outcome::Reserved,
            Verdict::Released => Outcome::Released,
            Verdict::Pending => Outcome::Pending,
            Verdict::Declined(refusal) => Outcome::Declined(refusal),
            _ => Outcome::Unknown(Doubt::Unlisted),
        })
    }
}

/// Reads the table.
pub(super) fn read_callback_table(
    mut table: Table<'_>,
    around: Around<'_>,
    problems: &mut Problems,
) -> Option<CallbackRules> {
    let signature = table.table("auth", problems).and_then(|auth| read_auth(auth, around, problems));
    let acknowledgement = table.table("ack", problems).and_then(|ack| read_ack(ack, problems));
    let body = table.opt_int("max_body", 256..=BODY_BYTES_MAX, problems);
    let mut places = Places::new();
    let mut recognise = Vec::new();
    for mut condition in table.tables("recognise", CONDITIONS_MAX, problems) {
        recognise.extend(read_condition(&mut condition, &mut places, problems));
        condition.finish(problems);
    }
    let id = opt_pointer(&mut table, "id", &mut places, problems);
    let keys = table.table("keys", problems).map(|mut keys| {
        let mut pointer = |key: &str| opt_pointer(&mut keys, key, &mut places, problems);
        let read = (
            pointer("our_ref"),
            pointer("carrier_txn_id"),
            pointer("carrier_code"),
            pointer("amount"),
            pointer("currency"),
            pointer("msisdn"),
        );
        let form = if amount_is_minor(&mut keys, problems) { AmountForm::Minor } else { AmountForm::Decimal };
        if read.0.is_none() && read.1.is_none() {
            let help = "name the place of our_ref or of carrier_txn_id";
            keys.problem("our_ref", "nothing says which attempt a callback is about", help, problems);
        }
        keys.finish(problems);
        (read, form)
    });
    let signed = matches!(signature, Some(Some(_)));
    let echo = Echo::default();
    let rules = read_rules(&mut table, Subject::Callback { signed }, &mut places, &echo, around, problems);
    let ((our_ref, carrier_txn_id, carrier_code, amount, currency_at, msisdn), form) = keys?;
    let money = |rule: &Rule| matches!(rule.then, Verdict::Charged | Verdict::Partial | Verdict::Refunded);
    if amount.is_none() && rules.iter().any(money) {
        let help = "name the place of the amount: a callback about another amount must not count";
        table.problem("keys", "money would be believed without its amount", help, problems);
    }
    table.finish(problems);
    Some(CallbackRules {
        signature: signature?,
        acknowledgement: acknowledgement?,
        body_bytes_max: usize::try_from(body.map_or(BODY_BYTES_DEFAULT, |body| body.value)).ok()?,
        places,
        recognise,
        rules,
        id,
        our_ref,
        carrier_txn_id,
        carrier_code,
        amount: amount.map(|slot| (slot, form)),
        currency_at,
        msisdn,
        currency: around.currency,
    })
}

/// `Some(None)`: declared as not signed.
fn read_auth(mut auth: Table<'_>, around: Around<'_>, problems: &mut Problems) -> Option<Option<Signature>> {
    let methods = [("none", false), ("hmac_sha256", true)];
    let method = auth.one_of("method", &methods, problems);
    let signature = match method?.value {
        false => Some(None),
        true => read_signature(&mut auth, around, problems).map(Some),
    };
    auth.finish(problems);
    signature
}

fn read_signature(auth: &mut Table<'_>, around: Around<'_>, problems: &mut Problems) -> Option<Signature> {
    let header = auth.str("header", problems);
    let prefix = auth.opt_str("prefix", problems);
    let name = auth.str("secret", problems);
    let header = header.and_then(|text| {
        let header = HeaderName::from_bytes(text.as_bytes()).ok();
        if header.is_none() {
            auth.problem("header", "not the name of a header", "such as \"x-signature\"", problems);
        }
        header
    });
    let key = name.and_then(|name| match around.secrets.lookup(&name) {
        Ok(key) => Some(key),
        Err(error) => {
            let help = "put it into a file of this name in the folder of secrets, readable by its owner only";
            auth.problem("secret", format!("no secret `{}`: {error}", name.value), help, problems);
            None
        }
    });
    Some(Signature {
        header: header?,
        prefix: prefix.map_or_else(Box::default, |prefix| prefix.value.into()),
        key: key?,
    })
}

fn read_ack(mut ack: Table<'_>, problems: &mut Problems) -> Option<Acknowledgement> {
    let status = ack.int("status", 200..=299, problems);
    let body = ack.opt_str("body", problems).map_or_else(String::new, |body| body.value);
    if body.len() > ACK_BYTES_MAX {
        ack.problem("body", format!("{} bytes", body.len()), "at most 4096 are answered", problems);
    }
    ack.finish(problems);
    Some(Acknowledgement { status: status?.value as u16, body: body.into() })
}
