#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use billing_core::book::reader::{Problems, Source};
use billing_core::money::Money;
use billing_core::outcome::{Op, Outcome, Refusal};
use proptest::prelude::*;

use super::super::CarrierDefinition;
use crate::adapter::Alert;
use crate::file::{FileRow, FileSummary};
use crate::secrets::StandInSecrets;
use crate::test_support::attempt;

const MEDINA: &str = include_str!("../../../config/carriers/medina.toml");
const FILE: &str = r#"
[file]
rows = { header = "H", detail = "D", trailer = "T" }
covers = { from = 2, until = 3, as = "date" }
columns = { our_ref = 2, carrier_txn_id = 3, amount = 4, amount_as = "minor", currency = 5, msisdn = 6, status = 7, at = 8 }
status = [ { is = "OK", then = "charged" }, { is = "BACK", then = "refunded" }, { is = "NO", then = "declined:no_funds" } ]
trailer = { currency = 2, count = 3, sum = 4 }

[[file.example]]
text = "H,2026-12-01,2026-12-01\nT,TND,0,0\n"
rows = 0
complete = true
"#;

fn read(text: &str) -> Result<CarrierDefinition, String> {
    let mut problems = Problems::default();
    let source = Source { file: "medina.toml".into(), text: text.to_owned() };
    CarrierDefinition::read(&source, &StandInSecrets, &mut problems).ok_or_else(|| problems.to_string())
}

fn medina(change: impl Fn(String) -> String) -> CarrierDefinition {
    read(&change(format!("{MEDINA}{FILE}"))).unwrap()
}

fn plain() -> &'static CarrierDefinition {
    static PLAIN: std::sync::OnceLock<CarrierDefinition> = std::sync::OnceLock::new();
    PLAIN.get_or_init(|| medina(|text| text))
}

fn read_file(
    carrier: &CarrierDefinition,
    name: &str,
    bytes: &[u8],
    piece: usize,
) -> (FileSummary, Vec<FileRow>) {
    let mut rows = Vec::new();
    let mut reader = carrier.file_reader(name).unwrap();
    bytes.chunks(piece.max(1)).for_each(|piece| reader.feed(piece, &mut rows));
    let summary = reader.end(&mut rows);
    (summary, rows)
}

fn flaw(carrier: &CarrierDefinition, text: &str) -> String {
    let (summary, _) = read_file(carrier, "x.csv", text.as_bytes(), 7);
    summary.flaw.map_or_else(|| "none".to_owned(), |flaw| flaw.to_string())
}

const WHOLE: &str = "H,2026-12-01,2026-12-01\r\n\
D,k-1,f-1,500,TND,21620000001,OK,2026-12-01T08:30:00\r\n\
D,\"k,2\",f-2,250,TND,21620000002,NO,2026-12-01 23:59:59\r\n\
T,TND,2,750\r\n";

