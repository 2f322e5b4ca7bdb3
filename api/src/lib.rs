//! Answers: metrics, health, and what a running engine knows.
