//! `toll ops propose` and `approve`: two people settle what nothing else can.

use anyhow::Context;
use billing_core::outcome::{LimitKind, Op, Outcome, ReasonCode, Refusal};
use billing_core::states::{AttemptState, State, from_number};
use scheduler::decision_of_people;
use serde::Serialize;
use storage::pg::{self, Approval, AttemptRow, ProposalRow, Proposing};
use storage::story::StoryOutcome;

use crate::cli::Global;
use crate::database::Database;
use crate::exit::{failed, stale, usage};
use crate::home::Home;
use crate::out;
use crate::reading::Reading;
use crate::who::{actor, attempt_name};
use crate::words::{self, Amount};

const WHY_CHARS_MAX: usize = 500;

/// What `toll ops propose` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Somebody else approves it within 24 hours; until then nothing happens. `declined` alone means for lack of
funds; `declined:barred` and so on say why. `not-applied` means that the request never reached the carrier's
books: it is tried again under a new key, so be sure. What it means for the subscription follows the plan, as if
the carrier had said it.

Examples:
  toll ops propose at_0008000000003-20261201-1 --outcome approved --reason 'in the statement of 2 December'
  toll ops propose at_0008000000003-20261201-1 --outcome declined:barred --reason 'mail of the carrier' --as ana"
)]
pub(crate) struct ProposeArgs {
    /// The attempt (at_…) or our key on the wire
    attempt: String,
    /// What became of it: approved, not-applied, declined[:no_funds|barred|limit|not_allowed|unknown_subscriber|expired]; of
    /// money that evidence says was taken: adopt, not-ours
    #[arg(long, value_parser = Proposal::parse)]
    outcome: Proposal,
    /// The evidence, in words: 1 to 500 characters
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who proposes; the machine's account by default
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// What `toll ops approve` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --yes it shows what would be decided. Who proposed it cannot approve it. If the proposal or the attempt
changed since, it is refused: propose again. With --digest only what somebody showed you is approved.

Examples:
  toll ops approve 4
  toll ops approve 4 --as ben --yes"
)]
pub(crate) struct ApproveArgs {
    /// The proposal's number
    #[arg(value_name = "PROPOSAL")]
    id: i64,
    /// Only if the proposal's digest begins like this
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// Who approves; the machine's account by default
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// What somebody says became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proposal {
    Approved,
    Declined(Refusal),
    NotApplied,
    /// Of an adoption: the money is taken into the books.
    Adopt,
    /// Of an adoption: the evidence is not about this charge.
    NotOurs,
}

impl Proposal {
    fn parse(text: &str) -> Result<Self, String> {
        let (word, detail) = text.split_once(':').unwrap_or((text, ""));
        let refusal = match detail {
            "" | "no_funds" => Refusal::NoFunds,
            "barred" => Refusal::Barred,
            "limit" => Refusal::Limit(LimitKind::PerCharge),
            "not_allowed" => Refusal::NotAllowed,
            "unknown_subscriber" => Refusal::UnknownSubscriber,
            "expired" => Refusal::Expired,
            _ => return Err(format!("the carrier refuses for no reason called {detail:?}")),
        };
        match (word, detail) {
            ("approved", "") => Ok(Self::Approved),
            ("not-applied", "") => Ok(Self::NotApplied),
            ("adopt", "") => Ok(Self::Adopt),
            ("not-ours", "") => Ok(Self::NotOurs),
            ("declined", _) => Ok(Self::Declined(refusal)),
            _ => Err("write approved, not-applied, declined[:why], adopt or not-ours".to_owned()),
        }
    }

    /// What evidence says against the record is adopted or not; everything else is neither.
    fn fits(self, op: Op) -> anyhow::Result<()> {
        match (op == Op::Adopt, matches!(self, Self::Adopt | Self::NotOurs)) {
            (true, false) => Err(usage(
                "this attempt stands for money that evidence says was taken: --outcome adopt takes it into the books, \
                 --outcome not-ours says that it is not of this charge",
            )),
            (false, true) => Err(usage(
                "only an attempt of the operation adopt is adopted or not ours; toll explain tells",
            )),
            _ => Ok(()),
        }
    }

    fn outcome(self, op: Op, amount_minor: i64) -> Outcome {
        match self {
            Self::Declined(refusal) => Outcome::Declined(refusal),
            Self::NotApplied | Self::NotOurs => Outcome::Absent,
            Self::Approved | Self::Adopt => match op {
                Op::Charge | Op::Confirm | Op::Adopt => Outcome::Charged { amount_minor },
                Op::Refund => Outcome::Refunded { amount_minor },
                Op::Reserve => Outcome::Reserved,
                Op::Cancel => Outcome::Released,
            },
        }
    }
}

