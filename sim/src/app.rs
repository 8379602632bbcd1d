//! What applications do in a world: streams whose bytes say where they belong.

use crate::HostId;
use crate::world::World;
use pilot_core::addr::Port;
use pilot_core::node::{Command, CommandError, Reply, StreamEnd, StreamError, StreamId};
use pilot_core::time::{Duration, Instant};

/// In every 16 bytes of a stream; on the wire only if something is not encrypted.
pub(crate) const MARK: [u8; 8] = *b"\xA5pattern";
/// The first port that transfers listen on.
const FIRST_PORT: u16 = 10_000;
/// Transfers of one world.
const TRANSFERS_MAX: usize = 4096;

/// A transfer of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TransferId(pub usize);

/// How a transfer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Bytes that have arrived, all of them right.
    Running(u64),
    /// All of it has arrived, and the end; after so long.
    Done(Duration),
    /// The stream has ended before; `None`: a process has.
    Failed(Option<StreamEnd>),
}

#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    port: Port,
    len: u64,
    seed: u64,
    sender: StreamId,
    receiver: Option<StreamId>,
    written: u64,
    /// The stream is not to end.
    stays_open: bool,
    is_finished: bool,
    read: u64,
    started: Instant,
    /// When the first byte was read.
    first: Option<Instant>,
    pub(crate) progress: Progress,
    /// It is over, and its sender, its receiver still has to let go of it.
    leaves: [bool; 2],
}

impl Transfer {
    fn is_running(&self) -> bool {
        matches!(self.progress, Progress::Running(_))
    }
}

/// The bytes of stream `seed` from `offset` on.
fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate() {
        let at = offset + i as u64;
        let (block, within) = (at / 16, (at % 16) as usize);
        *byte = match within {
            0..8 => MARK[within],
            _ => {
                let mixed = (block ^ seed).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                mixed.to_be_bytes()[within - 8]
            }
        };
    }
}

impl World {
    /// Opens a stream from `from` to `to`, on a port of its own, and sends `len` bytes that are
    /// checked on arrival. It goes on while the world runs.
    ///
    /// # Errors
    /// As [`Command::Connect`] and [`Command::Listen`]; [`CommandError::Full`] if a world has had
    /// 4,096 transfers.
    pub fn start_transfer(
        &mut self,
        from: HostId,
        to: HostId,
        len: u64,
    ) -> Result<TransferId, CommandError> {
        self.start(from, to, len, false)
    }

    /// The same, and the stream stays open: it never gets beyond [`Progress::Running`].
    ///
    /// # Errors
    /// As [`World::start_transfer`].
    pub fn start_open_transfer(
        &mut self,
        from: HostId,
        to: HostId,
        len: u64,
    ) -> Result<TransferId, CommandError> {
        self.start(from, to, len, true)
    }

    fn start(
        &mut self,
        from: HostId,
        to: HostId,
        len: u64,
        stays_open: bool,
    ) -> Result<TransferId, CommandError> {
        let id = TransferId(self.transfers.len());
        if id.0 >= TRANSFERS_MAX {
            return Err(CommandError::Full);
        }
        let port = Port(FIRST_PORT + id.0 as u16);
        let address = self.address(to).ok_or(CommandError::NotRegistered)?;
        self.command(to, Command::Listen { port })?;
        let reply = self.command(from, Command::Connect { to: address, port });
        if reply.is_err() {
            self.command(to, Command::Unlisten { port })?;
        }
        let Reply::Stream(sender) = reply? else { return Err(CommandError::NotFound) };
        self.transfers.push(Transfer {
            from,
            to,
            port,
            len,
            seed: id.0 as u64 + 1,
            sender,
            receiver: None,
            written: 0,
            stays_open,
            is_finished: false,
            read: 0,
            started: self.now,
            first: None,
            progress: Progress::Running(0),
            leaves: [false; 2],
        });
        self.due.insert(from);
        Ok(id)
    }

