//! The harness that all integration tests share: a private Postgres, mock carriers and `toll serve` as real processes
//! over real sockets, in a folder of their own. Everything ends with the [`World`] that started it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod checked;
mod process;
mod texts;
mod world;

pub use checked::told;
pub use process::{Engine, Mock, http_with, program};
pub use texts::{HURRIED, INQUIRY};
pub use world::{Book, PLAIN_ROLE, Played, SECRET, World, WorldOptions, wait_until};
