//! Importing subscribers from a CSV file: one subscription a line, bounded memory, safe to repeat.
//!
//! The walk of a file: `lines` reads bounded lines and cuts them into fields; `row` checks a line by itself; `batch`
//! settles a few thousand of them against the database in one commit; [`RejectFile`] keeps what could not be taken.
//!
//! Everything that is kept follows from the line's own fields, so the same file again changes nothing, however it
//! was cut into batches and wherever an earlier run broke off.

mod batch;
mod kept;
mod lines;
mod progress;
mod rejects;
mod row;

use std::collections::HashMap;
use std::io::{self, Read};
use std::time::Instant;

use billing_core::period::days_since_2000;
use billing_core::schedule::ScheduleError;
use billing_core::zone::Zone;
use carriers::{CarrierDefinition, MsisdnRule};
use jiff::Timestamp;
use jiff::civil::Date;
use sqlx::postgres::PgConnection;
use storage::pg::{StoreError, ensure_partitions};
use storage::vault::{Vault, VaultError};
use thiserror::Error;

use crate::catalog::{Catalog, CatalogPlan};

use self::batch::Fate;
pub use self::lines::LINE_BYTES_MAX;
use self::lines::Lines;
use self::progress::Pace;
pub use self::progress::{ImportProgress, ImportReport};
pub use self::rejects::{RejectFile, Rejected};
use self::row::{Columns, Row};
pub use self::row::{REFERENCE_CHARS_MAX, START_DAYS_MAX};

/// Lines of one batch, which is one commit.
pub const BATCH_ROWS: usize = 5_000;
/// The most lines that a batch may be set to.
pub const BATCH_ROWS_MAX: usize = 20_000;
/// A batch of long lines ends early at this size.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Days of partitions made at once: each is a handful of locks.
const PARTITION_DAYS: i32 = 56;

/// What an import needs to know of a carrier beyond the catalog.
#[derive(Debug, Clone)]
pub struct CarrierRules {
    /// Its id in the book.
    pub id: String,
    /// What its numbers look like.
    pub msisdn: MsisdnRule,
    /// The zones that its subscribers live in; the first is the default.
    pub zones: Vec<Zone>,
}

impl From<&CarrierDefinition> for CarrierRules {
    fn from(definition: &CarrierDefinition) -> Self {
        Self {
            id: definition.id.to_string(),
            msisdn: definition.msisdn.clone(),
            zones: definition.zones.clone(),
        }
    }
}

/// Why an import stopped. What was committed before stays; running the same file again goes on from there.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The carriers, the catalog and the database's numbers do not fit together.
    #[error("the book is not ready for an import: {0}")]
    Setup(String),
    /// The first line does not name the columns.
    #[error("line 1 must name the columns: {0}")]
    Header(String),
    /// The file cannot be read any further.
    #[error("reading line {line}: {source}")]
    Read {
        /// The line, from 1.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A rejected line cannot be kept.
    #[error("writing rejected line {line}: {source}")]
    Reject {
        /// The line, from 1.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The database is away or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing can be encrypted.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A due instant cannot be computed.
    #[error("line {line}: {source}")]
    Schedule {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        source: ScheduleError,
    },
    /// A shard's dense numbers are used up.
    #[error("shard {shard} is full at sequence {sequence}")]
    ShardFull {
        /// The shard.
        shard: i32,
        /// The sequence number that does not fit.
        sequence: i64,
    },
    /// Other imports of the same lines came first, again and again.
    #[error("other imports of the same lines came first, {0} times in a row: try again when they are done")]
    Contended(u32),
}

/// Imports files under one version of the book.
pub struct Importer<'a> {
    catalog: &'a Catalog,
    vault: &'a Vault,
    batch_rows: usize,
    plans: HashMap<&'a str, PlanEntry<'a>>,
    days: HashMap<i16, ZoneDay<'a>>,
}

/// A plan as lines name it.
struct PlanEntry<'a> {
    plan: &'a CatalogPlan,
    merchant_no: i32,
    slices: u32,
    msisdn: MsisdnRule,
    /// The carrier's zones: names and numbers; the first is the default.
    zones: Vec<(&'static str, i16)>,
}

/// A zone and its date now.
struct ZoneDay<'a> {
    zone: &'a Zone,
    today: Date,
}

/// A line of the current batch.
struct Entry {
    line: u64,
    /// Where its text lies in the batch's buffer.
    text: std::ops::Range<usize>,
    checked: Result<Row, String>,
}