    /// Sends more on a stream of [`World::start_open_transfer`].
    ///
    /// # Panics
    /// If the id is of another world.
    pub fn extend_transfer(&mut self, id: TransferId, more: u64) {
        let transfer = &mut self.transfers[id.0];
        transfer.len += more;
        self.due.insert(transfer.from);
    }

    /// Ends a stream of [`World::start_open_transfer`] once all of it has arrived.
    ///
    /// # Panics
    /// If the id is of another world.
    pub fn finish_transfer(&mut self, id: TransferId) {
        let transfer = &mut self.transfers[id.0];
        transfer.stays_open = false;
        self.due.insert(transfer.from);
    }

    /// Gives a transfer up: both ends let go of their stream.
    ///
    /// # Panics
    /// If the id is of another world.
    pub fn abandon_transfer(&mut self, id: TransferId) {
        if self.transfers[id.0].is_running() {
            self.end(id.0, Progress::Failed(None));
        }
    }

    fn end(&mut self, n: usize, progress: Progress) {
        let transfer = &mut self.transfers[n];
        (transfer.progress, transfer.leaves) = (progress, [true; 2]);
        self.due.extend([transfer.from, transfer.to]);
    }

    /// How a transfer stands.
    ///
    /// # Panics
    /// If the id is of another world.
    pub fn progress(&self, id: TransferId) -> Progress {
        self.transfers[id.0].progress
    }

    /// How long the first byte took.
    ///
    /// # Panics
    /// If the id is of another world.
    pub fn first_byte(&self, id: TransferId) -> Option<Duration> {
        let transfer = &self.transfers[id.0];
        Some(transfer.first?.since(transfer.started))
    }

    pub(crate) fn stays_open(&self, id: TransferId) -> bool {
        self.transfers[id.0].stays_open
    }

    /// The processes' transfers do not survive them.
    pub(crate) fn abandon_transfers(&mut self, host: HostId) {
        for n in 0..self.transfers.len() {
            let transfer = &self.transfers[n];
            if transfer.from != host && transfer.to != host {
                continue;
            }
            if transfer.is_running() {
                self.end(n, Progress::Failed(None));
            }
            let transfer = &mut self.transfers[n];
            let gone = [transfer.from == host, transfer.to == host];
            for (leaves, _) in transfer.leaves.iter_mut().zip(gone).filter(|(_, gone)| *gone) {
                *leaves = false;
            }
        }
    }

    /// The host lets go of its ends of transfers that are over.
    fn leave(&mut self, host: HostId) {
        let now = self.now;
        for transfer in &mut self.transfers {
            let node = &mut self.hosts[host.0].node;
            let failed = matches!(transfer.progress, Progress::Failed(_));
            let mut let_go = |id: StreamId| {
                if let Some(mut stream) = node.stream(id).filter(|_| failed) {
                    stream.reset(now);
                }
                node.release(now, id);
            };
            if transfer.from == host && core::mem::take(&mut transfer.leaves[0]) {
                let_go(transfer.sender);
            }
            if transfer.to == host && core::mem::take(&mut transfer.leaves[1]) {
                transfer.receiver.into_iter().for_each(&mut let_go);
                let _ = node.command(now, Command::Unlisten { port: transfer.port });
            }
        }
    }

    /// Whose it is, bytes that have arrived, and bytes that are to.
    pub(crate) fn stand(&self, id: TransferId) -> (HostId, HostId, u64, u64) {
        let transfer = &self.transfers[id.0];
        (transfer.from, transfer.to, transfer.read, transfer.len)
    }

    /// Whether nobody at either end lies.
    pub(crate) fn is_honest(&self, id: TransferId) -> bool {
        let transfer = &self.transfers[id.0];
        ![transfer.from, transfer.to].into_iter().any(|host| self.hosts[host.0].lies)
    }

