//! Charges with rows of their own: what blocked a period when the next one began, and arrears.
//!
//! They fire by a wheel of their own, one attempt of a subscription at a time: whoever holds the subscription holds all
//! its charges. Their intents, answers and records walk the same hops as any other.

use std::collections::HashMap;
use std::sync::Arc;

use billing_core::subscription::{Aside, FLAG_QUARANTINED};
use billing_core::triage::{AsideTriage, Conditions, triage_aside};
use jiff::Timestamp;
use storage::pg::{AsideRow, DueRow, StoreError, WheelEntry};
use storage::store::{due_asides, load_asides, load_held};

use crate::bounds;
use crate::catalog::Catalog;
use crate::engine::{BOOK_WAIT_MS, Engine, Ready, carrier_of, end_of_consent, poison};
use crate::link::DbLink;
use crate::shared::Shared;
use crate::stripe::Work;

/// The row of one charge, if it has one of its own. A row that cannot be read is given as its reason.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub(crate) async fn aside_of(
    db: &mut DbLink,
    subscription_id: i64,
    period: i32,
) -> Result<Option<Result<Box<Aside>, String>>, StoreError> {
    let conn = db.conn().await?;
    let loaded = load_asides(conn, &[(subscription_id, period)]).await;
    let rows = db.checked(loaded)?;
    Ok(rows.first().map(|row| row.aside().map(Box::new)))
}

/// Reads what rows on plans with arrears owe already: others cost nothing.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub(crate) async fn read_held(
    shared: &Shared,
    db: &mut DbLink,
    rows: &mut [Box<DueRow>],
) -> Result<(), StoreError> {
    let book = shared.books.current();
    let may_owe = |row: &DueRow| book.plan(row.sub.plan_no).is_none_or(|plan| plan.rules.arrears.is_some());
    let ids: Vec<i64> = rows.iter().filter(|row| may_owe(row)).map(|row| row.sub.id.0).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let conn = db.conn().await?;
    let held = load_held(conn, &ids).await;
    let held = db.checked(held)?;
    for row in rows {
        row.held = held.get(&row.sub.id.0).copied().unwrap_or_default();
    }
    Ok(())
}

impl Engine {
    /// One pass over what fires of charges with rows of their own.
    pub(crate) async fn tick_asides(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let now_ms = now.as_millisecond();
        let ids = self.due_asides(now_ms);
        if ids.is_empty() {
            return Ok(());
        }
        let (rows, asides) = match self.load_due(&ids, now_ms).await {
            Ok(loaded) => loaded,
            Err(error) => {
                self.put_back(&ids, now_ms);
                ids.iter().for_each(|id| self.shared.give_back(carrier_of(*id), 1));
                return Err(error);
            }
        };
        let ready = self.triage_asides(rows, asides, now);
        for id in &ids {
            if !ready.iter().any(|row| row.id() == *id) {
                self.shared.give_back(carrier_of(*id), 1);
            }
        }
        self.send(ready, now).await
    }

    /// Held subscriptions that have such a charge; one that is on its way is looked at again a little later.
    fn due_asides(&self, now_ms: i64) -> Vec<i64> {
        if self.stripe.asides().len() == 0 {
            return Vec::new();
        }
        let batch_max = self.shared.settings.batch_max;
        let mut reserved: HashMap<i32, usize> = HashMap::new();
        let mut room = |carrier_no: i32| {
            let lane = self.shared.lanes.get(&carrier_no);
            *reserved.entry(carrier_no).or_insert_with(|| lane.map_or(0, |lane| lane.reserve(batch_max)))
        };
        let due = self.with_moment(now_ms, |moment| self.stripe.asides().due(moment, batch_max, &mut room));
        let (held, busy): (Vec<i64>, Vec<i64>) = due.into_iter().partition(|id| self.stripe.hold(*id));
        busy.into_iter().for_each(|id| self.later(id, now_ms));
        for id in &held {
            if let Some(places) = reserved.get_mut(&carrier_of(*id)) {
                *places -= 1;
            }
        }
        reserved.into_iter().for_each(|(carrier_no, unused)| self.shared.give_back(carrier_no, unused));
        held
    }

    fn later(&self, id: i64, now_ms: i64) {
        let at_ms = now_ms + BOOK_WAIT_MS.saturating_mul(i64::from(self.shared.clock.scale()));
        self.stripe.asides().keep(WheelEntry::again(id, at_ms));
    }

