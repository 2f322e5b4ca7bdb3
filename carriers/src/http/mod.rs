//! The HTTP link: a carrier's connections, at most one exchange at a time on each.
//!
//! Redirects are answers like any other, proxies are not asked, nothing is sent twice. Every byte that goes over
//! the wire passes a tee, so "nothing was written" is a fact and not a guess.

mod connect;
mod exchange;
mod in_flight;
mod lines;
mod mask;
mod request;
mod target;
mod tee;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use billing_core::outcome::Op;
use bytes::Bytes;
use http_body_util::Full;
use jiff::Timestamp;
use thiserror::Error;
use tokio::time::Instant;

use crate::adapter::{Adapter, Attempt, BoxFuture, Caps, ExchangeKind, LinkState, OutcomeSink, SendGuard};
use crate::definition::{CarrierDefinition, For};
use crate::dialect::Operation;
use crate::dialect::template::BuildError;
use connect::Dialer;
use in_flight::InFlight;

pub(crate) use mask::Mask;
pub(crate) use request::{Prepared, is_reserved};
pub(crate) use target::Target;
pub use target::TargetError;

/// Why an adapter cannot be made out of a definition.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The base address is not allowed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The file with further root certificates cannot be used.
    #[error("cannot use the certificates in {path}: {why}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up tls: {0}")]
    Tls(String),
}

/// One table of the definition, ready to be spoken.
struct Spoken {
    operation: Arc<Operation>,
    prepared: Prepared,
}

/// Speaks with one carrier over HTTP/1.1.
pub struct HttpAdapter {
    id: Box<str>,
    caps: Caps,
    /// By what they are for: one per operation, one for inquiries, one for balances.
    spoken: Vec<(Spoken, For)>,
    dialer: Dialer,
    mask: Mask,
    body_bytes_max: usize,
    connect_timeout: Duration,
    reply_timeout: Duration,
    idle_timeout: Duration,
    gauges: Gauges,
    in_flight: InFlight,
}

impl HttpAdapter {
    /// An adapter for a carrier; `base_override` takes the place of `link.base` (mock carriers listen on free
    /// ports) and must obey the same rules.
    ///
    /// # Errors
    /// [`SetupError`] when the base is not allowed, or certificates cannot be used.
    pub fn new(definition: &CarrierDefinition, base_override: Option<&str>) -> Result<Self, SetupError> {
        let link = &definition.link;
        let base = base_override.unwrap_or(&link.base);
        let target = Target::parse(base, link.allow_plain, link.allow_private)?;
        let spoken = definition
            .spoken
            .iter()
            .map(|(operation, what)| {
                let prepared = Prepared::new(operation, &target, &definition.auth);
                (Spoken { operation: operation.clone(), prepared }, *what)
            })
            .collect();
        let mut mask = Mask::default();
        definition.each_secret(|secret| mask.add(secret));
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let caps = &definition.caps;
        let connect_timeout = ms(caps.connect_timeout_ms);
        Ok(Self {
            id: definition.id.clone(),
            spoken,
            dialer: Dialer::new(target, connect_timeout, link.ca_file.as_deref())?,
            mask,
            body_bytes_max: definition.body_bytes_max,
            connect_timeout,
            reply_timeout: ms(caps.reply_timeout_ms),
            idle_timeout: ms(caps.idle_timeout_ms),
            gauges: Gauges::default(),
            in_flight: InFlight::new(caps.in_flight_max),
            caps: caps.clone(),
        })
    }

    /// The request of an attempt, or why there is none.
    fn request(
        &self,
        attempt: &Attempt,
        scratch: &mut Vec<u8>,
    ) -> Result<http::Request<Full<Bytes>>, BuildError> {
        let spoken = self.spoken(attempt).ok_or(BuildError::Operation)?;
        // The engine has checked all this; a belt beside the braces, because here it becomes money.
        if attempt.amount.currency != self.caps.currency {
            return Err(BuildError::Currency);
        }
        // A part of a charge that is given back may be smaller than what can be charged; a question moves nothing.
        let least = match (attempt.kind, attempt.op) {
            (ExchangeKind::Inquiry | ExchangeKind::Balance, _) | (_, Op::Refund) => 1,
            _ => self.caps.min_minor,
        };
        if !(least..=self.caps.max_minor).contains(&attempt.amount.minor) {
            return Err(BuildError::Limits);
        }
        spoken.prepared.request(&spoken.operation, attempt, scratch)
    }

