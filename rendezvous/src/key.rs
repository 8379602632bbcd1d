//! The server's secret keys (`P.key`): the Ed25519 identity that clients pin, and the current
//! and previous X25519 tunnel keys (`wire.md` 2, 6.4, 8).
//!
//! The file is read and written by this module alone and never enters an export. Its layout
//! is fixed, 200 bytes: magic and version 16 ‖ identity 32 ‖ tunnel 32 ‖ previous tunnel 32
//! (zero: none) ‖ serial 8 ‖ rotated at 8 (Unix seconds) ‖ public identity 32 ‖ public tunnel
//! 32 ‖ zero 8. The public halves are redundant on purpose: a damaged secret would be another
//! identity, and every client would be told that the registry is an impostor.

use crate::files::{self, PrivateFileError};
use pilot_core::crypto::identity::{Identity, IdentityKey, TunnelSecret};
use pilot_core::time::{Duration, UnixTime};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const MAGIC: &[u8; 16] = b"pilot-rv-key\0\0\0\x01";
const LENGTH: usize = 200;

/// A tunnel key serves this long (`wire.md` 2): theft of it reveals who opened recorded
/// connections, and this bounds how many. The previous key is kept until the next rotation.
pub const TUNNEL_ROTATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A registry without its key: clients would take it for an impostor.
    #[error(
        "{path} is missing: restore it, or ask for a new key (every agent will have to accept \
         the new fingerprint)"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A new key was asked for, and one is there.
    #[error("{path} exists: a new key is made only where there is none; move it away first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Not a key file, damaged, or of a newer program.
    #[error("{path} is damaged, or not a key file that this program knows")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Others may touch the file, it is not ours, or it cannot be read.
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    /// It could not be written, or the system has no random numbers.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The keys, in memory.
pub(crate) struct Keys {
    pub(crate) identity: Identity,
    pub(crate) tunnel: TunnelSecret,
    pub(crate) previous: Option<TunnelSecret>,
    /// Rises with each tunnel key; the serial of the signed beacon entry.
    pub(crate) serial: u64,
    rotated: UnixTime,
}

/// What may be done where the key file is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IfMissing {
    /// Nothing was ever signed: make one.
    Create,
    /// A registry exists: refuse.
    Refuse,
    /// A registry exists and the operator wants a new key; refused where there is one.
    Replace,
}

impl Keys {
    /// The stored keys, or new ones, stored before they are returned. Overdue tunnel keys are
    /// rotated. The caller holds the store's lock.
    pub(crate) fn load(path: &Path, missing: IfMissing, now: UnixTime) -> Result<Self, KeyError> {
        match (files::open_private(path, false), missing) {
            (Ok(_), IfMissing::Replace) => Err(KeyError::Exists { path: path.to_owned() }),
            (Ok(mut file), _) => {
                let mut keys = Keys::read(path, &mut file)?;
                if keys.is_due(now) {
                    keys.rotate(path, now)?;
                }
                Ok(keys)
            }
            (Err(error), IfMissing::Refuse) if error.is_missing() => {
                Err(KeyError::Missing { path: path.to_owned() })
            }
            (Err(error), _) if error.is_missing() => {
                let io = |source| KeyError::Io { path: path.to_owned(), source };
                let keys = Keys {
                    identity: Identity::from_secret(random().map_err(io)?),
                    tunnel: TunnelSecret::from_secret(random().map_err(io)?),
                    previous: None,
                    serial: 1,
                    rotated: now,
                };
                keys.write(path)?;
                Ok(keys)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The key that clients pin.
    pub(crate) fn public(&self) -> IdentityKey {
        self.identity.public()
    }

    /// Whether the tunnel key has served its time.
    pub(crate) fn is_due(&self, now: UnixTime) -> bool {
        now >= self.rotated + TUNNEL_ROTATION
    }

    /// A new tunnel key; the present one becomes the previous one. On an error nothing has
    /// changed.
    pub(crate) fn rotate(&mut self, path: &Path, now: UnixTime) -> Result<(), KeyError> {
        let fresh = random().map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        let next = Keys {
            identity: Identity::from_secret(*self.identity.secret()),
            tunnel: TunnelSecret::from_secret(fresh),
            previous: Some(TunnelSecret::from_secret(*self.tunnel.secret())),
            serial: self.serial + 1,
            rotated: now,
        };
        next.write(path)?;
        *self = next;
        Ok(())
    }

    fn read(path: &Path, file: &mut std::fs::File) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0u8; LENGTH + 1]);
        let mut length = 0;
        while length < bytes.len() {
            match file.read(&mut bytes[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(KeyError::Io { path: path.to_owned(), source }),
            }
        }
        let damaged = || KeyError::Damaged { path: path.to_owned() };
        if length != LENGTH || bytes[..16] != *MAGIC {
            return Err(damaged());
        }
        let key = |at: usize| -> [u8; 32] { bytes[at..at + 32].try_into().expect("32 bytes") };
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let previous = Zeroizing::new(key(80));
        let keys = Keys {
            identity: Identity::from_secret(key(16)),
            tunnel: TunnelSecret::from_secret(key(48)),
            previous: (*previous != [0; 32]).then(|| TunnelSecret::from_secret(*previous)),
            serial: number(112),
            rotated: UnixTime::from_secs(number(120)),
        };
        let whole = keys.public().0 == key(128) && keys.tunnel.public().0 == key(160);
        match whole && number(192) == 0 {
            true => Ok(keys),
            false => Err(damaged()),
        }
    }

    fn write(&self, path: &Path) -> Result<(), KeyError> {
        let mut bytes = Zeroizing::new([0u8; LENGTH]);
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..48].copy_from_slice(&*self.identity.secret());
        bytes[48..80].copy_from_slice(&*self.tunnel.secret());
        if let Some(previous) = &self.previous {
            bytes[80..112].copy_from_slice(&*previous.secret());
        }
        bytes[112..120].copy_from_slice(&self.serial.to_be_bytes());
        bytes[120..128].copy_from_slice(&self.rotated.as_secs().to_be_bytes());
        bytes[128..160].copy_from_slice(&self.public().0);
        bytes[160..192].copy_from_slice(&self.tunnel.public().0);
        // Straight to the file: a buffered writer's heap would keep the secrets.
        files::replace_private(path, |writer| writer.get_mut().write_all(&*bytes))
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })
    }
}

