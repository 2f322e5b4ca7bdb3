//! The owner's side of the shard inbox: new subscriptions, stops, late evidence. Rows are deleted in the commit that
//! applies them.

mod adopt;
mod consent;
mod moving;
mod reversal;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use billing_core::ids::Shard;
use billing_core::outcome::{Op, Outcome};
use billing_core::period::{Period, days_since_2000};
use billing_core::states::{AttemptState, from_number};
use billing_core::subscription::{Aside, FLAG_QUARANTINED, Planned};
use billing_core::triage::{Note, Triage, pause, resume, top_up, triage};
use jiff::Timestamp;
use storage::pg::{AttemptRow, DueRow, InboxKind, InboxRow, StoreError, WheelEntry};
use storage::store::{
    attempts, drop_inbox, ensure_partitions, load, load_aside, open_case, read_inbox, refill, was_resent,
};

use crate::asides;
use crate::callbacks::contrary;
use crate::guard::stripe_of;
use crate::link::DbLink;
use crate::refund::{Begun, Loaded, RefundRequest, begin};
use crate::shared::Shared;
use crate::stripe::{Found, Stripe, Work};
use crate::takeover::{Evidence, may_be_repeated};
use crate::told::{Origin, agrees, state_of_open};
use crate::worker::WorkerEnd;

pub(crate) use self::adopt::is_contrary_money;
pub use self::moving::{MoveRequest, successor_seed};
pub use self::reversal::{REVERSAL_REFERENCE_CHARS_MAX, ReversalRequest, plan_reversal_of};

/// Rows per pass.
const ROWS_MAX: i32 = 500;
/// New subscriptions read at once.
const CHUNK: i32 = 10_000;

/// Refused rows of which this process told people already.
const TOLD_MAX: usize = 10_000;

/// Reads the inboxes of the owned shards.
pub(crate) struct InboxReader {
    shared: Arc<Shared>,
    db: DbLink,
    /// The last row of a full pass: rows that have to wait must not keep those behind them from being read.
    after: i64,
    told: HashSet<i64>,
}

impl InboxReader {
    pub(crate) fn new(shared: Arc<Shared>, db: DbLink) -> Self {
        Self { shared, db, after: 0, told: HashSet::new() }
    }

