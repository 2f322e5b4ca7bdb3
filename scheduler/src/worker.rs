//! A worker: one process' share of the engine. Registers, owns shards, runs its stripes, drains, leaves.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use billing_core::book::engine::EngineSettings;
use billing_core::outcome::{NotSentProof, Outcome, Refusal};
use billing_core::states::{AttemptState, State, from_number};
use carriers::{Adapter, OutcomeSink, Reply, SendGuard};
use storage::fail_point::{Point, reached};
use storage::guard::GuardMemory;
use storage::history::seal::Sealer;
use storage::history::{HistoryStore, digest_of};
use storage::mutants::{Mutant, on};
use storage::pg::{StoreError, WorkerIdentity};
use storage::spool::SentLog;
use storage::store::{Database, connect, fence_worker, read_clock, register_worker, set_low_water};
use storage::vault::Vault;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bookkeeper::{BookKeeper, ReadVersion};
use crate::books::Books;
use crate::breaker::BreakerSettings;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::failover::{Clearing, Holds, Watch, first_look, terms_of};
use crate::filler::Filler;
use crate::guard::{LeaseGuard, stripe_of};
use crate::hold::{Hold, held};
use crate::inbox::InboxReader;
use crate::lane::Lane;
use crate::link::DbLink;
use crate::membership::{LeaseKeeper, Steward};
use crate::recorder::{DECIDED_MAX, Recorder};
use crate::resolver::{AskGuard, AskLane, AskSink, Resolver, ResolverState};
use crate::shared::Shared;
use crate::stats::Stats;
use crate::stripe::{Stripe, Work};

/// How a worker runs; from `engine.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Pairs of database connections.
    pub stripes: usize,
    /// The most rows of a batch.
    pub batch_max: usize,
    /// How long a batch waits to fill.
    pub batch_wait_ms: u64,
    /// How far ahead the wheel holds entries, business time.
    pub wheel_horizon_ms: i64,
    /// How often inboxes are read.
    pub inbox_poll_ms: u64,
    /// A worker whose renewals did not change for this long is dead.
    pub lease_ttl_ms: i64,
    /// How often the lease is renewed.
    pub lease_renew_ms: u64,
    /// How often the shards' low water is written.
    pub low_water_every_ms: i64,
    /// The first byte leaves at most this long after the intent.
    pub send_max_age_ms: i64,
    /// How long a drain waits for answers.
    pub drain_deadline_ms: u64,
    /// How long spools are waited for after a failover; then everything that was due is asked about.
    pub quarantine_wait_ms: i64,
    /// By how much the intervals of the resolution of unknown attempts are divided; above 1 only under a clock that does
    /// not run as time does.
    pub resolution_time_scale: i64,
}

impl From<&EngineSettings> for WorkerSettings {
    fn from(book: &EngineSettings) -> Self {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        Self {
            stripes: book.stripes.max(1) as usize,
            batch_max: book.batch_max.max(1) as usize,
            batch_wait_ms: book.batch_wait_ms.max(1),
            wheel_horizon_ms: signed(book.wheel_horizon_s.saturating_mul(1_000)),
            inbox_poll_ms: book.inbox_poll_ms,
            lease_ttl_ms: signed(book.lease_ttl_ms),
            lease_renew_ms: book.lease_renew_ms,
            low_water_every_ms: signed(book.low_water_every_ms),
            send_max_age_ms: signed(book.send_max_age_ms),
            drain_deadline_ms: book.drain_deadline_ms,
            quarantine_wait_ms: signed(book.spool_wait_ms),
            resolution_time_scale: i64::from(book.resolution_time_scale.max(1)),
        }
    }
}

/// One carrier as a worker needs it.
pub struct WorkerCarrier {
    /// Its number.
    pub carrier_no: i32,
    /// Its id.
    pub id: String,
    /// Speaks to it.
    pub adapter: Arc<dyn Adapter>,
    /// Speaks to it about unknown attempts, over connections of its own.
    pub asker: Arc<dyn Adapter>,
    /// What it can prove about them.
    pub proof: carriers::Proof,
    /// When its lane opens the breaker.
    pub breaker: BreakerSettings,
    /// Compression dictionary for its exchanges.
    pub dictionary: Vec<u8>,
}

