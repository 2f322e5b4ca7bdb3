//! A batch in one commit: what exists is compared, what is new gets dense ids and is inserted.

use std::collections::{HashMap, HashSet};

use billing_core::ids::{Shard, SubscriptionId};
use billing_core::period::{Period, date_of_days, days_since_2000};
use billing_core::schedule::{Anchor, Wait, price_of};
use billing_core::states::State;
use billing_core::triage::signed_up;
use jiff::Timestamp;
use jiff::civil::Date;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use storage::pg::{
    NewSubscriber, NewSubscription, StoreError, allocate_ids, insert_subscriptions, msisdn_aad,
};

use super::kept::{Kept, lock_shards, look_up};
use super::row::{Row, Until};
use super::{Entry, ImportError, Importer};

/// How often a batch is settled anew because others were faster.
const ROUNDS_MAX: u32 = 5;

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Created,
    Existing,
    Rejected(String),
}

/// What became of a batch.
pub(super) struct Settled {
    /// One per line.
    pub(super) rows: Vec<Fate>,
    pub(super) subscribers_created: u64,
}

/// A good line with its number in the file.
type Numbered<'e> = (u64, &'e Row);

/// A line of the network: known, or the n-th new one of this batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscriber {
    Known(i64),
    New(usize),
}

/// What a reference stands for.
#[derive(Clone, Copy)]
struct Taken {
    subscriber: Subscriber,
    plan_no: i32,
    zone_no: i16,
    anchor_day: i32,
}

/// A new subscriber: whose line, and its place among the new ones of its shard.
struct NewLine {
    row: usize,
    zone_no: i16,
    place: i64,
}

/// A new subscription: whose line, and its place among the new ones of its shard.
struct NewOne {
    row: usize,
    subscriber: Subscriber,
    zone_no: i16,
    start: Date,
    period: Period,
    place: i64,
}

/// A batch, compared with what exists.
#[derive(Default)]
struct Placed {
    fates: Vec<Fate>,
    lines: Vec<NewLine>,
    subscriptions: Vec<NewOne>,
    /// New subscribers and subscriptions by shard.
    counts: HashMap<i32, (i64, i64)>,
}

