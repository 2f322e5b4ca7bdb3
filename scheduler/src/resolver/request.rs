//! A question or a repeat as the carrier's adapter takes it, and as the history keeps it.

use std::sync::Arc;

use billing_core::ids::{AttemptId, ChargeId, OurRef, money_digest};
use billing_core::money::Money;
use billing_core::reason::Rule;
use billing_core::resolve::{AskKind, Finding};
use billing_core::states::{AttemptState, ChargeState};
use carriers::{Attempt, ExchangeKind, Msisdn, Reply};
use storage::history::seal::Sealer;
use storage::history::{HistoryKey, SealedRow};
use storage::mutants::{Mutant, on};
use storage::pg::{DueAsk, DueRow, Lease};
use storage::story::{STORY_VERSION, Story, StoryDecision, StoryExchange, StoryOutcome};
use storage::vault::{SubscriberKey, Vault};

use crate::catalog::Catalog;

/// `seq` of the first ask's history row, less one; the asks of an attempt stand behind all its other rows.
pub(crate) const SEQ_ASK: i64 = 1 << 33;

/// An ask between its decision and its answer.
pub(super) struct Asking {
    pub(super) due: DueAsk,
    pub(super) row: Box<DueRow>,
    pub(super) kind: AskKind,
    pub(super) ask_no: i16,
    pub(super) our_ref: OurRef,
    pub(super) key: SubscriberKey,
    /// Machine time when it was decided.
    pub(super) begun_ms: i64,
    /// Business time when it was decided.
    pub(super) business_at_ms: i64,
}

/// The attempt again, exactly as it was sent: the same key, money fields, words and times. An error means that the row
/// says something else than the intent does.
pub(super) fn again(
    due: &DueAsk,
    row: &DueRow,
    kind: AskKind,
    catalog: &Catalog,
    vault: &Vault,
    parent_txn_id: Option<String>,
) -> Result<(Attempt, OurRef, SubscriberKey), String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let planned = &due.planned;
    let plan = catalog.plan(row.sub.plan_no).ok_or("its plan is not in the book")?;
    let currency = Catalog::currency(plan, due.currency).ok_or("its currency is not the plan's")?;
    let charge = ChargeId { subscription: row.sub.id, period: planned.period };
    let id = AttemptId { charge, attempt_no: planned.attempt_no };
    let digest =
        money_digest(id, planned.op, row.sub.subscriber_id, plan.plan_no, planned.amount_minor, due.currency);
    if digest != due.digest {
        return Err("its money fields are not those of its intent".to_owned());
    }
    let our_ref = OurRef::new(row.sub.ref_seed, planned.period, planned.attempt_no).map_err(text)?;
    let parent_ref = match planned.parent_no {
        0 => None,
        no => Some(OurRef::new(row.sub.ref_seed, planned.period, no).map_err(text)?),
    };
    let key = vault.subscriber_key(&row.key_salt, row.kek_version).map_err(text)?;
    let plain = key.open(&storage::pg::msisdn_aad(row.sub.subscriber_id), &row.msisdn_ct).map_err(text)?;
    let digits = String::from_utf8(plain).map_err(|_| "the MSISDN is not text")?;
    let attempt = Attempt {
        ticket: row.sub.id.0 as u64,
        id,
        our_ref,
        op: planned.op,
        msisdn: Msisdn::parse(&digits).map_err(|_| "the MSISDN is not one")?,
        amount: Money::new(planned.amount_minor, currency),
        text: Arc::clone(&plan.text),
        intent_at: if on(Mutant::ResendOtherBody) { due.now } else { due.business_at },
        kind: match kind {
            AskKind::Resend => ExchangeKind::Resend,
            AskKind::Inquiry => ExchangeKind::Inquiry,
        },
        carrier_txn_id: due.carrier_txn_id.clone().map(String::into_boxed_str),
        parent_ref,
        parent_txn_id: parent_txn_id.map(String::into_boxed_str),
    };
    Ok((attempt, our_ref, key))
}

/// The exchange byte for byte, with what it proves.
pub(super) fn history_row(
    asking: &Asking,
    reply: &Reply,
    finding: Finding,
    sealer: &mut Sealer,
    lease: &Lease,
) -> Result<SealedRow, String> {
    let (due, at) = (&asking.due, &asking.row.sub.progress);
    let key = HistoryKey {
        subscription_id: due.key.subscription_id,
        month: due.planned.period.month(),
        period: due.key.period,
        attempt_no: due.key.attempt_no,
        seq: SEQ_ASK + i64::from(asking.ask_no),
    };
    let why = match asking.kind {
        AskKind::Resend => Rule::RESOLVE_RESEND,
        AskKind::Inquiry => Rule::RESOLVE_INQUIRE,
    };
    let story: Story<&[u8], &str> = Story {
        version: STORY_VERSION,
        incarnation: lease.incarnation,
        book_version: due.book_version,
        business_at_ms: asking.business_at_ms,
        due_at_ms: asking.business_at_ms,
        why: why.number(),
        exchange: Some(StoryExchange {
            our_ref: asking.our_ref.to_string(),
            amount_minor: due.planned.amount_minor,
            currency: due.currency,
            wrote: reply.wrote,
            sent_at_us: reply.sent_at.map(jiff::Timestamp::as_microsecond),
            answered_at_us: reply.answered_at.as_microsecond(),
            latency_us: reply.latency_us,
            request: &reply.request,
            response: &reply.response,
            outcome: StoryOutcome::of(reply.outcome),
            carrier_code: reply.carrier_code.as_deref(),
            carrier_txn_id: reply.carrier_txn_id.as_deref(),
            alert: reply.alert.map(|alert| alert.name()),
        }),
        decision: StoryDecision {
            rule: finding.rule(asking.kind).number(),
            // What it settles is decided and recorded as evidence.
            attempt_state: AttemptState::Unknown as i16,
            charge_state: ChargeState::Waiting as i16,
            subscription_state: at.state as i16,
            next_at_ms: at.next_at.map(jiff::Timestamp::as_millisecond),
            next_kind: at.next_kind as i16,
            next_period: at.period.number(),
        },
        inputs: Vec::new(),
    };
    let plain = story.encode().map_err(|error| error.to_string())?;
    let bytes = sealer.seal(&asking.key, &key, &plain).map_err(|error| error.to_string())?;
    Ok(SealedRow { key, bytes })
}
