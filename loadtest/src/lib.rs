//! Measures and rehearses: mock carriers, populations, benchmarks, simulation.

pub mod bench;
pub mod chaos;
pub mod compare;
pub mod mock;
pub mod population;
pub mod sim;
