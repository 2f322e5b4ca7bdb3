//! Measures and rehearses: mock carriers, populations, benchmarks.

pub mod bench;
pub mod compare;
pub mod mock;
pub mod population;
