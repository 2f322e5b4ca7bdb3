//! The resolver: finds out what became of UNKNOWN attempts of the shards that this worker owns, by what their carriers
//! can prove. What to do next is the core's decision; what settles an attempt goes as evidence into its shard's inbox,
//! in the commit that keeps the answer, and from there the way of all evidence.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use billing_core::outcome::Outcome;
use billing_core::reason::Rule;
use billing_core::resolve::{AskKind, Step};
use carriers::Reply;
use jiff::Timestamp;
use storage::fail_point::{Point, reached};
use storage::history::seal::Sealer;
use storage::pg::{AttemptKey, DueAsk, DueRow, StoreError, WheelEntry};
use storage::store::{
    begin_resends, carrier_txn_id, due_asks, load, post_evidence, postpone_asks, review_attempts,
    unknown_counts,
};
use storage::story::StoryOutcome;
use tokio::time::Instant;

use crate::guard::stripe_of;
use crate::link::DbLink;
use crate::shared::Shared;
use crate::takeover::Evidence;
use crate::worker::WorkerEnd;

mod answers;
mod deciding;
mod facts;
mod files;
mod lane;
mod request;

use answers::resolved;
pub(crate) use lane::{AskGuard, AskLane, AskSink};
use request::Asking;

/// How often due attempts are looked for; sooner while some wait for the rate.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Or once there is room again.
const LOOK_AFTER_ANSWER: Duration = Duration::from_millis(2);
/// Attempts of one carrier that are looked at in a pass: some for each that may be on its way, so that a pass is cheap while
/// many wait.
const ROWS: std::ops::Range<usize> = 24..200;
const ROWS_PER_PLACE: usize = 4;
/// What is held by somebody else is looked at again after this.
const HELD_AGAIN_MS: i64 = 1_000;
/// Evidence that was posted and not applied is looked at again after this.
const SETTLED_AGAIN_MS: i64 = 60_000;
/// Answers that are kept in one commit.
const ANSWERS_MAX: usize = 256;
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
    /// Held, for the people, with the rule that says why.
    review: Vec<(DueAsk, Rule)>,
    /// When others are looked at next, milliseconds from now on: what cannot be carried out now must not stand before all that
    /// is behind it.
    later: Vec<(AttemptKey, i64)>,
    /// Carriers without room for more.
    full: HashSet<i32>,
}

