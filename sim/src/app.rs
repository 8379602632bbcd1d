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
        });
        self.due.insert(from);
        Ok(id)
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
        for transfer in self.transfers.iter_mut().filter(|t| t.is_running()) {
            if transfer.from == host || transfer.to == host {
                transfer.progress = Progress::Failed(None);
            }
        }
    }

    /// Lets a host's applications read and write.
    pub(crate) fn serve(&mut self, host: HostId) {
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
        let now = self.now;
        let transfer = &mut self.transfers[n];
        let node = &mut self.hosts[transfer.from.0].node;
        let Some(mut stream) = node.stream(transfer.sender) else {
            transfer.progress = Progress::Failed(Some(StreamEnd::Closed));
            return;
        };
        let mut buf = [0; 4096];
        while transfer.written < transfer.len {
            let len = (transfer.len - transfer.written).min(buf.len() as u64) as usize;
            fill(transfer.seed, transfer.written, &mut buf[..len]);
            match stream.write(now, &buf[..len]) {
                Ok(written) => transfer.written += written as u64,
                Err(StreamError::WouldBlock) => return,
                Err(StreamError::Ended(end)) => {
                    transfer.progress = Progress::Failed(Some(end));
                    return;
                }
                Err(_) => return,
            }
        }
        if !transfer.is_finished && !transfer.stays_open {
            transfer.is_finished = stream.finish(now).is_ok();
        } else if let Some(end) = stream.end().filter(|end| *end != StreamEnd::Closed) {
            transfer.progress = Progress::Failed(Some(end));
        }
    }

    fn read(&mut self, n: usize) {
        let now = self.now;
        let transfer = &mut self.transfers[n];
        let node = &mut self.hosts[transfer.to.0].node;
        transfer.receiver = transfer.receiver.or_else(|| node.accept(transfer.port));
        let Some(id) = transfer.receiver else { return };
        let (mut buf, mut expected) = ([0; 4096], [0; 4096]);
        loop {
            let Some(mut stream) = node.stream(id) else {
                transfer.progress = Progress::Failed(Some(StreamEnd::Closed));
                return;
            };
            match stream.read(now, &mut buf) {
                Ok(0) if transfer.read == transfer.len => break,
                Ok(0) => {
                    let (read, len) = (transfer.read, transfer.len);
                    self.fail(format!("stream {n} ends after {read} of {len} bytes"));
                    return;
                }
                Ok(len) => {
                    fill(transfer.seed, transfer.read, &mut expected[..len]);
                    if buf[..len] != expected[..len] {
                        let at = transfer.read;
                        self.fail(format!("stream {n} has other bytes after {at}"));
                        return;
                    }
                    transfer.first.get_or_insert(now);
                    transfer.read += len as u64;
                    transfer.progress = Progress::Running(transfer.read);
                    self.stats.streamed += len as u64;
                }
                Err(StreamError::Ended(end)) => {
                    transfer.progress = Progress::Failed(Some(end));
                    return;
                }
                Err(_) => return,
            }
        }
        transfer.progress = Progress::Done(now.since(transfer.started));
        node.release(now, id);
        let (from, sender, port) = (transfer.from, transfer.sender, transfer.port);
        let _ = node.command(now, Command::Unlisten { port });
        self.hosts[from.0].node.release(now, sender);
        self.due.insert(from);
    }
}
