//! The one loop that all adapters share.
