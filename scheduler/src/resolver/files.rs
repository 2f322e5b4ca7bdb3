//! What is known of the carriers' files when the core is asked: what the complete ones cover, and whom any of them names.

use std::collections::{HashMap, HashSet};

use billing_core::resolve::Covered;
use jiff::Timestamp;
use storage::pg::{AttemptKey, DueAsk, StoreError, file_coverage, named_elsewhere};

use super::Resolver;

/// As of the last pass.
#[derive(Default)]
pub(super) struct FilesKnown {
    covered: HashMap<i32, Vec<Covered>>,
    /// Attempts that were looked for, and whether a file or a message names them.
    named: HashMap<AttemptKey, bool>,
}

impl FilesKnown {
    /// What the carrier's complete files cover, and whether anything of the carrier names the attempt. Who was not looked
    /// for may be named.
    pub(super) fn of(&self, key: &AttemptKey) -> (&[Covered], bool) {
        let covered = self.covered.get(&((key.subscription_id >> 44) as i32));
        (covered.map_or(&[], Vec::as_slice), self.named.get(key).copied().unwrap_or(true))
    }
}

impl Resolver {
    /// Looks at the files for attempts whose carriers declare them as proof; asks the database nothing where none does.
    pub(super) async fn look_at_files(&mut self, due: &[DueAsk]) -> Result<(), StoreError> {
        self.state.files = FilesKnown::default();
        let files = |due: &&DueAsk| {
            let carrier_no = (due.key.subscription_id >> 44) as i32;
            self.lanes.get(&carrier_no).is_some_and(|lane| lane.proof(1).file_settle_ms.is_some())
        };
        let keys: Vec<AttemptKey> = due.iter().filter(files).map(|due| due.key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let carriers: HashSet<i32> = keys.iter().map(|key| (key.subscription_id >> 44) as i32).collect();
        let carriers: Vec<i32> = carriers.into_iter().collect();
        // First what they cover: a file that is taken in meanwhile is then found by whom it names.
        // The simulation takes no files in: then nothing is covered.
        let Ok(conn) = self.db.conn().await?.postgres() else { return Ok(()) };
        let covered = file_coverage(conn, &carriers).await;
        let covered = self.db.checked(covered)?;
        let conn = self.db.conn().await?.postgres()?;
        let named = named_elsewhere(conn, &keys).await;
        let named: HashSet<AttemptKey> = self.db.checked(named)?.into_iter().collect();
        for (carrier_no, from_us, until_us) in covered {
            let at = |us: i64| Timestamp::from_microsecond(us).ok();
            if let Some((from, until)) = at(from_us).zip(at(until_us)) {
                self.state.files.covered.entry(carrier_no).or_default().push(Covered { from, until });
            }
        }
        self.state.files.named = keys.iter().map(|key| (*key, named.contains(key))).collect();
        Ok(())
    }
}
