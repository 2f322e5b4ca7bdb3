//! Measures and rehearses: mock carriers, populations, benchmarks.
