//! Money that a carrier took back by itself, as its statement says: booked by the shard's owner in one commit.

use std::sync::Arc;

use billing_core::decide::{RefundRefused, reverse};
use billing_core::ids::ChargeId;
use billing_core::period::Period;
use billing_core::subscription::{Aside, Progress};
use serde::{Deserialize, Serialize};
use storage::pg::{AttemptRow, InboxRow, StoreError, reversal_by_reference, reversals_of};
use storage::store::open_case;

use super::InboxReader;
use crate::refund::{RefundProblem, row_of};
use crate::stripe::{Reversal, Stripe, Work};

/// The most characters of a carrier's reference.
pub const REVERSAL_REFERENCE_CHARS_MAX: usize = 64;

/// What the carrier took back, as the inbox carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReversalRequest {
    /// The charge's period, as a number.
    pub period: i32,
    /// How much, minor units.
    pub amount_minor: i64,
    /// What the carrier calls it: 1 to [`REVERSAL_REFERENCE_CHARS_MAX`] characters. The same one again changes nothing.
    pub reference: String,
}

impl ReversalRequest {
    /// As bytes.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }
}

/// The charge's own row before a reversal, made of its attempts where it has none. `progress`: the charge in the
/// subscription's row, while its period is current.
///
/// # Errors
/// [`RefundProblem`] when nothing was collected, or less than is taken back is left.
pub fn plan_reversal_of(
    charge: ChargeId,
    progress: &Progress,
    rows: &[AttemptRow],
    kept: Option<&Aside>,
    amount_minor: i64,
) -> Result<Aside, RefundProblem> {
    let aside = row_of(charge, progress, rows, kept).ok_or(RefundProblem::NothingCollected)?;
    if aside.collected_minor == 0 {
        return Err(RefundProblem::NothingCollected);
    }
    reverse(&aside, amount_minor).map_err(|why: RefundRefused| RefundProblem::Refused(why))?;
    Ok(aside)
}

impl InboxReader {
    /// Booked once per reference; what cannot be booked becomes a case.
    pub(super) async fn reversed(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        let id = row.subscription_id;
        if !stripe.hold(id) {
            return Ok(()); // on its way: the next pass
        }
        let Some(due) = self.load_one(stripe, id).await? else {
            return self.drop_row(row).await;
        };
        let next = due.next_entry();
        let request = postcard::from_bytes::<ReversalRequest>(&row.payload).ok();
        let charge = request.as_ref().and_then(|request| {
            let period = Period::from_number(request.period).ok()?;
            Some((ChargeId { subscription: due.sub.id, period }, request))
        });
        let planned = match charge {
            Some((charge, request)) => self.reversal(charge, &due.sub.progress, request).await,
            None => Ok(Err("a request that cannot be read".to_owned())),
        };
        let refused = match planned {
            Ok(Ok(Some(reversal))) => {
                let inbox = (row.shard.0, row.id);
                let catalog = self.shared.books.current();
                stripe.put(Work::Reversal { row: due, reversal: Box::new(reversal), catalog, inbox });
                return Ok(());
            }
            Ok(Ok(None)) => None,
            Ok(Err(why)) => Some(why),
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
            let attempt = request.as_ref().map(|request| (request.period, 0));
            let what = match &request {
                Some(request) => format!(
                    "the carrier took back {} minor units under {:?}, and that is not booked: {why}",
                    request.amount_minor, request.reference
                ),
                None => why,
            };
            let opened = open_case(conn, id, attempt, "reversal_refused", &what).await;
            self.db.checked(opened)?;
        }
        self.drop_row(row).await
    }

    /// The reversal to book; `None` when it is booked already.
    async fn reversal(
        &mut self,
        charge: ChargeId,
        progress: &Progress,
        request: &ReversalRequest,
    ) -> Result<Result<Option<Reversal>, String>, StoreError> {
        if !(1..=REVERSAL_REFERENCE_CHARS_MAX).contains(&request.reference.chars().count()) {
            return Ok(Err("its reference has no or too many characters".to_owned()));
        }
        let carrier_no = charge.subscription.shard().carrier_no();
        let conn = self.db.conn().await?.postgres()?;
        let known = reversal_by_reference(conn, carrier_no, &request.reference).await;
        if let Some(known) = self.db.checked(known)? {
            let of = (known.subscription_id, known.period, known.amount_minor);
            let same = of == (charge.subscription.0, charge.period.number(), request.amount_minor);
            return Ok(if same {
                Ok(None)
            } else {
                Err("its reference stands for another reversal".to_owned())
            });
        }
        let conn = self.db.conn().await?.postgres()?;
        let before = reversals_of(conn, charge.subscription.0, charge.period).await;
        let before = self.db.checked(before)?.last().map_or(0, |last| last.reversal_no);
        let (rows, kept) = self.refund_rows(charge.subscription.0, charge.period).await?;
        let aside = match plan_reversal_of(charge, progress, &rows, kept.as_ref(), request.amount_minor) {
            Ok(aside) => aside,
            Err(why) => return Ok(Err(why.to_string())),
        };
        let Some(reversal_no) = before.checked_add(1).filter(|no| *no < i16::MAX) else {
            return Ok(Err("the charge has no reversal number left".to_owned()));
        };
        let (amount_minor, reference) = (request.amount_minor, Arc::from(request.reference.as_str()));
        Ok(Ok(Some(Reversal { aside, reversal_no, amount_minor, reference })))
    }
}
