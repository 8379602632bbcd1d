//! The beacon session and relay channels.
