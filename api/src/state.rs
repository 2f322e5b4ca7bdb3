//! What is answered from: the worker that runs just now, if one does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use scheduler::{LatencyReport, Shared, WorkerReport};
use storage::history::HistoryStore;

use crate::status::Status;

const NO_WORKER: &str = "no worker runs: it is starting, was fenced, or ended";

/// A worker that runs, as far as it is asked here.
pub trait Running: Send + Sync {
    /// How it is doing.
    fn report(&self) -> WorkerReport;
    /// Latencies from due to durable since the last reset; with `reset` they start anew.
    fn latency(&self, reset: bool) -> LatencyReport;
    /// The history of this process.
    fn history(&self) -> Arc<dyn HistoryStore>;
}

impl Running for Shared {
    fn report(&self) -> WorkerReport {
        Shared::report(self)
    }

    fn latency(&self, reset: bool) -> LatencyReport {
        self.stats().latency(reset)
    }

    fn history(&self) -> Arc<dyn HistoryStore> {
        Arc::clone(Shared::history(self))
    }
}

/// What all answers are made from; one per process.
pub struct State {
    metrics: PrometheusHandle,
    worker: RwLock<Option<Arc<dyn Running>>>,
    started_ms: u64,
    requests: AtomicU64,
}

impl State {
    /// A state without a worker that shows the metrics of `metrics`.
    #[must_use]
    pub fn new(metrics: PrometheusHandle) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            metrics,
            worker: RwLock::default(),
            started_ms: u64::try_from(since_1970.as_millis()).unwrap_or(0),
            requests: AtomicU64::new(0),
        }
    }

    /// Answers are given from `worker` from now on. `None` when it ended: until the next one there is nothing to tell,
    /// and its history is let go, so that the store can be closed.
    pub fn set_worker(&self, worker: Option<Arc<dyn Running>>) {
        // The old worker is dropped after the lock is released.
        let _old = {
            let mut place = self.worker.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, worker)
        };
    }

    pub(crate) fn worker(&self) -> Option<Arc<dyn Running>> {
        self.worker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How this process is doing; the same that `GET /v1/status` answers.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.worker() {
            None => {
                Status { ready: false, why: Some(NO_WORKER.to_owned()), worker: None, due_to_durable: None }
            }
            Some(worker) => {
                let report = worker.report();
                Status {
                    ready: report.ready,
                    why: report.not_ready.map(str::to_owned),
                    due_to_durable: Some(worker.latency(false).into()),
                    worker: Some(report.into()),
                }
            }
        }
    }

    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.render()
    }

    /// A name for one request that logs and answers share: unique in this process, and between processes started in
    /// different milliseconds.
    pub(crate) fn next_request_id(&self) -> String {
        format!("req_{:x}-{:x}", self.started_ms, self.requests.fetch_add(1, Ordering::Relaxed))
    }
}
