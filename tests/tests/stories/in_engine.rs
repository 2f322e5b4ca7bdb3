//! The golden stories once more: a real engine with a real database against mock carriers that answer as each story's
//! script says. Business time stands still and is set from one instant to the next, when everything is recorded that
//! must come of the last one: so all times are the pure story's own, to the millisecond, however slow the machine is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod book;
mod carriers;
mod engine;
mod life;

use billing_core::preview::Happens;

use book::{Book, Told};

/// Stories that the engine may leave to the core, each with its reason in the file.
const LATER_MAX: usize = 5;

#[test]
fn stories_happen_in_the_engine_too() {
    let book = Book::read();
    let later: Vec<&Told> = book.stories.iter().filter(|told| told.story.engine_later.is_some()).collect();
    for told in &later {
        println!("told by the core alone: {}: {}", told.story.id, told.story.engine_later.as_ref().unwrap());
    }
    assert!(later.len() <= LATER_MAX, "{} stories are left to the core", later.len());
    engine::play(&book, &played(&book, false));
}

/// While nothing runs nobody's time goes on: these have a world of their own.
#[test]
fn stories_of_an_outage_happen_in_the_engine_too() {
    let book = Book::read();
    let stories = played(&book, true);
    assert!(stories.len() >= 4, "{} stories have an outage", stories.len());
    engine::play(&book, &stories);
}

fn played(book: &Book, outage: bool) -> Vec<&Told> {
    let stories = book.stories.iter().filter(|told| told.story.engine_later.is_none());
    let has_outage =
        |told: &&Told| told.story.events.iter().any(|event| matches!(event.what, Happens::Outage(..)));
    stories.filter(|told| has_outage(told) == outage).collect()
}
