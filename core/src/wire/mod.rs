//! Fixed byte layouts and control message bodies (`wire.md` 4.1, 7, 9, 10).

pub mod header;
