//! What each row of a file means: it agrees, it is evidence for the owner of its shard, or people must look at it.

use std::collections::HashMap;

use billing_core::ids::SubscriptionId;
use billing_core::outcome::{Moved, Outcome};
use billing_core::states::{AttemptState, from_number};
use carriers::FileRow;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use storage::pg::{
    FileCounts, FileRecord, FileRowState, KeyedAttempt, SettledFileRow, StoreError, attempts_of_keys,
    note_matched, post_evidence, settle_file_row,
};
use storage::story::StoryOutcome;

use super::doubles::Doubles;
use super::sealed::FileSeal;
use super::{FileError, FileTaker, attempt_as_asked};
use crate::callbacks::contrary;
use crate::inbox::is_contrary_money;
use crate::takeover::Evidence;
use crate::told::{Origin, agrees};

/// Rows with somebody else's key that are kept of one file; the others are only counted.
const FOREIGN_KEPT_MAX: i64 = 1_000;

/// Matches the rows of one file.
pub(super) struct Matching<'a> {
    pub(super) taker: &'a FileTaker<'a>,
    pub(super) file: &'a FileRecord,
    pub(super) seal: &'a FileSeal,
    /// The file is complete, and contradicts no other: its rows count.
    pub(super) proven: bool,
    pub(super) foreign_kept: i64,
    /// Keys that stand in it more than once.
    pub(super) doubles: Doubles,
}

/// Digits of the shortest number.
const NUMBER_DIGITS_MIN: usize = 7;

/// Seed, period and attempt number of our key.
pub(super) type Key = (i64, i32, i16);

/// What a row came to.
enum Verdict {
    /// It says what is recorded.
    Agrees,
    Kept {
        state: FileRowState,
        evidence: Option<Outcome>,
        case: Option<(&'static str, String)>,
    },
}

impl Verdict {
    fn plain(state: FileRowState) -> Self {
        Self::Kept { state, evidence: None, case: None }
    }
}

impl Matching<'_> {
    /// Settles rows, in one commit.
    pub(super) async fn settle(
        &mut self,
        conn: &mut PgConnection,
        rows: &[FileRow],
    ) -> Result<(), FileError> {
        let Some(last) = rows.last() else { return Ok(()) };
        let keys: Vec<Key> = rows.iter().filter_map(key_of).collect();
        let mut tx = conn.begin().await.map_err(StoreError::from)?;
        let known = attempts_of_keys(&mut tx, &keys).await?;
        let known: HashMap<Key, KeyedAttempt> =
            known.into_iter().map(|row| ((row.ref_seed, row.period, row.attempt_no), row)).collect();
        let mut counts = FileCounts::default();
        for row in rows {
            let key = key_of(row);
            let attempt = key.and_then(|key| known.get(&key));
            let verdict = match (key, attempt) {
                (None, _) => Verdict::plain(FileRowState::Foreign),
                (Some(_), None) if self.proven => Verdict::plain(FileRowState::Orphan),
                (Some(_), None) => Verdict::plain(FileRowState::Unproven),
                (Some(_), Some(attempt)) => self.verdict(row, attempt),
            };
            let (state, evidence, case) = match verdict {
                Verdict::Agrees => {
                    counts.agreed += 1;
                    continue;
                }
                Verdict::Kept { state, evidence, case } => (state, evidence, case),
            };
            match state {
                FileRowState::Given => counts.given += 1,
                FileRowState::Conflict => counts.conflicts += 1,
                FileRowState::Orphan => counts.orphans += 1,
                FileRowState::Foreign => {
                    counts.foreign += 1;
                    self.foreign_kept += 1;
                    if self.foreign_kept > FOREIGN_KEPT_MAX {
                        continue;
                    }
                }
                FileRowState::Nothing | FileRowState::Unproven => {}
            }
            let kept = self.keep(&mut tx, row, key, attempt, (state, case)).await?;
            if let (Some(id), Some(outcome), Some(attempt)) = (kept, evidence, attempt) {
                let payload = evidence_of(row, attempt, outcome)?;
                let payload = Origin::File { row: id }.behind(payload);
                post_evidence(&mut tx, attempt.subscription_id, &payload).await?;
            }
        }
        let line = i64::try_from(last.line).unwrap_or(i64::MAX);
        note_matched(&mut tx, self.file.id, line, counts, false).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(())
    }

