//! Who may reach which port: requests, grants, pinned keys (`wire.md` 6.5).
