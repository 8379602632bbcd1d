//! Services over stream handles (`wire.md` 12).
