//! Takeover: every intent with neither an outcome nor an open row is UNKNOWN. Whether something was "sent" is never
//! trusted; only an answer that lies in this machine's own spool is evidence.

use std::collections::HashMap;
use std::sync::Arc;

use billing_core::ids::Shard;
use billing_core::outcome::{Doubt, NotSentProof, Op, Outcome};
use billing_core::period::Period;
use billing_core::states::AttemptState;
use billing_core::subscription::{Aside, Planned};
use serde::{Deserialize, Serialize};
use storage::history::{HistoryKey, seal};
use storage::mutants::{Mutant, on};
use storage::pg::{AsideRow, DueRow, OpenIntent, StoreError, WheelEntry};
use storage::store::{load, load_asides, open_intents, own_open_attempts, post_evidence};
use storage::story::{Story, StoryOutcome};
use storage::vault::SubscriberKey;

use crate::asides;
use crate::inbox::says_nothing;
use crate::item::{Item, SEQ_EXCHANGE};
use crate::link::DbLink;
use crate::shared::Shared;
use crate::stripe::{Found, Stripe, Work};

/// Intents per chunk.
const CHUNK: i32 = 1_000;
/// Open attempts looked at per pass for late answers.
const LATE_MAX: i32 = 1_000;

/// What somebody knows of an attempt whose shard another worker owns: the payload of an inbox row of
/// [`storage::pg::InboxKind::Evidence`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The period's number.
    pub period: i32,
    /// The attempt's number within its charge.
    pub attempt_no: i16,
    /// What became of it.
    pub outcome: StoryOutcome,
    /// The carrier's own code, if it gave one.
    pub carrier_code: Option<String>,
    /// What the carrier calls it, if it said so.
    pub carrier_txn_id: Option<String>,
    /// The rule that makes it evidence; 0 for an answer to the request itself.
    pub why: i16,
}

impl Evidence {
    pub(crate) fn of(item: &Item) -> Option<Self> {
        let (period, attempt_no) = item.attempt_key()?;
        let (outcome, carrier_code, carrier_txn_id) = item.outcome()?;
        Some(Self {
            period,
            attempt_no,
            outcome: StoryOutcome::of(outcome),
            carrier_code,
            carrier_txn_id,
            why: 0,
        })
    }

    /// The payload.
    ///
    /// # Errors
    /// When it cannot be encoded, which no value of this type is known to cause.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        postcard::from_bytes(payload).ok()
    }
}

/// Finds what a dead worker left behind in a shard and gives it to the recorder, chunk by chunk. Charging of the shard
/// may start when this returns: what was found is held until it is recorded.
pub(crate) async fn take_over(
    shared: &Arc<Shared>,
    stripe: &Stripe,
    db: &mut DbLink,
    shard: Shard,
) -> Result<usize, StoreError> {
    let mut after = (shard.id(0), 0, 0);
    let mut found = 0;
    loop {
        let conn = db.conn().await?;
        let chunk = open_intents(conn, shard, after, CHUNK).await;
        let chunk = db.checked(chunk)?;
        let Some(last) = chunk.last() else { return Ok(found) };
        after = (last.subscription_id, last.planned.period.number(), last.planned.attempt_no);
        found += chunk.len();
        let full = chunk.len() == CHUNK as usize;
        hand_to_recorder(shared, stripe, db, chunk).await?;
        if !full {
            return Ok(found);
        }
    }
}

/// An intent that begin found under our key, from another incarnation: the stored intent is the truth, and unknown. The
/// subscription's hold is given up in every case.
pub(crate) async fn leave_unknown(
    shared: &Arc<Shared>,
    stripe: &Stripe,
    db: &mut DbLink,
    row: &DueRow,
    planned: &Planned,
) -> Result<(), StoreError> {
    let id = row.sub.id;
    let after = (id.0, planned.period.number(), planned.attempt_no - 1);
    let found = match db.conn().await {
        Ok(conn) => open_intents(conn, id.shard(), after, 1).await,
        Err(error) => Err(error),
    };
    stripe.release(id.0);
    let found = db.checked(found)?;
    let ours = found.into_iter().filter(|intent| intent.subscription_id == id.0);
    let chunk: Vec<OpenIntent> = ours.collect();
    if chunk.is_empty() {
        // It has its outcome or its open row by now: look at the subscription again.
        let at_ms = shared.clock.business().as_millisecond();
        stripe.wheel().insert(WheelEntry::again(id.0, at_ms));
        return Ok(());
    }
    hand_to_recorder(shared, stripe, db, chunk).await
}

