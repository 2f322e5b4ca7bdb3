//! Where evidence comes from, and what it brings into the history: the carrier's own message, or what people wrote.

use billing_core::ids::OurRef;
use billing_core::outcome::{Moved, Outcome};
use billing_core::reason::Rule;
use billing_core::states::AttemptState;
use billing_core::subscription::OpenAttempt;
use carriers::{ExchangeKind, Reply};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storage::pg::{ProposalRow, StoreError, file_rows, kept_callback, proposal};
use storage::story::StoryOutcome;
use storage::vault::Vault;

use crate::callbacks::Raw;
use crate::files::open_file_row;
use crate::link::DbLink;
use crate::takeover::Evidence;

/// Places in the history of decisions on a carrier's message: this plus the message's number.
pub const SEQ_CALLBACK: i64 = 1 << 34;
/// ... and of decisions of people: this plus the proposal's number.
pub const SEQ_PEOPLE: i64 = 1 << 35;

/// ... and of decisions on a row of a carrier's file: this plus the row's number.
pub const SEQ_FILE: i64 = 1 << 36;

/// Where evidence comes from. Stands behind the evidence in the inbox; what says nothing comes from a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// A worker's own spool.
    #[default]
    Worker,
    /// A carrier's message.
    Callback {
        /// Its number.
        id: i64,
    },
    /// Two people.
    People {
        /// The proposal's number.
        proposal: i64,
    },
    /// A row of a carrier's complete file.
    File {
        /// Its number.
        row: i64,
    },
}

/// What two people decided, for the inbox of the attempt's shard.
///
/// # Errors
/// When it cannot be encoded.
pub fn decision_of_people(
    (period, attempt_no): (i32, i16),
    outcome: Outcome,
    proposal: i64,
) -> Result<Vec<u8>, postcard::Error> {
    let outcome = StoryOutcome::of(outcome);
    let evidence = Evidence { period, attempt_no, outcome, carrier_code: None, carrier_txn_id: None, why: 0 };
    Ok(Origin::People { proposal }.behind(evidence.encode()?))
}

/// What evidence brings along.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// Its place in the history.
    pub(crate) seq: i64,
    /// The rule that brought it here.
    pub(crate) why: i16,
    /// What was said, as it came, and when; `None` when it is not kept any more.
    pub(crate) said: Option<(Vec<u8>, Timestamp)>,
    /// The rule that is recorded, whatever follows from it.
    pub(crate) rule: Option<i16>,
}

impl Origin {
    /// Evidence from here, for the inbox.
    pub(crate) fn behind(self, mut evidence: Vec<u8>) -> Vec<u8> {
        evidence.extend(postcard::to_stdvec(&self).unwrap_or_default());
        evidence
    }

    pub(crate) fn of(payload: &[u8]) -> Self {
        let behind = postcard::take_from_bytes::<Evidence>(payload).map(|(_, rest)| rest);
        behind.ok().and_then(|rest| postcard::from_bytes(rest).ok()).unwrap_or_default()
    }

    /// What it brings along; `None` for a worker's evidence, whose exchange lies in a history already.
    pub(crate) async fn told(self, vault: &Vault, db: &mut DbLink) -> Result<Option<Told>, StoreError> {
        match self {
            Self::Worker => Ok(None),
            Self::Callback { id } => {
                let conn = db.conn().await?.postgres()?;
                let kept = kept_callback(conn, id).await;
                let said = db.checked(kept)?.and_then(|kept| {
                    let at = Timestamp::from_microsecond(kept.received_at_us).ok()?;
                    Some((Raw::open(vault, &kept)?.text(), at))
                });
                Ok(Some(Told { seq: SEQ_CALLBACK + id, why: Rule::CALLBACK_TOLD.number(), said, rule: None }))
            }
            Self::People { proposal: id } => {
                let conn = db.conn().await?.postgres()?;
                let kept = proposal(conn, id).await;
                let said = db.checked(kept)?.and_then(|kept| {
                    let at = Timestamp::from_microsecond(kept.decided_at_us?).ok()?;
                    Some((words_of(&kept).into_bytes(), at))
                });
                let why = Rule::PEOPLE_DECIDED.number();
                Ok(Some(Told { seq: SEQ_PEOPLE + id, why, said, rule: Some(why) }))
            }
            Self::File { row: id } => {
                let conn = db.conn().await?.postgres()?;
                let kept = file_rows(conn, None, Some(id), 1).await;
                let said = db.checked(kept)?.pop().and_then(|kept| {
                    let at = Timestamp::from_microsecond(kept.received_at_us).ok()?;
                    let line = open_file_row(vault, &kept).ok()?;
                    let head = format!("file {}: {}, line {}\n", kept.file_id, kept.name, kept.line);
                    Some(([head.as_bytes(), &line].concat(), at))
                });
                Ok(Some(Told { seq: SEQ_FILE + id, why: Rule::FILE_TOLD.number(), said, rule: None }))
            }
        }
    }
}

