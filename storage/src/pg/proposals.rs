//! Decisions of people about attempts that nothing else can settle: one proposes, another approves.

use sqlx::postgres::PgConnection;

use super::StoreError;
use super::audit::Actor;

row! {
    /// A proposal.
    pub struct ProposalRow {
        /// Its number.
        pub id: i64,
        /// Whose charge.
        pub subscription_id: i64,
        /// Which period.
        pub period: i32,
        /// Which attempt.
        pub attempt_no: i16,
        /// The outcome's detail, as a number.
        pub reason: i16,
        /// What moved, minor units.
        pub moved_minor: i64,
        /// ISO 4217 numeric.
        pub currency: i16,
        /// Why it is proposed.
        pub why: String,
        /// Who proposed it.
        pub proposed_by: String,
        /// From which account.
        pub proposed_account: String,
        /// Machine time, microseconds.
        pub proposed_at_us: i64,
        /// Machine time, microseconds.
        pub expires_at_us: i64,
        /// 0 proposed, 1 approved, 2 expired.
        pub state: i16,
        /// Who approved it.
        pub approved_by: Option<String>,
        /// From which account.
        pub approved_account: Option<String>,
        /// Machine time, microseconds.
        pub decided_at_us: Option<i64>,
        /// Of everything that is approved.
        pub digest: Vec<u8>,
    }
}

/// What became of an attempt, as somebody proposes it.
#[derive(Debug, Clone, Copy)]
pub struct Proposing<'a> {
    /// The attempt as commands print it, for the audit log.
    pub subject: &'a str,
    /// Subscription, period, attempt number.
    pub attempt: (i64, i32, i16),
    /// The outcome's detail, as a number and as its word.
    pub outcome: (i16, &'a str),
    /// What moved, minor units.
    pub moved_minor: i64,
    /// Why: 1 to 500 characters.
    pub why: &'a str,
}

/// Proposes; `None` when the attempt is neither unknown nor in review, or is proposed about already.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn propose_decision(
    conn: &mut PgConnection,
    actor: &Actor,
    what: &Proposing<'_>,
) -> Result<Option<i64>, StoreError> {
    let made = sqlx::query_scalar("SELECT propose_decision($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)");
    Ok(made
        .bind(&actor.who)
        .bind(&actor.account)
        .bind(what.subject)
        .bind(what.attempt.0)
        .bind(what.attempt.1)
        .bind(what.attempt.2)
        .bind(what.outcome.0)
        .bind(what.outcome.1)
        .bind(what.moved_minor)
        .bind(what.why)
        .fetch_one(conn)
        .await?)
}

/// What an approval came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// The owner of the shard carries it out.
    Approved,
    /// There is no such proposal.
    NotFound,
    /// Somebody was faster.
    Decided,
    /// It is older than 24 hours.
    Expired,
    /// Who proposed it cannot approve it.
    SamePerson,
    /// It, or the attempt, is not what was seen.
    Changed,
}

/// Approves what was seen, once.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn approve_decision(
    conn: &mut PgConnection,
    actor: &Actor,
    subject: &str,
    id: i64,
    digest: &[u8],
    evidence: &[u8],
) -> Result<Approval, StoreError> {
    let verdict: String = sqlx::query_scalar("SELECT approve_decision($1, $2, $3, $4, $5, $6)")
        .bind(&actor.who)
        .bind(&actor.account)
        .bind(subject)
        .bind(id)
        .bind(digest)
        .bind(evidence)
        .fetch_one(conn)
        .await?;
    Ok(match verdict.as_str() {
        "ok" => Approval::Approved,
        "not_found" => Approval::NotFound,
        "decided" => Approval::Decided,
        "expired" => Approval::Expired,
        "same_person" => Approval::SamePerson,
        "changed" => Approval::Changed,
        other => return Err(StoreError::Broken(format!("approve_decision says {other:?}"))),
    })
}

/// A proposal.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn proposal(conn: &mut PgConnection, id: i64) -> Result<Option<ProposalRow>, StoreError> {
    let row = sqlx::query_as(
        "SELECT id, subscription_id, period, attempt_no, reason, moved_minor, currency, why, proposed_by, proposed_account,
                (extract(epoch FROM proposed_at) * 1000000)::bigint AS proposed_at_us,
                (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us, state, approved_by, approved_account,
                (extract(epoch FROM decided_at) * 1000000)::bigint AS decided_at_us, digest
           FROM decision_proposal WHERE id = $1",
    );
    Ok(row.bind(id).fetch_optional(conn).await?)
}

