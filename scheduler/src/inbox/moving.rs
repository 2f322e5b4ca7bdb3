//! Moves, as the shard's owner carries them out: to another zone, day, hour, plan or carrier, each in one commit.

use std::fmt::Write;
use std::sync::Arc;

use billing_core::ids::{RefSeed, Shard, SubscriptionId};
use billing_core::period::{date_of_days, days_since_2000};
use billing_core::schedule::Anchor;
use billing_core::triage::{Change, MoveError, Note, Opening, change, change_carrier};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storage::pg::{
    DueRow, InboxRow, ShiftRow, StoreError, SuccessorRow, allocate_ids, lookup, msisdn_aad, reference_digest,
    zone_of_subscriber,
};
use storage::store::open_case;

use super::InboxReader;
use crate::catalog::{Catalog, CatalogPlan};
use crate::stripe::{Shift, Stripe, Work};

/// What a move asks for, as the inbox carries it: ids and names as the book has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveRequest {
    /// Another zone of the carrier.
    Zone(String),
    /// Another day, another minute of the day.
    Anchor {
        /// Days since 2000-01-01 of a date that has the day.
        day: Option<i32>,
        /// The local minute of the day.
        minute: Option<u16>,
    },
    /// Another plan at the same carrier.
    Plan(String),
    /// A plan of another carrier, in a zone of that.
    Carrier {
        /// The plan.
        plan: String,
        /// The zone; a line that the carrier knows keeps the one it has there.
        zone: String,
    },
}

impl MoveRequest {
    /// As bytes.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }
}

/// What the keys of the subscription are derived from that follows one with this digest at another carrier: the same
/// again for the same move, so that it cannot be opened twice.
#[must_use]
pub fn successor_seed(merchant: &str, digest: &[u8]) -> (RefSeed, [u8; 32]) {
    RefSeed::derive(merchant, &format!("moved:{}", hex(digest)), 1)
}

/// What becomes of a wish to move.
enum Decided {
    Move(Box<Note>, Shift, Arc<Catalog>),
    /// It stands so already.
    Stands,
    /// People are told why not.
    Refused(String),
    /// The row cannot be decided.
    Poison(String),
}

impl From<MoveError> for Decided {
    fn from(error: MoveError) -> Self {
        match error {
            MoveError::Refused(why) => Self::Refused(why.to_string()),
            MoveError::Core(error) => Self::Poison(error.to_string()),
        }
    }
}

impl InboxReader {
    /// Applied in one commit when the subscription stands so that it can be; else a case tells people why not.
    pub(super) async fn moved(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        let id = row.subscription_id;
        if !stripe.hold(id) {
            return Ok(()); // on its way: the next pass
        }
        let Some(due) = self.load_one(stripe, id).await? else {
            return self.drop_row(row).await;
        };
        let next = due.next_entry();
        let current = self.shared.books.current();
        let Some(own) = self.shared.books.of(&due, &current) else {
            stripe.release(id); // its version of the book is being read: the next pass
            self.fires_again(stripe, next);
            return Ok(());
        };
        let decided = match postcard::from_bytes(&row.payload) {
            Ok(request) => self.decided(&due, own, current, request).await,
            Err(_) => Ok(Decided::Refused("a request that cannot be read".to_owned())),
        };
        let refused = match decided {
            Ok(Decided::Move(note, shift, catalog)) => {
                self.make_room(stripe, &note).await?;
                let (inbox, shift) = ((row.shard.0, row.id), Box::new(shift));
                stripe.put(Work::Move { row: due, note, catalog, inbox, shift });
                return Ok(());
            }
            Ok(Decided::Poison(why)) => {
                stripe.put(Work::Poison { subscription_id: id, rev: due.sub.rev, why });
                return self.drop_row(row).await;
            }
            Ok(Decided::Stands) => None,
            Ok(Decided::Refused(why)) => Some(why),
            Err(error) => {
                stripe.release(id);
                self.fires_again(stripe, next);
                return Err(error);
            }
        };
        stripe.release(id);
        self.fires_again(stripe, next);
        if let Some(why) = refused {
            let conn = self.db.conn().await?;
            let opened = open_case(conn, id, None, "move_refused", &format!("not moved: {why}")).await;
            self.db.checked(opened)?;
        }
        self.drop_row(row).await
    }