/// Everything that a worker is made of.
pub struct WorkerParts {
    /// Where the structured data lies.
    pub database: Database,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Stops the whole worker for a while, in rehearsals.
    pub hold: Option<Arc<Hold>>,
    /// How to run.
    pub settings: WorkerSettings,
    /// The book in force.
    pub catalog: Catalog,
    /// Reads other versions of it.
    pub read_version: Arc<ReadVersion>,
    /// The carriers of the book.
    pub carriers: Vec<WorkerCarrier>,
    /// Keys.
    pub vault: Arc<Vault>,
    /// Where the history goes.
    pub history: Arc<dyn HistoryStore>,
    /// Where the sent lines go.
    pub sent_log: Arc<SentLog>,
    /// Who this process is.
    pub identity: WorkerIdentity,
    /// What this machine remembers of the server.
    pub guard_memory: Arc<GuardMemory>,
    /// The slot of this spool's former process, proven dead by the spool's lock.
    pub slot: Option<i32>,
    /// Random per process start.
    pub incarnation: i64,
}

/// Why a worker could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The history could not keep a dictionary.
    #[error("the history is not usable: {0}")]
    History(#[from] storage::history::HistoryError),
    /// Intervals that protect money would be shortened under real time.
    #[error(
        "resolution.time_scale is {time_scale}, and the business clock runs as time does: only sandboxes may shorten \
         what carriers are given to settle; leave it out"
    )]
    Hurried {
        /// What the setting says.
        time_scale: i64,
    },
    /// A carrier's dictionary is not usable.
    #[error("carrier {carrier}: its compression dictionary is not usable: {why}")]
    Dictionary {
        /// Which carrier.
        carrier: String,
        /// Why.
        why: String,
    },
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WorkerEnd {
    /// It was asked to stop and drained.
    #[error("stopped")]
    Stopped,
    /// It drained because a new book needs other lanes or settings. Start again under a new incarnation.
    #[error("the book changed")]
    Renewed,
    /// Somebody took its slot: it dropped everything. Start again under a new incarnation.
    #[error("fenced: {0}")]
    Fenced(String),
    /// One of its parts died, which is a bug; nothing is lost, the intents are found by the next owner.
    #[error("a part of the worker died: {0}")]
    Died(String),
}

/// A worker that runs.
pub struct Worker {
    shared: Arc<Shared>,
    parts: JoinSet<Result<(), WorkerEnd>>,
    adapters: JoinSet<()>,
}

