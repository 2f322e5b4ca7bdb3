//! What failovers destroyed, kept beside the tables: only a simulated server can tell, and only its judge may know.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{AttemptKey, State};
use super::{MemoryDb, Snapshot};

/// An intent that a failover destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destroyed {
    /// Its operation's number.
    pub op: i16,
    /// It began with a wish, and the same failover destroyed that: it was posted after the standby's last commit.
    pub wish_too: bool,
    /// The spool of who sent it.
    pub spool: String,
    /// Some spool that names it was handed in.
    pub handed_in: bool,
}

/// All of them, of one server.
#[derive(Debug, Default)]
pub(super) struct Losses {
    destroyed: BTreeMap<AttemptKey, Vec<Destroyed>>,
    /// Keys of handed in lines, as far as failovers destroyed even these.
    handed_in: BTreeSet<AttemptKey>,
}

impl Losses {
    /// A failover replaces the state by the snapshot's. `straight`: there was none since the snapshot was taken, so that
    /// the numbers of wishes can be compared.
    pub(super) fn note(&mut self, old: &State, kept: &State, straight: bool) {
        self.handed_in.extend(&old.guarded.handed_in);
        for (key, intent) in old.intents.iter().filter(|(key, _)| !kept.intents.contains_key(key)) {
            let sender = old.incarnations.get(&intent.incarnation);
            self.destroyed.entry(*key).or_default().push(Destroyed {
                op: intent.op,
                wish_too: straight && intent.wish.is_some_and(|wish| wish > kept.inbox_last),
                spool: sender.map(|sender| sender.spool.clone()).unwrap_or_default(),
                handed_in: false,
            });
        }
    }
}

impl MemoryDb {
    /// What failovers destroyed under a key: one entry for each time.
    #[must_use]
    pub fn destroyed(&self, subscription_id: i64, period: i32, attempt_no: i16) -> Vec<Destroyed> {
        let key = (subscription_id, period, attempt_no);
        let known_now = self.state().guarded.handed_in.contains(&key);
        let losses = self.losses();
        let handed_in = known_now || losses.handed_in.contains(&key);
        let destroyed = losses.destroyed.get(&key).into_iter().flatten();
        destroyed.map(|one| Destroyed { handed_in, ..one.clone() }).collect()
    }

    /// Everything that is committed now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state().clone();
        Snapshot { state, timeline: self.timeline() }
    }

    /// A failover to a standby that has nothing newer than the snapshot: all connections end.
    pub fn restore(&self, snapshot: Snapshot) {
        let mut state = self.state();
        self.losses().note(&state, &snapshot.state, snapshot.timeline == self.timeline());
        self.begin_timeline();
        *state = snapshot.state;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::rows::{Incarnation, Intent};
    use super::*;
    use crate::pg::{ClockRow, Names, WorkerIdentity};
    use crate::spool::SentLine;

    const KEY: AttemptKey = (5, 20_000_000, 2);

    fn db() -> MemoryDb {
        let clock = ClockRow { base_machine_ms: 0, base_business_ms: 0, scale: 1 };
        MemoryDb::new(Names::default(), vec![1], clock, Box::new(|| 0))
    }

    /// A wish is posted, or was, and its intent made by a worker of the spool "a".
    fn refund(db: &MemoryDb, wish: Option<i64>) -> i64 {
        let wish = wish.unwrap_or_else(|| db.state().add_inbox(1, KEY.0, Vec::new()));
        let mut state = db.state();
        state.incarnations.insert(
            7,
            Incarnation {
                incarnation: 7,
                slot: 0,
                epoch: 1,
                host: "h".to_owned(),
                spool: "a".to_owned(),
                boot_id: "b".to_owned(),
                started_us: 0,
                endpoint: String::new(),
                fenced: false,
                fenced_us: None,
            },
        );
        let intent = Intent {
            subscription_id: KEY.0,
            period: KEY.1,
            attempt_no: KEY.2,
            amount_minor: 5,
            digest_hi: 0,
            digest_lo: 0,
            not_before_ms: 0,
            not_after_ms: 0,
            incarnation: 7,
            intent_at_us: 0,
            committed_us: 0,
            business_at_ms: 0,
            book_version: 1,
            op: 5,
            round: 0,
            step: 0,
            currency: 788,
            rule_id: 0,
            cap_day: 0,
            parent_no: 1,
            wish: Some(wish),
        };
        state.intents.insert(KEY, intent);
        state.inbox.remove(&(0, wish));
        wish
    }

    fn destroyed(db: &MemoryDb) -> Vec<Destroyed> {
        db.destroyed(KEY.0, KEY.1, KEY.2)
    }

    #[test]
    fn a_wish_that_was_posted_before_the_last_commit_of_the_standby_is_not_destroyed() {
        let db = db();
        let wish = db.state().add_inbox(1, KEY.0, Vec::new());
        let standby = db.snapshot();
        refund(&db, Some(wish));
        db.restore(standby);
        let told = destroyed(&db);
        assert_eq!(told.len(), 1);
        assert!(!told[0].wish_too && !told[0].handed_in && told[0].spool == "a", "{told:?}");
        assert!(db.state().inbox.contains_key(&(0, wish)), "it is there, and asks for it again");
    }

    #[test]
    fn wish_and_intent_are_destroyed_together() {
        let db = db();
        let standby = db.snapshot();
        refund(&db, None);
        assert_eq!(destroyed(&db), [], "nothing failed over yet");
        db.restore(standby);
        assert!(destroyed(&db).iter().all(|one| one.wish_too && !one.handed_in && one.op == 5));
        assert_eq!(destroyed(&db).len(), 1);
    }

    #[test]
    fn across_two_failovers_nobody_says_that_a_wish_was_destroyed() {
        let db = db();
        let (first, second) = (db.snapshot(), db.snapshot());
        db.restore(first);
        refund(&db, None);
        db.restore(second);
        assert!(destroyed(&db).iter().all(|one| !one.wish_too));
    }

    #[tokio::test]
    async fn what_was_handed_in_stays_so_even_if_that_is_lost_again() {
        let db = db();
        let standby = db.snapshot();
        refund(&db, None);
        db.restore(standby);
        let before = db.snapshot();
        let who =
            WorkerIdentity { host: "h".into(), boot_id: "b".into(), spool: "a".into(), endpoint: "".into() };
        let line = SentLine {
            subscription_id: KEY.0,
            period: KEY.1,
            attempt_no: KEY.2,
            op: 5,
            carrier_no: 0,
            amount_minor: 5,
            currency: 788,
            digest: [0; 16],
            incarnation: 7,
            intent_at_us: 0,
            business_at_ms: 0,
            not_before_ms: 0,
            not_after_ms: 0,
            book_version: 1,
            round: 0,
            step: 0,
            parent_no: 1,
            rule: 0,
            wish: 0,
        };
        db.connect().await.unwrap().hand_in_lines(&who, &[line]).await.unwrap();
        assert!(destroyed(&db)[0].handed_in);
        db.restore(before);
        assert!(destroyed(&db)[0].handed_in);
    }
}
