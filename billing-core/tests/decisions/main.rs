//! `triage` and `decide` together: a table over the whole outcome list, stories a product manager can read, and
//! random walks that must keep every promise about money.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;
mod world_beside;

mod table;

mod stories;
mod stories_evidence;
mod stories_money;
mod stories_moves;
mod stories_phases;
mod stories_time;

mod walks;
