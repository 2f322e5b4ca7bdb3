//! The two batches of the hot path, as columns: UNNEST arrays measured best.

use std::borrow::Cow;

use billing_core::ledger::LegKind;
use billing_core::subscription::{Aside, Planned, Progress};
use jiff::Timestamp;
use sqlx::postgres::PgConnection;

use super::more::{More, MoreRow};
use super::refund::RefundColumns;
use super::usage::{CapColumns, CapRow, GiveBack, GiveBackColumns};
use super::workers::Lease;
use super::{StoreError, Verdict};

mod rows;

pub(crate) use rows::{AsideValues, BeginValues, RecordValues};

/// One intent.
#[derive(Debug, Clone, Copy)]
pub struct BeginRow<'a> {
    /// Whose charge.
    pub subscription_id: i64,
    /// The subscription's `rev` as loaded.
    pub rev: i32,
    /// The attempt.
    pub planned: &'a Planned,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Digest of the money fields.
    pub digest: [u8; 16],
    /// The rule that decided to send.
    pub rule: i16,
    /// The version of the book that it was decided under.
    pub book_version: i32,
    /// What it counts against, where its subscriber has caps.
    pub cap: Option<CapRow>,
}

/// A batch of intents for `begin_attempts`. At most `batch_max` rows; one row per subscription.
#[derive(Debug, Default)]
pub struct BeginBatch {
    shards: Vec<i32>,
    ids: Vec<i64>,
    revs: Vec<i32>,
    periods: Vec<i32>,
    attempt_nos: Vec<i16>,
    ops: Vec<i16>,
    rounds: Vec<i16>,
    steps: Vec<i16>,
    amounts: Vec<i64>,
    currencies: Vec<i16>,
    digest_his: Vec<i64>,
    digest_los: Vec<i64>,
    not_befores: Vec<i64>,
    not_afters: Vec<i64>,
    rules: Vec<i16>,
    book_versions: Vec<i32>,
    parents: Vec<i16>,
    cap_days: Vec<i32>,
    caps: CapColumns,
}

/// What a row of `record_outcomes` is. The number is the SQL function's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum RowKind {
    /// A final outcome.
    Final = 1,
    /// An attempt that is now open.
    Open = 2,
    /// Nothing was sent.
    Note = 3,
}

/// A transfer with its accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostedLeg {
    /// Which kind.
    pub kind: LegKind,
    /// Debited account.
    pub debit: i32,
    /// Credited account.
    pub credit: i32,
    /// Minor units, above 0.
    pub amount_minor: i64,
    /// ISO 4217 numeric.
    pub asset: i16,
}

/// The most transfers of one row: an unknown that was collected leaves suspense, and its amount has three parts.
pub const LEGS_MAX: usize = 4;

/// One row for `record_outcomes`.
#[derive(Debug, Clone)]
pub struct RecordRow {
    /// Whose charge.
    pub subscription_id: i64,
    /// The subscription's `rev` as loaded.
    pub rev: i32,
    /// What the row is.
    pub kind: RowKind,
    /// The period of the attempt or note.
    pub period: i32,
    /// The attempt; 0 for a note.
    pub attempt_no: i16,
    /// The attempt's state (a final's class); 0 for a note.
    pub class: i16,
    /// The outcome's detail; for a note its kind.
    pub reason: i16,
    /// What moved, minor units.
    pub moved_minor: i64,
    /// What the charge has collected with it, minor units.
    pub collected_after_minor: i64,
    /// Where the charge stands.
    pub charge_state: i16,
    /// The rule that decided.
    pub rule: i16,
    /// From first byte to answer.
    pub latency_us: i32,
    /// A deferral's end or an accepted attempt's deadline, business milliseconds.
    pub until_ms: Option<i64>,
    /// The subscription afterwards.
    pub progress: Progress,
    /// Its flags afterwards.
    pub flags: i32,
    /// The version of the book that its charge is decided under.
    pub book_version: i32,
    /// Access until (milliseconds): 0 for no grant, -1 for good.
    pub grant_until_ms: i64,
    /// What merchants are told; 0 for nothing.
    pub event: i16,
    /// Who is told.
    pub merchant_no: i32,
    /// Transfers.
    pub legs: [Option<PostedLeg>; LEGS_MAX],
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Charges with rows of their own as they shall be: those that leave the row, or the one that the attempt was for.
    pub asides: Vec<Aside>,
    /// What is rarer still.
    pub more: Option<Box<MoreRow>>,
    /// The inbox row that this consumes: (shard, id).
    pub inbox: Option<(i32, i64)>,
    /// What goes back to the subscriber's caps: the attempt's own amount, and that of a reservation that is over.
    pub give_back: [Option<GiveBack>; 2],
    /// The row of a charge that was refunded, afterwards.
    pub refunded: Option<Aside>,
}

