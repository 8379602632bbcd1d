//! Errands: what may block, each on a thread of its own.
//!
//! A thread belongs to no runtime: one that waits for a name or a connection keeps none from
//! ending. An agent has at most one errand of each kind under way, most of them take
//! milliseconds, and all but the listing of interfaces (every second) are rare.

use crate::candidates::host_candidates;
use pilot_core::drive::HostPort;
use pilot_core::drive::agent::load;
use pilot_core::drive::household::{Errand, Outcome};
use pilot_core::time::Duration;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// One attempt at one address of the registry.
const CONNECT: Duration = Duration::from_secs(5);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 8;

/// Carries an errand out on a thread of its own and calls `report` there, or on this thread if
/// the system has no other. If the errand panics (a store may), `report` is dropped.
pub fn carry_out(errand: Errand, report: impl FnOnce(Outcome) + Send + 'static) {
    let job = Arc::new(Mutex::new(Some((errand, report))));
    let taken = Arc::clone(&job);
    let take = |job: &Mutex<Option<_>>| job.lock().unwrap_or_else(PoisonError::into_inner).take();
    let spawned = thread::Builder::new().name("pilot-errand".into()).spawn(move || {
        if let Some((errand, report)) = take(&taken) {
            report(run(errand));
        }
    });
    if let Err(error) = spawned
        && let Some((errand, report)) = take(&job)
    {
        report(errand.failed(error));
    }
}

fn run(errand: Errand) -> Outcome {
    match errand {
        Errand::Dial(place) => Outcome::Dialled(dial(&place)),
        Errand::LookUp(place) => Outcome::LookedUp(look_up(&place)),
        Errand::Commit(mut store, changes) => {
            let committed = store.commit(&changes);
            Outcome::Committed(store, changes, committed)
        }
        Errand::List(bound) => Outcome::Listed(host_candidates(&bound)),
        Errand::Load(store) => Outcome::Loaded(load(store)),
    }
}

fn look_up(place: &HostPort) -> io::Result<Vec<SocketAddr>> {
    let port = place.port.unwrap_or_default();
    Ok((place.host.as_str(), port).to_socket_addrs()?.take(ADDRESSES).collect())
}

fn dial(registry: &HostPort) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in look_up(registry)? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(tcp) => {
                // Requests are small and waited for.
                tcp.set_nodelay(true)?;
                tcp.set_nonblocking(true)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_core::drive::agent::{Change, Store};
    use pilot_core::drive::household::ErrandKind;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::mpsc;

    fn carried_out(errand: Errand) -> Result<Outcome, mpsc::RecvTimeoutError> {
        let (sender, receiver) = mpsc::channel();
        carry_out(errand, move |outcome| sender.send(outcome).unwrap());
        receiver.recv_timeout(Duration::from_secs(20))
    }

    fn local(port: u16) -> HostPort {
        HostPort { host: "127.0.0.1".into(), port: Some(port) }
    }

    #[test]
    fn a_dialled_connection_does_not_block() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let outcome = carried_out(Errand::Dial(local(port))).unwrap();
        let Outcome::Dialled(Ok(mut tcp)) = outcome else { panic!("{outcome:?}") };
        let (_accepted, from) = listener.accept().unwrap();
        assert_eq!(from, tcp.local_addr().unwrap());
        assert_eq!(tcp.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(tcp.nodelay().unwrap());
    }

    #[test]
    fn nobody_listens_there() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let outcome = carried_out(Errand::Dial(local(port))).unwrap();
        let Outcome::Dialled(Err(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn addresses_need_no_server_to_be_looked_up() {
        let outcome = carried_out(Errand::LookUp(local(9001))).unwrap();
        let Outcome::LookedUp(Ok(found)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 9001))]);
    }

    struct Broken;

    impl Store for Broken {
        fn load(&mut self, _: &mut dyn FnMut([u8; 8], &[u8])) -> io::Result<()> {
            Err(io::ErrorKind::InvalidData.into())
        }

        fn commit(&mut self, _: &[Change]) -> io::Result<()> {
            panic!("a store that panics, as this test wants it");
        }
    }

    #[test]
    fn a_panic_drops_the_report_and_an_error_is_reported() {
        let errand = Errand::Commit(Box::new(Broken), Vec::new());
        assert_eq!(errand.kind(), ErrandKind::Commit);
        assert_eq!(carried_out(errand).unwrap_err(), mpsc::RecvTimeoutError::Disconnected);
        let outcome = carried_out(Errand::Load(Box::new(Broken))).unwrap();
        assert!(matches!(outcome, Outcome::Loaded(Err(_))), "{outcome:?}");
    }
}
