//! The closed list of what a carrier can have said, and whether money moved.
//!
//! Two questions are kept apart: *what did the carrier say* and *did money move*. A lost answer is not a refusal.

/// What a request asks the carrier to do. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Collect an amount.
    Charge = 1,
    /// Set an amount aside.
    Reserve = 2,
    /// Collect what was reserved.
    Confirm = 3,
    /// Give back what was reserved.
    Cancel = 4,
    /// Give back what was collected.
    Refund = 5,
    /// Take late evidence of money into the books; sends nothing.
    Adopt = 6,
}

impl Op {
    /// The operation of a kept number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::Charge, Self::Reserve, Self::Confirm, Self::Cancel, Self::Refund, Self::Adopt]
            .into_iter()
            .find(|op| *op as i16 == number)
    }

    /// Whether its success brings money in.
    #[must_use]
    pub fn collects(self) -> bool {
        matches!(self, Self::Charge | Self::Confirm | Self::Adopt)
    }

    /// The word that the book, the history and the CLI use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Reserve => "reserve",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
            Self::Adopt => "adopt",
        }
    }
}

/// Which limit a carrier named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// Not told, or per request.
    PerCharge,
    /// Per day.
    Day,
    /// Per week.
    Week,
    /// Per month.
    Month,
    /// Too soon after the one before.
    TooSoon,
}

/// Why a carrier refused. Money did not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The balance is too small.
    NoFunds,
    /// The line is barred or not active.
    Barred,
    /// The carrier does not know the line.
    UnknownSubscriber,
    /// A spending limit stands in the way.
    Limit(LimitKind),
    /// The subscriber said no.
    SubscriberRefused,
    /// The service may not be sold to this line.
    NotAllowed,
    /// The request came too late for the carrier.
    Expired,
}

/// Why a carrier could not work just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hindrance {
    /// Too many requests.
    Throttled,
    /// Overloaded.
    Busy,
    /// Under maintenance.
    Down,
}

/// A mistake of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The carrier could not read the request.
    BadRequest,
    /// The carrier does not accept our credential.
    BadCredential,
    /// The carrier does not sell at this price.
    BadPrice,
}

/// Proof, by type, that nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotSentProof {
    /// The name could not be resolved.
    NameResolution,
    /// Connecting was refused or timed out.
    Connect,
    /// TLS failed before application data.
    TlsHandshake,
    /// Our own limiter, window, age or lease guard refused.
    Guard,
    /// The adapter could not build the request (a placeholder without a value).
    NotBuilt,
}

/// Why nobody can say whether money moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// Timeout, reset, end of file, process death: the answer is lost.
    NoReply,
    /// An answer that cannot be read: HTML, truncated, over the size limit, empty.
    Unreadable,
    /// An answer that contradicts the request: other key, amount or currency.
    Contradictory,
    /// A code that is not in the carrier's closed table.
    Unlisted,
    /// An intent was left without an outcome: its sender died or was fenced.
    SenderDied,
}

/// What the carrier said, in our closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Collected.
    Charged {
        /// What was collected, minor units.
        amount_minor: i64,
    },
    /// Collected less than asked; only from a carrier that declares it.
    Partial {
        /// What was collected, minor units.
        amount_minor: i64,
    },
    /// Given back.
    Refunded {
        /// What was given back, minor units.
        amount_minor: i64,
    },
    /// Set aside.
    Reserved,
    /// Reservation given back.
    Released,
    /// Accepted, not final: the answer comes later.
    Pending,
    /// The subscriber has to agree first.
    NeedsConsent,
    /// Refused; money did not move.
    Declined(Refusal),
    /// Could not work; money did not move only if `listed` (the carrier's `not_processed` table).
    Temporary {
        /// Why.
        why: Hindrance,
        /// In the carrier's `not_processed` table.
        listed: bool,
        /// When the carrier says to come back, milliseconds of machine time.
        after_ms: Option<u32>,
    },
    /// Our mistake; refused before processing only if `listed` (the carrier's `pre_processing` table).
    Fault {
        /// Which.
        what: Fault,
        /// In the carrier's `pre_processing` table.
        listed: bool,
    },
    /// The carrier has seen this key before and does not repeat its first answer.
    Duplicate,
    /// No byte left, with proof.
    NotSent(NotSentProof),
    /// Proven not to have reached the carrier's books. Only the resolution of an unknown attempt may say so, by the
    /// carrier's declared proof; a carrier's first answer never does.
    Absent,
    /// Money may have moved.
    Unknown(Doubt),
}

