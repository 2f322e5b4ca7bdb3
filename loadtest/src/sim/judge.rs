//! The judge: compares the carriers' ledgers with what the store holds in the end, row by row. Shares no code with the
//! engine: it reads the tables and does its own arithmetic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use billing_core::outcome::Op;
use carriers::ExchangeKind;
use serde_json::Value;
use storage::history::HistoryStore as _;
use storage::memory::Dump;

use super::Outcome;
use super::book::{CAP_DAY_MINOR, PRICE_MINOR, Population, WINDOW, ZONES};
use super::carrier::{Received, Row};
use super::forgotten;
use super::world::World;

/// A period's number is its local day times this, for plans of one charge a day.
const DAY_STEP: i64 = 2_048;
/// 2000-01-01 in days since 1970.
const EPOCH_DAYS: i64 = 10_957;
const DAY_MS: i64 = 86_400_000;
/// Over so many seconds a carrier's rate is looked at: short bursts, and what goes on for longer.
const RATE_SPANS_S: [usize; 2] = [5, 20];
/// Of a carrier's rate, what asks about unknown attempts may take: one part in so many; and how many more may come at once
/// when shares change hands.
const ASK_PART: usize = 5;
const ASKS_MORE: usize = 6;
/// Rules that send an attempt to the people; one of them: the carrier's answers contradict each other or the request.
const CONTRADICTION: i64 = 122;
const REVIEWS: [i64; 8] = [120, 121, 122, 123, 124, 125, 126, 143];
/// Class of an approved attempt.
const APPROVED: i64 = 5;

type Key = (i64, i64, i64);

struct Books {
    dump: Dump,
    intents: BTreeMap<Key, Value>,
    outcomes: BTreeMap<Key, Value>,
    open: BTreeMap<Key, Value>,
    waiting: BTreeSet<Key>,
    /// Open, and only assumed after a failover: what was sent after them stands behind them.
    assumed: BTreeSet<Key>,
    /// Lost in a failover, and here again.
    restored: BTreeSet<Key>,
    /// Subscriptions that people look at because a failover left rows behind which do not fit: nothing is sent for them, and
    /// their cases say why.
    misfits: BTreeSet<i64>,
    ledger: Vec<Row>,
}

impl Books {
    /// The amount of an attempt that was assumed is a guess: the carrier knows it with another one, and people look at it.
    fn guessed_wrong(&self, key: &Key) -> bool {
        let assumed = self.intents.get(key).filter(|_| self.assumed.contains(key));
        let amount = assumed.map(|intent| int(intent, "amount_minor"));
        amount.is_some_and(|amount| {
            self.ledger.iter().any(|row| attempt_of(row) == *key && row.amount_minor != amount)
        })
    }

    /// Open, or lost in a failover and waiting for its turn: known, and blocking. Where the spool is missing, the attempt that
    /// would have been next is assumed and blocks its charge; how many followed it nobody knows.
    fn listed(&self, key: &Key) -> bool {
        let before = (key.0, key.1, i64::MIN)..=*key;
        self.open.contains_key(key)
            || self.waiting.contains(key)
            || self.assumed.range(before).next().is_some()
    }
}

fn int(row: &Value, name: &str) -> i64 {
    row.get(name).and_then(Value::as_i64).unwrap_or(0)
}

fn maybe(row: &Value, name: &str) -> Option<i64> {
    row.get(name).and_then(Value::as_i64)
}

fn key(row: &Value) -> Key {
    (int(row, "subscription_id"), int(row, "period"), int(row, "attempt_no"))
}

