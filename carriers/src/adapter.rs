//! The contract between the engine and a carrier: attempts go in through a queue, one reply per attempt comes
//! out through a sink. Nothing in here retries.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use billing_core::ids::{AttemptId, OurRef};
use billing_core::money::{Currency, Money};
use billing_core::outcome::{Op, Outcome};
use jiff::Timestamp;

use crate::msisdn::Msisdn;

/// A future on the heap; one per carrier, never one per attempt.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Speaks one carrier's protocol over one link.
pub trait Adapter: Send + Sync {
    /// What the carrier can do and how much of it.
    fn caps(&self) -> &Caps;

    /// Pulls attempts from `queue` until it is closed and drained, and gives exactly one reply per attempt to
    /// `sink`. Never retries: a connection that is found dead before a byte of an attempt left may be replaced
    /// once, everything after the first byte is final.
    ///
    /// The design names `perform(batch, sink)`; a queue serves the same purpose without a barrier at the end of
    /// each batch: a connection pulls the next attempt the moment it becomes free.
    ///
    /// The work happens in tokio tasks of its own, so dropping this future (a `select!`, a timeout) cuts no exchange
    /// short: they end when the queue is closed and drained. Should one die all the same (a panic, the
    /// runtime going down), the attempt in its hand is answered as unknown while it unwinds. Must be called
    /// inside a tokio runtime.
    fn run(
        self: Arc<Self>,
        queue: async_channel::Receiver<Attempt>,
        guard: Arc<dyn SendGuard>,
        sink: Arc<dyn OutcomeSink>,
    ) -> BoxFuture<'static, ()>;

    /// How the link is doing just now.
    fn link_state(&self) -> LinkState;
}

/// One request to send, as the engine hands it over. Its intent is durable already.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Opaque to the adapter; comes back in the reply.
    pub ticket: u64,
    /// Which attempt this is.
    pub id: AttemptId,
    /// Our key on the wire.
    pub our_ref: OurRef,
    /// What the carrier is asked to do.
    pub op: Op,
    /// The line that pays.
    pub msisdn: Msisdn,
    /// What to collect.
    pub amount: Money,
    /// The words the subscriber will see.
    pub text: Arc<str>,
    /// When the intent was written; all times inside the request derive from it.
    pub intent_at: Timestamp,
}

/// The last word before a byte leaves.
pub trait SendGuard: Send + Sync {
    /// Asked right before the first write of an attempt; `false` gives `NotSent(Guard)`. Must not block.
    fn may_send(&self, attempt: &Attempt) -> bool;
}

/// Takes replies. Called from the connection loops.
pub trait OutcomeSink: Send + Sync {
    /// Takes one reply. Must be cheap and must not block.
    fn deliver(&self, reply: Reply);
}

/// What became of one attempt.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The attempt's ticket.
    pub ticket: u64,
    /// What the carrier said, in our closed list.
    pub outcome: Outcome,
    /// The carrier's own code, at most 64 characters; its HTTP status where it names no code. `None` on success.
    pub carrier_code: Option<Box<str>>,
    /// The carrier's own id of the charge, at most 64 characters.
    pub carrier_txn_id: Option<Box<str>>,
    /// `false` proves that no byte of the request left.
    pub wrote: bool,
    /// The request as it went over the wire, credentials replaced by `*`.
    pub request: Vec<u8>,
    /// The answer as it came over the wire, as far as it came, credentials replaced by `*`.
    pub response: Vec<u8>,
    /// When the first byte was written; `None` when none was.
    pub sent_at: Option<Timestamp>,
    /// When the answer was complete, or was given up.
    pub answered_at: Timestamp,
    /// From the first write to the complete answer, microseconds; 0 when nothing was written.
    pub latency_us: u32,
    /// Something a person should see.
    pub alert: Option<Alert>,
}

/// What a person should see about one reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alert {
    /// A code that is not in the carrier's table.
    UnlistedCode,
    /// HTML, a cut answer, an answer over the limit, an encoding nobody asked for.
    UnreadableAnswer,
    /// The answer speaks about another key, or about none where the carrier echoes it.
    WrongKey,
    /// The answer names another amount, or none where the carrier echoes it.
    WrongAmount,
    /// The answer names another currency, or none where the carrier echoes it.
    WrongCurrency,
    /// The answer names another line, or none where the carrier echoes it.
    WrongSubscriber,
    /// The carrier does not accept our credential.
    BadCredential,
    /// The carrier's name resolves only to addresses that may not be called.
    ForbiddenAddress,
    /// The request could not be built.
    NotBuilt,
    /// A connection loop died with the attempt in its hand.
    SenderDied,
}

impl Alert {
    /// The word for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnlistedCode => "unlisted_code",
            Self::UnreadableAnswer => "unreadable_answer",
            Self::WrongKey => "wrong_key",
            Self::WrongAmount => "wrong_amount",
            Self::WrongCurrency => "wrong_currency",
            Self::WrongSubscriber => "wrong_subscriber",
            Self::BadCredential => "bad_credential",
            Self::ForbiddenAddress => "forbidden_address",
            Self::NotBuilt => "not_built",
            Self::SenderDied => "sender_died",
        }
    }
}

/// What a carrier can do and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// The operations that it takes.
    pub ops: Vec<Op>,
    /// The one currency that it takes.
    pub currency: Currency,
    /// The smallest amount, minor units.
    pub min_minor: i64,
    /// The largest amount, minor units.
    pub max_minor: i64,
    /// It may collect less than asked.
    pub partial: bool,
    /// How its answer comes.
    pub exchange: Exchange,
    /// So many requests ...
    pub rate_n: u32,
    /// ... per so many milliseconds.
    pub rate_per_ms: u32,
    /// At most this many requests at a time; also the number of connections.
    pub in_flight_max: u32,
    /// Resolving, connecting and TLS together, milliseconds.
    pub connect_timeout_ms: u32,
    /// From the first written byte to the complete answer, milliseconds.
    pub reply_timeout_ms: u32,
    /// An unused connection is closed after this, milliseconds.
    pub idle_timeout_ms: u32,
    /// How long an answer that comes later may take, seconds.
    pub final_deadline_s: u32,
}

/// How a carrier's answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// In the reply to the request.
    Reply,
}

/// How a link is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkState {
    /// Open connections.
    pub connections: u32,
    /// Attempts being worked on.
    pub in_flight: u32,
    /// Failures to connect since the last success.
    pub connect_failures: u32,
    /// The last complete answer: proof of life.
    pub last_answer_at: Option<Timestamp>,
}
