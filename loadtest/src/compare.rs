//! Compares our books with the carriers' own: what we hold as charged against what their ledgers say was charged.
//!
//! Works while both sides run, as long as they share a clock: our side is one snapshot, and a ledger line that is younger
//! than it may confirm what we hold but is not demanded of us. An attempt that we list as undecided (unknown, accepted, in
//! review, or an intent only) is no difference, whatever the carrier says: it is somebody's open question.
//!
//! Charges and confirms collect, refunds give back; what is only set aside is not money.
//!
//! On purpose absent: finding the same money without our keys (by line and text).

mod ledger;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use billing_core::ids::{IdError, OurRef, RefSeed, SubscriptionId};
use billing_core::money::{Currency, MoneyError};
use billing_core::outcome::Op;
use billing_core::period::{Period, PeriodError};
use billing_core::states::{AttemptState, State};
use serde::Serialize;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use self::ledger::Theirs;
use self::rows::{Chunks, Row, adoptions};

/// Differences that are described; the rest is counted.
pub const DIFFERENCES_MAX: usize = 100;

/// One carrier's own books.
#[derive(Debug, Clone)]
pub struct CarrierLedger {
    /// The carrier's id in the book.
    pub carrier: String,
    /// Its ledger: one JSON line per request, as the mock carrier writes it.
    pub path: PathBuf,
}

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Charges that the carriers applied.
    pub applied_by_carrier: u64,
    /// Charges that we hold as approved.
    pub approved: u64,
    /// Approved by us and applied by them, with the same amount and currency.
    pub equal: u64,
    /// Attempts that we list as undecided, applied or not.
    pub unknown_listed: u64,
    /// Those of them that the carrier applied.
    pub unknown_applied: u64,
    /// Everything that may not be: bounded to [`DIFFERENCES_MAX`], in no particular sequence.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub differences_total: u64,
    /// Money by currency code, less what was given back.
    pub collected: BTreeMap<String, Sums>,
    /// Carriers of ours with attempts, for which no ledger was given: nothing is known about them.
    pub not_compared: Vec<String>,
}

/// What was collected in one currency, in its minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// As we hold it.
    pub ours_minor: i64,
    /// As the carriers' ledgers say.
    pub theirs_minor: i64,
}

/// Something that may not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind.
    pub kind: DifferenceKind,
    /// At which carrier.
    pub carrier: String,
    /// The key on the wire; empty where the difference is about a whole charge.
    pub key: String,
    /// Whose charge, where we know it.
    pub subscription: Option<String>,
    /// Which period, where we know it.
    pub period: Option<String>,
    /// What it is about in our books, minor units and currency.
    pub ours: Option<(i64, String)>,
    /// The same in theirs.
    pub theirs: Option<(i64, String)>,
}

/// Kinds of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// They applied a charge that we have no intent for.
    NotOurs,
    /// They applied a charge that we hold as final without money.
    AppliedButRefused,
    /// They applied another amount or currency than we approved.
    AmountDiffers,
    /// We approved a charge that they did not apply.
    ApprovedNotApplied,
    /// They applied one key twice.
    AppliedTwice,
    /// More than the due amount was collected for a charge, on either side.
    OverCollected,
    /// We hold an outcome without an intent.
    OutcomeWithoutIntent,
}

