//! The server: registry and beacon as one machine (`wire.md` 6, 7, 9, 10).
