//! The kept rows of a subscription: asked of the processes that live, read from the spools of those that do not.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use api::client::{fetch_dictionary, fetch_history};
use sqlx::postgres::PgConnection;
use storage::history::{
    Digest, FjallHistory, FjallHistoryOptions, HistoryError, HistoryKey, HistoryStore, SealedRow,
    TIMELINE_ROWS_MAX, seal,
};
use storage::lock_file::LockFile;
use storage::pg::worker_rows;
use storage::story::Story;
use storage::vault::SubscriberKey;

use crate::home::{Home, host};

/// Sealed rows, what opens them, and what could not be read.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    rows: Vec<SealedRow>,
    dictionaries: HashMap<Digest, Vec<u8>>,
    /// What could not be read, in words.
    pub(crate) problems: Vec<String>,
}

impl Kept {
    /// Every row of a subscription's month that is within reach.
    pub(crate) async fn collect(
        home: &Home,
        conn: &mut PgConnection,
        subscription_id: i64,
        month: i32,
    ) -> anyhow::Result<Self> {
        let mut kept = Self::default();
        let mut answered = HashSet::new();
        let mut silent = Vec::new();
        for worker in worker_rows(conn).await? {
            let here = worker.host == host();
            match kept.ask(&worker.endpoint, subscription_id, month).await {
                Ok(()) => {
                    if here {
                        answered.insert(PathBuf::from(worker.spool));
                    }
                }
                Err(why) => silent.push((here.then(|| PathBuf::from(&worker.spool)), worker.lease.slot, why)),
            }
        }
        let mut read = HashSet::new();
        for spool in spools(home).into_iter().filter(|spool| !answered.contains(spool)) {
            match kept.read_spool(&spool, subscription_id, month).await {
                Ok(()) => {
                    read.insert(spool);
                }
                Err(why) => {
                    kept.problems.push(format!("the spool {} cannot be read: {why}", spool.display()))
                }
            }
        }
        for (spool, slot, why) in silent {
            // Its process is dead: what it kept was read from its spool.
            if spool.is_none_or(|spool| !read.contains(&spool)) {
                kept.problems.push(format!("worker {slot} could not be asked for its history: {why}"));
            }
        }
        Ok(kept)
    }

    async fn ask(&mut self, endpoint: &str, subscription_id: i64, month: i32) -> Result<(), String> {
        let text = |error: api::client::ClientError| error.to_string();
        let answer = fetch_history(endpoint, subscription_id, month, month).await.map_err(text)?;
        for digest in self.missing(&answer.rows) {
            if let Some(bytes) = fetch_dictionary(endpoint, digest).await.map_err(text)? {
                self.dictionaries.insert(digest, bytes);
            }
        }
        if answer.more {
            self.problems.push(format!("{endpoint} has more rows of this month than one answer holds"));
        }
        self.rows.extend(answer.rows);
        Ok(())
    }

    /// Holds the spool's lock while it reads, so that no worker takes the spool meanwhile.
    async fn read_spool(&mut self, spool: &Path, subscription_id: i64, month: i32) -> Result<(), String> {
        let history = spool.join("history");
        if !history.join("db").is_dir() {
            return Ok(());
        }
        let taken = LockFile::take(&spool.join("lock")).map_err(|error| error.to_string())?;
        let Some(lock) = taken else {
            return Err("a process has it that could not be asked".to_owned());
        };
        let open = move || FjallHistory::open(&history, FjallHistoryOptions::default());
        let store = tokio::task::spawn_blocking(open).await.map_err(|error| error.to_string())?;
        let store = store.map_err(|error| error.to_string())?;
        let read = self.read_store(&store, subscription_id, month).await.map_err(|error| error.to_string());
        let closed = tokio::task::spawn_blocking(move || {
            drop(store);
            drop(lock);
        });
        let _ = closed.await;
        read
    }

    async fn read_store(
        &mut self,
        store: &FjallHistory,
        subscription_id: i64,
        month: i32,
    ) -> Result<(), HistoryError> {
        let rows = store.timeline(subscription_id, month, month, TIMELINE_ROWS_MAX).await?;
        for digest in self.missing(&rows) {
            if let Some(bytes) = store.dictionary(digest).await? {
                self.dictionaries.insert(digest, bytes);
            }
        }
        self.rows.extend(rows);
        Ok(())
    }

    fn missing(&self, rows: &[SealedRow]) -> HashSet<Digest> {
        let needed = rows.iter().filter_map(|row| seal::dictionary_needed(&row.bytes));
        needed.filter(|digest| !self.dictionaries.contains_key(digest)).collect()
    }

    /// The stories of one period, by (attempt, seq). What cannot be opened is added to the problems.
    pub(crate) fn stories(&mut self, key: &SubscriberKey, period: i32) -> HashMap<(i16, i64), Story> {
        let mut stories: HashMap<(i16, i64), Story> = HashMap::new();
        let mut problems = Vec::new();
        for row in self.rows.iter().filter(|row| row.key.period == period) {
            let place = (row.key.attempt_no, row.key.seq);
            match self.open(key, row) {
                // Two spools may have kept the same decision: the later one was recorded.
                Ok(story)
                    if stories
                        .get(&place)
                        .is_none_or(|other| other.business_at_ms <= story.business_at_ms) =>
                {
                    stories.insert(place, story);
                }
                Ok(_) => {}
                Err(why) => problems.push(format!("{} cannot be opened: {why}", name(&row.key))),
            }
        }
        self.problems.extend(problems);
        stories
    }

