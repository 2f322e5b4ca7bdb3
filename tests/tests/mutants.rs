//! The simulation itself is tested: each protection that is left out by name must be found within the sample.
//!
//! Only with the feature: `cargo test -p tests --features mutants --test mutants`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;

use loadtest::sim::{Settings, run_seed};
use storage::mutants::{Mutant, leave_out};

/// A mutant that is not found within so many seeds survives.
const SAMPLE: u64 = 60;

/// The first seed of its sample: later worlds know faults that the first ones do not.
fn first_seed(mutant: Mutant) -> u64 {
    match mutant {
        Mutant::OwnProofAfterFailover => 10_506,
        Mutant::DoubtEndsWithAbsence => 20_059,
        Mutant::NotFoundWhileSenderLives => 30_000,
        _ => 1,
    }
}

fn found_at(mutant: Mutant) -> Option<(u64, String)> {
    leave_out(Some(mutant));
    let found = (first_seed(mutant)..).take(SAMPLE as usize).find_map(|seed| {
        let outcome = run_seed(seed, &Settings::default()).unwrap();
        outcome.broken().next().map(|broken| (seed, broken.to_owned()))
    });
    leave_out(None);
    found
}

#[test]
fn every_mutant_is_found() {
    assert!(Mutant::ALL.len() >= 18);
    let only = std::env::var("TOLLBOOK_MUTANT").ok();
    let wanted = |mutant: &&Mutant| only.as_ref().is_none_or(|name| name == mutant.name());
    let queue: Mutex<Vec<Mutant>> = Mutex::new(Mutant::ALL.iter().filter(wanted).copied().collect());
    let survived = Mutex::new(Vec::new());
    // Each mutant lives on one thread.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = queue.lock().unwrap().pop() else { return };
                    match found_at(mutant) {
                        Some((seed, broken)) => println!("{}: seed {seed}: {broken}", mutant.name()),
                        None => survived.lock().unwrap().push(mutant.name()),
                    }
                }
            });
        }
    });
    let survived = survived.into_inner().unwrap();
    assert!(survived.is_empty(), "not noticed within {SAMPLE} seeds: {survived:?}");
}
