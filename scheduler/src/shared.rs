//! What all parts of a worker share: its lease, its book, its lanes, and what it tells of itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use carriers::{Attempt, Reply};
use storage::history::HistoryStore;
use storage::pg::{ClockRow, Lease, WorkerIdentity};
use storage::spool::SentLog;
use storage::store::{Database, connect, open_case};
use storage::vault::Vault;
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::clock::Clock;
use crate::engine::has_room;
use crate::failover::{Holds, Watch};
use crate::guard::LeaseGuard;
use crate::lane::Lane;
use crate::stats::Stats;
use crate::stripe::{Stripe, Work};
use crate::worker::WorkerSettings;

/// Trouble of one kind is logged at most this often.
const TROUBLE_EVERY_MS: i64 = 1_000;
/// A worker that could not write for this long is not ready.
const READY_WITHIN_MS: i64 = 15_000;

/// What all parts of a worker share.
pub struct Shared {
    pub(crate) settings: WorkerSettings,
    pub(crate) lease: Lease,
    pub(crate) identity: WorkerIdentity,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) books: Books,
    pub(crate) vault: Arc<Vault>,
    pub(crate) history: Arc<dyn HistoryStore>,
    pub(crate) sent_log: Arc<SentLog>,
    pub(crate) stripes: Vec<Arc<Stripe>>,
    pub(crate) lanes: BTreeMap<i32, Arc<Lane>>,
    pub(crate) guard: Arc<LeaseGuard>,
    pub(crate) stats: Stats,
    pub(crate) balances: crate::probe::Balances,
    pub(crate) stop_claiming: CancellationToken,
    pub(crate) finish: CancellationToken,
    /// A new book needs new lanes: drain and start again.
    pub(crate) renew: CancellationToken,
    pub(crate) partitions_ready: AtomicBool,
    /// The last day, since 2000-01-01, whose periods have a partition.
    pub(crate) partitions_until_day: AtomicI32,
    /// The database's clock as last read, microseconds: never ahead of any later intent.
    pub(crate) database_us: AtomicI64,
    pub(crate) database: Database,
    pub(crate) halted: AtomicBool,
    pub(crate) sent_log_ok: AtomicBool,
    pub(crate) last_well_ms: AtomicI64,
    pub(crate) watch: Arc<Watch>,
    pub(crate) holds: Holds,
    pub(crate) last_trouble: Mutex<HashMap<&'static str, (i64, u32)>>,
}

/// What a worker tells of itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WorkerReport {
    /// Slot.
    pub slot: i32,
    /// Incarnation.
    pub incarnation: i64,
    /// Epoch.
    pub epoch: i32,
    /// Whether it claims and sends.
    pub ready: bool,
    /// Why not, when it does not.
    pub not_ready: Option<&'static str>,
    /// Business time.
    pub business_at: String,
    /// How far the machine's wall clock is ahead of the database's, milliseconds; nothing goes by it.
    pub clock_ahead_ms: i64,
    /// The version of the book in force.
    pub book_version: i32,
    /// Owned shards.
    pub shards: usize,
    /// Those of them that do not charge, because a failover is being cleared up.
    pub quarantined: usize,
    /// Entries in the wheel.
    pub wheel: usize,
    /// Bytes that they take, and those of charges with rows of their own.
    pub wheel_bytes: usize,
    /// Entries whose time has come and that wait for their turn; not those on their way.
    pub due: usize,
    /// Subscriptions on their way.
    pub in_flight: usize,
    /// Lanes: carrier, attempts inside, how many fit, breaker.
    pub lanes: Vec<LaneReport>,
}

/// What a lane tells of itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LaneReport {
    /// The carrier's id.
    pub carrier: String,
    /// Attempts inside.
    pub in_lane: usize,
    /// How many fit.
    pub depth_max: usize,
    /// Open connections.
    pub connections: u32,
    /// `closed`, `open`, `probing` or `resting`.
    pub breaker: &'static str,
}

impl Shared {
    /// Whether new work may be claimed now: the lease lasts, the history has room, the book's partitions exist.
    pub(crate) fn may_claim(&self) -> bool {
        self.not_ready().is_none()
    }

