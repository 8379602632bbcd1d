//! Streams and datagrams over data frames (`wire.md` 11).