/// A proposal as commands show it.
#[derive(Debug, Serialize)]
pub(super) struct Proposed {
    pub(super) proposal: i64,
    pub(super) attempt: String,
    pub(super) outcome: String,
    moved: Amount,
    pub(super) why: String,
    pub(super) proposed_by: String,
    /// `proposed`, `approved`, `expired`.
    state: &'static str,
    proposed_at: String,
    pub(super) expires_at: String,
    approved_by: Option<String>,
    digest: String,
}

impl Proposed {
    pub(super) fn of(row: &ProposalRow) -> anyhow::Result<Self> {
        Ok(Self {
            proposal: row.id,
            attempt: attempt_name(row.subscription_id, row.period, row.attempt_no)?,
            outcome: outcome_words(row.reason).to_owned(),
            moved: Amount::new(row.moved_minor, row.currency),
            why: crate::shown::one_line(&row.why),
            proposed_by: row.proposed_by.clone(),
            state: match row.state {
                0 => "proposed",
                1 => "approved",
                _ => "expired",
            },
            proposed_at: words::machine(row.proposed_at_us),
            expires_at: words::machine(row.expires_at_us),
            approved_by: row.approved_by.clone(),
            digest: hex_of(&row.digest),
        })
    }

    fn text(&self) -> String {
        format!(
            "proposal {}: {} became {} ({} moved)\n  why      {}\n  by       {}, {}\n  expires  {}\n  digest   {}\n",
            self.proposal,
            self.attempt,
            self.outcome,
            self.moved,
            self.why,
            self.proposed_by,
            self.proposed_at,
            self.expires_at,
            self.digest
        )
    }
}

/// The word for an outcome's number.
pub(super) fn outcome_words(reason: i16) -> &'static str {
    ReasonCode(reason).name()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Proposes.
pub(super) async fn propose(global: &Global, args: &ProposeArgs) -> anyhow::Result<()> {
    let mut reading = Reading::open(global).await?;
    let proposed = propose_with(&mut reading, args).await;
    reading.close().await;
    let proposed = proposed?;
    if global.json {
        return out::json(&proposed);
    }
    out::print(&proposed.text())?;
    eprintln!("somebody else approves it: toll ops approve {} --as NAME --yes", proposed.proposal);
    Ok(())
}

async fn propose_with(reading: &mut Reading, args: &ProposeArgs) -> anyhow::Result<Proposed> {
    let why = args.reason.trim();
    if why.is_empty() || why.chars().count() > WHY_CHARS_MAX {
        return Err(usage(format!("--reason takes 1 to {WHY_CHARS_MAX} characters")));
    }
    let who = actor(args.name.as_deref())?;
    let (charge, named) = reading.charge_id(&args.attempt).await?;
    let attempt_no =
        named.ok_or_else(|| usage("name an attempt: at_…; toll explain shows those of a charge"))?;
    let (id, period) = (charge.subscription.0, charge.period.number());
    let rows = pg::attempts(&mut reading.conn, id, period).await?;
    let row = rows.into_iter().find(|row| row.attempt_no == attempt_no);
    let row = row.ok_or_else(|| failed(format!("{charge} has no attempt {attempt_no}")))?;
    settleable(&row)?;
    let op = Op::from_number(row.op).unwrap_or(Op::Charge);
    args.outcome.fits(op)?;
    let outcome = StoryOutcome::of(args.outcome.outcome(op, row.amount_minor));
    let subject = attempt_name(id, period, attempt_no)?;
    let what = Proposing {
        subject: &subject,
        attempt: (id, period, attempt_no),
        outcome: (outcome.reason, outcome_words(outcome.reason)),
        moved_minor: outcome.moved_minor,
        why,
    };
    let mut conn = reading.database.writing().await.context("cannot connect to the database")?;
    let made = pg::propose_decision(&mut conn, &who, &what).await?;
    let made = made.ok_or_else(|| {
        stale(format!("{subject} is proposed about already, or not open any more: toll ops cases lists both"))
    })?;
    let kept = pg::proposal(&mut conn, made).await?.context("the proposal is gone")?;
    Proposed::of(&kept)
}

