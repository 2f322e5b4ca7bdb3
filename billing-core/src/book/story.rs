//! Stories: what is expected of a plan, as a script and the lines that must come of it. `toll book test` runs them.
//!
//! ```toml
//! about = "A day without money is given up, the next one is paid"
//! plan = "medina-kids-daily"
//! zone = "Africa/Tunis"
//! start = "2026-12-01"                # the local date of the sign-up
//! outcomes = "no_funds x3, charged"   # what the carrier answers; default: it collects everything
//! events = ["2026-12-03 10:00 stop"]  # default: none
//! charges = 3                         # or until = "2026-12-20"
//! engine = "later: why"               # default: the engine plays it too
//! expect = '''
//! 2026-12-01 06:00  charge 20261201 attempt 1, 0.500 TND: no_funds -> ...
//! '''
//! ```
//!
//! Stories are kept beside the book and are no part of its versions: what is in force does not depend on them.

use jiff::civil::Date;

use super::plan::plan_id;
use super::reader::{Problems, Source, Table};
use super::values::excerpt;
use crate::ids::{RefSeed, SubscriptionId};
use crate::plan::PlanRules;
use crate::preview::{
    Amounts, EVENTS_MAX, End, Event, Horizon, Preview, Script, Setup, line, preview, signed_up,
};
use crate::subscription::CoreError;
use crate::zone::{DAY_MINUTES, Zone};

/// The most charges of a story.
pub const CHARGES_MAX: i64 = 200;

const EXPECT_OPENS: &str = "expect = '''";
const EXPECT_ENDS: &str = "'''";

/// One story.
#[derive(Debug, Clone)]
pub struct Story {
    /// The file's name without `.toml`.
    pub id: String,
    /// What it is about, for people.
    pub about: String,
    /// The plan's id.
    pub plan: String,
    /// The subscriber's zone.
    pub zone: Zone,
    /// The local date of the sign-up.
    pub start: Date,
    /// What the carrier answers.
    pub script: Script,
    /// What happens besides.
    pub events: Vec<Event>,
    /// Where it ends.
    pub horizon: StoryEnd,
    /// Why the engine does not play it yet; `None` when it does.
    pub engine_later: Option<String>,
    /// What must come of it, line by line; `None` before the first blessing.
    pub expect: Option<Vec<String>>,
    /// The line of the file on which the first expected line stands.
    pub expect_line: u32,
}

/// Where a story ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoryEnd {
    /// When so many charges are closed.
    Charges(u32),
    /// At the end of a local date.
    Until(Date),
}

/// The first line that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The line of the story's file.
    pub line: u32,
    /// What was expected; `None` beyond the last expected line.
    pub expected: Option<String>,
    /// What came; `None` when nothing more came.
    pub found: Option<String>,
}

/// Reads one story; its plan must be among `plans`. `None` when it has problems, which are then all in the list.
pub fn read_story(source: &Source, plans: &[PlanRules], problems: &mut Problems) -> Option<Story> {
    let mut found = Problems::default();
    let story = Table::parse(source, &mut found).and_then(|root| story(root, plans, &mut found));
    let story = story.filter(|_| found.is_empty());
    problems.extend(found);
    story
}

