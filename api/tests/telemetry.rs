//! Metrics of a whole process, and what a log line may hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use api::telemetry::{LogFormat, TelemetryError, init_tracing, install_metrics, log_to};
use billing_core::ids::{AttemptId, ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::money::{Currency, Money};
use billing_core::outcome::Op;
use billing_core::period::Period;
use carriers::{Attempt, ExchangeKind, Msisdn};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `log` says to a log of this format.
fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let dispatch = log_to(format, filter, move || writer.clone(), false).unwrap();
    tracing::dispatcher::with_default(&dispatch, log);
    String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
}

fn attempt(msisdn: Msisdn) -> Attempt {
    let period = Period::starting(jiff::civil::date(2026, 11, 21), 360).unwrap();
    let charge = ChargeId { subscription: SubscriptionId(0x1000_0000_0007), period };
    Attempt {
        ticket: 7,
        id: AttemptId { charge, attempt_no: 1 },
        our_ref: OurRef::new(RefSeed(0x1234_5678_9abc), period, 1).unwrap(),
        op: Op::Charge,
        msisdn,
        amount: Money::new(199, Currency::from_code("EUR").unwrap()),
        text: "Daily horoscope".into(),
        intent_at: jiff::Timestamp::from_second(1_795_255_200).unwrap(),
        kind: ExchangeKind::Send,
        carrier_txn_id: None,
        parent_ref: None,
        parent_txn_id: None,
    }
}

/// Runs of four digits of a number, other than those its mask shows: enough to recognise it by.
fn traces_of(digits: &str) -> impl Iterator<Item = &str> {
    (0..=digits.len() - 4).map(move |at| &digits[at..at + 4])
}

#[test]
fn no_line_of_a_log_shows_a_number() {
    let digits = "34698741369";
    let msisdn = Msisdn::parse(digits).unwrap();
    let attempt = attempt(msisdn);
    for format in [LogFormat::Human, LogFormat::Json] {
        let line = logged(format, "trace", || {
            let span = tracing::info_span!("sending", ?attempt, line = ?msisdn);
            let _inside = span.enter();
            tracing::error!(?attempt, ?msisdn, "refused {attempt:?} {:?} {:#?}", msisdn, Some(&attempt));
        });
        assert!(line.contains("+34…369") && line.contains("Daily horoscope"), "{line}");
        for trace in traces_of(digits) {
            assert!(!line.contains(trace), "{trace} in {line}");
        }
        let bytes = format!("{:?}", digits.as_bytes());
        assert!(!line.contains(bytes.trim_matches(['[', ']'])), "as bytes in {line}");
    }
}

#[test]
fn json_lines_are_objects_and_filters_hold() {
    let lines = logged(LogFormat::Json, "warn,telemetry::loud=debug", || {
        tracing::info!("held back");
        tracing::debug!(target: "telemetry::loud", slot = 3, "line\nfeed \"quoted\"");
        tracing::warn!(carrier = "medina", "breaker opened");
    });
    let objects: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2, "{lines}");
    assert_eq!(objects[0]["message"], "line\nfeed \"quoted\"");
    assert_eq!(objects[0]["slot"], 3);
    assert_eq!((&objects[1]["level"], &objects[1]["carrier"]), (&"WARN".into(), &"medina".into()));
}

#[test]
fn a_filter_that_cannot_be_read_is_refused() {
    let refused = init_tracing(LogFormat::Human, "scheduler=loudly");
    assert!(matches!(refused, Err(TelemetryError::Filter { .. })), "{refused:?}");
}

#[test]
fn metrics_are_installed_once_and_inside_a_runtime() {
    assert!(matches!(install_metrics(), Err(TelemetryError::NoRuntime)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let handle = install_metrics().unwrap();
    metrics::counter!("tollbook_recorded_total").increment(5);
    let text = handle.render();
    assert!(
        text.contains("# HELP tollbook_recorded_total ") && text.contains("tollbook_recorded_total 5"),
        "{text}"
    );
    assert!(matches!(install_metrics(), Err(TelemetryError::Metrics(_))));
}
