//! Failover of the database: noticing it at every connect ([`watch`]), and clearing up what the lost commits leave behind
//! ([`clearing`]) before a shard charges again. What the engine does about charges in doubt is in `engine/doubts.rs`.

mod clearing;
mod holds;
mod watch;

pub(crate) use clearing::Clearing;
pub(crate) use holds::Holds;
pub(crate) use watch::{Watch, first_look, terms_of};