fn story(mut root: Table<'_>, plans: &[PlanRules], problems: &mut Problems) -> Option<Story> {
    let source = root.source();
    let about = root.str("about", problems);
    let plan = root.str("plan", problems);
    let rules = plan.as_ref().and_then(|plan| plans.iter().find(|rules| rules.id == plan.value));
    if let (Some(plan), None) = (&plan, rules) {
        let what = format!("there is no plan {}", excerpt(plan));
        root.problem_at(plan.place, what, "the id of a plan of the book", problems);
    }
    let zone = root.str("zone", problems).and_then(|name| match Zone::named(&name) {
        Ok(zone) => Some(zone),
        Err(error) => {
            root.problem_at(name.place, error.to_string(), "such as \"Africa/Tunis\"", problems);
            None
        }
    });
    let start = date(&mut root, "start", true, problems);
    let outcomes = root.opt_str("outcomes", problems);
    let events = root.opt_str_list("events", EVENTS_MAX, problems);
    let charges = root.opt_int("charges", 1..=CHARGES_MAX, problems);
    let until = date(&mut root, "until", false, problems);
    let horizon = match (charges, until) {
        (Some(charges), None) => Some(StoryEnd::Charges(u32::try_from(charges.value).unwrap_or(1))),
        (None, Some(until)) => Some(StoryEnd::Until(until)),
        _ => {
            let help = "charges = 3, or until = \"2026-12-20\"";
            root.problem("charges", "a story ends after so many charges or at a date", help, problems);
            None
        }
    };
    let engine = root.opt_str("engine", problems);
    let engine_later = engine.and_then(|engine| {
        let why = engine.strip_prefix("later: ").filter(|why| !why.is_empty()).map(str::to_owned);
        if why.is_none() {
            root.problem_at(
                engine.place,
                "the engine plays every story",
                "or \"later: why not yet\"",
                problems,
            );
        }
        why
    });
    let expect = root.opt_str("expect", problems);
    root.finish(problems);
    let currency = rules?.price.currency;
    let script = match &outcomes {
        None => Some(Script::default()),
        Some(text) => match Script::parse(text, currency) {
            Ok(script) => Some(script),
            Err(error) => {
                let place = source.place_within(text, error.offset);
                problems.push(source.problem(place, error.what, error.help));
                None
            }
        },
    };
    let texts = events.iter().flat_map(|events| &events.value);
    let events_read = match Event::parse_all(texts.clone().map(|text| text.value.as_str()), currency) {
        Ok(events) => Some(events),
        Err((index, error)) => {
            let place = texts.clone().nth(index).map_or(super::reader::Place::START, |text| text.place);
            problems.push(source.problem(place, error.what, error.help));
            None
        }
    };
    let expect_line = expect
        .as_ref()
        .map_or(1, |text| source.problem(source.place_within(text, 0), String::new(), String::new()).line);
    Some(Story {
        id: plan_id(&source.file).to_owned(),
        about: about?.value,
        plan: plan?.value,
        zone: zone?,
        start: start?,
        script: script?,
        events: events_read?,
        horizon: horizon?,
        engine_later,
        expect: expect.map(|text| text.lines().map(str::to_owned).collect()),
        expect_line,
    })
}

fn date(root: &mut Table<'_>, key: &str, required: bool, problems: &mut Problems) -> Option<Date> {
    let text = if required { root.str(key, problems) } else { root.opt_str(key, problems) }?;
    let read = text.parse::<Date>().ok();
    if read.is_none() {
        let what = format!("{:?} is no date", excerpt(&text));
        root.problem_at(text.place, what, "such as \"2026-12-01\"", problems);
    }
    read
}

impl Story {
    /// Plays it for a subscription with this id and seed, which give its minute, its second and its jitter.
    ///
    /// # Errors
    /// [`CoreError`] when the plan has no period from the start on.
    pub fn play(&self, rules: &PlanRules, id: SubscriptionId, seed: RefSeed) -> Result<Preview, CoreError> {
        let sub = signed_up(rules, &self.zone, self.start, id, seed)?;
        let horizon = match self.horizon {
            StoryEnd::Charges(charges) => Horizon::Charges(charges),
            StoryEnd::Until(date) => Horizon::Until(self.zone.instant(date, DAY_MINUTES)?),
        };
        Ok(preview(&Setup {
            rules,
            zone: &self.zone,
            sub,
            open: None,
            script: &self.script,
            events: &self.events,
            now: self.zone.instant(self.start, 0)?,
            horizon,
        }))
    }

    /// The lines that come of it, for a subscription that is first in its plan.
    ///
    /// # Errors
    /// As for [`Story::play`].
    pub fn lines(&self, rules: &PlanRules) -> Result<Vec<String>, CoreError> {
        Ok(lines_of(&self.play(rules, SubscriptionId(0), RefSeed(0))?, Amounts(rules.price.currency)))
    }

    /// The first line that is not as expected; `None` when all are.
    #[must_use]
    pub fn difference(&self, found: &[String]) -> Option<Difference> {
        let expected: &[String] = self.expect.as_deref().unwrap_or_default();
        let index = (0..expected.len().max(found.len())).find(|n| expected.get(*n) != found.get(*n))?;
        Some(Difference {
            line: self.expect_line.saturating_add(u32::try_from(index).unwrap_or(0)),
            expected: expected.get(index).cloned(),
            found: found.get(index).cloned(),
        })
    }
}

/// A preview as lines, with one more about its end.
#[must_use]
pub fn lines_of(preview: &Preview, amounts: Amounts) -> Vec<String> {
    let before = |n: usize| n.checked_sub(1).and_then(|n| preview.steps.get(n));
    let steps = preview.steps.iter().enumerate();
    let mut lines: Vec<String> = steps.map(|(n, step)| line(step, before(n), amounts)).collect();
    let end = match &preview.end {
        End::Horizon => "and so on".to_owned(),
        End::AtRest => "nothing more happens by itself".to_owned(),
        End::Bound => "cut off".to_owned(),
        End::Quarantined(why) => format!("put aside for people: {why}"),
    };
    lines.push(format!("{} collected; {end}", amounts.text(preview.collected_minor)));
    lines
}

