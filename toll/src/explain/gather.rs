//! Brings together what the tables and the history keep of a charge.

use std::collections::{BTreeMap, HashMap};

use billing_core::book::reader::Source;
use billing_core::ids::ChargeId;
use billing_core::ledger::LegKind;
use billing_core::outcome::{Doubt, Outcome};
use billing_core::period::date_of_days;
use billing_core::plan::PlanRules;
use billing_core::states::{AttemptState, ChargeState, State, SubscriptionState, from_number};
use billing_core::subscription::{FLAG_QUARANTINED, NextKind};
use billing_core::triage::NoteKind;
use carriers::StandInSecrets;
use storage::pg::{self, AttemptRow, ChargeKey, ChargeRow, IncarnationRow, NoteRow};
use storage::story::Story;
use storage::vault::mask_msisdn;

use super::attempt::{self, Sources};
use super::story::{Case, Explanation, Grant, Next, Note, Open, Transfer};
use super::why::{self, Facts, state_name};
use crate::book_files;
use crate::exit::failed;
use crate::kept::Kept;
use crate::reading::{Loaded, Reading};
use crate::shown::{Mask, Number, one_line};
use crate::waits::Waits;
use crate::words::{self, Amount, Moment, RuleWords};

/// Cases that are shown at most.
const CASES_MAX: i64 = 20;

/// Everything that is known of the charge that `text` names.
pub(super) async fn explanation(
    reading: &mut Reading,
    text: &str,
    bytes: bool,
    reveal: bool,
) -> anyhow::Result<Explanation> {
    let (charge, attempt_no) = reading.charge_id(text).await?;
    let loaded = reading.subscription(charge.subscription).await?;
    let row = charge_row(reading, charge, attempt_no, &loaded).await?;
    let (id, period) = (charge.subscription.0, charge.period.number());
    let attempts = pg::attempts(&mut reading.conn, id, period).await?;
    let notes = pg::notes(&mut reading.conn, id, period).await?;
    let mut missing = Vec::new();

    let version = attempts.last().map_or(loaded.place.newest_book_version, |attempt| attempt.book_version);
    let book = match book_of(reading, version, &loaded.place.plan).await {
        Ok(book) => Some(book),
        Err(why) => {
            missing.push(format!("book version {version} cannot be read: {}", one_line(&format!("{why:#}"))));
            None
        }
    };
    let rules = book.as_ref().map(|(rules, _)| rules);
    let prefix = book.as_ref().map(|(_, prefix)| prefix.as_str());

    let (key, number) = match reading.vault().and_then(|vault| loaded.key(&vault)) {
        Ok(key) => {
            let number = loaded.msisdn(&key);
            (Ok(key), number)
        }
        Err(why) => (Err(format!("{why:#}")), Err(why)),
    };
    let mask = match &number {
        _ if reveal => Mask::Reveal,
        Ok(number) => Mask::Number(Number::new(number, prefix)),
        Err(_) => Mask::Unknown,
    };
    let mut kept = Kept::collect(&reading.home, &mut reading.conn, id, charge.period.month()).await?;
    let stories = match key {
        Ok(key) => kept.stories(&key, period),
        Err(why) if kept.count(period) > 0 => {
            missing.push(format!(
                "{} of this charge cannot be opened: {why}",
                words::count(kept.count(period), "kept row")
            ));
            HashMap::new()
        }
        Err(_) => HashMap::new(),
    };
    missing.append(&mut kept.problems);

    let mut incarnations: Vec<i64> = attempts.iter().map(|attempt| attempt.incarnation).collect();
    incarnations.dedup();
    let lives = pg::incarnations(&mut reading.conn, &incarnations).await?;
    let lives: HashMap<i64, IncarnationRow> =
        lives.into_iter().map(|life| (life.incarnation, life)).collect();
    let sources = Sources { charge, loaded: &loaded, stories: &stories, mask: &mask, lives: &lives, bytes };
    for attempt in &attempts {
        missing.extend(attempt::not_at_hand(attempt, &sources));
    }

    let period_words = words::period(charge.period, rules, loaded.row.sub.anchor);
    let (schedule, due_at) = match rules {
        Some(rules) => why::schedule(rules, &loaded.zone, &loaded.row.sub, charge.period),
        None => (Vec::new(), None),
    };
    let zone = &loaded.zone;
    let due =
        row.due_minor.or(rules.map(|rules| rules.price.minor)).map(|minor| Amount::new(minor, row.currency));
    let collected = Amount::new(row.collected_minor, row.currency);
    let unanswered = attempts.last().is_some_and(|attempt| attempt.state == AttemptState::Intent as i16);
    let next = if unanswered {
        let words = "what its attempt's answer decides, or the shard's next owner when its sender is gone";
        Next { words: words.to_owned(), at: None }
    } else {
        why::next(charge, &loaded.row.sub, row.aside, zone)
    };
    let state = from_number::<ChargeState>(row.state()).unwrap_or(ChargeState::Open);
    let answer_kept = attempts.last().is_some_and(|attempt| attempt::answer_kept(attempt, &sources));
    let told = Told { row: &row, attempts: &attempts, loaded: &loaded, answer_kept };
    let sentence = told.sentence(state, due.as_ref(), &collected, &period_words, next.at.as_ref());
    let sub = &loaded.row.sub;
    // A book that cannot be read is told of above.
    let doubtful = attempts.last().is_some_and(|last| last.state == AttemptState::Unknown as i16);
    let waiting: &[i64] = if doubtful { &[charge.subscription.0] } else { &[] };
    let waits = Waits::read(reading, waiting).await.ok();
    Ok(Explanation {
        charge: charge.to_string(),
        sentence,
        state: state.name(),
        period: period_words,
        merchant: loaded.place.merchant.clone(),
        service: rules.map(|rules| rules.service.clone()),
        plan: loaded.place.plan.clone(),
        carrier: loaded.place.carrier.clone(),
        subscription: sub.id.to_string(),
        subscription_state: sub.progress.state.name(),
        quarantined: sub.flags & FLAG_QUARANTINED != 0,
        stop: sub.stop_at.map(|at| Moment::new(at.as_millisecond(), zone)),
        msisdn: number.ok().map(|number| if reveal { format!("+{number}") } else { mask_msisdn(&number) }),
        zone: zone.name().to_owned(),
        schedule,
        due_at: due_at.map(|at| Moment::new(at.as_millisecond(), zone)),
        transfers: transfers(reading, charge).await?,
        grants: grants(reading, charge, &loaded).await?,
        open: open(&attempts, &lives, &loaded, waits.as_ref(), reading.now.machine_ms),
        cases: cases(reading, charge, &mask).await?,
        notes: all_notes(&notes, &stories, charge, &loaded),
        attempts: attempts.iter().map(|attempt| attempt::of(attempt, &sources)).collect(),
        due,
        collected,
        next,
        missing,
    })
}

