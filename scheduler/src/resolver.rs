//! The resolver: finds out what became of UNKNOWN attempts of the shards that this worker owns, by what their carriers
//! can prove. What to do next is the core's decision; what settles an attempt goes as evidence into its shard's inbox,
//! in the commit that keeps the answer, and from there the way of all evidence.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use billing_core::outcome::{Doubt, Outcome};
use billing_core::reason::Rule;
use billing_core::resolve::{Ask, AskKind, Finding, Heard, Step, Told, read_finding};
use carriers::{Inquired, Reply};
use jiff::{SignedDuration, Timestamp};
use storage::fail_point::{Point, reached};
use storage::history::HistoryError;
use storage::history::seal::Sealer;
use storage::mutants::{Mutant, on};
use storage::pg::{AttemptKey, DueAsk, DueRow, NewAsk, StoreError, WheelEntry};
use storage::store::{
    begin_resend, carrier_txn_id, due_asks, load, open_case, post_evidence, postpone_asks, record_ask,
    review_attempt, unknown_counts,
};
use storage::story::StoryOutcome;

use crate::guard::stripe_of;
use crate::link::{DbLink, RETRY_PAUSE};
use crate::shared::Shared;
use crate::takeover::Evidence;
use crate::worker::WorkerEnd;

mod deciding;
mod facts;
mod files;
mod lane;
mod request;

pub(crate) use lane::{AskGuard, AskLane, AskSink};
use request::Asking;

/// How often due attempts are looked for; sooner while some wait for the rate.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SOON: Duration = Duration::from_millis(50);
/// Attempts of one carrier that are looked at in a pass.
const ROWS_MAX: i32 = 200;
/// What is held by somebody else is looked at again after this.
const HELD_AGAIN_MS: i64 = 1_000;
/// Evidence that was posted and not applied is looked at again after this.
const SETTLED_AGAIN_MS: i64 = 60_000;
/// How often the open ones are counted.
const COUNT_EVERY_MS: i64 = 10_000;

/// Asks about unknown attempts, for one worker.
pub(crate) struct Resolver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) db: DbLink,
    pub(crate) sealers: HashMap<i32, Sealer>,
    pub(crate) lanes: BTreeMap<i32, AskLane>,
    pub(crate) guard: Arc<AskGuard>,
    pub(crate) replies: async_channel::Receiver<Reply>,
    /// The version of the book that the lanes were opened with: carriers are those of it until they are opened again.
    pub(crate) lanes_version: i32,
    pub(crate) state: ResolverState,
}

/// What comes of one pass.
#[derive(Default)]
struct Pass {
    /// Held, to be asked now.
    wanted: Vec<(DueAsk, AskKind)>,
    /// When others are looked at next, milliseconds from now on.
    later: Vec<(AttemptKey, i64)>,
    /// Carriers without room for more.
    full: HashSet<i32>,
}

/// What the resolver remembers between two passes.
#[derive(Default)]
pub(crate) struct ResolverState {
    asking: HashMap<i64, Asking>,
    /// The database's clock and ours at the last pass.
    clocks: Option<(Timestamp, i64)>,
    trusted_since: Option<Timestamp>,
    counted_ms: Option<i64>,
    /// Carriers whose files are those of the lanes, by earlier version of the book.
    same_files: HashMap<i32, HashSet<i32>>,
    files: files::FilesKnown,
}

impl Resolver {
    /// Looks and listens until the worker stops claiming, then waits for the answers on their way.
    pub(crate) async fn run(mut self) -> Result<(), WorkerEnd> {
        let mut wait = LOOK_EVERY;
        loop {
            let stopping = self.shared.stop_claiming.is_cancelled();
            let idle = stopping && self.state.asking.is_empty();
            if idle || self.shared.is_halted() || self.shared.finish.is_cancelled() {
                return Ok(());
            }
            let replies = self.replies.clone();
            let looked = tokio::select! {
                biased;
                reply = replies.recv() => match reply {
                    Ok(reply) => self.answered(reply).await.map(|()| wait),
                    Err(_) => return Ok(()),
                },
                () = tokio::time::sleep(wait) => match stopping {
                    true => Ok(LOOK_SOON),
                    false => self.pass().await,
                },
                () = self.shared.stop_claiming.cancelled(), if !stopping => Ok(wait),
            };
            match looked {
                Ok(next) => wait = next,
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => {
                    self.shared.trouble("resolving unknown attempts", &error);
                    wait = LOOK_EVERY;
                }
            }
        }
    }

