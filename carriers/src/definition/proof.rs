//! Reads `[proof]`: what the carrier can prove about attempts whose answer was lost. Left out, each line has the
//! worst value.

use billing_core::book::reader::{Place, Problems, Source, Spanned, Table};

use super::{CallbackCap, FileCap, InquiryCap, InquiryKey, Proof, RepeatCap};
use crate::adapter::Exchange;

const DAY_S: i64 = 86_400;
/// How long a worker may hold its lease after it was last seen: a request of a dead one can leave that late.
const LEASE_TTL_S: u32 = 20;

/// `[proof]` as it stands; echoes are resolved by the operations.
#[derive(Default)]
pub(super) struct ProofText {
    pub(super) not_processed: Vec<u16>,
    pub(super) pre_processing: Vec<u16>,
    pub(super) echo: EchoText,
    pub(super) caps: Proof,
    inquiry_settle: Option<Spanned<i64>>,
    file_settle: Option<Spanned<i64>>,
}

/// Pointers to what the carrier repeats.
#[derive(Default, Clone)]
pub(super) struct EchoText {
    pub(super) our_ref: Option<Spanned<String>>,
    pub(super) amount: Option<Spanned<String>>,
    pub(super) amount_is_minor: bool,
    pub(super) currency: Option<Spanned<String>>,
    pub(super) msisdn: Option<Spanned<String>>,
}

/// Reads a table `echo`.
pub(super) fn read_echo(mut echo: Table<'_>, problems: &mut Problems) -> EchoText {
    let read = EchoText {
        our_ref: echo.opt_str("our_ref", problems),
        amount: echo.opt_str("amount", problems),
        amount_is_minor: amount_is_minor(&mut echo, problems),
        currency: echo.opt_str("currency", problems),
        msisdn: echo.opt_str("msisdn", problems),
    };
    echo.finish(problems);
    read
}

/// `amount_as`: `true` for whole minor units.
pub(super) fn amount_is_minor(table: &mut Table<'_>, problems: &mut Problems) -> bool {
    let form = table.opt_one_of("amount_as", &[("decimal", false), ("minor", true)], problems);
    form.is_some_and(|minor| minor.value)
}

pub(super) fn read_proof(mut table: Table<'_>, problems: &mut Problems) -> Option<ProofText> {
    // A status below 400 says that something was processed.
    let mut statuses = |key: &str| {
        let list = table.opt_int_list(key, 400..=599, 100, problems);
        list.map_or_else(Vec::new, |list| list.value.iter().map(|status| status.value as u16).collect())
    };
    let not_processed = statuses("not_processed");
    let pre_processing = statuses("pre_processing");
    let echo = table.opt_table("echo", problems).map(|echo| read_echo(echo, problems));
    let repeat = table.opt_table("repeat", problems).map(|table| read_repeat(table, problems));
    let mut inquiry_settle = None;
    let inquiry = table.opt_table("inquiry", problems).map(|mut inquiry| {
        let keys = [("our_ref", InquiryKey::OurRef), ("carrier_txn_id", InquiryKey::CarrierTxnId)];
        let by = inquiry.one_of("by", &keys, problems);
        let settle = inquiry.duration_s("settle", 60..=DAY_S, problems);
        let agree = inquiry.int("agree", 2..=10, problems);
        let spacing = inquiry.duration_s("spacing", 60..=DAY_S, problems);
        inquiry.finish(problems);
        inquiry_settle = settle.clone();
        Some(InquiryCap {
            by: by?.value,
            settle_s: settle?.value as u32,
            agree: agree?.value as u8,
            spacing_s: spacing?.value as u32,
        })
    });
    let callback = table.opt_table("callback", problems).map(|mut callback| {
        let deadline = callback.duration_s("deadline", 1..=30 * DAY_S, problems);
        callback.finish(problems);
        Some(CallbackCap { deadline_s: deadline?.value as u32 })
    });
    let mut file_settle = None;
    let file = table.opt_table("file", problems).map(|mut file| {
        file.one_of("absence", &[("not_applied", ())], problems);
        let settle = file.duration_s("settle", 60..=30 * DAY_S, problems);
        file.finish(problems);
        file_settle = settle.clone();
        Some(FileCap { settle_s: settle?.value as u32 })
    });
    table.finish(problems);
    // A table that is there but wrong has put its problem into the list already.
    let caps = Proof {
        repeat: repeat.flatten(),
        inquiry: inquiry.flatten(),
        callback: callback.flatten(),
        file: file.flatten(),
    };
    let echo = echo.unwrap_or_default();
    Some(ProofText { not_processed, pre_processing, echo, caps, inquiry_settle, file_settle })
}

