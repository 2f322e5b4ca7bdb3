//! Charges in doubt after a failover: a spool is missing, so whatever was due may have been sent. It is listed as lost with
//! what would be sent now, under the same key, and asked about before anything is sent.

use std::sync::Arc;

use billing_core::ids::Shard;
use billing_core::triage::{AsideTriage, Conditions, Triage, triage_aside};
use jiff::SignedDuration;
use storage::pg::{DueRow, StoreError};
use storage::spool::SentLine;
use storage::store::{self, due_asides, refill, refill_asides};

use super::{Engine, Ready, carrier_of, decide_row};

/// Rows read at once.
const CHUNK: i32 = 1_000;

impl Engine {
    /// A business instant a machine second from now.
    pub(super) fn after_a_second(&self, now_ms: i64) -> i64 {
        now_ms + i64::from(self.shared.clock.scale().max(1)) * 1_000
    }

    /// What fired before its shard charged again is listed instead of being begun; the rest comes back.
    pub(super) async fn set_doubted_aside(&mut self, ready: Vec<Ready>, now: jiff::Timestamp) -> Vec<Ready> {
        let (doubted, ready): (Vec<Ready>, Vec<Ready>) = ready.into_iter().partition(|row| {
            let until = self.shared.holds.doubted_until_ms((row.id() >> 32) as i32);
            let own = row.aside.as_ref().and_then(|aside| aside.next_at);
            let fired = own.or(row.row.sub.progress.next_at);
            until.zip(fired).is_some_and(|(until_ms, at)| at.as_millisecond() <= until_ms)
        });
        for row in &doubted {
            self.shared.give_back(carrier_of(row.id()), 1);
        }
        self.list_doubts(doubted, false, now).await;
        ready
    }

    /// Lists rows and looks at them again; `chain`: only those behind an attempt that the carrier knew. What could not be
    /// listed is refused or found in doubt again.
    pub(super) async fn list_doubts(&mut self, rows: Vec<Ready>, chain: bool, now: jiff::Timestamp) {
        if rows.is_empty() {
            return;
        }
        let at = self.shared.clock.wall();
        let lines: Vec<SentLine> = rows.iter().map(|row| self.sent_line(row, at, now)).collect();
        if let Err(error) = self.list_lines(&lines, chain).await {
            self.shared.trouble("listing charges in doubt", &error);
        }
        let ids: Vec<i64> = rows.iter().map(Ready::id).collect();
        self.put_back(&ids, self.after_a_second(now.as_millisecond()));
    }

    async fn list_lines(&mut self, lines: &[SentLine], chain: bool) -> Result<i64, StoreError> {
        if lines.is_empty() {
            return Ok(0);
        }
        let conn = self.db.conn().await?;
        let listed = store::list_doubts(conn, &self.shared.lease, chain, lines).await;
        self.db.checked(listed)
    }

    /// What a spool keeps of a request.
    pub(super) fn sent_line(
        &self,
        row: &Ready,
        intent_at: jiff::Timestamp,
        now: jiff::Timestamp,
    ) -> SentLine {
        SentLine {
            subscription_id: row.row.sub.id.0,
            period: row.planned.period.number(),
            attempt_no: row.planned.attempt_no,
            op: row.planned.op as u8,
            carrier_no: row.row.sub.id.shard().carrier_no(),
            amount_minor: row.planned.amount_minor,
            currency: row.row.currency,
            digest: row.digest,
            incarnation: self.shared.lease.incarnation,
            intent_at_us: intent_at.as_microsecond(),
            business_at_ms: now.as_millisecond(),
            not_before_ms: row.planned.not_before.as_millisecond(),
            not_after_ms: row.planned.not_after.as_millisecond(),
            book_version: row.catalog.names.book_version,
            round: row.planned.round,
            step: row.planned.step,
            parent_no: row.planned.parent_no,
            rule: row.rule,
            wish: 0,
        }
    }