/// Compares everything, and says what was broken.
/// `times_ms`: business time when the workers were told to stop, and now.
pub(super) async fn judge(
    seed: u64,
    world: &World,
    population: &Population,
    times_ms: [i64; 2],
) -> anyhow::Result<Outcome> {
    let mut dump = world.db.dump();
    let by_key = |dump: &mut Dump, table: &'static str| -> BTreeMap<Key, Value> {
        dump.remove(table).unwrap_or_default().into_iter().map(|row| (key(&row), row)).collect()
    };
    // Listed as lost, and waiting for the attempt before it: known, and blocking, as an open one.
    let wide = |(id, period, no): (i64, i32, i16)| (id, i64::from(period), i64::from(no));
    let waiting = world.db.waiting_lost().into_iter().map(wide);
    let quarantined =
        |row: &&Value| world.db.failovers() > 0 && row.get("kind").is_some_and(|kind| kind == "quarantine");
    let cases = dump.get("case_file").into_iter().flatten();
    let misfits = cases.filter(quarantined).map(|row| int(row, "subscription_id")).collect();
    let books = Books {
        intents: by_key(&mut dump, "attempt_intent"),
        outcomes: by_key(&mut dump, "attempt_outcome"),
        open: by_key(&mut dump, "attempt_open"),
        waiting: waiting.collect(),
        assumed: world.db.assumed().into_iter().map(wide).collect(),
        restored: world.db.restored().into_iter().map(wide).collect(),
        misfits,
        dump,
        ledger: world.carriers.iter().flat_map(|carrier| carrier.ledger()).collect(),
    };
    let mut outcome = Outcome { seed, ..Outcome::default() };
    doubles(&books, &mut outcome);
    lost(world, &books, &mut outcome);
    phantoms(&books, &mut outcome);
    refunds(world, &books, &mut outcome);
    undecided(world, &books, &mut outcome);
    calendar(&books, times_ms, population, &mut outcome);
    caps(&books, &mut outcome);
    transfers(&books, &mut outcome);
    requests(world, &books, population, &mut outcome);
    watched(world, &mut outcome);
    history(world, &books, &mut outcome).await?;
    let end = world.log.end();
    outcome.other.extend(end.broken);
    outcome.charges = books.ledger.iter().filter(|row| row.op == Op::Charge).count() as u64;
    outcome.attempts = books.intents.len() as u64;
    (outcome.digest, outcome.events, outcome.lines) = (end.digest, end.events, end.lines);
    outcome.faults = end.faults.values().sum();
    outcome.faults_by_kind = end.faults.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
    Ok(outcome)
}

fn attempt_of(row: &Row) -> Key {
    (row.subscription_id, i64::from(row.period), i64::from(row.attempt_no))
}

/// I1, I2: nothing is collected above what a day costs, whatever keys it went under.
fn doubles(books: &Books, outcome: &mut Outcome) {
    let mut collected: BTreeMap<(i64, i32), i64> = BTreeMap::new();
    for row in books.ledger.iter().filter(|row| row.op == Op::Charge) {
        *collected.entry((row.subscription_id, row.period)).or_default() += row.amount_minor;
    }
    for ((id, period), sum) in collected.into_iter().filter(|(_, sum)| *sum > PRICE_MINOR) {
        outcome.doubles.push(format!("{sum} collected of {PRICE_MINOR} due: {id} {period}"));
    }
}

/// I3: everything that a carrier applied is approved here, with its amount, or still open.
fn lost(world: &World, books: &Books, outcome: &mut Outcome) {
    let gone = world.gone.lock().unwrap_or_else(PoisonError::into_inner);
    for row in &books.ledger {
        let key = attempt_of(row);
        let recorded = books.outcomes.get(&key);
        let approved = recorded
            .is_some_and(|r| int(r, "class") == APPROVED && int(r, "moved_minor") == row.amount_minor);
        if approved || recorded.is_none() && books.listed(&key) {
            continue;
        }
        let destroyed = world.db.destroyed(row.subscription_id, row.period, row.attempt_no);
        if !books.intents.contains_key(&key) && forgotten::may_be(row.op, &destroyed, &gone) {
            outcome
                .forgotten
                .push(format!("{:?} applied, wish, intent and spool destroyed: {key:?}", row.op));
        } else {
            let class = recorded.map(|recorded| int(recorded, "class"));
            outcome.lost.push(format!("{:?} applied, here {class:?}: {key:?}", row.op));
        }
    }
}

/// I4, I5: everything that is approved here is in a carrier's ledger.
fn phantoms(books: &Books, outcome: &mut Outcome) {
    let mut applied: BTreeMap<Key, i64> = BTreeMap::new();
    books.ledger.iter().for_each(|row| *applied.entry(attempt_of(row)).or_default() += row.amount_minor);
    for (key, row) in books.outcomes.iter().filter(|(_, row)| int(row, "class") == APPROVED) {
        let there = applied.get(key).copied().unwrap_or(0);
        if there < int(row, "moved_minor") {
            outcome.phantoms.push(format!("{} approved, {there} applied: {key:?}", int(row, "moved_minor")));
        }
    }
}

