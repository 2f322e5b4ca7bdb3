//! Random calls by seed, made on both stores at once.

/// Runs a call on both sides and compares what it gives.
macro_rules! both {
    ($pair:ident, $name:ident($($arg:expr),*)) => {{
        let left = store::$name(&mut $pair.memory, $($arg),*).await;
        let right = store::$name(&mut $pair.postgres, $($arg),*).await;
        alike(stringify!($name), &left, &right);
        left
    }};
}

mod asks;
pub(crate) mod failover;
mod rows;

use std::collections::BTreeMap;
use std::fmt::Debug;

use billing_core::ids::Shard;
use billing_core::outcome::Op;
use billing_core::period::Period;
use billing_core::plan::{CapDays, Caps};
use billing_core::states::SubscriptionState;
use billing_core::subscription::{NextKind, Planned};
use jiff::Timestamp;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use storage::memory::{Dump, MemoryDb};
use storage::pg::{
    self, BeginBatch, BeginRow, BookNames, CapRow, CarrierName, ClockRow, DueRow, InboxKind, Lease,
    NewSubscriber, NewSubscription, PlanName, RecordBatch, RecordRow, StoreError, Verdict, WorkerIdentity,
};
use storage::store::{self, Conn, Database};

const NOW_MS: i64 = 1_800_000_000_000;
/// Later than anything, microseconds since 1970.
const FAR_US: i64 = 4_000_000_000_000_000;
/// 2027-01-15 in days since 2000-01-01.
const DAY: i32 = 9_876;
const SUBSCRIPTIONS: u32 = 8;
/// Up to this seed the server never fails over: what is held would hide the rest.
pub(crate) const CALM_SEEDS: u64 = 10;

/// The same world in both stores.
pub(crate) struct Pair {
    seed: u64,
    postgres: Conn,
    memory: Conn,
    db: MemoryDb,
    pub(crate) raw: PgConnection,
    shards: Vec<i32>,
    ids: Vec<i64>,
    leases: Vec<Lease>,
    incarnation: i64,
    /// Attempts that were begun: (subscription, period, attempt).
    begun: Vec<(i64, i32, i16)>,
    /// Whether the server fails over now and then.
    fails_over: bool,
    /// The guard row's counter, and the quarantines so far.
    counter: i64,
    quarantines: Vec<i64>,
    /// Lost attempts whose intents were made again.
    restored: Vec<(i64, i32, i16)>,
    /// Which cluster the Postgres is.
    system: i64,
    pub(crate) verdicts: BTreeMap<String, usize>,
}