/// Why the books cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A ledger cannot be read.
    #[error("ledger {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A whole line is no ledger line.
    #[error("ledger {path} line {line}: {flaw}")]
    BadLine {
        /// Which ledger.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        flaw: String,
    },
    /// The database knows no such carrier.
    #[error("carrier {0} is not in the database")]
    UnknownCarrier(String),
    /// An attempt without its subscription: nothing ever deletes one.
    #[error("subscription {0} has attempts but no row")]
    NoSubscription(SubscriptionId),
    /// A key of ours that cannot be made.
    #[error("an attempt has no key: {0}")]
    Id(#[from] IdError),
    /// A period of ours that is none.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// A currency of ours that is none.
    #[error(transparent)]
    Currency(#[from] MoneyError),
    /// The database is away or refuses.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// Reading a ledger was cut short.
    #[error("reading a ledger was interrupted")]
    Interrupted,
}

impl Comparison {
    /// Whether nothing differs and every carrier was looked at.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.differences_total == 0 && self.not_compared.is_empty()
    }

    fn differs(&mut self, difference: Difference) {
        self.differences_total += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DifferenceKind::NotOurs => "the carrier applied a charge that we know nothing of",
            DifferenceKind::AppliedButRefused => "the carrier applied a charge that we hold as not charged",
            DifferenceKind::AmountDiffers => "the carrier applied another amount than we approved",
            DifferenceKind::ApprovedNotApplied => "we approved a charge that the carrier did not apply",
            DifferenceKind::AppliedTwice => "the carrier applied one key twice",
            DifferenceKind::OverCollected => "more than the due amount was collected",
            DifferenceKind::OutcomeWithoutIntent => "an outcome has no intent",
        };
        write!(f, "{}: {what}", self.carrier)?;
        let place =
            [("key", Some(&self.key)), ("of", self.subscription.as_ref()), ("period", self.period.as_ref())];
        for (name, value) in place {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                write!(f, ", {name} {value}")?;
            }
        }
        for (name, money) in [("ours", &self.ours), ("theirs", &self.theirs)] {
            if let Some((minor, currency)) = money {
                write!(f, ", {name} {minor} {currency} minor")?;
            }
        }
        Ok(())
    }
}

/// Compares everything that we hold with the given ledgers. Reads both sides once; a carrier's applied charges are held in
/// memory (about 50 bytes each), our rows come in chunks.
///
/// # Errors
/// [`CompareError`] when one side cannot be read; differences are no error.
pub async fn compare(conn: &mut PgConnection, ledgers: &[CarrierLedger]) -> Result<Comparison, CompareError> {
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let snapshot_us: i64 = sqlx::query_scalar(now).fetch_one(&mut *conn).await?;
    let mut tx = conn.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
    let carriers: Vec<(String, i32, bool)> = sqlx::query_as(
        "SELECT c.id, c.carrier_no, EXISTS (SELECT FROM attempt_intent i
                  WHERE i.subscription_id >= c.carrier_no::bigint << 44
                    AND i.subscription_id < (c.carrier_no + 1)::bigint << 44)
           FROM carrier c ORDER BY c.id",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut found = Comparison::default();
    for given in ledgers {
        let known = carriers.iter().find(|(id, ..)| *id == given.carrier);
        let (_, carrier_no, _) = known.ok_or_else(|| CompareError::UnknownCarrier(given.carrier.clone()))?;
        let path = given.path.clone();
        let read = tokio::task::spawn_blocking(move || ledger::read(&path, snapshot_us)).await;
        let theirs = read.map_err(|_| CompareError::Interrupted)??;
        One { carrier: &given.carrier, theirs, found: &mut found }.walk(&mut tx, *carrier_no).await?;
    }
    let given = |id: &str| ledgers.iter().any(|ledger| ledger.carrier == id);
    found.not_compared =
        carriers.into_iter().filter(|(id, _, used)| *used && !given(id)).map(|(id, ..)| id).collect();
    tx.rollback().await?;
    Ok(found)
}

/// The comparison with one carrier.
struct One<'a> {
    carrier: &'a str,
    theirs: ledger::Applied,
    found: &'a mut Comparison,
}

/// What one charge collected, and how much was due.
struct Charge {
    subscription: SubscriptionId,
    period: Period,
    due_minor: i64,
    currency: Currency,
    ours_minor: i64,
    theirs_minor: i64,
}

/// Which way money went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Collected,
    GivenBack,
}

impl Way {
    fn signed(self, minor: i64) -> i64 {
        match self {
            Self::Collected => minor,
            Self::GivenBack => minor.saturating_neg(),
        }
    }
}

