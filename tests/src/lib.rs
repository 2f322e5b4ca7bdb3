//! Proves: integration, conformance and tidy tests over the whole tree.