async fn charge_row(
    reading: &mut Reading,
    charge: ChargeId,
    attempt_no: Option<i16>,
    loaded: &Loaded,
) -> anyhow::Result<ChargeRow> {
    let key = ChargeKey { subscription_id: charge.subscription.0, period: charge.period.number() };
    let row = pg::charges_by_key(&mut reading.conn, &[key]).await?.into_iter().next();
    let current = ChargeId { period: loaded.row.sub.progress.period, ..charge };
    let row = row.filter(ChargeRow::exists).ok_or_else(|| {
        failed(format!(
            "there is no charge {charge}: its subscription is at {current}; \
             toll charge list --subscription {} shows all of them",
            charge.subscription
        ))
    })?;
    let last = row.last.map_or(0, |last| last.attempt_no);
    match attempt_no.filter(|no| *no > last) {
        Some(no) => {
            Err(failed(format!("{charge} has no attempt {no}: it has {}", words::count(last, "attempt"))))
        }
        None => Ok(row),
    }
}

/// The plan and the beginning of the carrier's numbers, as a version of the book had them.
pub(crate) async fn book_of(
    reading: &mut Reading,
    version: i32,
    plan: &str,
) -> anyhow::Result<(PlanRules, String)> {
    let files = pg::book_files(&mut reading.conn, version).await?;
    let files = files.ok_or_else(|| failed("the database does not have it"))?;
    let files: BTreeMap<String, String> = serde_json::from_str(&files)?;
    let sources = files.into_iter().map(|(file, text)| Source { file, text }).collect();
    let loaded = book_files::check(sources, &StandInSecrets)?;
    let rules = loaded.book.plan(plan).ok_or_else(|| failed(format!("it has no plan {plan}")))?.clone();
    let carrier = loaded.carriers.iter().find(|carrier| *carrier.id == *rules.carrier);
    let prefix = carrier.map_or(String::new(), |carrier| carrier.msisdn.prefix.to_string());
    Ok((rules, prefix))
}

