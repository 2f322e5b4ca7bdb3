//! The ceiling's leg: what the database alone does with the same two commits per batch.
//!
//! Two connections, each with half of the shards; every batch is made before the clock starts, with approvals as the mock
//! carrier gives them. No network, no decisions, no history.

use std::time::Duration;

use anyhow::{Context, ensure};
use billing_core::ids::{AttemptId, ChargeId, money_digest};
use billing_core::ledger::LegKind;
use billing_core::outcome::{Op, Outcome};
use billing_core::period::{Period, days_since_2000};
use billing_core::reason::Rule;
use billing_core::states::{AttemptState, ChargeState, SubscriptionState};
use billing_core::subscription::{Planned, Progress};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgConnection;
use storage::pg::{
    BeginBatch, BeginRow, DueRow, Lease, PostedLeg, RecordBatch, RecordRow, RowKind, Verdict, WorkerIdentity,
    claim_shards, connect, load, register_worker,
};

use super::book::{PRICE_MINOR, SLICES, at_minute};
use super::database::{Cluster, day_facts};
use super::report::Leg;

/// Pairs of connections in the engine; here one connection makes both commits, one after the other.
const STRIPES: usize = 2;
const INCARNATION: i64 = 1;
/// Rows per look at the population while batches are made.
const LOAD_ROWS: usize = 5_000;
const LEG_WITHIN: Duration = Duration::from_secs(600);
const NOON_MINUTE: u16 = 720;
const WINDOW_END_MINUTE: u16 = 1_320;
/// What the engine measures at a mock that answers at once, about.
const LATENCY_US: i32 = 300;

/// The bare driver.
pub(super) struct Ceiling {
    lease: Lease,
    stripes: Vec<PgConnection>,
    book_version: i32,
    /// Debited and credited account of a collected charge.
    accounts: (i32, i32),
    ids: Vec<i64>,
    sent: u64,
}

/// One batch, both commits.
struct Batch {
    begin: BeginBatch,
    record: RecordBatch<'static>,
}

/// When a leg plays.
#[derive(Clone, Copy)]
struct Now {
    business_ms: i64,
    business_date: i32,
}

impl Ceiling {
    /// Registers as a worker that owns every shard.
    pub(super) async fn open(url: &str) -> anyhow::Result<Self> {
        let mut conn = connect(url, "tollbook bench ceiling").await?;
        let who = WorkerIdentity {
            host: "bench".to_owned(),
            boot_id: "bench".to_owned(),
            spool: "none".to_owned(),
            endpoint: "none".to_owned(),
        };
        let lease = register_worker(&mut conn, None, INCARNATION, &who).await?;
        let claimed = claim_shards(&mut conn, &lease, i32::MAX).await?;
        ensure!(claimed.len() == SLICES, "{} shards are free, {SLICES} were expected", claimed.len());
        let book_version =
            sqlx::query_scalar("SELECT max(version) FROM book_version").fetch_one(&mut conn).await?;
        let [debit, credit] = LegKind::Collected.accounts();
        let account = "SELECT id FROM account WHERE owner_kind = $1 AND purpose = $2";
        let mut accounts = [0; 2];
        for (slot, (owner, purpose)) in accounts.iter_mut().zip([debit, credit]) {
            let found = sqlx::query_scalar(account).bind(owner as i16).bind(purpose as i16);
            *slot = found.fetch_one(&mut conn).await.context("an account is missing")?;
        }
        let ids = sqlx::query_scalar("SELECT id FROM subscription ORDER BY id").fetch_all(&mut conn).await?;
        let mut stripes = vec![conn];
        while stripes.len() < STRIPES {
            stripes.push(connect(url, "tollbook bench ceiling").await?);
        }
        for stripe in &mut stripes {
            // Only a superuser may; elsewhere the two functions' own times stay unknown.
            let _ = sqlx::query("SET track_functions = 'pl'").execute(stripe).await;
        }
        Ok(Self { lease, stripes, book_version, accounts: (accounts[0], accounts[1]), ids, sent: 0 })
    }

