//! What is known of an unknown attempt, as the core wants it: who wrote last, and who may still write.

use billing_core::outcome::{Doubt, Op, Outcome};
use billing_core::resolve::{Covered, Facts, Inquiry, Proof, Repeat};
use billing_core::subscription::FLAG_QUARANTINED;
use jiff::{SignedDuration, Timestamp};
use storage::mutants::{Mutant, on};
use storage::pg::DueAsk;

/// What is known besides the row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Our own incarnation.
    pub(super) incarnation: i64,
    /// How long a fenced worker may believe in its lease, milliseconds.
    pub(super) lease_ttl_ms: i64,
    /// The first byte leaves at most so long after its intent, milliseconds.
    pub(super) send_max_age_ms: i64,
    /// From the first byte to giving up, milliseconds.
    pub(super) reply_timeout_ms: i64,
    /// The clock jumped at this instant: what was measured across it proves nothing.
    pub(super) trusted_since: Option<Timestamp>,
    /// A repeat would have the same body.
    pub(super) same_body: bool,
    /// Business time, milliseconds.
    pub(super) business_ms: i64,
}

/// The facts about an attempt as its row tells them, and what the carrier's files say of it ([`files::FilesKnown`]).
///
/// [`files::FilesKnown`]: super::files::FilesKnown
pub(super) fn of<'a>(
    due: &'a DueAsk,
    known: &Known,
    (files, named_elsewhere): (&'a [Covered], bool),
) -> Facts<'a> {
    let (last_write_at, may_still_write) = last_write(due, known);
    Facts {
        now: due.now,
        intent_at: due.intent_at,
        last_write_at: last_write_at.max(known.trusted_since.unwrap_or(Timestamp::MIN)),
        may_still_write,
        reply_timeout_ms: known.reply_timeout_ms,
        same_body: known.same_body,
        txn_id_known: due.carrier_txn_id.is_some(),
        seen_before: due.reason == Outcome::Duplicate.reason().0,
        files,
        named_elsewhere,
        // After a stop, what gives back or goes back is sent again all the same.
        withdrawn: due.no_repeat
            || matches!(due.planned.op, Op::Charge | Op::Reserve | Op::Confirm)
                && due.agreed_until_ms.is_some_and(|until_ms| until_ms <= known.business_ms),
        quarantined: due.flags & FLAG_QUARANTINED != 0,
        asks: &due.asks,
        seed: seed(due),
    }
}

/// The instant after which no write under this key can begin, and whether somebody may still make one. Who recorded the
/// attempt as unknown by itself was done with it; of a dead sender only its fence and its lease tell.
fn last_write(due: &DueAsk, known: &Known) -> (Timestamp, bool) {
    if on(Mutant::NotFoundWhileSenderLives) {
        return (due.since.max(due.last_write_at.unwrap_or(Timestamp::MIN)), false);
    }
    let (mut last, mut alive) = (due.since, false);
    let mut lost = |begun_at: Timestamp, writer: i64, fenced_at: Option<Timestamp>| {
        last = last.max(after(begun_at, known.send_max_age_ms));
        match fenced_at {
            Some(fenced_at) => last = last.max(after(fenced_at, known.lease_ttl_ms)),
            None => alive |= writer != known.incarnation,
        }
    };
    if due.reason == Outcome::Unknown(Doubt::SenderDied).reason().0 {
        lost(due.intent_at, due.sender, due.sender_fenced_at);
    }
    // A repeat that was begun and whose answer nobody kept.
    let unkept = usize::try_from(due.asked).is_ok_and(|asked| asked > due.asks.len());
    if let (true, Some(begun_at), Some(writer)) = (unkept, due.last_write_at, due.last_writer) {
        lost(begun_at, writer, due.writer_fenced_at);
    }
    // A repeat that the failover lost: whoever made it dies with it.
    if let Some(found_at) = due.failed_over_at {
        lost(found_at, due.sender, Some(found_at));
    }
    (last.max(due.last_write_at.unwrap_or(Timestamp::MIN)), alive)
}

fn after(at: Timestamp, ms: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_millis(ms.max(0))).unwrap_or(Timestamp::MAX)
}

fn seed(due: &DueAsk) -> u64 {
    let place = i64::from(due.key.period) << 10 | i64::from(due.key.attempt_no);
    (due.key.subscription_id ^ place.rotate_left(20)) as u64
}

