//! The book: TOML files in, rules or problems out. Pure: text comes in as an argument.