/// I12: nothing is given back above what was collected; one refund per key, and per wish.
fn refunds(world: &World, books: &Books, outcome: &mut Outcome) {
    let asked = world.asked_back.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sums: BTreeMap<(i64, i32), (i64, i64)> = BTreeMap::new();
    let mut given: BTreeMap<(i64, i32), usize> = BTreeMap::new();
    let mut keys: BTreeSet<&str> = BTreeSet::new();
    for row in &books.ledger {
        let sum = sums.entry((row.subscription_id, row.period)).or_default();
        match row.op {
            Op::Refund => {
                sum.1 += row.amount_minor;
                *given.entry((row.subscription_id, row.period)).or_default() += 1;
                if !keys.insert(&row.our_ref) || row.parent_ref.is_none() {
                    outcome.other.push(format!("refund applied twice or of nothing: {}", row.our_ref));
                }
            }
            _ => sum.0 += row.amount_minor,
        }
    }
    for (key, given) in given {
        let asked = asked.get(&key).copied().unwrap_or(0);
        if given > asked {
            outcome.other.push(format!("{given} refunds, {asked} were asked for: {key:?}"));
        }
    }
    for (key, (collected, back)) in sums.into_iter().filter(|(_, (collected, back))| back > collected) {
        outcome.other.push(format!("{back} given back of {collected}: {key:?}"));
    }
}

/// I16: every intent has its outcome or its open row; what is open is with people, with the reason, and only where the
/// carrier cannot be asked.
fn undecided(world: &World, books: &Books, outcome: &mut Outcome) {
    for (key, row) in &books.open {
        let carrier = world.carriers.iter().find(|carrier| i64::from(carrier.no) == key.0 >> 44);
        let ways = carrier.map(|carrier| carrier.ways);
        let (kind, rule) = (int(row, "kind"), int(row, "rule_id"));
        if books.misfits.contains(&key.0) {
            continue;
        }
        if kind != 3 {
            outcome
                .other
                .push(format!("still open (kind {kind}) when everything had come to rest: {key:?} {ways:?}"));
        } else if !REVIEWS.contains(&rule) || row.get("assignee").is_none_or(Value::is_null) {
            outcome.other.push(format!("in review without a reason or anybody who looks at it: {row}"));
        } else if rule == CONTRADICTION && books.guessed_wrong(key) {
            // Right where it is.
        } else if ways.is_some_and(|ways| ways.inquiry) {
            outcome.other.push(format!("in review by rule {rule}, and the carrier can be asked: {key:?}"));
        }
    }
    for key in books.intents.keys() {
        if !books.outcomes.contains_key(key) && !books.open.contains_key(key) {
            outcome.lost.push(format!("intent with neither outcome nor open row: {key:?}"));
        }
    }
    for row in books.dump.get("case_file").into_iter().flatten() {
        let kind = row.get("kind").and_then(Value::as_str).unwrap_or_default();
        if books.misfits.contains(&int(row, "subscription_id")) {
            continue;
        }
        if matches!(kind, "quarantine" | "intent_differs" | "conflict") {
            outcome.other.push(format!("a case that no fault explains: {row}"));
        }
    }
}

