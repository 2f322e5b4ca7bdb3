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

    /// At most so many exchanges at a time from now on: this process' share of what the carrier allows, when several
    /// share its subscribers. Never more than [`Caps::in_flight_max`], never less than one.
    fn limit_in_flight(&self, max: u32);

    /// How the link is doing just now.
    fn link_state(&self) -> LinkState;
}

/// One request to send, as the engine hands it over. The intent of a request that can move money is durable already.
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
    /// Which conversation about the attempt this is.
    pub kind: ExchangeKind,
    /// The carrier's own id of this attempt, where an earlier answer named it: for an inquiry.
    pub carrier_txn_id: Option<Box<str>>,
    /// Our key of the attempt that this one points at: what a refund gives back, what a confirm or a cancel ends.
    pub parent_ref: Option<OurRef>,
    /// The carrier's own id of the attempt that this one points at.
    pub parent_txn_id: Option<Box<str>>,
}

/// A conversation inside an attempt or beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ExchangeKind {
    /// The request, for the first time.
    #[default]
    Send,
    /// The same request again, byte for byte: only where the carrier knows our key. Its answer settles less than
    /// the first one's: what it did not process may have been processed before.
    Resend,
    /// A question what became of the attempt. Moves nothing.
    Inquiry,
    /// A question what the line has. Moves nothing, and is advice: never evidence.
    Balance,
}

impl ExchangeKind {
    /// The word for the history, logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Resend => "resend",
            Self::Inquiry => "inquiry",
            Self::Balance => "balance",
        }
    }
}

/// The last word before a byte leaves.
pub trait SendGuard: Send + Sync {
    /// Asked right before the first write of an attempt; `false` gives `NotSent(Guard)`. Must not block.
    fn may_send(&self, attempt: &Attempt) -> bool;

    /// A permit within the carrier's rate, in place of the one that an attempt came with, for one that had to wait for its
    /// connection: all that waited for the same reason would leave at once. Asked before [`Self::may_send`]; waited for as
    /// long as that says yes. Comes at once where nothing is said.
    fn permit_again(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
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
    /// Which conversation this answers.
    pub kind: ExchangeKind,
    /// What the carrier said about the attempt, in our closed list. After an inquiry: what was found, else unknown;
    /// after a balance check always unknown, because it says nothing about the attempt.
    pub outcome: Outcome,
    /// What an inquiry or a balance check came to; `None` after a request.
    pub finding: Option<Finding>,
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

/// What a question came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finding {
    /// What became of the attempt.
    Inquiry(Inquired),
    /// What the line has.
    Balance(Balance),
}

/// What an inquiry came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inquired {
    /// The carrier knows the attempt and says what became of it.
    Found(Outcome),
    /// The carrier does not know it. Counts only when the carrier has had the time to see it (`[proof.inquiry]`).
    NotFound,
    /// The carrier knows it and is not done with it.
    StillWorking,
    /// Lost, unreadable, contradictory, busy, or a mistake of ours: nothing was learned.
    NoAnswer,
}

/// What a balance check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Balance {
    /// The asked amount is there.
    Enough,
    /// It is not.
    TooLow,
    /// So much is there, minor units of the carrier's currency.
    Amount(i64),
    /// Nothing was learned.
    Unknown,
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
    /// An answer about the attempt speaks of another operation than it was.
    WrongOperation,
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
            Self::WrongOperation => "wrong_operation",
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
    /// What it gives back; `None`: nothing.
    pub refund: Option<RefundCap>,
    /// What becomes of a reservation that nobody confirms; `None`: it does not reserve.
    pub reservation: Option<ReservationCap>,
    /// When its balance should be asked for; `None`: never.
    pub balance: Option<BalanceCap>,
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
    /// The reply may say "accepted" only; the answer then comes as a callback.
    Callback,
}

/// What a carrier gives back of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefundCap {
    /// All of it, once.
    Full,
    /// Any part of it, also in several refunds.
    Partial,
}

/// What becomes of a reservation that nobody confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReservationCap {
    /// How long it holds, seconds from the answer on.
    pub expires_s: u32,
    /// The carrier gives an expired one back by itself; `false`: it has to be cancelled all the same.
    pub releases_itself: bool,
}

/// When a carrier's balance should be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BalanceCap {
    /// At which moment.
    pub when: BalanceWhen,
    /// How long an answer may be used, milliseconds of machine time.
    pub valid_for_ms: u32,
}

/// The moment of a balance check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BalanceWhen {
    /// Before each charge.
    Before,
    /// Only after a refusal for lack of funds, before the next try.
    AfterRefusal,
    /// Not by itself.
    Never,
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
