//! Reads the tables beside `[charge]`: giving back, two phases, inquiries, balance checks.

use std::sync::Arc;

use billing_core::book::reader::{Place, Problems, Table};
use billing_core::outcome::{Op, Refusal};

use super::For;
use super::callback::CallbackRules;
use super::operation::{Around, read_open_operation};
use crate::adapter::{BalanceCap, BalanceWhen, RefundCap, ReservationCap};
use crate::dialect::Operation;
use crate::dialect::rules::{Subject, Verdict};

/// Tables of requests beside `[charge]`, in the sequence in which they are read.
pub(super) const FURTHER_TABLES: [&str; 6] = ["refund", "reserve", "confirm", "cancel", "inquiry", "balance"];
const DAY_S: i64 = 86_400;

/// What a carrier offers besides a charge.
#[derive(Default)]
pub(super) struct Further {
    pub(super) spoken: Vec<(Arc<Operation>, For)>,
    /// Where the body of each of them stands.
    pub(super) places: Vec<Place>,
    pub(super) refund: Option<RefundCap>,
    pub(super) reservation: Option<ReservationCap>,
    pub(super) balance: Option<BalanceCap>,
    pub(super) callback: Option<CallbackRules>,
}

impl Further {
    pub(super) fn has(&self, what: For) -> bool {
        self.spoken.iter().any(|(_, known)| *known == what)
    }
}

/// Reads whichever of the tables are there.
pub(super) fn read_further(root: &mut Table<'_>, around: Around<'_>, problems: &mut Problems) -> Further {
    let mut further = Further::default();
    let purposes = [
        For::Op(Op::Refund),
        For::Op(Op::Reserve),
        For::Op(Op::Confirm),
        For::Op(Op::Cancel),
        For::Inquiry,
        For::Balance,
    ];
    let mut there = Vec::new();
    for (name, what) in FURTHER_TABLES.into_iter().zip(purposes) {
        let Some(mut table) = root.opt_table(name, problems) else { continue };
        there.push(name);
        match what {
            For::Op(Op::Refund) => {
                let amounts = [("full", RefundCap::Full), ("partial", RefundCap::Partial)];
                further.refund = table.one_of("amounts", &amounts, problems).map(|amounts| amounts.value);
            }
            For::Op(Op::Reserve) => further.reservation = read_expiry(&mut table, problems),
            For::Balance => further.balance = read_balance(&mut table, problems),
            _ => {}
        }
        let subject = match what {
            For::Op(op) => Subject::Request(op),
            For::Inquiry => Subject::Inquiry,
            For::Balance => Subject::Balance,
        };
        let operation = read_open_operation(&mut table, subject, around, problems);
        if let Some(operation) = &operation {
            check_expired(&table, what, operation, problems);
        }
        if let Some(operation) = operation {
            further.places.push(table.place_of(if operation.body.is_some() { "body" } else { "request" }));
            further.spoken.push((Arc::new(operation), what));
        }
        table.finish(problems);
    }
    let phases = ["reserve", "confirm", "cancel"];
    let missing: Vec<&str> = phases.into_iter().filter(|phase| !there.contains(phase)).collect();
    if (1..phases.len()).contains(&missing.len()) {
        let what = format!("two phases without [{}]", missing.join("] and ["));
        let help =
            "a reservation must be confirmed or given back: reserve, confirm and cancel belong together";
        root.problem_at(root.place(), what, help, problems);
    }
    further
}

fn read_expiry(table: &mut Table<'_>, problems: &mut Problems) -> Option<ReservationCap> {
    let expires = table.duration_s("expires", 1..=90 * DAY_S, problems);
    let ends = [("released", true), ("held", false)];
    let releases_itself = table.one_of("after_expiry", &ends, problems);
    Some(ReservationCap { expires_s: expires?.value as u32, releases_itself: releases_itself?.value })
}

fn read_balance(table: &mut Table<'_>, problems: &mut Problems) -> Option<BalanceCap> {
    let moments = [
        ("before", BalanceWhen::Before),
        ("after_refusal", BalanceWhen::AfterRefusal),
        ("never", BalanceWhen::Never),
    ];
    let when = table.one_of("when", &moments, problems);
    let valid_for = table.duration_ms("valid_for", 0..=3_600_000, problems);
    Some(BalanceCap { when: when?.value, valid_for_ms: u32::try_from(valid_for?.value).ok()? })
}

/// A confirm that came too late has to be told from an unknown one, or every expired reservation would block.
fn check_expired(table: &Table<'_>, what: For, operation: &Operation, problems: &mut Problems) {
    let expired = Verdict::Declined(Refusal::Expired);
    if what == For::Op(Op::Confirm) && !operation.replies.rules.iter().any(|rule| rule.then == expired) {
        let help = "add the carrier's answer to a confirm that comes after the reservation's end";
        table.problem("rules", "no rule leads to declined:expired", help, problems);
    }
}
