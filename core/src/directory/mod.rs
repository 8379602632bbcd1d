//! The client side of the rendezvous (`wire.md` 6, 7, 9, 10).
