//! What an agent needs done beside its packets: the registry's TCP connection, durable
//! changes, and news about clocks, interfaces and names.
//!
//! Bytes and facts are carried here; what they mean is the node's affair. No clock is read and
//! nothing blocks: an adapter calls [`Household::attend`] when its waker was called, when the
//! connection is ready, and at the deadline. Whatever may block goes out as an [`Errand`] and
//! comes back as an [`Outcome`].
//!
//! | keeps | does |
//! |---|---|
//! | registry | dials when the node asks, carries bytes both ways, closes |
//! | store | commits what changed, in order; what failed is tried again after a second |
//! | beacon | looks its name up at the start, with a growing pause until that works, when the link is lost, and while it is silent: then its addresses are tried in turn |
//! | clocks | compares them every second, mixes fresh entropy in; a step, a suspend or a copied machine is told to the node |
//! | interfaces | lists them every second, and at once when the main socket was replaced; what has changed is told to the node |

mod clock;
mod errand;
mod line;
mod tenant;
#[cfg(test)]
mod tests;

pub use clock::{ClockWatch, Reading};
pub use errand::{Errand, ErrandKind, Facts, Notice, Outcome};
pub use tenant::Tenant;

use super::agent::{Change, Handle, LINGER, Store};
use super::runtime::{Host, Runtime};
use super::{BEACON_PORT, HostPort, REGISTRY_PORT};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use line::Registry;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Durable changes committed at once.
const CHANGES: usize = 256;
/// A commit that failed is tried again after this time, and a name looked up again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest distance of two attempts to look the beacon up for the first time.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long an address of the beacon is tried before another one is. Twice as long each time, up
/// to [`RETRY_MAX`]: each begins a handshake anew, whose distances do not grow then.
const PATIENCE: Duration = Duration::from_secs(10);
/// The clocks are compared, fresh entropy is mixed in, and interfaces are listed this often.
const CHECK: Duration = Duration::from_secs(1);

/// What the node and its handles want of the household.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chores {
    /// A new registry connection.
    pub dial: bool,
    /// The end of the present one, if any. When both are wanted, closing comes first.
    pub close: bool,
    /// Durable state changed.
    pub store: bool,
    /// The beacon's name should be looked up again.
    pub resolve: bool,
    /// The main socket is another one: interfaces should be listed at once.
    pub list: bool,
    /// The last changes are to be made durable, and then the agent ends.
    pub leave: bool,
    /// The agent has ended.
    pub ended: bool,
}

/// What to do after a step.
#[must_use = "the adapter has to wait as it says, or to call again"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HouseholdNext {
    /// There is more to do: give way to others, then call again.
    Again,
    /// Wait for the waker, for the connection ([`Household::line`]), or until this time.
    Wait {
        /// The clock reaches this.
        until: Instant,
    },
    /// The agent has ended.
    End,
}

/// See the module. `L` is a TCP connection that never blocks.
pub struct Household<L> {
    registry: Registry<L>,
    keeper: Keeper,
    beacon: Beacon,
    watch: Watch,
    /// At most one of each kind.
    errands: Vec<Errand>,
    /// When the agent ends although there is something left to store.
    leave: Option<Instant>,
}

impl<L> fmt::Debug for Household<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Household").field("errands", &self.errands).finish_non_exhaustive()
    }
}

/// Durable changes.
struct Keeper {
    /// Away while it commits; gone if it has panicked.
    store: Option<Box<dyn Store>>,
    /// There may be changes.
    is_dirty: bool,
    /// What is being committed, up to this sequence number.
    sequence: u64,
    /// What could not be committed, and when it is tried again.
    retry: Option<(Instant, Vec<Change>)>,
}

/// Where the beacon is.
struct Beacon {
    place: HostPort,
    known: Option<SocketAddr>,
    /// Until then another address is not tried in its place.
    patience: Instant,
    is_asked: bool,
    /// It should be looked up, but not before `earliest`.
    is_wanted: bool,
    earliest: Instant,
    /// It is looked up at this time, too, unless it answers.
    latest: Option<Instant>,
    pause: Duration,
}

/// Clocks, interfaces, copies.
struct Watch {
    clocks: ClockWatch,
    next: Instant,
    is_copied: bool,
    is_listing: bool,
    /// Interfaces should be listed again although they are being listed.
    is_stale: bool,
    locals: Vec<SocketAddr>,
}

impl<L: Read + Write> Household<L> {
    /// `locals` are the host candidates that the node knows; `reading` is of now.
    pub fn new(
        registry: HostPort,
        beacon: HostPort,
        store: Box<dyn Store>,
        locals: Vec<SocketAddr>,
        reading: Reading,
    ) -> Self {
        let with_port = |place: HostPort, default_port: u16| HostPort {
            port: place.port.or(Some(default_port)),
            ..place
        };
        Household {
            registry: Registry::new(with_port(registry, REGISTRY_PORT)),
            keeper: Keeper { store: Some(store), is_dirty: true, sequence: 0, retry: None },
            beacon: Beacon {
                place: with_port(beacon, BEACON_PORT),
                known: None,
                patience: reading.now,
                is_asked: false,
                is_wanted: true,
                earliest: reading.now,
                latest: None,
                pause: RETRY,
            },
            watch: Watch {
                clocks: ClockWatch::new(reading),
                next: reading.now,
                is_copied: false,
                is_listing: false,
                is_stale: false,
                locals,
            },
            errands: Vec::new(),
            leave: None,
        }
    }

