//! The calls about failovers: the guard row, quarantines, spools that are handed in, lost attempts, shards that go on.

use billing_core::outcome::Op;
use storage::guard::Seen;
use storage::pg::{
    Checked, HeldUp, LostAttempt, QuarantineTerms, Resumed, StoreError, Verdict, WorkerIdentity,
};
use storage::spool::SentLine;
use storage::store;

use super::{DAY, FAR_US, NOW_MS, Pair, alike};

/// Long before and long after all that the suite does: which intents are in the window is the same on both sides.
const FAR_MS: i64 = 3_600_000;
/// When what spools list was sent: before the suite, so that both sides keep the same instant.
pub(crate) const SENT_US: i64 = 1_700_000_000_000_000;

impl Pair {
    pub(super) async fn failover(&mut self) {
        match self.roll(16) {
            0 => self.look_at_the_server().await,
            1 | 2 => self.hand_in().await,
            3 => self.touch().await,
            4 | 5 => self.list_doubts().await,
            6..9 => self.resume().await,
            9 => self.finish_a_spool().await,
            _ => self.restore().await,
        }
        self.look_at_what_is_held().await;
    }

    /// A spool as a worker of the suite has it; sometimes of another boot, or one that nobody knows.
    fn spool(&mut self) -> WorkerIdentity {
        let text = |what: &str| what.to_owned();
        let spool = if self.once_in(6) { text("s9") } else { format!("s{}", self.roll(2)) };
        let boot_id = if self.once_in(4) { text("another") } else { text("b") };
        WorkerIdentity { host: text("h"), boot_id, spool, endpoint: text("e") }
    }

    async fn touch(&mut self) {
        let left = store::touch_guard(&mut self.memory).await.unwrap();
        let right = store::touch_guard(&mut self.postgres).await.unwrap();
        assert_eq!(left.0, right.0, "touch_guard");
    }

    /// Mostly all is as it was; sometimes a worker remembers more than the server has, or the server was promoted.
    async fn look_at_the_server(&mut self) {
        let terms = QuarantineTerms {
            margin_ms: if self.once_in(3) { -FAR_MS } else { FAR_MS },
            wait_ms: if self.once_in(3) { FAR_MS } else { 0 },
        };
        let promoted = self.once_in(4);
        if promoted {
            self.db.set_guard_timeline(0);
            sqlx::query("UPDATE database_guard SET timeline = 0").execute(&mut self.raw).await.unwrap();
        }
        let counter = self.counter + [-1, 0, 0, 0, 5, 1_500_000][self.roll(6)];
        let timeline = [0, 1, 1, 1, 2][self.roll(5)];
        let nothing = self.once_in(4);
        let seen = |system_identifier| Seen { system_identifier, timeline, counter, lsn: 0 };
        let known = |system| (!nothing).then(|| seen(system));
        let left = store::check_guard(&mut self.memory, known(1), terms).await;
        let right = store::check_guard(&mut self.postgres, known(self.system), terms).await;
        let told = |checked: Result<Checked, StoreError>| {
            checked.map(|checked| (checked.seen.timeline, checked.seen.counter, checked.opened))
        };
        let left = told(left);
        alike("check_guard", &left, &told(right));
        let (_, counter, opened) = left.unwrap();
        self.counter = counter;
        self.met(format!("guard opened {}", opened.is_some()));
        self.quarantines.extend(opened);
    }

    async fn look_at_what_is_held(&mut self) {
        let who = self.spool();
        let told = |held: Result<HeldUp, StoreError>| {
            held.map(|held| HeldUp {
                from_us: i64::from(held.from_us != 0),
                window_from_us: i64::from(held.window_from_us != 0),
                ..held
            })
        };
        let left = told(store::held_up(&mut self.memory, &who).await);
        alike("held_up", &left, &told(store::held_up(&mut self.postgres, &who).await));
    }

    /// Attempts as a spool or the engine would list them: known ones, the next ones of a charge, earlier and later periods,
    /// refunds, and such whose subscription nobody has.
    async fn lines(&mut self, orphans: bool) -> Vec<SentLine> {
        let (ids, begun) = (self.some_ids(), self.begun.clone());
        let rows = self.rows(&ids).await;
        let mut lines = Vec::new();
        // Now and then one that only its spool knows.
        let incarnation =
            if orphans && self.once_in(3) { 900 + self.roll(9) as i64 } else { self.incarnation };
        for row in &rows {
            let (current, mut id) = (&row.sub.progress, row.sub.id.0);
            let known = begun.iter().rev().find(|begun| begun.0 == id).copied();
            let (mut period, mut attempt_no) = (current.period.number(), current.attempt_no + 1);
            let mut op = Op::Charge;
            match (self.roll(10), known) {
                (0, Some((_, of, no))) => (period, attempt_no) = (of, no),
                (1, _) => attempt_no += 1,
                (2, Some((_, of, no))) => (period, attempt_no, op) = (of, no + 1, Op::Refund),
                (3, _) => period -= 2_048,
                (4, _) => period += 2_048,
                (5, _) if orphans => id += 10_000,
                (6, _) if self.once_in(3) => period = (DAY + 1_000) * 2_048,
                _ => {}
            }
            lines.push(SentLine {
                subscription_id: id,
                period,
                attempt_no,
                op: op as u8,
                carrier_no: 1,
                amount_minor: 300,
                currency: 788,
                digest: [1 + self.roll(2) as u8; 16],
                incarnation,
                intent_at_us: if self.once_in(6) { FAR_US } else { SENT_US + self.roll(1_000) as i64 },
                business_at_ms: NOW_MS,
                not_before_ms: NOW_MS - 1,
                not_after_ms: NOW_MS + 1,
                book_version: 1,
                round: self.roll(2) as i16,
                step: 0,
                parent_no: i16::from(op == Op::Refund),
                rule: 1,
                wish: self.some_wish_of(id).await.map_or(0, |(_, wish)| wish),
            });
        }
        lines
    }

