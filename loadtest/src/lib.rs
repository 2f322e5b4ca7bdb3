//! Measures and rehearses: mock carriers, populations, benchmarks.

pub mod mock;
