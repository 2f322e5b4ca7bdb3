#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use proptest::prelude::*;

use super::*;
use crate::outcome::{Doubt, Hindrance, Op, Refusal};

const MINUTE: i64 = 60_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

fn ms_of(instant: Timestamp) -> i64 {
    instant.as_millisecond() - 1_800_000_000_000
}

fn facts<'a>(now_ms: i64, asks: &'a [Ask]) -> Facts<'a> {
    Facts {
        now: at(now_ms),
        intent_at: at(0),
        last_write_at: at(1_000),
        may_still_write: false,
        reply_timeout_ms: 8_000,
        same_body: true,
        txn_id_known: false,
        seen_before: false,
        files: &[],
        named_elsewhere: false,
        withdrawn: false,
        quarantined: false,
        asks,
        seed: 7,
    }
}

fn ask(kind: AskKind, at_ms: i64, finding: Finding) -> Ask {
    Ask { kind, asked_at: at(at_ms), answered_at: at(at_ms + 10), finding }
}

const ASKED_BY_REF: Inquiry =
    Inquiry { by_txn_id: false, settle_ms: 10 * MINUTE, agree: 2, spacing_ms: MINUTE };

fn a() -> Proof {
    Proof { repeat: Some(Repeat { window_ms: 24 * 60 * MINUTE, margin_ms: 10 * MINUTE }), ..Proof::default() }
}

fn b() -> Proof {
    Proof { inquiry: Some(ASKED_BY_REF), ..Proof::default() }
}

#[test]
fn without_any_proof_people_look_at_it_after_ten_minutes() {
    let step = |now_ms| next_step(&Proof::default(), &Plan::STANDARD, &facts(now_ms, &[]));
    assert_eq!(step(2_000), Step::WaitUntil(at(601_000)));
    assert_eq!(step(601_000), Step::Review(Rule::REVIEW_NO_PROOF));
}

#[test]
fn repeats_come_at_growing_intervals_and_end_with_the_carriers_memory() {
    let mut asks = Vec::new();
    let mut seen = Vec::new();
    let mut now = 0;
    let end = loop {
        match next_step(&a(), &Plan::STANDARD, &facts(now, &asks)) {
            Step::Resend { at: then } if ms_of(then) > now => now = ms_of(then),
            Step::Resend { .. } => {
                seen.push(now);
                asks.push(ask(AskKind::Resend, now, Finding::NoAnswer));
            }
            other => break other,
        }
    };
    assert_eq!(end, Step::Review(Rule::REVIEW_EXHAUSTED));
    for (seen, expected) in seen.iter().zip([5_000, 30_000, 120_000, 600_000]) {
        let off = (seen - expected).abs();
        assert!(off <= expected / 10 + 50, "{seen} is not about {expected}");
    }
    assert!(seen.len() > 20, "it is repeated to for as long as the key is remembered: {}", seen.len());
    assert!(seen.iter().all(|at| *at < (24 * 60 - 10) * MINUTE), "{seen:?}");
}

#[test]
fn a_duplicate_is_asked_about_and_never_a_refusal() {
    let duplicate = read_finding(Op::Charge, 500, true, Heard::Repeated(Outcome::Duplicate));
    assert_eq!(duplicate, Finding::Duplicate);
    let asks = [ask(AskKind::Resend, 5_000, duplicate)];
    let both = Proof { inquiry: b().inquiry, ..a() };
    assert!(matches!(next_step(&both, &Plan::STANDARD, &facts(6_000, &asks)), Step::Inquire { .. }));
    // Nobody to ask: more repeats would bring more duplicates.
    let alone = next_step(&a(), &Plan::STANDARD, &facts(11 * MINUTE, &asks));
    assert_eq!(alone, Step::Review(Rule::REVIEW_DUPLICATE));
    // It knows the key and does not know it: two answers that cannot both be true.
    let late = 11 * MINUTE;
    let asks = [
        ask(AskKind::Resend, 5_000, Finding::Duplicate),
        ask(AskKind::Inquiry, late, Finding::NotFound),
        ask(AskKind::Inquiry, late + 2 * MINUTE, Finding::NotFound),
    ];
    let step = next_step(&both, &Plan::STANDARD, &facts(late + 3 * MINUTE, &asks));
    assert_eq!(step, Step::Review(Rule::REVIEW_CONTRADICTION));
}

