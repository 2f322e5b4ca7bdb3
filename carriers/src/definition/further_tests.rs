//! What the shipped definitions offer besides charges, and wrong tables for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::adapter::{
    Balance, BalanceCap, BalanceWhen, Exchange, Finding, Inquired, RefundCap, ReservationCap,
};
use crate::dialect::replies::{Answer, Reading};
use crate::dialect::template::BuildError;
use crate::http::{Prepared, Target};
use crate::secrets::StandInSecrets;
use crate::test_support::attempt;
use billing_core::outcome::{Doubt, Fault, Hindrance, NotSentProof, Outcome, Refusal};
use http::HeaderMap;

const ALFA: &str = include_str!("../../../config/carriers/alfa.toml");
const MEDINA: &str = include_str!("../../../config/carriers/medina.toml");
const HOSHI: &str = include_str!("../../../config/carriers/hoshi.toml");

fn read(id: &str, text: &str) -> Result<CarrierDefinition, String> {
    let mut problems = Problems::default();
    let source = Source { file: format!("{id}.toml"), text: text.to_owned() };
    CarrierDefinition::read(&source, &StandInSecrets, &mut problems).ok_or_else(|| problems.to_string())
}

fn follow_up(op: Op, kind: ExchangeKind) -> Attempt {
    let first = attempt(120, "JPY", "819000000001");
    Attempt { op, kind, parent_ref: Some(first.our_ref), parent_txn_id: Some("c-1".into()), ..first }
}

fn request(definition: &CarrierDefinition, attempt: &Attempt) -> Result<(String, String), BuildError> {
    let target = Target::parse(&definition.link.base, false, false).unwrap();
    let operation = definition.operation(For::of(attempt)).unwrap();
    let mut body = Vec::new();
    let request =
        Prepared::new(operation, &target, &definition.auth).request(operation, attempt, &mut body)?;
    Ok((format!("{} {}", request.method(), request.uri()), String::from_utf8(body).unwrap()))
}

fn answered(definition: &CarrierDefinition, attempt: &Attempt, status: u16, body: &str) -> Reading {
    let headers = HeaderMap::new();
    let answer = Answer { status, headers: &headers, body: body.as_bytes(), at: attempt.intent_at };
    definition.operation(For::of(attempt)).unwrap().replies.read(answer, attempt).for_kind(attempt.kind)
}

#[test]
fn the_shipped_carriers_offer_what_suits_each() {
    let [alfa, medina, hoshi] =
        [("alfa", ALFA), ("medina", MEDINA), ("hoshi", HOSHI)].map(|(id, text)| read(id, text).unwrap());
    assert_eq!(alfa.caps.ops, [Op::Charge, Op::Refund]);
    assert_eq!((alfa.caps.refund, alfa.caps.exchange), (Some(RefundCap::Partial), Exchange::Reply));
    assert_eq!(alfa.proof.means(), [Means::Repeat, Means::Inquiry, Means::People]);
    assert_eq!((medina.caps.refund, medina.caps.reservation), (Some(RefundCap::Full), None));
    let balance = BalanceCap { when: BalanceWhen::AfterRefusal, valid_for_ms: 60_000 };
    assert_eq!((medina.caps.balance, medina.proof.means()), (Some(balance), vec![Means::People]));
    assert_eq!(hoshi.caps.ops, [Op::Charge, Op::Refund, Op::Reserve, Op::Confirm, Op::Cancel]);
    assert_eq!(hoshi.caps.reservation, Some(ReservationCap { expires_s: 900, releases_itself: true }));
    assert_eq!((hoshi.caps.exchange, hoshi.caps.partial), (Exchange::Callback, true));
    assert_eq!(hoshi.proof.means(), [Means::Callback, Means::Inquiry, Means::File, Means::People]);
    assert_eq!(hoshi.proof.file, Some(FileCap { settle_s: 26 * 3_600 }));
}