/// Proposals that wait for somebody else, oldest first, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn open_proposals(conn: &mut PgConnection, limit: i64) -> Result<Vec<ProposalRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT id, subscription_id, period, attempt_no, reason, moved_minor, currency, why, proposed_by, proposed_account,
                (extract(epoch FROM proposed_at) * 1000000)::bigint AS proposed_at_us,
                (extract(epoch FROM expires_at) * 1000000)::bigint AS expires_at_us, state, approved_by, approved_account,
                (extract(epoch FROM decided_at) * 1000000)::bigint AS decided_at_us, digest
           FROM decision_proposal WHERE state = 0 AND expires_at > now() ORDER BY id LIMIT $1",
    );
    Ok(rows.bind(limit).fetch_all(conn).await?)
}

row! {
    /// An attempt that people may have to settle.
    pub struct ReviewRow {
        /// Whose charge.
        pub subscription_id: i64,
        /// Which period.
        pub period: i32,
        /// Which attempt.
        pub attempt_no: i16,
        /// 2 unknown, 3 in review.
        pub kind: i16,
        /// Why it is open, as a number.
        pub reason: i16,
        /// Asked for, minor units.
        pub amount_minor: i64,
        /// ISO 4217 numeric.
        pub currency: i16,
        /// Since when, machine time, microseconds.
        pub since_us: i64,
        /// When its intent became durable, machine time, microseconds.
        pub intent_at_us: i64,
        /// Who has it.
        pub assignee: Option<String>,
        /// The carrier.
        pub carrier: String,
        /// The carrier's own id of it.
        pub carrier_txn_id: Option<String>,
        /// Messages of the carrier about it.
        pub messages: i64,
        /// Cases about it.
        pub cases: i64,
    }
}

/// Attempts that are unknown or in review, those in review first, then the oldest; at most `limit`.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn attempts_to_review(conn: &mut PgConnection, limit: i64) -> Result<Vec<ReviewRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT o.subscription_id, o.period, o.attempt_no, o.kind, o.reason, o.amount_minor, o.currency,
                (extract(epoch FROM o.since) * 1000000)::bigint AS since_us,
                (SELECT us(i.intent_at) FROM attempt_intent i WHERE i.subscription_id = o.subscription_id
                    AND i.period = o.period AND i.attempt_no = o.attempt_no) AS intent_at_us,
                o.assignee, c.id AS carrier, o.carrier_txn_id,
                (SELECT count(*) FROM callback_inbox b WHERE b.subscription_id = o.subscription_id AND b.period = o.period
                    AND b.attempt_no = o.attempt_no AND b.carrier_txn_id IS NOT DISTINCT FROM o.carrier_txn_id) AS messages,
                (SELECT count(*) FROM case_file f WHERE f.subscription_id = o.subscription_id AND f.period = o.period
                    AND f.attempt_no = o.attempt_no) AS cases
           FROM (SELECT * FROM attempt_open WHERE kind IN (2, 3) ORDER BY kind DESC, since LIMIT $1) AS o
           JOIN carrier c ON c.carrier_no = o.subscription_id >> 44
          ORDER BY o.kind DESC, o.since",
    );
    Ok(rows.bind(limit).fetch_all(conn).await?)
}

row! {
    /// A case with whom it is about.
    pub struct CaseLine {
        /// Its number.
        pub id: i64,
        /// Whom it is about.
        pub subscription_id: i64,
        /// The charge's period, where it is about one.
        pub period: Option<i32>,
        /// The attempt, where it is about one.
        pub attempt_no: Option<i16>,
        /// When it was opened, machine time, microseconds.
        pub opened_at_us: i64,
        /// `quarantine`, `conflict`, ...
        pub kind: String,
        /// What people must look at.
        pub what: String,
    }
}

/// The latest cases, newest first, at most `limit`; or the one of a number.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn case_lines(
    conn: &mut PgConnection,
    id: Option<i64>,
    limit: i64,
) -> Result<Vec<CaseLine>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT id, subscription_id, period, attempt_no, (extract(epoch FROM opened_at) * 1000000)::bigint AS opened_at_us,
                kind, what
           FROM case_file WHERE $1::bigint IS NULL OR id = $1 ORDER BY id DESC LIMIT $2",
    );
    Ok(rows.bind(id).bind(limit).fetch_all(conn).await?)
}
