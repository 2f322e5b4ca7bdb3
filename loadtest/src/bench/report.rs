//! What a run says: every value with its floor and its target (design notes, "Speed, measured", the goals).

use std::fmt;

use serde::Serialize;

use super::latency_leg::LatencyLeg;
use super::machine::Machine;
use super::measured::Measured;
use crate::compare::Comparison;

const MILLION: f64 = 1_000_000.0;
/// What the bare driver's two functions cost on the machine for which the goals were set, CPU seconds of Postgres per
/// million charges. A processor second is worth up to twice as much from one hour to the next on a shared machine; the
/// ceiling's leg of the same pair says how much it was worth.
const REFERENCE_CEILING: f64 = 28.0;

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// What was run.
    pub setup: Setup,
    /// On what.
    pub machine: Machine,
    /// The largest share of the machine that others took during a leg, 0 to 1.
    pub others_share: f64,
    /// The same for the hypervisor.
    pub steal_share: f64,
    /// Charges a second, from the first intent to the last outcome; median over the pairs.
    pub charges_per_s: Measured,
    /// What the bare driver reached; median over the pairs.
    pub ceiling_charges_per_s: Measured,
    /// Engine ÷ ceiling; median of the pairs' own ratios.
    pub ratio: Measured,
    /// CPU seconds per million charges; medians.
    pub cpu_s_per_million: CpuReport,
    /// The same with spending caps in force, from legs of their own.
    pub with_caps: CapsReport,
    /// WAL bytes per charge; median.
    pub wal_bytes_per_charge: Measured,
    /// Growth of the append-only tables and the outbox per charge, bytes; median.
    pub stored_bytes_per_charge: Measured,
    /// Updates of subscriptions that touched no index, 0 to 1.
    pub hot_share: Measured,
    /// What the ceiling's legs spent inside of `begin_attempts`, microseconds per row; median.
    pub begin_us_per_row: Measured,
    /// The same of `record_outcomes`.
    pub record_us_per_row: Measured,
    /// From due to durable at half the rate, milliseconds.
    pub p50_ms: Measured,
    /// 99 of 100 were faster, milliseconds.
    pub p99_ms: Measured,
    /// Memory that the wheel took, MB per million subscriptions; only as exact as the population is large.
    pub memory_mb_per_million: Measured,
    /// How the latency was measured.
    pub latency: LatencyLeg,
    /// Whether the engine's books and the mock carrier's agree.
    pub books: Books,
    /// The pairs that counted.
    pub pairs: Vec<Pair>,
    /// The pairs of the legs with caps; their ceiling is the plain one.
    pub capped_pairs: Vec<Pair>,
}

/// What was run.
#[derive(Debug, Clone, Serialize)]
pub struct Setup {
    /// Pairs that counted.
    pub pairs: u32,
    /// Charges of each leg.
    pub charges: u64,
    /// Subscriptions in each database.
    pub population: u64,
    /// How long the mock carrier took to answer.
    pub latency_ms: u64,
    /// What `toll --version` says.
    pub toll_version: String,
    /// What Postgres says.
    pub postgres_version: String,
}

/// CPU seconds per million charges.
#[derive(Debug, Clone, Serialize)]
pub struct CpuReport {
    /// All of Postgres during the engine's legs.
    pub postgres: Measured,
    /// `toll serve`.
    pub engine: Measured,
    /// The mock carrier.
    pub mock: Measured,
    /// All of Postgres during the ceiling's legs.
    pub ceiling_postgres: Measured,
    /// `postgres`, at the processor speed at which the ceiling costs 28: per pair, then the median.
    pub postgres_at_reference: Measured,
    /// `engine`, the same.
    pub engine_at_reference: Measured,
}

/// What a charge costs while caps per day and month stand over every subscriber; medians, no goals.
#[derive(Debug, Clone, Serialize)]
pub struct CapsReport {
    /// Charges a second.
    pub charges_per_s: Measured,
    /// All of Postgres, CPU seconds per million charges.
    pub postgres: Measured,
    /// `toll serve`.
    pub engine: Measured,
    /// `postgres`, at the processor speed at which the plain ceiling costs 28.
    pub postgres_at_reference: Measured,
    /// `engine`, the same.
    pub engine_at_reference: Measured,
}

