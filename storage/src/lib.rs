//! Keeps: Postgres, the interaction history and the local spool.