async fn hand_to_recorder(
    shared: &Arc<Shared>,
    stripe: &Stripe,
    db: &mut DbLink,
    chunk: Vec<OpenIntent>,
) -> Result<(), StoreError> {
    let chunk = chunk.into_iter().filter(|intent| stripe.hold(intent.subscription_id)).collect();
    hand_held(shared, stripe, db, chunk, 0).await
}

/// The same for intents whose subscriptions are held already; `why`: the rule that brought them here, 0 for none.
pub(crate) async fn hand_held(
    shared: &Arc<Shared>,
    stripe: &Stripe,
    db: &mut DbLink,
    chunk: Vec<OpenIntent>,
    why: i16,
) -> Result<(), StoreError> {
    if chunk.is_empty() {
        return Ok(());
    }
    // The low water must not pass these until each has its row.
    let floor = stripe.open_floor(i64::MIN, chunk.len());
    let ids: Vec<i64> = chunk.iter().map(|intent| intent.subscription_id).collect();
    let (rows, poison, own) = match load_chunk(shared, db, &chunk).await {
        Ok(loaded) => loaded,
        Err(error) => {
            ids.iter().for_each(|id| stripe.release(*id));
            stripe.close_floor(floor, chunk.len());
            return Err(error);
        }
    };
    for (subscription_id, rev, why) in poison {
        // Its intent has no row of its own yet: the floor stays, so that the low water never passes it.
        stripe.put(Work::Poison { subscription_id, rev, why });
    }
    let mut rows: HashMap<i64, Box<DueRow>> = rows.into_iter().map(|row| (row.sub.id.0, row)).collect();
    for intent in chunk {
        let Some(row) = rows.remove(&intent.subscription_id) else { continue };
        if row.currency != intent.currency {
            let why = "its intent has another currency".to_owned();
            stripe.put(Work::Poison { subscription_id: row.sub.id.0, rev: row.sub.rev, why });
            continue;
        }
        let own = own
            .iter()
            .find(|own| own.subscription_id == row.sub.id.0 && own.period == intent.planned.period.number());
        let aside = match own.map(AsideRow::aside).transpose() {
            Ok(aside) if intent.planned.op == Op::Refund => aside.map(|kept| held_by(kept, &intent.planned)),
            Ok(aside) => aside.map(Box::new),
            Err(why) => {
                stripe.put(Work::Poison { subscription_id: row.sub.id.0, rev: row.sub.rev, why });
                continue;
            }
        };
        let known = own_answer(shared, &row, intent.planned.period, intent.planned.attempt_no).await;
        // Proof that the first request was not processed says nothing about repeats, which the failover may have lost.
        let known = known.filter(|(outcome, ..)| {
            !intent.failed_over
                || on(Mutant::OwnProofAfterFailover)
                || !may_be_repeated(shared, intent.subscription_id)
                || !says_nothing(*outcome, AttemptState::Unknown)
        });
        let left = match on(Mutant::ResendAfterTakeover) {
            true => Outcome::NotSent(NotSentProof::Guard),
            false => Outcome::Unknown(Doubt::SenderDied),
        };
        let (outcome, carrier_code, carrier_txn_id) = known.unwrap_or((left, None, None));
        metrics::counter!("tollbook_taken_over_total", "evidence" => (!matches!(outcome, Outcome::Unknown(_))).to_string())
            .increment(1);
        stripe.put(Work::Found(Box::new(Found {
            row,
            aside,
            catalog: shared.books.for_answer(intent.book_version),
            planned: intent.planned,
            from: AttemptState::Intent,
            why,
            outcome,
            carrier_code,
            carrier_txn_id,
            floor,
            inbox: None,
            told: None,
        })));
    }
    Ok(())
}

type Loaded = (Vec<Box<DueRow>>, Vec<(i64, i32, String)>, Vec<AsideRow>);

