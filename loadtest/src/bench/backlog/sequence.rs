//! Whether what was sent was sent in order, from the intents; and whether the carrier's rate was kept, from its ledger.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// One charge as it was made durable before it was sent. Instants of the database's clock in microseconds, business
/// instants in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// When; one value per batch.
    pub(super) at_us: i64,
    /// Since when the engine knew that it was due.
    pub(super) known_us: i64,
    pub(super) due_ms: i64,
    pub(super) closes_ms: i64,
}

/// What the sequence was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sequence {
    /// Part of the charges before which no more than the grain went of those that close later, 0 to 1.
    pub(super) by_closing: f64,
    /// The same of those that close together with it and fell due later by more than the slack.
    pub(super) by_due: f64,
    /// The most that went before one charge although they close later.
    pub(super) overtaken_max: u64,
}

/// What went of the charges that close together.
#[derive(Default)]
struct Gone {
    /// When, ascending.
    at_us: Vec<i64>,
    /// All their due instants, ascending.
    due_ms: Vec<i64>,
    /// How many of these went, as a Fenwick tree.
    counts: Vec<u64>,
}

impl Gone {
    fn went(&mut self, charge: &Sent) {
        self.at_us.push(charge.at_us);
        let mut place = self.due_ms.partition_point(|due_ms| *due_ms < charge.due_ms) + 1;
        while let Some(count) = self.counts.get_mut(place) {
            *count += 1;
            place += place & place.wrapping_neg();
        }
    }

    fn since(&self, known_us: i64) -> u64 {
        (self.at_us.len() - self.at_us.partition_point(|at_us| *at_us <= known_us)) as u64
    }

    fn due_after(&self, due_ms: i64) -> u64 {
        let mut place = self.due_ms.partition_point(|other| *other <= due_ms);
        let mut until = 0;
        while place > 0 {
            until += self.counts.get(place).copied().unwrap_or(0);
            place -= place & place.wrapping_neg();
        }
        self.at_us.len() as u64 - until
    }
}

/// Looks at charges in the sequence of their intents. What went until `from_us` counts for nothing.
pub(super) fn sequence_of(sent: &[Sent], from_us: i64, grain: u64, slack_ms: i64) -> Sequence {
    let mut gone: BTreeMap<i64, Gone> = BTreeMap::new();
    for charge in sent {
        gone.entry(charge.closes_ms).or_default().due_ms.push(charge.due_ms);
    }
    for gone in gone.values_mut() {
        gone.due_ms.sort_unstable();
        gone.counts = vec![0; gone.due_ms.len() + 1];
    }
    let (mut by_closing, mut by_due, mut overtaken_max) = (0_u64, 0_u64, 0_u64);
    for batch in sent.chunk_by(|a, b| a.at_us == b.at_us) {
        for charge in batch {
            let known_us = charge.known_us.max(from_us);
            let later = gone.range(charge.closes_ms.saturating_add(1)..);
            let overtook: u64 = later.map(|(_, gone)| gone.since(known_us)).sum();
            overtaken_max = overtaken_max.max(overtook);
            by_closing += u64::from(overtook <= grain);
            let due_later = gone
                .get(&charge.closes_ms)
                .map_or(0, |gone| gone.due_after(charge.due_ms.saturating_add(slack_ms)));
            by_due += u64::from(due_later <= grain);
        }
        for charge in batch.iter().filter(|charge| charge.at_us > from_us) {
            gone.entry(charge.closes_ms).or_default().went(charge);
        }
    }
    let all = sent.len().max(1) as f64;
    Sequence { by_closing: by_closing as f64 / all, by_due: by_due as f64 / all, overtaken_max }
}

#[derive(Deserialize)]
struct Line {
    at_us: i64,
}

/// The most requests in any second after `from_us`, by the carrier's own ledger.
pub(super) fn busiest_second(ledger: &Path, from_us: i64) -> anyhow::Result<u64> {
    let file = std::fs::File::open(ledger).with_context(|| format!("cannot read {}", ledger.display()))?;
    let mut arrived = Vec::new();
    for line in std::io::BufReader::with_capacity(1 << 20, file).lines() {
        let line: Line = serde_json::from_str(&line?).context("the mock carrier's ledger")?;
        arrived.extend(Some(line.at_us).filter(|at_us| *at_us > from_us));
    }
    arrived.sort_unstable();
    Ok(busiest(&arrived))
}

fn busiest(arrived: &[i64]) -> u64 {
    let (mut first, mut most) = (0, 0);
    for (last, at_us) in arrived.iter().enumerate() {
        while at_us - arrived[first] >= 1_000_000 {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(at_us: i64, known_us: i64, due_ms: i64, closes_ms: i64) -> Sent {
        Sent { at_us, known_us, due_ms, closes_ms }
    }

    #[test]
    fn what_closes_later_and_went_before_is_counted() {
        let good = [sent(1, 0, 5, 10), sent(1, 0, 6, 20), sent(2, 0, 7, 20), sent(3, 0, 1, 30)];
        assert_eq!(sequence_of(&good, 0, 0, 0), Sequence { by_closing: 1.0, by_due: 1.0, overtaken_max: 0 });
        let bad = [sent(1, 0, 1, 30), sent(2, 0, 2, 30), sent(3, 0, 1, 10), sent(4, 0, 1, 30)];
        assert_eq!(sequence_of(&bad, 0, 0, 0), Sequence { by_closing: 0.75, by_due: 0.75, overtaken_max: 2 });
        assert_eq!(sequence_of(&bad, 0, 2, 0), Sequence { by_closing: 1.0, by_due: 1.0, overtaken_max: 2 });
        assert_eq!(sequence_of(&bad, 0, 1, 1), Sequence { by_closing: 0.75, by_due: 1.0, overtaken_max: 2 });
        assert_eq!(sequence_of(&bad, 2, 0, 0), Sequence { by_closing: 1.0, by_due: 1.0, overtaken_max: 0 });
        // Known only after the first had gone.
        let late = [sent(1, 0, 1, 30), sent(2, 1, 1, 10)];
        assert_eq!(sequence_of(&late, 0, 0, 0).by_closing, 1.0);
    }

    #[test]
    fn the_busiest_second_is_found() {
        assert_eq!(busiest(&[]), 0);
        assert_eq!(busiest(&[0, 10, 999_999, 1_000_000, 1_000_009, 5_000_000]), 4);
    }
}