fn read_repeat(mut repeat: Table<'_>, problems: &mut Problems) -> Option<RepeatCap> {
    let key = repeat.str("key", problems);
    let window = repeat.duration_s("window", 60..=90 * DAY_S, problems);
    let margin = repeat.duration_s("margin", 0..=DAY_S, problems);
    if let (Some(window), Some(margin)) = (&window, &margin)
        && margin.value >= window.value
    {
        repeat.problem("margin", "the margin is as long as the window", "no repeat would fit", problems);
    }
    repeat.finish(problems);
    Some(RepeatCap { key: key?.value.into(), window_s: window?.value as u32, margin_s: margin?.value as u32 })
}

/// What the file describes of what `[proof]` speaks of.
pub(super) struct Offered {
    pub(super) inquiry: bool,
    /// Whether the sender is known.
    pub(super) callback: Option<bool>,
    pub(super) exchange: Exchange,
    pub(super) has_file: bool,
}

/// What is declared must be there, and "not found" must not be believed while a request may still be on its way.
pub(super) fn check_proof(
    source: &Source,
    place: Place,
    proof: &ProofText,
    reply_timeout_ms: u32,
    offered: Offered,
    problems: &mut Problems,
) {
    let mut refuse = |place: Place, what: String, help: &str| {
        problems.push(source.problem(place, what, help));
    };
    let least_s = i64::from(LEASE_TTL_S) + i64::from(reply_timeout_ms.div_ceil(1_000));
    for (settle, what) in [(&proof.inquiry_settle, "\"not found\""), (&proof.file_settle, "absence")] {
        if let Some(settle) = settle
            && settle.value < least_s
        {
            let help = "a request of a dead worker may be on its way until its lease (20 s) and the reply \
                        timeout have passed";
            let found =
                format!("{what} would count after {} s, at least {least_s} s are needed", settle.value);
            refuse(settle.place, found, help);
        }
    }
    let Offered { inquiry, callback, exchange, has_file } = offered;
    if proof.caps.file.is_some() && !has_file {
        let help = "say how its files are read: rows, covers, columns, status, trailer";
        refuse(place, "[proof.file] without [file]".to_owned(), help);
    }
    match (proof.caps.inquiry.is_some(), inquiry) {
        (true, false) => {
            refuse(place, "[proof.inquiry] without [inquiry]".to_owned(), "say how the carrier is asked");
        }
        (false, true) => {
            let help = "say when \"not found\" counts: by, settle, agree, spacing";
            refuse(place, "[inquiry] without [proof.inquiry]".to_owned(), help);
        }
        _ => {}
    }
    if proof.caps.callback.is_some() && callback != Some(true) {
        let help = "only a callback whose sender is known settles anything: add [callback] with auth";
        refuse(place, "[proof.callback] without a signed [callback]".to_owned(), help);
    }
    match (exchange, callback.is_some()) {
        (Exchange::Callback, false) => {
            let help = "say how its messages are read, or leave `exchange` out";
            refuse(Place::START, "carrier.exchange is \"callback\" without [callback]".to_owned(), help);
        }
        (Exchange::Reply, true) => {
            let help = "add exchange = \"callback\" to [carrier]";
            refuse(Place::START, "[callback] of a carrier that answers in its replies".to_owned(), help);
        }
        _ => {}
    }
}