    async fn decided(
        &mut self,
        due: &DueRow,
        own: Arc<Catalog>,
        current: Arc<Catalog>,
        request: MoveRequest,
    ) -> Result<Decided, StoreError> {
        let catalog = Arc::clone(&own);
        let Some((plan, zone)) = catalog.plan(due.sub.plan_no).zip(catalog.zone(due.zone_no)) else {
            return Ok(Decided::Refused("its plan or zone is not in the book".to_owned()));
        };
        let no_plan = |id: &str| Ok(Decided::Refused(format!("the book has no plan {id}")));
        let no_zone = |name: &str| Ok(Decided::Refused(format!("zone {name} is none of the book's")));
        let stays = ShiftRow { plan_no: due.sub.plan_no, zone_no: due.zone_no };
        let (changed, shift, decided_by) = match &request {
            MoveRequest::Zone(name) => {
                let Some((zone_no, there)) = zone_of(&own, name) else { return no_zone(name) };
                let changed = change(&due.sub, &plan.rules, zone, &Change::Zone(there));
                (changed, Some(ShiftRow { zone_no, ..stays }), Arc::clone(&own))
            }
            MoveRequest::Anchor { day, minute } => {
                let to = Change::Anchor { day: day.map(date_of_days), minute: *minute };
                (change(&due.sub, &plan.rules, zone, &to), None, Arc::clone(&own))
            }
            MoveRequest::Plan(id) => {
                let Some(to) = plan_of(&current, id) else { return no_plan(id) };
                let changed = change(&due.sub, &plan.rules, zone, &Change::Plan(&to.rules));
                let shift = ShiftRow { plan_no: to.plan_no, ..stays };
                (changed, Some(shift), Arc::clone(&current))
            }
            MoveRequest::Carrier { plan: id, zone: name } => {
                let Some(to) = plan_of(&current, id) else { return no_plan(id) };
                let Some((zone_no, _)) = zone_of(&current, name) else { return no_zone(name) };
                return self.successor(due, (plan, zone), &current, (to, zone_no)).await;
            }
        };
        Ok(match changed {
            Ok(None) => Decided::Stands,
            Ok(Some(note)) => Decided::Move(Box::new(note), Shift { row: shift, opens: None }, decided_by),
            Err(error) => error.into(),
        })
    }

