//! The golden stories: what plans must do, as files that people read. Here they are played by the functions that decide
//! alone; `in_engine.rs` beside this plays them by a real engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod book;

use std::collections::BTreeSet;

use billing_core::book::story::{StoryEnd, blessed};
use billing_core::ids::{RefSeed, SubscriptionId};
use billing_core::preview::{End, Event, Script};

use book::{Book, Told};

const STORIES_MIN: usize = 25;

/// `TOLLBOOK_BLESS=1` writes what comes now as what is expected.
#[test]
fn every_story_is_as_expected() {
    let book = Book::read();
    let bless = std::env::var_os("TOLLBOOK_BLESS").is_some();
    let mut wrong = String::new();
    for Told { story, path, .. } in &book.stories {
        let lines = story.lines(book.rules(story)).unwrap();
        match story.difference(&lines) {
            Some(_) if bless => {
                let text = std::fs::read_to_string(path).unwrap();
                std::fs::write(path, blessed(&text, &lines)).unwrap();
            }
            Some(difference) => {
                let (expected, found) = (difference.expected, difference.found);
                wrong += &format!("{}:{}:\n- {expected:?}\n+ {found:?}\n", path.display(), difference.line);
            }
            None => {}
        }
    }
    assert!(wrong.is_empty(), "TOLLBOOK_BLESS=1 rewrites them; read the diff:\n{wrong}");
    assert!(book.stories.len() >= STORIES_MIN, "{} stories", book.stories.len());
}

#[test]
fn every_plan_has_a_story_and_no_story_is_cut_off() {
    let book = Book::read();
    let told: BTreeSet<&str> = book.stories.iter().map(|told| told.story.plan.as_str()).collect();
    let silent: Vec<&str> =
        book.plans.iter().map(|plan| plan.id.as_str()).filter(|id| !told.contains(id)).collect();
    assert!(silent.is_empty(), "plans without a story: {silent:?}");
    for told in &book.stories {
        let lines = told.story.expect.as_deref().unwrap_or_default();
        let last = lines.last().map_or("", String::as_str);
        let sound = !last.contains("cut off") && !last.contains("put aside for people");
        assert!(sound && !lines.is_empty(), "{}: {last:?}", told.story.id);
    }
}

/// Every kind of schedule, of moves, of refusals and of lifecycle must occur in what the stories decide.
#[test]
fn the_stories_show_every_feature() {
    let book = Book::read();
    let mut seen = BTreeSet::new();
    for told in &book.stories {
        let lived = told.lived(&book, SubscriptionId(0), RefSeed(0));
        seen.extend(lived.steps.iter().filter_map(|step| step.rule).map(|rule| rule.id()));
    }
    let features = [
        "settle.full",
        "settle.period",
        "settle.share",
        "settle.amount",
        "ladder.next",
        "dunning.round",
        "dunning.next_period",
        "dunning.suspend",
        "dunning.cancel",
        "dunning.arrears",
        "budget.day",
        "budget.period",
        "shelf.expire",
        "payday.defer",
        "balance.defer",
        "missed.skip",
        "missed.once_late",
        "missed.merge",
        "missed.collect_late",
        "arrears.settle",
        "cycle.reset",
        "trial.end",
        "pause.begin",
        "pause.end",
        "top_up.due",
        "top_up.resume",
        "stop.cancel",
        "first.cancel",
        "refusal.cancel",
        "answer.unknown",
        "answer.wait",
        "answer.not_applied",
        "deadline.unknown",
        "period.roll",
        "late.extend",
        "reserve.held",
    ];
    let missing: Vec<&str> = features.into_iter().filter(|feature| !seen.contains(feature)).collect();
    assert!(missing.is_empty(), "no story shows {missing:?}; all shown: {seen:?}");
}

/// Whatever carriers answer and subscribers do: a preview ends, decides every row, and never collects more than is due.
#[test]
fn no_script_breaks_a_preview() {
    const WORDS: [&str; 14] = [
        "charged",
        "no_funds",
        "barred",
        "limit",
        "unknown_subscriber",
        "not_allowed",
        "temporary",
        "throttled",
        "fault",
        "not_sent",
        "unknown then charged after 30h",
        "unknown then absent after 2h",
        "accepted then no_funds after 3d",
        "accepted",
    ];
    const EVENTS: [&str; 5] =
        ["top_up", "pause until 2027-02-01", "resume", "outage until 2027-01-09 10:00", "stop"];
    let book = Book::read();
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(chance >> 33).unwrap() % below
    };
    let mut lived = 0;
    for told in &book.stories {
        let rules = book.rules(&told.story);
        for _ in 0..25 {
            let words: Vec<&str> = (0..12).map(|_| WORDS[draw(WORDS.len())]).collect();
            let mut story = told.story.clone();
            story.script = Script::parse(&words.join(", "), rules.price.currency).unwrap();
            let event = format!("2026-12-{:02} 12:00 {}", 2 + draw(28), EVENTS[draw(EVENTS.len())]);
            story.events = vec![Event::parse(&event, rules.price.currency).unwrap()];
            story.horizon = StoryEnd::Charges(8);
            let preview = story.play(rules, SubscriptionId(0), RefSeed(7)).unwrap();
            let sound = matches!(preview.end, End::Horizon | End::AtRest);
            assert!(sound, "{} {words:?} {event}: {:?}", story.id, preview.end);
            let times: Vec<_> = preview.steps.iter().map(|step| step.at).collect();
            assert!(times.is_sorted(), "{} {words:?} {event}", story.id);
            let over = preview.steps.iter().find(|step| step.charge_collected_minor > step.due_minor);
            assert_eq!(over, None, "{} {words:?} {event}", story.id);
            lived += preview.steps.len();
        }
    }
    assert!(lived > 5_000, "{lived} steps");
}