    async fn hand_in(&mut self) {
        let who = self.spool();
        let mut lines = self.lines(true).await;
        if self.once_in(3) {
            lines.extend(lines.first().copied());
        }
        let lost = both!(self, hand_in_lines(&who, &lines)).unwrap();
        // Its answer may be lost, and the same lines come again.
        assert_eq!(both!(self, hand_in_lines(&who, &lines)).unwrap(), 0, "they are here already");
        self.met(format!("lost {}", lost > 0));
    }

    async fn finish_a_spool(&mut self) {
        let (who, quarantines) = (self.spool(), self.quarantines.clone());
        let lines = self.roll(9) as i64;
        drop(both!(self, hand_in_done(&who, &quarantines, lines, lines / 2)));
    }

    async fn list_doubts(&mut self) {
        let (lease, chain, lines) = (self.lease(), self.once_in(2), self.lines(false).await);
        if let Ok(listed) = both!(self, list_doubts(&lease, chain, &lines)) {
            self.met(format!("doubts {}", listed > 0));
        }
    }

    /// As a worker does it: where a spool is missing for good it lists what was due, and asks again.
    async fn resume(&mut self) {
        let (lease, shard) = (self.lease(), self.pick(&self.shards.clone()));
        let mut resumed = both!(self, resume_shard(&lease, shard, None));
        if matches!(resumed, Ok(Resumed::ListAll)) {
            self.met("resume ListAll".to_owned());
            let lines = self.lines(false).await;
            drop(both!(self, list_doubts(&lease, false, &lines)));
            let until_ms = NOW_MS + self.roll(100) as i64;
            resumed = both!(self, resume_shard(&lease, shard, Some(until_ms)));
        }
        if let Ok(resumed) = resumed {
            self.met(format!("resume {resumed:?}"));
        }
    }

    async fn restore(&mut self) {
        let (lease, shard) = (self.lease(), self.pick(&self.shards.clone()));
        let first = i64::from(shard) << 32;
        let after = if self.once_in(4) { (first + self.roll(9) as i64, 0, 0) } else { (first, 0, 0) };
        let limit = 1 + self.roll(8) as i32;
        let left = told(store::lost_attempts(&mut self.memory, &lease, shard, after, limit).await);
        let right = told(store::lost_attempts(&mut self.postgres, &lease, shard, after, limit).await);
        alike("lost_attempts", &left, &right);
        let Ok(lost) = left else { return };
        let (followed, lost): (Vec<LostAttempt>, Vec<LostAttempt>) =
            lost.into_iter().partition(|lost| lost.followed_until.is_some());
        for lost in followed {
            let key = (lost.subscription_id, lost.planned.period.number(), lost.planned.attempt_no);
            let ended = both!(self, end_doubt(&lease, key));
            self.met(format!("doubt ended {ended:?}"));
        }
        let mut keys: Vec<(i64, i32, i16)> = lost
            .iter()
            .map(|lost| (lost.subscription_id, lost.planned.period.number(), lost.planned.attempt_no))
            .collect();
        if self.once_in(4) {
            keys.push((first + 1, DAY * 2_048, 9));
        }
        // Once more, though it was settled meanwhile.
        if self.once_in(2) {
            keys.extend(self.restored.last().copied());
        }
        for key in keys {
            let capped = key.0 & 2 == 2;
            let cap = Some((key.0, [DAY, DAY - 3, DAY - 14])).filter(|_| capped);
            let Ok(verdict) = both!(self, restore_lost(&lease, key, cap)) else { continue };
            self.count("restore", verdict);
            if verdict == Verdict::Ok && !self.begun.contains(&key) {
                self.begun.push(key);
                self.restored.push(key);
            }
        }
    }

    pub(super) fn met(&mut self, what: String) {
        *self.verdicts.entry(what).or_default() += 1;
    }
}

/// What was open when the window began has its server's own instant, and so has the end of the doubt.
fn told(lost: Result<Vec<LostAttempt>, StoreError>) -> Result<Vec<LostAttempt>, StoreError> {
    let zero = jiff::Timestamp::UNIX_EPOCH;
    let told = |row: LostAttempt| LostAttempt {
        intent_at: zero,
        followed_until: row.followed_until.map(|_| zero),
        ..row
    };
    lost.map(|lost| lost.into_iter().map(told).collect())
}