    /// One leg: everybody's charge of `today`, in batches of `rows`.
    pub(super) async fn charge_everybody(
        &mut self,
        cluster: &mut Cluster,
        today: Date,
        rows: usize,
    ) -> anyhow::Result<Leg> {
        let now = Now {
            business_ms: at_minute(today, NOON_MINUTE)?.as_millisecond(),
            business_date: days_since_2000(today),
        };
        let not_after = at_minute(today, WINDOW_END_MINUTE)?;
        let mut work = Vec::new();
        for stripe in 0..STRIPES {
            let mine = |id: &&i64| (**id >> 32) as usize % STRIPES == stripe;
            let ids: Vec<i64> = self.ids.iter().filter(mine).copied().collect();
            work.push(self.batches(cluster.ceiling_conn()?, &ids, rows, today, not_after).await?);
        }
        let times_before = function_times(cluster.ceiling_conn()?).await?;
        let before = cluster.snapshot(&[]).await?;
        let driven = tokio::time::timeout(LEG_WITHIN, self.drive(work, now)).await;
        driven.with_context(|| format!("the ceiling took more than {} s", LEG_WITHIN.as_secs()))??;
        let spent = cluster.snapshot(&[]).await?.since(&before);
        for stripe in &mut self.stripes {
            sqlx::query("SELECT pg_stat_force_next_flush()").execute(stripe).await?;
        }
        let times = function_times(cluster.ceiling_conn()?).await?;
        let us_per_row = |place: usize| {
            let us = (times[place] - times_before[place]) * 1_000.0 / self.ids.len().max(1) as f64;
            (us > 0.0).then_some(us)
        };
        let facts = day_facts(cluster.ceiling_conn()?, today, self.ids.len() as u64).await?;
        Ok(Leg {
            charges: facts.approved,
            wall_s: facts.wall_s,
            begin_rows: facts.begin_rows,
            record_rows: facts.record_rows,
            postgres_cpu_s: spent.postgres_cpu_s,
            engine_cpu_s: 0.0,
            mock_cpu_s: 0.0,
            bench_cpu_s: spent.own_cpu_s,
            wal_bytes: spent.wal_bytes,
            stored_bytes: 0,
            others_share: spent.others_share,
            steal_share: spent.steal_share,
            begin_us: us_per_row(0),
            record_us: us_per_row(1),
        })
    }