/// 32 bytes from the operating system.
pub(crate) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u64) -> UnixTime {
        UnixTime::from_secs(1_700_000_000 + days * 24 * 3600)
    }

    fn path(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().join("r.key")
    }

    #[test]
    fn keys_are_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory);
        let refused = Keys::load(&path, IfMissing::Refuse, at(0)).err().unwrap();
        assert!(matches!(refused, KeyError::Missing { .. }), "{refused}");
        let made = Keys::load(&path, IfMissing::Create, at(0)).unwrap();
        let again = Keys::load(&path, IfMissing::Refuse, at(1)).unwrap();
        assert_eq!(made.public(), again.public());
        assert_eq!(made.tunnel.public(), again.tunnel.public());
        assert_eq!((again.serial, again.previous.is_none()), (1, true));
        let refused = Keys::load(&path, IfMissing::Replace, at(1)).err().unwrap();
        assert!(matches!(refused, KeyError::Exists { .. }), "{refused}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_tunnel_key_rotates_and_the_previous_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory);
        let first = Keys::load(&path, IfMissing::Create, at(0)).unwrap();
        let same = Keys::load(&path, IfMissing::Refuse, at(29)).unwrap();
        assert_eq!(first.tunnel.public(), same.tunnel.public());
        let mut second = Keys::load(&path, IfMissing::Refuse, at(30)).unwrap();
        assert_ne!(first.tunnel.public(), second.tunnel.public());
        assert_eq!(first.public(), second.public());
        assert_eq!(second.previous.as_ref().unwrap().public(), first.tunnel.public());
        assert_eq!(second.serial, 2);
        assert!(!second.is_due(at(59)) && second.is_due(at(60)));
        let tunnel = second.tunnel.public();
        second.rotate(&path, at(60)).unwrap();
        let third = Keys::load(&path, IfMissing::Refuse, at(61)).unwrap();
        assert_eq!(third.previous.unwrap().public(), tunnel);
        assert_eq!(third.serial, 3);
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory);
        drop(Keys::load(&path, IfMissing::Create, at(0)).unwrap());
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), LENGTH);
        for (at, bit) in [(0, 1), (15, 2), (17, 1), (50, 1), (130, 128), (170, 1), (199, 1)] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            std::fs::write(&path, bytes).unwrap();
            let refused = Keys::load(&path, IfMissing::Refuse, super::tests::at(0)).err().unwrap();
            assert!(matches!(refused, KeyError::Damaged { .. }), "byte {at}: {refused}");
        }
        for length in [0, LENGTH - 1, LENGTH + 1] {
            let mut bytes = whole.clone();
            bytes.resize(length, 0);
            std::fs::write(&path, bytes).unwrap();
            assert!(Keys::load(&path, IfMissing::Refuse, at(0)).is_err(), "{length} bytes");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory);
        drop(Keys::load(&path, IfMissing::Create, at(0)).unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Keys::load(&path, IfMissing::Refuse, at(0)).err().unwrap();
        assert!(
            matches!(refused, KeyError::Private(PrivateFileError::Mode { mode: 0o640, .. })),
            "{refused}"
        );
    }
}
