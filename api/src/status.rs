//! `GET /v1/status` as an object: written here, read by [`crate::client`].

use scheduler::{LaneReport, LatencyReport, WorkerReport};
use serde::{Deserialize, Serialize};

/// How a process is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it claims and sends.
    pub ready: bool,
    /// Why not, when it does not.
    pub why: Option<String>,
    /// Its worker; `None` between two incarnations.
    pub worker: Option<WorkerStatus>,
    /// How long from due to durable; `None` without a worker.
    pub due_to_durable: Option<LatencyStatus>,
}

/// How a worker is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Slot.
    pub slot: i32,
    /// Incarnation, as text: it has 64 bits, which many readers of JSON numbers would round.
    pub incarnation: String,
    /// Epoch.
    pub epoch: i32,
    /// The business time that it works at, RFC 3339.
    pub business_at: String,
    /// How far the machine's wall clock is ahead of the database's, milliseconds; nothing goes by it.
    #[serde(default)]
    pub clock_ahead_ms: i64,
    /// The version of the book in force.
    pub book_version: i32,
    /// Owned shards.
    pub shards: usize,
    /// Those of them that do not charge, because a failover is being cleared up.
    #[serde(default)]
    pub quarantined: usize,
    /// Entries in the wheel.
    pub wheel: usize,
    /// Bytes that they take, and those of charges with rows of their own.
    #[serde(default)]
    pub wheel_bytes: usize,
    /// Entries whose time has come and that wait for their turn; not those on their way.
    pub due: usize,
    /// Subscriptions on their way.
    pub in_flight: usize,
    /// One per carrier, by its id.
    pub lanes: Vec<LaneStatus>,
}

/// How a lane is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// The carrier's id.
    pub carrier: String,
    /// Attempts inside.
    pub in_lane: usize,
    /// How many fit.
    pub depth_max: usize,
    /// Open connections.
    pub connections: u32,
    /// `closed`, `open`, `probing` or `resting`.
    pub breaker: String,
}

/// How long from due to durable, since the last reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// Half were faster, microseconds.
    pub p50_us: u64,
    /// 99 of 100 were faster, microseconds.
    pub p99_us: u64,
    /// The slowest, microseconds.
    pub max_us: u64,
    /// How many were measured.
    pub count: u64,
}

impl From<WorkerReport> for WorkerStatus {
    fn from(report: WorkerReport) -> Self {
        Self {
            slot: report.slot,
            incarnation: report.incarnation.to_string(),
            epoch: report.epoch,
            business_at: report.business_at,
            clock_ahead_ms: report.clock_ahead_ms,
            book_version: report.book_version,
            shards: report.shards,
            quarantined: report.quarantined,
            wheel: report.wheel,
            wheel_bytes: report.wheel_bytes,
            due: report.due,
            in_flight: report.in_flight,
            lanes: report.lanes.into_iter().map(LaneStatus::from).collect(),
        }
    }
}

impl From<LaneReport> for LaneStatus {
    fn from(lane: LaneReport) -> Self {
        Self {
            carrier: lane.carrier,
            in_lane: lane.in_lane,
            depth_max: lane.depth_max,
            connections: lane.connections,
            breaker: lane.breaker.to_owned(),
        }
    }
}

impl From<LatencyReport> for LatencyStatus {
    fn from(report: LatencyReport) -> Self {
        Self { p50_us: report.p50_us, p99_us: report.p99_us, max_us: report.max_us, count: report.count }
    }
}