impl Worker {
    /// Registers and starts all parts. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] when the database or the history cannot be used.
    pub async fn start(parts: WorkerParts) -> Result<Self, StartError> {
        let mut conn = connect(&parts.database, "tollbook start").await?;
        let terms = terms_of(&parts.settings);
        let seen = first_look(&mut conn, &parts.guard_memory, terms).await?;
        let clock = parts.clock;
        clock.set(read_clock(&mut conn).await?);
        let time_scale = parts.settings.resolution_time_scale;
        if time_scale > 1 && clock.scale() == 1 {
            return Err(StartError::Hurried { time_scale });
        }
        let lease = register_worker(&mut conn, parts.slot, parts.incarnation, &parts.identity).await?;
        let before_us = clock.boot_us();
        let database_us = set_low_water(&mut conn, &lease, &[], None).await?;
        clock.adopt(database_us, before_us, clock.boot_us());
        tracing::info!(slot = lease.slot, epoch = lease.epoch, "registered");
        let settings = parts.settings;
        let bucket_ms = i64::from(clock.scale()).clamp(64, 64_000) * 1_000 / 64;
        let stripe_count = i16::try_from(settings.stripes).unwrap_or(1).max(1);
        let (heads, batch_max) = (Arc::default(), settings.batch_max);
        let stripes: Vec<Arc<Stripe>> =
            (0..stripe_count).map(|no| Arc::new(Stripe::new(no, bucket_ms, batch_max, &heads))).collect();
        let guard = Arc::new(LeaseGuard::new(Arc::clone(&clock), settings.send_max_age_ms));
        guard.watch(stripes.clone());
        let watch = Arc::new(Watch::new(seen, parts.guard_memory, terms, Arc::clone(&guard)));
        let router = Arc::new(Router { stripes: stripes.clone(), lanes: std::sync::OnceLock::new() });
        let mut adapters = JoinSet::new();
        let mut lanes = BTreeMap::new();
        let mut dictionaries = HashMap::new();
        let stop_claiming = CancellationToken::new();
        let ask_guard = Arc::new(AskGuard::new(
            Arc::clone(&guard),
            Arc::clone(&clock) as Arc<dyn Clock>,
            stop_claiming.clone(),
            settings.send_max_age_ms,
        ));
        let places: usize =
            parts.carriers.iter().map(|carrier| carrier.asker.caps().in_flight_max as usize).sum();
        let (answers, replies) = async_channel::bounded(places.max(1));
        let answers = Arc::new(AskSink(answers));
        let mut ask_lanes = BTreeMap::new();
        for carrier in parts.carriers {
            if !carrier.dictionary.is_empty() {
                parts
                    .history
                    .put_dictionary(digest_of(&carrier.dictionary), carrier.dictionary.clone())
                    .await?;
            }
            let carrier_no = carrier.carrier_no;
            dictionaries.insert(carrier_no, (carrier.id.clone(), carrier.dictionary.clone()));
            let ask_lane = AskLane::open(
                Arc::clone(&carrier.asker),
                carrier.proof.clone(),
                Arc::clone(&ask_guard) as Arc<dyn SendGuard>,
                Arc::clone(&answers) as Arc<dyn OutcomeSink>,
                &mut adapters,
            );
            ask_lanes.insert(carrier_no, ask_lane);
            let lane = Lane::open(
                carrier,
                settings.batch_max,
                Arc::clone(&clock),
                Arc::clone(&guard) as Arc<dyn SendGuard>,
                Arc::clone(&router) as Arc<dyn OutcomeSink>,
                parts.hold.as_ref(),
                &mut adapters,
            );
            lanes.insert(carrier_no, lane);
        }
        let _ = router.lanes.set(lanes.clone());
        let now_ms = clock.machine_ms();
        let shared = Arc::new(Shared {
            settings,
            lease,
            identity: parts.identity,
            clock,
            books: Books::new(parts.catalog),
            vault: parts.vault,
            history: parts.history,
            sent_log: parts.sent_log,
            stripes,
            lanes,
            guard,
            stats: Stats::default(),
            balances: crate::probe::Balances::default(),
            stop_claiming,
            finish: CancellationToken::new(),
            renew: CancellationToken::new(),
            partitions_ready: AtomicBool::new(false),
            partitions_until_day: AtomicI32::new(i32::MIN),
            database_us: AtomicI64::new(database_us),
            database: parts.database,
            halted: AtomicBool::new(false),
            sent_log_ok: AtomicBool::new(true),
            watch,
            holds: Holds::default(),
            last_well_ms: AtomicI64::new(now_ms),
            last_trouble: Mutex::default(),
        });
        let mut worker = Self { shared: Arc::clone(&shared), parts: JoinSet::new(), adapters };
        worker.spawn_parts(&dictionaries, parts.read_version, parts.hold.as_ref())?;
        let resolver = Resolver {
            shared: Arc::clone(&shared),
            db: DbLink::watched(
                shared.database.clone(),
                format!("tollbook {} resolver", shared.lease.slot),
                &shared.watch,
            ),
            sealers: sealers(&dictionaries)?,
            lanes: ask_lanes,
            guard: ask_guard,
            replies,
            lanes_version: shared.books.current().names.book_version,
            state: ResolverState::default(),
        };
        worker.parts.spawn(held(parts.hold.as_ref(), resolver.run()));
        Ok(worker)
    }

