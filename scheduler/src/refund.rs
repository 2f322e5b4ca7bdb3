//! Refunds, from the inbox to the lane. The owner plans them with the core, makes the intent durable together with the
//! amount held in the charge's row, and sends it as any other attempt.

use std::sync::Arc;

use billing_core::decide::{Original, RefundAsk, RefundRefused, plan_refund};
use billing_core::ids::{AttemptId, ChargeId, OurRef, money_digest};
use billing_core::money::Money;
use billing_core::outcome::Op;
use billing_core::period::Period;
use billing_core::reason::Rule;
use billing_core::states::{AttemptState, ChargeState, from_number};
use billing_core::subscription::{Aside, NextKind, OpenAttempt, Planned, Progress};
use carriers::{Attempt, ExchangeKind, Msisdn, RefundCap};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use storage::fail_point::{Point, reached};
use storage::mutants::{Mutant, on};
use storage::pg::{AttemptRow, BeginRefund, DueRow, InboxRow, StoreError, Verdict};
use storage::spool::SentLine;
use storage::store::{begin_refund, list_doubts};

use crate::catalog::Catalog;
use crate::link::{DbLink, RETRY_PAUSE};
use crate::shared::Shared;
use crate::stripe::{Flight, Stripe};

/// A refund may wait so long for its first byte.
const SEND_WITHIN: SignedDuration = SignedDuration::from_mins(5);

/// What is asked for, as the inbox carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundRequest {
    /// The charge's period, as a number.
    pub period: i32,
    /// The attempt to give back; 0 for the only one that collected.
    pub attempt_no: i16,
    /// How much, minor units; 0 for all that is left of it.
    pub amount_minor: i64,
    /// Why, for people: at most 500 characters.
    pub reason: String,
}

impl RefundRequest {
    /// As bytes.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    /// The charge's period in such bytes; `None` when they cannot be read.
    pub(crate) fn period_of(payload: &[u8]) -> Option<Period> {
        Period::from_number(Self::decode(payload)?.period).ok()
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        postcard::from_bytes(payload).ok()
    }
}

/// Why a refund is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefundProblem {
    /// See [`RefundRefused`].
    #[error(transparent)]
    Refused(#[from] RefundRefused),
    /// Nothing was collected.
    #[error("nothing was collected for this charge")]
    NothingCollected,
    /// Several attempts collected: which one?
    #[error("attempts {0} of this charge collected: say which one is given back")]
    Several(String),
    /// There is no such attempt, or it does not collect.
    #[error("attempt {0} of this charge is none that collects")]
    NoSuchAttempt(i16),
    /// The carrier gives nothing back.
    #[error("carrier {0} gives nothing back")]
    NotOffered(String),
    /// The carrier gives back whole charges only.
    #[error("carrier {carrier} gives back all of an attempt or nothing: {whole_minor} minor units, once")]
    WholeOnly {
        /// Which carrier.
        carrier: String,
        /// All of it, minor units.
        whole_minor: i64,
    },
}

fn state_of(row: &AttemptRow) -> AttemptState {
    from_number::<AttemptState>(row.state).unwrap_or(AttemptState::Unknown)
}

