//! One agent: composes tunnel, transport, directory and trust.