    pub(crate) async fn run(mut self) -> Result<(), WorkerEnd> {
        let pause = Duration::from_millis(self.shared.settings.inbox_poll_ms);
        while !self.shared.stop_claiming.is_cancelled() {
            match self.run_once().await {
                Ok(_) => {}
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => self.shared.trouble("reading the inbox", &error),
            }
            tokio::select! {
                biased;
                () = self.shared.stop_claiming.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// One pass: how many rows were seen.
    pub(crate) async fn run_once(&mut self) -> Result<usize, StoreError> {
        let shards: Vec<i32> = self
            .shared
            .stripes
            .iter()
            .flat_map(|s| s.wheel().shards().map(|s| s.0).collect::<Vec<_>>())
            .filter(|shard| !self.shared.holds.is_held(*shard))
            .collect();
        if shards.is_empty() || !self.shared.guard.lease_lasts() {
            return Ok(0);
        }
        let conn = self.db.conn().await?;
        let rows = read_inbox(conn, &shards, self.after, ROWS_MAX).await;
        let rows = self.db.checked(rows)?;
        let seen = rows.len();
        let full = seen == ROWS_MAX as usize;
        self.after = rows.last().filter(|_| full).map_or(0, |row| row.id);
        for row in rows {
            let Some(stripe) = stripe_of(&self.shared.stripes, i64::from(row.shard.0) << 32).cloned() else {
                continue;
            };
            match self.take_in(&stripe, &row).await {
                Ok(()) => {}
                Err(error @ (StoreError::Fenced(_) | StoreError::Unavailable(_))) => return Err(error),
                Err(error) => self.set_aside(&row, &error).await?,
            }
        }
        Ok(seen)
    }

    async fn take_in(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        match row.kind {
            Some(InboxKind::Created) => self.created(stripe, row).await,
            Some(InboxKind::Stop) => self.stop(stripe, row).await,
            Some(InboxKind::Evidence) => self.evidence(stripe, row).await,
            Some(kind @ (InboxKind::Pause | InboxKind::Resume | InboxKind::TopUp)) => {
                self.wish(stripe, row, kind).await
            }
            Some(InboxKind::Refund) => self.refund(stripe, row).await,
            Some(InboxKind::Move) => self.moved(stripe, row).await,
            Some(InboxKind::Reversal) => self.reversed(stripe, row).await,
            Some(InboxKind::Consent) => self.consented(stripe, row).await,
            None => {
                tracing::warn!(
                    id = row.id,
                    "an inbox row of a kind that this version does not know was left alone"
                );
                Ok(())
            }
        }
    }

    /// A row that the database refuses stays, is tried with each pass, and stops nobody behind it. People are told once.
    async fn set_aside(&mut self, row: &InboxRow, error: &StoreError) -> Result<(), StoreError> {
        self.shared.trouble("taking in an inbox row", error);
        if self.told.len() >= TOLD_MAX || !self.told.insert(row.id) {
            return Ok(());
        }
        let what = format!("inbox row {} ({:?}) is refused: {error}", row.id, row.kind);
        let conn = self.db.conn().await?;
        let opened = open_case(conn, row.subscription_id, None, "inbox_refused", &what).await;
        self.db.checked(opened)
    }

    async fn created(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        let bound = |range: std::ops::Range<usize>| {
            row.payload.get(range).and_then(|b| b.try_into().ok()).map(i64::from_be_bytes)
        };
        let loaded_until = stripe.wheel().loaded_until_ms(row.shard);
        if let (Some(from), Some(to), Some(until)) = (bound(0..8), bound(8..16), loaded_until) {
            let mut after = Some(from - 1);
            while let Some(at) = after.filter(|at| *at < to) {
                let conn = self.db.conn().await?;
                let chunk = refill(conn, row.shard, at, until, CHUNK).await;
                let (entries, next) = self.db.checked(chunk)?;
                let mut wheel = stripe.wheel();
                entries.into_iter().filter(|entry| entry.id <= to).for_each(|entry| wheel.insert(entry));
                after = next;
            }
        }
        self.drop_row(row).await
    }

    async fn stop(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        if !stripe.hold(row.subscription_id) {
            return Ok(()); // on its way: its outcome takes the stop into account, or the next pass does
        }
        let Some(due) = self.load_one(stripe, row.subscription_id).await? else {
            return self.drop_row(row).await;
        };
        let next = due.next_entry();
        let current = self.shared.books.current();
        let catalog = self.shared.books.of(&due, &current).unwrap_or(current);
        let decided = match (catalog.plan(due.sub.plan_no), catalog.zone(due.zone_no)) {
            (Some(plan), Some(zone)) => {
                triage(&due.sub, &plan.rules, zone, self.shared.clock.business()).ok()
            }
            _ => None,
        };
        match decided {
            Some(Triage::Note(note)) => {
                self.make_room(stripe, &note).await?;
                let inbox = Some((row.shard.0, row.id));
                stripe.put(Work::Note { row: due, note, catalog, inbox });
                Ok(())
            }
            _ => {
                stripe.release(row.subscription_id);
                self.fires_again(stripe, next);
                self.drop_row(row).await
            }
        }
    }

    /// Pause, resume, top-up: applied when the subscription stands so that it changes something, else done with.
    async fn wish(&mut self, stripe: &Stripe, row: &InboxRow, kind: InboxKind) -> Result<(), StoreError> {
        let at_ms = row.payload.as_slice().try_into().ok().map(i64::from_be_bytes);
        let at = at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        if !stripe.hold(row.subscription_id) {
            return Ok(()); // on its way: the next pass
        }
        let Some(due) = self.load_one(stripe, row.subscription_id).await? else {
            return self.drop_row(row).await;
        };
        let current = self.shared.books.current();
        let catalog = self.shared.books.of(&due, &current).unwrap_or(current);
        let known = catalog.plan(due.sub.plan_no).zip(catalog.zone(due.zone_no));
        let now = self.shared.clock.business();
        let decided = match (kind, known) {
            _ if due.sub.flags & FLAG_QUARANTINED != 0 => Ok(None),
            (InboxKind::Pause, _) => pause(&due.sub, at),
            (InboxKind::Resume, Some((plan, zone))) => resume(&due.sub, &plan.rules, zone, now),
            (InboxKind::TopUp, Some((plan, zone))) => {
                top_up(&due.sub, &plan.rules, zone, now, at.unwrap_or(now))
            }
            _ => Ok(None),
        };
        match decided {
            Ok(Some(note)) => {
                self.make_room(stripe, &note).await?;
                let inbox = Some((row.shard.0, row.id));
                stripe.put(Work::Note { row: due, note: Box::new(note), catalog, inbox });
                Ok(())
            }
            Ok(None) => {
                stripe.release(row.subscription_id);
                self.fires_again(stripe, due.next_entry());
                self.drop_row(row).await
            }
            Err(error) => {
                let why = error.to_string();
                stripe.put(Work::Poison { subscription_id: row.subscription_id, rev: due.sub.rev, why });
                self.drop_row(row).await
            }
        }
    }

    /// Lets a subscription go whose row could not be read. Whether it fired meanwhile is not known, so it is looked at.
    fn let_go(&self, stripe: &Stripe, id: i64) {
        stripe.release(id);
        let at_ms = self.shared.clock.business().as_millisecond();
        stripe.wheel().keep(WheelEntry::again(id, at_ms));
        stripe.asides().keep(WheelEntry::again(id, at_ms));
    }

    /// The partition of a note: a year's plan may stand beyond those that are made ahead. A held subscription is released
    /// when it cannot be made.
    async fn make_room(&mut self, stripe: &Stripe, note: &Note) -> Result<(), StoreError> {
        let day = days_since_2000(note.charge.period.date());
        if day <= self.shared.partitions_until_day.load(Ordering::SeqCst) {
            return Ok(());
        }
        let made = match self.db.conn().await {
            Ok(conn) => {
                let made = ensure_partitions(conn, day, day).await;
                self.db.checked(made).map(|_| ())
            }
            Err(error) => Err(error),
        };
        made.inspect_err(|_| self.let_go(stripe, note.charge.subscription.0))
    }

    /// What fired while it was held fell out of the wheel.
    fn fires_again(&self, stripe: &Stripe, next: Option<WheelEntry>) {
        let now_ms = self.shared.clock.business().as_millisecond();
        if let Some(next) = next.filter(|next| next.at_ms <= now_ms) {
            stripe.wheel().insert(next);
        }
    }

    async fn refund(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        if !self.shared.may_claim() || !stripe.hold_to_send(row.subscription_id) {
            return Ok(()); // on its way: the next pass looks again
        }
        let Some(due) = self.load_one(stripe, row.subscription_id).await? else {
            return self.drop_row(row).await;
        };
        let next = due.next_entry();
        let loaded = match RefundRequest::period_of(&row.payload) {
            Some(period) => self.refund_rows(row.subscription_id, period).await,
            None => Ok((Vec::new(), None)),
        };
        let (attempts, kept) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                stripe.release(row.subscription_id);
                self.fires_again(stripe, next);
                return Err(error);
            }
        };
        let loaded = Loaded { row: due, attempts: &attempts, kept };
        let begun = begin(&self.shared, stripe, &mut self.db, row, loaded).await;
        if !matches!(begun, Ok(Begun::Sent)) {
            self.fires_again(stripe, next);
        }
        match begun? {
            Begun::Sent | Begun::Later => Ok(()),
            Begun::Refused(why) => {
                let conn = self.db.conn().await?;
                let attempt = RefundRequest::period_of(&row.payload).map(|period| (period.number(), 0));
                let what = format!("not sent: {why}");
                let opened = open_case(conn, row.subscription_id, attempt, "refund_refused", &what).await;
                self.db.checked(opened)?;
                self.drop_row(row).await
            }
        }
    }

    async fn refund_rows(
        &mut self,
        subscription_id: i64,
        period: Period,
    ) -> Result<(Vec<AttemptRow>, Option<Aside>), StoreError> {
        let conn = self.db.conn().await?;
        let rows = attempts(conn, subscription_id, period.number()).await;
        let rows = self.db.checked(rows)?;
        let conn = self.db.conn().await?;
        let kept = load_aside(conn, subscription_id, period).await;
        Ok((rows, self.db.checked(kept)?))
    }

    async fn evidence(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        let Some((evidence, outcome)) =
            Evidence::decode(&row.payload).and_then(|e| e.outcome.outcome().map(|outcome| (e, outcome)))
        else {
            return self.make_case(row, None, "late_evidence", "evidence that cannot be read").await;
        };
        if !stripe.hold(row.subscription_id) {
            return Ok(());
        }
        let Some(due) = self.load_one(stripe, row.subscription_id).await? else {
            return self.drop_row(row).await;
        };
        let refund = match self.open_refund(row.subscription_id, &evidence).await {
            Ok(refund) => refund,
            Err(error) => {
                self.let_go(stripe, row.subscription_id);
                return Err(error);
            }
        };
        let told = Origin::of(&row.payload).told(&self.shared.vault, &mut self.db).await;
        let told = told.inspect_err(|_| self.let_go(stripe, row.subscription_id))?;
        if let Some((planned, aside, from)) = refund {
            stripe.put(Work::Found(Box::new(Found {
                catalog: self.shared.books.for_answer(due.book_version),
                row: due,
                planned,
                from,
                why: evidence.why,
                outcome,
                carrier_code: evidence.carrier_code,
                carrier_txn_id: evidence.carrier_txn_id,
                floor: stripe.open_floor(i64::MAX, 1),
                inbox: Some((row.shard.0, row.id)),
                aside: Some(Box::new(aside)),
                told,
            })));
            return Ok(());
        }
        let at = &due.sub.progress;
        let current = at.period.number() == evidence.period && at.attempt_no == evidence.attempt_no;
        // After a failover a charge may stand ahead of its subscription, which comes to its period later.
        let aside = match current {
            true => None,
            false => asides::aside_of(&mut self.db, row.subscription_id, evidence.period)
                .await
                .inspect_err(|_| self.let_go(stripe, row.subscription_id))?
                .and_then(Result::ok),
        };
        let (attempt_no, open) =
            aside.as_ref().map_or((at.attempt_no, at.open), |aside| (aside.attempt_no, aside.open));
        let same = current || aside.as_ref().is_some_and(|_| attempt_no == evidence.attempt_no);
        let Some(from) = state_of_open(open).filter(|_| same) else {
            stripe.release(row.subscription_id);
            self.fires_again(stripe, due.next_entry());
            return self.not_open(stripe, row, &evidence, outcome).await;
        };
        if told.is_none() && says_nothing(outcome, from) {
            // What it would be read as is what stands there, with a better reason.
            self.let_go(stripe, row.subscription_id);
            return self.drop_row(row).await;
        }
        let intent = self.intent(row.subscription_id, &evidence).await;
        let intent = intent.inspect_err(|_| self.let_go(stripe, row.subscription_id))?;
        let Some(planned) = intent else {
            self.let_go(stripe, row.subscription_id);
            let attempt = Some((evidence.period, evidence.attempt_no));
            return self.make_case(row, attempt, "late_evidence", "evidence without its intent").await;
        };
        let floor = stripe.open_floor(i64::MAX, 1);
        stripe.put(Work::Found(Box::new(Found {
            catalog: self.shared.books.for_answer(due.book_version),
            row: due,
            aside,
            planned,
            from,
            why: evidence.why,
            outcome,
            carrier_code: evidence.carrier_code,
            carrier_txn_id: evidence.carrier_txn_id,
            floor,
            inbox: Some((row.shard.0, row.id)),
            told,
        })));
        Ok(())
    }

    /// Evidence about an attempt that is not open: of one on its way it waits, of a final one it changes nothing. What it
    /// says against the record is for people.
    async fn not_open(
        &mut self,
        stripe: &Stripe,
        row: &InboxRow,
        evidence: &Evidence,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let attempt = Some((evidence.period, evidence.attempt_no));
        let kept = self.attempt_row(row.subscription_id, evidence.period, evidence.attempt_no).await?;
        let state = kept.as_ref().and_then(|kept| from_number::<AttemptState>(kept.state));
        let op = kept.as_ref().map_or(0, |kept| kept.op);
        let moved_minor = kept.and_then(|kept| kept.moved_minor).unwrap_or(0);
        match state {
            // The first request was not processed, and the same one was when it was sent again: no contradiction.
            Some(state)
                if state.is_final() && evidence.why == 0 && says_nothing(outcome, AttemptState::Unknown) =>
            {
                let resent = self.was_resent(row.subscription_id, evidence).await?;
                if resent || agrees(state, moved_minor, outcome) {
                    return self.drop_row(row).await;
                }
                let what = contrary(outcome, state, moved_minor);
                self.make_case(row, attempt, "conflict", &what).await
            }
            // The carrier was faster than its own answer: the next pass looks again.
            Some(AttemptState::Intent) => Ok(()),
            Some(state) if state.is_final() && agrees(state, moved_minor, outcome) => {
                self.drop_row(row).await
            }
            Some(state) if is_contrary_money(op, state, outcome) => {
                let what = contrary(outcome, state, moved_minor);
                self.contrary_money(stripe, row, evidence, outcome, &what).await
            }
            Some(state) if state.is_final() => {
                let what = contrary(outcome, state, moved_minor);
                self.make_case(row, attempt, "conflict", &what).await
            }
            _ => {
                let what =
                    format!("late evidence for an attempt that is not the last of its charge: {outcome:?}");
                self.make_case(row, attempt, "late_evidence", &what).await
            }
        }
    }

    async fn was_resent(&mut self, subscription_id: i64, evidence: &Evidence) -> Result<bool, StoreError> {
        let conn = self.db.conn().await?;
        let repeats = may_be_repeated(&self.shared, subscription_id);
        let resent = was_resent(conn, subscription_id, evidence.period, evidence.attempt_no, repeats).await;
        self.db.checked(resent)
    }

    /// The refund that this is evidence about, while it is open, and how.
    async fn open_refund(
        &mut self,
        subscription_id: i64,
        evidence: &Evidence,
    ) -> Result<Option<(Planned, Aside, AttemptState)>, StoreError> {
        let Some(planned) = self.intent(subscription_id, evidence).await?.filter(|at| at.op == Op::Refund)
        else {
            return Ok(None);
        };
        let conn = self.db.conn().await?;
        let kept = load_aside(conn, subscription_id, planned.period).await;
        let kept = self.db.checked(kept)?.filter(|kept| kept.attempt_no == planned.attempt_no);
        Ok(kept.and_then(|kept| Some((planned, kept, state_of_open(kept.open)?))))
    }

    async fn intent(
        &mut self,
        subscription_id: i64,
        evidence: &Evidence,
    ) -> Result<Option<Planned>, StoreError> {
        let conn = self.db.conn().await?;
        let rows = attempts(conn, subscription_id, evidence.period).await;
        let rows = self.db.checked(rows)?;
        let Ok(period) = Period::from_number(evidence.period) else { return Ok(None) };
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        Ok(rows.into_iter().find(|row| row.attempt_no == evidence.attempt_no).map(|row| Planned {
            op: Op::from_number(row.op).unwrap_or(Op::Charge),
            period,
            attempt_no: row.attempt_no,
            parent_no: row.parent_no,
            amount_minor: row.amount_minor,
            round: row.round,
            step: row.step,
            not_before: epoch,
            not_after: epoch,
        }))
    }

    async fn attempt_row(
        &mut self,
        subscription_id: i64,
        period: i32,
        attempt_no: i16,
    ) -> Result<Option<AttemptRow>, StoreError> {
        let conn = self.db.conn().await?;
        let rows = attempts(conn, subscription_id, period).await;
        Ok(self.db.checked(rows)?.into_iter().find(|row| row.attempt_no == attempt_no))
    }

    /// The row of a held subscription; released again when there is none.
    async fn load_one(&mut self, stripe: &Stripe, id: i64) -> Result<Option<Box<DueRow>>, StoreError> {
        let loaded = match self.db.conn().await {
            Ok(conn) => {
                let loaded = load(conn, &[id]).await;
                self.db.checked(loaded)
            }
            Err(error) => Err(error),
        };
        if !matches!(&loaded, Ok((rows, _)) if !rows.is_empty()) {
            self.let_go(stripe, id);
        }
        let (mut rows, poison) = loaded?;
        let held = asides::read_held(&self.shared, &mut self.db, &mut rows).await;
        held.inspect_err(|_| self.let_go(stripe, id))?;
        for (subscription_id, rev, why) in poison {
            stripe.put(Work::Poison { subscription_id, rev, why });
        }
        Ok(rows.into_iter().next())
    }

    async fn make_case(
        &mut self,
        row: &InboxRow,
        attempt: Option<(i32, i16)>,
        kind: &str,
        what: &str,
    ) -> Result<(), StoreError> {
        let conn = self.db.conn().await?;
        let opened = open_case(conn, row.subscription_id, attempt, kind, what).await;
        self.db.checked(opened)?;
        self.drop_row(row).await
    }

    async fn drop_row(&mut self, row: &InboxRow) -> Result<(), StoreError> {
        let conn = self.db.conn().await?;
        let dropped = drop_inbox(conn, Shard(row.shard.0), &[row.id]).await;
        self.db.checked(dropped)
    }
}

/// Whether what a request met says nothing about an attempt that is unknown or in review: proof that one request was not
/// sent or not processed counts for the first one only, and a doubt adds nothing to a doubt.
pub(crate) fn says_nothing(outcome: Outcome, from: AttemptState) -> bool {
    matches!(from, AttemptState::Unknown | AttemptState::InReview)
        && matches!(
            outcome,
            Outcome::Temporary { .. } | Outcome::Fault { .. } | Outcome::NotSent(_) | Outcome::Unknown(_)
        )
}
