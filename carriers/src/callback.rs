//! Messages that a carrier sends by itself: who sent it, which attempt it is about, and what it says.
//!
//! Pure: the receiver stores the raw message first, answers with the definition's acknowledgement, then asks here.
//! Nothing in a message is believed because it looks right: its sender is known by a signature over the raw body, and
//! what it says is held against the attempt ([`Callback::held_against`]) before it counts.

use billing_core::ids::OurRef;
use billing_core::outcome::Outcome;
use http::HeaderMap;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::adapter::{Alert, Attempt};
use crate::definition::{CallbackRules, CarrierDefinition};

/// Bytes that SHA-256 works on at a time.
const BLOCK_BYTES: usize = 64;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// Its sender is known. `false`: a hint that something may be asked about, never evidence.
    pub authenticated: bool,
    /// Our key of the attempt, where the message names it.
    pub our_ref: Option<OurRef>,
    /// The carrier's id of the attempt, where the message names it. One of the two is always there.
    pub carrier_txn_id: Option<Box<str>>,
    /// The amount that it names, minor units of the carrier's currency.
    pub amount_minor: Option<i64>,
    /// The currency code that it names.
    pub currency: Option<Box<str>>,
    /// The digits of the line that it names.
    pub msisdn: Option<Box<str>>,
    /// What it says became of the attempt; `Unknown` for what the definition does not name.
    pub result: Outcome,
    /// The carrier's own code.
    pub carrier_code: Option<Box<str>>,
    /// The same for two messages about the same fact: the carrier's id of the message, or the attempt's key and the
    /// result.
    pub callback_id: Box<str>,
}

/// Why a message says nothing.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum CallbackError {
    /// The carrier's file has no `[callback]`.
    #[error("the carrier sends no callbacks")]
    NotOffered,
    /// Longer than the definition allows.
    #[error("the callback has {found} bytes, at most {max} are read")]
    TooLarge {
        /// Its bytes.
        found: usize,
        /// Bytes that are read.
        max: usize,
    },
    /// No signature, or not that of this body.
    #[error("the callback is not signed by the carrier")]
    NotAuthentic,
    /// Not JSON, or with equal names in one object.
    #[error("the callback is not json")]
    NotJson,
    /// Another kind of message.
    #[error("the message is not of the kind that the carrier's file describes")]
    NotRecognised,
    /// It names no attempt, or one that cannot be ours.
    #[error("the callback names no attempt of ours")]
    NoKey,
    /// It claims money without a readable amount.
    #[error("the callback claims money without an amount")]
    NoAmount,
}

/// What to answer a message that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Box<str>,
}

/// Reads a message of a carrier: headers as they came, the body byte for byte.
///
/// # Errors
/// [`CallbackError`]; the raw message is worth keeping all the same.
pub fn read_callback(
    definition: &CarrierDefinition,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Callback, CallbackError> {
    let rules = definition.callback.as_ref().ok_or(CallbackError::NotOffered)?;
    if body.len() > rules.body_bytes_max {
        return Err(CallbackError::TooLarge { found: body.len(), max: rules.body_bytes_max });
    }
    let authenticated = authenticated(rules, headers, body)?;
    rules.read(body, authenticated)
}

/// Reads the body of a message that was kept. Who sent it was settled when it came: the key may be another one by now.
///
/// # Errors
/// [`CallbackError`]; never [`CallbackError::NotAuthentic`].
pub fn read_kept_callback(
    definition: &CarrierDefinition,
    authenticated: bool,
    body: &[u8],
) -> Result<Callback, CallbackError> {
    let rules = definition.callback.as_ref().ok_or(CallbackError::NotOffered)?;
    rules.read(body, authenticated && rules.signature.is_some())
}

impl Callback {
    /// What the message means for an attempt, when it is about this very attempt: key, line, currency and amount
    /// agree, as far as it names them.
    ///
    /// # Errors
    /// The alert that says what does not agree.
    pub fn held_against(&self, attempt: &Attempt, partial: bool) -> Result<Outcome, Alert> {
        let same_ref = self.our_ref.is_none_or(|our_ref| our_ref == attempt.our_ref);
        // Without our key the carrier's has to be the one that it gave us.
        let same_txn = match (&self.carrier_txn_id, &attempt.carrier_txn_id) {
            (Some(told), Some(known)) => told == known,
            _ => self.our_ref.is_some(),
        };
        if !same_ref || !same_txn {
            return Err(Alert::WrongKey);
        }
        if self.currency.as_deref().is_some_and(|code| code != attempt.amount.currency.code()) {
            return Err(Alert::WrongCurrency);
        }
        if self.msisdn.as_deref().is_some_and(|digits| digits != attempt.msisdn.digits()) {
            return Err(Alert::WrongSubscriber);
        }
        if !self.fits(attempt) {
            return Err(Alert::WrongOperation);
        }
        let asked = attempt.amount.minor;
        match (self.result, self.amount_minor) {
            (Outcome::Charged { amount_minor } | Outcome::Partial { amount_minor }, _)
                if amount_minor != asked =>
            {
                let part_of_it = partial && (1..asked).contains(&amount_minor);
                part_of_it.then_some(Outcome::Partial { amount_minor }).ok_or(Alert::WrongAmount)
            }
            (Outcome::Partial { .. }, _) => Err(Alert::WrongAmount),
            (Outcome::Refunded { .. } | Outcome::Reserved, Some(told)) if told != asked => {
                Err(Alert::WrongAmount)
            }
            (result, _) => Ok(result),
        }
    }

    fn fits(&self, attempt: &Attempt) -> bool {
        use billing_core::outcome::Op;
        match self.result {
            Outcome::Charged { .. } | Outcome::Partial { .. } => {
                matches!(attempt.op, Op::Charge | Op::Confirm)
            }
            Outcome::Refunded { .. } => attempt.op == Op::Refund,
            Outcome::Reserved => attempt.op == Op::Reserve,
            Outcome::Released => attempt.op == Op::Cancel,
            _ => true,
        }
    }
}

fn authenticated(rules: &CallbackRules, headers: &HeaderMap, body: &[u8]) -> Result<bool, CallbackError> {
    let Some(signature) = &rules.signature else { return Ok(false) };
    let mut given = headers.get_all(&signature.header).iter();
    // Two signatures: somebody added one.
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(CallbackError::NotAuthentic);
    };
    let told = value.to_str().ok().and_then(|text| unhex(text.trim().strip_prefix(&*signature.prefix)?));
    let told = told.ok_or(CallbackError::NotAuthentic)?;
    let expected = hmac_sha256(signature.key.as_bytes(), body);
    // The same time for every wrong one.
    let differing = expected.iter().zip(told).fold(0, |sum, (ours, theirs)| sum | (ours ^ theirs));
    if differing == 0 { Ok(true) } else { Err(CallbackError::NotAuthentic) }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |at: usize| char::from(*text.as_bytes().get(at)?).to_digit(16);
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (digit(2 * at)? << 4 | digit(2 * at + 1)?) as u8;
    }
    (text.len() == 64).then_some(bytes)
}

/// HMAC-SHA256 (RFC 2104).
pub(crate) fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block.iter_mut().zip(Sha256::digest(key)).for_each(|(to, from)| *to = from);
    } else {
        block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    let outer = Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize();
    outer.into()
}

#[cfg(test)]
#[path = "callback_tests.rs"]
mod tests;
