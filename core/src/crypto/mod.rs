//! Keys, signatures, the handshake's cryptography and the AEAD provider (`wire.md` 2, 4).
