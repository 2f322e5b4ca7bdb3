//! What a batch needs beside its intents: balances asked for, caps, and the attempts that confirms and cancels are about.

use std::collections::{HashMap, HashSet};

use billing_core::plan::Usage;
use billing_core::triage::{Balance, BalanceAnswer, Conditions, Triage};
use carriers::ExchangeKind;
use jiff::Timestamp;
use storage::pg::{DueRow, StoreError};
use storage::store::{carrier_txn_id, usage_of};

use super::{Engine, Ready, carrier_of, decide_row, poison};
use crate::bounds;
use crate::catalog::{Catalog, CatalogPlan};
use crate::probe;
use crate::stripe::Work;
use crate::wheel::{Closing, Moment};

/// So much business time may charges that close together be apart, when two stripes give them out; times the scale.
const SLACK_MS: i64 = 60_000;

impl Engine {
    /// What the wheels want to know of now: until when charges of a plan in a zone may be sent. Of a plan that is not
    /// known, or that never opens, triage has something to say: those have their turn at once.
    pub(crate) fn with_moment<T>(&self, now_ms: i64, ask: impl FnOnce(&Moment<'_>) -> T) -> T {
        let catalog = self.shared.books.current();
        let closing = |plan_no, zone_no| {
            let known = catalog.plan(plan_no).zip(catalog.zone(zone_no));
            let closes = known.and_then(|(plan, zone)| {
                let now = Timestamp::from_millisecond(now_ms).ok()?;
                let (until, minutes) = plan.rules.schedule.closes(zone, now).ok()?;
                let period_ms = minutes.map_or(i64::MAX, |minutes| minutes.saturating_mul(60_000));
                Some(Closing { closes_ms: until.as_millisecond(), period_ms })
            });
            closes.unwrap_or(Closing::AT_ONCE)
        };
        ask(&Moment {
            now_ms,
            machine_ms: self.shared.clock.machine_ms(),
            slack_ms: SLACK_MS.saturating_mul(i64::from(self.shared.clock.scale().max(1))),
            version: catalog.names.book_version,
            closing: &closing,
        })
    }

    /// Triage with what is known of the balance. A carrier that is not asked at this point says nothing.
    pub(super) fn decided<'a>(
        &self,
        catalog: &'a Catalog,
        row: &DueRow,
        now: Timestamp,
    ) -> Result<(Triage, &'a CatalogPlan), String> {
        let mut known = Conditions { held: row.held, merged: row.merged, ..Conditions::default() };
        let asks = catalog.plan(row.sub.plan_no).is_some_and(|plan| plan.rules.balance.is_some());
        if asks {
            let lane = self.shared.lanes.get(&carrier_of(row.sub.id.0));
            let cap = lane.and_then(|lane| lane.adapter().caps().balance);
            let now_ms = self.shared.clock.machine_ms();
            known.balance = match cap.filter(|cap| probe::may_ask(Some(cap), &row.sub.progress)) {
                Some(cap) => {
                    self.shared.balances.of(row.sub.subscriber_id, i64::from(cap.valid_for_ms), now_ms)
                }
                None => Some(Balance { answer: BalanceAnswer::Unavailable, age_ms: 0 }),
            };
        }
        let (decided, plan) = decide_row(catalog, row, now, &known)?;
        // What one charge may ask for needs no counters.
        match &decided {
            Triage::Send { planned, .. } if bounds::above_charge_cap(&plan.rules.caps, planned) => {
                known.cap_left_minor = Some(plan.rules.caps.charge_minor);
                decide_row(catalog, row, now, &known)
            }
            _ => Ok((decided, plan)),
        }
    }