#[test]
fn nothing_is_sent_again_after_a_stop() {
    let step = |proof: &Proof, now_ms, withdrawn| {
        next_step(proof, &Plan::STANDARD, &Facts { withdrawn, ..facts(now_ms, &[]) })
    };
    let both = Proof { inquiry: b().inquiry, ..a() };
    assert!(matches!(step(&both, 6_000, false), Step::Resend { .. }));
    assert!(matches!(step(&both, 6_000, true), Step::Inquire { .. }), "it is asked instead");
    assert_eq!(step(&a(), 11 * MINUTE, true), Step::Review(Rule::REVIEW_WITHDRAWN), "nobody to ask");
}

#[test]
fn not_found_counts_late_twice_and_apart() {
    let settled_ms = 1_000 + 8_000 + 10 * MINUTE;
    let step = |asks: &[Ask], change: fn(&mut Facts<'_>)| {
        let mut facts = facts(settled_ms + 10 * MINUTE, asks);
        change(&mut facts);
        next_step(&b(), &Plan::STANDARD, &facts)
    };
    let missing = |at_ms| ask(AskKind::Inquiry, at_ms, Finding::NotFound);
    let same = |_: &mut Facts<'_>| {};
    let absent = Step::Settle { outcome: Outcome::Absent, rule: Rule::RESOLVE_ABSENT };
    let (first, second) = (settled_ms + 1, settled_ms + 1 + MINUTE + 10);
    assert_eq!(step(&[missing(first), missing(second)], same), absent);
    // One of them in the millisecond before it begins to count.
    assert_ne!(step(&[missing(settled_ms), missing(second)], same), absent);
    assert_ne!(step(&[missing(first), missing(second - 1)], same), absent, "too close together");
    assert_ne!(step(&[missing(first)], same), absent, "one alone");
    let working = ask(AskKind::Inquiry, first + 20, Finding::StillWorking);
    assert_ne!(step(&[missing(first), working, missing(second)], same), absent, "it said otherwise between");
    let lost = ask(AskKind::Inquiry, first + 20, Finding::NoAnswer);
    assert_eq!(step(&[missing(first), lost, missing(second)], same), absent, "no answer is no answer");
    let alive = |facts: &mut Facts<'_>| facts.may_still_write = true;
    assert_ne!(step(&[missing(first), missing(second)], alive), absent, "a write can still come");
    // A later write under the key begins everything anew.
    let later = |facts: &mut Facts<'_>| facts.last_write_at = at(MINUTE);
    assert_ne!(step(&[missing(first), missing(second)], later), absent);
}

#[test]
fn an_inquiry_by_the_carriers_id_needs_that_id() {
    let by_id = Proof { inquiry: Some(Inquiry { by_txn_id: true, ..ASKED_BY_REF }), ..Proof::default() };
    let unknown = facts(11 * MINUTE, &[]);
    assert_eq!(next_step(&by_id, &Plan::STANDARD, &unknown), Step::Review(Rule::REVIEW_NO_KEY));
    let known = Facts { txn_id_known: true, ..unknown };
    assert!(matches!(next_step(&by_id, &Plan::STANDARD, &known), Step::Inquire { .. }));
}

