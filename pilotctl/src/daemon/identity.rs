//! The identity file: one line with a version and the Ed25519 secret in base32, in a file that
//! only its owner may read. Whoever has it is this agent.

use crate::error::{Code, Failure};
use crate::home;
use pilot_core::crypto::identity::Identity;
use std::path::Path;
use zeroize::Zeroizing;

/// What the line begins with; the number is the schema.
const HEAD: &str = "pilot-identity-1 ";
/// Longest file that is read.
const BYTES_MAX: u64 = 256;

/// Reads the identity; makes one at the first start.
pub(crate) fn load_or_create(path: &Path) -> Result<Identity, Failure> {
    if let Some(content) = home::read_private_file(path, BYTES_MAX)?.map(Zeroizing::new) {
        return parse(&content).map_err(|what| {
            let message = format!("{} {what}", path.display());
            Failure::new(Code::State, message)
        });
    }
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret)
        .map_err(|e| Failure::new(Code::Internal, format!("no randomness: {e}")))?;
    let identity = Identity::from_secret(*secret);
    let secret = Zeroizing::new(data_encoding::BASE32_NOPAD.encode(&*secret));
    let text = Zeroizing::new(format!("{HEAD}{}\n", *secret));
    home::create_private_file(path, text.as_bytes())?;
    Ok(identity)
}

fn parse(content: &[u8]) -> Result<Identity, &'static str> {
    let damaged = "is damaged";
    let text = std::str::from_utf8(content).map_err(|_| damaged)?;
    let Some(secret) = text.strip_prefix(HEAD) else {
        let newer = text.starts_with("pilot-identity-");
        return Err(if newer { "was written by a newer program" } else { damaged });
    };
    let secret = data_encoding::BASE32_NOPAD.decode(secret.trim_end().as_bytes());
    let secret = Zeroizing::new(secret.map_err(|_| damaged)?);
    let secret = <[u8; 32]>::try_from(&secret[..]).map_err(|_| damaged)?;
    Ok(Identity::from_secret(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_identity_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        let made = load_or_create(&path).unwrap().public();
        assert_eq!(load_or_create(&path).unwrap().public(), made);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load_or_create(&path).err().unwrap().code, Code::Permissions);
    }

    #[test]
    fn a_damaged_or_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        for (text, word) in [
            ("", "damaged"),
            ("pilot-identity-1 AAAA\n", "damaged"),
            ("pilot-identity-2 something\n", "newer"),
        ] {
            let _ = std::fs::remove_file(&path);
            home::create_private_file(&path, text.as_bytes()).unwrap();
            let failure = load_or_create(&path).err().unwrap();
            assert_eq!(failure.code, Code::State);
            assert!(failure.message.contains(word), "{}", failure.message);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
