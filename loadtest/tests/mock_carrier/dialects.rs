//! Each dialect: success, every refusal, repeats.

use serde_json::json;

use crate::support::{Mock, camara, flat, priced};

const LINE: &str = "34600000001";

#[test]
fn camara_success_names_key_line_and_exact_amount() {
    let mock = Mock::start("camara-ok", "camara", "EUR", &[]);
    let answer = mock.charge(&camara("K1", LINE, "1.990"));
    assert_eq!(answer.status, 201);
    assert!(answer.body.contains("\"amount\":1.99,"), "{}", answer.body);
    let said = answer.json();
    assert_eq!(said["paymentStatus"], "succeeded");
    assert_eq!(said["amountTransaction"]["clientCorrelator"], "K1");
    assert_eq!(said["amountTransaction"]["phoneNumber"], "+34600000001");
    let line = mock.last_line();
    let at_us = line["at_us"].as_u64().unwrap();
    assert!(at_us > 1_600_000_000_000_000, "microseconds since 1970");
    assert_eq!(
        line,
        json!({"seq":1,"at_us":at_us,"key":"K1","msisdn":LINE,"op":"charge","amount":199,"currency":"EUR",
            "status":"applied","reason":"","txn":said["paymentId"],"reply":"sent","text":"Ring \"tone\" é"})
    );
}

#[test]
fn flat_and_priced_success() {
    let mock = Mock::start("flat-ok", "flat", "TND", &[]);
    let answer = mock.charge(&flat("K1", "21620000001", "1500"));
    let txn = mock.last_line()["txn"].clone();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"result":"OK","txn":txn,"ref":"K1","amount":1500,"currency":"TND"}));

    let mock = Mock::start("priced-ok", "priced", "JPY", &[]);
    let answer = mock.charge(&priced("K1", "81900000001", "120"));
    let line = mock.last_line();
    assert_eq!(answer.status, 200);
    let price = json!({"value":"120","currency":"JPY"});
    assert_eq!(answer.json(), json!({"state":"CHARGED","id":line["txn"],"key":"K1","price":price}));
    assert_eq!((&line["amount"], &line["msisdn"]), (&json!(120), &json!("81900000001")));
}

