//! One run: a world that is built from its seed, in which things go wrong for a while, then nothing more does, and then the
//! books are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use billing_core::book::Book;
use scheduler::{
    BreakerSettings, Catalog, Hold, RefundRequest, Worker, WorkerCarrier, WorkerEnd, WorkerParts,
    WorkerSettings,
};
use storage::guard::GuardMemory;
use storage::history::{MemoryHistory, Room};
use storage::memory::{MemoryDb, ServerClock};
use storage::pg::{InboxKind, Names, WorkerIdentity};
use storage::spool::SentLog;
use storage::store::Database;
use storage::vault::Vault;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::carrier::{Carrier, HURRY, Manners, Ways};
use super::clock::{SCALE, START_MS, SimClock, business_clock};
use super::dice::Dice;
use super::link::Link;
use super::log::Log;
use super::seat::{Seat, SeatHistory, Step, Weather};
use super::size::Size;
use super::{Outcome, Settings, book, judge, size};

/// Machine time for everything to come to rest: a dead worker's lease, an accepted request's deadline (24 business hours),
/// a charge's last round.
const CALM: Duration = Duration::from_secs(80);
/// Machine time of the last takeover: at least a lease, and for as long as something is neither settled nor in review. Where a
/// spool is missing, the refunds of a charge are asked about one after the other, and twenty may have been wanted.
const LAST: std::ops::Range<Duration> = Duration::from_secs(20)..Duration::from_secs(6_000);

/// How long a lease lasts.
const LEASE_MS: i64 = 8_000;

/// How long a request is stopped before its first byte: its worker is fenced meanwhile. Not longer than two leases: what a
/// fence adds to the time to settle, and the lease that was left.
const STALL_MS: std::ops::Range<u64> = 12_000..16_900;

/// The same where little of the lease is left.
const LAST_STALL_MS: std::ops::Range<u64> = 14_500..15_300;

/// As long as is possible at all: what was listed meanwhile is asked about before the request arrives.
const LONG_STALL_MS: std::ops::Range<u64> = 15_900..16_700;

/// What all parts of a run share.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) log: Arc<Log>,
    pub(super) db: MemoryDb,
    pub(super) carriers: Vec<Arc<Carrier>>,
    pub(super) histories: Mutex<Vec<Arc<MemoryHistory>>>,
    /// Spools that are gone with their machines.
    pub(super) gone: Mutex<BTreeSet<String>>,
    /// How many refunds were asked for, by subscription and period.
    pub(super) asked_back: Mutex<BTreeMap<(i64, i32), usize>>,
    calm: Arc<AtomicBool>,
    stop: CancellationToken,
    book: &'static Book,
    names: Names,
    vault: Arc<Vault>,
    stripes: usize,
}

/// Runs one seed on a runtime of its own: one thread, paused time.
pub(super) fn run(seed: u64, settings: &Settings) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(live(seed, settings))
}