/// The subscriptions of a chunk of intents, and the own rows of charges that are refunded or not current any more.
async fn load_chunk(
    shared: &Arc<Shared>,
    db: &mut DbLink,
    chunk: &[OpenIntent],
) -> Result<Loaded, StoreError> {
    let ids: Vec<i64> = chunk.iter().map(|intent| intent.subscription_id).collect();
    let conn = db.conn().await?;
    let loaded = load(conn, &ids).await;
    let (mut rows, poison) = db.checked(loaded)?;
    asides::read_held(shared, db, &mut rows).await?;
    let current: HashMap<i64, Period> =
        rows.iter().map(|row| (row.sub.id.0, row.sub.progress.period)).collect();
    let key = |intent: &OpenIntent| (intent.subscription_id, intent.planned.period.number());
    let own_row = |intent: &&OpenIntent| {
        let earlier = |period: &Period| *period != intent.planned.period;
        intent.planned.op == Op::Refund || current.get(&intent.subscription_id).is_some_and(earlier)
    };
    let keys: Vec<(i64, i32)> = chunk.iter().filter(own_row).map(key).collect();
    if keys.is_empty() {
        return Ok((rows, poison, Vec::new()));
    }
    let conn = db.conn().await?;
    let own = load_asides(conn, &keys).await;
    Ok((rows, poison, db.checked(own)?))
}

/// Whether somebody may have sent a request to this carrier again.
pub(crate) fn may_be_repeated(shared: &Shared, subscription_id: i64) -> bool {
    shared.lanes.get(&((subscription_id >> 44) as i32)).is_none_or(|lane| lane.repeats)
}

/// The charge's own row as it was when the refund's intent was made: its last attempt is the one before it.
fn held_by(kept: Aside, planned: &Planned) -> Box<Aside> {
    Box::new(Aside { attempt_no: planned.attempt_no - 1, ..kept })
}

type Known = (Outcome, Option<String>, Option<String>);

/// The answer to an attempt, if this machine's own spool holds it.
async fn own_answer(shared: &Shared, row: &DueRow, period: Period, attempt_no: i16) -> Option<Known> {
    let key = shared.vault.subscriber_key(&row.key_salt, row.kek_version).ok()?;
    kept_answer(shared, &key, row.sub.id.0, period, attempt_no).await
}

async fn kept_answer(
    shared: &Shared,
    key: &SubscriberKey,
    subscription_id: i64,
    period: Period,
    attempt_no: i16,
) -> Option<Known> {
    let place = HistoryKey {
        subscription_id,
        month: period.month(),
        period: period.number(),
        attempt_no,
        seq: SEQ_EXCHANGE,
    };
    let row = shared.history.get(place).await.ok()??;
    let dictionary = match seal::dictionary_needed(&row.bytes) {
        Some(digest) => shared.history.dictionary(digest).await.ok()?,
        None => None,
    };
    let plain = seal::open(|_| dictionary.clone(), key, &place, &row.bytes).ok()?;
    let exchange = Story::decode(&plain).ok()?.exchange?;
    Some((exchange.outcome.outcome()?, exchange.carrier_code, exchange.carrier_txn_id))
}

/// Looks for answers in this spool to attempts that others hold as unknown, because they were left behind by a former
/// incarnation of this spool; gives them to the shards' inboxes. How many were given.
pub(crate) async fn give_late_answers(
    shared: &Arc<Shared>,
    db: &mut DbLink,
    given: &mut std::collections::HashSet<(i64, i32, i16)>,
) -> Result<usize, StoreError> {
    let conn = db.conn().await?;
    let who = &shared.identity;
    let open = own_open_attempts(conn, &who.host, &who.spool, shared.lease.incarnation, LATE_MAX).await;
    let mut count = 0;
    for late in db.checked(open)? {
        let place = (late.subscription_id, late.period, late.attempt_no);
        let Ok(period) = Period::from_number(late.period) else { continue };
        let Ok(key) = shared.vault.subscriber_key(&late.key_salt, late.kek_version) else { continue };
        if given.contains(&place) {
            continue;
        }
        let known = kept_answer(shared, &key, late.subscription_id, period, late.attempt_no).await;
        let Some((outcome, carrier_code, carrier_txn_id)) =
            known.filter(|(outcome, ..)| !matches!(outcome, Outcome::Unknown(_)))
        else {
            continue;
        };
        let evidence = Evidence {
            period: late.period,
            attempt_no: late.attempt_no,
            outcome: StoryOutcome::of(outcome),
            carrier_code,
            carrier_txn_id,
            why: 0,
        };
        if let Ok(payload) = evidence.encode() {
            let conn = db.conn().await?;
            let posted = post_evidence(conn, late.subscription_id, &payload).await;
            db.checked(posted)?;
            given.insert(place);
            count += 1;
        }
    }
    Ok(count)
}