/// The text of a story's file with other expected lines.
#[must_use]
pub fn blessed(text: &str, lines: &[String]) -> String {
    let block = format!("{EXPECT_OPENS}\n{}\n{EXPECT_ENDS}\n", lines.join("\n"));
    let opens = text.find(&format!("\n{EXPECT_OPENS}")).map(|at| at + 1);
    let ends = opens.and_then(|at| {
        let inside = at + EXPECT_OPENS.len();
        text.get(inside..)?.find(EXPECT_ENDS).map(|end| inside + end + EXPECT_ENDS.len())
    });
    match (opens, ends) {
        (Some(opens), Some(ends)) => {
            let rest = text[ends..].trim_start_matches(['\r', '\n']);
            format!("{}{block}{rest}", &text[..opens])
        }
        _ => format!("{}\n{block}", text.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::book::CarrierSummary;
    use crate::book::plan::read_plan;
    use crate::calendar::CalendarRules;
    use crate::money::Currency;

    fn plan() -> PlanRules {
        let text = "merchant = \"m\"\nservice = \"s\"\ncarrier = \"c\"\ntext = \"t\"\nprice = \"0.500 TND\"\n[schedule]\nevery = \"day\"\nat = \"06:00\"\n[lifecycle]\nlate_approved = \"past\"\n";
        let carrier = CarrierSummary {
            price_points: Vec::new(),
            tariffs: Vec::new(),
            fee_returned: false,
            final_deadline_s: 86_400,
            id: "c".into(),
            country: "XX".into(),
            calendar: CalendarRules::default(),
            currency: Currency::from_code("TND").unwrap(),
            min_minor: 1,
            max_minor: 1_000_000,
            zones: Vec::new(),
        };
        let source = Source { file: "plans/daily.toml".into(), text: text.into() };
        read_plan(&source, &[carrier], &[], &mut Problems::default()).unwrap()
    }

    const TEXT: &str = "about = \"x\"\nplan = \"daily\"\nzone = \"Africa/Tunis\"\nstart = \"2026-12-01\"\noutcomes = \"no_funds\"\ncharges = 2\n";

    fn read(text: &str) -> Result<Story, String> {
        let source = Source { file: "config/stories/one.toml".into(), text: text.into() };
        let mut problems = Problems::default();
        let story = read_story(&source, &[plan()], &mut problems);
        story.ok_or_else(|| problems.iter().map(|problem| format!("{problem}\n")).collect())
    }

    #[test]
    fn a_blessed_story_is_as_expected_and_a_changed_line_is_found_in_the_file() {
        let story = read(TEXT).unwrap();
        let lines = story.lines(&plan()).unwrap();
        assert!(
            lines[0].starts_with("2026-12-01 06:00  charge 20261201 attempt 1, 0.500 TND: no_funds"),
            "{lines:?}"
        );
        assert_eq!(lines.last().unwrap(), "1.000 TND collected; and so on");
        let text = blessed(TEXT, &lines);
        assert_eq!(blessed(&text, &lines), text, "blessing twice changes nothing");
        let story = read(&text).unwrap();
        assert_eq!(story.difference(&lines), None);
        let broken = read(&text.replace("attempt 2", "attempt 7")).unwrap();
        let difference = broken.difference(&lines).unwrap();
        let place = usize::try_from(difference.line).unwrap() - 1;
        assert!(text.lines().nth(place).unwrap().contains("attempt 2"), "{difference:?}");
        let short = blessed(TEXT, &lines[..1]);
        assert_eq!(read(&short).unwrap().difference(&lines).unwrap().expected, None);
    }

    #[test]
    fn problems_are_told_at_their_place() {
        for (from, to, told) in [
            ("daily", "weekly", "one.toml:2:8: there is no plan weekly"),
            ("Africa/Tunis", "Moon", "one.toml:3:8:"),
            ("2026-12-01", "soon", "one.toml:4:9:"),
            (
                "no_funds",
                "charged, no_fund",
                "one.toml:5:22: no carrier says \"no_fund\"; did you mean no_funds?",
            ),
            ("charges = 2", "charges = 0", "one.toml:6:11:"),
            ("charges = 2", "", "charges = 3, or until"),
            ("charges = 2", "charges = 2\nevents = [\"dance\"]", "one.toml:7:11:"),
            ("charges = 2", "charges = 2\nengine = \"never\"", "one.toml:7:10:"),
            ("charges = 2", "charges = 2\nexpects = 1", "one.toml:7:1:"),
        ] {
            let problems = read(&TEXT.replace(from, to)).unwrap_err();
            assert!(problems.contains(told), "{to}: {problems}");
        }
    }
}
