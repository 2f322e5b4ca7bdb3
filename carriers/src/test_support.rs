//! What the unit tests share.
#![allow(clippy::unwrap_used)]

use billing_core::ids::{AttemptId, ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::money::{Currency, Money};
use billing_core::outcome::Op;
use billing_core::period::Period;

use crate::adapter::{Attempt, ExchangeKind};
use crate::msisdn::Msisdn;

/// An attempt of 2026-11-21 10:00 UTC.
pub(crate) fn attempt(minor: i64, currency: &str, msisdn: &str) -> Attempt {
    let period = Period::starting(jiff::civil::date(2026, 11, 21), 360).unwrap();
    let charge = ChargeId { subscription: SubscriptionId(0x1000_0000_0007), period };
    Attempt {
        ticket: 7,
        id: AttemptId { charge, attempt_no: 1 },
        our_ref: OurRef::new(RefSeed(0x1234_5678_9abc), period, 1).unwrap(),
        op: Op::Charge,
        msisdn: Msisdn::parse(msisdn).unwrap(),
        amount: Money::new(minor, Currency::from_code(currency).unwrap()),
        text: "Daily horoscope".into(),
        intent_at: jiff::Timestamp::from_second(1_795_255_200).unwrap(),
        kind: ExchangeKind::Send,
        carrier_txn_id: None,
        parent_ref: None,
        parent_txn_id: None,
    }
}