/// Plans a refund by a charge's attempts and by what its own row holds: the refund, the charge's row with its amount held.
/// `offers`: what the carrier gives back. `progress`: the charge in the subscription's row, while its period is current.
///
/// # Errors
/// [`RefundProblem`] when it may not be sent.
pub fn plan_refund_of(
    charge: ChargeId,
    progress: &Progress,
    rows: &[AttemptRow],
    kept: Option<&Aside>,
    (carrier, offers): (&str, Option<RefundCap>),
    request: &RefundRequest,
    now: Timestamp,
) -> Result<(Planned, Aside), RefundProblem> {
    let offers = offers.ok_or_else(|| RefundProblem::NotOffered(carrier.to_owned()))?;
    let aside = row_of(charge, progress, rows, kept).ok_or(RefundProblem::NothingCollected)?;
    let collects = |row: &&AttemptRow| Op::from_number(row.op).is_some_and(Op::collects);
    let given_back = |no: i16| -> i64 {
        let refunds = rows.iter().filter(|row| row.op == Op::Refund as i16 && row.parent_no == no);
        refunds.filter(|row| !proven_refused(state_of(row))).map(|row| row.amount_minor).sum()
    };
    let left = |row: &&AttemptRow| row.moved_minor.unwrap_or(0) > given_back(row.attempt_no);
    let original = if request.attempt_no > 0 {
        let found = rows.iter().filter(collects).find(|row| row.attempt_no == request.attempt_no);
        found.ok_or(RefundProblem::NoSuchAttempt(request.attempt_no))?
    } else {
        // What is open may have collected too: the core refuses it, and says why.
        let open = rows.iter().filter(collects).find(|row| !state_of(row).is_final());
        let collected: Vec<&AttemptRow> = rows.iter().filter(collects).filter(left).collect();
        match (open, collected.as_slice()) {
            (Some(open), _) => open,
            (None, [one]) => one,
            (None, []) => {
                let approved = |row: &&AttemptRow| state_of(row) == AttemptState::Approved;
                let last = rows.iter().filter(collects).rfind(approved);
                last.ok_or(RefundProblem::NothingCollected)?
            }
            (None, several) => {
                let numbers: Vec<String> = several.iter().map(|row| row.attempt_no.to_string()).collect();
                return Err(RefundProblem::Several(numbers.join(", ")));
            }
        }
    };
    let moved_minor = original.moved_minor.unwrap_or(0);
    let original = Original {
        attempt_no: original.attempt_no,
        state: state_of(original),
        moved_minor,
        given_back_minor: given_back(original.attempt_no),
    };
    let amount_minor = match request.amount_minor {
        // Where nothing is left the core says so.
        0 => Some(moved_minor - original.given_back_minor).filter(|left| *left > 0).unwrap_or(moved_minor),
        asked => asked,
    };
    let ask = RefundAsk { aside: &aside, original: &original, amount_minor, now, send_within: SEND_WITHIN };
    let planned = plan_refund(&ask)?;
    if offers == RefundCap::Full && amount_minor != moved_minor {
        let carrier = carrier.to_owned();
        return Err(RefundProblem::WholeOnly { carrier, whole_minor: moved_minor });
    }
    Ok(planned)
}

fn proven_refused(state: AttemptState) -> bool {
    matches!(state, AttemptState::Declined | AttemptState::NotSent | AttemptState::NotApplied)
}

/// A charge's own row, made of its attempts: whatever row it had keeps what is held and taken back.
pub(crate) fn row_of(
    charge: ChargeId,
    at: &Progress,
    rows: &[AttemptRow],
    kept: Option<&Aside>,
) -> Option<Aside> {
    let (first, last) = (rows.first()?, rows.last()?);
    let collects = |row: &&AttemptRow| Op::from_number(row.op).is_some_and(Op::collects);
    let collected_minor = rows.iter().filter(collects).filter_map(|row| row.moved_minor).sum();
    let open = rows.iter().map(state_of).find(|state| !state.is_final());
    let open = match open {
        None => kept.map_or(OpenAttempt::None, |kept| kept.open),
        Some(AttemptState::Accepted) => OpenAttempt::Accepted,
        Some(AttemptState::InReview) => OpenAttempt::InReview,
        Some(_) => OpenAttempt::Unknown,
    };
    let stands = rows.iter().rev().find_map(|row| row.charge_state.and_then(from_number::<ChargeState>));
    let current = at.period == charge.period;
    Some(Aside {
        charge,
        // A charge's first attempt asks for all that is due.
        due_minor: kept
            .map_or(if current { at.due_minor } else { first.amount_minor }, |kept| kept.due_minor),
        collected_minor,
        refunded_minor: kept.map_or(0, |kept| kept.refunded_minor),
        reversed_minor: kept.map_or(0, |kept| kept.reversed_minor),
        attempt_no: last.attempt_no.max(if current { at.attempt_no } else { 0 }),
        round: kept.map_or(last.round, |kept| kept.round),
        step: kept.map_or(last.step, |kept| kept.step),
        open,
        state: kept.map(|kept| kept.state).or(stands).unwrap_or(ChargeState::Settled),
        next_at: kept.and_then(|kept| kept.next_at),
        next_kind: kept.map_or(NextKind::Never, |kept| kept.next_kind),
        expires_at: kept.and_then(|kept| kept.expires_at),
    })
}

/// What became of an inbox row that asks for a refund.
#[derive(Debug)]
pub(crate) enum Begun {
    /// On its way; the inbox row is gone.
    Sent,
    /// Looked at again with the next pass.
    Later,
    /// Not sent, for this reason: people are told.
    Refused(String),
}

