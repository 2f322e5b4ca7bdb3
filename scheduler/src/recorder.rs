//! The recorder: hops 7 and 8. Decides on what came back, writes the history, then records everything of the batch in
//! one commit. Happy path, retry, recovery and evidence all end here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use billing_core::outcome::{Doubt, Op, Outcome};
use billing_core::period::days_since_2000;
use billing_core::reason::Rule;
use billing_core::states::AttemptState;
use billing_core::subscription::{Aside, Planned};
use billing_core::triage::{BalanceAnswer, NoteKind};
use carriers::Reply;
use jiff::tz::TimeZone;
use storage::fail_point::{Point, reached};
use storage::history::seal::Sealer;
use storage::history::{APPEND_BYTES_MAX, HistoryError, SealedRow};
use storage::mutants::{Mutant, on};
use storage::pg::{AsideRow, DueRow, RecordBatch, RecordRow, StoreError, Verdict, WheelEntry};
use storage::store::{attempts, load, load_asides, open_case, post_evidence, quarantine, record};

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::asides;
use crate::item::{Item, Prepared};
use crate::link::{DbLink, RETRY_PAUSE};
use crate::probe;
use crate::shared::Shared;
use crate::stripe::{Found, Stripe, Work};
use crate::takeover::Evidence;
use crate::worker::WorkerEnd;

mod counted;

/// How often a filling batch is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often a row that changed under us is decided again before people look at it.
const TRIES_MAX: u8 = 5;
/// A batch's bodies may not exceed what the history takes at once.
const BATCH_BYTES_MAX: usize = APPEND_BYTES_MAX / 2;