/// What the carrier called an outcome: its own code, its own id. Borrowed where they live longer than the batch.
pub type CarrierWords<'a> = [Option<Cow<'a, str>>; 2];

/// A batch for `record_outcomes`. One row per subscription.
#[derive(Debug, Default)]
pub struct RecordBatch<'a> {
    shards: Vec<i32>,
    ids: Vec<i64>,
    revs: Vec<i32>,
    kinds: Vec<i16>,
    periods: Vec<i32>,
    attempt_nos: Vec<i16>,
    classes: Vec<i16>,
    reasons: Vec<i16>,
    moveds: Vec<i64>,
    collecteds: Vec<i64>,
    charge_states: Vec<i16>,
    rules: Vec<i16>,
    latencies: Vec<i32>,
    codes: Vec<Option<Cow<'a, str>>>,
    txn_ids: Vec<Option<Cow<'a, str>>>,
    untils: Vec<Option<i64>>,
    n_states: Vec<i16>,
    n_periods: Vec<i32>,
    n_dues: Vec<i64>,
    n_collecteds: Vec<i64>,
    n_attempt_nos: Vec<i16>,
    n_rounds: Vec<i16>,
    n_steps: Vec<i16>,
    n_opens: Vec<i16>,
    n_deferrals: Vec<i16>,
    n_paid_untils: Vec<Option<i64>>,
    n_state_untils: Vec<Option<i64>>,
    n_retry_ats: Vec<Option<i64>>,
    n_next_ats: Vec<Option<i64>>,
    n_next_kinds: Vec<i16>,
    n_flags: Vec<i32>,
    n_book_versions: Vec<i32>,
    n_tries: Vec<i16>,
    g_untils: Vec<i64>,
    e_events: Vec<i16>,
    e_merchants: Vec<i32>,
    t_places: Vec<i32>,
    t_legs: Vec<i16>,
    t_debits: Vec<i32>,
    t_credits: Vec<i32>,
    t_amounts: Vec<i64>,
    t_assets: Vec<i16>,
    a_places: Vec<i32>,
    a_dues: Vec<i64>,
    a_collecteds: Vec<i64>,
    a_attempt_nos: Vec<i16>,
    a_rounds: Vec<i16>,
    a_steps: Vec<i16>,
    a_opens: Vec<i16>,
    a_states: Vec<i16>,
    a_currencies: Vec<i16>,
    a_periods: Vec<i32>,
    a_next_ats: Vec<Option<i64>>,
    a_next_kinds: Vec<i16>,
    a_expires: Vec<Option<i64>>,
    i_shards: Vec<i32>,
    i_ids: Vec<i64>,
    n_reserved_nos: Vec<i16>,
    n_reserved_minors: Vec<Option<i64>>,
    n_reserved_untils: Vec<Option<i64>>,
    give_backs: GiveBackColumns,
    refunds: RefundColumns,
    more: More,
}

fn ms(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_millisecond)
}

fn note_shard(shards: &mut Vec<i32>, id: i64) {
    let shard = (id >> 32) as i32;
    // Rows come sorted by id, so a shard's rows are neighbours.
    if shards.last() != Some(&shard) && !shards.contains(&shard) {
        shards.push(shard);
    }
}

impl BeginBatch {
    /// Appends an intent.
    pub fn push(&mut self, row: &BeginRow<'_>) {
        let planned = row.planned;
        note_shard(&mut self.shards, row.subscription_id);
        self.ids.push(row.subscription_id);
        self.revs.push(row.rev);
        self.periods.push(planned.period.number());
        self.attempt_nos.push(planned.attempt_no);
        self.ops.push(planned.op as i16);
        self.rounds.push(planned.round);
        self.steps.push(planned.step);
        self.amounts.push(planned.amount_minor);
        self.currencies.push(row.currency);
        let digest = u128::from_be_bytes(row.digest);
        self.digest_his.push((digest >> 64) as i64);
        self.digest_los.push(digest as i64);
        self.not_befores.push(planned.not_before.as_millisecond());
        self.not_afters.push(planned.not_after.as_millisecond());
        self.rules.push(row.rule);
        self.book_versions.push(row.book_version);
        self.parents.push(planned.parent_no);
        self.cap_days.push(row.cap.map_or(0, |cap| cap.days.0[0]));
        if let Some(cap) = &row.cap {
            self.caps.push(i32::try_from(self.ids.len()).unwrap_or(i32::MAX), cap);
        }
    }