    async fn load_due(
        &mut self,
        ids: &[i64],
        now_ms: i64,
    ) -> Result<(Vec<Box<DueRow>>, Vec<AsideRow>), StoreError> {
        let conn = self.db.conn().await?;
        let asides = due_asides(conn, ids, now_ms).await;
        let asides = self.db.checked(asides)?;
        let (rows, poison) = self.load(ids).await?;
        for (subscription_id, rev, why) in poison {
            self.stripe.put(Work::Poison { subscription_id, rev, why });
        }
        Ok((rows, asides))
    }

    #[allow(clippy::vec_box)] // As everywhere: each row goes on alone.
    fn triage_asides(&self, rows: Vec<Box<DueRow>>, asides: Vec<AsideRow>, now: Timestamp) -> Vec<Ready> {
        let catalog = self.shared.books.current();
        let mut ready = Vec::new();
        for mut row in rows {
            end_of_consent(&mut row, now);
            let mut own = asides.iter().filter(|aside| aside.subscription_id == row.sub.id.0);
            let Some(first) = own.next().filter(|_| row.sub.flags & FLAG_QUARANTINED == 0) else {
                self.rest_aside(&row, None);
                continue;
            };
            // One attempt at a time; the others have their turn when this one is through.
            if own.next().is_some() {
                self.later(row.sub.id.0, now.as_millisecond());
            }
            let known = self.knows(&catalog, &row);
            if !known {
                self.later(row.sub.id.0, now.as_millisecond());
                self.rest_aside(&row, None);
                continue;
            }
            match first.aside() {
                Ok(aside) => {
                    ready.extend(self.triage_one(row, aside, &catalog, now, &Conditions::default()));
                }
                Err(why) => self.stripe.put(poison(&row, why)),
            }
        }
        ready
    }

    pub(crate) fn triage_one(
        &self,
        row: Box<DueRow>,
        aside: Aside,
        catalog: &Arc<Catalog>,
        now: Timestamp,
        known: &Conditions,
    ) -> Option<Ready> {
        let in_book = catalog.plan(row.sub.plan_no).zip(catalog.zone(row.zone_no));
        let Some((plan, zone)) = in_book.filter(|(plan, _)| plan.carrier_no == carrier_of(row.sub.id.0))
        else {
            self.stripe.put(poison(&row, format!("plan {} is not the carrier's", row.sub.plan_no)));
            return None;
        };
        let caps = &plan.rules.caps;
        let decided = match triage_aside(&row.sub, &aside, &plan.rules, zone, now, known) {
            Ok(AsideTriage::Send { planned, .. }) if bounds::above_charge_cap(caps, &planned) => {
                let known = Conditions { cap_left_minor: Some(caps.charge_minor), ..*known };
                triage_aside(&row.sub, &aside, &plan.rules, zone, now, &known)
            }
            decided => decided,
        };
        match decided {
            Ok(AsideTriage::Send { planned, rule }) => {
                match self.prepare(row, Arc::clone(catalog), planned, rule.number(), plan) {
                    Ok(mut ready) => {
                        ready.aside = Some(Box::new(aside));
                        return Some(ready);
                    }
                    Err(work) => self.stripe.put(*work),
                }
            }
            Ok(AsideTriage::Doubt { .. }) => {
                self.stripe.put(Work::AsideDoubt { row, aside: Box::new(aside) });
            }
            Ok(AsideTriage::Change { aside: after, rule }) => {
                let catalog = Arc::clone(catalog);
                self.stripe.put(Work::Aside { row, after: Box::new(after), rule, catalog });
            }
            Ok(AsideTriage::Rest { .. }) => self.rest_aside(&row, Some(&aside)),
            Err(error) => self.stripe.put(poison(&row, error.to_string())),
        }
        None
    }

    /// Lets a subscription go. Its own entry fell out of the wheel if it fired meanwhile.
    fn rest_aside(&self, row: &DueRow, aside: Option<&Aside>) {
        let id = row.sub.id.0;
        self.stripe.release(id);
        let now_ms = self.shared.clock.business().as_millisecond();
        if let Some(next) = row.next_entry().filter(|next| next.at_ms <= now_ms) {
            self.stripe.wheel().insert(next);
        }
        let Some(aside) = aside else { return };
        let fires = aside.next_at.map(Timestamp::as_millisecond);
        if let Some(at_ms) = fires.filter(|at_ms| *at_ms > now_ms) {
            self.stripe.asides().insert(row.entry(at_ms, aside.next_kind));
        }
    }
}