/// Calls the database until it answers: what came back from a carrier is never dropped because Postgres is away. Ends
/// early only when the worker is halted.
macro_rules! insist {
    ($self:ident, $doing:literal, |$conn:ident| $call:expr) => {
        loop {
            let result = match $self.db.conn().await {
                Ok($conn) => {
                    let result = $call.await;
                    $self.db.checked(result)
                }
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.is_transient() && !$self.shared.is_halted() => {
                    $self.shared.trouble($doing, &error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                other => break other,
            }
        }
    };
}

/// A decided batch whose history is durable, on its way to its commit.
pub(crate) struct Decided {
    prepared: Vec<(Item, Prepared)>,
    now: jiff::Timestamp,
}

/// Decided batches that may wait for the database: what they hold is safe in the history already.
pub(crate) const DECIDED_MAX: usize = 4;

/// Decides and records for one stripe, as two tasks: the first decides and writes the history, the second commits. So
/// answers become durable while a commit is under way, or while Postgres is away.
pub(crate) struct Recorder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stripe: Arc<Stripe>,
    pub(crate) db: DbLink,
    pub(crate) sealers: HashMap<i32, Sealer>,
}

impl Recorder {
    /// Decides until the worker finishes and nothing is on its way any more.
    pub(crate) async fn decide_all(mut self, decided: mpsc::Sender<Decided>) -> Result<(), WorkerEnd> {
        loop {
            let work = self.next_batch().await;
            if work.is_empty() {
                if self.shared.finish.is_cancelled() {
                    return Ok(());
                }
                continue;
            }
            match self.pass(work).await {
                // After a failover nobody records any more; answers still go into the history.
                Ok(_) if self.shared.watch.found() && !self.shared.is_halted() => {}
                Ok(batch) => {
                    let sent = !self.shared.is_halted() && decided.send(batch).await.is_ok();
                    if !sent && (self.shared.is_halted() || !self.shared.watch.found()) {
                        return Ok(());
                    }
                }
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => self.shared.trouble("deciding", &error),
            }
        }
    }

    /// Commits what was decided, until no more comes.
    pub(crate) async fn record_all(mut self, mut decided: mpsc::Receiver<Decided>) -> Result<(), WorkerEnd> {
        while let Some(batch) = decided.recv().await {
            match self.commit(batch).await {
                Ok(()) => {}
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => self.shared.trouble("recording", &error),
            }
            if self.shared.is_halted() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A batch is full, or everything on its way has come in, or its first piece has waited long enough.
    async fn next_batch(&self) -> Vec<Work> {
        let full = self.shared.settings.batch_max;
        if self.stripe.desk_len() == 0 {
            tokio::select! {
                biased;
                () = self.stripe.desk_filled.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = self.shared.finish.cancelled() => {}
            }
        }
        let deadline = Instant::now() + Duration::from_millis(self.shared.settings.batch_wait_ms);
        while (1..full).contains(&self.stripe.desk_len())
            && self.stripe.desk_len() < self.stripe.held()
            && Instant::now() < deadline
        {
            tokio::select! {
                biased;
                () = self.stripe.desk_filled.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        self.stripe.take_work(full)
    }

    /// Decides on a batch and writes its history.
    async fn pass(&mut self, work: Vec<Work>) -> Result<Decided, StoreError> {
        let mut items = Vec::with_capacity(work.len());
        for piece in work {
            match piece {
                Work::Poison { subscription_id, rev, why } => {
                    self.poison(subscription_id, rev, None, &why).await?;
                }
                Work::Note { row, note, .. } if note.kind == NoteKind::Doubt => {
                    if let Some(found) = self.doubted(row, None).await? {
                        items.extend(Item::of(&self.stripe, Work::Found(Box::new(found))));
                    }
                }
                Work::AsideDoubt { row, aside } => {
                    if let Some(found) = self.doubted(row, Some(aside)).await? {
                        items.extend(Item::of(&self.stripe, Work::Found(Box::new(found))));
                    }
                }
                Work::Reply(reply) if self.stripe.is_probe(reply.ticket as i64) => self.probed(reply).await,
                other => items.extend(Item::of(&self.stripe, other)),
            }
        }
        // Sorted by subscription: a quarter less database CPU.
        items.sort_unstable_by_key(|item| item.row.sub.id);
        self.decide(items).await
    }

    /// An answer about a balance: kept for whoever charges next, and in the history. Nothing is recorded.
    async fn probed(&mut self, reply: Reply) {
        let Some(flight) = self.stripe.flights().remove(&(reply.ticket as i64)) else { return };
        let sub = &flight.row.sub;
        let answer = probe::answer_of(&reply, flight.planned.amount_minor);
        metrics::counter!("tollbook_balances_total", "learned" => (answer != BalanceAnswer::Unavailable).to_string())
            .increment(1);
        if let Some(sealer) = self.sealers.get_mut(&sub.id.shard().carrier_no()) {
            match probe::history_row(&flight, &reply, sealer, &self.shared.lease) {
                Ok(row) => self.append(vec![row]).await,
                Err(error) => self.shared.trouble("keeping a balance check", &error),
            }
        }
        self.shared.balances.keep(sub.subscriber_id, answer, self.shared.clock.machine_ms());
        self.stripe.close_floor(flight.floor, 1);
        self.stripe.release(sub.id.0);
        let at_ms = self.shared.clock.business().as_millisecond();
        self.stripe.wheel().insert(WheelEntry::again(sub.id.0, at_ms));
    }

    /// Records a decided batch; what changed under it is loaded and decided again.
    async fn commit(&mut self, mut batch: Decided) -> Result<(), StoreError> {
        while !batch.prepared.is_empty() {
            let verdicts = self.record(&batch.prepared, batch.now).await?;
            if on(Mutant::HistoryAfterRecord) {
                self.keep(&mut batch.prepared).await;
            }
            let (again, given_up) = self.settle(batch.prepared, verdicts, batch.now).await?;
            for item in given_up {
                self.poison_item(&item, "the row changed under every try to record its outcome").await?;
            }
            batch = self.decide(again).await?;
            if self.shared.is_halted() {
                break;
            }
        }
        Ok(())
    }

    /// An accepted attempt whose answer did not come in time: unknown, with its suspense.
    async fn doubted(
        &mut self,
        row: Box<DueRow>,
        aside: Option<Box<Aside>>,
    ) -> Result<Option<Found>, StoreError> {
        let id = row.sub.id.0;
        let at = &row.sub.progress;
        let (period, attempt_no) = aside
            .as_ref()
            .map_or((at.period, at.attempt_no), |aside| (aside.charge.period, aside.attempt_no));
        let kept = insist!(self, "loading an intent", |conn| attempts(conn, id, period.number()))?;
        let kept = kept.into_iter().find(|kept| kept.attempt_no == attempt_no);
        let Some(kept) = kept else {
            self.poison(id, row.sub.rev, None, "an accepted attempt has no intent").await?;
            return Ok(None);
        };
        let planned = Planned {
            op: Op::from_number(kept.op).unwrap_or(Op::Charge),
            period,
            attempt_no: kept.attempt_no,
            parent_no: kept.parent_no,
            amount_minor: kept.amount_minor,
            round: kept.round,
            step: kept.step,
            not_before: jiff::Timestamp::UNIX_EPOCH,
            not_after: jiff::Timestamp::UNIX_EPOCH,
        };
        let floor = self.stripe.open_floor(i64::MAX, 1);
        let (outcome, from) = (Outcome::Unknown(Doubt::NoReply), AttemptState::Accepted);
        let (carrier_code, carrier_txn_id) = (kept.carrier_code, kept.carrier_txn_id);
        let why = Rule::DEADLINE_PASSED.number();
        let catalog = self.shared.books.for_answer(row.book_version);
        Ok(Some(Found {
            row,
            aside,
            catalog,
            planned,
            from,
            why,
            outcome,
            carrier_code,
            carrier_txn_id,
            floor,
            inbox: None,
            told: None,
        }))
    }

    /// Hop 7, then the history.
    async fn decide(&mut self, items: Vec<Item>) -> Result<Decided, StoreError> {
        let now = self.shared.clock.business();
        let mut prepared = Vec::with_capacity(items.len());
        for item in items {
            match item.prepare(&self.shared.vault, &mut self.sealers, &self.shared.lease, now) {
                Ok(ready) => prepared.push((item, ready)),
                Err(why) => self.poison_item(&item, &why).await?,
            }
        }
        if !on(Mutant::HistoryAfterRecord) {
            self.keep(&mut prepared).await;
        }
        Ok(Decided { prepared, now })
    }

    /// The history first: what cannot be explained must not be recorded. Waits for room as long as it takes; sending
    /// has stopped by then.
    async fn keep(&self, prepared: &mut [(Item, Prepared)]) {
        let mut chunk: Vec<SealedRow> = Vec::with_capacity(prepared.len());
        let mut bytes = 0;
        for (_, ready) in prepared {
            let Some(row) = ready.history.take() else { continue };
            bytes += row.bytes.len();
            chunk.push(row);
            if bytes > BATCH_BYTES_MAX {
                self.append(std::mem::take(&mut chunk)).await;
                bytes = 0;
            }
        }
        self.append(chunk).await;
    }

    async fn append(&self, rows: Vec<SealedRow>) {
        if rows.is_empty() {
            return;
        }
        loop {
            reached(Point::BeforeHistory);
            match self.shared.history.append(rows.clone()).await {
                Ok(()) => return reached(Point::AfterHistory),
                Err(HistoryError::Closed) if self.shared.is_halted() => return,
                Err(error) => self.shared.trouble("writing the history", &error),
            }
            if self.shared.is_halted() {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Hop 8. A lost commit answer is asked again with the same batch; a batch that the database refuses is halved
    /// until the poison row is alone.
    async fn record(
        &mut self,
        prepared: &[(Item, Prepared)],
        now: jiff::Timestamp,
    ) -> Result<Vec<Option<Verdict>>, StoreError> {
        let mut verdicts = vec![None; prepared.len()];
        let mut parts: Vec<_> = std::iter::once(0..prepared.len()).collect();
        while let Some(part) = parts.pop() {
            let Some(rows) = prepared.get(part.clone()).filter(|rows| !rows.is_empty()) else { continue };
            match self.record_part(rows, now).await {
                Ok(answers) => {
                    for (place, verdict) in part.zip(answers) {
                        verdicts[place] = Some(verdict);
                    }
                }
                Err(StoreError::Refused(error)) if rows.len() > 1 => {
                    tracing::warn!(rows = rows.len(), %error, "a batch was refused: halving it");
                    let middle = part.start + rows.len() / 2;
                    parts.push(part.start..middle);
                    parts.push(middle..part.end);
                }
                Err(StoreError::Refused(error)) => {
                    let (item, _) = &rows[0];
                    self.poison_item(item, &format!("the database refused its record: {error}")).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(verdicts)
    }

    async fn record_part(
        &mut self,
        rows: &[(Item, Prepared)],
        now: jiff::Timestamp,
    ) -> Result<Vec<Verdict>, StoreError> {
        let mut batch = RecordBatch::default();
        for (item, ready) in rows {
            batch.push(&ready.record, item.words());
        }
        let business_date = days_since_2000(now.to_zoned(TimeZone::UTC).date());
        let stripe = balance_stripe(self.shared.lease.slot, self.stripe.no);
        let lease = self.shared.lease;
        reached(Point::BeforeOutcomeCommit);
        let recorded = insist!(self, "recording outcomes", |conn| taken(
            rows.len(),
            record(conn, &batch, &lease, stripe, now.as_millisecond(), business_date)
        ));
        if recorded.is_ok() {
            reached(Point::AfterOutcomeCommit);
            self.shared.well();
        }
        recorded
    }

    /// One reaction per verdict (the table in ARCHITECTURE.md).
    async fn settle(
        &mut self,
        prepared: Vec<(Item, Prepared)>,
        verdicts: Vec<Option<Verdict>>,
        now: jiff::Timestamp,
    ) -> Result<(Vec<Item>, Vec<Item>), StoreError> {
        let durable_at = self.shared.clock.business();
        self.count(&prepared, &verdicts, now, durable_at);
        let (mut stale, mut given_up) = (Vec::new(), Vec::new());
        for ((item, ready), verdict) in prepared.into_iter().zip(verdicts) {
            // Without a verdict: the database refused the row alone, and it was set aside already.
            let Some(verdict) = verdict else { continue };
            let id = item.row.sub.id.0;
            match verdict {
                Verdict::Ok | Verdict::FinalSame => {
                    if let Some(lane) = self.shared.lanes.get(&item.row.sub.id.shard().carrier_no()) {
                        lane.hint(ready.lane);
                    }
                    self.done(&item, &ready.record);
                    if ready.propose_refund_minor > 0 {
                        let what = format!("{} minor units came late", ready.propose_refund_minor);
                        let attempt = item.attempt_key();
                        insist!(self, "proposing a refund", |conn| open_case(
                            conn,
                            id,
                            attempt,
                            "refund_proposed",
                            &what
                        ))?;
                    }
                }
                Verdict::StaleRev if item.is_note() => {
                    self.release(&item);
                    let at_ms = durable_at.as_millisecond();
                    self.stripe.wheel().keep(WheelEntry::again(id, at_ms));
                    if item.aside_period().is_some() {
                        self.stripe.asides().keep(WheelEntry::again(id, at_ms));
                    }
                }
                Verdict::StaleRev if item.tries >= TRIES_MAX => given_up.push(item),
                Verdict::StaleRev => stale.push(item),
                Verdict::NotOwner => {
                    // What came out of the inbox is still there, for the new owner.
                    if !item.is_from_inbox()
                        && let Some(evidence) = Evidence::of(&item)
                        && let Ok(payload) = evidence.encode()
                    {
                        insist!(self, "giving evidence", |conn| post_evidence(conn, id, &payload))?;
                    }
                    self.release(&item);
                }
                Verdict::NoPartition => {
                    self.poison_item(&item, "no partition holds the period").await?;
                }
                Verdict::NotFound => self.release(&item),
                other => {
                    let what = format!("recording {:?} met {other:?}", item.attempt_no());
                    let attempt = item.attempt_key();
                    insist!(self, "opening a case", |conn| open_case(conn, id, attempt, "conflict", &what))?;
                    self.release(&item);
                    self.look_at(id);
                }
            }
        }
        Ok((self.reload(stale).await?, given_up))
    }

    fn done(&self, item: &Item, record: &RecordRow) {
        self.release(item);
        if let Some(next) = record.progress.next_at {
            let entry = item.row.entry(next.as_millisecond(), record.progress.next_kind);
            self.stripe.wheel().insert(entry);
        }
        for aside in record.asides.iter().chain(&record.refunded) {
            let Some(next) = aside.next_at else { continue };
            self.stripe.asides().insert(item.row.entry(next.as_millisecond(), aside.next_kind));
        }
    }

    fn release(&self, item: &Item) {
        self.stripe.release(item.row.sub.id.0);
        if let Some(floor) = item.floor {
            self.stripe.close_floor(floor, 1);
        }
    }

    /// The outcome of a sent attempt is never dropped: load the row again and decide again.
    async fn reload(&mut self, stale: Vec<Item>) -> Result<Vec<Item>, StoreError> {
        if stale.is_empty() {
            return Ok(stale);
        }
        let ids: Vec<i64> = stale.iter().map(|item| item.row.sub.id.0).collect();
        let (mut rows, poison) = insist!(self, "loading rows again", |conn| load(conn, &ids))?;
        while let Err(error) = asides::read_held(&self.shared, &mut self.db, &mut rows).await {
            if !error.is_transient() || self.shared.is_halted() {
                return Err(error);
            }
            self.shared.trouble("loading arrears again", &error);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let keys: Vec<(i64, i32)> =
            stale.iter().filter_map(|item| Some((item.row.sub.id.0, item.aside_period()?))).collect();
        let own = match keys.is_empty() {
            true => Vec::new(),
            false => insist!(self, "loading charges again", |conn| load_asides(conn, &keys))?,
        };
        let mut rows: HashMap<i64, _> = rows.into_iter().map(|row| (row.sub.id.0, row)).collect();
        let mut again = Vec::with_capacity(stale.len());
        for mut item in stale {
            match rows.remove(&item.row.sub.id.0) {
                Some(row) => match aside_again(&item, &own) {
                    Ok(aside) => {
                        item.reloaded(row, aside);
                        again.push(item);
                    }
                    Err(why) => self.poison_item(&item, &why).await?,
                },
                None => {
                    let why = poison
                        .iter()
                        .find(|(id, ..)| *id == item.row.sub.id.0)
                        .map(|(_, _, why)| why.clone());
                    self.poison_item(&item, &why.unwrap_or_else(|| "the subscription is gone".to_owned()))
                        .await?;
                }
            }
        }
        Ok(again)
    }

    /// Nothing came of it: what fired meanwhile fell out of the wheel.
    fn look_at(&self, id: i64) {
        let at_ms = self.shared.clock.business().as_millisecond();
        self.stripe.wheel().keep(WheelEntry::again(id, at_ms));
    }

    async fn poison_item(&mut self, item: &Item, why: &str) -> Result<(), StoreError> {
        let aside = self.poison(item.row.sub.id.0, item.row.sub.rev, item.attempt_key(), why).await?;
        // An attempt that could not be listed keeps the low water back: the next takeover finds it.
        if let Some(floor) = item.floor.filter(|_| aside) {
            self.stripe.close_floor(floor, 1);
        }
        Ok(())
    }

    /// A row that cannot be decided or recorded is quarantined with a case and stops nobody else.
    async fn poison(
        &mut self,
        subscription_id: i64,
        rev: i32,
        attempt: Option<(i32, i16)>,
        why: &str,
    ) -> Result<bool, StoreError> {
        tracing::error!(subscription = %billing_core::ids::SubscriptionId(subscription_id), why, "quarantined");
        metrics::counter!("tollbook_quarantined_total").increment(1);
        let lease = self.shared.lease;
        let aside = insist!(self, "setting a poison row aside", |conn| quarantine(
            conn,
            &lease,
            subscription_id,
            rev,
            attempt,
            why
        ))?;
        self.stripe.release(subscription_id);
        if !aside {
            self.look_at(subscription_id);
        }
        Ok(aside)
    }
}

/// The charge's own row as it was loaded again; it cannot have gone.
fn aside_again(item: &Item, loaded: &[AsideRow]) -> Result<Option<Box<Aside>>, String> {
    let Some(period) = item.aside_period() else { return Ok(None) };
    let same = |row: &&AsideRow| row.subscription_id == item.row.sub.id.0 && row.period == period;
    let row = loaded.iter().find(same).ok_or("the charge's own row is gone")?;
    Ok(Some(Box::new(row.aside()?)))
}

/// A record's answer as it is taken: otherwise only where the simulation proves that it would notice.
async fn taken(
    rows: usize,
    recorded: impl Future<Output = Result<Vec<Verdict>, StoreError>>,
) -> Result<Vec<Verdict>, StoreError> {
    match recorded.await {
        Err(error) if error.is_transient() && on(Mutant::LostRecordIsDone) => Ok(vec![Verdict::Ok; rows]),
        answer => answer,
    }
}

/// Balances are striped by database connection, so that no two commits contend.
fn balance_stripe(slot: i32, stripe: i16) -> i16 {
    i16::try_from((i64::from(slot) * 8 + i64::from(stripe)) % i64::from(i16::MAX)).unwrap_or(0)
}