    fn not_ready(&self) -> Option<&'static str> {
        if self.watch.found() {
            Some("the database failed over")
        } else if self.stop_claiming.is_cancelled() {
            Some("draining")
        } else if !self.guard.lease_lasts() {
            Some("no lease: the database cannot be reached or another worker took over")
        } else if !self.partitions_ready.load(Ordering::SeqCst) {
            Some("partitions are being made")
        } else if !has_room(self.history.room()) {
            Some("the history has no room: what cannot be explained is not sent")
        } else if !self.sent_log_ok.load(Ordering::SeqCst) {
            Some("the sent log cannot be written")
        } else if self.clock.machine_ms() - self.last_well_ms.load(Ordering::SeqCst) > READY_WITHIN_MS {
            Some("the database does not answer")
        } else if self.holds.all_of(&self.stripes) {
            Some("quarantined after a failover: spools are waited for, see toll ops quarantine")
        } else {
            None
        }
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }

    pub(crate) fn set_clock(&self, row: ClockRow) {
        self.clock.set(row);
    }

    /// The database answered.
    pub(crate) fn well(&self) {
        self.last_well_ms.store(self.clock.machine_ms(), Ordering::SeqCst);
    }

    /// Something went wrong that will be tried again: said, counted, never in a flood.
    pub(crate) fn trouble(&self, doing: &'static str, error: &dyn std::fmt::Display) {
        metrics::counter!("tollbook_trouble_total", "doing" => doing).increment(1);
        let now_ms = self.clock.machine_ms();
        let Ok(mut last) = self.last_trouble.lock() else { return };
        let (said_ms, held_back) = last.entry(doing).or_insert((i64::MIN, 0));
        if now_ms.saturating_sub(*said_ms) < TROUBLE_EVERY_MS {
            *held_back += 1;
            return;
        }
        tracing::error!(doing, held_back = *held_back, "{error}");
        (*said_ms, *held_back) = (now_ms, 0);
    }

    pub(crate) fn sent_log_broken(&self) {
        self.sent_log_ok.store(false, Ordering::SeqCst);
    }

    /// The next batch tries again.
    pub(crate) fn sent_log_retry(&self) {
        self.sent_log_ok.store(true, Ordering::SeqCst);
    }

    /// Gives an attempt to its lane; one that no lane takes was not sent, with proof.
    pub(crate) fn dispatch(&self, stripe: &Stripe, attempt: Attempt, line_written: bool) {
        let carrier_no = attempt.id.charge.subscription.shard().carrier_no();
        let ticket = attempt.ticket;
        let pushed = if line_written {
            self.lanes.get(&carrier_no).is_some_and(|lane| lane.push(attempt))
        } else {
            self.give_back(carrier_no, 1);
            false
        };
        if !pushed {
            stripe.put(Work::Reply(not_sent(ticket, self.clock.wall())));
        }
    }

    /// Places of a lane that were reserved and not used.
    pub(crate) fn give_back(&self, carrier_no: i32, places: usize) {
        if places > 0
            && let Some(lane) = self.lanes.get(&carrier_no)
        {
            lane.give_back(places);
        }
    }

    pub(crate) async fn open_case(&self, subscription_id: i64, kind: &str, what: &str) {
        let opened = async {
            let mut conn = connect(&self.database, "tollbook case").await?;
            open_case(&mut conn, subscription_id, None, kind, what).await
        };
        if let Err(error) = opened.await {
            self.trouble("opening a case", &error);
        }
    }

    pub(crate) fn carrier_name(&self, carrier_no: i32) -> String {
        self.lanes.get(&carrier_no).map_or_else(|| carrier_no.to_string(), |lane| lane.carrier.clone())
    }

    pub(crate) fn publish_gauges(&self) {
        let report = self.report();
        metrics::gauge!("tollbook_shards").set(report.shards as f64);
        metrics::gauge!("tollbook_quarantined_shards").set(report.quarantined as f64);
        metrics::gauge!("tollbook_wheel_entries").set(report.wheel as f64);
        metrics::gauge!("tollbook_wheel_bytes").set(report.wheel_bytes as f64);
        metrics::gauge!("tollbook_due_entries").set(report.due as f64);
        metrics::gauge!("tollbook_clock_ahead_seconds").set(report.clock_ahead_ms as f64 / 1e3);
        metrics::gauge!("tollbook_in_flight").set(report.in_flight as f64);
        metrics::gauge!("tollbook_ready").set(if report.ready { 1.0 } else { 0.0 });
        for lane in report.lanes {
            metrics::gauge!("tollbook_lane_depth", "carrier" => lane.carrier).set(lane.in_lane as f64);
        }
        let latency = self.stats.latency(false);
        metrics::gauge!("tollbook_due_to_durable_p99_seconds").set(latency.p99_us as f64 / 1e6);
    }

    /// How the worker is doing.
    #[must_use]
    pub fn report(&self) -> WorkerReport {
        let not_ready = self.not_ready();
        let now = self.clock.business();
        let now_ms = now.as_millisecond();
        let mut lanes: Vec<LaneReport> = self
            .lanes
            .values()
            .map(|lane| {
                let (in_lane, depth_max) = lane.depth();
                let connections = lane.adapter().link_state().connections;
                let (carrier, breaker) = (lane.carrier.clone(), lane.condition());
                LaneReport { carrier, in_lane, depth_max, connections, breaker }
            })
            .collect();
        lanes.sort_by(|a, b| a.carrier.cmp(&b.carrier));
        WorkerReport {
            slot: self.lease.slot,
            incarnation: self.lease.incarnation,
            epoch: self.lease.epoch,
            ready: not_ready.is_none(),
            not_ready,
            business_at: now.to_string(),
            clock_ahead_ms: self.clock.ahead_ms(),
            book_version: self.books.current().names.book_version,
            shards: self.stripes.iter().map(|stripe| stripe.wheel().shards().count()).sum(),
            quarantined: self.holds.count(&self.stripes),
            wheel: self.stripes.iter().map(|stripe| stripe.wheel().len()).sum(),
            wheel_bytes: self.stripes.iter().map(|stripe| stripe.wheel_bytes()).sum(),
            due: self.stripes.iter().map(|stripe| stripe.due_len(now_ms)).sum(),
            in_flight: self.stripes.iter().map(|stripe| stripe.held()).sum(),
            lanes,
        }
    }

    /// Counts and latencies.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The history of this process.
    #[must_use]
    pub fn history(&self) -> &Arc<dyn HistoryStore> {
        &self.history
    }
}

fn not_sent(ticket: u64, at: jiff::Timestamp) -> Reply {
    Reply {
        ticket,
        kind: carriers::ExchangeKind::Send,
        finding: None,
        outcome: billing_core::outcome::Outcome::NotSent(billing_core::outcome::NotSentProof::Guard),
        carrier_code: None,
        carrier_txn_id: None,
        wrote: false,
        request: Vec::new(),
        response: Vec::new(),
        sent_at: None,
        answered_at: at,
        latency_us: 0,
        alert: None,
    }
}