/// Everything that a refund is planned from, as loaded.
pub(crate) struct Loaded<'a> {
    pub(crate) row: Box<DueRow>,
    pub(crate) attempts: &'a [AttemptRow],
    pub(crate) kept: Option<Aside>,
}

/// Plans, makes durable and sends the refund that a held subscription's inbox row asks for. What is sent stays held until
/// it is recorded; everything else is released here.
pub(crate) async fn begin(
    shared: &Shared,
    stripe: &Stripe,
    db: &mut DbLink,
    asked: &InboxRow,
    loaded: Loaded<'_>,
) -> Result<Begun, StoreError> {
    let id = asked.subscription_id;
    let doubted = shared.holds.is_doubted_refund(asked.shard.0, asked.id);
    // Of a refund that may have left it is not said that it was not sent because the one before it is open.
    if doubted && loaded.attempts.iter().any(|row| !state_of(row).is_final()) {
        stripe.release(id);
        return Ok(Begun::Later);
    }
    let (planned, aside, mut flight, attempt) = match prepare(shared, asked, loaded) {
        Ok(prepared) => prepared,
        Err(why) => {
            stripe.release(id);
            return Ok(Begun::Refused(why));
        }
    };
    let carrier_no = asked.shard.carrier_no();
    let Some(lane) = shared.lanes.get(&carrier_no).filter(|lane| lane.reserve(1) == 1) else {
        stripe.release(id);
        return Ok(Begun::Later);
    };
    let now_ms = flight.business_at_ms;
    let digest = money_digest(
        attempt.id,
        Op::Refund,
        flight.row.sub.subscriber_id,
        flight.row.sub.plan_no,
        planned.amount_minor,
        flight.row.currency,
    );
    let mut line = SentLine {
        subscription_id: id,
        period: planned.period.number(),
        attempt_no: planned.attempt_no,
        op: Op::Refund as u8,
        carrier_no,
        amount_minor: planned.amount_minor,
        currency: flight.row.currency,
        digest,
        incarnation: shared.lease.incarnation,
        intent_at_us: shared.clock.wall().as_microsecond(),
        business_at_ms: now_ms,
        not_before_ms: planned.not_before.as_millisecond(),
        not_after_ms: planned.not_after.as_millisecond(),
        book_version: flight.catalog.names.book_version,
        round: planned.round,
        step: planned.step,
        parent_no: planned.parent_no,
        rule: Rule::REFUND_SEND.number(),
        wish: asked.id,
    };
    if doubted {
        lane.give_back(1);
        stripe.release(id);
        return list_doubted(shared, db, line).await;
    }
    let floor = stripe.open_floor(shared.database_us.load(std::sync::atomic::Ordering::SeqCst), 1);
    let intent = BeginRefund {
        rev: flight.row.sub.rev,
        planned: &planned,
        aside: &aside,
        currency: flight.row.currency,
        digest,
        rule: Rule::REFUND_SEND.number(),
        book_version: flight.catalog.names.book_version,
        inbox_id: asked.id,
    };
    let verdict = loop {
        let begun = match db.conn().await {
            Ok(conn) => {
                reached(Point::BeforeRefundIntent);
                let begun = begin_refund(conn, &shared.lease, now_ms, &intent).await;
                reached(Point::AfterRefundIntent);
                db.checked(begun)
            }
            Err(error) => Err(error),
        };
        match begun {
            // Whether it was committed is unknown: asking again tells.
            Err(error) if error.is_transient() && !shared.is_halted() => {
                shared.trouble("making a refund durable", &error);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            other => break other,
        }
    };
    if !matches!(verdict, Ok(Verdict::Ok | Verdict::ExistsMine)) {
        lane.give_back(1);
        stripe.close_floor(floor, 1);
        stripe.release(id);
        return match verdict? {
            Verdict::NoPartition => Ok(Begun::Refused("no partition holds its period".to_owned())),
            _ => Ok(Begun::Later),
        };
    }
    (flight.floor, flight.begun_ms) = (floor, shared.clock.machine_ms());
    line.intent_at_us = shared.clock.wall().as_microsecond();
    let written = match shared.sent_log.append(&[line]) {
        Ok(()) => true,
        Err(error) => {
            shared.trouble("writing the sent log", &error);
            shared.sent_log_broken();
            false
        }
    };
    stripe.flights().insert(id, Box::new(flight));
    shared.dispatch(stripe, attempt, written);
    Ok(Begun::Sent)
}

/// A spool is missing after a failover, and this refund may have been sent before it: it is asked about first. Its inbox row
/// goes in the commit that lists it; while another refund of the charge has its number, it stays.
async fn list_doubted(shared: &Shared, db: &mut DbLink, line: SentLine) -> Result<Begun, StoreError> {
    let conn = db.conn().await?;
    let listed = list_doubts(conn, &shared.lease, false, &[line]).await;
    db.checked(listed)?;
    Ok(Begun::Later)
}

/// Open attempts as if they had been refused: only where the simulation proves that it would notice.
fn settled(attempts: &[AttemptRow]) -> Vec<AttemptRow> {
    let mut attempts = attempts.to_vec();
    for row in attempts.iter_mut().filter(|row| !state_of(row).is_final()) {
        row.state = AttemptState::Declined as i16;
    }
    attempts
}

type Prepared = (Planned, Aside, Flight, Attempt);

fn prepare(shared: &Shared, asked: &InboxRow, loaded: Loaded<'_>) -> Result<Prepared, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let Loaded { row, attempts, kept } = loaded;
    let forgotten = on(Mutant::RefundDuringUnknown).then(|| settled(attempts));
    let attempts = forgotten.as_deref().unwrap_or(attempts);
    let kept = kept.map(|kept| match forgotten {
        Some(_) => Aside { open: OpenAttempt::None, ..kept },
        None => kept,
    });
    let request = RefundRequest::decode(&asked.payload).ok_or("a request that cannot be read")?;
    let now = shared.clock.business();
    let charge =
        ChargeId { subscription: row.sub.id, period: Period::from_number(request.period).map_err(text)? };
    if row.sub.flags != 0 {
        return Err("its subscription is quarantined".to_owned());
    }
    let catalog = shared.books.current();
    let plan = catalog.plan(row.sub.plan_no).ok_or("its plan is not in the book")?;
    let currency = Catalog::currency(plan, row.currency).ok_or("its currency is not the plan's")?;
    let carrier_no = row.sub.id.shard().carrier_no();
    let lane = shared.lanes.get(&carrier_no).ok_or("no lane for its carrier")?;
    let offers = (lane.carrier.as_str(), lane.adapter().caps().refund);
    let (planned, aside) =
        plan_refund_of(charge, &row.sub.progress, attempts, kept.as_ref(), offers, &request, now)
            .map_err(text)?;
    let our_ref = OurRef::new(row.sub.ref_seed, planned.period, planned.attempt_no).map_err(text)?;
    let parent_ref = OurRef::new(row.sub.ref_seed, planned.period, planned.parent_no).map_err(text)?;
    let parent = attempts.iter().find(|row| row.attempt_no == planned.parent_no);
    let parent_txn_id = parent.and_then(|row| row.carrier_txn_id.clone()).map(String::into_boxed_str);
    let key = Box::new(shared.vault.subscriber_key(&row.key_salt, row.kek_version).map_err(text)?);
    let plain = key.open(&storage::pg::msisdn_aad(row.sub.subscriber_id), &row.msisdn_ct).map_err(text)?;
    let digits = String::from_utf8(plain).map_err(|_| "the MSISDN is not text")?;
    let msisdn = Msisdn::parse(&digits).map_err(|_| "the MSISDN is not one")?;
    let attempt = Attempt {
        ticket: row.sub.id.0 as u64,
        id: AttemptId { charge, attempt_no: planned.attempt_no },
        our_ref,
        op: Op::Refund,
        msisdn,
        amount: Money::new(planned.amount_minor, currency),
        text: Arc::clone(&plan.text),
        // As its intent keeps it: a repeat has the same body.
        intent_at: now,
        kind: ExchangeKind::Send,
        carrier_txn_id: None,
        parent_ref: Some(parent_ref),
        parent_txn_id,
    };
    tracing::info!(
        charge = %charge,
        amount_minor = planned.amount_minor,
        reason = ?request.reason,
        "a refund was asked for"
    );
    let flight = Flight {
        planned,
        rule: Rule::REFUND_SEND.number(),
        catalog: Arc::clone(&catalog),
        our_ref,
        key,
        floor: 0,
        begun_ms: 0,
        business_at_ms: now.as_millisecond(),
        row,
        aside: Some(Box::new(aside)),
        probe: false,
    };
    Ok((planned, aside, flight, attempt))
}