#[test]
fn a_follow_up_points_at_its_parent_or_is_not_made() {
    let hoshi = read("hoshi", HOSHI).unwrap();
    let confirm = follow_up(Op::Confirm, ExchangeKind::Send);
    let key = confirm.our_ref;
    let body = format!(
        r#"{{"key":"{key}","parent":"{key}","msisdn":"819000000001","amount":"120","currency":"JPY"}}"#
    );
    assert_eq!(request(&hoshi, &confirm), Ok(("POST /billing/charges/confirmations".to_owned(), body)));
    let inquiry = follow_up(Op::Confirm, ExchangeKind::Inquiry);
    assert_eq!(request(&hoshi, &inquiry), Ok((format!("GET /billing/charges/status/{key}"), String::new())));
    for op in [Op::Confirm, Op::Cancel, Op::Refund] {
        let orphan = Attempt { parent_ref: None, ..follow_up(op, ExchangeKind::Send) };
        assert_eq!(request(&hoshi, &orphan), Err(BuildError::Empty), "{op:?}");
    }
    let alfa = read("alfa", ALFA).unwrap();
    let refund =
        Attempt { op: Op::Refund, parent_ref: confirm.parent_ref, ..attempt(50, "EUR", "34600000001") };
    for id in [None, Some("".into())] {
        let unnamed = Attempt { parent_txn_id: id, ..refund.clone() };
        assert_eq!(request(&alfa, &unnamed), Err(BuildError::Empty));
    }
    let hostile = Attempt { parent_txn_id: Some("a\",\"amount\":0,\"x\":\"".into()), ..refund };
    let (_, body) = request(&alfa, &hostile).unwrap();
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (value["amount"].to_string(), &value["parent_id"]),
        ("0.5".into(), &"a\",\"amount\":0,\"x\":\"".into())
    );
}