struct Told<'a> {
    row: &'a ChargeRow,
    attempts: &'a [AttemptRow],
    loaded: &'a Loaded,
    answer_kept: bool,
}

impl Told<'_> {
    fn sentence(
        &self,
        state: ChargeState,
        due: Option<&Amount>,
        collected: &Amount,
        period: &str,
        next_at: Option<&Moment>,
    ) -> String {
        let at = &self.loaded.row.sub.progress;
        let zone = &self.loaded.zone;
        let last = self.attempts.last().map(|attempt| {
            let state = from_number::<AttemptState>(attempt.state).unwrap_or(AttemptState::Unknown);
            let at_ms = attempt.decided_business_ms.unwrap_or(attempt.intent_business_ms);
            (
                attempt.attempt_no,
                state,
                attempt.reason.map(reason_name),
                zone.describe(words::timestamp(at_ms)),
            )
        });
        // Whatever happened last says why it stands as it does.
        let decided_at_us = self.row.last.and_then(|last| last.decided_at_us);
        let rule = match (self.row.note, self.attempts.last()) {
            (Some(note), _) if decided_at_us.is_none_or(|at_us| note.at_us > at_us) => Some(note.rule),
            (_, Some(attempt)) => attempt.outcome_rule,
            (_, None) => None,
        };
        why::sentence(&Facts {
            state,
            due,
            collected,
            nothing_collected: self.row.collected_minor == 0,
            carrier: &self.loaded.place.carrier,
            period,
            last,
            rule: rule.map(|rule| RuleWords::new(rule).sentence),
            next_at: next_at.map(|moment| moment.local.clone()),
            goes_on: self.row.current
                && matches!(at.next_kind, NextKind::Due | NextKind::Retry | NextKind::Deferred),
            answer_kept: self.answer_kept,
        })
    }
}

pub(super) fn reason_name(reason: i16) -> &'static str {
    billing_core::outcome::ReasonCode(reason).name()
}

fn all_notes(
    rows: &[NoteRow],
    stories: &HashMap<(i16, i64), Story>,
    charge: ChargeId,
    loaded: &Loaded,
) -> Vec<Note> {
    let zone = &loaded.zone;
    let next_of = |story: &Story| attempt::next_words(&story.decision, charge, zone);
    let mut notes: Vec<Note> = rows
        .iter()
        .map(|row| {
            let story = stories.get(&(0, i64::from(row.rev)));
            Note {
                kind: NoteKind::name_of(row.kind),
                at: Moment::new(row.business_at_ms, zone),
                rule: RuleWords::new(row.rule_id),
                facts: story.map(|story| attempt::facts(story, loaded)).unwrap_or_default(),
                charge: state_name::<ChargeState>(row.charge_state),
                subscription: story.map(|s| state_name::<SubscriptionState>(s.decision.subscription_state)),
                until: row.until_ms.map(|ms| Moment::new(ms, zone)),
                next: story.and_then(next_of),
                sort_ms: row.business_at_ms,
            }
        })
        .collect();
    // A deadline that passed is an open attempt in the tables; as a decision only the history has it.
    let untold = stories.iter().filter(|((attempt_no, seq), _)| {
        *attempt_no == 0 && !rows.iter().any(|row| i64::from(row.rev) == *seq)
    });
    notes.extend(untold.map(|(_, story)| Note {
        kind: if story.decision.rule == billing_core::reason::Rule::DEADLINE_PASSED.number() {
            NoteKind::name_of(NoteKind::Doubt as i16)
        } else {
            "kept, not recorded"
        },
        at: Moment::new(story.business_at_ms, zone),
        rule: RuleWords::new(story.decision.rule),
        facts: attempt::facts(story, loaded),
        charge: state_name::<ChargeState>(story.decision.charge_state),
        subscription: Some(state_name::<SubscriptionState>(story.decision.subscription_state)),
        until: None,
        next: next_of(story),
        sort_ms: story.business_at_ms,
    }));
    notes.sort_by_key(|note| note.sort_ms);
    notes
}