/// One engine leg and the ceiling leg after it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The engine's.
    pub engine: Leg,
    /// The bare driver's.
    pub ceiling: Leg,
}

/// One leg.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Leg {
    /// Charges, all approved.
    pub charges: u64,
    /// From the start of the first intents' commit to the start of the last outcomes' commit, seconds.
    pub wall_s: f64,
    /// Rows of an average call of `begin_attempts`.
    pub begin_rows: f64,
    /// Rows of an average call of `record_outcomes`.
    pub record_rows: f64,
    /// CPU seconds of all of Postgres.
    pub postgres_cpu_s: f64,
    /// Of the engine.
    pub engine_cpu_s: f64,
    /// Of the mock carrier.
    pub mock_cpu_s: f64,
    /// Of the benchmark itself; in a ceiling leg that is the bare driver.
    pub bench_cpu_s: f64,
    /// WAL written, bytes.
    pub wal_bytes: u64,
    /// Growth of what only grows, bytes.
    pub stored_bytes: u64,
    /// Share of the machine that others took, 0 to 1.
    pub others_share: f64,
    /// Share that the hypervisor took, 0 to 1.
    pub steal_share: f64,
    /// A ceiling's leg: microseconds inside of `begin_attempts` per row, its commit not included.
    pub begin_us: Option<f64>,
    /// The same of `record_outcomes`.
    pub record_us: Option<f64>,
}

/// The engine's books against the mock carrier's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Charges that the mock carrier applied.
    pub applied: u64,
    /// Charges that the engine holds as approved.
    pub approved: u64,
    /// Both, with the same amount.
    pub equal: u64,
    /// Attempts without a known result.
    pub unknown: u64,
    /// What may not be.
    pub differences: u64,
}

impl Books {
    pub(super) fn of(found: &Comparison) -> Self {
        Self {
            applied: found.applied_by_carrier,
            approved: found.approved,
            equal: found.equal,
            unknown: found.unknown_listed,
            differences: found.differences_total,
        }
    }
}

impl Leg {
    /// Charges a second.
    #[must_use]
    pub fn charges_per_s(&self) -> f64 {
        self.charges as f64 / self.wall_s.max(f64::MIN_POSITIVE)
    }

    fn per_million(&self, cpu_s: f64) -> f64 {
        cpu_s * MILLION / self.charges.max(1) as f64
    }

    fn per_charge(&self, bytes: u64) -> f64 {
        bytes as f64 / self.charges.max(1) as f64
    }
}

impl CapsReport {
    fn of(pairs: &[Pair]) -> Self {
        let over = |value: fn(&Pair) -> f64, unit| Measured::plain(median(pairs.iter().map(value)), unit);
        let cpu = "CPU-s/million";
        Self {
            charges_per_s: over(|pair| pair.engine.charges_per_s(), "charges/s"),
            postgres: over(|pair| pair.engine.per_million(pair.engine.postgres_cpu_s), cpu),
            engine: over(|pair| pair.engine.per_million(pair.engine.engine_cpu_s), cpu),
            postgres_at_reference: over(|pair| pair.at_reference(pair.engine.postgres_cpu_s), cpu),
            engine_at_reference: over(|pair| pair.at_reference(pair.engine.engine_cpu_s), cpu),
        }
    }
}

impl Pair {
    /// CPU seconds of the engine's leg per million charges, at the reference's processor speed.
    fn at_reference(&self, cpu_s: f64) -> f64 {
        let ceiling = self.ceiling.per_million(self.ceiling.postgres_cpu_s);
        self.engine.per_million(cpu_s) * REFERENCE_CEILING / ceiling.max(f64::MIN_POSITIVE)
    }

    /// Engine ÷ ceiling.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.engine.charges_per_s() / self.ceiling.charges_per_s()
    }
}