/// Behaviours that lead to each refusal, with the ledger's words for it.
const REFUSALS: [(&str, &str, &str); 7] = [
    (r#"{"balance":{"classes":[{"share_ppm":0,"min_minor":0,"max_minor":0}]}}"#, "refused", "no_funds"),
    (r#"{"barred_ppm":1000000}"#, "refused", "barred"),
    (r#"{"unknown_ppm":1000000}"#, "refused", "unknown"),
    (r#"{"max_amount_minor":1}"#, "refused", "limit"),
    (r#"{"throttle_ppm":1000000}"#, "not_processed", "throttled"),
    (r#"{"busy_ppm":1000000}"#, "not_processed", "busy"),
    (r#"{"down":true}"#, "not_processed", "down"),
];

fn check_refusals(mock: &Mock, body: impl Fn(&str) -> String, expected: [(u16, &str); 7]) {
    for ((behaviour, status, reason), (http_status, word)) in REFUSALS.into_iter().zip(expected) {
        let put = mock.connect().send("PUT", "/_mock/behaviour", "", behaviour.as_bytes()).unwrap();
        assert_eq!(put.status, 200);
        let answer = mock.charge(&body(reason));
        assert_eq!(answer.status, http_status, "{reason}: {}", answer.body);
        assert!(answer.body.contains(word), "{reason}: {}", answer.body);
        answer.json();
        assert_eq!(answer.head.contains("retry-after: 1"), reason == "throttled");
        mock.assert_last(status, reason, "sent");
    }
    let put = mock.connect().send("PUT", "/_mock/behaviour", "", b"{}").unwrap();
    assert_eq!(put.status, 200);
    // Refusals are remembered, what was not processed is not.
    mock.charge(&body("no_funds"));
    mock.assert_last("replayed", "no_funds", "sent");
    for key in ["throttled", "busy", "down"] {
        mock.charge(&body(key));
        mock.assert_last("applied", "", "sent");
    }
    let stats = mock.stats();
    assert_eq!(stats["refused"], json!({"no_funds":1,"barred":1,"unknown":1,"limit":1}));
    assert_eq!(
        ["requests", "applied", "replayed", "not_processed"].map(|name| stats[name].as_u64()),
        [Some(11), Some(3), Some(1), Some(3)]
    );
}

#[test]
fn camara_refusals() {
    let mock = Mock::start("camara-no", "camara", "EUR", &[]);
    check_refusals(
        &mock,
        |key| camara(key, LINE, "1.99"),
        [
            (403, r#""code":"CARRIER_BILLING.PAYMENT_DENIED","message":"insufficient balance""#),
            (403, r#""code":"CARRIER_BILLING.PAYMENT_DENIED","message":"line barred""#),
            (404, "IDENTIFIER_NOT_FOUND"),
            (422, "CARRIER_BILLING.AMOUNT_THRESHOLD"),
            (429, "TOO_MANY_REQUESTS"),
            (503, "UNAVAILABLE"),
            (503, "UNAVAILABLE"),
        ],
    );
}

#[test]
fn flat_refusals() {
    let mock = Mock::start("flat-no", "flat", "TND", &[]);
    let words = ["NO_FUNDS", "BARRED", "UNKNOWN_MSISDN", "LIMIT", "BUSY", "BUSY", "BUSY"];
    check_refusals(&mock, |key| flat(key, "21620000001", "1500"), words.map(|word| (200, word)));
}

#[test]
fn priced_refusals_and_the_api_key() {
    let mock = Mock::start("priced-no", "priced", "JPY", &[]);
    check_refusals(
        &mock,
        |key| priced(key, "81900000001", "120"),
        [
            (402, "E01_BALANCE"),
            (402, "E02_BARRED"),
            (404, "E03_NO_LINE"),
            (402, "E04_LIMIT"),
            (503, "BUSY"),
            (503, "BUSY"),
            (503, "BUSY"),
        ],
    );
    let mock = Mock::start("priced-key", "priced", "JPY", &["--api-key", "sesame"]);
    let body = priced("K1", "81900000001", "120");
    for (header, status) in [("", 401), ("x-api-key: secret\r\n", 401), ("x-api-key: sesame\r\n", 200)] {
        let answer = mock.connect().send("POST", "/billing/charges", header, body.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
        if status == 401 {
            assert_eq!(answer.body, "{\"error\":\"bad_key\"}");
            mock.assert_last("rejected", "api_key", "sent");
        }
    }
}

#[test]
fn a_repeat_gets_the_first_answer_also_after_a_crash() {
    for (dialect, currency, body) in [
        ("camara", "EUR", camara("K1", LINE, "1.99")),
        ("flat", "TND", flat("K1", "21620000001", "1500")),
        ("priced", "JPY", priced("K1", "81900000001", "120")),
    ] {
        let mock = Mock::start(&format!("replay-{dialect}"), dialect, currency, &[]);
        let first = mock.charge(&body);
        assert_eq!(mock.charge(&body), first);
        let ledger = mock.kill();
        let mock = Mock::start_on(ledger, dialect, currency, &[]);
        assert_eq!(mock.charge(&body), first);
        mock.assert_last("replayed", "", "sent");
        let lines = mock.lines();
        assert_eq!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(lines.iter().all(|line| line["txn"] == lines[0]["txn"]));
        let stats = mock.stats();
        assert_eq!((&stats["applied"], &stats["replayed"]), (&json!(1), &json!(2)));
    }
}

#[test]
fn other_money_under_a_known_key_is_refused_as_a_mismatch() {
    for (dialect, currency, first, other, status, word) in [
        ("camara", "EUR", camara("K1", LINE, "1.99"), camara("K1", LINE, "2.99"), 409, "CONFLICT"),
        ("flat", "TND", flat("K1", "21620000001", "5"), flat("K1", "21620000002", "5"), 200, "REF_REUSED"),
        (
            "priced",
            "JPY",
            priced("K1", "81900000001", "5"),
            priced("K1", "81900000001", "6"),
            409,
            "KEY_REUSED",
        ),
    ] {
        let mock = Mock::start(&format!("mismatch-{dialect}"), dialect, currency, &[]);
        let charged = mock.charge(&first);
        let refused = mock.charge(&other);
        assert_eq!(refused.status, status);
        assert!(refused.body.contains(word), "{}", refused.body);
        mock.assert_last("mismatch", if dialect == "flat" { "line" } else { "amount" }, "sent");
        let currency_changed = first.replace(currency, "USD");
        assert!(mock.charge(&currency_changed).body.contains(word));
        assert_eq!(mock.charge(&first), charged);
        assert_eq!(mock.stats()["applied"], 1);
    }
}

#[test]
fn carriers_that_only_say_duplicate() {
    for (dialect, currency, body, status, word) in [
        ("camara", "EUR", camara("K1", LINE, "1.99"), 400, "clientCorrelator already exist"),
        ("flat", "TND", flat("K1", "21620000001", "5"), 200, "\"code\":\"DUPLICATE\",\"ref\":\"K1\""),
        ("priced", "JPY", priced("K1", "81900000001", "5"), 409, "{\"state\":\"DUPLICATE\",\"key\":\"K1\"}"),
    ] {
        let mock =
            Mock::start(&format!("duplicate-{dialect}"), dialect, currency, &["--repeat", "duplicate"]);
        mock.charge(&body);
        let again = mock.charge(&body);
        assert_eq!(again.status, status);
        assert!(again.body.contains(word), "{}", again.body);
        mock.assert_last("replayed", "duplicate", "sent");
        assert_eq!(mock.stats()["applied"], 1);
    }
}