/// Did money move?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moved {
    /// Yes, that many minor units.
    Yes(i64),
    /// No.
    No,
    /// Nobody can say yet.
    Unknown,
}

impl Outcome {
    /// Whether money moved: derived from the class, never guessed.
    #[must_use]
    pub fn moved(self) -> Moved {
        match self {
            Self::Charged { amount_minor }
            | Self::Partial { amount_minor }
            | Self::Refunded { amount_minor } => Moved::Yes(amount_minor),
            Self::Reserved
            | Self::Released
            | Self::NeedsConsent
            | Self::Declined(_)
            | Self::NotSent(_)
            | Self::Absent => Moved::No,
            Self::Temporary { listed, .. } | Self::Fault { listed, .. } => {
                if listed {
                    Moved::No
                } else {
                    Moved::Unknown
                }
            }
            Self::Pending | Self::Duplicate | Self::Unknown(_) => Moved::Unknown,
        }
    }

    /// The stable number and word of the outcome's detail: what `attempt_outcome.reason` keeps.
    #[must_use]
    pub fn reason(self) -> ReasonCode {
        let number = match self {
            Self::Charged { .. } => 1,
            Self::Partial { .. } => 2,
            Self::Refunded { .. } => 3,
            Self::Reserved => 4,
            Self::Released => 5,
            Self::Pending => 6,
            Self::NeedsConsent => 7,
            Self::Duplicate => 8,
            Self::Absent => 9,
            Self::Declined(refusal) => match refusal {
                Refusal::NoFunds => 20,
                Refusal::Barred => 21,
                Refusal::UnknownSubscriber => 22,
                Refusal::Limit(LimitKind::PerCharge) => 23,
                Refusal::Limit(LimitKind::Day) => 24,
                Refusal::Limit(LimitKind::Week) => 25,
                Refusal::Limit(LimitKind::Month) => 26,
                Refusal::Limit(LimitKind::TooSoon) => 27,
                Refusal::SubscriberRefused => 28,
                Refusal::NotAllowed => 29,
                Refusal::Expired => 30,
            },
            Self::Temporary { why, .. } => match why {
                Hindrance::Throttled => 40,
                Hindrance::Busy => 41,
                Hindrance::Down => 42,
            },
            Self::Fault { what, .. } => match what {
                Fault::BadRequest => 50,
                Fault::BadCredential => 51,
                Fault::BadPrice => 52,
            },
            Self::NotSent(proof) => match proof {
                NotSentProof::NameResolution => 60,
                NotSentProof::Connect => 61,
                NotSentProof::TlsHandshake => 62,
                NotSentProof::Guard => 63,
                NotSentProof::NotBuilt => 64,
            },
            Self::Unknown(doubt) => match doubt {
                Doubt::NoReply => 80,
                Doubt::Unreadable => 81,
                Doubt::Contradictory => 82,
                Doubt::Unlisted => 83,
                Doubt::SenderDied => 84,
            },
        };
        ReasonCode(number)
    }