impl BenchReport {
    /// Puts the report together. The pairs: plain ones, and those with caps. `memory`: bytes per subscription.
    pub(super) fn new(
        setup: Setup,
        machine: Machine,
        [pairs, capped_pairs]: [Vec<Pair>; 2],
        hot_share: f64,
        latency: LatencyLeg,
        memory: Option<f64>,
        books: Books,
    ) -> Self {
        let over = |value: fn(&Pair) -> f64| median(pairs.iter().map(value));
        let legs = || pairs.iter().flat_map(|pair| [&pair.engine, &pair.ceiling]);
        // The goals are for a carrier that answers at once.
        let at_once = setup.latency_ms == 0;
        let rate = over(|pair| pair.engine.charges_per_s());
        Self {
            others_share: legs().map(|leg| leg.others_share).fold(0.0, f64::max),
            steal_share: legs().map(|leg| leg.steal_share).fold(0.0, f64::max),
            charges_per_s: Measured::at_least(rate, "charges/s", 12_000.0, 25_000.0).only_if(at_once),
            ceiling_charges_per_s: Measured::plain(over(|pair| pair.ceiling.charges_per_s()), "charges/s"),
            ratio: Measured::at_least(over(Pair::ratio), "engine ÷ ceiling", 0.30, 0.40).only_if(at_once),
            cpu_s_per_million: CpuReport {
                postgres: Measured::at_most(
                    over(|pair| pair.engine.per_million(pair.engine.postgres_cpu_s)),
                    "CPU-s/million",
                    40.0,
                    28.0,
                ),
                engine: Measured::at_most(
                    over(|pair| pair.engine.per_million(pair.engine.engine_cpu_s)),
                    "CPU-s/million",
                    30.0,
                    18.0,
                ),
                mock: Measured::plain(
                    over(|pair| pair.engine.per_million(pair.engine.mock_cpu_s)),
                    "CPU-s/million",
                ),
                ceiling_postgres: Measured::plain(
                    over(|pair| pair.ceiling.per_million(pair.ceiling.postgres_cpu_s)),
                    "CPU-s/million",
                ),
                postgres_at_reference: Measured::at_most(
                    over(|pair| pair.at_reference(pair.engine.postgres_cpu_s)),
                    "CPU-s/million",
                    40.0,
                    28.0,
                ),
                engine_at_reference: Measured::at_most(
                    over(|pair| pair.at_reference(pair.engine.engine_cpu_s)),
                    "CPU-s/million",
                    30.0,
                    18.0,
                ),
            },
            with_caps: CapsReport::of(&capped_pairs),
            wal_bytes_per_charge: Measured::at_most(
                over(|pair| pair.engine.per_charge(pair.engine.wal_bytes)),
                "B",
                1_800.0,
                1_200.0,
            ),
            stored_bytes_per_charge: Measured::at_most(
                over(|pair| pair.engine.per_charge(pair.engine.stored_bytes)),
                "B",
                800.0,
                600.0,
            ),
            hot_share: Measured::plain(hot_share, "of updates"),
            begin_us_per_row: Measured::plain(over(|pair| pair.ceiling.begin_us.unwrap_or(0.0)), "µs"),
            record_us_per_row: Measured::plain(over(|pair| pair.ceiling.record_us.unwrap_or(0.0)), "µs"),
            p50_ms: Measured::plain(latency.p50_ms, "ms"),
            p99_ms: Measured::at_most(latency.p99_ms, "ms", 1_000.0, 250.0).only_if(at_once),
            memory_mb_per_million: match memory {
                // Bytes for one are MB for a million.
                Some(bytes) => Measured::at_most(bytes, "MB/million", 64.0, 32.0),
                None => Measured::plain(0.0, "not measured"),
            },
            setup,
            machine,
            latency,
            books,
            pairs,
            capped_pairs,
        }
    }

