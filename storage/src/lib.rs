//! Keeps: Postgres, the interaction history and the local spool.
pub mod history;
pub mod launcher;
#[cfg(test)]
mod scratch;
pub mod spool;
pub mod vault;

pub mod pg;
pub mod story;
