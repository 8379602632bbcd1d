//! Tests of the trust table.
