//! Keeps: Postgres, the interaction history and the local spool.
pub mod fail_point;
pub mod guard;
pub mod history;
pub mod launcher;
pub mod lock_file;
#[cfg(test)]
mod scratch;
pub mod spool;
pub mod vault;

pub mod memory;
pub mod mutants;
pub mod pg;
pub mod store;
pub mod story;