    /// Questions about balances go out at once: they move nothing, so nothing has to be durable before.
    pub(super) fn ask_balances(&self, probes: Vec<Ready>, now: jiff::Timestamp) {
        let (begun_ms, at) = (self.shared.clock.machine_ms(), self.shared.clock.wall());
        for probe in probes {
            let floor = self.stripe.open_floor(i64::MAX, 1);
            let (mut attempt, mut flight) = self.flight(probe, floor, begun_ms, now.as_millisecond(), at);
            (attempt.kind, flight.probe) = (ExchangeKind::Balance, true);
            self.stripe.flights().insert(flight.row.sub.id.0, Box::new(flight));
            self.shared.dispatch(&self.stripe, attempt, true);
        }
    }

    /// Where caps are counted a batch holds one row per subscriber; its other ones go with the next.
    pub(super) fn one_per_capped_subscriber(&self, ready: Vec<Ready>, now: jiff::Timestamp) -> Vec<Ready> {
        let mut seen: HashSet<i64> = HashSet::new();
        let (now_in, later): (Vec<Ready>, Vec<Ready>) = ready.into_iter().partition(|row| {
            !bounds::counts(&row.catalog, &row.row, &row.planned) || seen.insert(row.row.sub.subscriber_id)
        });
        let ids: Vec<i64> = later.iter().map(|row| row.row.sub.id.0).collect();
        self.put_back(&ids, now.as_millisecond());
        ids.iter().for_each(|id| self.shared.give_back(carrier_of(*id), 1));
        now_in
    }

    /// What the carrier called the attempts that these are about.
    pub(super) async fn name_parents(&mut self, ready: &mut [Ready]) -> Result<(), StoreError> {
        for row in ready.iter_mut() {
            let Some((_, txn_id)) = &mut row.parent else { continue };
            let conn = self.db.conn().await?;
            let (id, planned) = (row.row.sub.id.0, &row.planned);
            let named = carrier_txn_id(conn, id, planned.period, planned.parent_no).await;
            *txn_id = self.db.checked(named)?.map(String::into_boxed_str);
        }
        Ok(())
    }

    /// Rows that a cap stands in the way of are decided again with what their subscribers' counters say.
    pub(super) async fn over_cap(&mut self, over: Vec<Ready>, now: Timestamp) -> Result<(), StoreError> {
        if over.is_empty() {
            return Ok(());
        }
        metrics::counter!("tollbook_begin_verdicts_total", "verdict" => "OverCap")
            .increment(over.len() as u64);
        let subscribers: Vec<i64> = over.iter().map(|row| row.row.sub.subscriber_id).collect();
        let counted = match self.db.conn().await {
            Ok(conn) => {
                let counted = usage_of(conn, &subscribers).await;
                self.db.checked(counted)
            }
            Err(error) => Err(error),
        };
        let counted: HashMap<(i64, i16), Usage> = match counted {
            Ok(counted) => counted.into_iter().collect(),
            Err(error) => {
                let ids: Vec<i64> = over.iter().map(|row| row.row.sub.id.0).collect();
                self.put_back(&ids, now.as_millisecond());
                return Err(error);
            }
        };
        for Ready { row, aside, catalog, planned, .. } in over {
            let usage = counted.get(&(row.sub.subscriber_id, row.currency)).copied().unwrap_or_default();
            let known = match bounds::over(&catalog, &row, &planned, &usage, now) {
                Ok(Some(known)) => known,
                // Something was given back meanwhile.
                Ok(None) => {
                    self.put_back(&[row.sub.id.0], now.as_millisecond());
                    continue;
                }
                Err(why) => {
                    self.stripe.put(poison(&row, why));
                    continue;
                }
            };
            if let Some(aside) = aside {
                if let Some(ready) = self.triage_one(row, *aside, &catalog, now, &known) {
                    self.put_back(&[ready.id()], now.as_millisecond());
                }
                continue;
            }
            match decide_row(&catalog, &row, now, &known).map(|(decided, _)| decided) {
                Ok(Triage::Note(note)) => self.stripe.put(Work::Note { row, note, catalog, inbox: None }),
                Ok(_) => self.put_back(&[row.sub.id.0], now.as_millisecond()),
                Err(why) => self.stripe.put(poison(&row, why)),
            }
        }
        Ok(())
    }
}
