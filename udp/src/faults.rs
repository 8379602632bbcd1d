//! Errors of the operating system on demand, for tests (feature `faults`).
//!
//! [`inject`] concerns sockets, [`set_candidates`] the interfaces of the host, and
//! [`displace_clocks`] the clocks by which an agent notices that its host was suspended or that
//! somebody has set the time.
//!
//! A fault is injected below all translation: the call yields the error as the system would
//! number it, and what an adapter, the driver and the machine make of it is under test.

use pilot_core::drive::conformance::{Calls, Fault};
use pilot_core::drive::household::Reading;
use pilot_core::time::{Duration, UnixTime};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether there ever was a fault: nobody else pays for the table.
static IS_USED: AtomicBool = AtomicBool::new(false);
static FAULTS: Mutex<BTreeMap<(SocketAddr, Calls), (Fault, u32)>> = Mutex::new(BTreeMap::new());

/// From now on the next `times` such calls of a socket bound to `local` meet this fault,
/// [`u32::MAX`] for all of them. `None` ends it, and so does the next socket with that address.
pub fn inject(local: SocketAddr, calls: Calls, fault: Option<Fault>, times: u32) {
    IS_USED.store(true, Ordering::Release);
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    match fault {
        Some(fault) if times > 0 => faults.insert((local, calls), (fault, times)),
        _ => faults.remove(&(local, calls)),
    };
}

static CANDIDATES: Mutex<BTreeMap<SocketAddr, Vec<SocketAddr>>> = Mutex::new(BTreeMap::new());

/// From now on these are the host candidates of the main socket bound to `local`; `None`: those
/// that it really has, and so for the next socket with that address.
pub fn set_candidates(local: SocketAddr, found: Option<Vec<SocketAddr>>) {
    let mut candidates = CANDIDATES.lock().unwrap_or_else(PoisonError::into_inner);
    match found {
        Some(found) => candidates.insert(local, found),
        None => candidates.remove(&local),
    };
}

pub(crate) fn candidates(bound: &[SocketAddr]) -> Option<Vec<SocketAddr>> {
    let candidates = CANDIDATES.lock().unwrap_or_else(PoisonError::into_inner);
    bound.iter().find_map(|local| candidates.get(local).cloned())
}

/// A new socket is bound to `local`: the faults were those of an earlier one, whose port it got.
pub(crate) fn forget(local: SocketAddr) {
    set_candidates(local, None);
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    faults.retain(|(at, _), _| *at != local);
}

/// What a call meets: an error, or (only when sending) a success that does nothing.
pub(crate) fn meet(local: SocketAddr, calls: Calls) -> Option<io::Result<()>> {
    if !IS_USED.load(Ordering::Acquire) {
        return None;
    }
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

/// How long the host has been asleep, and by how many milliseconds its time was set.
static DISPLACEMENT: Mutex<(Duration, i64)> = Mutex::new((Duration::ZERO, 0));

/// From now on every [`Clock`](crate::Clock) of this process reads as if the host had been asleep
/// for this long in addition, and as if its time had then been set ahead by this many
/// milliseconds.
pub fn displace_clocks(asleep: Duration, step_ms: i64) {
    let mut displacement = DISPLACEMENT.lock().unwrap_or_else(PoisonError::into_inner);
    displacement.0 += asleep;
    displacement.1 += step_ms;
}

pub(crate) fn displaced(reading: Reading) -> Reading {
    let (asleep, step_ms) = *DISPLACEMENT.lock().unwrap_or_else(PoisonError::into_inner);
    // Asleep, the monotonic clock stands still.
    let asleep_ms = i64::try_from(asleep.as_millis()).unwrap_or(i64::MAX);
    let unix_ms = reading.unix.as_millis().saturating_add_signed(asleep_ms.saturating_add(step_ms));
    Reading { boot: reading.boot + asleep, unix: UnixTime::from_millis(unix_ms), ..reading }
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

    /// The system gives a port again as soon as it is free.
    #[test]
    fn the_next_socket_at_an_address_does_not_inherit_its_faults() {
        let bound = |address: SocketAddr| {
            let options = crate::BindOptions { listen: Some(address), ..Default::default() };
            crate::UdpSockets::<std::net::UdpSocket>::bind(&options).expect("free")
        };
        let first = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let at = first.local_addresses().next().expect("bound");
        inject(at, Calls::Send, Some(Fault::Lost), u32::MAX);
        assert!(meet(at, Calls::Send).is_some());
        drop(first);
        let _second = bound(at);
        assert!(meet(at, Calls::Send).is_none());
    }
}