    /// A step for an agent: takes what there is to do (`waker` is called when there is more),
    /// does it, and sends errands out. `register` puts a new connection into the event queue.
    pub fn attend<R: Runtime>(
        &mut self,
        handle: &Handle<R>,
        waker: &R::Waker,
        register: impl Fn(TcpStream) -> io::Result<L>,
    ) -> HouseholdNext {
        let host = handle.shared().host();
        let mut outcomes = Vec::new();
        let chores = handle.chores(waker, &mut outcomes);
        for outcome in outcomes {
            self.handle_outcome(&host, handle, outcome.registered(&register));
        }
        let next = self.turn(&host, handle, chores);
        for errand in mem::take(&mut self.errands) {
            let report = Report { handle: handle.clone(), lost: Some(errand.kind()) };
            host.carry_out(errand, |outcome| report.give(outcome));
        }
        next
    }

    /// One step with `chores`; afterwards [`Household::poll_errand`] is to be called until it
    /// has none. [`Household::attend`] does both.
    pub fn turn(
        &mut self,
        host: &impl Host,
        tenant: &impl Tenant,
        chores: Chores,
    ) -> HouseholdNext {
        if chores.ended {
            return HouseholdNext::End;
        }
        let reading = host.reading();
        let now = reading.now;
        self.registry.demand(chores.dial, chores.close);
        self.keeper.is_dirty |= chores.store;
        self.beacon.is_wanted |= chores.resolve;
        if chores.leave {
            self.keeper.is_dirty = true;
            self.leave.get_or_insert(now + LINGER);
        }
        let errands = &mut self.errands;
        self.watch.is_stale |= chores.list;
        self.watch.turn(reading, host, tenant, errands);
        self.beacon.turn(now, tenant, errands);
        let is_stored = self.keeper.turn(now, tenant, errands);
        if self.leave.is_some_and(|at| is_stored || at <= now) {
            self.leave = None;
            tenant.stop();
        }
        if self.registry.turn(now, host, tenant, errands) {
            return HouseholdNext::Again;
        }
        let deadlines = [
            self.leave,
            self.registry.poll_timeout(),
            self.keeper.retry.as_ref().map(|(at, _)| *at),
            self.beacon.poll_timeout(),
        ];
        let until = deadlines.into_iter().flatten().fold(self.watch.next, Instant::min);
        HouseholdNext::Wait { until }
    }

    /// Work that may block.
    pub fn poll_errand(&mut self) -> Option<Errand> {
        self.errands.pop()
    }

    /// An errand is over.
    pub fn handle_outcome(&mut self, host: &impl Host, tenant: &impl Tenant, outcome: Outcome<L>) {
        let now = host.now();
        let lost = || io::Error::other("the thread that worked on it has panicked");
        match outcome {
            Outcome::Dialled(dialled) => self.registry.handle_dialled(host, tenant, dialled),
            Outcome::Lost(ErrandKind::Dial) => {
                self.registry.handle_dialled(host, tenant, Err(lost()));
            }
            Outcome::LookedUp(found) => self.beacon.handle(now, host, tenant, found),
            Outcome::Lost(ErrandKind::LookUp) => {
                self.beacon.handle(now, host, tenant, Err(lost()));
            }
            Outcome::Committed(store, changes, result) => {
                self.keeper.store = Some(store);
                match result {
                    Ok(()) => {
                        self.keeper.is_dirty = true;
                        tenant.handle_stored(self.keeper.sequence);
                    }
                    Err(error) => {
                        host.note(Notice::CannotStore(&error));
                        self.keeper.retry = Some((now + RETRY, changes));
                    }
                }
            }
            Outcome::Lost(ErrandKind::Commit) => host.note(Notice::StoreLost),
            Outcome::Listed(result) => {
                self.watch.is_listing = false;
                if let Ok(found) = result
                    && found != self.watch.locals
                {
                    tenant.set_locals(&found);
                    self.watch.locals = found;
                    self.beacon.is_wanted = true;
                }
            }
            Outcome::Lost(ErrandKind::List) => self.watch.is_listing = false,
            // Loading is done before there is a household.
            Outcome::Loaded(_) | Outcome::Lost(ErrandKind::Load) => {}
        }
    }

    /// This machine is a copy of what it was: others have the same counters and random
    /// numbers.
    pub fn handle_copied(&mut self) {
        self.watch.is_copied = true;
    }

    /// The registry's connection, to wait until it is readable, and whether also until it is
    /// writable.
    pub fn line(&self) -> Option<(&L, bool)> {
        self.registry.line()
    }

