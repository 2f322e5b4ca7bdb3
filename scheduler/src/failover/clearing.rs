//! Clearing up after a failover: this spool's lines are handed in, lost intents of the owned shards become durable again
//! as UNKNOWN attempts, and a shard whose list is in place charges again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use billing_core::decide::soonest_again_s;
use billing_core::ids::{ATTEMPT_NO_MAX, AttemptId, ChargeId, Shard, SubscriptionId, money_digest};
use billing_core::reason::Rule;
use jiff::{SignedDuration, Timestamp};
use storage::mutants::{Mutant, on};
use storage::pg::{CapDay, DueRow, LostAttempt, OpenIntent, Resumed, StoreError, Verdict, WheelEntry};
use storage::spool::SentLine;
use storage::store::{
    end_doubt, hand_in_done, hand_in_lines, list_doubts, load, lost_attempts, restore_lost, resume_shard,
};

use crate::bounds;
use crate::engine::Engine;
use crate::guard::stripe_of;
use crate::link::DbLink;
use crate::shared::Shared;
use crate::stripe::Stripe;
use crate::takeover;
use crate::worker::WorkerEnd;

/// Between two looks while something is held.
const PAUSE: Duration = Duration::from_millis(200);
/// Lines handed in at once.
const LINES: usize = 1_000;
/// Lost attempts looked at in a pass over a shard.
const CHUNK: i32 = 500;

/// Clears up for one worker. Without a failover it waits and has no connection.
pub(crate) struct Clearing {
    shared: Arc<Shared>,
    db: DbLink,
    /// Where the last pass over a shard stopped: what has to wait must not hide what is behind it.
    after: HashMap<i32, (i64, i32, i16)>,
    /// Quarantines that this spool was handed in for, as this process knows.
    handed_in: Vec<i64>,
}

impl Clearing {
    pub(crate) fn new(shared: Arc<Shared>, db: DbLink) -> Self {
        Self { shared, db, after: HashMap::new(), handed_in: Vec::new() }
    }