async fn live(seed: u64, settings: &Settings) -> anyhow::Result<Outcome> {
    let dice = Dice::new(seed, 1);
    let start = Instant::now();
    let log = Arc::new(Log::new(start, settings.lines));
    let book = book::book()?;
    let names = book::names(book)?;
    let vault = Arc::new(Vault::for_tests(7));
    let now_us: Box<ServerClock> =
        Box::new(move || START_MS * 1_000 + i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX));
    let db = MemoryDb::new(names.clone(), vec![1], business_clock(), now_us);
    let failovers = dice.permille(125);
    // What worlds differ in besides: a stream of its own, so that it may grow.
    let shape = Dice::new(seed, 4);
    // Everybody at once at carriers that take little.
    let rush = !failovers && shape.permille(200);
    let size = Size::of(seed);
    let carriers = book::SLICES.iter().map(|(no, ..)| {
        let manners = [Manners::Repeats, Manners::Refuses, Manners::Forgets][dice.below(3) as usize];
        let rate = u32::try_from(dice.between(3, 10)).unwrap_or(10);
        let rate = if rush { 2 + rate % 2 } else { rate } * size.rate_times;
        let own = Dice::new(seed, 100 + *no as u64);
        let means = shape.below(4);
        let ways = Ways { repeat: means & 1 != 0, inquiry: means & 2 != 0 };
        let manners = match manners {
            Manners::Forgets if ways.repeat => Manners::Repeats,
            manners => manners,
        };
        Arc::new(Carrier::new(*no, manners, ways, rate, size, start, own, Arc::clone(&log), db.clone()))
    });
    let world = Arc::new(World {
        start,
        log: Arc::clone(&log),
        db: db.clone(),
        carriers: carriers.collect(),
        histories: Mutex::default(),
        gone: Mutex::default(),
        asked_back: Mutex::default(),
        calm: Arc::new(AtomicBool::new(failovers)),
        stop: CancellationToken::new(),
        book,
        names: names.clone(),
        vault,
        stripes: if dice.permille(250) { 2 } else { 1 },
    });
    let count = u32::try_from(dice.between(40, 120))?;
    let population = book::population(book, &names, &world.vault, &dice, size.crowd(count, rush))?;
    let mut conn = db.connect().await?;
    conn.insert_subscriptions(1, &population.subscribers, &population.subscriptions).await?;
    let ids: Vec<i64> = population.subscriptions.iter().map(|new| new.id).collect();

    let weather = Weather { not_reached: dice.below(8), answer_lost: dice.below(15), slow: dice.below(30) };
    let seats: Vec<Arc<Seat>> = (0..if dice.permille(300) { 3 } else { 2 })
        .map(|no| {
            let clock = Arc::new(SimClock::new(start));
            let own = Dice::new(seed, 200 + no);
            let no = i64::try_from(no).unwrap_or(0);
            Arc::new(Seat::new(no, Arc::clone(&log), clock, weather, own, Arc::clone(&world.calm)))
        })
        .collect();
    let mut working = tokio::task::JoinSet::new();
    for seat in &seats {
        working.spawn(work(Arc::clone(&world), Arc::clone(seat)));
    }
    let troubled = Duration::from_secs(settings.days * 60);
    let own = Dice::new(seed, 2);
    if failovers {
        fail_over(&world, &seats, &own, troubled).await;
    } else {
        let trouble = tokio::spawn(trouble(Arc::clone(&world), seats.clone(), own, troubled));
        let people = tokio::spawn(people(Arc::clone(&world), ids, Dice::new(seed, 3), troubled, size));
        let stalls = tokio::spawn(stalls(seats.clone(), seed, troubled));
        let late = tokio::spawn(stalls_of_the_last_moment(seats.clone(), seed, troubled));
        tokio::time::sleep(troubled).await;
        trouble.await?;
        people.await?;
        stalls.await?;
        late.await?;
    }
    world.calm.store(true, Ordering::SeqCst);
    for seat in &seats {
        seat.cut_off.store(false, Ordering::SeqCst);
        seat.unrenewed.store(false, Ordering::SeqCst);
        seat.clock.set_skew(0);
        seat.go_on();
    }
    log.event("calm", &[]);
    tokio::time::sleep(CALM).await;
    let ended_ms = business_now_ms(&world);
    world.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        while let Some(ended) = working.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    });
    match ended.await {
        Ok(ended) => ended?,
        Err(_) => log.broken("the workers did not drain within a minute".to_owned()),
    }
    take_over_the_rest(&world, seed).await?;
    let over_ms = business_now_ms(&world);
    judge::judge(seed, &world, &population, [ended_ms, over_ms]).await
}

/// What a drain could not wait for is listed by whoever takes over. The last of all workers does that, while the carriers
/// apply what is late; it sends nothing new.
async fn take_over_the_rest(world: &Arc<World>, seed: u64) -> anyhow::Result<()> {
    let none = Weather { not_reached: 0, answer_lost: 0, slow: 0 };
    let clock = Arc::new(SimClock::new(world.start));
    let own = Dice::new(seed, 299);
    let seat = Arc::new(Seat::new(99, Arc::clone(&world.log), clock, none, own, Arc::clone(&world.calm)));
    let (hold, spool) = (seat.born(), world.new_spool(&seat));
    let worker = Worker::start(world.parts(&seat, &spool, None, hold, false)?).await?;
    let stop = CancellationToken::new();
    let mut running = tokio::spawn(worker.run(stop.clone()));
    world.log.event("the last takeover", &[]);
    tokio::time::sleep(LAST.start).await;
    let until = Instant::now() + LAST.end;
    while world.db.undecided() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stop.cancel();
    match tokio::time::timeout(Duration::from_secs(30), &mut running).await {
        Ok(Ok(WorkerEnd::Stopped)) => {}
        end => world.log.broken(format!("the last worker did not drain: {end:?}")),
    }
    Ok(())
}

impl World {
    fn new_spool(&self, seat: &Arc<Seat>) -> Spool {
        let kept = Arc::new(MemoryHistory::new());
        let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        histories.push(Arc::clone(&kept));
        let name = format!("spool {}", histories.len());
        let history = Arc::new(SeatHistory { kept, seat: Arc::clone(seat) });
        let guard_memory = Arc::new(GuardMemory::Memory(Mutex::default()));
        Spool { name, history, sent_log: Arc::new(SentLog::in_memory()), guard_memory }
    }