    fn spawn_parts(
        &mut self,
        dictionaries: &HashMap<i32, (String, Vec<u8>)>,
        read: Arc<ReadVersion>,
        hold: Option<&Arc<Hold>>,
    ) -> Result<(), StartError> {
        let shared = &self.shared;
        let link = |what: &str| {
            let name = format!("tollbook {} {what}", shared.lease.slot);
            DbLink::watched(shared.database.clone(), name, &shared.watch)
        };
        for stripe in &shared.stripes {
            let engine = Engine {
                shared: Arc::clone(shared),
                stripe: Arc::clone(stripe),
                db: link(&format!("begin {}", stripe.no)),
            };
            let recorder = |what: &str| {
                Ok::<_, StartError>(Recorder {
                    shared: Arc::clone(shared),
                    stripe: Arc::clone(stripe),
                    db: link(&format!("{what} {}", stripe.no)),
                    sealers: sealers(dictionaries)?,
                })
            };
            self.parts.spawn(held(hold, engine.run()));
            let (decided, to_record) = mpsc::channel(DECIDED_MAX);
            self.parts.spawn(held(hold, recorder("decide")?.decide_all(decided)));
            self.parts.spawn(held(hold, recorder("record")?.record_all(to_record)));
        }
        let lease = LeaseKeeper { shared: Arc::clone(shared), db: link("lease") };
        self.parts.spawn(held(hold, lease.run()));
        self.parts.spawn(held(hold, Steward::new(Arc::clone(shared), link("steward")).run()));
        self.parts.spawn(held(hold, InboxReader::new(Arc::clone(shared), link("inbox")).run()));
        self.parts.spawn(held(hold, Clearing::new(Arc::clone(shared), link("clearing")).run()));
        let keeper = BookKeeper { shared: Arc::clone(shared), db: link("book"), read, refused: 0 };
        self.parts.spawn(held(hold, keeper.run()));
        self.parts.spawn(held(hold, Filler { shared: Arc::clone(shared), db: link("filler") }.run()));
        Ok(())
    }

