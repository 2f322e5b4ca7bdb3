//! What the history keeps of an attempt or a note: everything that `toll explain` needs, as one compact row.
//!
//! Numbers rather than words: rules, reasons and states are named by billing-core when they are read. Fields are only
//! ever appended (postcard is not self-describing); `version` says how many there are.

use billing_core::outcome::{Moved, Outcome, ReasonCode};
use serde::{Deserialize, Serialize};

/// The current layout.
pub const STORY_VERSION: u8 = 2;

/// The layout without [`Story::inputs`].
const WITHOUT_INPUTS: u8 = 1;

/// One row of the history, before it is sealed. Who writes one may borrow its bytes and words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "B: serde_bytes::Serialize, S: Serialize",
    deserialize = "B: serde_bytes::Deserialize<'de>, S: Deserialize<'de>"
))]
pub struct Story<B = Vec<u8>, S = String> {
    /// [`STORY_VERSION`] when it was written.
    pub version: u8,
    /// The worker's incarnation.
    pub incarnation: i64,
    /// The book version under which it was decided.
    pub book_version: i32,
    /// Business time of the decision to send (or of the note), milliseconds.
    pub business_at_ms: i64,
    /// When it was due, business milliseconds.
    pub due_at_ms: i64,
    /// The rule that decided to send, or the note's.
    pub why: i16,
    /// What was sent and what came back; `None` for a note.
    pub exchange: Option<StoryExchange<B, S>>,
    /// What was decided.
    pub decision: StoryDecision,
    /// What the deciding rule looked at: numbers of `billing_core::reason::Input` with their values, at most four. Since
    /// version 2.
    pub inputs: Vec<(i16, i64)>,
}

/// What was sent and what came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "B: serde_bytes::Serialize, S: Serialize",
    deserialize = "B: serde_bytes::Deserialize<'de>, S: Deserialize<'de>"
))]
pub struct StoryExchange<B = Vec<u8>, S = String> {
    /// Our key on the wire.
    pub our_ref: String,
    /// Asked for, minor units.
    pub amount_minor: i64,
    /// ISO 4217 numeric.
    pub currency: i16,
    /// Whether a byte may have left.
    pub wrote: bool,
    /// Machine time of the first byte, microseconds since 1970.
    pub sent_at_us: Option<i64>,
    /// Machine time of the answer or of giving up, microseconds since 1970.
    pub answered_at_us: i64,
    /// Microseconds from first byte to answer.
    pub latency_us: u32,
    /// Bytes as they went over the wire, credentials masked.
    #[serde(with = "serde_bytes")]
    pub request: B,
    /// Bytes as they came, credentials masked.
    #[serde(with = "serde_bytes")]
    pub response: B,
    /// What the adapter read in them.
    pub outcome: StoryOutcome,
    /// The carrier's own code.
    pub carrier_code: Option<S>,
    /// The carrier's own id.
    pub carrier_txn_id: Option<S>,
    /// What people were alerted to.
    pub alert: Option<S>,
}

/// An outcome as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryOutcome {
    /// [`Outcome::reason`].
    pub reason: i16,
    /// What moved, minor units.
    pub moved_minor: i64,
    /// Listed in the carrier's `not_processed` or `pre_processing`.
    pub listed: bool,
    /// When the carrier says to come back, milliseconds.
    pub after_ms: Option<u32>,
}

/// What was decided, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryDecision {
    /// The rule.
    pub rule: i16,
    /// Where the attempt stands; 0 for a note.
    pub attempt_state: i16,
    /// Where the charge stands.
    pub charge_state: i16,
    /// Where the subscription stands.
    pub subscription_state: i16,
    /// When something happens next, business milliseconds.
    pub next_at_ms: Option<i64>,
    /// What happens then.
    pub next_kind: i16,
    /// For which period.
    pub next_period: i32,
}

