//! **Drives.** Workers, shards, the due wheel, lanes, the recorder.
//!
//! Read in this order: [`engine`] (what is due goes out), [`recorder`] (what comes back is recorded), [`lane`] (between
//! the engine and one carrier), [`membership`] (who owns which shards), [`takeover`] (what a dead worker left behind), [`resolver`] (what became of what is
//! unknown).
//!
//! Absent on purpose: decisions. What to do with a due subscription and what an outcome means is `billing-core`'s alone;
//! this crate carries it out.

mod engine;
mod item;
mod recorder;

mod breaker;
mod guard;
mod lane;
mod wheel;

mod asides;
mod bookkeeper;
mod bounds;
mod callbacks;
mod failover;
mod files;
mod filler;
mod inbox;
mod membership;
mod pricing;
mod probe;
mod refund;
mod resolver;
mod takeover;
mod told;

pub mod import;

mod books;
mod catalog;
mod clock;
mod hold;
mod link;
mod shared;
mod stats;
mod stripe;
mod worker;

pub use bookkeeper::{ReadVersion, VersionRead};
pub use breaker::BreakerSettings;
pub use callbacks::{CALLBACK_BYTES_MAX, CallbackDesk, Received};
pub use catalog::{Catalog, CatalogPlan};
pub use clock::{Clock, DatabaseTime, SystemClock};
pub use files::{FILE_BYTES_MAX, FileError, FileTaker, Taken, open_file_row};
pub use hold::Hold;
pub use inbox::{
    MoveRequest, REVERSAL_REFERENCE_CHARS_MAX, ReversalRequest, plan_reversal_of, successor_seed,
};
pub use refund::{RefundProblem, RefundRequest, plan_refund_of};
pub use shared::{LaneReport, Shared, WorkerReport};
pub use stats::{LatencyReport, Stats};
pub use takeover::Evidence;
pub use told::{SEQ_CALLBACK, SEQ_FILE, SEQ_PEOPLE, decision_of_people};
pub use worker::{StartError, Worker, WorkerCarrier, WorkerEnd, WorkerParts, WorkerSettings, class_name};