    async fn keep(
        &self,
        tx: &mut PgConnection,
        row: &FileRow,
        key: Option<Key>,
        attempt: Option<&KeyedAttempt>,
        (state, case): (FileRowState, Option<(&'static str, String)>),
    ) -> Result<Option<i64>, FileError> {
        let line = i64::try_from(row.line).unwrap_or(i64::MAX);
        let told = StoryOutcome::of(row.result);
        let sealed = self
            .seal
            .seal_row(line, &row.raw)
            .map_err(|source| FileError::Sealed { id: self.file.id, source })?;
        // What is somebody else's, or not where the dialect says, may be a subscriber's number: the whole line is sealed.
        let shown = if key.is_some() { row.key.to_string() } else { without_numbers(&row.key) };
        let code = without_numbers(&row.code);
        let settled = SettledFileRow {
            line,
            subscription_id: attempt.map(|attempt| attempt.subscription_id),
            key,
            moved_minor: told.moved_minor,
            reason: told.reason,
            state,
            our_ref: &shown,
            carrier_txn_id: row.carrier_txn_id.as_deref(),
            code: &code,
            sealed: &sealed,
            case,
        };
        Ok(settle_file_row(tx, self.file.id, &settled).await?)
    }

    /// What a row means for the attempt that it names. Of a file that proves nothing it says so little that only agreement
    /// is told apart.
    fn verdict(&self, row: &FileRow, attempt: &KeyedAttempt) -> Verdict {
        let definition = self.taker.definition;
        let place = format!("line {} of {} (file {})", row.line, self.file.name, self.file.id);
        let people = |kind: &'static str, what: String| match self.proven {
            true => Verdict::Kept { state: FileRowState::Conflict, evidence: None, case: Some((kind, what)) },
            false => Verdict::plain(FileRowState::Unproven),
        };
        if SubscriptionId(attempt.subscription_id).shard().carrier_no() != self.taker.carrier_no {
            let what = format!("{place} of carrier {} names this attempt at another carrier", definition.id);
            return people("file_mismatch", what);
        }
        let asked = match attempt_as_asked(definition, self.taker.vault, attempt) {
            Ok(asked) => asked,
            Err(why) => return people("file_mismatch", format!("{place} names this attempt, but {why}")),
        };
        let outcome = match row.held_against(&asked, definition.caps.partial) {
            Ok(outcome) => outcome,
            Err(alert) => {
                let what = format!(
                    "{place} says {} {}, and does not agree with the attempt: {}",
                    row.result.reason().name(),
                    row.amount_minor,
                    alert.name()
                );
                return people("file_mismatch", what);
            }
        };
        if matches!(outcome, Outcome::Pending) || matches!(outcome.moved(), Moved::Unknown) {
            return Verdict::plain(FileRowState::Nothing);
        }
        let state = from_number::<AttemptState>(attempt.state).unwrap_or(AttemptState::Intent);
        let recorded = state.is_final() && agrees(state, attempt.moved_minor, outcome);
        // Which of them is right cannot be told, and money that is named twice may have been taken twice. One case for all.
        if key_of(row).is_some_and(|key| self.doubles.has(key))
            && !(recorded && matches!(outcome.moved(), Moved::No))
        {
            let (name, id) = (&self.file.name, self.file.id);
            return people(
                "file_mismatch",
                format!("{name} (file {id}) names this attempt in more than one row"),
            );
        }
        match state.is_final() {
            true if recorded => Verdict::Agrees,
            // Money against the record: the owner blocks the charge with it, and opens the case.
            true if self.proven && is_contrary_money(attempt.op, state, outcome) => {
                Verdict::Kept { state: FileRowState::Conflict, evidence: Some(outcome), case: None }
            }
            true => people("conflict", format!("{place}: {}", contrary(outcome, state, attempt.moved_minor))),
            false if self.proven => {
                Verdict::Kept { state: FileRowState::Given, evidence: Some(outcome), case: None }
            }
            false => Verdict::plain(FileRowState::Unproven),
        }
    }
}

/// Runs of digits that a line's number could be, shortened to their last two.
fn without_numbers(text: &str) -> String {
    let (mut shown, mut run) = (String::new(), String::new());
    for c in text.chars().map(Some).chain([None]) {
        if let Some(digit) = c.filter(char::is_ascii_digit) {
            run.push(digit);
            continue;
        }
        match run.len() {
            NUMBER_DIGITS_MIN.. => shown = shown + "\u{2026}" + &run[run.len() - 2..],
            _ => shown += &run,
        }
        run.clear();
        shown.extend(c);
    }
    shown
}

pub(super) fn key_of(row: &FileRow) -> Option<Key> {
    let (seed, period, attempt_no) = row.our_ref?.parts().ok()?;
    Some((seed.0, period.number(), attempt_no))
}

fn evidence_of(row: &FileRow, attempt: &KeyedAttempt, outcome: Outcome) -> Result<Vec<u8>, StoreError> {
    let evidence = Evidence {
        period: attempt.period,
        attempt_no: attempt.attempt_no,
        outcome: StoryOutcome::of(outcome),
        carrier_code: Some(row.code.to_string()),
        carrier_txn_id: row.carrier_txn_id.as_deref().map(str::to_owned),
        why: 0,
    };
    evidence.encode().map_err(|error| StoreError::Broken(format!("evidence of a file: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_a_number_is_not_shown() {
        for (text, shown) in [
            ("INVOICE-17", "INVOICE-17"),
            ("21620000001", "\u{2026}01"),
            ("a+21620000001/123456", "a+\u{2026}01/123456"),
            ("", ""),
        ] {
            assert_eq!(without_numbers(text), shown);
        }
    }
}