/// I13: every local day that passed has an attempt or a reason, and no other day has one.
fn calendar(books: &Books, times_ms: [i64; 2], population: &Population, outcome: &mut Outcome) {
    let mut told: BTreeSet<(i64, i64)> = books.intents.keys().map(|(id, period, _)| (*id, *period)).collect();
    let mut ranges: Vec<(i64, i64, i64)> = Vec::new();
    for note in books.dump.get("charge_note").into_iter().flatten() {
        let (id, period) = (int(note, "subscription_id"), int(note, "period"));
        match maybe(note, "before_period") {
            Some(before) => ranges.push((id, period, before)),
            None => drop(told.insert((id, period))),
        }
    }
    let rows: BTreeMap<i64, &Value> =
        books.dump.get("subscription").into_iter().flatten().map(|row| (int(row, "id"), row)).collect();
    for new in &population.subscriptions {
        let Some(row) = rows.get(&new.id) else { continue };
        let offset_ms = offset_minutes(new.zone_no) * 60_000;
        let [today, last] = times_ms.map(|ms| (ms + offset_ms).div_euclid(DAY_MS) - EPOCH_DAYS);
        let (first, current) = (i64::from(new.anchor_day), int(row, "period") / DAY_STEP);
        for day in first..current {
            let period = day * DAY_STEP;
            let passed =
                |(id, from, before): &(i64, i64, i64)| *id == new.id && *from <= period && period < *before;
            if !told.contains(&(new.id, period)) && !ranges.iter().any(passed) {
                outcome.lost.push(format!("day {day} of {} has neither charge nor reason", new.id));
            }
        }
        // Active, and nobody said stop: yesterday is past.
        let goes_on = matches!(int(row, "state"), 1..=5) && maybe(row, "stop_at_ms").is_none();
        if goes_on && int(row, "flags") == 0 && current < today - 1 {
            let told = [&books.intents, &books.outcomes].map(|rows| {
                let own = rows.range((new.id, i64::MIN, i64::MIN)..(new.id + 1, i64::MIN, i64::MIN));
                own.map(|(_, row)| row.to_string()).collect::<Vec<_>>().join(", ")
            });
            outcome.lost.push(format!(
                "{} stands at day {current}, today is {today}, at {} ms: {row}; told of it: {told:?}",
                new.id, times_ms[0]
            ));
        }
        let mut own = told.range((new.id, i64::MIN)..=(new.id, i64::MAX)).map(|(_, period)| *period);
        if let Some(wrong) =
            own.find(|p| p % DAY_STEP != 0 || p / DAY_STEP < first || p / DAY_STEP > last + 1)
        {
            outcome.other.push(format!("period {wrong} of {} is no day of its calendar", new.id));
        }
    }
}

fn offset_minutes(zone_no: i16) -> i64 {
    ZONES.iter().find(|(no, ..)| *no == zone_no).map_or(0, |(_, _, minutes)| *minutes)
}

/// I18: the country's cap over all plans of a subscriber, by the day on which the request was made.
fn caps(books: &Books, outcome: &mut Outcome) {
    let subscribers: BTreeMap<i64, i64> = books
        .dump
        .get("subscription")
        .into_iter()
        .flatten()
        .map(|row| (int(row, "id"), int(row, "subscriber_id")))
        .collect();
    // What a failover lost comes on top of what was begun since: nobody could hold it against the cap.
    let mut besides: BTreeSet<(i64, i64)> = BTreeSet::new();
    let mut sums: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for row in books.ledger.iter().filter(|row| row.op == Op::Charge && row.subscription_id >> 44 == 2) {
        let day = books.intents.get(&attempt_of(row)).map_or(0, |intent| int(intent, "cap_day"));
        let subscriber = subscribers.get(&row.subscription_id).copied().unwrap_or(0);
        if books.restored.contains(&attempt_of(row)) {
            besides.insert((subscriber, day));
        }
        *sums.entry((subscriber, day)).or_default() += row.amount_minor;
    }
    for (key, sum) in sums.into_iter().filter(|(key, sum)| *sum > CAP_DAY_MINOR && !besides.contains(key)) {
        outcome.other.push(format!("{sum} collected in a day, {CAP_DAY_MINOR} is the cap: {key:?}"));
    }
}

/// I10, I11: what moved is what was posted.
fn transfers(books: &Books, outcome: &mut Outcome) {
    let mut posted: BTreeMap<Key, i64> = BTreeMap::new();
    for row in books.dump.get("transfer").into_iter().flatten() {
        if matches!(int(row, "leg"), 1 | 4 | 5 | 6) {
            let key = (int(row, "source_id"), int(row, "period"), int(row, "attempt_no"));
            *posted.entry(key).or_default() += int(row, "amount");
        }
    }
    for (key, row) in &books.outcomes {
        let (moved, sum) = (int(row, "moved_minor"), posted.get(key).copied().unwrap_or(0));
        if moved != sum {
            outcome.other.push(format!("{moved} moved, {sum} posted: {key:?}"));
        }
    }
    let balances = books.dump.get("account_balance").into_iter().flatten();
    let total: i64 = balances.map(|row| int(row, "posted")).sum();
    if total != 0 {
        outcome.other.push(format!("the balances sum to {total}"));
    }
}

