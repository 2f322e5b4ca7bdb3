#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use super::*;
use crate::mock::behaviour::{BalanceClass, BalanceRules};

const SECOND_US: u64 = 1_000_000;

struct Bench {
    path: PathBuf,
    repeat: Repeat,
}

impl Bench {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mock-books-{name}-{}.ndjson", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self { path, repeat: Repeat::Replay }
    }

    fn open(&self, behaviour: &str) -> Books {
        let rules =
            Rules { dialect: Dialect::Flat, currency: "EUR".to_owned(), repeat: self.repeat, seed: 11 };
        Books::open(&self.path, rules, Behaviour::from_json(behaviour.as_bytes()).unwrap()).unwrap()
    }

    /// The fields of the last ledger line: status, reason, reply.
    fn last(&self) -> [String; 3] {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        ["status", "reason", "reply"].map(|name| line[name].as_str().unwrap().to_owned())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn charge(books: &mut Books, key: &str, line: &str, amount: u64) -> Verdict {
    charge_at(books, key, line, amount, SECOND_US)
}

fn charge_at(books: &mut Books, key: &str, line: &str, amount: u64, at_us: u64) -> Verdict {
    let body =
        format!(r#"{{"msisdn":"{line}","ref":"{key}","amount":{amount},"currency":"EUR","text":"t"}}"#);
    let asked = Dialect::Flat.read(body.as_bytes());
    books.charge(&asked, true, at_us).unwrap()
}

fn charged(verdict: Verdict) -> bool {
    matches!(verdict.answer, Answer::Charged { .. })
}

#[test]
fn the_first_answer_is_remembered_and_other_money_is_a_mismatch() {
    let bench = Bench::new("first");
    let mut books = bench.open("{}");
    let first = charge(&mut books, "K1", "34600000001", 100);
    assert!(charged(first));
    assert_eq!(charge(&mut books, "K1", "34600000001", 100).answer, first.answer);
    assert_eq!(bench.last(), ["replayed", "", "sent"]);
    assert_eq!(charge(&mut books, "K1", "34600000001", 101).answer, Answer::KeyReused);
    assert_eq!(bench.last(), ["mismatch", "amount", "sent"]);
    assert_eq!(charge(&mut books, "K1", "34600000002", 100).answer, Answer::KeyReused);
    assert_eq!(bench.last(), ["mismatch", "line", "sent"]);
    assert_eq!(books.stats().applied_minor, 100);
    drop(books);
    let mut books = bench.open("{}");
    assert_eq!(charge(&mut books, "K1", "34600000001", 100).answer, first.answer);
    assert_eq!((books.stats().applied, books.stats().replayed, books.stats().mismatch), (1, 2, 2));
}

#[test]
fn a_fate_strikes_as_often_as_told_and_a_restart_does_not_forget() {
    for (fault, applied, delivery) in [
        ("silent_applied_ppm", true, Delivery::Silent),
        ("silent_not_applied_ppm", false, Delivery::Silent),
        ("reset_applied_ppm", true, Delivery::Reset),
        ("reset_not_applied_ppm", false, Delivery::Reset),
        ("throttle_ppm", false, Delivery::Sent),
        ("busy_ppm", false, Delivery::Sent),
    ] {
        let bench = Bench::new(fault);
        let behaviour = format!(r#"{{"{fault}":1000000,"fault_times":2}}"#);
        for life in 0..2 {
            let mut books = bench.open(&behaviour);
            let struck = charge(&mut books, "K1", "34600000001", 100);
            assert_eq!(struck.delivery, delivery, "{fault} life {life}");
            assert_eq!(books.stats().applied, u64::from(applied), "{fault} life {life}");
        }
        let mut books = bench.open(&behaviour);
        let third = charge(&mut books, "K1", "34600000001", 100);
        assert!(charged(third) && third.delivery == Delivery::Sent, "{fault}");
        assert_eq!(books.stats().applied, 1, "{fault}");
        let always = Behaviour { fault_times: 0, ..books.behaviour().clone() };
        books.behave(always, SECOND_US).unwrap();
        let again = charge(&mut books, "K2", "34600000001", 100);
        assert_eq!(
            (again.delivery, charge(&mut books, "K2", "34600000001", 100).delivery),
            (delivery, delivery)
        );
    }
}

#[test]
fn a_wrong_amount_is_said_again_but_only_the_asked_amount_is_taken() {
    let bench = Bench::new("wrong");
    let mut books = bench.open(r#"{"wrong_amount_ppm":1000000}"#);
    let said = Answer::Charged { txn: 1, said_minor: 101 };
    assert_eq!(charge(&mut books, "K1", "34600000001", 100).answer, said);
    assert_eq!(bench.last(), ["applied", "", "wrong_amount"]);
    drop(books);
    let mut books = bench.open("{}");
    assert_eq!(charge(&mut books, "K1", "34600000001", 100).answer, said);
    assert_eq!(bench.last(), ["replayed", "", "wrong_amount"]);
    assert_eq!(books.stats().applied_minor, 100);
}

#[test]
fn duplicates_are_told_as_such_whatever_the_first_answer_was() {
    let mut bench = Bench::new("duplicate");
    bench.repeat = Repeat::Duplicate;
    let mut books = bench.open(r#"{"max_amount_minor":100}"#);
    for amount in [100, 101] {
        let key = format!("K{amount}");
        charge(&mut books, &key, "34600000001", amount);
        assert_eq!(charge(&mut books, &key, "34600000001", amount).answer, Answer::Duplicate);
        assert_eq!(bench.last(), ["replayed", "duplicate", "sent"]);
    }
}

#[test]
fn balances_run_out_fill_up_and_survive_a_restart() {
    let bench = Bench::new("balance");
    let behaviour = Behaviour {
        balance: BalanceRules {
            classes: vec![BalanceClass { share_ppm: 0, min_minor: 250, max_minor: 250 }],
        },
        topup_minor: 40,
        topup_every_ms: 1_000,
        ..Behaviour::default()
    };
    let behaviour = serde_json::to_string(&behaviour).unwrap();
    let mut books = bench.open(&behaviour);
    let at = |second: u64| second * SECOND_US;
    let line = "34600000001";
    assert!(charged(charge_at(&mut books, "K1", line, 100, at(10))));
    assert!(charged(charge_at(&mut books, "K2", line, 100, at(10))));
    let refused = charge_at(&mut books, "K3", line, 100, at(10));
    assert_eq!(refused.answer, Answer::Refused(Refusal::NoFunds));
    assert_eq!(bench.last(), ["refused", "no_funds", "sent"]);
    drop(books);
    let mut books = bench.open(&behaviour);
    // One top-up: 50 + 40 is not yet enough. Two are. The refused key stays refused.
    assert!(!charged(charge_at(&mut books, "K4", line, 100, at(11))));
    assert!(charged(charge_at(&mut books, "K5", line, 100, at(12))));
    assert_eq!(charge_at(&mut books, "K3", line, 100, at(20)).answer, refused.answer);
}

#[test]
fn what_cannot_be_written_down_is_not_decided() {
    let bench = Bench::new("full");
    let mut books = bench.open("{}");
    charge(&mut books, "K1", "34600000001", 100);
    books.ledger.break_writes(&bench.path).unwrap();
    let body = br#"{"msisdn":"34600000001","ref":"K2","amount":100,"currency":"EUR"}"#;
    assert!(books.charge(&Dialect::Flat.read(body), true, SECOND_US).is_err());
    assert_eq!((books.stats().applied, books.stats().requests), (1, 1));
    drop(books);
    let mut books = bench.open("{}");
    assert_eq!(
        charge(&mut books, "K2", "34600000001", 100).answer,
        Answer::Charged { txn: 2, said_minor: 100 }
    );
}

#[test]
fn a_ledger_of_somebody_else_is_refused_with_its_line() {
    let bench = Bench::new("foreign");
    drop(bench.open("{}"));
    std::fs::write(&bench.path, "{\"seq\":1}\n").unwrap();
    let rules = Rules { dialect: Dialect::Flat, currency: "EUR".to_owned(), repeat: Repeat::Replay, seed: 1 };
    let Err(error) = Books::open(&bench.path, rules, Behaviour::default()) else { panic!("was accepted") };
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn delays_are_fixed_per_key_and_within_their_range() {
    let bench = Bench::new("delay");
    let mut books = bench.open(r#"{"latency_ms":50,"latency_jitter_ms":100}"#);
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..50 {
        let key = format!("K{n}");
        let first = charge(&mut books, &key, "34600000001", 1).delay;
        assert_eq!(charge(&mut books, &key, "34600000001", 1).delay, first);
        assert!((50..=150).contains(&first.as_millis()));
        seen.insert(first);
    }
    assert!(seen.len() > 20, "delays differ between keys");
}

#[test]
fn a_line_with_a_script_gets_its_words_and_then_what_all_get() {
    let bench = Bench::new("script");
    let behaviour =
        r#"{"scripts":{"34600000001":["no_funds",{"partial":20},"temporary","unknown","lost","accepted"]}}"#;
    let mut books = bench.open(behaviour);
    let line = "34600000001";
    assert_eq!(charge(&mut books, "k1", line, 50).answer, Answer::Refused(Refusal::NoFunds));
    assert_eq!(charge(&mut books, "k1", line, 50).answer, Answer::Refused(Refusal::NoFunds), "the same key");
    let part = charge(&mut books, "k2", line, 50);
    assert!(matches!(part.answer, Answer::Charged { said_minor: 20, .. }), "{part:?}");
    assert!(charged(charge(&mut books, "other", "34600000002", 50)), "nobody else hears it");
    assert_eq!(charge(&mut books, "k3", line, 50).answer, Answer::Busy);
    let lost = charge(&mut books, "k3", line, 50);
    assert!(charged(lost) && lost.delivery == Delivery::Reset, "{lost:?}");
    assert_eq!(bench.last()[0], "applied");
    let gone = charge(&mut books, "k5", line, 50);
    assert_eq!((gone.delivery, &bench.last()[0][..]), (Delivery::Reset, "not_processed"), "{gone:?}");
    let accepted = charge(&mut books, "k5", line, 50);
    assert!(matches!(accepted.answer, Answer::Pending { .. }) && accepted.message.is_none(), "{accepted:?}");
    assert_eq!(bench.last()[0], "applied");
    let well = charge(&mut books, "k4", line, 50);
    assert!(charged(well) && well.delivery == Delivery::Sent);
    let long = format!("{{\"scripts\":{{\"1\":[{}\"barred\"]}}}}", "\"limit\",".repeat(1_000));
    assert!(Behaviour::from_json(long.as_bytes()).is_err());
    assert!(Behaviour::from_json(br#"{"scripts":{"1":["dance"]}}"#).is_err());
}

#[test]
fn checks_of_a_balance_are_told_what_the_behaviour_says_of_the_line() {
    let bench = Bench::new("told");
    let mut books = bench.open(r#"{"told_balances":{"34600000001":7}}"#);
    let (line, other) = (Line::parse("34600000001").unwrap(), Line::parse("34600000002").unwrap());
    assert_eq!(books.balance_of(line, None, SECOND_US).0, 7);
    assert!(books.balance_of(other, None, SECOND_US).0 > 7);
    assert!(charged(charge(&mut books, "k1", "34600000001", 50)), "charges do not look at it");
}