impl<'a> Importer<'a> {
    /// An importer of everything that `catalog` sells, through `carriers`, at the business time `business_now`.
    ///
    /// # Errors
    /// [`ImportError::Setup`] when a plan's carrier is not among `carriers` or the database lacks a number.
    pub fn new(
        catalog: &'a Catalog,
        carriers: &[CarrierRules],
        vault: &'a Vault,
        business_now: Timestamp,
    ) -> Result<Self, ImportError> {
        let missing = |what: &str, id: &str| ImportError::Setup(format!("{what} {id} is not known"));
        let names = &catalog.names;
        let mut plans = HashMap::new();
        for plan in catalog.plans() {
            let rules = &plan.rules;
            let carrier = carriers.iter().find(|carrier| carrier.id == rules.carrier);
            let carrier = carrier.ok_or_else(|| missing("carrier", &rules.carrier))?;
            let kept = names.carriers.get(&carrier.id);
            let (_, slices, _) = *kept.ok_or_else(|| missing("carrier", &carrier.id))?;
            let slices = u32::try_from(slices).ok().filter(|slices| slices.is_power_of_two());
            let merchant_no = names.merchants.get(&rules.merchant);
            let numbered = |zone: &Zone| {
                let number = names.zones.get(zone.name()).ok_or_else(|| missing("zone", zone.name()))?;
                Ok((zone.name(), *number))
            };
            let entry = PlanEntry {
                plan,
                merchant_no: *merchant_no.ok_or_else(|| missing("merchant", &rules.merchant))?,
                slices: slices.ok_or_else(|| missing("the number of slices of carrier", &carrier.id))?,
                msisdn: carrier.msisdn.clone(),
                zones: carrier.zones.iter().map(numbered).collect::<Result<_, ImportError>>()?,
            };
            if entry.zones.is_empty() {
                return Err(missing("any zone of carrier", &carrier.id));
            }
            plans.insert(rules.id.as_str(), entry);
        }
        let day = |number: &i16| {
            let zone = catalog.zone(*number)?;
            Some((*number, ZoneDay { zone, today: zone.local(business_now).0 }))
        };
        let days = names.zones.values().filter_map(day).collect();
        Ok(Self { catalog, vault, batch_rows: BATCH_ROWS, plans, days })
    }

    /// The same with other batches: 1 to [`BATCH_ROWS_MAX`] lines.
    #[must_use]
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows.clamp(1, BATCH_ROWS_MAX);
        self
    }

    /// Imports a file: a line of column names (`msisdn,plan,reference`, and `zone`, `start`, `consent_until` where wanted), then one
    /// subscription a line. `bytes_total` is the file's size, where known, for the estimate in the progress.
    ///
    /// `rejects` gets each line that cannot be taken, in the file's sequence and only after the commit of its
    /// batch; `progress` is told after every batch. Reading blocks the calling thread. The connection must not be
    /// inside an SQL transaction.
    ///
    /// # Errors
    /// [`ImportError`]; a bad line is none, it is rejected.
    pub async fn run(
        &self,
        conn: &mut PgConnection,
        input: impl Read,
        bytes_total: Option<u64>,
        rejects: &mut (dyn FnMut(&Rejected<'_>) -> io::Result<()> + Send),
        progress: &mut (dyn FnMut(&ImportProgress) + Send),
    ) -> Result<ImportReport, ImportError> {
        let mut pace = Pace::new(Instant::now(), bytes_total);
        let mut report = ImportReport::default();
        let mut lines = Lines::new(input);
        let mut text = Vec::new();
        let header = lines.next_into(&mut text).map_err(|source| ImportError::Read { line: 1, source })?;
        let columns = Columns::read(header.as_ref(), &text).map_err(ImportError::Header)?;
        let mut partitions_from = i32::MAX;
        loop {
            let entries = self.read_batch(&mut lines, &columns, &mut text)?;
            if entries.is_empty() {
                break;
            }
            self.make_partitions(conn, &entries, &mut partitions_from).await?;
            let fates = self.settle(conn, &entries).await?;
            for (entry, fate) in entries.iter().zip(&fates.rows) {
                report.rows += 1;
                match fate {
                    Fate::Created => report.created += 1,
                    Fate::Existing => report.existing += 1,
                    Fate::Rejected(reason) => {
                        report.rejected += 1;
                        let raw = text.get(entry.text.clone()).unwrap_or_default();
                        let kept = rejects::keep(entry.line, reason, &columns, raw, rejects);
                        kept.map_err(|source| ImportError::Reject { line: entry.line, source })?;
                    }
                }
            }
            report.subscribers_created += fates.subscribers_created;
            progress(&pace.mark(&report, lines.bytes_read(), Instant::now()));
        }
        report.elapsed_ms = pace.elapsed_ms(Instant::now());
        Ok(report)
    }

    /// The next lines, checked one by one; `text` then holds what they say.
    fn read_batch<R: Read>(
        &self,
        lines: &mut Lines<R>,
        columns: &Columns,
        text: &mut Vec<u8>,
    ) -> Result<Vec<Entry>, ImportError> {
        let mut entries = Vec::new();
        text.clear();
        while entries.len() < self.batch_rows && text.len() < BATCH_BYTES_MAX {
            let next = lines.next_into(text);
            let next = next.map_err(|source| ImportError::Read { line: lines.number() + 1, source })?;
            let Some(line) = next else { break };
            if line.text.is_empty() {
                continue;
            }
            let checked = self.check_line(columns, &line, text);
            entries.push(Entry { line: line.number, text: line.text, checked });
        }
        Ok(entries)
    }

    /// Charges of days gone by need a place too: the first period, and whichever runs now.
    async fn make_partitions(
        &self,
        conn: &mut PgConnection,
        entries: &[Entry],
        made_from: &mut i32,
    ) -> Result<(), ImportError> {
        let rows = entries.iter().filter_map(|entry| entry.checked.as_ref().ok());
        let Some(earliest) = rows.filter_map(|row| row.past_start).min() else { return Ok(()) };
        let latest = self.days.values().map(|day| days_since_2000(day.today)).max().unwrap_or(0);
        let until = latest.min(*made_from - 1);
        let mut from = days_since_2000(earliest);
        *made_from = from.min(*made_from);
        while from <= until {
            let to = until.min(from + PARTITION_DAYS - 1);
            ensure_partitions(conn, from, to).await?;
            from = to + 1;
        }
        Ok(())
    }
}
