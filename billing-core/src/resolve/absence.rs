//! When "not found" counts: late enough, often enough, far enough apart, with nothing else said in between.

use super::{Ask, Facts, Finding, Inquiry, settles};

/// How many answers "not found" count: each was asked for after the time to settle, and `spacing` after the one before
/// had been kept; they count from the last answer on that said something else. An answer that never came says nothing,
/// and interrupts nothing.
#[must_use]
pub fn counted_not_found(inquiry: &Inquiry, facts: &Facts<'_>) -> usize {
    let settled_at = settles(facts, inquiry.settle_ms);
    let mut counted = 0;
    let mut before: Option<&Ask> = None;
    for ask in facts.asks {
        match ask.finding {
            Finding::NotFound if ask.asked_at > settled_at => {
                let far = before.is_none_or(|before| {
                    let apart =
                        ask.asked_at.as_millisecond().saturating_sub(before.answered_at.as_millisecond());
                    apart >= inquiry.spacing_ms
                });
                if far {
                    counted += 1;
                    before = Some(ask);
                }
            }
            Finding::NotFound | Finding::NoAnswer | Finding::NotSent => {}
            Finding::StillWorking | Finding::Duplicate | Finding::Contradicts | Finding::Found(_) => {
                (counted, before) = (0, None);
            }
        }
    }
    counted
}