#[test]
fn a_resend_is_the_same_bytes_and_settles_only_what_was_decided() {
    let alfa = read("alfa", ALFA).unwrap();
    let first = attempt(199, "EUR", "34600000001");
    let again = Attempt { kind: ExchangeKind::Resend, ..first.clone() };
    assert_eq!(request(&alfa, &first), request(&alfa, &again));
    let busy = r#"{"code":"UNAVAILABLE"}"#;
    let temporary = |listed| Outcome::Temporary { why: Hindrance::Busy, listed, after_ms: None };
    assert_eq!(answered(&alfa, &first, 503, busy).outcome, temporary(true));
    assert_eq!(answered(&alfa, &again, 503, busy).outcome, temporary(false));
    let bad = answered(&alfa, &again, 400, r#"{"code":"INVALID_ARGUMENT"}"#).outcome;
    assert_eq!(bad, Outcome::Fault { what: Fault::BadRequest, listed: false });
    let funds = r#"{"code":"CARRIER_BILLING.PAYMENT_DENIED","message":"low balance"}"#;
    assert_eq!(answered(&alfa, &again, 403, funds).outcome, Outcome::Declined(Refusal::NoFunds));
    // Whatever the answer: a second send proves nothing about the first.
    for outcome in Outcome::all(5) {
        let moved = Reading::unanswered(outcome, None).for_kind(ExchangeKind::Resend).outcome.moved();
        let undecided = matches!(
            outcome,
            Outcome::NotSent(_) | Outcome::Temporary { .. } | Outcome::Fault { .. } | Outcome::NeedsConsent
        );
        let expected = if undecided { billing_core::outcome::Moved::Unknown } else { outcome.moved() };
        assert_eq!(moved, expected, "{outcome:?}");
    }
}

#[test]
fn an_inquiry_finds_or_leaves_unknown() {
    let hoshi = read("hoshi", HOSHI).unwrap();
    let ask = |op, status, body: &str| {
        let attempt = follow_up(op, ExchangeKind::Inquiry);
        let key = attempt.our_ref;
        let body = body.replace("KEY", &key.to_string());
        let read = answered(&hoshi, &attempt, status, &body);
        let Some(Finding::Inquiry(inquired)) = read.finding else { panic!("{read:?}") };
        let found = matches!(inquired, Inquired::Found(_));
        assert_eq!(found, !matches!(read.outcome, Outcome::Unknown(_)));
        inquired
    };
    let told = |state: &str, amount: &str| {
        format!(r#"{{"state":"{state}","key":"KEY","amount":"{amount}","currency":"JPY"}}"#)
    };
    let charged = Inquired::Found(Outcome::Charged { amount_minor: 120 });
    assert_eq!(ask(Op::Charge, 200, &told("CHARGED", "120")), charged);
    assert_eq!(ask(Op::Confirm, 200, &told("CHARGED", "120")), charged);
    assert_eq!(
        ask(Op::Charge, 200, &told("CHARGED", "60")),
        Inquired::Found(Outcome::Partial { amount_minor: 60 })
    );
    assert_eq!(ask(Op::Reserve, 200, &told("RESERVED", "120")), Inquired::Found(Outcome::Reserved));
    assert_eq!(ask(Op::Cancel, 200, &told("RELEASED", "120")), Inquired::Found(Outcome::Released));
    let funds = r#"{"state":"REFUSED","reason":"no_funds","key":"KEY"}"#;
    assert_eq!(ask(Op::Charge, 200, funds), Inquired::Found(Outcome::Declined(Refusal::NoFunds)));
    assert_eq!(ask(Op::Charge, 404, r#"{"state":"NOT_FOUND","key":"KEY"}"#), Inquired::NotFound);
    assert_eq!(ask(Op::Charge, 200, r#"{"state":"WORKING","key":"KEY"}"#), Inquired::StillWorking);
    for (op, status, body) in [
        (Op::Refund, 200, told("CHARGED", "120")),
        (Op::Charge, 200, told("CHARGED", "121")),
        (Op::Charge, 200, told("CHARGED", "120").replace("KEY", "other")),
        (Op::Charge, 404, r#"{"state":"NOT_FOUND","key":"other"}"#.to_owned()),
        (Op::Charge, 404, "<html>".to_owned()),
        (Op::Charge, 404, "{}".to_owned()),
        (Op::Charge, 503, r#"{"state":"BUSY"}"#.to_owned()),
    ] {
        assert_eq!(ask(op, status, &body), Inquired::NoAnswer, "{op:?} {body}");
    }
    let lost = Reading::unanswered(Outcome::NotSent(NotSentProof::Connect), None);
    let lost = lost.for_kind(ExchangeKind::Inquiry);
    assert_eq!(lost.finding, Some(Finding::Inquiry(Inquired::NoAnswer)));
    assert_eq!(lost.outcome, Outcome::Unknown(Doubt::NoReply));
}

#[test]
fn a_balance_is_advice_about_this_line() {
    let medina = read("medina", MEDINA).unwrap();
    let ask = |status, body: &str| {
        let attempt = Attempt { kind: ExchangeKind::Balance, ..attempt(1_500, "TND", "21620000001") };
        let read = answered(&medina, &attempt, status, body);
        assert!(matches!(read.outcome, Outcome::Unknown(_)), "a balance says nothing about the attempt");
        read.finding
    };
    let told = |balance: &str| format!(r#"{{"msisdn":"21620000001","balance":{balance},"currency":"TND"}}"#);
    assert_eq!(ask(200, &told("0")), Some(Finding::Balance(Balance::Amount(0))));
    assert_eq!(ask(200, &told("1499")), Some(Finding::Balance(Balance::Amount(1_499))));
    let unknown = Some(Finding::Balance(Balance::Unknown));
    for (status, body) in [
        (200, told("-5")),
        (200, told("1.5")),
        (200, told("1").replace("21620000001", "21620000002")),
        (200, told("1").replace("TND", "EUR")),
        (500, told("1")),
        (200, "<html>".to_owned()),
    ] {
        assert_eq!(ask(status, &body), unknown, "{body}");
    }
    // The other form of answer: yes or no.
    let yes_no = MEDINA
        .replace(
            "rules = [ { status = 200, at = \"/balance\", present = true, then = \"amount\" } ]",
            "rules = [ { status = 200, at = \"/enough\", is = \"true\", then = \"enough\" }, { status = 200, at = \"/enough\", is = \"false\", then = \"too_low\" } ]",
        )
        .replace("\"balance\":2500", "\"enough\":true")
        .replace("tells = \"2.500\"\nexpect = \"amount\"", "expect = \"enough\"");
    let medina = read("medina", &yes_no).unwrap();
    let attempt = Attempt { kind: ExchangeKind::Balance, ..attempt(1_500, "TND", "21620000001") };
    for (word, expected) in
        [("true", Balance::Enough), ("false", Balance::TooLow), ("null", Balance::Unknown)]
    {
        let body = format!(r#"{{"msisdn":"21620000001","enough":{word},"currency":"TND"}}"#);
        assert_eq!(answered(&medina, &attempt, 200, &body).finding, Some(Finding::Balance(expected)));
    }
}

/// The problems of a shipped file with one text replaced; the place is that of `at`.
fn check_problem(id: &str, text: &str, from: &str, to: &str, at: &str, expected: &str) {
    assert!(text.contains(from), "{from}");
    let text = text.replacen(from, to, 1);
    let offset = text.find(at).unwrap_or_else(|| panic!("{at} is not in the text"));
    let line = text[..offset].matches('\n').count() + 1;
    let column = offset - text[..offset].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let expected = format!("{id}.toml:{line}:{column}: {expected}");
    let problems = read(id, &text).err().unwrap_or_default();
    assert!(problems.lines().any(|line| line == expected), "expected\n{expected}\nfound\n{problems}");
}

#[test]
fn wrong_tables_are_refused_with_their_place() {
    let alfa = |from, to, at, expected| check_problem("alfa", ALFA, from, to, at, expected);
    let hoshi = |from, to, at, expected| check_problem("hoshi", HOSHI, from, to, at, expected);
    let late = "\"not found\" would count after 27 s, at least 28 s are needed; a request of a dead worker may be on \
                its way until its lease (20 s) and the reply timeout have passed";
    // 60 s is the least that the key takes; a longer reply timeout raises it.
    let slow = ALFA.replace("reply_timeout = \"8s\"", "reply_timeout = \"50s\"");
    let settle = "settle = \"10m\"";
    check_problem(
        "alfa",
        &slow,
        settle,
        "settle = \"69s\"",
        "\"69s\"",
        &late.replace("27 s", "69 s").replace("28 s", "70 s"),
    );
    alfa(
        "amounts = \"partial\" ",
        "amounts = \"some\" ",
        "\"some\"",
        "`refund.amounts` is \"some\"; one of \"full\", \"partial\"",
    );
    alfa(
        "then = \"refunded\"",
        "then = \"charged\"",
        "\"charged\" },\n  { status = 403, at = \"/reason\", is = \"no_parent\"",
        "`refund.rules[0].then` is \"charged\"; one of \"pending\", \"duplicate\", \"declined:no_funds\", \"declined:barred\", \"declined:unknown_subscriber\", \"declined:limit\", \"declined:limit_day\", \"declined:limit_week\", \"declined:limit_month\", \"declined:limit_too_soon\", \"declined:subscriber_refused\", \"declined:not_allowed\", \"declined:expired\", \"temporary:throttled\", \"temporary:busy\", \"temporary:down\", \"fault:bad_request\", \"fault:bad_credential\", \"fault:bad_price\", \"unknown\", \"refunded\"",
    );
    alfa(
        "{ status = 404, at = \"/state\", is = \"NOT_FOUND\", then = \"not_found\" }",
        "{ status = 404, then = \"not_found\" }",
        "\"not_found\" }",
        "`not_found` on a status alone; any proxy can say that: add a condition on the body",
    );
    hoshi(
        "expires = \"15m\"",
        "expires = \"0s\"",
        "\"0s\"",
        "`reserve.expires` is \"0s\"; write a duration from 1s to 90d",
    );
    hoshi(
        "auth = { method = \"hmac_sha256\", header = \"x-hoshi-signature\"",
        "auth = { method = \"hmac_sha256\", header = \"x hoshi\"",
        "\"x hoshi\"",
        "not the name of a header; such as \"x-signature\"",
    );
}

#[test]
fn what_is_declared_must_be_whole() {
    let problems = |id: &str, text: String| read(id, &text).err().unwrap_or_default();
    let without = |text: &str, from: &str, to: &str| {
        let start = text.find(from).unwrap();
        let end = start + text[start..].find(to).unwrap();
        format!("{}{}", &text[..start], &text[end..])
    };
    for (id, text, expected) in [
        ("hoshi", without(HOSHI, "[cancel]", "[refund]"), "two phases without [cancel]"),
        ("hoshi", without(HOSHI, "[inquiry]", "[proof.inquiry]"), "[proof.inquiry] without [inquiry]"),
        (
            "hoshi",
            without(HOSHI, "[proof.inquiry]", "# The carrier's own"),
            "[inquiry] without [proof.inquiry]",
        ),
        (
            "hoshi",
            without(HOSHI, "[callback]", "[[example]]"),
            "carrier.exchange is \"callback\" without [callback]",
        ),
        (
            "hoshi",
            HOSHI.replacen("exchange = \"callback\"", "", 1),
            "[callback] of a carrier that answers in its replies",
        ),
        (
            "hoshi",
            HOSHI.replace(
                "\"/reason\", is = \"expired\", then = \"declined:expired\"",
                "\"/reason\", is = \"late\", then = \"declined:limit\"",
            ),
            "no rule leads to declined:expired",
        ),
        (
            "hoshi",
            HOSHI.replace(", amount = \"/amount\", currency = \"/currency\", msisdn", ", msisdn"),
            "money would be believed without its amount",
        ),
        (
            "hoshi",
            HOSHI.replace("keys = { our_ref = \"/key\", carrier_txn_id = \"/charge\",", "keys = {"),
            "nothing says which attempt a callback is about",
        ),
        (
            "alfa",
            ALFA.replace("\"parent\":\"${parent.our_ref}\",\"parent_id\":\"${parent.carrier_txn_id}\",", ""),
            "the request does not point at an earlier attempt",
        ),
        (
            "alfa",
            ALFA.replace("\"referenceCode\":\"${our_ref}\"", "\"referenceCode\":\"${parent.our_ref}\""),
            "nothing for ${parent...} to point at",
        ),
        (
            "alfa",
            ALFA.replace("\"referenceCode\":\"${our_ref}\"", "\"referenceCode\":\"${carrier_txn_id}\""),
            "${carrier_txn_id} is not known yet",
        ),
        (
            "alfa",
            ALFA.replace("by = \"our_ref\"", "by = \"carrier_txn_id\""),
            "the request does not hold ${carrier_txn_id}",
        ),
        (
            "alfa",
            ALFA.replace("expect = \"not_found\"", "expect = \"still_working\""),
            "no example for inquiry is expected to be not_found",
        ),
        ("medina", MEDINA.replace("amount = \"/balance\"", ""), "`amount` without its place"),
        ("medina", MEDINA.replace("tells = \"2.500\"", ""), "`amount` without the amount"),
        (
            "medina",
            MEDINA.replace("tells = \"2.500\"", "tells = \"2500\""),
            "this answer is read as another amount, the example expects amount (it is read as 2500 minor units)",
        ),
    ] {
        let told = problems(id, text);
        assert!(told.contains(expected), "expected {expected}\nfound {told}");
    }
}
