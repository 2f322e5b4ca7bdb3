//! Protections that can be left out by name, so that the simulation can prove that it would notice. Only in builds with the
//! feature `mutants`: everywhere else [`on`] is `false` at compile time and nothing of this is left.

macro_rules! mutants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A protection that is left out.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $variant),+ }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that people use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

mutants! {
    /// What a dead worker left behind is sent again instead of being unknown.
    ResendAfterTakeover = "resend-after-takeover",
    /// The last word before the first byte is always yes.
    NoSendGuard = "no-send-guard",
    /// Any epoch may write.
    NoFence = "no-fence",
    /// Keys on the wire are not derived from the attempt alone.
    RandomKeys = "random-keys",
    /// A lost answer is read as a refusal.
    TimeoutAsRefusal = "timeout-as-refusal",
    /// A lost answer is read as a request that was never sent.
    LostAnswerAsNotSent = "lost-answer-as-not-sent",
    /// "Seen before" is read as a refusal.
    DuplicateAsRefusal = "duplicate-as-refusal",
    /// A refund is sent while another attempt of its charge is unknown.
    RefundDuringUnknown = "refund-during-unknown",
    /// Intents are not counted against caps.
    CapNotReserved = "cap-not-reserved",
    /// Caps are not asked.
    CapNotChecked = "cap-not-checked",
    /// An unknown attempt counts against caps no more.
    UnknownFreesCap = "unknown-frees-cap",
    /// Periods are named by the day in UTC.
    PeriodByUtcDay = "period-by-utc-day",
    /// Requests leave before their intents are durable.
    SendBeforeIntent = "send-before-intent",
    /// A commit whose answer was lost is taken for one that happened.
    LostCommitIsSent = "lost-commit-is-sent",
    /// A record whose answer was lost is taken for one that happened.
    LostRecordIsDone = "lost-record-is-done",
    /// STOP is not looked at in the statement that makes intents.
    StopNotChecked = "stop-not-checked",
    /// The window is looked at neither by the statement nor by the guard.
    WindowNotChecked = "window-not-checked",
    /// What a dead worker left behind is not looked for.
    NoTakeover = "no-takeover",
    /// The low water passes batches that are still open.
    LowWaterAhead = "low-water-ahead",
    /// Transfers are left out when an outcome is recorded.
    NoTransfers = "no-transfers",
    /// Outcomes are recorded before their history is durable.
    HistoryAfterRecord = "history-after-record",
    /// A failover that lost commits is not noticed.
    NoQuarantine = "no-quarantine",
    /// Each worker uses the whole of a carrier's rate.
    WholeRate = "whole-rate",
    /// One answer "not found" settles an attempt at once.
    EarlyNotFound = "early-not-found",
    /// One answer "not found" settles an attempt, though late enough.
    SingleNotFound = "single-not-found",
    /// A wish that a failover left is not taken away when it is known that it may have been carried out.
    WishCarriedOutTwice = "wish-carried-out-twice",
    /// "Not found" counts although a sender that nobody heard of again may still write, or has just written.
    NotFoundWhileSenderLives = "not-found-while-sender-lives",
    /// The doubt about an assumed attempt ends when it is proven not to have been applied.
    DoubtEndsWithAbsence = "doubt-ends-with-absence",
    /// A sender's own proof that its request was not processed counts after a failover, whoever sent it again.
    OwnProofAfterFailover = "own-proof-after-failover",
    /// The reply to a resend is read like the reply to a first request.
    ResendReadLikeFirst = "resend-read-like-first",
    /// Requests are sent again after the carrier has forgotten their keys.
    ResendAfterWindow = "resend-after-window",
    /// What is sent again has another body.
    ResendOtherBody = "resend-other-body",
    /// An attempt that nobody can prove is taken for one that was not applied.
    NoProofAsAbsent = "no-proof-as-absent",
    /// Shards are handed over while something of them is on its way.
    HandOverWithoutWaiting = "hand-over-without-waiting",
    /// This machine's wall clock is business time.
    WallClockTrusted = "wall-clock-trusted",
    /// The resolution takes the whole of a carrier's rate instead of a fifth.
    ResolverTakesWholeRate = "resolver-takes-whole-rate",
}

#[cfg(feature = "mutants")]
thread_local! {
    // A simulation runs on one thread: two of them may leave out different things.
    static LEFT_OUT: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether a protection is left out just now, on this thread.
#[cfg(feature = "mutants")]
#[must_use]
pub fn on(mutant: Mutant) -> bool {
    LEFT_OUT.with(|left_out| left_out.get() == Some(mutant))
}

/// Whether a protection is left out: never, in this build.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline]
pub const fn on(_: Mutant) -> bool {
    false
}

/// Leaves a protection out on this thread, or none any more.
#[cfg(feature = "mutants")]
pub fn leave_out(mutant: Option<Mutant>) {
    LEFT_OUT.with(|left_out| left_out.set(mutant));
}