    /// The table by which an attempt's exchange is spoken; `None` when the carrier does not offer it.
    fn spoken(&self, attempt: &Attempt) -> Option<&Spoken> {
        let wanted = For::of(attempt);
        self.spoken.iter().find(|(_, what)| *what == wanted).map(|(spoken, _)| spoken)
    }
}

impl Adapter for HttpAdapter {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn run(
        self: Arc<Self>,
        queue: async_channel::Receiver<Attempt>,
        guard: Arc<dyn SendGuard>,
        sink: Arc<dyn OutcomeSink>,
    ) -> BoxFuture<'static, ()> {
        let in_flight_max = self.caps.in_flight_max;
        let shared = Arc::new(lines::Shared::new(self, queue, guard, sink));
        let lines: Vec<_> =
            (0..in_flight_max).map(|_| tokio::spawn(lines::keep_going(shared.clone()))).collect();
        Box::pin(async move {
            for line in lines {
                // A line that was cut off by the runtime's end has answered already.
                let _ = line.await;
            }
        })
    }

    fn limit_in_flight(&self, max: u32) {
        self.in_flight.set_max(max.min(self.caps.in_flight_max));
    }

    fn link_state(&self) -> LinkState {
        self.gauges.state()
    }
}

impl std::fmt::Debug for HttpAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpAdapter").field("id", &self.id).field("state", &self.gauges.state()).finish()
    }
}

/// For so long a permit is as good as new: the bursts of a carrier's rate are a fiftieth of a second.
const PERMIT_LASTS: Duration = Duration::from_millis(20);

/// A connection is as quick as the quickest of so long, and of as long before.
const QUICKEST_OF: Duration = Duration::from_secs(60);

/// How the link is doing. Relaxed: of these numbers only how long connections take decides anything, and not to the microsecond.
#[derive(Default)]
struct Gauges {
    connections: AtomicU32,
    in_flight: AtomicU32,
    connect_failures: AtomicU32,
    /// Milliseconds; 0: never.
    last_answer_ms: AtomicI64,
    /// What quick connections take, microseconds; 0: nobody knows yet.
    usual_us: AtomicU64,
    /// When the present span began, and the quickest of it and of the one before, microseconds.
    quickest: Mutex<Option<(Instant, u64, u64)>>,
}

impl Gauges {
    fn opened(&self, began: Instant) {
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let mut quickest = self.quickest.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, now_us, before_us) = match *quickest {
            None => (began, took_us, took_us),
            Some((since, now_us, _)) if since.elapsed() > QUICKEST_OF => (began, took_us, now_us),
            Some((since, now_us, before_us)) => (since, now_us.min(took_us), before_us),
        };
        *quickest = Some((since, now_us, before_us));
        self.usual_us.store(now_us.min(before_us), Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.connect_failures.store(0, Ordering::Relaxed);
    }

    /// Whether a connection took longer than connections to this carrier take: others may have waited for the same reason.
    /// Where each request has a connection of its own, far away, that it takes its time is no reason to slow down.
    fn connects_slowly(&self, took: Duration) -> bool {
        let usual = Duration::from_micros(self.usual_us.load(Ordering::Relaxed));
        took > PERMIT_LASTS + usual * 4
    }

    fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
    }

    fn took(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn gave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn answered(&self, at: Timestamp) {
        self.last_answer_ms.store(at.as_millisecond(), Ordering::Relaxed);
    }

    fn state(&self) -> LinkState {
        let last = self.last_answer_ms.load(Ordering::Relaxed);
        LinkState {
            connections: self.connections.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            connect_failures: self.connect_failures.load(Ordering::Relaxed),
            last_answer_at: (last != 0).then(|| Timestamp::from_millisecond(last).ok()).flatten(),
        }
    }
}
