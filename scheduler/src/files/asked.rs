//! An attempt as it was asked for: what a carrier's message or a row of its file is held against.

use std::sync::Arc;

use billing_core::ids::{AttemptId, ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::money::Money;
use billing_core::outcome::Op;
use billing_core::period::Period;
use carriers::{Attempt, CarrierDefinition, ExchangeKind, Msisdn};
use jiff::Timestamp;
use storage::pg::KeyedAttempt;
use storage::vault::Vault;

/// The attempt, or why none can be made of its row.
pub(crate) fn attempt_as_asked(
    definition: &CarrierDefinition,
    vault: &Vault,
    row: &KeyedAttempt,
) -> Result<Attempt, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let currency = definition.caps.currency;
    if currency.numeric() != row.currency {
        return Err(format!("the attempt's currency is {}", row.currency));
    }
    let period = Period::from_number(row.period).map_err(|error| text(&error))?;
    let our_ref = OurRef::new(RefSeed(row.ref_seed), period, row.attempt_no).map_err(|error| text(&error))?;
    let key = vault.subscriber_key(&row.key_salt, row.kek_version).map_err(|error| text(&error))?;
    let aad = storage::pg::msisdn_aad(row.subscriber_id);
    let plain = key.open(&aad, &row.msisdn_ct).map_err(|error| text(&error))?;
    let digits = String::from_utf8(plain).map_err(|_| "the MSISDN is not text")?;
    let msisdn = Msisdn::parse(&digits).map_err(|_| "the MSISDN is not one")?;
    let charge = ChargeId { subscription: SubscriptionId(row.subscription_id), period };
    Ok(Attempt {
        ticket: 0,
        id: AttemptId { charge, attempt_no: row.attempt_no },
        our_ref,
        op: Op::from_number(row.op).unwrap_or(Op::Charge),
        msisdn,
        amount: Money::new(row.amount_minor, currency),
        text: Arc::from(""),
        intent_at: Timestamp::from_microsecond(row.intent_at_us).unwrap_or(Timestamp::UNIX_EPOCH),
        kind: ExchangeKind::Send,
        carrier_txn_id: row.carrier_txn_id.as_deref().map(Into::into),
        parent_ref: None,
        parent_txn_id: None,
    })
}