impl Importer<'_> {
    /// Settles a batch: everything that is new in one commit.
    pub(super) async fn settle(
        &self,
        conn: &mut PgConnection,
        entries: &[Entry],
    ) -> Result<Settled, ImportError> {
        let good = entries.iter().filter_map(|e| Some((e.line, e.checked.as_ref().ok()?)));
        let good: Vec<Numbered<'_>> = good.collect();
        let placed = self.settle_good(conn, &good).await?;
        let subscribers_created = placed.lines.len() as u64;
        let mut fates = placed.fates.into_iter();
        let rows = entries.iter().map(|entry| match &entry.checked {
            Ok(_) => fates.next().unwrap_or(Fate::Existing),
            Err(reason) => Fate::Rejected(reason.clone()),
        });
        Ok(Settled { rows: rows.collect(), subscribers_created })
    }

    async fn settle_good(
        &self,
        conn: &mut PgConnection,
        rows: &[Numbered<'_>],
    ) -> Result<Placed, ImportError> {
        if rows.is_empty() {
            return Ok(Placed::default());
        }
        for _ in 0..ROUNDS_MAX {
            let mut tx = conn.begin().await.map_err(StoreError::from)?;
            match self.settle_once(&mut tx, rows).await {
                Ok(placed) => {
                    tx.commit().await.map_err(StoreError::from)?;
                    return Ok(placed);
                }
                Err(ImportError::Store(error)) if others_were_faster(&error) => {
                    tx.rollback().await.map_err(StoreError::from)?;
                }
                // Dropped here: rolled back before the connection's next statement, or with the connection.
                Err(error) => return Err(error),
            }
        }
        Err(ImportError::Contended(ROUNDS_MAX))
    }

    async fn settle_once(
        &self,
        conn: &mut PgConnection,
        rows: &[Numbered<'_>],
    ) -> Result<Placed, ImportError> {
        let mut shards: Vec<i32> = rows.iter().map(|(_, row)| row.shard.0).collect();
        shards.sort_unstable();
        shards.dedup();
        lock_shards(conn, &shards).await?;
        let ref_seeds: Vec<i64> = rows.iter().map(|(_, row)| row.ref_seed).collect();
        let hmacs: HashSet<[u8; 32]> = rows.iter().map(|(_, row)| row.hmac).collect();
        let hmacs: Vec<Vec<u8>> = hmacs.into_iter().map(Vec::from).collect();
        let kept = look_up(conn, &ref_seeds, &hmacs).await?;
        let placed = self.place(rows, &kept);
        if placed.subscriptions.is_empty() {
            return Ok(placed);
        }
        let count = |n: i64| i32::try_from(n).unwrap_or(i32::MAX); // a batch is far smaller
        let mut wanted: Vec<(i32, i32, i32)> =
            placed.counts.iter().map(|(shard, (lines, new))| (*shard, count(*lines), count(*new))).collect();
        wanted.sort_unstable();
        let firsts = allocate_ids(conn, &wanted).await?;
        let (subscribers, subscriptions) = self.build(rows, &placed, &firsts)?;
        insert_subscriptions(conn, self.catalog.names.book_version, &subscribers, &subscriptions).await?;
        Ok(placed)
    }

    /// Compares the lines with what exists and with each other, in the file's sequence.
    fn place(&self, rows: &[Numbered<'_>], kept: &Kept) -> Placed {
        let mut placed = Placed::default();
        let mut lines: HashMap<([u8; 32], i32), (Subscriber, i16)> = HashMap::new();
        let mut references: HashMap<i64, ([u8; 32], Taken)> = HashMap::new();
        for (at, (_, row)) in rows.iter().enumerate() {
            let line_key = (row.hmac, row.carrier_no);
            let line = lines.get(&line_key).copied().or_else(|| kept_line(row, kept));
            let taken = match references.get(&row.ref_seed) {
                Some((digest, taken)) => Some((digest.as_slice(), Some(*taken))),
                None => kept.found.references.get(&row.ref_seed).map(|digest| {
                    let taken = kept.subscriptions.get(&row.ref_seed).map(|kept| Taken {
                        subscriber: Subscriber::Known(kept.subscriber_id),
                        plan_no: kept.plan_no,
                        zone_no: kept.zone_no,
                        anchor_day: kept.anchor_day,
                    });
                    (digest.as_slice(), taken)
                }),
            };
            if let Some((digest, taken)) = taken {
                let anchors = self.anchors(row);
                let subscriber = line.map(|(subscriber, _)| subscriber);
                placed.fates.push(compare(row, digest, taken, subscriber, anchors));
                continue;
            }
            let (zone_no, start, period) = match self.begin(row, line.map(|(_, zone_no)| zone_no)) {
                Ok(begin) => begin,
                Err(reason) => {
                    placed.fates.push(Fate::Rejected(reason));
                    continue;
                }
            };
            let count = placed.counts.entry(row.shard.0).or_default();
            let subscriber = line.map_or_else(
                || {
                    placed.lines.push(NewLine { row: at, zone_no, place: count.0 });
                    count.0 += 1;
                    Subscriber::New(placed.lines.len() - 1)
                },
                |(subscriber, _)| subscriber,
            );
            lines.insert(line_key, (subscriber, zone_no));
            placed.subscriptions.push(NewOne { row: at, subscriber, zone_no, start, period, place: count.1 });
            count.1 += 1;
            let anchor_day = days_since_2000(start);
            let taken = Taken { subscriber, plan_no: row.plan_no, zone_no, anchor_day };
            references.insert(row.ref_seed, (row.digest, taken));
            placed.fates.push(Fate::Created);
        }
        placed
    }

    /// The date that a line's start is kept as, and whether the plan may move it to a later one.
    fn anchors(&self, row: &Row) -> Option<(Date, bool)> {
        let rules = &self.catalog.plan(row.plan_no)?.rules;
        let start = rules.schedule.anchor_date(row.start?).ok()?;
        let moves = rules.lifecycle.reset_from_round > 0 || rules.schedule.wait != Wait::None;
        Some((start, moves))
    }

    /// The zone, the start and the first period of a new subscription; a subscriber lives in one zone.
    fn begin(&self, row: &Row, line_zone_no: Option<i16>) -> Result<(i16, Date, Period), String> {
        let zone_no = line_zone_no.or(row.zone_no).unwrap_or(row.default_zone_no);
        let day = self.days.get(&zone_no).ok_or("the subscriber's zone is not in the book")?;
        if row.zone_no.is_some_and(|asked| asked != zone_no) {
            return Err(format!("the subscriber exists already, in the zone {}", day.zone.name()));
        }
        let plan = self.catalog.plan(row.plan_no).ok_or("the book has no such plan")?;
        let schedule = &plan.rules.schedule;
        let start =
            schedule.anchor_date(row.start.unwrap_or(day.today)).map_err(|error| error.to_string())?;
        let anchor = Anchor::new(start, 0);
        let period = schedule.first_period(anchor, start, day.zone).map_err(|error| error.to_string())?;
        let period = period.ok_or_else(|| format!("the plan has no period from {start} on"))?;
        Ok((zone_no, start, period))
    }

    /// The rows to insert, by id: neighbours in a shard are neighbours on the page.
    fn build(
        &self,
        rows: &[Numbered<'_>],
        placed: &Placed,
        firsts: &HashMap<i32, (i64, i64)>,
    ) -> Result<(Vec<NewSubscriber>, Vec<NewSubscription>), ImportError> {
        let first = |shard: Shard| {
            let missing = || StoreError::Broken(format!("shard {} has no counter", shard.0));
            firsts.get(&shard.0).copied().ok_or_else(missing)
        };
        let mut subscribers = Vec::with_capacity(placed.lines.len());
        for line in &placed.lines {
            let (_, row) = rows[line.row];
            let id = dense_id(row.shard, first(row.shard)?.0 + line.place)?;
            subscribers.push(self.new_subscriber(id, line.zone_no, row)?);
        }
        let mut subscriptions = Vec::with_capacity(placed.subscriptions.len());
        for new in &placed.subscriptions {
            let (line_no, row) = rows[new.row];
            let id = dense_id(row.shard, first(row.shard)?.1 + new.place)?;
            let subscriber_id = match new.subscriber {
                Subscriber::Known(id) => id,
                Subscriber::New(index) => subscribers[index].id,
            };
            subscriptions.push(self.new_subscription(id, subscriber_id, line_no, row, new)?);
        }
        subscribers.sort_unstable_by_key(|subscriber| subscriber.id);
        subscriptions.sort_unstable_by_key(|subscription| subscription.id);
        Ok((subscribers, subscriptions))
    }

    fn new_subscriber(&self, id: i64, zone_no: i16, row: &Row) -> Result<NewSubscriber, ImportError> {
        let key_salt = self.vault.new_salt()?;
        let kek_version = self.vault.current_kek_version();
        let key = self.vault.subscriber_key(&key_salt, kek_version)?;
        let mut msisdn_ct = Vec::new();
        key.seal(&msisdn_aad(id), row.msisdn.digits().as_bytes(), &mut msisdn_ct)?;
        let (msisdn_hmac, key_salt) = (row.hmac.to_vec(), key_salt.to_vec());
        Ok(NewSubscriber { id, zone_no, kek_version, msisdn_hmac, key_salt, msisdn_ct })
    }

    fn new_subscription(
        &self,
        id: i64,
        subscriber_id: i64,
        line_no: u64,
        row: &Row,
        new: &NewOne,
    ) -> Result<NewSubscription, ImportError> {
        let known = self.catalog.plan(row.plan_no).zip(self.days.get(&new.zone_no));
        let (plan, day) = known.ok_or_else(|| ImportError::Setup(format!("line {line_no} lost its plan")))?;
        let rules = &plan.rules;
        let minute = rules.schedule.anchor_minute(SubscriptionId(id));
        let anchor = Anchor::new(new.start, minute);
        let wrong = |source| ImportError::Schedule { line: line_no, source };
        // Elapsed time is counted from the anchor's minute, which only the id gives.
        let period = rules.schedule.first_period(anchor, new.start, day.zone).map_err(wrong)?;
        let period = period.unwrap_or(new.period);
        let due_at = rules.schedule.due_at(anchor, period, day.zone, SubscriptionId(id)).map_err(wrong)?;
        let price = price_of(rules, anchor, period, day.zone).map_err(wrong)?;
        let at = signed_up(rules, period, price.minor, due_at);
        let consent_until = row.consent_until.map(|until| match until {
            Until::Date(date) => day.zone.instant(date, 0),
            Until::Instant(at) => Ok(at),
        });
        let consent_until = consent_until.transpose().map_err(|error| wrong(error.into()))?;
        Ok(NewSubscription {
            id,
            subscriber_id,
            ref_seed: row.ref_seed,
            digest: row.digest.to_vec(),
            due_minor: at.due_minor,
            next_at_ms: at.next_at.map(Timestamp::as_millisecond),
            state_until_ms: at.state_until.map(Timestamp::as_millisecond),
            plan_no: row.plan_no,
            merchant_no: row.merchant_no,
            anchor_day: days_since_2000(new.start),
            period: period.number(),
            zone_no: new.zone_no,
            anchor_minute: i16::try_from(minute).unwrap_or(i16::MAX),
            currency: price.currency.numeric(),
            state: at.state.number(),
            next_kind: at.next_kind as i16,
            consent_until_ms: consent_until.map(Timestamp::as_millisecond),
        })
    }
}

/// The subscriber that the line has already, and its zone.
fn kept_line(row: &Row, kept: &Kept) -> Option<(Subscriber, i16)> {
    let id = *kept.found.subscribers.get(&(row.hmac.to_vec(), row.carrier_no))?;
    Some((Subscriber::Known(id), *kept.zones.get(&id)?))
}

/// A line whose reference exists: the same again changes nothing, another one is refused. What the line leaves
/// open (zone, start) cannot differ.
fn compare(
    row: &Row,
    digest: &[u8],
    taken: Option<Taken>,
    subscriber: Option<Subscriber>,
    anchors: Option<(Date, bool)>,
) -> Fate {
    let differs = |what: &str| Fate::Rejected(format!("the reference exists already, {what}"));
    if digest != row.digest {
        return Fate::Rejected("the reference collides with another one: choose another".to_owned());
    }
    let Some(taken) = taken else {
        return differs("without a subscription");
    };
    if taken.plan_no != row.plan_no {
        return differs("for another plan");
    }
    if subscriber != Some(taken.subscriber) {
        return differs("for another number");
    }
    if row.zone_no.is_some_and(|zone_no| zone_no != taken.zone_no) {
        return differs("in another zone");
    }
    let kept = taken.anchor_day;
    match anchors.map(|(start, moves)| (days_since_2000(start), moves)) {
        // Where the plan moves the billing cycle, a later date may be the same line's.
        Some((start, moves)) if start != kept && !(moves && kept > start) => {
            differs(&format!("with the start {}", date_of_days(taken.anchor_day)))
        }
        _ => Fate::Existing,
    }
}

fn dense_id(shard: Shard, sequence: i64) -> Result<i64, ImportError> {
    let full = |_| ImportError::ShardFull { shard: shard.0, sequence };
    Ok(shard.id(u32::try_from(sequence).map_err(full)?))
}

/// Whether another import or sign-up committed the same first, or both waited for each other: nothing of the batch
/// is durable.
fn others_were_faster(error: &StoreError) -> bool {
    let (StoreError::Refused(source) | StoreError::Unavailable(source)) = error else { return false };
    let code = source.as_database_error().and_then(|database| database.code());
    code.is_some_and(|code| matches!(&*code, "23505" | "40001" | "40P01"))
}