    /// Lets a host's applications read and write.
    pub(crate) fn serve(&mut self, host: HostId) {
        self.leave(host);
        for n in 0..self.transfers.len() {
            let transfer = &self.transfers[n];
            if !transfer.is_running() {
                continue;
            }
            if transfer.from == host {
                self.write(n);
            }
            if self.transfers[n].to == host && self.transfers[n].is_running() {
                self.read(n);
            }
        }
    }

    fn write(&mut self, n: usize) {
        if let Some(end) = self.try_write(n) {
            self.end(n, Progress::Failed(Some(end)));
        }
    }

    /// Writes what there is room for; why the stream has ended, if it has.
    fn try_write(&mut self, n: usize) -> Option<StreamEnd> {
        let now = self.now;
        let transfer = &mut self.transfers[n];
        let node = &mut self.hosts[transfer.from.0].node;
        let Some(mut stream) = node.stream(transfer.sender) else {
            return Some(StreamEnd::Closed);
        };
        let mut buf = [0; 4096];
        while transfer.written < transfer.len {
            let len = (transfer.len - transfer.written).min(buf.len() as u64) as usize;
            fill(transfer.seed, transfer.written, &mut buf[..len]);
            match stream.write(now, &buf[..len]) {
                Ok(written) => transfer.written += written as u64,
                Err(StreamError::Ended(end)) => return Some(end),
                Err(_) => return None,
            }
        }
        if !transfer.is_finished && !transfer.stays_open {
            transfer.is_finished = stream.finish(now).is_ok();
            return None;
        }
        stream.end().filter(|end| *end != StreamEnd::Closed)
    }

    fn read(&mut self, n: usize) {
        let now = self.now;
        let honest = self.is_honest(TransferId(n));
        match self.try_read(n) {
            Ok(None) => {}
            Ok(Some(Progress::Done(_))) => {
                let took = now.since(self.transfers[n].started);
                self.end(n, Progress::Done(took));
            }
            Ok(Some(progress)) => self.end(n, progress),
            Err(what) if honest => self.fail(format!("stream {n} {what}")),
            Err(_) => self.end(n, Progress::Failed(None)),
        }
    }

    /// Reads what is there; how the transfer ended, if it has, or what is wrong with it.
    fn try_read(&mut self, n: usize) -> Result<Option<Progress>, String> {
        let now = self.now;
        let transfer = &mut self.transfers[n];
        let node = &mut self.hosts[transfer.to.0].node;
        if transfer.receiver.is_none() {
            transfer.receiver = node.accept(transfer.port);
            if let Some(stream) = transfer.receiver.and_then(|id| node.stream(id)) {
                let peer = stream.addresses().0.address;
                if !self.checks.trusts(transfer.to, peer) {
                    return Err(format!("is of {peer}, which its owner does not trust"));
                }
            }
        }
        let Some(id) = transfer.receiver else { return Ok(None) };
        let (mut buf, mut expected) = ([0; 4096], [0; 4096]);
        loop {
            let Some(mut stream) = node.stream(id) else {
                return Ok(Some(Progress::Failed(Some(StreamEnd::Closed))));
            };
            match stream.read(now, &mut buf) {
                Ok(0) if transfer.read == transfer.len => {
                    return Ok(Some(Progress::Done(Duration::ZERO)));
                }
                Ok(0) => {
                    return Err(format!("ends after {} of {} bytes", transfer.read, transfer.len));
                }
                Ok(len) => {
                    fill(transfer.seed, transfer.read, &mut expected[..len]);
                    if buf[..len] != expected[..len] {
                        return Err(format!("has other bytes after {}", transfer.read));
                    }
                    transfer.first.get_or_insert(now);
                    transfer.read += len as u64;
                    transfer.progress = Progress::Running(transfer.read);
                    self.stats.streamed += len as u64;
                }
                Err(StreamError::Ended(end)) => return Ok(Some(Progress::Failed(Some(end)))),
                Err(_) => return Ok(None),
            }
        }
    }
}