    /// One pass over what is due; how long to wait for the next.
    async fn pass(&mut self) -> Result<Duration, StoreError> {
        let shared = Arc::clone(&self.shared);
        let now_ms = shared.clock.machine_ms();
        for (carrier_no, lane) in &mut self.lanes {
            if let Some(charging) = shared.lanes.get(carrier_no) {
                lane.follow(charging);
                lane.rest(charging, now_ms);
            }
        }
        if !shared.may_claim() {
            return Ok(LOOK_EVERY);
        }
        let shards: Vec<i32> = shared
            .stripes
            .iter()
            .flat_map(|stripe| stripe.wheel().shards().map(|shard| shard.0).collect::<Vec<_>>())
            .filter(|shard| !shared.holds.is_held(*shard))
            .collect();
        self.count(&shards, now_ms).await?;
        let rooms: Vec<(i32, i32)> = self.lanes.keys().map(|carrier_no| (*carrier_no, ROWS_MAX)).collect();
        let conn = self.db.conn().await?;
        let due = due_asks(conn, &shards, &rooms).await;
        let due = self.db.checked(due)?;
        if let Some(first) = due.first() {
            self.watch_clock(first.now, now_ms, shared.clock.machine_ms());
        }
        self.compare_carriers(&due).await?;
        self.look_at_files(&due).await?;
        let mut plan = Pass::default();
        let looked = self.look(due, &mut plan, now_ms).await;
        let ids: Vec<i64> = plan.wanted.iter().map(|(row, _)| row.key.subscription_id).collect();
        let asked = match looked {
            Ok(()) => self.ask(std::mem::take(&mut plan.wanted), now_ms).await,
            Err(error) => Err(error),
        };
        if asked.is_err() {
            ids.iter().filter(|id| !self.state.asking.contains_key(id)).for_each(|id| self.let_go(*id));
        }
        asked?;
        if !plan.later.is_empty() {
            let conn = self.db.conn().await?;
            let postponed = postpone_asks(conn, &shared.lease, &plan.later).await;
            self.db.checked(postponed)?;
        }
        Ok(if plan.full.is_empty() { LOOK_EVERY } else { LOOK_SOON })
    }

