//! Which attempt a kept message is about, and what follows: evidence for the owner of its shard, a hint, a case, nothing.
//! Any process does this for messages of all; each is settled once.

use std::sync::Arc;
use std::time::Duration;

use billing_core::ids::{OurRef, SubscriptionId};
use billing_core::outcome::{Moved, Outcome};
use billing_core::states::{AttemptState, from_number};
use carriers::{Attempt, Callback, read_kept_callback};
use storage::pg::{
    AttemptRow, CallbackSettled, CallbackState, DueRow, KeptCallback, KeyedAttempt, StoreError,
    attempt_of_txn, attempts, by_ref_seed, load, look_again, new_callbacks, settle_callback, trim_callbacks,
};
use storage::story::StoryOutcome;
use tokio_util::sync::CancellationToken;

use super::{CallbackDesk, Raw, Speaking};
use crate::files::attempt_as_asked;
use crate::inbox::is_contrary_money;
use crate::link::DbLink;
use crate::takeover::Evidence;
use crate::told::{Origin, agrees};

/// Messages looked at in one pass.
const PASS_MAX: i32 = 200;
/// How often messages that other processes left are looked for ...
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// ... and how old those are at least.
const LEFT_AFTER_MS: i64 = 1_000;
/// A message may come before what it is about is recorded; after so long it is about nothing of ours.
const ATTEMPT_WITHIN_MS: i64 = 10 * 60 * 1_000;
const AGAIN_MS: std::ops::RangeInclusive<i64> = 1_000..=60_000;
/// Settled messages are kept so long: the memory for repeats.
const KEPT_DAYS: i32 = 30;
const TRIM_MAX: i32 = 10_000;
/// Passes between two looks for messages to delete: about ten minutes.
const TRIM_EVERY_PASSES: u32 = 1_200;

/// Looks at kept messages until it is told to stop.
pub(super) struct Matcher {
    pub(super) desk: Arc<CallbackDesk>,
    pub(super) db: DbLink,
}

/// What a message came to.
enum Match {
    Settled(CallbackState, CallbackSettled),
    /// Its attempt is not there yet.
    NotYet,
}

impl Matcher {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut passes = 0_u32;
        loop {
            let fresh = tokio::select! {
                () = stop.cancelled() => return,
                () = self.desk.kept.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            passes = passes.wrapping_add(1);
            if let Err(error) = self.pass(fresh).await {
                metrics::counter!("tollbook_trouble_total", "doing" => "matching callbacks").increment(1);
                tracing::debug!(%error, "carriers' messages could not be matched");
            }
            if passes.is_multiple_of(TRIM_EVERY_PASSES) {
                let _ = self.trim().await;
            }
        }
    }