#[test]
fn a_whole_file_is_read_however_it_comes() {
    let carrier = plain();
    for piece in [1, 3, 64, 4_096] {
        let (summary, rows) = read_file(carrier, "x.csv", WHOLE.as_bytes(), piece);
        assert_eq!(summary.flaw, None);
        assert_eq!((summary.rows, summary.sums.get("TND")), (2, Some(&750)));
        let covers = summary.covers.unwrap();
        // Tunis is an hour ahead of UTC.
        assert_eq!(covers.from.to_string(), "2026-11-30T23:00:00Z");
        assert_eq!(covers.until.to_string(), "2026-12-01T23:00:00Z");
        assert_eq!((rows[0].line, rows[0].result), (2, Outcome::Charged { amount_minor: 500 }));
        assert_eq!((&*rows[1].key, rows[1].result), ("k,2", Outcome::Declined(Refusal::NoFunds)));
        assert!(!format!("{rows:?}").contains("21620000001"));
    }
    // Without a line end at the very end, and with a byte order mark.
    let (summary, _) = read_file(carrier, "x.csv", format!("\u{feff}{}", WHOLE.trim_end()).as_bytes(), 9);
    assert_eq!(summary.flaw, None);
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_line() {
    let carrier = plain();
    let row = "D,k-1,f-1,500,TND,21620000001,OK,2026-12-01T08:30:00";
    let file = |head: &str, rows: &str, tail: &str| format!("{head}\n{rows}\n{tail}\n");
    let head = "H,2026-12-01,2026-12-01";
    for (text, expected) in [
        (file(head, row, "T,TND,1,500"), "none"),
        (String::new(), "line 1: no trailer (T)"),
        (file(head, row, ""), "line 3: no trailer (T)"),
        (file(head, row, "T,TND,2,500"), "line 3: the trailer counts 2 rows, there are 1"),
        (
            file(head, row, "T,TND,1,501"),
            "line 3: the trailer's sum is 501 minor units, that of the rows 500",
        ),
        (file(head, row, "T,EUR,0,0"), "line 3: no trailer for TND"),
        (file(head, row, "T,TND,1,500\nT,TND,1,500"), "line 4: two trailers for TND"),
        (file(head, row, &format!("T,TND,1,500\n{row}")), "line 4: a row after the trailer"),
        (file("", row, "T,TND,1,500"), "line 2: it does not begin with a header"),
        (file(head, head, "T,TND,0,0"), "line 2: a header that is not the first line"),
        (file("H,2026-12-01,soon", row, "T,TND,1,500"), "line 1: the header does not say which time"),
        (file("H,2026-12-02,2026-12-01", row, "T,TND,1,500"), "line 1: the header does not say which time"),
        (file("H,2026-12-01,2027-12-01", row, "T,TND,1,500"), "line 1: the header does not say which time"),
        (
            file("H,-009000-01-01,-009000-01-02", row, "T,TND,1,500"),
            "line 1: the header does not say which time",
        ),
        (file("H,9999-12-01,9999-12-02", row, "T,TND,1,500"), "line 1: the header does not say which time"),
        (file("H,1999-12-31,1999-12-31", row, "T,TND,1,500"), "line 1: the header does not say which time"),
        (file(head, &format!("{row}\r{row}"), "T,TND,1,500"), "line 2: a carriage return inside the line"),
        (file(head, "X,1", "T,TND,0,0"), "line 2: it begins with \"X\""),
        (file(head, "21620000001,1", "T,TND,0,0"), "line 2: it begins with \"###########\""),
        (
            file(head, "D,,f-1,500,TND,21620000001,OK,2026-12-01T08:30:00", "T,TND,1,500"),
            "line 2: a row without its key",
        ),
        (
            file(head, "D,k-1,f-1,5.5,TND,21620000001,OK,2026-12-01T08:30:00", "T,TND,1,5"),
            "line 2: an amount that is none",
        ),
        (
            file(head, "D,k-1,f-1,-500,TND,21620000001,OK,2026-12-01T08:30:00", "T,TND,1,500"),
            "line 2: an amount that is none",
        ),
        (
            file(head, "D,k-1,f-1,0,TND,21620000001,OK,2026-12-01T08:30:00", "T,TND,1,0"),
            "line 2: money of no amount",
        ),
        (
            file(head, "D,k-1,f-1,500,tnd,21620000001,OK,2026-12-01T08:30:00", "T,TND,1,500"),
            "line 2: a currency that is none",
        ),
        (
            file(head, "D,k-1,f-1,500,TND,call me,OK,2026-12-01T08:30:00", "T,TND,1,500"),
            "line 2: a line that is none",
        ),
        (
            file(head, "D,k-1,f-1,500,TND,21620000001,OK,2026-12-02T00:00:00", "T,TND,1,500"),
            "line 2: a time that the file does not cover",
        ),
        (file(head, "D,k-1,f-1,500,TND,21620000001,OK,noon", "T,TND,1,500"), "line 2: a time that is none"),
        (file(head, "D,k-1,\"f-1,500", "T,TND,1,500"), "line 2: a row without its amount"),
        (file(head, &"x".repeat(5_000), "T,TND,0,0"), "line 2: longer than 4096 bytes"),
        (
            file(head, &format!("{row}\n{row}").replace("500", "9000000000000000000"), "T,TND,2,1"),
            "line 3: the sum is beyond",
        ),
    ] {
        let told = flaw(carrier, &text);
        assert!(told.starts_with(expected), "{told}\n  instead of {expected}\n{text}");
    }
    let latin = WHOLE.replace("k-1", "k\u{e9}1").chars().map(|c| c as u8).collect::<Vec<_>>();
    let (summary, _) = read_file(carrier, "x.csv", &latin, 11);
    assert_eq!(summary.flaw.unwrap().to_string(), "line 2: not UTF-8");
    let other = medina(|text| text.replace("[file]\n", "[file]\nencoding = \"latin-1\"\n"));
    assert_eq!(read_file(&other, "x.csv", &latin, 11).0.flaw, None);
}

#[test]
fn another_dialect_is_a_matter_of_its_table() {
    let carrier = medina(|text| {
        text.replace("H,2026-12-01,2026-12-01\\nT,TND,0,0\\n", "N;Key;Sum;Cur;Line;State\\nT;0;0.000\\n")
            .replace("rows = 0\n", "rows = 0\nname = \"day_20261201.csv\"\n")
            .replace("[file]\n", "[file]\ndelimiter = \";\"\nzone = \"Asia/Tokyo\"\n")
            .replace("header = \"H\"", "names = \"N\"")
            .replace("{ from = 2, until = 3, as = \"date\" }", "{ name = \"day_%Y%m%d.csv\" }")
            .replace(
                "columns = { our_ref = 2, carrier_txn_id = 3, amount = 4, amount_as = \"minor\", currency = 5, msisdn = 6, status = 7, at = 8 }",
                "columns = { our_ref = \"Key\", amount = \"Sum\", currency = \"Cur\", msisdn = \"Line\", msisdn_as = \"national\", status = \"State\" }",
            )
            .replace("trailer = { currency = 2, count = 3, sum = 4 }", "trailer = { count = 2, sum = 3 }")
    });
    let text = "N;State;Line;Cur;Sum;Key\nD;OK;20000001;TND;0.500;k-1\nT;1;0.5\n";
    let (summary, rows) = read_file(&carrier, "day_20261201.csv", text.as_bytes(), 5);
    assert_eq!(summary.flaw, None);
    assert_eq!(summary.covers.unwrap().from.to_string(), "2026-11-30T15:00:00Z");
    assert_eq!((rows[0].amount_minor, rows[0].msisdn.unwrap().digits()), (500, "21620000001"));
    let (summary, _) = read_file(&carrier, "day.csv", text.as_bytes(), 5);
    assert!(summary.flaw.unwrap().what.starts_with("its name does not say which day it covers"));
    let unnamed = text.split_once('\n').unwrap().1;
    let (summary, _) = read_file(&carrier, "day_20261201.csv", unnamed.as_bytes(), 5);
    assert_eq!(summary.flaw.unwrap().to_string(), "line 1: a row before the columns are named");
}

#[test]
fn an_hour_that_is_there_twice_is_not_covered_by_half_a_word() {
    let carrier = medina(|text| {
        text.replace("as = \"date\"", "as = \"local\"")
            .replace("H,2026-12-01,2026-12-01", "H,2026-12-01T00:00:00,2026-12-01T12:00:00")
            .replace("[file]\n", "[file]\nzone = \"Europe/Madrid\"\n")
    });
    // On 25 October 2026 02:00 to 03:00 is there twice in Madrid.
    let covers = |from: &str, until: &str| {
        let text = format!("H,{from},{until}\nT,TND,0,0\n");
        read_file(&carrier, "x", text.as_bytes(), 64).0.covers.unwrap()
    };
    let until = covers("2026-10-25T00:00:00", "2026-10-25T02:30:00").until;
    assert_eq!(until.to_string(), "2026-10-25T00:30:00Z", "the first of the two");
    let from = covers("2026-10-25T02:30:00", "2026-10-26T00:00:00").from;
    assert_eq!(from.to_string(), "2026-10-25T01:30:00Z", "the second of the two");
}

#[test]
fn a_row_is_held_against_the_attempt() {
    let carrier = plain();
    let asked = attempt(500, "TND", "21620000001");
    let row = |status: &str, amount: i64, currency: &str, line: &str| {
        let text = format!(
            "H,2026-12-01,2026-12-01\nD,{},f-1,{amount},{currency},{line},{status},2026-12-01T01:00:00\n",
            asked.our_ref
        );
        read_file(carrier, "x", text.as_bytes(), 64).1.remove(0)
    };
    let held = |row: FileRow| row.held_against(&asked, false);
    assert_eq!(row("OK", 500, "TND", "21620000001").our_ref, Some(asked.our_ref));
    assert_eq!(held(row("OK", 500, "TND", "21620000001")), Ok(Outcome::Charged { amount_minor: 500 }));
    assert_eq!(held(row("NO", 500, "TND", "21620000001")), Ok(Outcome::Declined(Refusal::NoFunds)));
    assert_eq!(held(row("OK", 501, "TND", "21620000001")), Err(Alert::WrongAmount));
    assert_eq!(held(row("OK", 500, "EUR", "21620000001")), Err(Alert::WrongCurrency));
    assert_eq!(held(row("OK", 500, "TND", "21620000002")), Err(Alert::WrongSubscriber));
    assert_eq!(held(row("BACK", 500, "TND", "21620000001")), Err(Alert::WrongOperation));
    let mut known = asked.clone();
    known.carrier_txn_id = Some("f-2".into());
    assert_eq!(row("OK", 500, "TND", "21620000001").held_against(&known, false), Err(Alert::WrongKey));
    let refund = crate::adapter::Attempt {
        op: Op::Refund,
        amount: Money::new(500, asked.amount.currency),
        ..asked.clone()
    };
    let given_back = row("BACK", 500, "TND", "21620000001").held_against(&refund, false);
    assert_eq!(given_back, Ok(Outcome::Refunded { amount_minor: 500 }));
}

#[test]
fn everything_that_is_wrong_with_the_table_is_told_at_its_place() {
    let told = |from: &str, to: &str| {
        let text = format!("{MEDINA}{FILE}");
        assert!(text.contains(from), "{from}");
        read(&text.replacen(from, to, 1)).map(|_| ()).unwrap_err()
    };
    for (from, to, expected) in [
        ("detail = \"D\"", "detail = \"H\"", "mark \"H\""),
        ("detail = \"D\", ", "", "missing key `file.rows.detail`"),
        ("rows = { header = \"H\", ", "rows = { ", "a column of a header that the file does not have"),
        ("from = 2, until = 3, as = \"date\"", "", "nothing says which time a file covers"),
        ("from = 2, until = 3, as = \"date\"", "name = \"x.csv\"", "name \"x.csv\""),
        ("until = 3, as = \"date\"", "as = \"local\"", "`covers.until` is missing"),
        ("our_ref = 2, ", "", "missing key `file.columns.our_ref`"),
        ("amount = 4", "amount = 1", "`file.columns.amount`"),
        ("then = \"refunded\"", "then = \"pending\"", "pending"),
        ("is = \"BACK\"", "is = \"OK\"", "\"OK\" stands twice"),
        ("count = 3, ", "", "missing key `file.trailer.count`"),
        (
            "T,TND,0,0\\n",
            "T,TND,1,0\\n",
            "an example that should be complete is not: line 2: the trailer counts 1",
        ),
        (
            "rows = 0\ncomplete = true",
            "rows = 3\ncomplete = true",
            "an example should have 3 rows, 0 were read",
        ),
        ("complete = true", "complete = false", "no example of a complete file"),
        ("[file]\n", "[file]\nzone = \"Asia/Atlantis\"\n", "Asia/Atlantis"),
        ("[file]\n", "[file]\ndelimeter = \";\"\n", "did you mean `delimiter`?"),
    ] {
        let problems = told(from, to);
        assert!(problems.contains(expected), "{problems}\n  instead of {expected}");
        assert!(problems.contains("medina.toml:"), "{problems}");
    }
    let proof = "\n[proof.file]\nabsence = \"not_applied\"\nsettle = \"26h\"\n";
    let problems = read(&format!("{MEDINA}{proof}")).map(|_| ()).unwrap_err();
    assert!(problems.contains("[proof.file] without [file]"), "{problems}");
    let both = read(&format!("{MEDINA}{FILE}{proof}")).unwrap();
    assert!(both.proof.file.is_some() && both.file_zone().is_some());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_pieces_make_no_difference(
        bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b','), Just(b'D'), Just(b'"'), any::<u8>()], 0..600),
        piece in 1_usize..40,
    ) {
        let carrier = plain();
        prop_assert_eq!(read_file(carrier, "x", &bytes, piece), read_file(carrier, "x", &bytes, 10_000));
    }

    #[test]
    fn a_file_cut_anywhere_is_never_complete(cut in 0_usize..WHOLE.len() - 2) {
        let (summary, _) = read_file(plain(), "x", &WHOLE.as_bytes()[..cut], 32);
        prop_assert!(summary.flaw.is_some(), "{}", &WHOLE[..cut]);
    }
}
