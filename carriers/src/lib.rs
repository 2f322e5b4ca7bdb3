//! Speaks: turns an attempt into a carrier's bytes and a carrier's bytes into an outcome.