fn alike<T: Debug>(name: &str, memory: &Result<T, StoreError>, postgres: &Result<T, StoreError>) {
    match (memory, postgres) {
        (Ok(left), Ok(right)) => assert_eq!(format!("{left:?}"), format!("{right:?}"), "{name}"),
        (Err(StoreError::Fenced(left)), Err(StoreError::Fenced(right))) => assert_eq!(left, right, "{name}"),
        (Err(StoreError::Refused(_)), Err(StoreError::Refused(_))) => {}
        (left, right) => panic!("{name}: memory {left:?}, Postgres {right:?}"),
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

impl Pair {
    pub(crate) async fn start(url: &str, seed: u64) -> Self {
        let mut raw = pg::connect(url, "conformance").await.unwrap();
        for sql in ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"] {
            sqlx::query(sql).execute(&mut raw).await.unwrap();
        }
        // Another connection: this one's prepared statements are of the schema that is gone.
        raw.close().await.unwrap();
        let mut raw = pg::connect(url, "conformance").await.unwrap();
        pg::migrate(&mut raw).await.unwrap();
        let clock = ClockRow { base_machine_ms: 0, base_business_ms: NOW_MS, scale: 0 };
        pg::set_clock(&mut raw, clock).await.unwrap();
        let book = BookNames {
            digest: vec![7; 32],
            files_json: "{}".to_owned(),
            carriers: vec![CarrierName { id: "one".into(), currency: 788, slices: 4 }],
            plans: vec![PlanName { id: "p".into(), merchant: "m".into(), carrier: "one".into() }],
            zones: vec!["Africa/Tunis".into()],
        };
        let names = pg::sync_book(&mut raw, &book).await.unwrap();
        let now_us = || Timestamp::now().as_microsecond();
        let db = MemoryDb::new(names, book.digest, clock, Box::new(now_us));
        let system = "SELECT system_identifier FROM pg_control_system()";
        let system = sqlx::query_scalar(system).fetch_one(&mut raw).await.unwrap();
        let mut pair = Self {
            seed: seed * 1_000_003,
            postgres: store::connect(&Database::postgres(url), "conformance").await.unwrap(),
            memory: store::connect(&Database::Memory(db.clone()), "conformance").await.unwrap(),
            db,
            raw,
            shards: (0..4).map(|slice| 1 << 12 | slice).collect(),
            ids: Vec::new(),
            leases: Vec::new(),
            incarnation: 100,
            begun: Vec::new(),
            fails_over: seed > CALM_SEEDS,
            counter: 0,
            quarantines: Vec::new(),
            restored: Vec::new(),
            system,
            verdicts: BTreeMap::new(),
        };
        for _ in 0..2 {
            pair.register(None).await;
        }
        both!(pair, ensure_partitions(DAY - 14, DAY + 14)).unwrap();
        for shard in pair.shards.clone() {
            pair.import(Shard(shard)).await;
        }
        let first = pair.leases[0];
        both!(pair, claim_shards(&first, 3)).unwrap();
        pair
    }

    pub(crate) fn memory_dump(&self) -> Dump {
        self.db.dump()
    }

    fn roll(&mut self, limit: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % limit.max(1)
    }

    fn once_in(&mut self, cases: usize) -> bool {
        self.roll(cases) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())].clone()
    }

    async fn register(&mut self, slot: Option<i32>) {
        self.incarnation += 1;
        let incarnation = self.incarnation;
        let text = |what: &str| what.to_owned();
        let who = WorkerIdentity {
            host: text("h"),
            boot_id: text("b"),
            spool: format!("s{}", incarnation % 2),
            endpoint: text("e"),
        };
        let lease = both!(self, register_worker(slot, incarnation, &who)).unwrap();
        self.leases.push(lease);
    }

    async fn import(&mut self, shard: Shard) {
        let subscribers: Vec<NewSubscriber> = (1..=SUBSCRIPTIONS / 2)
            .map(|no| NewSubscriber {
                id: shard.id(no),
                zone_no: 1,
                kek_version: 1,
                msisdn_hmac: [shard.0.to_be_bytes(), no.to_be_bytes()].concat().repeat(4),
                key_salt: vec![no as u8; 16],
                msisdn_ct: vec![1; 40],
            })
            .collect();
        let subscriptions: Vec<NewSubscription> = (1..=SUBSCRIPTIONS)
            .map(|no| NewSubscription {
                consent_until_ms: None,
                id: shard.id(no),
                subscriber_id: shard.id(no.div_ceil(2)),
                ref_seed: shard.id(no),
                digest: vec![no as u8; 32],
                due_minor: 500,
                next_at_ms: Some(NOW_MS + i64::from(no)),
                state_until_ms: None,
                plan_no: 1,
                merchant_no: 1,
                anchor_day: DAY,
                period: DAY * 2_048,
                zone_no: 1,
                anchor_minute: 60,
                currency: 788,
                state: SubscriptionState::Active as i16,
                next_kind: NextKind::Due as i16,
            })
            .collect();
        pg::insert_subscriptions(&mut self.raw, 1, &subscribers, &subscriptions).await.unwrap();
        let Conn::Memory(memory) = &mut self.memory else { panic!("the memory store") };
        memory.insert_subscriptions(1, &subscribers, &subscriptions).await.unwrap();
        self.ids.extend(subscriptions.iter().map(|new| new.id));
    }

    /// Mostly one of the two that live, sometimes one that was.
    fn lease(&mut self) -> Lease {
        let last = self.leases.len() - 1;
        let at = match (self.once_in(12), self.once_in(8)) {
            (true, _) => self.roll(last + 1),
            (false, true) => last,
            (false, false) => 0,
        };
        self.leases[at]
    }

    pub(crate) async fn call(&mut self) {
        match self.roll(if self.fails_over { 52 } else { 40 }) {
            0..9 => self.begin().await,
            9..18 => self.record().await,
            18 => self.move_shards().await,
            19 => self.say_stop().await,
            20 => self.set_aside().await,
            21 => self.inbox().await,
            22..25 => self.refund().await,
            30..38 => self.ask().await,
            38..40 => self.look_at_unknown().await,
            40..52 => self.failover().await,
            _ => self.look().await,
        }
    }

    async fn move_shards(&mut self) {
        let lease = self.lease();
        let (shard, want) = (self.pick(&self.shards.clone()), self.roll(3) as i32);
        match self.roll(8) {
            0 => drop(both!(self, hand_over(&lease, &[shard]))),
            1..4 => {
                let sorted = |claimed: Result<Vec<i32>, StoreError>| {
                    claimed.map(|mut shards| {
                        shards.sort_unstable();
                        shards
                    })
                };
                let left = sorted(store::claim_shards(&mut self.memory, &lease, want).await);
                let right = sorted(store::claim_shards(&mut self.postgres, &lease, want).await);
                alike("claim_shards", &left, &right);
            }
            4 => drop(both!(self, fence_worker(&lease, Some(99)))),
            5 => drop(both!(self, renew_lease(&lease))),
            6 => {
                // The first lives on under a new incarnation.
                let slot = self.leases[0].slot;
                self.register(Some(slot)).await;
                let last = self.leases.len() - 1;
                self.leases.swap(0, last);
                let first = self.leases[0];
                both!(self, claim_shards(&first, 3)).unwrap();
            }
            _ => {
                drop(both!(self, worker_rows()));
                drop(both!(self, owned_shards()));
            }
        }
    }

    /// Whoever wants moves the low water of all shards past everything: only of an owner's shards nothing is open then.
    pub(crate) async fn low_water(&mut self) {
        let shards = self.shards.clone();
        for lease in self.leases.clone() {
            // The clocks of the two differ.
            let told = |set: Result<i64, StoreError>| set.map(drop);
            let left = told(store::set_low_water(&mut self.memory, &lease, &shards, Some(FAR_US)).await);
            let right = told(store::set_low_water(&mut self.postgres, &lease, &shards, Some(FAR_US)).await);
            alike("set_low_water", &left, &right);
            self.met(format!("low water {}", left.is_ok()));
            for shard in &shards {
                let first = (i64::from(*shard) << 32, 0, 0);
                let open = both!(self, open_intents(billing_core::ids::Shard(*shard), first, 1_000)).unwrap();
                self.met(format!("open below the low water {}", !open.is_empty()));
            }
        }
    }

    async fn say_stop(&mut self) {
        let id = self.pick(&self.ids.clone());
        if self.once_in(3) {
            let stopped = pg::stop_subscription(&mut self.raw, id, NOW_MS).await.unwrap();
            assert_eq!(self.db.stop_subscription(id, NOW_MS), stopped);
        } else {
            pg::post_wish(&mut self.raw, id, InboxKind::Pause, Some(NOW_MS)).await.unwrap();
            self.db.post_wish(id, InboxKind::Pause, Some(NOW_MS));
        }
    }

    async fn set_aside(&mut self) {
        let (lease, id) = (self.lease(), self.pick(&self.ids.clone()));
        if !self.once_in(4) {
            let attempt = Some((DAY * 2_048, 1));
            drop(both!(self, open_case(id, attempt, "kind", "what")));
            return;
        }
        let rev = self.rows(&[id]).await[0].sub.rev;
        let attempt = self.begun.last().filter(|begun| begun.0 == id).map(|begun| (begun.1, begun.2));
        drop(both!(self, quarantine(&lease, id, rev, attempt, "poison")));
    }

    async fn inbox(&mut self) {
        let id = self.pick(&self.ids.clone());
        drop(both!(self, post_evidence(id, &[1, 2, 3])));
        let shards = self.shards.clone();
        let rows = both!(self, read_inbox(&shards, 0, 3)).unwrap();
        if let Some(row) = rows.first() {
            drop(both!(self, drop_inbox(row.shard, &[row.id])));
        }
    }

    async fn rows(&mut self, ids: &[i64]) -> Vec<Box<DueRow>> {
        both!(self, load(ids)).unwrap().0
    }

    async fn look(&mut self) {
        let (shard, ids) = (Shard(self.pick(&self.shards.clone())), self.ids.clone());
        let after = shard.id(self.roll(6) as u32);
        let limit = 1 + self.roll(5) as i32;
        drop(both!(self, refill_asides(shard, after, NOW_MS + 500, limit)));
        drop(both!(self, due_asides(&ids, NOW_MS + 400)));
        let left = store::load_held(&mut self.memory, &ids).await.unwrap();
        let right = store::load_held(&mut self.postgres, &ids).await.unwrap();
        assert_eq!(left.into_iter().collect::<BTreeMap<_, _>>(), right.into_iter().collect());
        let sorted = |(mut entries, next): (Vec<pg::WheelEntry>, Option<i64>)| {
            entries.sort_by_key(|entry| entry.id);
            (entries, next)
        };
        let left = store::refill(&mut self.memory, shard, after, NOW_MS + 5, limit).await.map(sorted);
        let right = store::refill(&mut self.postgres, shard, after, NOW_MS + 5, limit).await.map(sorted);
        alike("refill", &left, &right);
        drop(both!(self, open_intents(shard, (shard.id(0), 0, 0), 1_000)));
        let left = store::usage_of(&mut self.memory, &ids).await.unwrap();
        let right = store::usage_of(&mut self.postgres, &ids).await.unwrap();
        assert_eq!(left.into_iter().collect::<BTreeMap<_, _>>().len(), right.len());
        if let Some((id, period, no)) = self.begun.last().copied() {
            drop(both!(self, carrier_txn_id(id, Period::from_number(period).unwrap(), no)));
            let mut left = store::attempts(&mut self.memory, id, period).await.unwrap();
            let mut right = store::attempts(&mut self.postgres, id, period).await.unwrap();
            for row in left.iter_mut().chain(&mut right) {
                (row.intent_at_us, row.open_since_us) = (0, row.open_since_us.map(|_| 0));
            }
            assert_eq!(format!("{left:?}"), format!("{right:?}"));
        }
        let mut left = store::own_open_attempts(&mut self.memory, "h", "s1", 0, 1_000).await.unwrap();
        let mut right = store::own_open_attempts(&mut self.postgres, "h", "s1", 0, 1_000).await.unwrap();
        for rows in [&mut left, &mut right] {
            rows.sort_by_key(|row| (row.subscription_id, row.period, row.attempt_no));
        }
        assert_eq!(left, right);
    }

    fn some_ids(&mut self) -> Vec<i64> {
        let mut ids: Vec<i64> = (0..1 + self.roll(4)).map(|_| self.pick(&self.ids.clone())).collect();
        ids.sort_unstable();
        ids.dedup();
        // One row per subscriber: two neighbours are one person's.
        ids.dedup_by_key(|id| (*id >> 32, ((*id & 0xffff_ffff) + 1) / 2));
        ids
    }

    async fn begin(&mut self) {
        let (lease, ids) = (self.lease(), self.some_ids());
        let rows = self.rows(&ids).await;
        let mut batch = BeginBatch::default();
        let mut keys = Vec::new();
        for row in &rows {
            let again = self.begun.iter().rev().find(|begun| begun.0 == row.sub.id.0).copied();
            let current = &row.sub.progress;
            let (period, attempt_no) = match (self.roll(9), again) {
                (0 | 8, Some((_, period, no))) => (period, no),
                (1, _) => ((DAY + 1_000) * 2_048, 1),
                (2, _) => ((DAY - 1) * 2_048, 1 + self.roll(3) as i16),
                (3, _) => (current.period.number(), current.attempt_no + 2),
                _ => (current.period.number(), current.attempt_no + 1),
            };
            let early = self.once_in(10);
            let planned = Planned {
                op: if self.once_in(6) { Op::Cancel } else { Op::Charge },
                period: Period::from_number(period).unwrap(),
                attempt_no,
                parent_no: 0,
                amount_minor: if self.once_in(40) { 0 } else { 300 },
                round: 0,
                step: 0,
                not_before: at(NOW_MS - 1),
                not_after: at(if early { NOW_MS } else { NOW_MS + 1 }),
            };
            let capped = row.sub.subscriber_id & 1 == 1;
            let day = DAY + self.roll(2) as i32;
            let caps = Caps { charge_minor: 0, minor: [700, 0, 2_000], requests: [0, 9, 0] };
            let cap = CapRow {
                subscriber_id: row.sub.subscriber_id,
                days: CapDays([day, DAY - 3, DAY - 14]),
                caps,
            };
            let gone = self.once_in(30);
            let id = if gone { row.sub.id.0 + 10_000 } else { row.sub.id.0 };
            batch.push(&BeginRow {
                subscription_id: id,
                rev: row.sub.rev - i32::from(self.once_in(12)),
                planned: &planned,
                currency: 788,
                digest: [if self.once_in(5) { 2 } else { 1 }; 16],
                rule: 1,
                book_version: 1,
                cap: Some(cap).filter(|_| capped && planned.op == Op::Charge),
            });
            keys.push((id, period, attempt_no));
        }
        let left = store::begin(&mut self.memory, &batch, &lease, NOW_MS).await;
        let right = store::begin(&mut self.postgres, &batch, &lease, NOW_MS).await;
        alike("begin", &left, &right);
        for (key, verdict) in keys.into_iter().zip(left.unwrap_or_default()) {
            self.count("begin", verdict);
            if verdict == Verdict::Ok {
                self.begun.push(key);
            }
        }
    }

    fn count(&mut self, what: &str, verdict: Verdict) {
        *self.verdicts.entry(format!("{what} {verdict:?}")).or_default() += 1;
    }

    /// An inbox row that a record may consume.
    async fn some_wish_of(&mut self, id: i64) -> Option<(i32, i64)> {
        if !self.once_in(4) {
            return None;
        }
        let shard = (id >> 32) as i32;
        let rows = both!(self, read_inbox(&[shard], 0, 100)).unwrap();
        rows.iter().find(|row| row.subscription_id == id).map(|row| (shard, row.id))
    }

    async fn record(&mut self) {
        let lease = self.lease();
        let mut rows: BTreeMap<i64, RecordRow> = BTreeMap::new();
        for _ in 0..1 + self.roll(3) {
            let begun = self.begun.clone();
            let known = (!begun.is_empty()).then(|| self.pick(&begun[begun.len().saturating_sub(12)..]));
            let id = known.map_or_else(|| self.ids[0], |known| known.0);
            if let Some(row) = self.rows(&[id]).await.into_iter().next() {
                let mut record = self.record_row(&row, known);
                record.inbox = self.some_wish_of(id).await;
                rows.insert(record.subscription_id, record);
            }
        }
        let mut batch = RecordBatch::default();
        for row in rows.values() {
            let txn = (row.attempt_no > 0).then(|| format!("t{}", row.attempt_no).into());
            batch.push(row, [None, txn]);
        }
        // An answer may be lost, and the same batch comes again.
        for _ in 0..1 + usize::from(self.once_in(3)) {
            let left = store::record(&mut self.memory, &batch, &lease, 3, NOW_MS, DAY).await;
            let right = store::record(&mut self.postgres, &batch, &lease, 3, NOW_MS, DAY).await;
            alike("record", &left, &right);
            left.unwrap_or_default().into_iter().for_each(|verdict| self.count("record", verdict));
        }
    }
}

/// The local day of a period.
pub(crate) trait DateNumber {
    fn date_number(&self) -> i32;
}

impl DateNumber for Period {
    fn date_number(&self) -> i32 {
        self.number() / 2_048
    }
}