    /// How many intents it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Makes the intents durable in one commit; a verdict per row, in the batch's sequence.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]: drop everything. [`StoreError::Unavailable`]: whether it was committed is unknown;
    /// calling again with the same batch tells (`ExistsMine`). [`StoreError::Refused`]: nothing is durable.
    pub async fn begin(
        &self,
        conn: &mut PgConnection,
        lease: &Lease,
        business_at_ms: i64,
    ) -> Result<Vec<Verdict>, StoreError> {
        let answer: Option<Vec<i16>> = sqlx::query_scalar(
            "SELECT begin_attempts($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,\
             $21,$22,$23,$24,$25,$26,$27,$28,$29,$30,$31,$32)",
        )
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(business_at_ms)
        .bind(&self.shards)
        .bind(&self.ids)
        .bind(&self.revs)
        .bind(&self.periods)
        .bind(&self.attempt_nos)
        .bind(&self.ops)
        .bind(&self.rounds)
        .bind(&self.steps)
        .bind(&self.amounts)
        .bind(&self.currencies)
        .bind(&self.digest_his)
        .bind(&self.digest_los)
        .bind(&self.not_befores)
        .bind(&self.not_afters)
        .bind(&self.rules)
        .bind(&self.book_versions)
        .bind(&self.parents)
        .bind(&self.cap_days)
        .bind(&self.caps.places)
        .bind(&self.caps.subscribers)
        .bind(&self.caps.weeks)
        .bind(&self.caps.months)
        .bind(&self.caps.minors[0])
        .bind(&self.caps.minors[1])
        .bind(&self.caps.minors[2])
        .bind(&self.caps.requests[0])
        .bind(&self.caps.requests[1])
        .bind(&self.caps.requests[2])
        .fetch_one(conn)
        .await?;
        Ok(Verdict::of_batch(answer, self.len()))
    }
}

impl<'a> RecordBatch<'a> {
    /// Appends a row.
    pub fn push(&mut self, row: &RecordRow, words: CarrierWords<'a>) {
        note_shard(&mut self.shards, row.subscription_id);
        self.ids.push(row.subscription_id);
        self.revs.push(row.rev);
        self.kinds.push(row.kind as i16);
        self.periods.push(row.period);
        self.attempt_nos.push(row.attempt_no);
        self.classes.push(row.class);
        self.reasons.push(row.reason);
        self.moveds.push(row.moved_minor);
        self.collecteds.push(row.collected_after_minor);
        self.charge_states.push(row.charge_state);
        self.rules.push(row.rule);
        self.latencies.push(row.latency_us);
        let [code, txn_id] = words;
        self.codes.push(code);
        self.txn_ids.push(txn_id);
        self.untils.push(row.until_ms);
        let next = &row.progress;
        self.n_states.push(next.state as i16);
        self.n_periods.push(next.period.number());
        self.n_dues.push(next.due_minor);
        self.n_collecteds.push(next.collected_minor);
        self.n_attempt_nos.push(next.attempt_no);
        self.n_rounds.push(next.round);
        self.n_steps.push(next.step);
        self.n_opens.push(next.open as i16);
        self.n_deferrals.push(next.deferrals);
        self.n_paid_untils.push(ms(next.paid_until));
        self.n_state_untils.push(ms(next.state_until));
        self.n_retry_ats.push(ms(next.retry_at));
        self.n_next_ats.push(ms(next.next_at));
        self.n_next_kinds.push(next.next_kind as i16);
        self.n_flags.push(row.flags);
        self.n_book_versions.push(row.book_version);
        self.n_tries.push(next.tries);
        self.g_untils.push(row.grant_until_ms);
        self.e_events.push(row.event);
        self.e_merchants.push(row.merchant_no);
        let place = i32::try_from(self.ids.len()).unwrap_or(i32::MAX);
        for leg in row.legs.iter().flatten() {
            self.t_places.push(place);
            self.t_legs.push(leg.kind as i16);
            self.t_debits.push(leg.debit);
            self.t_credits.push(leg.credit);
            self.t_amounts.push(leg.amount_minor);
            self.t_assets.push(leg.asset);
        }
        for aside in &row.asides {
            self.a_places.push(place);
            self.a_dues.push(aside.due_minor);
            self.a_collecteds.push(aside.collected_minor);
            self.a_attempt_nos.push(aside.attempt_no);
            self.a_rounds.push(aside.round);
            self.a_steps.push(aside.step);
            self.a_opens.push(aside.open as i16);
            self.a_states.push(aside.state as i16);
            self.a_currencies.push(row.currency);
            self.a_periods.push(aside.charge.period.number());
            self.a_next_ats.push(ms(aside.next_at));
            self.a_next_kinds.push(aside.next_kind as i16);
            self.a_expires.push(ms(aside.expires_at));
        }
        if let Some(more) = &row.more {
            self.more.push(place, more);
        }
        if let Some((shard, id)) = row.inbox {
            self.i_shards.push(shard);
            self.i_ids.push(id);
        }
        self.n_reserved_nos.push(next.reserved.map_or(0, |reserved| reserved.attempt_no));
        self.n_reserved_minors.push(next.reserved.map(|reserved| reserved.amount_minor));
        self.n_reserved_untils.push(ms(next.reserved.map(|reserved| reserved.until)));
        row.give_back.iter().flatten().for_each(|back| self.give_backs.push(place, back));
        if let Some(after) = &row.refunded {
            self.refunds.push(place, after);
        }
    }