impl StoryOutcome {
    /// The numbers of an outcome.
    #[must_use]
    pub fn of(outcome: Outcome) -> Self {
        let moved_minor = match outcome.moved() {
            Moved::Yes(minor) => minor,
            Moved::No | Moved::Unknown => 0,
        };
        let (listed, after_ms) = match outcome {
            Outcome::Temporary { listed, after_ms, .. } => (listed, after_ms),
            Outcome::Fault { listed, .. } => (listed, None),
            _ => (false, None),
        };
        Self { reason: outcome.reason().0, moved_minor, listed, after_ms }
    }

    /// The outcome of the numbers; `None` when this version does not know them.
    #[must_use]
    pub fn outcome(self) -> Option<Outcome> {
        let found = Outcome::all(self.moved_minor).into_iter().find(|outcome| {
            let listed = match outcome {
                Outcome::Temporary { listed, .. } | Outcome::Fault { listed, .. } => *listed,
                _ => false,
            };
            outcome.reason() == ReasonCode(self.reason) && listed == self.listed
        })?;
        Some(match found {
            Outcome::Temporary { why, listed, .. } => {
                Outcome::Temporary { why, listed, after_ms: self.after_ms }
            }
            other => other,
        })
    }
}

impl<B: AsRef<[u8]> + serde_bytes::Serialize, S: Serialize> Story<B, S> {
    /// The row's bytes, appended to `into`.
    ///
    /// # Errors
    /// Only when memory is exhausted.
    pub fn encode_to(&self, into: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, into)
    }

    /// The row's bytes.
    ///
    /// # Errors
    /// Only when memory is exhausted.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let bodies = self
            .exchange
            .as_ref()
            .map_or(0, |exchange| exchange.request.as_ref().len() + exchange.response.as_ref().len());
        self.encode_to(Vec::with_capacity(bodies + 256))
    }
}

impl Story {
    /// The story of a row's bytes.
    ///
    /// # Errors
    /// When the bytes are not a story of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        if bytes.first() != Some(&WITHOUT_INPUTS) {
            return postcard::from_bytes(bytes);
        }
        // An empty list is one zero byte at the end.
        let mut whole = Vec::with_capacity(bytes.len() + 1);
        whole.extend_from_slice(bytes);
        whole.push(0);
        postcard::from_bytes(&whole)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_outcome_survives() {
        for outcome in Outcome::all(700) {
            assert_eq!(StoryOutcome::of(outcome).outcome(), Some(outcome));
        }
    }

    #[test]
    fn stories_round_trip_and_garbage_is_refused() {
        let story = Story {
            version: STORY_VERSION,
            incarnation: -5,
            book_version: 1,
            business_at_ms: 2,
            due_at_ms: 1,
            why: 1,
            exchange: Some(StoryExchange {
                our_ref: "K".into(),
                amount_minor: 1,
                currency: 978,
                wrote: true,
                sent_at_us: Some(1),
                answered_at_us: 2,
                latency_us: 1,
                request: vec![0, 255],
                response: Vec::new(),
                outcome: StoryOutcome::of(Outcome::Pending),
                carrier_code: None,
                carrier_txn_id: Some("t".into()),
                alert: None,
            }),
            decision: StoryDecision {
                rule: 30,
                attempt_state: 5,
                charge_state: 4,
                subscription_state: 4,
                next_at_ms: None,
                next_kind: 0,
                next_period: 2_048,
            },
            inputs: vec![(1, 500), (11, 1_796_112_000_000)],
        };
        let bytes = story.encode().unwrap();
        assert_eq!(Story::decode(&bytes).unwrap(), story);
        assert!(Story::decode(&bytes[..bytes.len() - 3]).is_err());
        // As version 1 wrote it: without the list.
        let old = Story { version: WITHOUT_INPUTS, inputs: Vec::new(), ..story };
        let bytes = old.encode().unwrap();
        assert_eq!(Story::decode(&bytes[..bytes.len() - 1]).unwrap(), old);
    }
}