#[test]
fn messages_are_waited_for_before_anybody_asks_and_files_after() {
    let all = Proof { callback_ms: Some(30 * MINUTE), file_settle_ms: Some(60 * MINUTE), ..b() };
    let step = |now_ms, asks: &[Ask]| next_step(&all, &Plan::STANDARD, &facts(now_ms, asks));
    assert_eq!(step(2_000, &[]), Step::WaitUntil(at(30 * MINUTE + 1_000)));
    assert!(matches!(step(31 * MINUTE, &[]), Step::Inquire { .. }));
    let filed = Proof { inquiry: None, callback_ms: None, ..all };
    let mut facts = facts(2 * 60 * MINUTE, &[]);
    assert!(matches!(next_step(&filed, &Plan::STANDARD, &facts), Step::WaitUntil(_)));
    let absent = Step::Settle { outcome: Outcome::Absent, rule: Rule::RESOLVE_FILE_ABSENT };
    // From a quarter of an hour before the intent to when absence counts, and without a gap.
    let settled = 61 * MINUTE + 9_000 - MINUTE;
    let span = |from: i64, until: i64| Covered { from: at(from), until: at(until) };
    for (files, expected) in [
        (vec![span(-15 * MINUTE, settled + 1)], true),
        (vec![span(30 * MINUTE, 90 * MINUTE), span(-60 * MINUTE, 30 * MINUTE)], true),
        (vec![span(-15 * MINUTE, settled)], false),
        (vec![span(-15 * MINUTE + 1, settled + 1)], false),
        (vec![span(-60 * MINUTE, 30 * MINUTE), span(30 * MINUTE + 1, 90 * MINUTE)], false),
    ] {
        let facts = Facts { files: &files, ..facts };
        assert_eq!(next_step(&filed, &Plan::STANDARD, &facts) == absent, expected, "{files:?}");
        assert_eq!(awaited_file(&filed, &Plan::STANDARD, &facts).is_none(), expected, "{files:?}");
    }
    let files = [span(-60 * MINUTE, 90 * MINUTE)];
    for (facts, why) in [
        (Facts { files: &files, named_elsewhere: true, ..facts }, "a file names it"),
        (Facts { files: &files, may_still_write: true, ..facts }, "a write may still come"),
        (Facts { files: &files, now: at(settled), ..facts }, "it is too early"),
        (Facts { files: &files, last_write_at: at(40 * MINUTE), ..facts }, "the last write is not covered"),
    ] {
        assert_ne!(next_step(&filed, &Plan::STANDARD, &facts), absent, "{why}");
    }
    let seen = Facts { files: &files, seen_before: true, ..facts };
    assert_eq!(next_step(&filed, &Plan::STANDARD, &seen), Step::Review(Rule::REVIEW_CONTRADICTION));
    let unnamed = Proof { file_settle_ms: None, ..filed };
    let facts_of_files = Facts { files: &files, ..facts };
    assert_eq!(next_step(&unnamed, &Plan::STANDARD, &facts_of_files), Step::Review(Rule::REVIEW_NO_PROOF));
    facts.now = at(200 * 60 * MINUTE);
    assert_eq!(next_step(&filed, &Plan::STANDARD, &facts), Step::Review(Rule::REVIEW_FILE_MISSING));
}

#[test]
fn a_repeat_settles_only_what_the_carrier_decided() {
    let repeated = |outcome| read_finding(Op::Charge, 500, true, Heard::Repeated(outcome));
    for outcome in Outcome::all(500) {
        let settles = matches!(outcome, Outcome::Charged { .. } | Outcome::Declined(_));
        assert_eq!(matches!(repeated(outcome), Finding::Found(_)), settles, "{outcome:?}");
    }
    let listed = Outcome::Temporary { why: Hindrance::Busy, listed: true, after_ms: None };
    assert_eq!(repeated(listed), Finding::NoAnswer, "what it refuses now it may have processed before");
    assert_eq!(repeated(Outcome::Charged { amount_minor: 499 }), Finding::Contradicts);
    assert_eq!(
        repeated(Outcome::Partial { amount_minor: 499 }),
        Finding::Found(Outcome::Partial { amount_minor: 499 })
    );
}

