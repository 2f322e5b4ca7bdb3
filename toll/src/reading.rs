//! What every reading command begins with: the data folder, a connection that cannot write, both clocks; and ids as
//! people type them.

use std::path::Path;

use anyhow::Context;
use billing_core::ids::{ChargeId, OurRef, SubscriptionId};
use billing_core::zone::Zone;
use sqlx::postgres::PgConnection;
use storage::pg::{self, BusinessNow, DueRow, StoreError, SubscriptionPlace};
use storage::vault::{SubscriberKey, Vault};

use crate::cli::Global;
use crate::database::Database;
use crate::exit::{failed, usage};
use crate::home::Home;

/// No statement of a reading command lasts longer.
const STATEMENT_TIMEOUT_MS: u32 = 20_000;

/// An open database for reading.
pub(crate) struct Reading {
    pub(crate) home: Home,
    pub(crate) database: Database,
    pub(crate) conn: PgConnection,
    pub(crate) now: BusinessNow,
}

impl Reading {
    /// Opens what is there; starts the private Postgres for the time of the command when it does not run.
    pub(crate) async fn open(global: &Global) -> anyhow::Result<Self> {
        if global.database.is_none() && !global.data.join("postgres").is_dir() {
            return Err(nothing_here(&global.data));
        }
        let home = Home::open(&global.data)?;
        let database = Database::open(&home, global.database.as_deref()).await?;
        match Self::prepare(&database).await {
            Ok((conn, now)) => Ok(Self { home, database, conn, now }),
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(database: &Database) -> anyhow::Result<(PgConnection, BusinessNow)> {
        let mut conn = database.conn().await.context("cannot connect to the database")?;
        pg::reading(&mut conn, STATEMENT_TIMEOUT_MS).await?;
        let now = pg::business_now(&mut conn).await.map_err(|error| match &error {
            StoreError::Refused(cause) if sqlstate(cause) == "42P01" => failed(
                "this database has no tables of Tollbook yet: `toll sub import` or `toll serve` makes them",
            ),
            _ => error.into(),
        })?;
        Ok((conn, now))
    }

    /// Stops a private Postgres that was started for this command.
    pub(crate) async fn close(self) {
        drop(self.conn);
        self.database.close().await;
    }

    /// The keys of this data folder; none are made.
    pub(crate) fn vault(&self) -> anyhow::Result<Vault> {
        let dir = self.home.secrets();
        if !dir.join("pepper.v1").is_file() {
            return Err(failed(format!("there are no keys in {}", dir.display())));
        }
        Ok(Vault::open_or_create(&dir)?)
    }

    /// A subscription with where it belongs.
    pub(crate) async fn subscription(&mut self, id: SubscriptionId) -> anyhow::Result<Loaded> {
        let none = || {
            failed(format!(
                "there is no subscription {id}: `toll sub show --reference MERCHANT REF` finds one by the merchant's \
                 own reference, `toll sub show --msisdn NUMBER` by its line"
            ))
        };
        let place = pg::subscription_place(&mut self.conn, id.0).await?.ok_or_else(none)?;
        let (rows, poison) = pg::load(&mut self.conn, &[id.0]).await?;
        if let Some((.., why)) = poison.into_iter().next() {
            return Err(failed(format!("the row of {id} cannot be read: {why}")));
        }
        let row = rows.into_iter().next().ok_or_else(none)?;
        let zone = Zone::named(&place.zone)?;
        Ok(Loaded { row: *row, place, zone })
    }

    /// The charge that an id names, with the attempt of an attempt's id: `ch_…`, `at_…`, or our key on the wire.
    pub(crate) async fn charge_id(&mut self, text: &str) -> anyhow::Result<(ChargeId, Option<i16>)> {
        if let Some(parsed) = parse_charge(text) {
            return parsed;
        }
        let our_ref = OurRef::parse(text).ok().and_then(|our_ref| our_ref.parts().ok());
        let Some((seed, period, attempt_no)) = our_ref else { return Err(no_charge_id(text)) };
        let subscription = pg::by_ref_seed(&mut self.conn, seed.0).await?.ok_or_else(|| {
            failed(format!(
                "{text} has the form of our key on the wire, but no subscription here has made it"
            ))
        })?;
        Ok((ChargeId { subscription: SubscriptionId(subscription), period }, Some(attempt_no)))
    }
}

/// A subscription with where it belongs.
pub(crate) struct Loaded {
    pub(crate) row: DueRow,
    pub(crate) place: SubscriptionPlace,
    pub(crate) zone: Zone,
}

impl Loaded {
    /// The subscriber's key.
    pub(crate) fn key(&self, vault: &Vault) -> anyhow::Result<SubscriberKey> {
        Ok(vault.subscriber_key(&self.row.key_salt, self.row.kek_version)?)
    }

    /// The line's number in clear: never to be printed.
    pub(crate) fn msisdn(&self, key: &SubscriberKey) -> anyhow::Result<String> {
        let plain = key.open(&pg::msisdn_aad(self.row.sub.subscriber_id), &self.row.msisdn_ct)?;
        String::from_utf8(plain).map_err(|_| failed("the line's number is not text"))
    }
}

fn nothing_here(data: &Path) -> anyhow::Error {
    let demo = data.join("demo");
    let hint = if demo.join("postgres").is_dir() {
        format!("the demo's is in {0}: --data {0}", demo.display())
    } else {
        "`toll serve` makes a new one".to_owned()
    };
    failed(format!(
        "there is no Tollbook in {}: name its folder with --data DIR or its database with --database URL; {hint}",
        data.display()
    ))
}

/// `ch_…` or `at_…`; `None` for another beginning.
fn parse_charge(text: &str) -> Option<anyhow::Result<(ChargeId, Option<i16>)>> {
    if text.starts_with("ch_") {
        return Some(text.parse().map(|charge| (charge, None)).map_err(|_| no_charge_id(text)));
    }
    let rest = text.strip_prefix("at_")?;
    let parsed = rest.rsplit_once('-').and_then(|(charge, attempt_no)| {
        let charge = format!("ch_{charge}").parse().ok()?;
        let attempt_no =
            attempt_no.parse().ok().filter(|no| (1..=billing_core::ids::ATTEMPT_NO_MAX).contains(no))?;
        Some((charge, Some(attempt_no)))
    });
    Some(parsed.ok_or_else(|| no_charge_id(text)))
}

fn no_charge_id(text: &str) -> anyhow::Error {
    let shown: String = crate::shown::one_line(text).chars().take(64).collect();
    if text.parse::<SubscriptionId>().is_ok() {
        return usage(format!(
            "{shown} is a subscription; its charges: toll charge list --subscription {shown}"
        ));
    }
    usage(format!(
        "{shown:?} is not a charge: ids look like ch_0008000000003-20261121 (at_0008000000003-20261121-2 for its \
         second attempt), or 20 characters or 30 digits of our key on the wire; `toll charge list` shows recent ones"
    ))
}

/// A subscription's id as people type it.
pub(crate) fn subscription_id(text: &str) -> Result<SubscriptionId, String> {
    let shown: String = crate::shown::one_line(text).chars().take(64).collect();
    text.parse().map_err(|_| match text.parse::<ChargeId>() {
        Ok(charge) => format!("{shown} is a charge; its subscription is {}", charge.subscription),
        Err(_) => format!(
            "{shown:?} is not a subscription: ids look like sub_0008000000003; `toll sub show --reference MERCHANT \
             REF` or `--msisdn NUMBER` finds one"
        ),
    })
}

/// The SQLSTATE of what a server refused; empty for other errors.
pub(crate) fn sqlstate(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn charges_and_attempts_are_read() {
        let (charge, attempt) = parse_charge("ch_0008000000003-20261121").unwrap().unwrap();
        assert_eq!((charge.to_string(), attempt), ("ch_0008000000003-20261121".into(), None));
        let (charge, attempt) = parse_charge("at_0008000000003-20261121t0630-12").unwrap().unwrap();
        assert_eq!((charge.to_string(), attempt), ("ch_0008000000003-20261121t0630".into(), Some(12)));
        for bad in [
            "ch_",
            "at_0008000000003-20261121",
            "at_0008000000003-20261121-0",
            "at_0008000000003-20261121-1024",
        ] {
            assert_eq!(
                crate::exit::code_of(&parse_charge(bad).unwrap().unwrap_err()),
                crate::exit::USAGE,
                "{bad}"
            );
        }
        assert!(parse_charge("sub_0008000000003").is_none());
    }

    #[test]
    fn a_wrong_id_tells_the_right_form_and_cannot_steer_the_terminal() {
        let text = no_charge_id("ch_1\u{1b}[2J").to_string();
        assert!(text.contains("ch_0008000000003-20261121") && text.contains("charge list"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(no_charge_id("sub_0008000000003").to_string().contains("charge list --subscription"));
        assert!(subscription_id("ch_0008000000003-20261121").unwrap_err().contains("sub_0008000000003"));
        assert!(subscription_id("7").unwrap_err().contains("--reference"));
    }
}
