//! Who acts at this machine, and the audit log of what they do.

use billing_core::ids::AttemptId;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use storage::pg::{self, Actor, StoreError};

use crate::exit::usage;
use crate::home::host;

const NAME_CHARS_MAX: usize = 64;

/// Who acts: under the name that was given, else under that of the account. Nobody proves a name here; the account that
/// it was given from is recorded beside it.
pub(crate) fn actor(name: Option<&str>) -> anyhow::Result<Actor> {
    let account = account_name();
    let fine = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    let who = match name {
        Some(name) => name.trim().to_owned(),
        // Whatever an account is called, it can act.
        None => account.chars().map(|c| if fine(c) { c } else { '_' }).take(NAME_CHARS_MAX).collect(),
    };
    if who.is_empty() || who.len() > NAME_CHARS_MAX || !who.chars().all(fine) {
        return Err(usage(format!(
            "{who:?} is no name: 1 to {NAME_CHARS_MAX} letters, digits, '.', '_', '@', '-'"
        )));
    }
    let account: String = format!("{account}@{}", host()).chars().take(200).collect();
    Ok(Actor { who, account })
}

/// The account of this process, by its number: the environment could say anything.
fn account_name() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut own = fields.filter(|fields| fields.get(2) == Some(&uid.as_str()));
    let name = own.next().and_then(|fields| fields.first().map(|name| (*name).to_owned()));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("uid-{uid}"))
}

/// Adds an act to the audit log, under the account's own name. In the transaction of the act, last.
pub(crate) async fn audit(
    conn: &mut PgConnection,
    act: &str,
    subject: &str,
    details: Value,
) -> anyhow::Result<()> {
    pg::audit(conn, &actor(None)?, act, subject, &details.to_string()).await?;
    Ok(())
}

/// An attempt's id as commands print it.
pub(crate) fn attempt_name(subscription_id: i64, period: i32, attempt_no: i16) -> Result<String, StoreError> {
    use billing_core::ids::{ChargeId, SubscriptionId};
    let period = billing_core::period::Period::from_number(period)
        .map_err(|error| StoreError::Broken(format!("period {period}: {error}")))?;
    let charge = ChargeId { subscription: SubscriptionId(subscription_id), period };
    Ok(AttemptId { charge, attempt_no }.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_plain_and_the_account_stands_beside_them() {
        let actor = actor(Some("ana.b@example")).unwrap();
        assert_eq!(actor.who, "ana.b@example");
        assert!(actor.account.starts_with(&format!("{}@", account_name())));
        assert_eq!(super::actor(None).unwrap().who, account_name());
        for bad in ["", " ", "a b", "a'b", &"x".repeat(65), "ü"] {
            assert!(super::actor(Some(bad)).is_err(), "{bad}");
        }
    }
}
