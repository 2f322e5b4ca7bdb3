//! Crash points by name: places where a process can be told to kill itself, so that a chaos run dies exactly there. Only in
//! builds with debug assertions or the feature `fail-points`: everywhere else [`reached`] is nothing at compile time.
//!
//! Armed by the environment of one process: `TOLLBOOK_FAIL_POINT=after_intent_commit:17` is a SIGKILL at the 17th passing.
//! A kill like any other: nothing is unwound, nothing is flushed, no destructor runs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The variable that arms a point.
pub const VARIABLE: &str = "TOLLBOOK_FAIL_POINT";

/// Whether this build has fail points at all.
pub const COMPILED_IN: bool = cfg!(any(debug_assertions, feature = "fail-points"));

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A crash point.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point { $($(#[$doc])* $variant),+ }

        impl Point {
            /// All of them, in the sequence in which a charge passes them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that the variable takes and reports show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

points! {
    /// Free shards are about to be claimed.
    BeforeClaim = "before_claim",
    /// The claim is committed; nobody took over what lies in the shards.
    AfterClaim = "after_claim",
    /// What a dead worker left behind is found and not recorded yet.
    AfterTakeover = "after_takeover",
    /// A worker that stopped renewing is about to be fenced.
    BeforeFence = "before_fence",
    /// It is fenced; its shards have no owner.
    AfterFence = "after_fence",
    /// A batch of intents is built.
    BeforeIntentCommit = "before_intent_commit",
    /// It is durable; nothing else knows.
    AfterIntentCommit = "after_intent_commit",
    /// The sent lines are about to be written.
    BeforeSentLine = "before_sent_line",
    /// They are in the kernel's hands, not on the disk.
    AfterSentLine = "after_sent_line",
    /// The sent log is about to be synced.
    BeforeSentSync = "before_sent_sync",
    /// It is synced.
    AfterSentSync = "after_sent_sync",
    /// Connected, allowed to send, no byte written.
    BeforeFirstByte = "before_first_byte",
    /// The answer is read; nobody else knows it.
    AnswerRead = "answer_read",
    /// A batch is decided; its history is not written.
    BeforeHistory = "before_history",
    /// Its history is synced, its outcomes are not recorded.
    AfterHistory = "after_history",
    /// Its outcomes are about to be recorded.
    BeforeOutcomeCommit = "before_outcome_commit",
    /// They are durable; this process does not know yet.
    AfterOutcomeCommit = "after_outcome_commit",
    /// A carrier's message is taken, not kept.
    BeforeCallbackKept = "before_callback_kept",
    /// It is kept, not acknowledged.
    AfterCallbackKept = "after_callback_kept",
    /// A refund is planned.
    BeforeRefundIntent = "before_refund_intent",
    /// Its intent is durable, nothing is sent.
    AfterRefundIntent = "after_refund_intent",
    /// A repeat or an inquiry about an unknown attempt was answered; nothing is kept.
    BeforeAskKept = "before_ask_kept",
    /// What it proved is in the inbox.
    AfterAskKept = "after_ask_kept",
    /// An unknown attempt is about to be given to people.
    BeforeReview = "before_review",
    /// It is theirs.
    AfterReview = "after_review",
    /// Drained shards are about to be handed over.
    BeforeHandOver = "before_hand_over",
    /// They are free; this process still believes to hold them.
    AfterHandOver = "after_hand_over",
}

/// The point and the passing that the variable names, and how often it was passed.
struct Armed {
    point: Point,
    at: u64,
    passed: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// The process is at this point; it does not return where it was armed and its passing has come.
#[inline]
pub fn reached(point: Point) {
    if !COMPILED_IN {
        return;
    }
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().and_then(|text| parse(&text)));
    let Some(armed) = armed.as_ref().filter(|armed| armed.point == point) else { return };
    if armed.passed.fetch_add(1, Ordering::SeqCst) + 1 == armed.at {
        // Straight to the kernel: what a log line would flush, a power cut would not.
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// What to set [`VARIABLE`] to: the process dies at this passing of the point, counted from 1.
#[must_use]
pub fn armed(point: Point, passing: u64) -> String {
    format!("{}:{}", point.name(), passing.max(1))
}

fn parse(text: &str) -> Option<Armed> {
    let (name, passing) = text.split_once(':').unwrap_or((text, "1"));
    let point = Point::ALL.iter().copied().find(|point| point.name() == name)?;
    Some(Armed { point, at: passing.parse().ok().filter(|at| *at > 0)?, passed: AtomicU64::new(0) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_armed_is_read_again_and_nonsense_arms_nothing() {
        for point in Point::ALL {
            let read = parse(&armed(*point, 17)).unwrap();
            assert_eq!((read.point, read.at), (*point, 17));
        }
        assert_eq!(parse("after_fence").unwrap().at, 1);
        for text in ["", "nowhere:1", "after_fence:0", "after_fence:-1", "after_fence:x"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