fn settleable(row: &AttemptRow) -> anyhow::Result<()> {
    let state = from_number::<AttemptState>(row.state).unwrap_or(AttemptState::Intent);
    match state {
        AttemptState::Unknown | AttemptState::InReview => Ok(()),
        AttemptState::Intent | AttemptState::Accepted => {
            Err(failed(format!("attempt {} is {}: its answer may still come", row.attempt_no, state.name())))
        }
        _ => Err(failed(format!(
            "attempt {} is {} already, and that never changes",
            row.attempt_no,
            state.name()
        ))),
    }
}

/// Approves, or shows what would be.
pub(super) async fn approve(global: &Global, args: &ApproveArgs) -> anyhow::Result<()> {
    let home = Home::open(&global.data)?;
    let database = Database::open(&home, global.database.as_deref()).await?;
    let done = approve_with(&database, args).await;
    database.close().await;
    let proposed = done?;
    if global.json {
        out::json(&proposed)?;
    } else {
        out::print(&proposed.text())?;
    }
    if args.yes {
        eprintln!("approved: the owner of its shard carries it out, now or when one comes");
    } else {
        eprintln!("nothing was done: add --yes to approve it");
    }
    Ok(())
}

async fn approve_with(database: &Database, args: &ApproveArgs) -> anyhow::Result<Proposed> {
    let who = actor(args.name.as_deref())?;
    let mut conn = database.writing().await?;
    let none = || failed(format!("there is no proposal {}: toll ops cases lists them", args.id));
    let row = pg::proposal(&mut conn, args.id).await?.ok_or_else(none)?;
    if args.digest.as_ref().is_some_and(|seen| !hex_of(&row.digest).starts_with(&seen.to_lowercase())) {
        return Err(stale(format!("the digest of proposal {} is {}", row.id, hex_of(&row.digest))));
    }
    if !args.yes {
        return Proposed::of(&row);
    }
    let outcome =
        StoryOutcome { reason: row.reason, moved_minor: row.moved_minor, listed: false, after_ms: None };
    let outcome = outcome.outcome().with_context(|| format!("proposal {} has no known outcome", row.id))?;
    let evidence = decision_of_people((row.period, row.attempt_no), outcome, row.id)?;
    let subject = attempt_name(row.subscription_id, row.period, row.attempt_no)?;
    match pg::approve_decision(&mut conn, &who, &subject, row.id, &row.digest, &evidence).await? {
        Approval::Approved => {
            let kept = pg::proposal(&mut conn, row.id).await?.context("the proposal is gone")?;
            Proposed::of(&kept)
        }
        Approval::NotFound => Err(none()),
        Approval::Decided => Err(stale(format!("proposal {} was approved already", row.id))),
        Approval::Expired => Err(stale(format!("proposal {} has expired: propose it again", row.id))),
        Approval::SamePerson => {
            Err(failed(format!("{} proposed it: somebody else has to approve it", row.proposed_by)))
        }
        Approval::Changed => Err(stale(format!(
            "proposal {} or its attempt is not what was proposed any more: look again, and propose it again",
            row.id
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn outcomes_are_read_and_fit_the_operation() {
        assert_eq!(Proposal::parse("declined"), Ok(Proposal::Declined(Refusal::NoFunds)));
        assert_eq!(Proposal::parse("declined:barred"), Ok(Proposal::Declined(Refusal::Barred)));
        for bad in ["", "yes", "approved:barred", "declined:mood", "not-applied:x", "not_applied"] {
            assert!(Proposal::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Proposal::parse("not-ours"), Ok(Proposal::NotOurs));
        for (word, op, fits) in [
            ("adopt", Op::Adopt, true),
            ("not-ours", Op::Adopt, true),
            ("approved", Op::Adopt, false),
            ("not-applied", Op::Adopt, false),
            ("adopt", Op::Charge, false),
            ("not-ours", Op::Confirm, false),
            ("declined", Op::Refund, true),
        ] {
            assert_eq!(Proposal::parse(word).unwrap().fits(op).is_ok(), fits, "{word} {op:?}");
        }
        assert_eq!(
            Proposal::parse("adopt").unwrap().outcome(Op::Adopt, 5),
            Outcome::Charged { amount_minor: 5 }
        );
        let approved = Proposal::parse("approved").unwrap();
        assert_eq!(approved.outcome(Op::Charge, 5), Outcome::Charged { amount_minor: 5 });
        assert_eq!(approved.outcome(Op::Refund, 5), Outcome::Refunded { amount_minor: 5 });
        assert_eq!(approved.outcome(Op::Reserve, 5), Outcome::Reserved);
        assert_eq!(Proposal::parse("not-applied").unwrap().outcome(Op::Charge, 5), Outcome::Absent);
    }
}
