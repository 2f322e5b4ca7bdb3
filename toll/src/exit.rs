//! What the process says with its exit code: 0 done, 1 failed, 2 usage, 3 changes pending, 4 threshold missed, 5 server
//! unreachable, 6 stale plan or conflict.

use storage::pg::StoreError;
use thiserror::Error;

/// Failed.
pub(crate) const FAILED: u8 = 1;
/// What was asked for cannot be understood.
pub(crate) const USAGE: u8 = 2;
/// There are changes, and --exit-code asked to be told.
pub(crate) const PENDING: u8 = 3;
/// A threshold was missed.
pub(crate) const MISSED: u8 = 4;
/// A server cannot be reached.
pub(crate) const UNREACHABLE: u8 = 5;
/// What it was planned against is no longer so.
pub(crate) const STALE: u8 = 6;

/// A failure with an exit code of its own and a text for people.
#[derive(Debug, Error)]
#[error("{text}")]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

/// The command cannot be understood.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Failure { code: USAGE, text: text.into() }.into()
}

/// It was understood, and failed.
pub(crate) fn failed(text: impl Into<String>) -> anyhow::Error {
    Failure { code: FAILED, text: text.into() }.into()
}

/// It worked, and there are changes to apply.
pub(crate) fn pending(text: impl Into<String>) -> anyhow::Error {
    Failure { code: PENDING, text: text.into() }.into()
}

/// Somebody else was faster.
pub(crate) fn stale(text: impl Into<String>) -> anyhow::Error {
    Failure { code: STALE, text: text.into() }.into()
}

/// It worked, but a threshold that was asked for was missed.
pub(crate) fn missed(text: impl Into<String>) -> anyhow::Error {
    Failure { code: MISSED, text: text.into() }.into()
}

/// The exit code of an error.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(Failure { code, .. }) = cause.downcast_ref() {
            return *code;
        }
        let unreachable = matches!(cause.downcast_ref(), Some(StoreError::Unavailable(_)))
            || matches!(cause.downcast_ref(), Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut));
        if unreachable {
            return UNREACHABLE;
        }
    }
    FAILED
}

/// What went wrong and why, each cause once: some errors repeat theirs.
pub(crate) fn text_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn codes_survive_context() {
        let away = || sqlx::Error::Io(std::io::Error::other("away"));
        let with =
            |error: anyhow::Error| Err::<(), _>(error).context("while reading").map_err(|e| code_of(&e));
        assert_eq!(with(usage("x")), Err(USAGE));
        assert_eq!(with(failed("x")), Err(FAILED));
        assert_eq!(with(StoreError::from(away()).into()), Err(UNREACHABLE));
        assert_eq!(with(away().into()), Err(UNREACHABLE));
        assert_eq!(with(anyhow::anyhow!("x")), Err(FAILED));
        let refused = StoreError::Broken("x".into());
        assert_eq!(with(refused.into()), Err(FAILED));
    }

    #[test]
    fn causes_are_told_once() {
        let away = StoreError::from(sqlx::Error::Io(std::io::Error::other("refused by the peer")));
        let error = anyhow::Error::from(away).context("cannot connect");
        let text = text_of(&error);
        assert!(text.starts_with("cannot connect: the database cannot be reached"), "{text}");
        assert_eq!(text.matches("refused by the peer").count(), 1, "{text}");
    }
}
