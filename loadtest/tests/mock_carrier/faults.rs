//! Silence, resets, garbage, delays, and subscribers who run out of money.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use crate::support::{Mock, camara, eventually, flat};

const LINE: &str = "34600000001";

#[test]
fn silence_is_ledgered_first_and_the_charge_can_be_asked_for_again() {
    for (fault, applied) in [("silent_applied_ppm", 1), ("silent_not_applied_ppm", 0)] {
        let mock = Mock::start(fault, "flat", "TND", &[]);
        mock.behave(&format!(r#"{{"{fault}":1000000}}"#));
        let body = flat("K1", "21620000001", "1500");
        let mut waiting = mock.connect();
        waiting.write("POST", "/v1/charge", "", body.as_bytes()).unwrap();
        eventually("the connection is held open", || mock.stats()["open_silent"] == 1);
        assert_eq!(mock.stats()["applied"], applied);
        mock.assert_last(
            if applied == 1 { "applied" } else { "not_processed" },
            if applied == 1 { "" } else { "lost" },
            "silent",
        );
        waiting.reader.get_ref().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let kind = waiting.read().unwrap_err().kind();
        assert!(
            matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{kind:?}: open, without a byte"
        );

        assert_eq!(mock.charge(&body).json()["result"], "OK");
        assert_eq!(mock.stats()["applied"], 1);
        drop(waiting);
        eventually("the wait is over", || mock.stats()["open_silent"] == 0);
    }
}

#[test]
fn a_reset_ends_the_connection_without_a_byte() {
    for (fault, applied) in [("reset_applied_ppm", 1), ("reset_not_applied_ppm", 0)] {
        let mock = Mock::start(fault, "camara", "EUR", &[]);
        mock.behave(&format!(r#"{{"{fault}":1000000}}"#));
        let body = camara("K1", LINE, "1.99");
        let error = mock.connect().charge("/payments", &body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(mock.last_line()["reply"], "reset");
        assert_eq!(mock.stats()["applied"], applied);
        assert_eq!(mock.charge(&body).status, 201);
        assert_eq!(mock.stats()["applied"], 1);
    }
}

#[test]
fn a_wrong_amount_is_said_and_the_right_one_is_ledgered() {
    let mock = Mock::start("wrong-amount", "camara", "EUR", &[]);
    mock.behave(r#"{"wrong_amount_ppm":1000000}"#);
    let answer = mock.charge(&camara("K1", LINE, "1.99"));
    assert!(answer.status == 201 && answer.body.contains("\"amount\":2.00,"), "{}", answer.body);
    mock.assert_last("applied", "", "wrong_amount");
    assert_eq!(mock.last_line()["amount"], 199);
}

#[test]
fn garbage_of_every_kind_hides_an_applied_charge() {
    let mock = Mock::start("garbage", "flat", "TND", &[]);
    for kind in ["html", "truncated", "unknown_code", "empty", "wrong_key"] {
        mock.behave(&format!(r#"{{"garbage_ppm":1000000,"garbage_kinds":["{kind}"]}}"#));
        let body = flat(kind, "21620000001", "1500");
        let garbage = mock.charge(&body).body;
        mock.assert_last("applied", "", "garbage");
        let truth = mock.charge(&body);
        assert_eq!((&truth.json()["result"], &truth.json()["ref"]), (&"OK".into(), &kind.into()));
        assert_ne!(garbage, truth.body);
        let looks_right = match kind {
            "html" => garbage.contains("<html>"),
            "truncated" => truth.body.starts_with(&garbage) && !garbage.is_empty(),
            "unknown_code" => garbage.contains("E77"),
            "empty" => garbage.is_empty(),
            _ => garbage.contains("\"ref\":\"not-wrong_key\"") && garbage.contains("OK"),
        };
        assert!(looks_right, "{kind}: {garbage}");
    }
}

#[test]
fn a_huge_answer_streams_until_the_caller_has_enough() {
    let mock = Mock::start("huge", "flat", "TND", &[]);
    mock.behave(r#"{"garbage_ppm":1000000,"garbage_kinds":["huge"]}"#);
    let mut patient = mock.connect();
    patient
        .write("POST", "/v1/charge", "connection: close\r\n", flat("K1", "21620000001", "5").as_bytes())
        .unwrap();
    let mut impatient = mock.connect();
    impatient.write("POST", "/v1/charge", "", flat("K2", "21620000001", "5").as_bytes()).unwrap();
    let mut some = vec![0; 1 << 20];
    impatient.reader.read_exact(&mut some).unwrap();
    drop(impatient);
    let read = std::io::copy(&mut patient.reader, &mut std::io::sink()).unwrap();
    assert!((64 << 20..65 << 20).contains(&read), "{read} bytes");
    assert_eq!(mock.stats()["applied"], 2);
}

#[test]
fn answers_wait_for_the_latency() {
    let mock = Mock::start("latency", "flat", "TND", &["--latency-ms", "80", "--latency-jitter-ms", "5"]);
    let begin = Instant::now();
    mock.charge(&flat("K1", "21620000001", "5"));
    assert!(begin.elapsed() >= Duration::from_millis(80));
    let read = mock.connect().send("GET", "/_mock/behaviour", "", b"").unwrap().json();
    assert_eq!((&read["latency_ms"], &read["latency_jitter_ms"]), (&80.into(), &5.into()));
}

#[test]
fn a_line_runs_out_of_money_and_tops_up() {
    let mock = Mock::start("topup", "flat", "TND", &[]);
    mock.behave(r#"{"balance":{"classes":[{"share_ppm":1000000,"min_minor":250,"max_minor":250}]}}"#);
    let charge = |key: &str| mock.charge(&flat(key, "21620000001", "100")).json()["code"].clone();
    assert!(charge("K1").is_null() && charge("K2").is_null());
    assert_eq!(charge("K3"), "NO_FUNDS");
    // Another line has its own money.
    assert_eq!(mock.charge(&flat("L1", "21620000002", "250")).json()["result"], "OK");
    mock.behave(r#"{"topup_minor":30,"topup_every_ms":40}"#);
    let mut tries = 0;
    eventually("the line has topped up", || {
        tries += 1;
        charge(&format!("T{tries}")).is_null()
    });
    assert_eq!(mock.stats()["applied_minor"], 250 + 300);
    assert_eq!(charge("K3"), "NO_FUNDS", "a decided key stays decided");
}

#[test]
fn the_same_key_meets_the_same_fate_in_every_life() {
    let fates = |name: &str| -> Vec<String> {
        let mock = Mock::start(name, "flat", "TND", &[]);
        mock.behave(r#"{"busy_ppm":300000,"garbage_ppm":300000,"garbage_kinds":["html","empty","unknown_code"],"barred_ppm":200000}"#);
        let mut client = mock.connect();
        (0..200)
            .map(|n| {
                client.charge("/v1/charge", &flat(&format!("K{n}"), &format!("2162{n:07}"), "5")).unwrap()
            })
            .map(|answer| answer.body)
            .collect()
    };
    let first = fates("fates-1");
    assert_eq!(first, fates("fates-2"));
    let count = |word: &str| first.iter().filter(|body| body.contains(word)).count();
    assert!(
        count("BUSY") > 30
            && count("OK") > 30
            && count("BARRED") > 5
            && count("E77") > 5
            && count("html") > 5
    );
}
