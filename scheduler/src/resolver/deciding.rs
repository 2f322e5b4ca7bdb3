//! What a resolver knows when it asks the core: the carrier's proof, the book that an attempt was sent under, the clocks.

use std::collections::HashMap;

use billing_core::outcome::{Op, Outcome};
use billing_core::reason::Rule;
use billing_core::resolve::{Facts, Plan, Proof, Step, next_step};
use jiff::{SignedDuration, Timestamp};
use storage::mutants::{Mutant, on};
use storage::pg::{DueAsk, StoreError};
use storage::store::book_files;

use super::{AskLane, Resolver, facts};

/// The database's clock may run so far ahead of ours between two passes.
const JUMP_MS: i64 = 2_000;
/// A version of the book that is not here yet is looked for again after this.
const BOOK_AGAIN_MS: i64 = 1_000;

/// The files of a book: path and text.
type Files = HashMap<String, String>;

/// Proof that is none: only where the simulation proves that it would notice.
fn believe_too_much(proof: &mut Proof, facts: &mut Facts<'_>) {
    if let Some(inquiry) = &mut proof.inquiry {
        if on(Mutant::EarlyNotFound) {
            (inquiry.settle_ms, facts.reply_timeout_ms) = (0, 0);
        }
        if on(Mutant::EarlyNotFound) || on(Mutant::SingleNotFound) {
            inquiry.agree = 1;
        }
    }
    if let Some(repeat) = proof.repeat.as_mut().filter(|_| on(Mutant::ResendAfterWindow)) {
        (repeat.window_ms, repeat.margin_ms) = (i64::MAX, 0);
    }
}

impl Resolver {
    /// What the core says of it; `None` for a carrier without a lane.
    pub(super) fn step(&self, due: &DueAsk) -> Option<Step> {
        if due.planned.op == Op::Adopt {
            // Nothing was sent under its key: nobody can be asked.
            return Some(Step::Review(Rule::REVIEW_ADOPT));
        }
        let carrier_no = (due.key.subscription_id >> 44) as i32;
        let lane = self.lanes.get(&carrier_no)?;
        let Some(catalog) = self.shared.books.held(due.book_version) else {
            let again = due.now.checked_add(SignedDuration::from_millis(BOOK_AGAIN_MS));
            return Some(Step::WaitUntil(again.unwrap_or(Timestamp::MAX)));
        };
        let hurry = self.hurry();
        // What an earlier book said, or a carrier's earlier file, may have made another body.
        let same_body = catalog.names.book_version == due.book_version
            && (due.book_version >= self.lanes_version
                || self
                    .state
                    .same_files
                    .get(&due.book_version)
                    .is_some_and(|same| same.contains(&carrier_no)));
        let known = self.known(same_body, lane);
        let (mut proof, mut facts) =
            (lane.proof(hurry), facts::of(due, &known, self.state.files.of(&due.key)));
        believe_too_much(&mut proof, &mut facts);
        Some(match next_step(&proof, &Plan::STANDARD.hurried(hurry), &facts) {
            Step::Review(_) if on(Mutant::NoProofAsAbsent) => {
                Step::Settle { outcome: Outcome::Absent, rule: Rule::RESOLVE_ABSENT }
            }
            step => step,
        })
    }

    fn known(&self, same_body: bool, lane: &AskLane) -> facts::Known {
        let shared = &self.shared;
        facts::Known {
            incarnation: shared.lease.incarnation,
            lease_ttl_ms: shared.settings.lease_ttl_ms,
            send_max_age_ms: shared.settings.send_max_age_ms,
            reply_timeout_ms: lane.reply_timeout_ms(),
            trusted_since: self.state.trusted_since,
            same_body,
            business_ms: shared.clock.business().as_millisecond(),
        }
    }

    /// Which carriers are spoken to as they were under the versions that these attempts were sent under.
    pub(super) async fn compare_carriers(&mut self, due: &[DueAsk]) -> Result<(), StoreError> {
        let earlier = |due: &&DueAsk| due.book_version < self.lanes_version;
        let mut versions: Vec<i32> = due.iter().filter(earlier).map(|due| due.book_version).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.retain(|version| !self.state.same_files.contains_key(version));
        if versions.is_empty() {
            return Ok(());
        }
        let now = self.files(self.lanes_version).await?;
        for version in versions {
            let then = self.files(version).await?;
            let file = |files: &Files, carrier: &str| {
                let name = format!("carriers/{carrier}.toml");
                files.iter().find(|(path, _)| path.ends_with(&name)).map(|(_, text)| text.clone())
            };
            let same = self.lanes.keys().copied().filter(|carrier_no| {
                let carrier = self.shared.carrier_name(*carrier_no);
                file(&then, &carrier).is_some_and(|text| Some(text) == file(&now, &carrier))
            });
            let same = same.collect();
            self.state.same_files.insert(version, same);
        }
        Ok(())
    }

    async fn files(&mut self, version: i32) -> Result<Files, StoreError> {
        let conn = self.db.conn().await?;
        let files = book_files(conn, version).await;
        let files = self.db.checked(files)?.unwrap_or_default();
        Ok(serde_json::from_str(&files).unwrap_or_default())
    }

    /// By how much the intervals are divided: never under a clock that runs as time does.
    fn hurry(&self) -> i64 {
        if self.shared.clock.scale() == 1 { 1 } else { self.shared.settings.resolution_time_scale.max(1) }
    }

    /// A clock that jumped ahead would make everything look old enough.
    pub(super) fn watch_clock(&mut self, database: Timestamp, before_ms: i64, after_ms: i64) {
        if let Some((last, last_ms)) = self.state.clocks {
            let passed_ms = database.as_millisecond().saturating_sub(last.as_millisecond());
            if passed_ms > after_ms.saturating_sub(last_ms) + JUMP_MS {
                tracing::warn!(
                    passed_ms,
                    "the database's clock jumped ahead: \"not found\" begins to count anew"
                );
                self.state.trusted_since = Some(database);
            }
        }
        self.state.clocks = Some((database, before_ms));
    }
}