    /// How many rows of a period there are, opened or not.
    pub(crate) fn count(&self, period: i32) -> usize {
        self.rows.iter().filter(|row| row.key.period == period).count()
    }

    fn open(&self, key: &SubscriberKey, row: &SealedRow) -> Result<Story, String> {
        let lookup = |digest: &Digest| self.dictionaries.get(digest).cloned();
        let plain = seal::open(lookup, key, &row.key, &row.bytes).map_err(|error| error.to_string())?;
        Story::decode(&plain).map_err(|error| format!("it is not a story of this version ({error})"))
    }
}

fn name(key: &HistoryKey) -> String {
    match (key.attempt_no, key.seq) {
        (0, seq) => format!("the kept row of the note at revision {seq}"),
        (no, 0) => format!("the kept exchange of attempt {no}"),
        (no, 1) => format!("the kept decision on late evidence for attempt {no}"),
        (no, 2) => format!("the kept takeover of attempt {no}"),
        (no, seq) if seq > 1 << 33 => format!("the kept ask {} about attempt {no}", seq - (1 << 33)),
        (no, seq) => format!("the kept row {seq} of attempt {no}"),
    }
}

/// The spools of a data folder.
fn spools(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.spools()).into_iter().flatten().flatten();
    let mut spools: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.join("lock").is_file()).collect();
    spools.sort();
    spools
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use storage::history::seal::Sealer;
    use storage::story::{STORY_VERSION, StoryDecision};
    use storage::vault::Vault;

    use super::*;

    static NEXT: AtomicU32 = AtomicU32::new(0);
    const PLACE: HistoryKey =
        HistoryKey { subscription_id: 7, month: 202_612, period: 9_000, attempt_no: 1, seq: 0 };

    fn story(business_at_ms: i64) -> Story {
        Story {
            version: STORY_VERSION,
            incarnation: 1,
            book_version: 1,
            business_at_ms,
            due_at_ms: 1,
            why: 1,
            exchange: None,
            decision: StoryDecision {
                rule: 30,
                attempt_state: 5,
                charge_state: 4,
                subscription_state: 4,
                next_at_ms: None,
                next_kind: 0,
                next_period: 9_001,
            },
            inputs: Vec::new(),
        }
    }

    fn sealed(key: HistoryKey, business_at_ms: i64, dictionary: &[u8], salt: &[u8]) -> SealedRow {
        let subscriber = Vault::for_tests(1).subscriber_key(salt, 1).unwrap();
        let plain = story(business_at_ms).encode().unwrap();
        SealedRow { key, bytes: Sealer::new(dictionary).unwrap().seal(&subscriber, &key, &plain).unwrap() }
    }

    #[test]
    fn rows_open_with_their_dictionary_and_the_rest_is_said() {
        let dictionary = b"a dictionary of some length".to_vec();
        let mut kept = Kept {
            rows: vec![
                sealed(PLACE, 5, &dictionary, b"salt"),
                sealed(PLACE, 4, b"", b"salt"),
                sealed(HistoryKey { attempt_no: 0, seq: 3, ..PLACE }, 6, b"other dictionary", b"salt"),
                sealed(HistoryKey { attempt_no: 2, ..PLACE }, 7, b"", b"another person"),
                sealed(HistoryKey { period: 9_001, ..PLACE }, 8, b"", b"salt"),
            ],
            ..Kept::default()
        };
        kept.dictionaries.insert(storage::history::digest_of(&dictionary), dictionary);
        let key = Vault::for_tests(1).subscriber_key(b"salt", 1).unwrap();
        let stories = kept.stories(&key, 9_000);
        assert_eq!(stories.len(), 1);
        assert_eq!(stories[&(1, 0)].business_at_ms, 5, "the later of two rows of one place");
        assert_eq!((kept.count(9_000), kept.problems.len()), (4, 2));
        assert!(
            kept.problems[0].contains("note at revision 3") && kept.problems[0].contains("no dictionary")
        );
        assert!(kept.problems[1].contains("exchange of attempt 2"));
    }

    #[tokio::test]
    async fn a_dead_spool_is_read_and_a_living_one_is_left_alone() {
        let no = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("toll-kept-{}-{no}", std::process::id()));
        let home = Home::open(&dir).unwrap();
        let spool = home.take_spool().unwrap();
        let store = FjallHistory::open(&spool.history(), FjallHistoryOptions::default()).unwrap();
        store.append(vec![sealed(PLACE, 5, b"", b"salt")]).await.unwrap();
        let mut kept = Kept::default();
        let why = kept.read_spool(&spool.dir, 7, 202_612).await.unwrap_err();
        assert!(why.contains("a process has it"), "{why}");
        drop(store);
        let path = spool.dir.clone();
        drop(spool);
        assert_eq!(spools(&home), std::slice::from_ref(&path));
        for month in [202_611, 202_612] {
            kept.read_spool(&path, 7, month).await.unwrap();
        }
        assert_eq!(kept.count(9_000), 1);
        // It is free again, and empty spools are nothing to complain of.
        assert_eq!(home.take_spool().unwrap().dir, path);
        std::fs::create_dir_all(home.spools().join("2")).unwrap();
        std::fs::write(home.spools().join("2/lock"), "").unwrap();
        kept.read_spool(&home.spools().join("2"), 7, 202_612).await.unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