/// What the resolver remembers between two passes.
#[derive(Default)]
pub(crate) struct ResolverState {
    asking: HashMap<i64, Asking>,
    /// The last pass left some for whom there was no room.
    waiting: bool,
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
        let mut look_at = Instant::now() + LOOK_EVERY;
        loop {
            let stopping = self.shared.stop_claiming.is_cancelled();
            let idle = stopping && self.state.asking.is_empty();
            if idle || self.shared.is_halted() || self.shared.finish.is_cancelled() {
                return Ok(());
            }
            let replies = self.replies.clone();
            let done = tokio::select! {
                biased;
                reply = replies.recv() => match reply {
                    Ok(reply) => {
                        let kept = self.answered(and_more(reply, &replies)).await;
                        // There is room for those that had none.
                        if self.state.waiting {
                            look_at = look_at.min(Instant::now() + LOOK_AFTER_ANSWER);
                        }
                        kept
                    }
                    Err(_) => return Ok(()),
                },
                () = tokio::time::sleep_until(look_at) => {
                    let looked = if stopping { Ok(LOOK_SOON) } else { self.pass().await };
                    look_at = Instant::now() + *looked.as_ref().unwrap_or(&LOOK_EVERY);
                    looked.map(drop)
                }
                () = self.shared.stop_claiming.cancelled(), if !stopping => Ok(()),
            };
            match done {
                Ok(()) => {}
                Err(StoreError::Fenced(why)) => return Err(WorkerEnd::Fenced(why)),
                Err(error) => {
                    self.shared.trouble("resolving unknown attempts", &error);
                    look_at = Instant::now() + LOOK_EVERY;
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
        let rows = |lane: &AskLane| (lane.places() * ROWS_PER_PLACE).clamp(ROWS.start, ROWS.end) as i32;
        let rooms: Vec<(i32, i32)> =
            self.lanes.iter().map(|(carrier_no, lane)| (*carrier_no, rows(lane))).collect();
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
        let wanted = plan.wanted.iter().map(|(row, _)| row.key.subscription_id);
        let held: Vec<i64> =
            wanted.chain(plan.review.iter().map(|(row, _)| row.key.subscription_id)).collect();
        let done = match looked {
            Ok(()) => self.carry_out(&mut plan, now_ms).await,
            Err(error) => Err(error),
        };
        // What is on its way is held until its answer is kept.
        held.iter().filter(|id| !self.state.asking.contains_key(id)).for_each(|id| self.let_go(*id));
        done?;
        if !plan.later.is_empty() {
            let conn = self.db.conn().await?;
            let postponed = postpone_asks(conn, &shared.lease, &plan.later).await;
            self.db.checked(postponed)?;
        }
        self.state.waiting = !plan.full.is_empty();
        Ok(if self.state.waiting { LOOK_SOON } else { LOOK_EVERY })
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
                    match stripe_of(&shared.stripes, id).filter(|stripe| stripe.hold(id)) {
                        Some(_) => plan.review.push((row, rule)),
                        None => plan.later.push((row.key, HELD_AGAIN_MS)),
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

    /// What was found to do, each kind in one commit.
    async fn carry_out(&mut self, plan: &mut Pass, now_ms: i64) -> Result<(), StoreError> {
        self.ask(plan, now_ms).await?;
        self.review(plan).await
    }

    /// Sends what is held and has room: first it is durable that the same requests go out again.
    async fn ask(&mut self, plan: &mut Pass, now_ms: i64) -> Result<(), StoreError> {
        let wanted = std::mem::take(&mut plan.wanted);
        if wanted.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let ids: Vec<i64> = wanted.iter().map(|(row, _)| row.key.subscription_id).collect();
        let conn = self.db.conn().await?;
        let loaded = load(conn, &ids).await;
        let (rows, _) = self.db.checked(loaded)?;
        let mut rows: HashMap<i64, Box<DueRow>> = rows.into_iter().map(|row| (row.sub.id.0, row)).collect();
        let mut made = Vec::new();
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
                plan.later.push((due.key, HELD_AGAIN_MS));
                continue;
            };
            let catalog = shared.books.for_answer(due.book_version);
            match request::again(&due, &row, kind, &catalog, &shared.vault, parent_txn_id) {
                Ok((attempt, our_ref, key)) => {
                    let asking = Asking {
                        ask_no: due.asked.saturating_add(1),
                        due,
                        row,
                        kind,
                        our_ref,
                        key,
                        begun_ms: now_ms,
                        business_at_ms: shared.clock.business().as_millisecond(),
                    };
                    made.push((asking, attempt));
                }
                Err(why) => {
                    tracing::error!(subscription = %row.sub.id, why, "an unknown attempt cannot be asked about");
                    plan.review.push((due, Rule::REVIEW_CONTRADICTION));
                }
            }
        }
        let repeats = made.iter().filter(|(asking, _)| asking.kind == AskKind::Resend);
        let repeats: Vec<_> = repeats.map(|(asking, _)| (asking.due.key, asking.due.asked)).collect();
        let begun = self.begin(&repeats).await?;
        for (asking, attempt) in made {
            if asking.kind == AskKind::Inquiry || begun.contains(&asking.due.key) {
                self.send(asking, attempt);
            } else {
                plan.later.push((asking.due.key, HELD_AGAIN_MS));
            }
        }
        Ok(())
    }

    fn send(&mut self, asking: Asking, attempt: carriers::Attempt) {
        let id = asking.due.key.subscription_id;
        self.guard.begin(id as u64, asking.begun_ms);
        self.state.asking.insert(id, asking);
        let lane = self.lanes.get_mut(&((id >> 44) as i32));
        if !lane.is_some_and(|lane| lane.push(attempt)) {
            self.guard.end(id as u64);
            self.state.asking.remove(&id);
        }
    }

    /// Those of these repeats that may be sent.
    async fn begin(&mut self, repeats: &[(AttemptKey, i16)]) -> Result<HashSet<AttemptKey>, StoreError> {
        let mut begun = HashSet::new();
        if repeats.is_empty() {
            return Ok(begun);
        }
        let lease = self.shared.lease;
        let conn = self.db.conn().await?;
        let all = begin_resends(conn, &lease, repeats).await;
        let all = self.db.checked(all);
        match self.alone(all)? {
            Some(may) => {
                begun.extend(repeats.iter().zip(may).filter(|(_, may)| *may).map(|((key, _), _)| *key))
            }
            None => {
                for repeat in repeats {
                    let conn = self.db.conn().await?;
                    let one = begin_resends(conn, &lease, std::slice::from_ref(repeat)).await;
                    let one = self.db.checked(one);
                    begun.extend(self.alone(one)?.filter(|may| may.contains(&true)).map(|_| repeat.0));
                }
            }
        }
        Ok(begun)
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

    /// Gives what is held to the people.
    async fn review(&mut self, plan: &mut Pass) -> Result<(), StoreError> {
        let review = std::mem::take(&mut plan.review);
        if review.is_empty() {
            return Ok(());
        }
        let lease = self.shared.lease;
        let rows: Vec<_> = review.iter().map(|(due, rule)| (due.key, rule.number())).collect();
        let conn = self.db.conn().await?;
        reached(Point::BeforeReview);
        let moved = review_attempts(conn, &lease, &rows).await;
        reached(Point::AfterReview);
        let moved = self.db.checked(moved);
        let moved = match self.alone(moved)? {
            Some(moved) => moved,
            None => {
                let mut moved = Vec::new();
                for row in &rows {
                    let conn = self.db.conn().await?;
                    let one = review_attempts(conn, &lease, std::slice::from_ref(row)).await;
                    let one = self.db.checked(one);
                    moved.push(self.alone(one)?.is_some_and(|one| one.contains(&true)));
                }
                moved
            }
        };
        for ((due, rule), moved) in review.iter().zip(moved) {
            let id = due.key.subscription_id;
            if !moved {
                plan.later.push((due.key, HELD_AGAIN_MS));
                continue;
            }
            tracing::warn!(subscription = %billing_core::ids::SubscriptionId(id), rule = rule.id(), "in review: only people can settle it");
            resolved(&self.shared.carrier_name((id >> 44) as i32), *rule);
        }
        Ok(())
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

/// The answers that are here already, `first` among them.
fn and_more(first: Reply, replies: &async_channel::Receiver<Reply>) -> Vec<Reply> {
    let more = std::iter::from_fn(|| replies.try_recv().ok());
    std::iter::once(first).chain(more).take(ANSWERS_MAX).collect()
}