    async fn pass(&mut self, fresh: bool) -> Result<(), StoreError> {
        let age_ms = if fresh { 0 } else { LEFT_AFTER_MS };
        loop {
            let conn = self.db.conn().await?.postgres()?;
            let new = new_callbacks(conn, age_ms, PASS_MAX).await;
            let new = self.db.checked(new)?;
            let full = new.len() == PASS_MAX as usize;
            for message in new {
                match self.settle(&message).await {
                    // One that the database does not take is not to hold up the others.
                    Err(StoreError::Refused(error)) => {
                        tracing::error!(id = message.id, %error, "a carrier's message cannot be settled");
                        let conn = self.db.conn().await?.postgres()?;
                        let noted = look_again(conn, message.id, *AGAIN_MS.end()).await;
                        self.db.checked(noted)?;
                    }
                    other => other?,
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn trim(&mut self) -> Result<(), StoreError> {
        let conn = self.db.conn().await?.postgres()?;
        let trimmed = trim_callbacks(conn, KEPT_DAYS, TRIM_MAX).await;
        self.db.checked(trimmed).map(|_| ())
    }

    async fn settle(&mut self, message: &KeptCallback) -> Result<(), StoreError> {
        let found = self.look_at(message).await?;
        let (state, settled) = match found {
            Match::Settled(state, settled) => (state, settled),
            Match::NotYet if message.age_ms < ATTEMPT_WITHIN_MS => {
                let after_ms = (message.age_ms / 2).clamp(*AGAIN_MS.start(), *AGAIN_MS.end());
                let conn = self.db.conn().await?.postgres()?;
                let noted = look_again(conn, message.id, after_ms).await;
                return self.db.checked(noted);
            }
            Match::NotYet => (CallbackState::Unmatched, CallbackSettled::default()),
        };
        let conn = self.db.conn().await?.postgres()?;
        let done = settle_callback(conn, message.id, state, &settled).await;
        if self.db.checked(done)? {
            metrics::counter!("tollbook_callbacks_matched_total", "state" => state.name()).increment(1);
        }
        Ok(())
    }

    async fn look_at(&mut self, message: &KeptCallback) -> Result<Match, StoreError> {
        let nothing = |state| Ok(Match::Settled(state, CallbackSettled::default()));
        // A book without this carrier may be followed by one with it.
        let Some(speaking) = self.desk.speaking(message.carrier_no) else { return Ok(Match::NotYet) };
        let Some(raw) = Raw::open(&self.desk.vault, message) else {
            tracing::error!(id = message.id, "a kept message of a carrier does not open");
            return nothing(CallbackState::Refused);
        };
        let read = read_kept_callback(&speaking.definition, message.authenticated, &raw.body);
        let Ok(callback) = read else { return nothing(CallbackState::Refused) };
        let key = match self.key_of(message.carrier_no, &callback).await? {
            Some(key) => key,
            None if message.authenticated => return Ok(Match::NotYet),
            None => return nothing(CallbackState::Unmatched),
        };
        let conn = self.db.conn().await?.postgres()?;
        let rows = attempts(conn, key.0, key.1).await;
        let rows = self.db.checked(rows)?;
        let Some(row) = rows.into_iter().find(|row| row.attempt_no == key.2) else {
            return if message.authenticated { Ok(Match::NotYet) } else { nothing(CallbackState::Unmatched) };
        };
        let conn = self.db.conn().await?.postgres()?;
        let loaded = load(conn, &[key.0]).await;
        let Some(sub) = self.db.checked(loaded)?.0.into_iter().next() else { return Ok(Match::NotYet) };
        let (state, settled) = verdict(&speaking, &self.desk, message, &callback, &row, &sub, key);
        Ok(Match::Settled(state, settled))
    }

    /// Our key says which attempt it is, and is durable before a byte of the attempt leaves. The carrier's id is known
    /// once its answer is recorded.
    async fn key_of(
        &mut self,
        carrier_no: i32,
        callback: &Callback,
    ) -> Result<Option<(i64, i32, i16)>, StoreError> {
        let conn = self.db.conn().await?.postgres()?;
        match (callback.our_ref.map(OurRef::parts), callback.carrier_txn_id.as_deref()) {
            (Some(Ok((seed, period, attempt_no))), _) => {
                let found = by_ref_seed(conn, seed.0).await;
                Ok(self.db.checked(found)?.map(|id| (id, period.number(), attempt_no)))
            }
            (None, Some(txn)) => {
                let found = attempt_of_txn(conn, carrier_no, txn).await;
                self.db.checked(found)
            }
            (Some(Err(_)), _) | (None, None) => Ok(None),
        }
    }
}

/// What a message means for the attempt that it names.
fn verdict(
    speaking: &Speaking,
    desk: &CallbackDesk,
    message: &KeptCallback,
    callback: &Callback,
    row: &AttemptRow,
    sub: &DueRow,
    key: (i64, i32, i16),
) -> (CallbackState, CallbackSettled) {
    let about = |evidence, case| CallbackSettled { attempt: Some(key), evidence, case };
    let state = from_number::<AttemptState>(row.state).unwrap_or(AttemptState::Intent);
    if !message.authenticated {
        let hint = || {
            (
                "callback_hint",
                "a message without a known sender speaks of this attempt: ask the carrier".to_owned(),
            )
        };
        return (CallbackState::Hint, about(None, (!state.is_final()).then(hint)));
    }
    let conflict = |kind, what| (CallbackState::Conflict, about(None, Some((kind, what))));
    let says = words(callback.result);
    if SubscriptionId(key.0).shard().carrier_no() != message.carrier_no {
        let what = format!(
            "a message of carrier {} says {says}, and names our key of this attempt at another carrier",
            speaking.definition.id
        );
        return conflict("callback_mismatch", what);
    }
    let attempt = match asked(speaking, desk, row, sub, key) {
        Ok(attempt) => attempt,
        Err(why) => {
            return conflict("callback_mismatch", format!("the carrier's message says {says}, but {why}"));
        }
    };
    let outcome = match callback.held_against(&attempt, speaking.definition.caps.partial) {
        Ok(outcome) => outcome,
        Err(alert) => {
            let what = format!(
                "the carrier's message says {says}, and does not agree with the attempt: {}",
                alert.name()
            );
            return conflict("callback_mismatch", what);
        }
    };
    if matches!(outcome, Outcome::Pending) || matches!(outcome.moved(), Moved::Unknown) {
        return (CallbackState::Refused, about(None, None));
    }
    let against = is_contrary_money(row.op, state, outcome);
    if state.is_final() && !against {
        if agrees(state, row.moved_minor.unwrap_or(0), outcome) {
            return (CallbackState::Duplicate, about(None, None));
        }
        return conflict("conflict", contrary(outcome, state, row.moved_minor.unwrap_or(0)));
    }
    let evidence = Evidence {
        period: key.1,
        attempt_no: key.2,
        outcome: StoryOutcome::of(outcome),
        carrier_code: callback.carrier_code.as_deref().map(str::to_owned),
        carrier_txn_id: callback.carrier_txn_id.as_deref().map(str::to_owned),
        why: 0,
    };
    match evidence.encode() {
        Ok(payload) => {
            // Money against the record: the owner blocks the charge with it, and opens the case.
            let state = if against { CallbackState::Conflict } else { CallbackState::Given };
            (state, about(Some(Origin::Callback { id: message.id }.behind(payload)), None))
        }
        Err(error) => conflict("callback_mismatch", format!("the carrier's message says {says}: {error}")),
    }
}

/// For people: what the evidence says against what is recorded.
pub(crate) fn contrary(outcome: Outcome, state: AttemptState, moved_minor: i64) -> String {
    use billing_core::states::State;
    let recorded = match moved_minor {
        0 => state.name().to_owned(),
        minor => format!("{} with {minor} minor units moved", state.name()),
    };
    format!("evidence says {}, recorded is {recorded}: nothing was changed", words(outcome))
}

fn words(outcome: Outcome) -> String {
    let name = outcome.reason().name();
    match outcome.moved() {
        Moved::Yes(minor) => format!("{name} {minor} minor units"),
        Moved::No | Moved::Unknown => name.to_owned(),
    }
}

/// The attempt as it was asked for: what a message is held against.
fn asked(
    speaking: &Speaking,
    desk: &CallbackDesk,
    row: &AttemptRow,
    sub: &DueRow,
    key: (i64, i32, i16),
) -> Result<Attempt, String> {
    let keyed = KeyedAttempt {
        ref_seed: sub.sub.ref_seed.0,
        period: key.1,
        attempt_no: key.2,
        subscription_id: sub.sub.id.0,
        op: row.op,
        amount_minor: row.amount_minor,
        currency: row.currency,
        intent_at_us: row.intent_at_us,
        state: row.state,
        moved_minor: row.moved_minor.unwrap_or(0),
        carrier_txn_id: row.carrier_txn_id.clone(),
        subscriber_id: sub.sub.subscriber_id,
        msisdn_ct: sub.msisdn_ct.clone(),
        key_salt: sub.key_salt.to_vec(),
        kek_version: sub.kek_version,
    };
    attempt_as_asked(&speaking.definition, &desk.vault, &keyed)
}