#[test]
fn an_inquiry_settles_only_this_very_request() {
    let told = |op, told| read_finding(op, 500, true, Heard::Inquired(told));
    let charged = Outcome::Charged { amount_minor: 500 };
    assert_eq!(told(Op::Charge, Told::Found(charged)), Finding::Found(charged));
    assert_eq!(told(Op::Refund, Told::Found(charged)), Finding::Contradicts);
    let other = Outcome::Charged { amount_minor: 499 };
    assert_eq!(told(Op::Charge, Told::Found(other)), Finding::Contradicts);
    assert_eq!(told(Op::Charge, Told::NoAnswer(Doubt::Contradictory)), Finding::Contradicts);
    assert_eq!(told(Op::Charge, Told::NoAnswer(Doubt::NoReply)), Finding::NoAnswer);
    let unwritten = read_finding(Op::Charge, 500, false, Heard::Inquired(Told::NotFound));
    assert_eq!(unwritten, Finding::NotSent);
    let contradicts = [1, 2].map(|minute| ask(AskKind::Inquiry, minute * MINUTE, Finding::Contradicts));
    let step = next_step(&b(), &Plan::STANDARD, &facts(3 * MINUTE, &contradicts));
    assert_eq!(step, Step::Review(Rule::REVIEW_CONTRADICTION));
}

#[test]
fn what_two_answers_say_differently_is_for_people() {
    let found = |at_ms, outcome| ask(AskKind::Inquiry, at_ms, Finding::Found(outcome));
    let charged = Outcome::Charged { amount_minor: 500 };
    let step = |asks: &[Ask]| next_step(&b(), &Plan::STANDARD, &facts(3 * MINUTE, asks));
    let settled = Step::Settle { outcome: charged, rule: Rule::RESOLVE_FOUND };
    assert_eq!(step(&[found(20_000, charged), found(30_000, charged)]), settled);
    let declined = Outcome::Declined(Refusal::NoFunds);
    assert_eq!(
        step(&[found(20_000, charged), found(30_000, declined)]),
        Step::Review(Rule::REVIEW_CONTRADICTION)
    );
}

fn proofs() -> impl Strategy<Value = Proof> {
    let repeat = proptest::option::of((2..2_000_i64, 0..60_i64).prop_map(|(window, margin)| Repeat {
        window_ms: window * MINUTE,
        margin_ms: margin.min(window - 1) * MINUTE,
    }));
    let inquiry = proptest::option::of((any::<bool>(), 1..120_i64, 2..5_u8, 1..20_i64).prop_map(
        |(by_txn_id, settle, agree, spacing)| Inquiry {
            by_txn_id,
            settle_ms: settle * MINUTE,
            agree,
            spacing_ms: spacing * MINUTE,
        },
    ));
    let late = || proptest::option::of((1..3_000_i64).prop_map(|minutes| minutes * MINUTE));
    (repeat, late(), inquiry, late()).prop_map(|(repeat, callback_ms, inquiry, file_settle_ms)| Proof {
        repeat,
        callback_ms,
        inquiry,
        file_settle_ms,
    })
}

fn findings() -> impl Strategy<Value = Vec<Finding>> {
    let one = prop_oneof![
        4 => Just(Finding::NoAnswer),
        4 => Just(Finding::NotFound),
        1 => Just(Finding::StillWorking),
        1 => Just(Finding::NotSent),
        1 => Just(Finding::Contradicts),
        1 => Just(Finding::Duplicate),
        1 => Just(Finding::Found(Outcome::Charged { amount_minor: 500 })),
        1 => Just(Finding::Found(Outcome::Declined(Refusal::NoFunds))),
    ];
    proptest::collection::vec(one, 1..40)
}