    pub(crate) async fn run(mut self) -> Result<(), WorkerEnd> {
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                biased;
                () = shared.stop_claiming.cancelled() => return Ok(()),
                () = shared.holds.something.notified() => {}
            }
            match self.pass().await {
                Ok(()) => {}
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => shared.trouble("clearing up after a failover", &error),
            }
            if shared.holds.shards().is_empty() {
                self.db.close();
            }
            tokio::select! {
                biased;
                () = shared.stop_claiming.cancelled() => return Ok(()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn pass(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let (wanted, from_us) = shared.holds.wanted_spool();
        if wanted.iter().any(|id| !self.handed_in.contains(id)) {
            self.hand_in(wanted, from_us).await?;
        }
        if !shared.guard.lease_lasts() {
            return Ok(());
        }
        for (shard, kind) in shared.holds.shards() {
            let Some(stripe) = stripe_of(&shared.stripes, Shard(shard).id(0)).cloned() else { continue };
            let owned = stripe.wheel().shards().any(|own| own.0 == shard);
            if !owned {
                continue;
            }
            let waits = self.restore(&stripe, shard).await?;
            // Held wholly: it goes on when everything that is here again is listed as unknown.
            if kind == 1 && waits == 0 && !stripe.is_busy(Shard(shard)) {
                self.resume(&stripe, shard).await?;
            }
        }
        Ok(())
    }

    /// Every line since the window began. Nothing was sent under an older incarnation of this spool since: its worker ended
    /// before this one began.
    async fn hand_in(&mut self, quarantines: Vec<i64>, from_us: i64) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let read = match shared.sent_log.lines_since(from_us) {
            Ok(Some(read)) => read,
            Ok(None) => {
                shared.trouble("handing in the spool", &"its lines of that time were deleted by age");
                return Ok(());
            }
            Err(error) => {
                shared.trouble("handing in the spool", &error);
                return Ok(());
            }
        };
        let (mut lines, mut lost) = (0_i64, 0);
        let mut chunk: Vec<SentLine> = Vec::with_capacity(LINES);
        let mut read = read.peekable();
        while let Some(line) = read.next() {
            match line {
                Ok(line) => chunk.push(line),
                Err(error) => {
                    shared.trouble("handing in the spool", &error);
                    return Ok(());
                }
            }
            if chunk.len() == LINES || read.peek().is_none() {
                let conn = self.db.conn().await?;
                let handed = hand_in_lines(conn, &shared.identity, &chunk).await;
                lost += self.db.checked(handed)?;
                lines += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
                chunk.clear();
            }
        }
        let conn = self.db.conn().await?;
        let done = hand_in_done(conn, &shared.identity, &quarantines, lines, lost).await;
        self.db.checked(done)?;
        tracing::warn!(lines, lost, "handed in what this spool says was sent before the failover");
        self.handed_in = quarantines;
        Ok(())
    }

    /// One chunk of a shard's lost attempts: how many of them are still on their way to being listed.
    async fn restore(&mut self, stripe: &Stripe, shard: i32) -> Result<usize, StoreError> {
        let shared = Arc::clone(&self.shared);
        let first = (Shard(shard).id(0), 0, 0);
        let after = self.after.get(&shard).copied().unwrap_or(first);
        let conn = self.db.conn().await?;
        let chunk = lost_attempts(conn, &shared.lease, shard, after, CHUNK).await;
        let chunk = self.db.checked(chunk)?;
        let full = chunk.len() == CHUNK as usize;
        let last = chunk
            .last()
            .map(|lost| (lost.subscription_id, lost.planned.period.number(), lost.planned.attempt_no));
        self.after.insert(shard, last.filter(|_| full).unwrap_or(first));
        // Until the pass has come round, what is before or behind this chunk counts as waiting.
        let mut waits = usize::from(full || after != first);
        if !chunk.is_empty() {
            self.restore_chunk(stripe, chunk, &mut waits).await?;
        }
        Ok(waits)
    }

    async fn restore_chunk(
        &mut self,
        stripe: &Stripe,
        chunk: Vec<LostAttempt>,
        waits: &mut usize,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let ids: Vec<i64> = chunk.iter().map(|lost| lost.subscription_id).collect();
        let conn = self.db.conn().await?;
        let loaded = load(conn, &ids).await;
        let (rows, _) = self.db.checked(loaded)?;
        let rows: HashMap<i64, Box<DueRow>> = rows.into_iter().map(|row| (row.sub.id.0, row)).collect();
        for lost in chunk {
            let id = lost.subscription_id;
            if let Some(until) = lost.followed_until {
                // A row that cannot be read is with people, and its charge stays held.
                if let Some(row) = rows.get(&id) {
                    self.follow(&lost, row, until).await?;
                    *waits += 1;
                }
                continue;
            }
            // One after the other: another attempt of the subscription may be the one whose turn it is.
            if !stripe.hold(id) {
                *waits += 1;
                continue;
            }
            let key = (id, lost.planned.period.number(), lost.planned.attempt_no);
            let cap = rows.get(&id).and_then(|row| self.cap_day(row, &lost));
            // The low water must not pass an intent that is here again and has no row yet.
            let floor = stripe.open_floor(i64::MIN, 1);
            let restored = match self.db.conn().await {
                Ok(conn) => {
                    let restored = restore_lost(conn, &shared.lease, key, cap).await;
                    self.db.checked(restored)
                }
                Err(error) => Err(error),
            };
            let handed = match restored {
                Ok(Verdict::Ok) => {
                    *waits += 1;
                    let why = if lost.assumed { Rule::FAILOVER_DOUBTED } else { Rule::FAILOVER_LISTED };
                    metrics::counter!("tollbook_lost_attempts_total", "assumed" => lost.assumed.to_string())
                        .increment(1);
                    takeover::hand_held(&shared, stripe, &mut self.db, vec![intent(lost)], why.number()).await
                }
                Ok(_) => {
                    self.let_go(stripe, id, rows.get(&id).map(AsRef::as_ref));
                    Ok(())
                }
                Err(error) => {
                    self.let_go(stripe, id, rows.get(&id).map(AsRef::as_ref));
                    Err(error)
                }
            };
            stripe.close_floor(floor, 1);
            handed?;
        }
        Ok(())
    }

    /// An assumed attempt was proven not to have been applied: whoever may have sent it may have found out as well, and gone
    /// on with the next one, if there was time for that. Then the next one is asked about too.
    async fn follow(&mut self, lost: &LostAttempt, row: &DueRow, until: Timestamp) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let next = self.next_of(lost, row).filter(|_| !on(Mutant::DoubtEndsWithAbsence));
        if let Some(line) = next.filter(|line| line.intent_at_us <= until.as_microsecond()) {
            let conn = self.db.conn().await?;
            let listed = list_doubts(conn, &shared.lease, true, &[line]).await;
            if self.db.checked(listed)? > 0 {
                return Ok(());
            }
            // It is here already, and has its own way.
        }
        let key = (lost.subscription_id, lost.planned.period.number(), lost.planned.attempt_no);
        let conn = self.db.conn().await?;
        let ended = end_doubt(conn, &shared.lease, key).await;
        self.db.checked(ended).map(drop)
    }

