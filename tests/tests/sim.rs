//! The simulation as a test: a bounded sample of seeds, and every seed that ever failed.
//!
//! As many more as wanted: `toll sim --seeds 100000 --jobs 2`. A seed that fails there belongs into `sim_seeds.txt`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use loadtest::sim::{Settings, run_seed, run_seeds};

/// The first seeds always run.
const SAMPLE: u64 = 10;
/// Seeds that found something once, one a line.
const FAILED_ONCE: &str = include_str!("sim_seeds.txt");

#[test]
fn a_sample_of_seeds_keeps_every_promise() {
    let summary = run_seeds(1, SAMPLE, 2, &Settings::default()).unwrap();
    assert!(summary.failed.is_empty(), "SEED=…: {:#?}", summary.failed);
    assert!(summary.charges > 200 * SAMPLE && summary.faults > 20 * SAMPLE, "it was too quiet: {summary:?}");
}

#[test]
fn seeds_that_failed_once_hold_now() {
    let seeds = FAILED_ONCE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    for seed in seeds {
        let seed = seed.split_whitespace().next().unwrap().parse().unwrap();
        let outcome = run_seed(seed, &Settings::default()).unwrap();
        assert!(outcome.holds(), "SEED={seed}: {:#?}", outcome.broken().collect::<Vec<_>>());
    }
}

#[test]
fn one_seed_is_one_run_bit_for_bit() {
    let settings = Settings { days: 2, lines: 100_000 };
    let (first, second) = (run_seed(3, &settings).unwrap(), run_seed(3, &settings).unwrap());
    assert!(first.events > 300);
    assert_eq!(first, second);
    assert_ne!(first.digest, run_seed(4, &settings).unwrap().digest);
}