/// What an engine that obeys would live through: its steps with their instants, and how it ended.
fn lived(proof: &Proof, script: &[Finding], seed: u64, flags: (bool, bool, bool)) -> (Vec<Ask>, Step, i64) {
    let (mut asks, mut now, mut written): (Vec<Ask>, i64, i64) = (Vec::new(), 2_000, 1_000);
    for _ in 0..10_000 {
        let facts = Facts {
            last_write_at: at(written),
            seed,
            may_still_write: flags.0,
            txn_id_known: flags.1,
            same_body: flags.2,
            ..facts(now, &asks)
        };
        let (kind, then) = match next_step(proof, &Plan::STANDARD, &facts) {
            Step::Resend { at } => (AskKind::Resend, at),
            Step::Inquire { at } => (AskKind::Inquiry, at),
            Step::WaitUntil(then) => {
                assert!(ms_of(then) > now, "it waits for the past");
                now = ms_of(then);
                continue;
            }
            end => return (asks, end, now),
        };
        if ms_of(then) > now {
            now = ms_of(then);
            continue;
        }
        let finding = match (kind, script[asks.len() % script.len()]) {
            (AskKind::Resend, Finding::NotFound) => Finding::NoAnswer,
            (AskKind::Inquiry, Finding::Duplicate) => Finding::NoAnswer,
            (_, finding) => finding,
        };
        asks.push(ask(kind, now, finding));
        if kind == AskKind::Resend && finding != Finding::NotSent {
            written = now + 10;
        }
        now += 20;
    }
    panic!("it never ends: {proof:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn it_ends_settles_by_proof_alone_and_stays_within_the_window(
        proof in proofs(), script in findings(), seed in any::<u64>(), flags in any::<(bool, bool, bool)>(),
    ) {
        let (asks, end, took_ms) = lived(&proof, &script, seed, flags);
        prop_assert!(took_ms < 20 * 24 * 60 * MINUTE, "{took_ms} ms");
        let resends: Vec<i64> =
            asks.iter().filter(|ask| ask.kind == AskKind::Resend).map(|ask| ms_of(ask.asked_at)).collect();
        match proof.repeat {
            Some(repeat) => prop_assert!(resends.iter().all(|at| *at < repeat.window_ms - repeat.margin_ms)),
            None => prop_assert!(resends.is_empty()),
        }
        prop_assert!(flags.2 || resends.is_empty(), "another body");
        let duplicate = asks.iter().position(|ask| ask.finding == Finding::Duplicate);
        if let Some(place) = duplicate {
            prop_assert!(asks[place + 1..].iter().all(|ask| ask.kind == AskKind::Inquiry));
        }
        match end {
            Step::Settle { outcome: Outcome::Absent, rule } => {
                prop_assert_eq!(rule, Rule::RESOLVE_ABSENT);
                prop_assert!(!flags.0, "a write could still come");
                prop_assert!(duplicate.is_none());
                // Counted again, from the list of what was said: the last written byte, then late answers, apart.
                let inquiry = proof.inquiry.unwrap();
                let written = asks.iter().rev()
                    .find(|ask| ask.kind == AskKind::Resend && ask.finding != Finding::NotSent)
                    .map_or(1_000, |ask| ms_of(ask.answered_at));
                let counts_from = written + 8_000 + inquiry.settle_ms;
                let mut told: Vec<i64> = Vec::new();
                for ask in asks.iter().rev() {
                    match ask.finding {
                        Finding::NotFound if ms_of(ask.asked_at) > counts_from => told.push(ms_of(ask.asked_at)),
                        Finding::NotFound | Finding::NoAnswer | Finding::NotSent => {}
                        _ => break,
                    }
                }
                prop_assert!(told.len() >= usize::from(inquiry.agree));
                let apart = told.windows(2).filter(|pair| pair[0] - pair[1] >= inquiry.spacing_ms).count();
                prop_assert!(apart + 1 >= usize::from(inquiry.agree), "{told:?}");
            }
            Step::Settle { outcome, .. } => {
                prop_assert!(asks.iter().any(|ask| ask.finding == Finding::Found(outcome)));
            }
            Step::Review(rule) => {
                let (id, words) = (rule.id(), rule.sentence());
                prop_assert!(id.starts_with("review.") && words.len() > 20, "{} {}", id, words);
            }
            other => prop_assert!(false, "{other:?} is no end"),
        }
    }

    #[test]
    fn the_same_facts_give_the_same_step(proof in proofs(), script in findings(), seed in any::<u64>()) {
        let once = lived(&proof, &script, seed, (false, true, true));
        prop_assert_eq!(once, lived(&proof, &script, seed, (false, true, true)));
    }
}