    /// Goes through what is due: what is asked is held, within the room that its carrier has.
    async fn look(&mut self, due: Vec<DueAsk>, plan: &mut Pass, now_ms: i64) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        for row in due {
            let id = row.key.subscription_id;
            if self.state.asking.contains_key(&id) {
                continue;
            }
            let carrier_no = (id >> 44) as i32;
            let again_ms =
                |at: Timestamp| at.as_millisecond().saturating_sub(row.now.as_millisecond()).max(1);
            let kind = match self.step(&row) {
                None => continue,
                Some(Step::Resend { at } | Step::Inquire { at }) if at > row.now => {
                    plan.later.push((row.key, again_ms(at)));
                    continue;
                }
                Some(Step::WaitUntil(at)) => {
                    plan.later.push((row.key, again_ms(at)));
                    continue;
                }
                Some(Step::Settle { outcome, rule }) => {
                    let settled = self.settle(&row, outcome, rule).await;
                    self.alone(settled)?;
                    plan.later.push((row.key, SETTLED_AGAIN_MS));
                    continue;
                }
                Some(Step::Review(rule)) => {
                    let moved = self.review(&row, rule).await;
                    if !self.alone(moved)?.unwrap_or(false) {
                        plan.later.push((row.key, HELD_AGAIN_MS));
                    }
                    continue;
                }
                Some(Step::Resend { .. }) => AskKind::Resend,
                Some(Step::Inquire { .. }) => AskKind::Inquiry,
            };
            // One attempt of a subscription at a time.
            let known = plan.wanted.iter().any(|(other, _)| other.key.subscription_id == id);
            if known || plan.full.contains(&carrier_no) {
                continue;
            }
            let Some(stripe) = stripe_of(&shared.stripes, id) else { continue };
            if !stripe.hold_to_send(id) {
                plan.later.push((row.key, HELD_AGAIN_MS));
                continue;
            }
            let wanted = plan.wanted.iter().filter(|(other, _)| other.key.subscription_id >> 44 == id >> 44);
            let wanted = wanted.count();
            let (lane, charging) = (self.lanes.get_mut(&carrier_no), shared.lanes.get(&carrier_no));
            if lane.zip(charging).is_some_and(|(lane, charging)| lane.has_room(charging, wanted, now_ms)) {
                plan.wanted.push((row, kind));
            } else {
                stripe.release(id);
                plan.full.insert(carrier_no);
            }
        }
        Ok(())
    }

    /// What the database refuses of one row costs the others nothing: it is said, and the row is looked at again. Only a
    /// fence and a database that is away end the pass.
    fn alone<T>(&self, done: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error @ (StoreError::Fenced(_) | StoreError::Unavailable(_))) => Err(error),
            Err(error) => {
                self.shared.trouble("resolving one unknown attempt", &error);
                Ok(None)
            }
        }
    }

    /// Sends what is held and has room.
    async fn ask(&mut self, wanted: Vec<(DueAsk, AskKind)>, now_ms: i64) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let ids: Vec<i64> = wanted.iter().map(|(row, _)| row.key.subscription_id).collect();
        let conn = self.db.conn().await?;
        let loaded = load(conn, &ids).await;
        let (rows, _) = self.db.checked(loaded)?;
        let mut rows: HashMap<i64, Box<DueRow>> = rows.into_iter().map(|row| (row.sub.id.0, row)).collect();
        for (due, kind) in wanted {
            let id = due.key.subscription_id;
            let parent_txn_id = match due.planned.parent_no {
                0 => None,
                no => {
                    let conn = self.db.conn().await?;
                    let named = carrier_txn_id(conn, id, due.planned.period, no).await;
                    self.db.checked(named)?
                }
            };
            let Some(row) = rows.remove(&id) else {
                self.let_go(id);
                continue;
            };
            let catalog = shared.books.for_answer(due.book_version);
            let made = request::again(&due, &row, kind, &catalog, &shared.vault, parent_txn_id);
            let (attempt, our_ref, key) = match made {
                Ok(made) => made,
                Err(why) => {
                    self.let_go(id);
                    tracing::error!(subscription = %row.sub.id, why, "an unknown attempt cannot be asked about");
                    let moved = self.review(&due, Rule::REVIEW_CONTRADICTION).await;
                    self.alone(moved)?;
                    continue;
                }
            };
            if kind == AskKind::Resend {
                let conn = self.db.conn().await?;
                let begun = begin_resend(conn, &shared.lease, due.key, due.asked).await;
                let begun = self.db.checked(begun);
                if !self.alone(begun)?.unwrap_or(false) {
                    self.let_go(id);
                    continue;
                }
            }
            let begun_ms = now_ms;
            let asking = Asking {
                ask_no: due.asked.saturating_add(1),
                due,
                row,
                kind,
                our_ref,
                key,
                begun_ms,
                business_at_ms: shared.clock.business().as_millisecond(),
            };
            self.guard.begin(id as u64, begun_ms);
            self.state.asking.insert(id, asking);
            let lane = self.lanes.get_mut(&((id >> 44) as i32));
            if !lane.is_some_and(|lane| lane.push(attempt)) {
                self.guard.end(id as u64);
                self.state.asking.remove(&id);
                self.let_go(id);
            }
        }
        Ok(())
    }

    /// An answer: into the history, then what it proves into the database, with the evidence where it settles.
    async fn answered(&mut self, reply: Reply) -> Result<(), StoreError> {
        let id = reply.ticket as i64;
        let carrier_no = (id >> 44) as i32;
        self.guard.end(reply.ticket);
        if let Some(lane) = self.lanes.get_mut(&carrier_no) {
            lane.answered();
        }
        let Some(asking) = self.state.asking.remove(&id) else { return Ok(()) };
        let finding = finding_of(&asking, &reply);
        let carrier = self.shared.carrier_name(carrier_no);
        metrics::counter!("tollbook_asks_total", "carrier" => carrier.clone(), "kind" => asking.kind.name(),
            "finding" => finding.name())
        .increment(1);
        if let Some(alert) = reply.alert {
            metrics::counter!("tollbook_alerts_total", "alert" => alert.name()).increment(1);
        }
        self.keep(&asking, &reply, finding).await;
        let kept = self.record(&asking, &reply, finding, &carrier).await;
        self.let_go(id);
        kept
    }

    async fn record(
        &mut self,
        asking: &Asking,
        reply: &Reply,
        finding: Finding,
        carrier: &str,
    ) -> Result<(), StoreError> {
        let due = &asking.due;
        let passed_ms = self.shared.clock.machine_ms().saturating_sub(asking.begun_ms);
        let now = due.now.checked_add(SignedDuration::from_millis(passed_ms)).unwrap_or(due.now);
        let mut after = due.clone();
        after.now = now;
        after.asked = asking.ask_no;
        after.asks.push(Ask { kind: asking.kind, asked_at: due.now, answered_at: now, finding });
        if asking.kind == AskKind::Resend {
            after.last_write_at = Some(now);
        }
        if let Some(txn_id) = &reply.carrier_txn_id {
            after.carrier_txn_id.get_or_insert_with(|| txn_id.to_string());
        }
        let step = self.step(&after);
        let until_ms = |at: Timestamp| at.as_millisecond().saturating_sub(now.as_millisecond()).max(1);
        let (settled, next_ms) = match step {
            Some(Step::Settle { outcome, rule }) => (Some((outcome, rule)), SETTLED_AGAIN_MS),
            Some(Step::Resend { at } | Step::Inquire { at } | Step::WaitUntil(at)) => (None, until_ms(at)),
            Some(Step::Review(_)) | None => (None, 1),
        };
        let evidence = settled.map(|(outcome, rule)| Evidence {
            period: due.key.period,
            attempt_no: due.key.attempt_no,
            outcome: StoryOutcome::of(outcome),
            carrier_code: reply.carrier_code.as_deref().map(str::to_owned),
            carrier_txn_id: after.carrier_txn_id.clone(),
            why: rule.number(),
        });
        let evidence = evidence.and_then(|evidence| evidence.encode().ok());
        let new = NewAsk {
            ask_no: asking.ask_no,
            kind: asking.kind,
            asked_at: due.now,
            finding,
            outcome: match finding {
                Finding::Found(outcome) => outcome,
                _ => reply.outcome,
            },
            rule: finding.rule(asking.kind).number(),
            next_ms,
            carrier_txn_id: reply.carrier_txn_id.as_deref(),
            evidence: evidence.as_deref(),
        };
        loop {
            let kept = match self.db.conn().await {
                Ok(conn) => {
                    reached(Point::BeforeAskKept);
                    let kept = record_ask(conn, &self.shared.lease, due.key, &new).await;
                    reached(Point::AfterAskKept);
                    self.db.checked(kept)
                }
                Err(error) => Err(error),
            };
            match kept {
                Err(error) if error.is_transient() && !self.shared.is_halted() => {
                    self.shared.trouble("keeping what was asked", &error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Ok(false) => return Ok(()),
                Ok(true) => break,
                Err(error) => return Err(error),
            }
        }
        if let Some((_, rule)) = settled {
            resolved(carrier, rule);
        }
        let first = |asks: &[Ask]| !asks.iter().any(|ask| ask.finding == Finding::Contradicts);
        if finding == Finding::Contradicts && first(&due.asks) {
            self.case(due.key, "inquiry_contradicts", "the carrier's answer speaks of another request")
                .await?;
        }
        Ok(())
    }

    /// The history first: what cannot be explained must not count.
    async fn keep(&mut self, asking: &Asking, reply: &Reply, finding: Finding) {
        let carrier_no = (asking.due.key.subscription_id >> 44) as i32;
        let Some(sealer) = self.sealers.get_mut(&carrier_no) else { return };
        let row = match request::history_row(asking, reply, finding, sealer, &self.shared.lease) {
            Ok(row) => row,
            Err(error) => return self.shared.trouble("sealing what was asked", &error),
        };
        loop {
            match self.shared.history.append(vec![row.clone()]).await {
                Ok(()) => return,
                Err(HistoryError::Closed) if self.shared.is_halted() => return,
                Err(error) => self.shared.trouble("writing the history", &error),
            }
            if self.shared.is_halted() {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// What was proven before and not applied yet: told again, for as long as it is listed as unknown.
    async fn settle(&mut self, due: &DueAsk, outcome: Outcome, rule: Rule) -> Result<(), StoreError> {
        let evidence = Evidence {
            period: due.key.period,
            attempt_no: due.key.attempt_no,
            outcome: StoryOutcome::of(outcome),
            carrier_code: None,
            carrier_txn_id: due.carrier_txn_id.clone(),
            why: rule.number(),
        };
        let Ok(payload) = evidence.encode() else { return Ok(()) };
        let conn = self.db.conn().await?;
        let posted = post_evidence(conn, due.key.subscription_id, &payload).await;
        self.db.checked(posted)
    }

    /// Gives it to the people; `false` while somebody else holds its subscription.
    async fn review(&mut self, due: &DueAsk, rule: Rule) -> Result<bool, StoreError> {
        let id = due.key.subscription_id;
        let Some(stripe) = stripe_of(&self.shared.stripes, id).cloned() else { return Ok(false) };
        if !stripe.hold(id) {
            return Ok(false);
        }
        let lease = self.shared.lease;
        let moved = match self.db.conn().await {
            Ok(conn) => {
                reached(Point::BeforeReview);
                let moved = review_attempt(conn, &lease, due.key, rule.number()).await;
                reached(Point::AfterReview);
                self.db.checked(moved)
            }
            Err(error) => Err(error),
        };
        self.let_go(id);
        if moved? {
            tracing::warn!(subscription = %billing_core::ids::SubscriptionId(id), rule = rule.id(), "in review: only people can settle it");
            resolved(&self.shared.carrier_name((id >> 44) as i32), rule);
        }
        Ok(true)
    }

    async fn case(&mut self, key: AttemptKey, kind: &str, what: &str) -> Result<(), StoreError> {
        let conn = self.db.conn().await?;
        let attempt = Some((key.period, key.attempt_no));
        let opened = open_case(conn, key.subscription_id, attempt, kind, what).await;
        self.db.checked(opened)
    }

    /// What fired while it was held is looked at again.
    fn let_go(&self, id: i64) {
        let Some(stripe) = stripe_of(&self.shared.stripes, id) else { return };
        stripe.release(id);
        let at_ms = self.shared.clock.business().as_millisecond();
        stripe.wheel().keep(WheelEntry::again(id, at_ms));
        stripe.asides().keep(WheelEntry::again(id, at_ms));
    }

    async fn count(&mut self, shards: &[i32], now_ms: i64) -> Result<(), StoreError> {
        if self.state.counted_ms.is_some_and(|counted_ms| now_ms - counted_ms < COUNT_EVERY_MS) {
            return Ok(());
        }
        let conn = self.db.conn().await?;
        let counts = unknown_counts(conn, shards).await;
        let counts: HashMap<i32, i64> = self.db.checked(counts)?.into_iter().collect();
        for carrier_no in self.lanes.keys() {
            let count = counts.get(carrier_no).copied().unwrap_or(0);
            metrics::gauge!("tollbook_unknown_attempts", "carrier" => self.shared.carrier_name(*carrier_no))
                .set(count as f64);
        }
        self.state.counted_ms = Some(now_ms);
        Ok(())
    }
}

fn resolved(carrier: &str, rule: Rule) {
    metrics::counter!("tollbook_resolved_total", "carrier" => carrier.to_owned(), "rule" => rule.id())
        .increment(1);
}

/// What an answer proves.
fn finding_of(asking: &Asking, reply: &Reply) -> Finding {
    let planned = &asking.due.planned;
    let doubt = match reply.outcome {
        Outcome::Unknown(doubt) => doubt,
        _ => Doubt::NoReply,
    };
    if asking.kind == AskKind::Resend && on(Mutant::ResendReadLikeFirst) {
        return match reply.outcome {
            Outcome::Unknown(_) | Outcome::Duplicate | Outcome::Pending => Finding::NoAnswer,
            read => Finding::Found(read),
        };
    }
    let heard = match (asking.kind, reply.finding) {
        (AskKind::Resend, _) => Heard::Repeated(reply.outcome),
        (AskKind::Inquiry, Some(carriers::Finding::Inquiry(inquired))) => Heard::Inquired(match inquired {
            Inquired::Found(outcome) => Told::Found(outcome),
            Inquired::NotFound => Told::NotFound,
            Inquired::StillWorking => Told::StillWorking,
            Inquired::NoAnswer => Told::NoAnswer(doubt),
        }),
        (AskKind::Inquiry, _) => Heard::Inquired(Told::NoAnswer(doubt)),
    };
    read_finding(planned.op, planned.amount_minor, reply.wrote, heard)
}
