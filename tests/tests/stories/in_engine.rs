//! The golden stories once more: a real engine with a real database against mock carriers that answer as each story's
//! script says. Not among the tests of `./check` yet: it steps business time over months, which a loaded machine does
//! not always follow in time. By hand: `cargo test -p tests --test stories-in-engine`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod book;
mod engine;