impl Told {
    /// What was said as an exchange in which nothing was asked.
    pub(crate) fn exchange(&self, our_ref: OurRef, outcome: Outcome) -> Option<(OurRef, Reply)> {
        let (response, answered_at) = self.said.clone()?;
        let reply = Reply {
            ticket: 0,
            kind: ExchangeKind::Send,
            outcome,
            finding: None,
            carrier_code: None,
            carrier_txn_id: None,
            wrote: false,
            request: Vec::new(),
            response,
            sent_at: None,
            answered_at,
            latency_us: 0,
            alert: None,
        };
        Some((our_ref, reply))
    }
}

fn words_of(kept: &ProposalRow) -> String {
    let approved = kept.approved_by.as_deref().unwrap_or("?");
    let account = kept.approved_account.as_deref().unwrap_or("?");
    format!(
        "proposal {}: {}\nproposed by {} ({}), approved by {approved} ({account})",
        kept.id, kept.why, kept.proposed_by, kept.proposed_account
    )
}

/// Where an attempt stands that is open in this way; `None` for one that is not.
pub(crate) fn state_of_open(open: OpenAttempt) -> Option<AttemptState> {
    match open {
        OpenAttempt::None => None,
        OpenAttempt::Accepted => Some(AttemptState::Accepted),
        OpenAttempt::Unknown => Some(AttemptState::Unknown),
        OpenAttempt::InReview => Some(AttemptState::InReview),
    }
}

/// Whether evidence says of a final attempt what is recorded: about the money, not about the reason.
pub(crate) fn agrees(state: AttemptState, moved_minor: i64, outcome: Outcome) -> bool {
    match (outcome, outcome.moved()) {
        (_, Moved::Yes(minor)) => state == AttemptState::Approved && moved_minor == minor,
        (_, Moved::Unknown) => true,
        (Outcome::Reserved, _) => state == AttemptState::Reserved,
        (Outcome::Released, _) => state == AttemptState::Released,
        (_, Moved::No) => {
            matches!(state, AttemptState::Declined | AttemptState::NotSent | AttemptState::NotApplied)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use billing_core::outcome::Refusal;

    use super::*;

    #[test]
    fn an_origin_stands_behind_its_evidence() {
        let evidence = Evidence {
            period: 5,
            attempt_no: 2,
            outcome: StoryOutcome::of(Outcome::Charged { amount_minor: 7 }),
            carrier_code: None,
            carrier_txn_id: Some("c-1".into()),
            why: 0,
        };
        let bytes = evidence.encode().unwrap();
        assert_eq!(Origin::of(&bytes), Origin::Worker);
        let told = Origin::Callback { id: 77 }.behind(bytes);
        assert_eq!(Origin::of(&told), Origin::Callback { id: 77 });
        assert_eq!(Evidence::decode(&told), Some(evidence));
        assert_eq!(Origin::of(&told[..3]), Origin::Worker);
    }

    #[test]
    fn evidence_agrees_when_the_same_money_moved() {
        let charged = Outcome::Charged { amount_minor: 7 };
        let refused = Outcome::Declined(Refusal::NoFunds);
        assert!(agrees(AttemptState::Approved, 7, charged));
        assert!(!agrees(AttemptState::Approved, 6, charged));
        assert!(!agrees(AttemptState::Declined, 0, charged));
        assert!(agrees(AttemptState::Declined, 0, Outcome::Declined(Refusal::Barred)));
        assert!(agrees(AttemptState::NotApplied, 0, refused) && !agrees(AttemptState::Approved, 7, refused));
        assert!(!agrees(AttemptState::Declined, 0, Outcome::Reserved));
    }
}
