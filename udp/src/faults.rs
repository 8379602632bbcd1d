//! Errors of the operating system on demand, for tests (feature `faults`).
//!
//! A fault is injected below all translation: the call yields the error as the system would
//! number it, and what an adapter, the driver and the machine make of it is under test.

use pilot_core::drive::conformance::{Calls, Fault};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

static FAULTS: Mutex<BTreeMap<(SocketAddr, Calls), (Fault, u32)>> = Mutex::new(BTreeMap::new());

/// From now on the next `times` such calls of a socket bound to `local` meet this fault,
/// [`u32::MAX`] for all of them. `None` ends it.
pub fn inject(local: SocketAddr, calls: Calls, fault: Option<Fault>, times: u32) {
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    match fault {
        Some(fault) if times > 0 => faults.insert((local, calls), (fault, times)),
        _ => faults.remove(&(local, calls)),
    };
}

/// What a call meets: an error, or (only when sending) a success that does nothing.
pub(crate) fn meet(local: SocketAddr, calls: Calls) -> Option<io::Result<()>> {
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let (fault, times) = faults.get_mut(&(local, calls))?;
    let fault = *fault;
    if *times != u32::MAX {
        *times -= 1;
        if *times == 0 {
            faults.remove(&(local, calls));
        }
    }
    Some(match fault {
        Fault::Refused => Err(io::Error::from_raw_os_error(ECONNREFUSED)),
        Fault::Unreachable => Err(io::Error::from_raw_os_error(ENETUNREACH)),
        Fault::TooLarge => Err(io::Error::from_raw_os_error(EMSGSIZE)),
        Fault::NoBuffers => Err(io::Error::from_raw_os_error(ENOBUFS)),
        Fault::Lost => Ok(()),
    })
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod numbers {
    pub(super) const EMSGSIZE: i32 = 90;
    pub(super) const ENETUNREACH: i32 = 101;
    pub(super) const ENOBUFS: i32 = 105;
    pub(super) const ECONNREFUSED: i32 = 111;
}

/// Winsock's.
#[cfg(windows)]
mod numbers {
    pub(super) const EMSGSIZE: i32 = 10040;
    pub(super) const ENETUNREACH: i32 = 10051;
    pub(super) const ENOBUFS: i32 = 10055;
    pub(super) const ECONNREFUSED: i32 = 10061;
}

/// BSD's.
#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
mod numbers {
    pub(super) const EMSGSIZE: i32 = 40;
    pub(super) const ENETUNREACH: i32 = 51;
    pub(super) const ENOBUFS: i32 = 55;
    pub(super) const ECONNREFUSED: i32 = 61;
}

use numbers::{ECONNREFUSED, EMSGSIZE, ENETUNREACH, ENOBUFS};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::typed;
    use pilot_core::drive::IoError;

    #[test]
    fn faults_are_met_so_often_and_are_what_the_system_says() {
        let local = SocketAddr::from(([192, 0, 2, 1], 9));
        let meet_one = |fault| {
            inject(local, Calls::Send, Some(fault), 1);
            assert!(meet(local, Calls::Receive).is_none());
            let met = meet(local, Calls::Send).unwrap().map_err(typed);
            assert!(meet(local, Calls::Send).is_none());
            met
        };
        assert_eq!(meet_one(Fault::TooLarge), Err(IoError::TooLarge));
        assert_eq!(meet_one(Fault::Unreachable), Err(IoError::Unreachable));
        assert_eq!(meet_one(Fault::Refused), Err(IoError::Os(ECONNREFUSED)));
        assert_eq!(meet_one(Fault::NoBuffers), Err(IoError::Os(ENOBUFS)));
        assert_eq!(meet_one(Fault::Lost), Ok(()));
        inject(local, Calls::Send, Some(Fault::Lost), u32::MAX);
        for _ in 0..1000 {
            assert!(meet(local, Calls::Send).is_some());
        }
        inject(local, Calls::Send, None, 0);
        assert!(meet(local, Calls::Send).is_none());
    }
}