    fn parts(
        &self,
        seat: &Arc<Seat>,
        spool: &Spool,
        slot: Option<i32>,
        hold: Arc<Hold>,
        sends: bool,
    ) -> anyhow::Result<WorkerParts> {
        let life = seat.lives.load(Ordering::SeqCst);
        let incarnation = (seat.no + 1) * 1_000_000 + i64::try_from(life)?;
        let mut carriers = Vec::new();
        for carrier in &self.carriers {
            let link = |sends| Link::new(Arc::clone(carrier), Arc::clone(seat), incarnation, sends);
            let id = book::SLICES.iter().find(|(no, ..)| *no == carrier.no).map(|(_, id, _)| *id);
            carriers.push(WorkerCarrier {
                carrier_no: carrier.no,
                id: id.unwrap_or_default().to_owned(),
                adapter: Arc::new(link(sends)?),
                asker: Arc::new(link(true)?),
                proof: carrier.ways.declared(carrier.size),
                breaker: BreakerSettings { share_percent: 95, ..BreakerSettings::default() },
                dictionary: Vec::new(),
            });
        }
        Ok(WorkerParts {
            database: Database::Memory(self.db.seen_by(Arc::clone(seat) as _)),
            clock: Arc::clone(&seat.clock) as _,
            hold: Some(hold),
            settings: WorkerSettings {
                stripes: self.stripes,
                batch_max: 200,
                batch_wait_ms: 200,
                wheel_horizon_ms: 7_200_000,
                inbox_poll_ms: 500,
                lease_ttl_ms: LEASE_MS,
                lease_renew_ms: 2_000,
                low_water_every_ms: 2_000,
                send_max_age_ms: 10_000,
                drain_deadline_ms: 5_000,
                quarantine_wait_ms: 12_000,
                resolution_time_scale: i64::from(HURRY),
            },
            catalog: Catalog::new(&self.book.plans, self.names.clone())?,
            read_version: Arc::new(|_| Err("there is only one version".to_owned())),
            carriers,
            vault: Arc::clone(&self.vault),
            history: Arc::clone(&spool.history) as _,
            sent_log: Arc::clone(&spool.sent_log),
            identity: WorkerIdentity {
                host: "sim".to_owned(),
                boot_id: "sim".to_owned(),
                spool: spool.name.clone(),
                endpoint: String::new(),
            },
            guard_memory: Arc::clone(&spool.guard_memory),
            slot,
            incarnation,
        })
    }
}

/// What a machine keeps of its worker.
struct Spool {
    name: String,
    history: Arc<SeatHistory>,
    sent_log: Arc<SentLog>,
    guard_memory: Arc<GuardMemory>,
}

/// One worker after the other at one seat.
async fn work(world: Arc<World>, seat: Arc<Seat>) -> anyhow::Result<()> {
    let mut spool = world.new_spool(&seat);
    let mut slot = None;
    while !world.stop.is_cancelled() {
        let hold = seat.born();
        let parts = world.parts(&seat, &spool, slot, hold, true)?;
        let mut taken = slot;
        let end = tokio::select! {
            biased;
            () = seat.killed.notified() => None,
            end = life(&world, parts, &mut taken) => Some(end),
        };
        slot = taken;
        world.log.event("life ended", &[seat.no, end.as_ref().map_or(0, |end| end.is_ok().into())]);
        match end {
            None if !seat.calm.load(Ordering::SeqCst) && seat.dice.permille(200) => {
                world.log.fault("a machine is gone with its spool", &[seat.no]);
                world.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(spool.name.clone());
                spool = world.new_spool(&seat);
                slot = None;
            }
            Some(Ok(WorkerEnd::Died(why))) => world.log.broken(format!("a part of a worker died: {why}")),
            Some(Ok(WorkerEnd::Stopped)) if world.stop.is_cancelled() => return Ok(()),
            // The database was away when it started, or it was fenced, or its machine is back.
            _ => {}
        }
        tokio::time::sleep(seat.dice.millis(500, 15_000)).await;
    }
    Ok(())
}

async fn life(
    world: &World,
    parts: WorkerParts,
    slot: &mut Option<i32>,
) -> Result<WorkerEnd, scheduler::StartError> {
    let worker = Worker::start(parts).await?;
    *slot = Some(worker.shared().report().slot);
    Ok(worker.run(world.stop.clone()).await)
}