/// What the carrier's file declares, every interval divided by `hurry`.
pub(super) fn proof_of(declared: &carriers::Proof, hurry: i64) -> Proof {
    let ms = |seconds: u32| i64::from(seconds) * 1_000 / hurry.max(1);
    Proof {
        repeat: declared
            .repeat
            .as_ref()
            .map(|repeat| Repeat { window_ms: ms(repeat.window_s), margin_ms: ms(repeat.margin_s) }),
        callback_ms: declared.callback.as_ref().map(|callback| ms(callback.deadline_s)),
        inquiry: declared.inquiry.as_ref().map(|inquiry| Inquiry {
            by_txn_id: inquiry.by == carriers::InquiryKey::CarrierTxnId,
            settle_ms: ms(inquiry.settle_s),
            agree: inquiry.agree,
            spacing_ms: ms(inquiry.spacing_s),
        }),
        file_settle_ms: declared.file.as_ref().map(|file| ms(file.settle_s)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use billing_core::period::Period;
    use billing_core::resolve::{Ask, AskKind, Finding};
    use billing_core::subscription::Planned;
    use storage::pg::AttemptKey;

    use super::*;

    const US: i64 = 7;
    const OTHER: i64 = 8;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + s).unwrap()
    }

    fn known() -> Known {
        Known {
            incarnation: US,
            lease_ttl_ms: 20_000,
            send_max_age_ms: 30_000,
            reply_timeout_ms: 8_000,
            trusted_since: None,
            same_body: true,
            business_ms: 1_000,
        }
    }

    fn due(reason: Outcome, sender: i64) -> DueAsk {
        let period = Period::from_number(20_000_000).unwrap();
        DueAsk {
            now: at(500),
            key: AttemptKey { subscription_id: 5, period: period.number(), attempt_no: 1 },
            planned: Planned {
                op: Op::Charge,
                period,
                attempt_no: 1,
                parent_no: 0,
                amount_minor: 500,
                round: 0,
                step: 0,
                not_before: at(0),
                not_after: at(9),
            },
            currency: 788,
            book_version: 1,
            business_at: at(0),
            digest: [0; 16],
            intent_at: at(0),
            since: at(9),
            reason: reason.reason().0,
            carrier_txn_id: None,
            sender,
            sender_fenced_at: None,
            last_write_at: None,
            last_writer: None,
            writer_fenced_at: None,
            failed_over_at: None,
            asked: 0,
            flags: 0,
            agreed_until_ms: None,
            no_repeat: false,
            asks: Vec::new(),
        }
    }

    #[test]
    fn nothing_collects_after_a_stop_and_nothing_assumed_is_repeated() {
        let withdrawn = |op, agreed_until_ms, no_repeat| {
            let mut due = due(Outcome::Unknown(Doubt::NoReply), US);
            due.planned.op = op;
            (due.agreed_until_ms, due.no_repeat) = (agreed_until_ms, no_repeat);
            of(&due, &known(), (&[], false)).withdrawn
        };
        assert!(!withdrawn(Op::Charge, None, false) && !withdrawn(Op::Charge, Some(1_001), false));
        for op in [Op::Charge, Op::Reserve, Op::Confirm] {
            assert!(withdrawn(op, Some(1_000), false), "{op:?}");
        }
        for op in [Op::Refund, Op::Cancel] {
            assert!(!withdrawn(op, Some(0), false), "money goes back after a stop: {op:?}");
            assert!(withdrawn(op, None, true), "whatever it is: {op:?}");
        }
    }

    fn written(due: &DueAsk) -> (Timestamp, bool) {
        let facts = of(due, &known(), (&[], false));
        (facts.last_write_at, facts.may_still_write)
    }

    #[test]
    fn who_recorded_it_as_unknown_was_done_with_it() {
        let lost = due(Outcome::Unknown(Doubt::NoReply), OTHER);
        assert_eq!(written(&lost), (at(9), false));
    }

    #[test]
    fn a_dead_sender_may_write_until_its_lease_is_over_and_a_living_one_longer() {
        let mut died = due(Outcome::Unknown(Doubt::SenderDied), OTHER);
        assert_eq!(written(&died), (at(30), true), "nobody fenced it");
        died.sender_fenced_at = Some(at(40));
        assert_eq!(written(&died), (at(60), false));
        died.sender_fenced_at = Some(at(1));
        assert_eq!(written(&died), (at(30), false), "its age guard lasts longer than its lease");
    }

    #[test]
    fn a_repeat_without_an_answer_is_a_write_that_may_be_on_its_way() {
        let mut asked = due(Outcome::Unknown(Doubt::NoReply), US);
        (asked.asked, asked.last_write_at, asked.last_writer) = (1, Some(at(100)), Some(OTHER));
        assert_eq!(written(&asked), (at(130), true));
        asked.writer_fenced_at = Some(at(120));
        assert_eq!(written(&asked), (at(140), false));
        let kept = Ask {
            kind: AskKind::Resend,
            asked_at: at(100),
            answered_at: at(101),
            finding: Finding::NoAnswer,
        };
        asked.asks.push(kept);
        assert_eq!(written(&asked), (at(100), false), "its answer was kept");
    }

    #[test]
    fn a_failover_may_have_lost_a_repeat_that_is_on_its_way() {
        let mut listed = due(Outcome::Unknown(Doubt::NoReply), US);
        listed.failed_over_at = Some(at(100));
        assert_eq!(written(&listed), (at(130), false));
    }

    #[test]
    fn a_clock_that_jumped_proves_nothing_about_the_time_before() {
        let lost = due(Outcome::Unknown(Doubt::NoReply), US);
        let known = Known { trusted_since: Some(at(400)), ..known() };
        assert_eq!(of(&lost, &known, (&[], false)).last_write_at, at(400));
    }
}