impl One<'_> {
    /// Our rows in key sequence, side by side; what is left of their ledger afterwards is not ours.
    async fn walk(mut self, conn: &mut PgConnection, carrier_no: i32) -> Result<(), CompareError> {
        let adopted = adoptions(conn, carrier_no).await?;
        let mut intents = Chunks::intents(carrier_no);
        let mut outcomes = Chunks::outcomes(carrier_no);
        let mut asides = Chunks::asides(carrier_no);
        let mut subscriptions = Chunks::subscriptions(carrier_no);
        let mut subscription: Option<Row> = None;
        let mut charge: Option<Charge> = None;
        while let Some(intent) = intents.next(conn).await? {
            let (id, number, attempt_no) = intent.key;
            let period = Period::from_number(number)?;
            let outcome = outcomes.at(conn, intent.key, &mut |orphan| self.orphan(&orphan)).await?;
            // What people take into the books is what became of the attempt that the carrier knows.
            let outcome = match adopted.get(&intent.key) {
                None => outcome,
                Some(None) => None,
                Some(Some((class, moved))) => Some(Row { key: intent.key, values: [*class, *moved, 0] }),
            };
            let kept = match subscription.filter(|row| row.key.0 == id) {
                Some(kept) => kept,
                None => subscriptions
                    .at(conn, (id, 0, 0), &mut |_| ())
                    .await?
                    .ok_or(CompareError::NoSubscription(SubscriptionId(id)))?,
            };
            subscription = Some(kept);
            let [op, amount_minor, currency] = intent.values;
            let currency = Currency::from_numeric(i16::try_from(currency).unwrap_or(-1))?;
            if charge.as_ref().is_none_or(|charge| (charge.subscription.0, charge.period) != (id, period)) {
                self.close(charge.take());
                let aside = asides.at(conn, (id, number, 0), &mut |_| ()).await?;
                let [_, current, current_due] = kept.values;
                // A finished charge keeps its price in its first attempt, which always asks for all of it.
                let due_minor = match aside {
                    _ if current == i64::from(number) => current_due,
                    Some(aside) => aside.values[0],
                    None => amount_minor,
                };
                let subscription = SubscriptionId(id);
                charge = Some(Charge {
                    subscription,
                    period,
                    due_minor,
                    currency,
                    ours_minor: 0,
                    theirs_minor: 0,
                });
            }
            let key = OurRef::new(RefSeed(kept.values[0]), period, attempt_no)?;
            let is = |ops: &[Op]| ops.iter().any(|known| op == i64::from(*known as i16));
            if let Some(charge) = &mut charge {
                if is(&[Op::Charge, Op::Confirm]) {
                    self.attempt(charge, key, currency, outcome, Way::Collected);
                } else if is(&[Op::Refund]) {
                    self.attempt(charge, key, currency, outcome, Way::GivenBack);
                }
            }
        }
        self.close(charge);
        outcomes.at(conn, (i64::MAX, i32::MAX, i16::MAX), &mut |orphan| self.orphan(&orphan)).await?;
        self.leftovers();
        Ok(())
    }

    fn attempt(
        &mut self,
        charge: &mut Charge,
        key: OurRef,
        currency: Currency,
        outcome: Option<Row>,
        way: Way,
    ) {
        let theirs = match way {
            Way::Collected => self.theirs.keys.remove(&key),
            Way::GivenBack => self.theirs.refunds.remove(&key),
        };
        if let Some(theirs) = &theirs {
            self.count_theirs(theirs, way);
            charge.theirs_minor = charge.theirs_minor.saturating_add(way.signed(theirs.amount_minor));
        }
        let Some(outcome) = outcome else {
            // An open row, or the intent alone: listed either way.
            self.found.unknown_listed += 1;
            self.found.unknown_applied += u64::from(theirs.is_some());
            return;
        };
        let [class, moved_minor, _] = outcome.values;
        let approved = class == i64::from(AttemptState::Approved.number());
        if approved {
            self.found.approved += u64::from(way == Way::Collected);
            let moved_minor = way.signed(moved_minor);
            charge.ours_minor = charge.ours_minor.saturating_add(moved_minor);
            let sums = self.found.collected.entry(currency.code().to_owned()).or_default();
            sums.ours_minor = sums.ours_minor.saturating_add(moved_minor);
        }
        let ours = approved.then(|| (moved_minor, currency.code().to_owned()));
        let kind = match (&ours, &theirs) {
            (Some((minor, code)), Some(theirs)) if theirs.is(*minor, code) => {
                self.found.equal += u64::from(way == Way::Collected);
                return;
            }
            (None, None) => return,
            (Some(_), Some(_)) => DifferenceKind::AmountDiffers,
            (Some(_), None) => DifferenceKind::ApprovedNotApplied,
            (None, Some(_)) => DifferenceKind::AppliedButRefused,
        };
        self.differs(kind, key.to_string(), Some(charge), ours, theirs.as_ref().map(Theirs::money));
    }

    fn close(&mut self, charge: Option<Charge>) {
        let Some(charge) = charge else { return };
        if charge.ours_minor.max(charge.theirs_minor) > charge.due_minor {
            let money = |minor| Some((minor, charge.currency.code().to_owned()));
            let (ours, theirs) = (money(charge.ours_minor), money(charge.theirs_minor));
            self.differs(DifferenceKind::OverCollected, String::new(), Some(&charge), ours, theirs);
        }
    }

    fn orphan(&mut self, outcome: &Row) {
        let (id, number, _) = outcome.key;
        self.found.differs(Difference {
            kind: DifferenceKind::OutcomeWithoutIntent,
            carrier: self.carrier.to_owned(),
            key: String::new(),
            subscription: Some(SubscriptionId(id).to_string()),
            period: Period::from_number(number).ok().map(|period| period.to_string()),
            ours: None,
            theirs: None,
        });
    }

    /// What no intent of ours took: applied under a key that we do not have, or under one that we have more than once.
    fn leftovers(&mut self) {
        for (key, theirs) in std::mem::take(&mut self.theirs.twice) {
            self.count_theirs(&theirs, Way::Collected);
            self.differs(DifferenceKind::AppliedTwice, key, None, None, Some(theirs.money()));
        }
        let keys = std::mem::take(&mut self.theirs.keys);
        let strange = std::mem::take(&mut self.theirs.strange);
        let refunds = std::mem::take(&mut self.theirs.refunds);
        let left = keys.into_iter().map(|(key, theirs)| (key.to_string(), theirs, Way::Collected));
        let back = refunds.into_iter().map(|(key, theirs)| (key.to_string(), theirs, Way::GivenBack));
        let strange = strange.into_iter().map(|(key, theirs)| (key, theirs, Way::Collected));
        for (key, theirs, way) in left.chain(back).chain(strange) {
            // Our snapshot is older than the line: its intent may be younger too.
            if theirs.is_later {
                continue;
            }
            self.count_theirs(&theirs, way);
            self.differs(DifferenceKind::NotOurs, key, None, None, Some(theirs.money()));
        }
        let uncounted = self.theirs.uncounted;
        self.found.differences_total += uncounted;
        self.found.applied_by_carrier += uncounted;
    }

    fn count_theirs(&mut self, theirs: &Theirs, way: Way) {
        self.found.applied_by_carrier += u64::from(way == Way::Collected);
        let sums = self.found.collected.entry(theirs.currency()).or_default();
        sums.theirs_minor = sums.theirs_minor.saturating_add(way.signed(theirs.amount_minor));
    }

    fn differs(
        &mut self,
        kind: DifferenceKind,
        key: String,
        charge: Option<&Charge>,
        ours: Option<(i64, String)>,
        theirs: Option<(i64, String)>,
    ) {
        self.found.differs(Difference {
            kind,
            carrier: self.carrier.to_owned(),
            key,
            subscription: charge.map(|charge| charge.subscription.to_string()),
            period: charge.map(|charge| charge.period.to_string()),
            ours,
            theirs,
        });
    }
}