/// Nothing goes wrong but that the database fails over to a standby that lacks its last commits; some die over it, the
/// others reconnect.
async fn fail_over(world: &World, seats: &[Arc<Seat>], dice: &Dice, troubled: Duration) {
    let ends = world.start + troubled;
    while Instant::now() < ends {
        tokio::time::sleep(dice.millis(5_000, 40_000)).await;
        let snapshot = world.db.snapshot();
        let behind = dice.millis(100, 2_000);
        tokio::time::sleep(behind).await;
        world.log.fault("a failover loses the last commits", &[behind.as_millis() as i64]);
        seats.iter().filter(|_| dice.permille(500)).for_each(|seat| seat.die());
        world.db.restore(snapshot);
    }
}

/// What goes wrong, as planned by the seed.
async fn trouble(world: Arc<World>, seats: Vec<Arc<Seat>>, dice: Dice, troubled: Duration) {
    let ends = world.start + troubled;
    let mut later = tokio::task::JoinSet::new();
    while Instant::now() < ends {
        tokio::time::sleep(dice.millis(1_000, 25_000)).await;
        let Some(seat) = seats.get(dice.below(seats.len() as u64) as usize).cloned() else { return };
        let log = Arc::clone(&world.log);
        match dice.below(12) {
            10 => {
                let Some(carrier) = world.carriers.get(dice.below(2) as usize) else { return };
                let span = dice.millis(2_000, 12_000);
                log.fault("a carrier falls silent", &[i64::from(carrier.no), span.as_millis() as i64]);
                carrier.fall_silent(span);
            }
            0..3 => {
                let step = Step::ALL[dice.below(Step::ALL.len() as u64) as usize];
                seat.light(
                    step,
                    dice.below(if matches!(step, Step::AnyStatement | Step::AnyCommit) { 60 } else { 6 }),
                );
            }
            3 => {
                log.fault("killed", &[seat.no]);
                seat.die();
            }
            4..6 => {
                let span = dice.millis(500, 20_000);
                let kind = match span.as_millis() as i64 > LEASE_MS {
                    true => "stopped for longer than its lease",
                    false => "stopped for a while",
                };
                log.fault(kind, &[seat.no, span.as_millis() as i64]);
                seat.stop();
                later.spawn(async move {
                    tokio::time::sleep(span).await;
                    seat.go_on();
                });
            }
            6 => {
                let (kind, most_ms) = match dice.below(3) {
                    0 => ("the wall clock jumps by a second", 1_000),
                    1 => ("the wall clock jumps by an hour", 3_600_000),
                    _ => ("the wall clock jumps by a day", 86_400_000),
                };
                let skew_ms = if dice.permille(500) { most_ms } else { -most_ms };
                log.fault(kind, &[seat.no, skew_ms]);
                seat.clock.set_skew(skew_ms);
            }
            7 => {
                let span = dice.millis(200, 14_000);
                log.fault("cut off from the database", &[seat.no, span.as_millis() as i64]);
                seat.cut_off.store(true, Ordering::SeqCst);
                later.spawn(async move {
                    tokio::time::sleep(span).await;
                    seat.cut_off.store(false, Ordering::SeqCst);
                });
            }
            8 => {
                let history = {
                    let kept = world.histories.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.get(dice.below(kept.len() as u64) as usize).cloned()
                };
                let Some(history) = history else { continue };
                let span = dice.millis(500, 8_000);
                log.fault("the history is full", &[span.as_millis() as i64]);
                history.set_room(Room::Full);
                later.spawn(async move {
                    tokio::time::sleep(span).await;
                    history.set_room(Room::Ok);
                });
            }
            9 => {
                let (db, behind) = (world.db.clone(), dice.millis(100, 3_000));
                let snapshot = db.snapshot();
                later.spawn(async move {
                    tokio::time::sleep(behind).await;
                    log.fault("a failover loses the last commits", &[behind.as_millis() as i64]);
                    db.restore(snapshot);
                });
            }
            _ => {
                log.fault("the database is away", &[]);
                let all = seats.clone();
                all.iter().for_each(|seat| seat.cut_off.store(true, Ordering::SeqCst));
                let span = dice.millis(200, 6_000);
                later.spawn(async move {
                    tokio::time::sleep(span).await;
                    all.iter().for_each(|seat| seat.cut_off.store(false, Ordering::SeqCst));
                });
            }
        }
    }
    while later.join_next().await.is_some() {}
}