    /// What the parts share, for the API.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Runs until `stop` is cancelled (then drains and leaves) or the worker is fenced or dies.
    pub async fn run(mut self, stop: CancellationToken) -> WorkerEnd {
        let renew = self.shared.renew.clone();
        let drained = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(WorkerEnd::Stopped),
            () = renew.cancelled() => Ok(WorkerEnd::Renewed),
            ended = self.parts.join_next() => Err(ended_as(ended)),
        };
        let end = match drained {
            Ok(asked) => self.drain().await.unwrap_or(asked),
            Err(end) => {
                if self.shared.watch.found() {
                    self.keep_answers().await;
                }
                end
            }
        };
        self.halt();
        self.shared.finish.cancel();
        while let Some(part) = self.parts.join_next().await {
            if let Err(error) = part {
                tracing::error!(%error, "a part of the worker died");
            }
        }
        // Attempts inside the lanes are refused by the guard; their connections end with the lanes.
        let _ = tokio::time::timeout(Duration::from_secs(2), async {
            while self.adapters.join_next().await.is_some() {}
        })
        .await;
        end
    }

    /// Claims nothing more, waits for the answers on their way, gives everything back.
    /// Something else than that when it was fenced or a part died meanwhile.
    async fn drain(&mut self) -> Option<WorkerEnd> {
        let shared = Arc::clone(&self.shared);
        tracing::info!(in_flight = shared.report().in_flight, "draining");
        shared.stop_claiming.cancel();
        let drain_ms = i64::try_from(shared.settings.drain_deadline_ms).unwrap_or(0);
        let now_ms = shared.clock.machine_ms();
        let deadline_ms = now_ms + drain_ms;
        // Half of it belongs to the answers: what a long queue still holds then is known not to have been sent, instead of
        // being unknown to whoever takes over.
        shared.guard.send_until(now_ms + drain_ms / 2);
        while shared.stripes.iter().any(|stripe| stripe.held() > 0) && shared.clock.machine_ms() < deadline_ms
        {
            if let Some(ended) = self.parts.try_join_next()
                && let Ok(Err(end)) = ended
            {
                return Some(end);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left = shared.report().in_flight;
        if left > 0 {
            tracing::warn!(
                left,
                "the drain's deadline passed: these attempts are unknown to whoever takes over"
            );
        }
        shared.finish.cancel();
        let settle = async {
            while let Some(part) = self.parts.join_next().await {
                if let Ok(Err(end)) = part {
                    return Some(end);
                }
            }
            None
        };
        let ended =
            tokio::time::timeout(Duration::from_millis(shared.settings.drain_deadline_ms.max(1_000)), settle)
                .await;
        if let Ok(Some(end)) = ended {
            return Some(end);
        }
        // What still waits in a lane must not leave once the shards are somebody else's.
        shared.guard.halt();
        let left = async {
            let mut conn = connect(&shared.database, "tollbook leave").await?;
            fence_worker(&mut conn, &shared.lease, None).await
        };
        match left.await {
            Ok(_) => tracing::info!(slot = shared.lease.slot, "drained, shards given back"),
            Err(error) => {
                tracing::warn!(%error, "could not give the shards back: others take them when the lease ends")
            }
        }
        None
    }

    /// The database failed over: nothing leaves any more, and nothing is recorded that another server decided. What carriers
    /// still answer goes into the history, as evidence about the attempts whose intents are lost.
    async fn keep_answers(&self) {
        let shared = &self.shared;
        shared.stop_claiming.cancel();
        let deadline_ms =
            shared.clock.machine_ms() + i64::try_from(shared.settings.drain_deadline_ms).unwrap_or(0);
        let waits = || {
            shared.lanes.values().any(|lane| lane.depth().0 > 0)
                || shared.stripes.iter().any(|stripe| stripe.desk_len() > 0 || !stripe.flights().is_empty())
        };
        while waits() && shared.clock.machine_ms() < deadline_ms {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn halt(&self) {
        self.shared.halted.store(true, Ordering::SeqCst);
        self.shared.guard.halt();
        self.shared.stop_claiming.cancel();
        for lane in self.shared.lanes.values() {
            lane.close();
        }
    }
}

fn sealers(dictionaries: &HashMap<i32, (String, Vec<u8>)>) -> Result<HashMap<i32, Sealer>, StartError> {
    let sealer = |(carrier_no, (carrier, dictionary)): (&i32, &(String, Vec<u8>))| {
        let unusable = |error: storage::history::seal::SealError| StartError::Dictionary {
            carrier: carrier.clone(),
            why: error.to_string(),
        };
        Ok((*carrier_no, Sealer::new(dictionary).map_err(unusable)?))
    };
    dictionaries.iter().map(sealer).collect()
}

/// Sends replies to the stripe that waits for them.
struct Router {
    stripes: Vec<Arc<Stripe>>,
    lanes: std::sync::OnceLock<BTreeMap<i32, Arc<Lane>>>,
}

impl OutcomeSink for Router {
    fn deliver(&self, mut reply: Reply) {
        reached(Point::AnswerRead);
        reply.outcome = misread(reply.outcome);
        let subscription_id = reply.ticket as i64;
        let carrier_no = (subscription_id >> 44) as i32;
        if let Some(lane) = self.lanes.get().and_then(|lanes| lanes.get(&carrier_no)) {
            lane.done(reply.outcome);
        }
        if let Some(alert) = reply.alert {
            metrics::counter!("tollbook_alerts_total", "alert" => alert.name()).increment(1);
            tracing::warn!(
                alert = alert.name(),
                subscription = %billing_core::ids::SubscriptionId(subscription_id),
                "a carrier's answer needs a person's eye"
            );
        }
        if let Some(stripe) = stripe_of(&self.stripes, subscription_id) {
            stripe.put(Work::Reply(reply));
        }
    }
}

/// An answer as it is read: otherwise only where the simulation proves that it would notice.
fn misread(outcome: Outcome) -> Outcome {
    let refused = Outcome::Declined(Refusal::NoFunds);
    match outcome {
        Outcome::Unknown(_) if on(Mutant::TimeoutAsRefusal) => refused,
        Outcome::Unknown(_) if on(Mutant::LostAnswerAsNotSent) => Outcome::NotSent(NotSentProof::Connect),
        Outcome::Duplicate if on(Mutant::DuplicateAsRefusal) => refused,
        read => read,
    }
}

fn ended_as(ended: Option<Result<Result<(), WorkerEnd>, tokio::task::JoinError>>) -> WorkerEnd {
    match ended {
        Some(Ok(Err(end))) => end,
        Some(Ok(Ok(()))) | None => WorkerEnd::Died("it ended by itself".to_owned()),
        Some(Err(error)) => WorkerEnd::Died(error.to_string()),
    }
}

/// The word for an attempt's class.
#[must_use]
pub fn class_name(class: i16) -> &'static str {
    from_number::<AttemptState>(class).map_or("unlisted", State::name)
}