    /// Closes this one and opens the next at another carrier.
    async fn successor(
        &mut self,
        due: &DueRow,
        (plan, zone): (&CatalogPlan, &billing_core::zone::Zone),
        catalog: &Arc<Catalog>,
        (to, asked_zone_no): (&CatalogPlan, i16),
    ) -> Result<Decided, StoreError> {
        let lost = |what: &str| Ok(Decided::Poison(what.to_owned()));
        let conn = self.db.conn().await?.postgres()?;
        let digest = reference_digest(conn, due.sub.ref_seed.0).await;
        let Some(digest) = self.db.checked(digest)? else { return lost("its reference is gone") };
        let (seed, digest) = successor_seed(&plan.rules.merchant, &digest);
        let vault = Arc::clone(&self.shared.vault);
        let plain = vault
            .subscriber_key(&due.key_salt, due.kek_version)
            .and_then(|key| key.open(&msisdn_aad(due.sub.subscriber_id), &due.msisdn_ct));
        let digits = plain.ok().and_then(|plain| String::from_utf8(plain).ok());
        let Some(digits) = digits else { return lost("its MSISDN cannot be opened") };
        let hmac = vault.msisdn_hmac(&digits);
        let numbers = catalog.names.carriers.get(&to.rules.carrier).copied();
        let merchant_no = catalog.names.merchants.get(&to.rules.merchant).copied();
        let (Some((carrier_no, slices, _)), Some(merchant_no)) = (numbers, merchant_no) else {
            return lost("the plan's carrier or merchant has no number");
        };
        let slice = u32::from_be_bytes([hmac[0], hmac[1], hmac[2], hmac[3]]) % slices.unsigned_abs().max(1);
        let Ok(shard) = Shard::new(carrier_no, slice) else { return lost("no shard for its line") };
        let conn = self.db.conn().await?.postgres()?;
        let known = lookup(conn, &[seed.0], &[hmac.to_vec()]).await;
        let known = self.db.checked(known)?;
        if known.references.contains_key(&seed.0) {
            return Ok(Decided::Stands);
        }
        let subscriber = known.subscribers.get(&(hmac.to_vec(), carrier_no)).copied();
        let zone_no = match subscriber {
            None => Some(asked_zone_no),
            Some(subscriber_id) => {
                let conn = self.db.conn().await?.postgres()?;
                let zone_no = zone_of_subscriber(conn, subscriber_id).await;
                self.db.checked(zone_no)?
            }
        };
        let Some((zone_no, there)) = zone_no.and_then(|no| Some((no, catalog.zone(no)?))) else {
            return Ok(Decided::Refused("the line's zone at the carrier is not in the book".to_owned()));
        };
        let moved =
            |id: i64| change_carrier(&due.sub, &plan.rules, zone, (&to.rules, there, SubscriptionId(id)));
        if let Err(error) = moved(shard.id(0)) {
            return Ok(error.into()); // before any number is used up
        }
        let conn = self.db.conn().await?.postgres()?;
        let firsts = allocate_ids(conn, &[(shard.0, i32::from(subscriber.is_none()), 1)]).await;
        let firsts = self.db.checked(firsts)?;
        let dense = |sequence: i64| u32::try_from(sequence).ok().map(|sequence| shard.id(sequence));
        let ids =
            firsts.get(&shard.0).and_then(|(line, new)| Some((subscriber.or(dense(*line))?, dense(*new)?)));
        let Some((subscriber_id, id)) = ids else { return lost("the carrier's shard has no number left") };
        let (note, opening) = match moved(id) {
            Ok(moved) => moved,
            Err(error) => return Ok(error.into()),
        };
        let sealed = vault.new_salt().and_then(|salt| {
            let kek_version = vault.current_kek_version();
            let mut sealed = Vec::new();
            let key = vault.subscriber_key(&salt, kek_version)?;
            key.seal(&msisdn_aad(subscriber_id), digits.as_bytes(), &mut sealed)?;
            Ok((kek_version, salt, sealed))
        });
        let Ok((kek_version, key_salt, msisdn_ct)) = sealed else {
            return lost("its MSISDN cannot be sealed");
        };
        let Opening { anchor: Anchor { date, minute, done }, progress: at } = opening;
        let ms = |at: Option<Timestamp>| at.map(Timestamp::as_millisecond);
        let opens = SuccessorRow {
            id,
            subscriber_id,
            zone_no,
            kek_version,
            msisdn_hmac: hex(&hmac),
            key_salt: hex(&key_salt),
            msisdn_ct: hex(&msisdn_ct),
            ref_seed: seed.0,
            digest: hex(&digest),
            due_minor: at.due_minor,
            next_at_ms: ms(at.next_at),
            paid_until_ms: ms(at.paid_until),
            consent_until_ms: ms(due.consent_until),
            plan_no: to.plan_no,
            merchant_no,
            book_version: catalog.names.book_version,
            anchor_day: days_since_2000(date),
            anchor_minute: minute,
            anchor_done: done,
            period: at.period.number(),
            currency: to.rules.price.currency.numeric(),
            state: at.state as i16,
            next_kind: at.next_kind as i16,
        };
        let shift = Shift { row: None, opens: Some(Box::new(opens)) };
        Ok(Decided::Move(Box::new(note), shift, Arc::clone(catalog)))
    }
}

fn plan_of<'a>(catalog: &'a Catalog, id: &str) -> Option<&'a CatalogPlan> {
    catalog.plan(*catalog.names.plans.get(id)?)
}

fn zone_of<'a>(catalog: &'a Catalog, name: &str) -> Option<(i16, &'a billing_core::zone::Zone)> {
    let number = *catalog.names.zones.get(name)?;
    Some((number, catalog.zone(number)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