    /// The same for event queues that want it mutable.
    pub fn line_mut(&mut self) -> Option<&mut L> {
        self.registry.line_mut()
    }
}

impl Keeper {
    /// Whether nothing is left to store.
    fn turn(&mut self, now: Instant, tenant: &impl Tenant, errands: &mut Vec<Errand>) -> bool {
        let is_due = self.retry.as_ref().is_none_or(|(at, _)| *at <= now);
        if !is_due {
            return false;
        }
        let Some(store) = self.store.take() else { return false };
        let changes = match self.retry.take() {
            Some((_, changes)) => changes,
            None => {
                let mut changes = Vec::new();
                if mem::take(&mut self.is_dirty) {
                    self.sequence = tenant.poll_store(CHANGES, &mut changes);
                }
                changes
            }
        };
        if changes.is_empty() {
            self.store = Some(store);
            return true;
        }
        errands.push(Errand::Commit(store, changes));
        false
    }
}

impl Beacon {
    fn turn(&mut self, now: Instant, tenant: &impl Tenant, errands: &mut Vec<Errand>) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        if self.known.is_some() && !self.is_wanted {
            // Nobody tells of a beacon that stays silent.
            if !tenant.misses_beacon() {
                self.pause = PATIENCE;
                self.latest = Some(now + self.pause);
                return;
            }
            self.pause = (self.pause * 2).min(RETRY_MAX);
        }
        self.is_asked = true;
        self.is_wanted = false;
        self.latest = None;
        errands.push(Errand::LookUp(self.place.clone()));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let wanted = self.is_wanted.then_some(self.earliest).or(self.latest);
        wanted.filter(|_| !self.is_asked)
    }

    fn handle(
        &mut self,
        now: Instant,
        host: &impl Host,
        tenant: &impl Tenant,
        found: io::Result<Vec<SocketAddr>>,
    ) {
        self.is_asked = false;
        match found {
            Ok(mut addresses) => {
                addresses.retain(|address| tenant.reaches(*address));
                let found = self.choose(now, tenant, &addresses);
                if let Some(address) = found
                    && self.known != found
                {
                    if self.known.is_none() {
                        self.pause = PATIENCE;
                    }
                    self.known = found;
                    self.patience = now + PATIENCE;
                    tenant.set_beacon(address);
                }
            }
            Err(error) => host.note(Notice::CannotLookUp(&self.place, &error)),
        }
        // Not more often, however often the link is lost.
        self.earliest = now + RETRY;
        if self.known.is_none() {
            self.pause = (self.pause * 2).min(RETRY_MAX);
            self.latest = Some(self.earliest + self.pause);
        } else {
            self.latest = Some(now + self.pause);
        }
    }

    /// The known one if it is among these, or the one after it if nobody answers there: a socket
    /// of its family is no proof that the network carries that family. Else the first one.
    fn choose(
        &self,
        now: Instant,
        tenant: &impl Tenant,
        addresses: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let known = addresses.iter().position(|address| Some(*address) == self.known);
        let at = match known {
            Some(at) if self.patience <= now && tenant.misses_beacon() => at + 1,
            known => known.unwrap_or(0),
        };
        addresses.get(at).or(addresses.first()).copied()
    }
}

impl Watch {
    fn turn(
        &mut self,
        reading: Reading,
        host: &impl Host,
        tenant: &impl Tenant,
        errands: &mut Vec<Errand>,
    ) {
        if reading.now >= self.next || self.is_copied {
            self.check(reading, host, tenant);
            self.is_stale = true;
        }
        if !self.is_listing && mem::take(&mut self.is_stale) {
            self.is_listing = true;
            errands.push(Errand::List(tenant.local_addresses()));
        }
    }

    fn check(&mut self, reading: Reading, host: &impl Host, tenant: &impl Tenant) {
        // After a suspend one look is enough.
        self.next = reading.now + CHECK;
        let is_copied = mem::take(&mut self.is_copied);
        let stepped = self.clocks.check(reading);
        if stepped.is_some() {
            host.note(Notice::ClockStepped);
        }
        if is_copied {
            host.note(Notice::Copied);
        }
        // First the generator, then who draws from it.
        if let Some(entropy) = host.entropy() {
            tenant.reseed(entropy);
        }
        if let Some(unix) = stepped.or(is_copied.then_some(reading.unix)) {
            tenant.set_wall_clock(unix);
        }
    }
}

/// Brings an outcome back to the household of an agent, also that there is none.
struct Report<R: Runtime> {
    handle: Handle<R>,
    lost: Option<ErrandKind>,
}

impl<R: Runtime> Report<R> {
    fn give(mut self, outcome: Outcome) {
        self.lost = None;
        self.handle.peek(|access| access.owner.handle_outcome(outcome));
    }
}

impl<R: Runtime> Drop for Report<R> {
    fn drop(&mut self) {
        // The thread is panicking, most likely, but the agent is not unless its lock says so.
        if let Some(kind) = self.lost
            && !self.handle.shared().is_broken()
        {
            self.handle.peek(|access| access.owner.handle_outcome(Outcome::Lost(kind)));
        }
    }
}