/// Requests that are stopped with their process between the last look at the lease and the first byte: no guard can help
/// there, so "not found" must not count before they can have come. In half of the worlds that may have more than the first.
async fn stalls(seats: Vec<Arc<Seat>>, seed: u64, troubled: Duration) {
    let dice = Dice::new(seed, 6);
    if !(size::SIZED_FROM..size::LONG_MOMENTS_FROM).contains(&seed) || dice.permille(500) {
        return;
    }
    let ends = Instant::now() + troubled;
    while Instant::now() < ends {
        tokio::time::sleep(dice.millis(2_000, 20_000)).await;
        let Some(seat) = seats.get(dice.below(seats.len() as u64) as usize) else { return };
        seat.stall(dice.millis(STALL_MS.start, STALL_MS.end));
    }
}

/// The same in the last moments of a lease that is not renewed: its worker is fenced at once and what it began is listed, long
/// before the request leaves. For less than a lease and what "not found" waits for besides: nobody can tell of longer ones.
/// Worlds of the first kind do without these, in which a longer one could meet a shorter lease.
async fn stalls_of_the_last_moment(seats: Vec<Arc<Seat>>, seed: u64, troubled: Duration) {
    let always = seed >= size::LONG_MOMENTS_FROM;
    if seed < size::LAST_MOMENTS_FROM || !always && !Dice::new(seed, 6).permille(500) {
        return;
    }
    let stall_ms = if always { LONG_STALL_MS } else { LAST_STALL_MS };
    let dice = Dice::new(seed, 7);
    let ends = Instant::now() + troubled;
    while Instant::now() < ends {
        tokio::time::sleep(dice.millis(2_000, 15_000)).await;
        let Some(seat) = seats.get(dice.below(seats.len() as u64) as usize) else { return };
        seat.log.fault("a lease is not renewed", &[seat.no]);
        seat.unrenewed.store(true, Ordering::SeqCst);
        tokio::time::sleep(dice.millis(2_000, 3_500)).await;
        seat.stall(dice.millis(stall_ms.start, stall_ms.end));
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Where nothing left meanwhile, nothing is stopped.
        seat.stall(Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(stall_ms.end)).await;
        seat.unrenewed.store(false, Ordering::SeqCst);
    }
}

/// What people do meanwhile: they stop, rest, come back, and want their money back.
async fn people(world: Arc<World>, ids: Vec<i64>, dice: Dice, troubled: Duration, size: Size) {
    let ends = world.start + troubled;
    let acts = (u32::try_from(ids.len()).unwrap_or(1) / size.quieter).max(1);
    let Some(interval) = troubled.checked_div(acts) else { return };
    while Instant::now() < ends {
        tokio::time::sleep(dice.millis(0, interval.as_millis() as u64)).await;
        let Some(id) = ids.get(dice.below(ids.len() as u64) as usize).copied() else { return };
        let now_ms = business_now_ms(&world);
        match dice.below(10) {
            0..3 => {
                // Mostly while its charge is under way.
                let due = world.db.fires_between(now_ms - 1_800_000, now_ms + 1_800_000);
                let at = dice.below(due.len().max(1) as u64) as usize;
                let id = due.get(at).copied().filter(|_| dice.permille(800)).unwrap_or(id);
                world.log.event("STOP", &[id]);
                let _ = world.db.stop_subscription(id, now_ms);
            }
            3 => {
                let until = now_ms + dice.between(1, 48) as i64 * 3_600_000;
                world.db.post_wish(id, InboxKind::Pause, Some(until));
            }
            4 => world.db.post_wish(id, InboxKind::Resume, None),
            5 => world.db.post_wish(id, InboxKind::TopUp, Some(now_ms)),
            _ => refund(&world, &dice),
        }
    }
}

/// Someone wants back what was collected, all of it or half, and may ask twice.
fn refund(world: &World, dice: &Dice) {
    let Some(carrier) = world.carriers.get(dice.below(2) as usize) else { return };
    let Some(row) = carrier.some_row(dice) else { return };
    let amount_minor = if dice.permille(500) { 0 } else { row.amount_minor / 2 };
    let request = RefundRequest { period: row.period, attempt_no: 0, amount_minor, reason: "sim".to_owned() };
    let Ok(payload) = request.encode() else { return };
    for _ in 0..dice.between(1, 3) {
        world.log.event("refund asked", &[row.subscription_id, i64::from(row.period), amount_minor]);
        let mut asked = world.asked_back.lock().unwrap_or_else(PoisonError::into_inner);
        *asked.entry((row.subscription_id, row.period)).or_default() += 1;
        drop(asked);
        world.db.ask_refund(row.subscription_id, &payload);
    }
}

pub(super) fn business_now_ms(world: &World) -> i64 {
    START_MS + i64::try_from(world.start.elapsed().as_millis()).unwrap_or(0) * i64::from(SCALE)
}