    async fn batches(
        &mut self,
        conn: &mut PgConnection,
        ids: &[i64],
        rows: usize,
        today: Date,
        not_after: Timestamp,
    ) -> anyhow::Result<Vec<Batch>> {
        let mut batches = Vec::with_capacity(ids.len().div_ceil(rows));
        let mut batch = Batch { begin: BeginBatch::default(), record: RecordBatch::default() };
        for chunk in ids.chunks(LOAD_ROWS) {
            let (due, poison) = load(conn, chunk).await?;
            ensure!(poison.is_empty() && due.len() == chunk.len(), "rows of the population cannot be read");
            for row in &due {
                self.add(&mut batch, row, today, not_after)?;
                if batch.begin.len() >= rows {
                    let fresh = Batch { begin: BeginBatch::default(), record: RecordBatch::default() };
                    batches.push(std::mem::replace(&mut batch, fresh));
                }
            }
        }
        if !batch.begin.is_empty() {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// One charge as the engine would make it durable and record it.
    fn add(
        &mut self,
        batch: &mut Batch,
        row: &DueRow,
        today: Date,
        not_after: Timestamp,
    ) -> anyhow::Result<()> {
        let at = row.sub.progress;
        let period = Period::starting(today, 0)?;
        ensure!(at.period == period, "{} is at period {}, not at {period}", row.sub.id, at.period);
        let due = at.next_at.context("a subscription is not due")?;
        let tomorrow = due + SignedDuration::from_hours(24);
        let planned = Planned {
            op: Op::Charge,
            period,
            attempt_no: 1,
            parent_no: 0,
            amount_minor: PRICE_MINOR,
            round: 0,
            step: 0,
            not_before: due,
            not_after,
        };
        let charge = ChargeId { subscription: row.sub.id, period };
        let attempt = AttemptId { charge, attempt_no: 1 };
        let digest = money_digest(
            attempt,
            Op::Charge,
            row.sub.subscriber_id,
            row.sub.plan_no,
            PRICE_MINOR,
            row.currency,
        );
        batch.begin.push(&BeginRow {
            subscription_id: row.sub.id.0,
            rev: row.sub.rev,
            planned: &planned,
            currency: row.currency,
            digest,
            rule: Rule::DUE_SEND.number(),
            book_version: self.book_version,
            cap: None,
        });
        self.sent += 1;
        let (debit, credit) = self.accounts;
        let leg = PostedLeg {
            kind: LegKind::Collected,
            debit,
            credit,
            amount_minor: PRICE_MINOR,
            asset: row.currency,
        };
        let words = [None, Some(format!("f-{:012}", self.sent).into())];
        let record = RecordRow {
            subscription_id: row.sub.id.0,
            rev: row.sub.rev,
            kind: RowKind::Final,
            period: period.number(),
            attempt_no: 1,
            class: AttemptState::Approved as i16,
            reason: Outcome::Charged { amount_minor: PRICE_MINOR }.reason().0,
            moved_minor: PRICE_MINOR,
            collected_after_minor: PRICE_MINOR,
            charge_state: ChargeState::Settled as i16,
            rule: Rule::SETTLE_FULL.number(),
            latency_us: LATENCY_US,
            until_ms: None,
            progress: Progress {
                paid_until: Some(tomorrow),
                ..Progress::fresh(
                    SubscriptionState::Active,
                    Period::starting(today.tomorrow()?, 0)?,
                    PRICE_MINOR,
                    Some(tomorrow),
                )
            },
            flags: row.sub.flags,
            book_version: self.book_version,
            grant_until_ms: tomorrow.as_millisecond(),
            event: billing_core::decide::Event::ChargeSettled as i16,
            merchant_no: row.merchant_no,
            legs: [Some(leg), None, None, None],
            currency: row.currency,
            asides: Vec::new(),
            more: None,
            inbox: None,
            give_back: [None; 2],
            refunded: None,
        };
        batch.record.push(&record, words);
        Ok(())
    }

    /// Both stripes at once.
    async fn drive(&mut self, work: Vec<Vec<Batch>>, now: Now) -> anyhow::Result<()> {
        let lease = self.lease;
        let mut running = Vec::new();
        for (stripe, (conn, batches)) in (0_i16..).zip(self.stripes.drain(..).zip(work)) {
            running.push(tokio::spawn(stripe_of(conn, batches, lease, stripe, now)));
        }
        for stripe in running {
            self.stripes.push(stripe.await??);
        }
        Ok(())
    }
}

/// Milliseconds that the server spent inside of the two functions so far, without their commits.
async fn function_times(conn: &mut PgConnection) -> anyhow::Result<[f64; 2]> {
    let rows: Vec<(String, f64)> =
        sqlx::query_as("SELECT funcname::text, total_time FROM pg_stat_user_functions")
            .fetch_all(conn)
            .await?;
    Ok(["begin_attempts", "record_outcomes"]
        .map(|name| rows.iter().filter(|(function, _)| function == name).map(|(_, ms)| ms).sum()))
}

async fn stripe_of(
    mut conn: PgConnection,
    batches: Vec<Batch>,
    lease: Lease,
    stripe: i16,
    now: Now,
) -> anyhow::Result<PgConnection> {
    for Batch { begin, record } in &batches {
        let begun = begin.begin(&mut conn, &lease, now.business_ms).await?;
        all_ok(&begun).context("intents")?;
        let recorded = record.record(&mut conn, &lease, stripe, now.business_ms, now.business_date).await?;
        all_ok(&recorded).context("outcomes")?;
    }
    Ok(conn)
}

fn all_ok(verdicts: &[Verdict]) -> anyhow::Result<()> {
    match verdicts.iter().find(|verdict| **verdict != Verdict::Ok) {
        None => Ok(()),
        Some(other) => Err(anyhow::anyhow!("the database says {other:?} to a row of the bare driver")),
    }
}
