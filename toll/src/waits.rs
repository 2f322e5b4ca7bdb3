//! Which reconciliation file an unknown attempt waits for.

use std::collections::HashMap;

use billing_core::resolve::{Covered, Plan, first_gap};
use carriers::CarrierDefinition;
use jiff::{SignedDuration, Timestamp};
use storage::pg;

use crate::ops::definitions;
use crate::reading::Reading;

/// What the carriers' files cover, and what the carriers declare about them.
pub(crate) struct Waits {
    definitions: Vec<CarrierDefinition>,
    covered: HashMap<i32, Vec<Covered>>,
}

impl Waits {
    /// For the carriers of these subscriptions. Reads nothing of the files where no carrier declares them as proof.
    pub(crate) async fn read(reading: &mut Reading, subscriptions: &[i64]) -> anyhow::Result<Self> {
        let mut waits = Self { definitions: Vec::new(), covered: HashMap::new() };
        if subscriptions.is_empty() {
            return Ok(waits);
        }
        waits.definitions = definitions(reading).await?;
        if waits.definitions.iter().all(|definition| definition.proof.file.is_none()) {
            return Ok(waits);
        }
        let mut carriers: Vec<i32> = subscriptions.iter().map(|id| (id >> 44) as i32).collect();
        carriers.sort_unstable();
        carriers.dedup();
        for (carrier_no, from_us, until_us) in pg::file_coverage(&mut reading.conn, &carriers).await? {
            let at = |us: i64| Timestamp::from_microsecond(us).ok();
            if let Some((from, until)) = at(from_us).zip(at(until_us)) {
                waits.covered.entry(carrier_no).or_default().push(Covered { from, until });
            }
        }
        Ok(waits)
    }

    /// `the file of 2026-12-01`, by the carrier's calendar, for an attempt whose intent became durable and that became
    /// unknown then (microseconds); `None` when no file can prove anything, or when all that could are here.
    pub(crate) fn of(
        &self,
        carrier: &str,
        subscription_id: i64,
        intent_at_us: i64,
        since_us: i64,
    ) -> Option<String> {
        let definition = self.definitions.iter().find(|definition| *definition.id == *carrier)?;
        let settle_ms = i64::from(definition.proof.file.as_ref()?.settle_s) * 1_000;
        let ms = SignedDuration::from_millis;
        let from = Timestamp::from_microsecond(intent_at_us).ok()?;
        let from = from.checked_sub(ms(Plan::STANDARD.file_slack_ms)).ok()?;
        let to = Timestamp::from_microsecond(since_us).ok()?;
        let to = to.checked_add(ms(settle_ms + i64::from(definition.caps.reply_timeout_ms))).ok()?;
        let covered = self.covered.get(&((subscription_id >> 44) as i32));
        let gap = first_gap(covered.map_or(&[], Vec::as_slice), from, to)?;
        Some(format!("the file of {}", gap.to_zoned(definition.file_zone()?.clone()).date()))
    }
}
