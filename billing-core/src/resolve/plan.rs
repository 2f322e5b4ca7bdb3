//! When the carrier is asked: data, in milliseconds of machine time, with jitter that only the seed decides.

const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600 * SECOND_MS;

/// The intervals of the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// From the intent to the first repeat, and from each to the next.
    pub resends_ms: [i64; 4],
    /// From the last write to the first question, and from each to the next.
    pub inquiries_ms: [i64; 4],
    /// Later intervals double up to this.
    pub gap_max_ms: i64,
    /// Questions at most.
    pub inquiries_max: usize,
    /// So long after "not found" began to count nobody asks any more.
    pub patience_ms: i64,
    /// How often it is looked whether a file has come.
    pub file_look_ms: i64,
    /// So far a carrier's clock may be behind ours: its files must cover that much before the intent, too.
    pub file_slack_ms: i64,
    /// So long after absence began to count nobody waits for a file any more.
    pub file_patience_ms: i64,
    /// From the last write to the people, where the carrier can prove nothing: late answers of our own get so long.
    pub review_after_ms: i64,
    /// So many answers that contradict the request, and people look at it.
    pub contradictions_max: usize,
}

impl Plan {
    /// 5 s, 30 s, 2 min, 10 min; asked for three days at most.
    pub const STANDARD: Self = Self {
        resends_ms: [5 * SECOND_MS, 25 * SECOND_MS, 90 * SECOND_MS, 480 * SECOND_MS],
        inquiries_ms: [10 * SECOND_MS, 50 * SECOND_MS, 240 * SECOND_MS, 600 * SECOND_MS],
        gap_max_ms: HOUR_MS,
        inquiries_max: 100,
        patience_ms: 72 * HOUR_MS,
        file_look_ms: HOUR_MS / 12,
        file_slack_ms: HOUR_MS / 4,
        file_patience_ms: 72 * HOUR_MS,
        review_after_ms: 600 * SECOND_MS,
        contradictions_max: 2,
    };

    /// The same with every interval divided: for clocks that are scaled, never for real money.
    #[must_use]
    pub fn hurried(self, by: i64) -> Self {
        let by = by.max(1);
        let shorter = |ms: i64| (ms / by).max(1);
        Self {
            resends_ms: self.resends_ms.map(shorter),
            inquiries_ms: self.inquiries_ms.map(shorter),
            gap_max_ms: shorter(self.gap_max_ms),
            patience_ms: shorter(self.patience_ms),
            file_look_ms: shorter(self.file_look_ms),
            file_slack_ms: shorter(self.file_slack_ms),
            file_patience_ms: shorter(self.file_patience_ms),
            review_after_ms: shorter(self.review_after_ms),
            ..self
        }
    }

    /// From what came before to the next repeat; `None`: no more. A carrier that offers nothing else is repeated to for
    /// as long as it remembers the key.
    pub(super) fn resend_gap_ms(&self, done: usize, alone: bool) -> Option<i64> {
        match self.resends_ms.get(done) {
            Some(gap_ms) => Some(*gap_ms),
            None => alone.then(|| self.grown(self.resends_ms[3], done - 3)),
        }
    }

    pub(super) fn inquiry_gap_ms(&self, asked: usize) -> i64 {
        match self.inquiries_ms.get(asked) {
            Some(gap_ms) => *gap_ms,
            None => self.grown(self.inquiries_ms[3], asked - 3),
        }
    }

    fn grown(&self, gap_ms: i64, doublings: usize) -> i64 {
        let factor = 1_i64 << doublings.min(20);
        gap_ms.saturating_mul(factor).min(self.gap_max_ms.max(gap_ms))
    }

    /// Between nine and eleven tenths of an interval.
    pub(super) fn jittered(&self, gap_ms: i64, seed: u64, asks: usize) -> i64 {
        let tenth = gap_ms / 10;
        gap_ms - tenth + part_of(2 * tenth, seed, asks)
    }

    /// Up to a tenth of an interval that may only grow.
    pub(super) fn late_ms(&self, spacing_ms: i64, seed: u64, asks: usize) -> i64 {
        1 + part_of(spacing_ms / 10, seed, asks)
    }
}

/// Between 0 and `whole`, the same for the same seed and number of asks.
fn part_of(whole: i64, seed: u64, asks: usize) -> i64 {
    // splitmix64: spreads neighbouring seeds.
    let mut x = seed.wrapping_add((asks as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    let span = u64::try_from(whole.max(0)).unwrap_or(0).saturating_add(1);
    i64::try_from(x % span).unwrap_or(0)
}