fn open(
    attempts: &[AttemptRow],
    lives: &HashMap<i64, IncarnationRow>,
    loaded: &Loaded,
    waits: Option<&Waits>,
    machine_ms: i64,
) -> Option<Open> {
    let attempt = attempts.last()?;
    let state = from_number::<AttemptState>(attempt.state).filter(|state| !state.is_final())?;
    let since_us = attempt.open_since_us.unwrap_or(attempt.intent_at_us);
    let life = lives.get(&attempt.incarnation);
    let alive = life.is_some_and(|life| life.fenced_at_us.is_none());
    let spool = life
        .map_or_else(|| "an unknown process".to_owned(), |life| format!("{} on {}", life.spool, life.host));
    let sender_died = Outcome::Unknown(Doubt::SenderDied).reason().0;
    let settled_by = match state {
        AttemptState::Accepted => {
            "the carrier's answer; without it the result is UNKNOWN at the deadline".to_owned()
        }
        AttemptState::InReview => "people alone".to_owned(),
        AttemptState::Intent if alive => {
            "its sender, which is registered as alive; should it die, the shard's next owner records what its spool \
             knows, else UNKNOWN"
                .to_owned()
        }
        AttemptState::Intent => {
            "the shard's next owner: it records what the sender's spool knows, else UNKNOWN".to_owned()
        }
        _ if attempt.reason == Some(sender_died) => format!(
            "an answer that lies in the sender's spool ({spool}), looked for while that spool is in use, or \
             the carrier, asked as its file declares in [proof]; else people"
        ),
        _ => "the carrier, asked as its file declares in [proof]; without proof people settle it".to_owned(),
    };
    let unknown = state == AttemptState::Unknown;
    let file = waits.filter(|_| unknown).and_then(|waits| {
        waits.of(&loaded.place.carrier, loaded.row.sub.id.0, attempt.intent_at_us, since_us)
    });
    let settled_by = match file {
        Some(file) => format!("{settled_by}. It waits for {file}"),
        None => settled_by,
    };
    Some(Open {
        attempt: attempt.attempt_no,
        state: state.name(),
        since: words::machine(since_us),
        for_how_long: words::span_us(machine_ms.saturating_mul(1_000).saturating_sub(since_us).max(0)),
        amount: Amount::new(attempt.amount_minor, attempt.currency),
        blocks: "no further attempt of this charge is made".to_owned(),
        settled_by,
        deadline: attempt.deadline_ms.map(|ms| Moment::new(ms, &loaded.zone)),
    })
}

async fn transfers(reading: &mut Reading, charge: ChargeId) -> anyhow::Result<Vec<Transfer>> {
    let rows = pg::transfers(&mut reading.conn, charge.subscription.0, charge.period.number()).await?;
    let transfers = rows.into_iter().map(|row| Transfer {
        attempt: row.attempt_no,
        kind: LegKind::name_of(row.leg),
        debit: row.debit,
        credit: row.credit,
        amount: Amount::new(row.amount, row.asset),
        business_date: date_of_days(row.business_date).to_string(),
    });
    Ok(transfers.collect())
}

async fn grants(reading: &mut Reading, charge: ChargeId, loaded: &Loaded) -> anyhow::Result<Vec<Grant>> {
    let rows = pg::grants(&mut reading.conn, charge.subscription.0, charge.period.number()).await?;
    let grants = rows.into_iter().map(|row| Grant {
        attempt: row.attempt_no,
        from: Moment::new(row.from_ms, &loaded.zone),
        until: row.until_ms.map(|ms| Moment::new(ms, &loaded.zone)),
    });
    Ok(grants.collect())
}

/// Those of the charge, and those of the subscription as a whole.
async fn cases(reading: &mut Reading, charge: ChargeId, mask: &Mask) -> anyhow::Result<Vec<Case>> {
    let rows = pg::cases(&mut reading.conn, charge.subscription.0, CASES_MAX).await?;
    let ours =
        rows.into_iter().filter(|row| row.period.is_none_or(|period| period == charge.period.number()));
    let cases = ours.map(|row| Case {
        number: row.id,
        kind: one_line(&row.kind),
        opened_at: words::machine(row.opened_at_us),
        what: mask.text(&row.what).replace('\n', "\\n"),
    });
    Ok(cases.collect())
}