    /// Every outcome once, with the given amount where one is carried: for tests, tables and documentation.
    #[must_use]
    pub fn all(amount_minor: i64) -> Vec<Self> {
        use Hindrance::{Busy, Down, Throttled};
        let mut all = vec![
            Self::Charged { amount_minor },
            Self::Partial { amount_minor },
            Self::Refunded { amount_minor },
            Self::Reserved,
            Self::Released,
            Self::Pending,
            Self::NeedsConsent,
            Self::Duplicate,
            Self::Absent,
        ];
        let limits =
            [LimitKind::PerCharge, LimitKind::Day, LimitKind::Week, LimitKind::Month, LimitKind::TooSoon];
        all.extend(limits.map(|kind| Self::Declined(Refusal::Limit(kind))));
        all.extend(
            [
                Refusal::NoFunds,
                Refusal::Barred,
                Refusal::UnknownSubscriber,
                Refusal::SubscriberRefused,
                Refusal::NotAllowed,
                Refusal::Expired,
            ]
            .map(Self::Declined),
        );
        for listed in [true, false] {
            all.extend([Throttled, Busy, Down].map(|why| Self::Temporary { why, listed, after_ms: None }));
            all.extend(
                [Fault::BadRequest, Fault::BadCredential, Fault::BadPrice]
                    .map(|what| Self::Fault { what, listed }),
            );
        }
        all.extend(
            [
                NotSentProof::NameResolution,
                NotSentProof::Connect,
                NotSentProof::TlsHandshake,
                NotSentProof::Guard,
                NotSentProof::NotBuilt,
            ]
            .map(Self::NotSent),
        );
        all.extend(
            [Doubt::NoReply, Doubt::Unreadable, Doubt::Contradictory, Doubt::Unlisted, Doubt::SenderDied]
                .map(Self::Unknown),
        );
        all
    }
}

/// The stable number of an outcome's detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReasonCode(pub i16);

impl ReasonCode {
    /// The word for the number, as the CLI, the history and the metrics show it; `unlisted` for a number that
    /// this version does not know.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "charged",
            2 => "partial",
            3 => "refunded",
            4 => "reserved",
            5 => "released",
            6 => "pending",
            7 => "needs_consent",
            8 => "duplicate",
            9 => "absent",
            20 => "no_funds",
            21 => "barred",
            22 => "unknown_subscriber",
            23 => "limit",
            24 => "limit_day",
            25 => "limit_week",
            26 => "limit_month",
            27 => "limit_too_soon",
            28 => "subscriber_refused",
            29 => "not_allowed",
            30 => "expired",
            40 => "throttled",
            41 => "busy",
            42 => "down",
            50 => "bad_request",
            51 => "bad_credential",
            52 => "bad_price",
            60 => "name_resolution",
            61 => "connect",
            62 => "tls_handshake",
            63 => "guard",
            64 => "not_built",
            80 => "no_reply",
            81 => "unreadable",
            82 => "contradictory",
            83 => "unlisted_code",
            84 => "sender_died",
            _ => "unlisted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_number_and_a_word_of_its_own() {
        let mut seen = std::collections::HashMap::new();
        for outcome in Outcome::all(5) {
            let code = outcome.reason();
            assert_ne!(code.name(), "unlisted", "{outcome:?}");
            // Listed and unlisted variants share the word: the class tells them apart.
            let kind = match outcome {
                Outcome::Temporary { why, .. } => format!("{why:?}"),
                Outcome::Fault { what, .. } => format!("{what:?}"),
                other => format!("{other:?}"),
            };
            assert_eq!(seen.entry(code).or_insert_with(|| kind.clone()), &kind);
        }
    }

    #[test]
    fn doubt_never_counts_as_no() {
        for outcome in Outcome::all(5) {
            let doubtful = matches!(
                outcome,
                Outcome::Pending
                    | Outcome::Duplicate
                    | Outcome::Unknown(_)
                    | Outcome::Temporary { listed: false, .. }
                    | Outcome::Fault { listed: false, .. }
            );
            assert_eq!(outcome.moved() == Moved::Unknown, doubtful, "{outcome:?}");
        }
    }
}