    /// Every value with its name, as the table shows them.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, &Measured)> {
        vec![
            ("charges_per_s", &self.charges_per_s),
            ("ceiling_charges_per_s", &self.ceiling_charges_per_s),
            ("ratio", &self.ratio),
            ("cpu_s_per_million.postgres", &self.cpu_s_per_million.postgres),
            ("cpu_s_per_million.engine", &self.cpu_s_per_million.engine),
            ("cpu_s_per_million.mock", &self.cpu_s_per_million.mock),
            ("cpu_s_per_million.ceiling_postgres", &self.cpu_s_per_million.ceiling_postgres),
            ("cpu_s_per_million.postgres_at_reference", &self.cpu_s_per_million.postgres_at_reference),
            ("cpu_s_per_million.engine_at_reference", &self.cpu_s_per_million.engine_at_reference),
            ("with_caps.charges_per_s", &self.with_caps.charges_per_s),
            ("with_caps.postgres", &self.with_caps.postgres),
            ("with_caps.engine", &self.with_caps.engine),
            ("with_caps.postgres_at_reference", &self.with_caps.postgres_at_reference),
            ("with_caps.engine_at_reference", &self.with_caps.engine_at_reference),
            ("wal_bytes_per_charge", &self.wal_bytes_per_charge),
            ("stored_bytes_per_charge", &self.stored_bytes_per_charge),
            ("hot_share", &self.hot_share),
            ("begin_us_per_row", &self.begin_us_per_row),
            ("record_us_per_row", &self.record_us_per_row),
            ("p50_ms", &self.p50_ms),
            ("p99_ms", &self.p99_ms),
            ("memory_mb_per_million", &self.memory_mb_per_million),
        ]
    }

    /// The names of the values that miss their floor; `books` is among them when the books differ or a result is unknown.
    #[must_use]
    pub fn floors_missed(&self) -> Vec<&'static str> {
        let mut missed: Vec<&'static str> = self
            .values()
            .into_iter()
            .filter(|(_, value)| value.floor_met == Some(false))
            .map(|(name, _)| name)
            .collect();
        if self.books.differences > 0 || self.books.equal != self.books.applied {
            missed.push("books");
        }
        missed
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setup, machine, books, latency, .. } = self;
        writeln!(
            f,
            "{} pairs of {} charges, population {}, the carrier answers in {} ms; {}, PostgreSQL {}",
            setup.pairs,
            setup.charges,
            setup.population,
            setup.latency_ms,
            setup.toll_version,
            setup.postgres_version
        )?;
        writeln!(
            f,
            "{} cores, {}, {} MiB, Linux {}; others took up to {:.1} %, the hypervisor {:.1} %{}",
            machine.cores,
            machine.cpu,
            machine.memory_mib,
            machine.kernel,
            self.others_share * 100.0,
            self.steal_share * 100.0,
            if machine.data_in_memory {
                "; THE DATA LAY IN MEMORY: these are no durable figures"
            } else {
                ""
            }
        )?;
        writeln!(f)?;
        writeln!(f, "{:<40} {:>12} {:>10} {:>10}  {:<17} unit", "", "value", "floor", "target", "")?;
        for (name, measured) in self.values() {
            let bound = |bound: Option<f64>| bound.map_or_else(|| "-".to_owned(), figure);
            let verdict = match (measured.floor_met, measured.target_met) {
                (_, Some(true)) => "target met",
                (Some(true), _) => "floor met",
                (Some(false), _) => "BELOW THE FLOOR",
                _ => "",
            };
            writeln!(
                f,
                "{name:<40} {:>12} {:>10} {:>10}  {verdict:<17} {}",
                figure(measured.value),
                bound(measured.floor),
                bound(measured.target),
                measured.unit
            )?;
        }
        writeln!(f)?;
        for (number, pair) in (1..).zip(&self.pairs) {
            writeln!(f, "pair {number}: {pair}")?;
        }
        for (number, pair) in (1..).zip(&self.capped_pairs) {
            writeln!(f, "pair {number} with caps: {pair}")?;
        }
        writeln!(f, "latency: {latency}")?;
        write!(
            f,
            "books: the carrier applied {}, we approved {}, {} are equal, {} unknown, {} differences",
            books.applied, books.approved, books.equal, books.unknown, books.differences
        )
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, ceiling } = self;
        write!(
            f,
            "engine {:.0}/s (batches of {:.0} and {:.0}), ceiling {:.0}/s, ratio {:.3}",
            engine.charges_per_s(),
            engine.begin_rows,
            engine.record_rows,
            ceiling.charges_per_s(),
            self.ratio()
        )
    }
}

/// The middle value; of an even count the mean of the two in the middle; 0 of none.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    match (values.get(values.len().wrapping_sub(1) / 2), values.get(values.len() / 2)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => 0.0,
    }
}

fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair(engine_s: f64, ceiling_s: f64) -> Pair {
        let leg = |wall_s| Leg {
            charges: 100_000,
            wall_s,
            begin_rows: 800.0,
            record_rows: 700.0,
            postgres_cpu_s: 3.0,
            engine_cpu_s: 2.0,
            mock_cpu_s: 0.5,
            wal_bytes: 100_000_000,
            stored_bytes: 70_000_000,
            others_share: 0.02,
            ..Leg::default()
        };
        Pair { engine: leg(engine_s), ceiling: leg(ceiling_s) }
    }

    fn report(latency_ms: u64, memory: Option<f64>, differences: u64) -> BenchReport {
        let setup = Setup {
            pairs: 3,
            charges: 100_000,
            population: 100_000,
            latency_ms,
            toll_version: "toll 0.1.0".to_owned(),
            postgres_version: "15.0".to_owned(),
        };
        let machine = Machine {
            cores: 2,
            cpu: "a CPU".to_owned(),
            memory_mib: 24_000,
            kernel: "6.1".to_owned(),
            data_in_memory: false,
        };
        let latency =
            LatencyLeg { charges: 10, charges_per_s: 5.0, p50_ms: 20.0, p99_ms: 300.0, max_ms: 400.0 };
        let books = Books { applied: 10, approved: 10, equal: 10, unknown: 0, differences };
        // Rates 10,000, 20,000 and 40,000; ratios 0.5, 0.2 and 0.8: the medians come from different pairs.
        let pairs = vec![pair(10.0, 5.0), pair(5.0, 1.0), pair(2.5, 2.0)];
        BenchReport::new(setup, machine, [pairs, vec![pair(8.0, 4.0)]], 0.99, latency, memory, books)
    }

    #[test]
    fn medians() {
        assert_eq!(median([].into_iter()), 0.0);
        assert_eq!(median([3.0].into_iter()), 3.0);
        assert_eq!(median([4.0, 1.0, 3.0].into_iter()), 3.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), 2.5);
    }

    #[test]
    fn values_are_medians_per_charge_and_judged() {
        let report = report(0, Some(40.0), 0);
        assert_eq!((report.charges_per_s.value, report.ratio.value), (20_000.0, 0.5));
        assert_eq!(
            (report.charges_per_s.floor_met, report.charges_per_s.target_met),
            (Some(true), Some(false))
        );
        let cpu = &report.cpu_s_per_million;
        assert_eq!((cpu.postgres.value, cpu.engine.value, cpu.mock.value), (30.0, 20.0, 5.0));
        assert_eq!(
            (report.wal_bytes_per_charge.value, report.wal_bytes_per_charge.target_met),
            (1_000.0, Some(true))
        );
        assert_eq!(
            (report.stored_bytes_per_charge.value, report.stored_bytes_per_charge.target_met),
            (700.0, Some(false))
        );
        assert_eq!(
            (report.memory_mb_per_million.floor_met, report.p99_ms.target_met),
            (Some(true), Some(false))
        );
        assert_eq!(report.floors_missed(), Vec::<&str>::new());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ratio"]["floor"], 0.3);
        assert_eq!(json["cpu_s_per_million"]["postgres"]["value"], 30.0);
        assert_eq!(json["pairs"].as_array().unwrap().len(), 3);
        assert_eq!(json["with_caps"]["charges_per_s"]["value"], 12_500.0);
        assert_eq!(json["with_caps"]["postgres_at_reference"]["value"], 28.0);
    }

    #[test]
    fn a_missed_floor_is_named_and_shown() {
        let report = report(0, Some(80.0), 1);
        assert_eq!(report.floors_missed(), ["memory_mb_per_million", "books"]);
        let text = report.to_string();
        let line = text.lines().find(|line| line.starts_with("memory_mb_per_million")).unwrap();
        assert!(line.contains("80.0") && line.contains("64.0") && line.contains("BELOW THE FLOOR"), "{line}");
        assert!(text.contains("others took up to 2.0 %"), "{text}");
    }

    #[test]
    fn goals_for_a_carrier_that_answers_at_once_do_not_judge_a_slow_one() {
        let report = report(50, None, 0);
        assert_eq!((report.ratio.value, report.ratio.floor_met, report.p99_ms.floor), (0.5, None, None));
        assert_eq!(report.cpu_s_per_million.postgres.floor_met, Some(true));
    }
}
