//! Consent that was renewed: what rested for the want of it goes on.

use billing_core::reason::Rule;
use billing_core::states::SubscriptionState;
use billing_core::triage::resume;
use storage::pg::{DueRow, InboxRow, StoreError, last_note_rule};

use super::InboxReader;
use crate::stripe::{Stripe, Work};

impl InboxReader {
    /// Resumes what the end of consent suspended; everything else looks at its consent when it fires.
    pub(super) async fn consented(&mut self, stripe: &Stripe, row: &InboxRow) -> Result<(), StoreError> {
        let id = row.subscription_id;
        if !stripe.hold(id) {
            return Ok(()); // on its way: the next pass
        }
        let Some(due) = self.load_one(stripe, id).await? else {
            return self.drop_row(row).await;
        };
        let now = self.shared.clock.business();
        let holds = due.consent_until.is_none_or(|until| until > now);
        let rested = match holds && due.sub.progress.state == SubscriptionState::Suspended {
            true => self.rests_for_consent(&due).await.inspect_err(|_| stripe.release(id))?,
            false => false,
        };
        let current = self.shared.books.current();
        let catalog = self.shared.books.of(&due, &current).unwrap_or(current);
        let known = catalog.plan(due.sub.plan_no).zip(catalog.zone(due.zone_no));
        let resumed = match known.filter(|_| rested) {
            Some((plan, zone)) => resume(&due.sub, &plan.rules, zone, now),
            None => Ok(None),
        };
        match resumed {
            Ok(Some(mut note)) => {
                note.rule = Rule::CONSENT_RENEWED;
                self.make_room(stripe, &note).await?;
                let inbox = Some((row.shard.0, row.id));
                stripe.put(Work::Note { row: due, note: Box::new(note), catalog, inbox });
                Ok(())
            }
            Ok(None) => {
                stripe.release(id);
                self.fires_again(stripe, due.next_entry());
                self.drop_row(row).await
            }
            Err(error) => {
                let why = error.to_string();
                stripe.put(Work::Poison { subscription_id: id, rev: due.sub.rev, why });
                self.drop_row(row).await
            }
        }
    }

    /// Whether the end of consent was the last that was written of it: what was suspended for another reason stays so.
    async fn rests_for_consent(&mut self, due: &DueRow) -> Result<bool, StoreError> {
        let conn = self.db.conn().await?.postgres()?;
        let at = &due.sub;
        let rule = last_note_rule(conn, at.id.0, at.progress.period, at.rev - 1).await;
        Ok(self.db.checked(rule)? == Some(Rule::CONSENT_ENDED.number()))
    }
}