    /// The attempt that its sender would have made next, as early as it may have; none when the subscriber had said STOP by
    /// then, or the charging window was over. A clock that runs faster, for a rehearsal, counts as if it did not: in a minute
    /// of such a clock a charge could be tried again a hundred times.
    fn next_of(&self, lost: &LostAttempt, row: &DueRow) -> Option<SentLine> {
        let planned = &lost.planned;
        let attempt_no = planned.attempt_no.checked_add(1).filter(|no| *no <= ATTEMPT_NO_MAX)?;
        let catalog = self.shared.books.for_answer(lost.book_version);
        let plan = catalog.plan(row.sub.plan_no);
        let delay_s = plan.map_or(1, |plan| soonest_again_s(&plan.rules.dunning, planned.attempt_no));
        let delay = SignedDuration::from_secs(delay_s);
        let business_at = lost.business_at.checked_add(delay).ok()?;
        let ends = [row.sub.stop_at, row.consent_until, Some(planned.not_after)];
        if ends.into_iter().flatten().any(|end| end <= business_at) {
            return None;
        }
        let subscription = SubscriptionId(lost.subscription_id);
        let charge = ChargeId { subscription, period: planned.period };
        Some(SentLine {
            subscription_id: lost.subscription_id,
            period: planned.period.number(),
            attempt_no,
            op: planned.op as u8,
            carrier_no: subscription.shard().carrier_no(),
            amount_minor: planned.amount_minor,
            currency: lost.currency,
            digest: money_digest(
                AttemptId { charge, attempt_no },
                planned.op,
                row.sub.subscriber_id,
                row.sub.plan_no,
                planned.amount_minor,
                lost.currency,
            ),
            incarnation: lost.incarnation,
            intent_at_us: lost.intent_at.checked_add(delay).ok()?.as_microsecond(),
            business_at_ms: business_at.as_millisecond(),
            not_before_ms: planned.not_before.as_millisecond(),
            not_after_ms: planned.not_after.as_millisecond(),
            book_version: lost.book_version,
            round: planned.round,
            step: planned.step,
            parent_no: planned.parent_no,
            rule: lost.rule,
            wish: 0,
        })
    }

    /// What fired while it was held fell out of the wheel: it is looked at again.
    fn let_go(&self, stripe: &Stripe, id: i64, row: Option<&DueRow>) {
        stripe.release(id);
        // Of a held shard nothing fires.
        if self.shared.holds.is_held((id >> 32) as i32) {
            return;
        }
        let at_ms = self.shared.clock.business().as_millisecond();
        let later = |at: &jiff::Timestamp| at.as_millisecond() > at_ms;
        if !row.and_then(|row| row.sub.progress.next_at).as_ref().is_some_and(later) {
            stripe.wheel().keep(WheelEntry::again(id, at_ms));
        }
        stripe.asides().keep(WheelEntry::again(id, at_ms));
    }

    fn cap_day(&self, row: &DueRow, lost: &LostAttempt) -> Option<CapDay> {
        let catalog = self.shared.books.for_answer(lost.book_version);
        let cap = bounds::cap_of(&catalog, row, &lost.planned, lost.business_at)?;
        Some((cap.subscriber_id, cap.days.0))
    }

    async fn resume(&mut self, stripe: &Arc<Stripe>, shard: i32) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let conn = self.db.conn().await?;
        let resumed = resume_shard(conn, &shared.lease, shard, None).await;
        let mut resumed = self.db.checked(resumed)?;
        if resumed == Resumed::ListAll {
            let until_ms = shared.clock.business().as_millisecond();
            let listed = self.list_all(stripe, shard, until_ms).await?;
            tracing::warn!(
                shard,
                listed,
                "a spool is missing: every charge that was due is asked about first"
            );
            let conn = self.db.conn().await?;
            let done = resume_shard(conn, &shared.lease, shard, Some(until_ms)).await;
            resumed = self.db.checked(done)?;
        }
        if resumed == Resumed::Yes {
            tracing::info!(shard, "a shard charges again after a failover");
        }
        Ok(())
    }

    /// Lists what the engine would have sent by now.
    async fn list_all(
        &mut self,
        stripe: &Arc<Stripe>,
        shard: i32,
        until_ms: i64,
    ) -> Result<usize, StoreError> {
        let db = self.db.another("doubts");
        let mut engine = Engine { shared: Arc::clone(&self.shared), stripe: Arc::clone(stripe), db };
        engine.list_due(Shard(shard), until_ms).await
    }
}

fn intent(lost: LostAttempt) -> OpenIntent {
    OpenIntent {
        subscription_id: lost.subscription_id,
        planned: lost.planned,
        currency: lost.currency,
        incarnation: lost.incarnation,
        book_version: lost.book_version,
        failed_over: true,
    }
}
