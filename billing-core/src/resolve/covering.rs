//! When absence from a carrier's files counts: complete files cover the whole time in which the attempt may have reached
//! its books, without a gap, and none of its files names the attempt.

use jiff::{SignedDuration, Timestamp};

use super::{Facts, Plan, Proof, settles};

/// What a complete file covers, machine time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// The first instant.
    pub from: Timestamp,
    /// The first instant that it does not cover any more.
    pub until: Timestamp,
}

/// The first instant from `from` to `to`, both included, that no file covers; `None`: they cover all of it. A span that
/// ends before it begins is covered by nothing.
#[must_use]
pub fn first_gap(files: &[Covered], from: Timestamp, to: Timestamp) -> Option<Timestamp> {
    let mut open = from;
    while open <= to {
        // The one that reaches furthest: each round ends later, so there are at most as many rounds as files.
        let reaches = files.iter().filter(|file| file.from <= open && file.until > open);
        match reaches.map(|file| file.until).max() {
            Some(until) => open = until,
            None => return Some(open),
        }
    }
    (to < from).then_some(from)
}

/// The first instant about which a file is still wanted; `None` when nothing is, or when the carrier declares no files.
/// From a little before the intent on, because the carrier's clock may be behind ours, to when absence counts.
#[must_use]
pub fn awaited_file(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> Option<Timestamp> {
    let settled_at = settles(facts, proof.file_settle_ms?);
    let slack = SignedDuration::from_millis(plan.file_slack_ms.max(0));
    let from = facts.intent_at.checked_sub(slack).unwrap_or(Timestamp::MIN);
    first_gap(facts.files, from, settled_at)
}

/// The carrier's files prove that it was not applied.
pub(super) fn absent_from_files(proof: &Proof, plan: &Plan, facts: &Facts<'_>) -> bool {
    let settled_at = proof.file_settle_ms.map(|ms| settles(facts, ms));
    settled_at.is_some_and(|settled_at| facts.now > settled_at)
        && !facts.named_elsewhere
        && !facts.may_still_write
        && awaited_file(proof, plan, facts).is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + s).unwrap()
    }

    fn file(from: i64, until: i64) -> Covered {
        Covered { from: at(from), until: at(until) }
    }

    #[test]
    fn files_cover_what_they_cover_together() {
        assert_eq!(first_gap(&[], at(0), at(0)), Some(at(0)));
        assert_eq!(first_gap(&[file(0, 10)], at(0), at(9)), None);
        assert_eq!(first_gap(&[file(0, 10)], at(0), at(10)), Some(at(10)), "its end is not in it");
        assert_eq!(first_gap(&[file(10, 20), file(0, 10)], at(0), at(19)), None, "in any sequence");
        assert_eq!(
            first_gap(&[file(11, 20), file(0, 10)], at(0), at(19)),
            Some(at(10)),
            "a second is missing"
        );
        assert_eq!(first_gap(&[file(0, 5), file(2, 8), file(1, 3)], at(0), at(7)), None);
        assert_eq!(first_gap(&[file(5, 2)], at(3), at(3)), Some(at(3)), "one that ends before it begins");
        assert_eq!(
            first_gap(&[file(0, 100)], at(5), at(4)),
            Some(at(5)),
            "a span that ends before it begins"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_covered_that_no_file_holds(
            spans in prop::collection::vec((0_i64..60, 0_i64..60), 0..8), from in 0_i64..60, length in 0_i64..60,
        ) {
            let files: Vec<Covered> = spans.iter().map(|(from, until)| file(*from, *until)).collect();
            let gap = first_gap(&files, at(from), at(from + length));
            // Second by second, the slow way: all bounds are whole seconds.
            let held = |s: i64| spans.iter().any(|(from, until)| (*from..*until).contains(&s));
            let expected = (from..=from + length).find(|s| !held(*s)).map(at);
            prop_assert_eq!(gap, expected);
        }
    }
}