    /// How many rows it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Records everything in one commit; a verdict per row, in the batch's sequence. `stripe` names the balances
    /// that this connection alone updates; `business_date` is in days since 2000-01-01.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]: drop everything. [`StoreError::Unavailable`]: whether it was committed is unknown;
    /// calling again with the same batch is safe (`FinalSame`). [`StoreError::Refused`]: nothing is durable.
    pub async fn record(
        &self,
        conn: &mut PgConnection,
        lease: &Lease,
        stripe: i16,
        business_at_ms: i64,
        business_date: i32,
    ) -> Result<Vec<Verdict>, StoreError> {
        let answer: Option<Vec<i16>> = sqlx::query_scalar(
            "SELECT record_outcomes($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,\
             $21,$22,$23,$24,$25,$26,$27,$28,$29,$30,$31,$32,$33,$34,$35,$36,$37,$38,$39,$40,\
             $41,$42,$43,$44,$45,$46,$47,$48,$49,$50,$51,$52,$53,$54,$55,$56,$57,$58,$59,$60,\
             $61,$62,$63,$64,$65,$66,$67,$68,$69,$70,$71,$72,$73,$74,$75,$76,$77,$78::text::jsonb)",
        )
        .bind(lease.slot)
        .bind(lease.incarnation)
        .bind(lease.epoch)
        .bind(stripe)
        .bind(business_at_ms)
        .bind(business_date)
        .bind(&self.shards)
        .bind(&self.ids)
        .bind(&self.revs)
        .bind(&self.kinds)
        .bind(&self.periods)
        .bind(&self.attempt_nos)
        .bind(&self.classes)
        .bind(&self.reasons)
        .bind(&self.moveds)
        .bind(&self.collecteds)
        .bind(&self.charge_states)
        .bind(&self.rules)
        .bind(&self.latencies)
        .bind(&self.codes)
        .bind(&self.txn_ids)
        .bind(&self.untils)
        .bind(&self.n_states)
        .bind(&self.n_periods)
        .bind(&self.n_dues)
        .bind(&self.n_collecteds)
        .bind(&self.n_attempt_nos)
        .bind(&self.n_rounds)
        .bind(&self.n_steps)
        .bind(&self.n_opens)
        .bind(&self.n_deferrals)
        .bind(&self.n_paid_untils)
        .bind(&self.n_state_untils)
        .bind(&self.n_retry_ats)
        .bind(&self.n_next_ats)
        .bind(&self.n_next_kinds)
        .bind(&self.n_flags)
        .bind(&self.n_book_versions)
        .bind(&self.n_tries)
        .bind(&self.g_untils)
        .bind(&self.e_events)
        .bind(&self.e_merchants)
        .bind(&self.t_places)
        .bind(&self.t_legs)
        .bind(&self.t_debits)
        .bind(&self.t_credits)
        .bind(&self.t_amounts)
        .bind(&self.t_assets)
        .bind(&self.a_places)
        .bind(&self.a_dues)
        .bind(&self.a_collecteds)
        .bind(&self.a_attempt_nos)
        .bind(&self.a_rounds)
        .bind(&self.a_steps)
        .bind(&self.a_opens)
        .bind(&self.a_states)
        .bind(&self.a_currencies)
        .bind(&self.a_periods)
        .bind(&self.a_next_ats)
        .bind(&self.a_next_kinds)
        .bind(&self.a_expires)
        .bind(&self.i_shards)
        .bind(&self.i_ids)
        .bind(&self.n_reserved_nos)
        .bind(&self.n_reserved_minors)
        .bind(&self.n_reserved_untils)
        .bind(&self.give_backs.places)
        .bind(&self.give_backs.subscribers)
        .bind(&self.give_backs.attempt_nos)
        .bind(&self.give_backs.kept)
        .bind(&self.give_backs.requests)
        .bind(&self.refunds.places)
        .bind(&self.refunds.refundeds)
        .bind(&self.refunds.attempt_nos)
        .bind(&self.refunds.opens)
        .bind(&self.refunds.next_ats)
        .bind(&self.refunds.next_kinds)
        .bind(self.more.document())
        .fetch_one(conn)
        .await?;
        Ok(Verdict::of_batch(answer, self.len()))
    }
}