/// I17, I18: rates, hours, STOP, as the carriers saw them.
fn requests(world: &World, books: &Books, population: &Population, outcome: &mut Outcome) {
    let zones: BTreeMap<i64, i16> =
        population.subscriptions.iter().map(|new| (new.id, new.zone_no)).collect();
    for carrier in &world.carriers {
        let received = carrier.received();
        let times: Vec<i64> = received.iter().map(|request| request.at_us).collect();
        let asks = received.iter().filter(|request| request.kind != ExchangeKind::Send);
        let asked: Vec<i64> = asks.map(|request| request.at_us).collect();
        for span_s in RATE_SPANS_S {
            let asks = most_within(&asked, span_s);
            if asks > carrier.rate as usize * span_s / ASK_PART + ASKS_MORE {
                let rate = carrier.rate;
                outcome
                    .other
                    .push(format!("{asks} asks in {span_s} s, a fifth of {rate} a second is allowed"));
            }
            // What has its permit may wait for a connection, and leave with the next ones.
            let within = most_within(&times, span_s);
            if within > carrier.rate as usize * span_s + 8 {
                let allowed = carrier.rate;
                outcome
                    .other
                    .push(format!("{within} requests in {span_s} s, {allowed} a second are allowed"));
            }
        }
        let first_sent = |request: &&Received| request.op == Op::Charge && request.kind == ExchangeKind::Send;
        for request in received.iter().filter(first_sent) {
            let offset = zones.get(&request.subscription_id).map_or(0, |zone| offset_minutes(*zone));
            let minutes = request.business_ms.map(|ms| (ms / 60_000 + offset).rem_euclid(24 * 60));
            if !minutes.iter().any(|minute| (WINDOW.0..WINDOW.1).contains(minute)) {
                let id = request.subscription_id;
                outcome.other.push(format!("charged at local minute {}: {id}", minutes[0]));
            }
        }
    }
    let watched = world.db.watched();
    for ((id, period, no), (_, committed_us)) in &watched.intents {
        let stopped = watched.stopped_us.get(id).is_some_and(|stopped_us| stopped_us < committed_us);
        let op = books.intents.get(&(*id, i64::from(*period), i64::from(*no))).map_or(0, |i| int(i, "op"));
        if stopped && op == Op::Charge as i64 {
            outcome.other.push(format!("charged after STOP: {id} {period} {no}"));
        }
    }
}

/// The most of these instants (microseconds, ascending) within a span.
fn most_within(times_us: &[i64], span_s: usize) -> usize {
    let span_us = i64::try_from(span_s).unwrap_or(0) * 1_000_000;
    let (mut first, mut most) = (0, 0);
    for (at, time_us) in times_us.iter().enumerate() {
        while times_us[first] + span_us <= *time_us {
            first += 1;
        }
        most = most.max(at + 1 - first);
    }
    most
}

/// I8, I9: no outcome was replaced, no fenced worker wrote.
fn watched(world: &World, outcome: &mut Outcome) {
    let watched = world.db.watched();
    if watched.flipped > 0 {
        outcome.other.push(format!("{} outcomes were replaced", watched.flipped));
    }
    if watched.overlaps > 0 {
        outcome
            .other
            .push(format!("{} attempts were begun while another of their charge was open", watched.overlaps));
    }
    if watched.stale_writes > 0 {
        outcome.other.push(format!("{} writes under an epoch that was over", watched.stale_writes));
    }
}

/// I14: every outcome has its row in a history, unless a machine was lost with it.
async fn history(world: &World, books: &Books, outcome: &mut Outcome) -> anyhow::Result<()> {
    if !world.gone.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        return Ok(());
    }
    let histories = world.histories.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ids: BTreeSet<i64> = books.outcomes.keys().map(|(id, ..)| *id).collect();
    let mut told: BTreeSet<Key> = BTreeSet::new();
    for history in &histories {
        for id in &ids {
            for row in history.timeline(*id, 0, i32::MAX, usize::MAX).await? {
                told.insert((*id, i64::from(row.key.period), i64::from(row.key.attempt_no)));
            }
        }
    }
    for key in books.outcomes.keys().filter(|key| !told.contains(*key)) {
        outcome.other.push(format!("an outcome without its history: {key:?}"));
    }
    Ok(())
}