    /// Lists everything of a shard that fired until a business instant and that would be, or would have been, sent.
    pub(crate) async fn list_due(&mut self, shard: Shard, until_ms: i64) -> Result<usize, StoreError> {
        let until = jiff::Timestamp::from_millisecond(until_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let window = self.window();
        let (mut listed, mut after) = (0, Some(shard.id(0) - 1));
        while let Some(at) = after {
            let conn = self.db.conn().await?;
            let chunk = refill(conn, shard, at, until_ms.saturating_add(1), CHUNK).await;
            let (entries, next) = self.db.checked(chunk)?;
            let ids: Vec<i64> = entries.iter().map(|entry| entry.id).collect();
            let (rows, _) = self.load(&ids).await?;
            let lines: Vec<SentLine> =
                rows.into_iter().filter_map(|row| self.as_if_sent(row, until, window)).collect();
            self.list_lines(&lines, false).await?;
            listed += lines.len();
            after = next;
        }
        let mut after = Some(shard.id(0) - 1);
        while let Some(at) = after {
            let conn = self.db.conn().await?;
            let chunk = refill_asides(conn, shard, at, until_ms.saturating_add(1), CHUNK).await;
            let (entries, next) = self.db.checked(chunk)?;
            let ids: Vec<i64> = entries.iter().map(|entry| entry.id).collect();
            let lines = self.asides_as_if_sent(&ids, until, window).await?;
            self.list_lines(&lines, false).await?;
            listed += lines.len();
            after = next;
        }
        Ok(listed)
    }

    /// The first business instant whose commits may be lost.
    fn window(&self) -> jiff::Timestamp {
        let clock = &self.shared.clock;
        let (wall, business) = (clock.wall(), clock.business());
        let from_us = self.shared.holds.window_from_us();
        let from = jiff::Timestamp::from_microsecond(from_us).unwrap_or(wall).min(wall);
        let passed_ms = wall.as_millisecond().saturating_sub(from.as_millisecond());
        let passed_ms = passed_ms.saturating_mul(i64::from(clock.scale()));
        let business_ms = business.as_millisecond().saturating_sub(passed_ms);
        jiff::Timestamp::from_millisecond(business_ms).unwrap_or(business)
    }

    /// The machine's time at a business instant of this window.
    fn wall_at(&self, business: jiff::Timestamp) -> jiff::Timestamp {
        let clock = &self.shared.clock;
        let (wall, now) = (clock.wall(), clock.business());
        let ago_ms = now.as_millisecond().saturating_sub(business.as_millisecond()).max(0);
        let ago_ms = ago_ms / i64::from(clock.scale().max(1));
        jiff::Timestamp::from_millisecond(wall.as_millisecond().saturating_sub(ago_ms)).unwrap_or(wall)
    }

    /// What would have been sent of a row in the window: a stop, the end of consent or of a window that came after its begin
    /// does not undo a request.
    fn as_if_sent(
        &self,
        mut row: Box<DueRow>,
        until: jiff::Timestamp,
        window: jiff::Timestamp,
    ) -> Option<SentLine> {
        let fired = row.sub.progress.next_at?;
        // What fell due after a stop was refused then, as it is now.
        let until = before_the_end(&mut row, until, window).filter(|until| fired <= *until)?;
        let catalog = self.shared.books.of(&row, &self.shared.books.current())?;
        crate::pricing::price_new_charge(&catalog, &mut row);
        let known = Conditions { held: row.held, merged: row.merged, ..Conditions::default() };
        // As early as it may have left: whoever sent it did so after that.
        for at in [fired.max(window).min(until), until, fired] {
            let Ok((Triage::Send { planned, rule }, plan)) = decide_row(&catalog, &row, at, &known) else {
                continue;
            };
            let ready = self.prepare(row, Arc::clone(&catalog), planned, rule.number(), plan).ok()?;
            return Some(self.sent_line(&ready, self.wall_at(at), at));
        }
        None
    }

    async fn asides_as_if_sent(
        &mut self,
        ids: &[i64],
        until: jiff::Timestamp,
        window: jiff::Timestamp,
    ) -> Result<Vec<SentLine>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let conn = self.db.conn().await?;
        let own = due_asides(conn, ids, until.as_millisecond()).await;
        let own = self.db.checked(own)?;
        let (rows, _) = self.load(ids).await?;
        let mut lines = Vec::new();
        for kept in own {
            let Some(row) = rows.iter().find(|row| row.sub.id.0 == kept.subscription_id) else { continue };
            let (Ok(aside), mut row) = (kept.aside(), row.clone()) else { continue };
            let until = before_the_end(&mut row, until, window);
            let Some(until) = until.filter(|until| aside.next_at.is_some_and(|fired| fired <= *until)) else {
                continue;
            };
            let Some(catalog) = self.shared.books.of(&row, &self.shared.books.current()) else { continue };
            let in_book = catalog.plan(row.sub.plan_no).zip(catalog.zone(row.zone_no));
            let Some((plan, zone)) = in_book else { continue };
            let decided = triage_aside(&row.sub, &aside, &plan.rules, zone, until, &Conditions::default());
            let Ok(AsideTriage::Send { planned, rule }) = decided else { continue };
            if let Ok(one) = self.prepare(row, Arc::clone(&catalog), planned, rule.number(), plan) {
                lines.push(self.sent_line(&one, self.wall_at(until), until));
            }
        }
        Ok(lines)
    }
}

/// The last instant at which a row's subscriber still agreed, with nothing in the row that says otherwise; `None` when that
/// was over before the window.
fn before_the_end(
    row: &mut DueRow,
    until: jiff::Timestamp,
    window: jiff::Timestamp,
) -> Option<jiff::Timestamp> {
    let ends = [row.sub.stop_at.take(), row.consent_until.take()];
    let until = ends
        .into_iter()
        .flatten()
        .map(|end| end.checked_sub(SignedDuration::from_millis(1)).unwrap_or(end))
        .fold(until, Ord::min);
    (until >= window).then_some(until)
}
