//! A disk that loses power, for tests.
//!
//! What is written is visible at once and durable once synced. When the power goes, each
//! sector that was written since the last sync holds any one of the contents that it had since
//! then, independently of all others: writes are lost, torn and reordered. The file's length,
//! too, is any of those it had. Whoever closes a file with writes that are not synced is
//! treated the same.

use crate::store::{Opener, StoreError, open_with};
use redb::{BackendError, StorageBackend};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The power supply of a disk, and the dice.
#[derive(Debug)]
pub(crate) struct Power(Mutex<Supply>);

#[derive(Debug)]
struct Supply {
    dice: u64,
    /// Operations (writes, length changes, syncs) until it fails.
    left: Option<u64>,
    is_off: bool,
    /// Says that it has synced when it has not.
    lies: bool,
    /// Sectors whose content was not synced when the power went.
    at_stake: u64,
}

impl Power {
    pub(crate) fn new(seed: u64, lies: bool) -> Arc<Power> {
        let dice = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Arc::new(Power(Mutex::new(Supply { dice, left: None, is_off: false, lies, at_stake: 0 })))
    }

    fn supply(&self) -> MutexGuard<'_, Supply> {
        self.0.lock().unwrap()
    }

    /// A number in `0..bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.supply().below(bound)
    }

    /// The power fails at this operation, counted from now.
    pub(crate) fn fail_after(&self, operations: u64) {
        self.supply().left = Some(operations);
    }

    /// The power fails now.
    pub(crate) fn fail(&self) {
        self.supply().is_off = true;
    }

    /// It is back, and stays.
    pub(crate) fn restore(&self) {
        let mut supply = self.supply();
        (supply.is_off, supply.left) = (false, None);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.supply().is_off
    }

    pub(crate) fn at_stake(&self) -> u64 {
        self.supply().at_stake
    }

    /// Opens files on the disk that it feeds, by the store's own way of opening them.
    pub(crate) fn opener(self: &Arc<Self>) -> Opener {
        let power = self.clone();
        Arc::new(move |path| {
            if power.is_off() {
                return Err(StoreError::io(path, off()));
            }
            open_with(path, 1 << 20, |file| Ok(Platter::new(file, power.clone())?))
        })
    }
}

impl Supply {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }

    /// One operation; an error if the power is gone after it.
    fn operate(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            self.is_off |= *left == 0;
        }
        if self.is_off { Err(off()) } else { Ok(()) }
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

#[derive(Debug)]
struct Platter {
    file: File,
    power: Arc<Power>,
    state: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    durable: Vec<u8>,
    visible: Vec<u8>,
    /// Of each sector written since the last sync: what it was after each write.
    sectors: BTreeMap<usize, Vec<Vec<u8>>>,
    lengths: Vec<usize>,
    is_closed: bool,
}

impl Platter {
    fn new(file: File, power: Arc<Power>) -> io::Result<Platter> {
        let mut durable = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut durable, 0)?;
        let visible = durable.clone();
        let state = Mutex::new(Content { durable, visible, ..Content::default() });
        Ok(Platter { file, power, state })
    }

    /// Refused without power; with `change`, what it does may or may not reach the disk if the
    /// power goes right now.
    fn operate(&self, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        let mut supply = self.power.supply();
        if supply.is_off {
            return Err(off());
        }
        change(&mut self.state.lock().unwrap());
        supply.operate()
    }
}

impl Content {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.visible.len() {
            self.set_len(end);
        }
        self.visible[offset..end].copy_from_slice(data);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let bytes = &self.visible[sector * SECTOR..];
            let bytes = &bytes[..bytes.len().min(SECTOR)];
            self.sectors.entry(sector).or_default().push(bytes.to_vec());
        }
    }

    fn set_len(&mut self, len: usize) {
        self.visible.resize(len, 0);
        self.lengths.push(len);
    }

    fn sync(&mut self) {
        self.sectors.clear();
        self.lengths.clear();
        self.durable.clone_from(&self.visible);
    }

    /// What is on the disk when the power has gone.
    fn survivors(&mut self, supply: &mut Supply) -> &[u8] {
        supply.at_stake += self.sectors.len() as u64;
        // Sometimes the cache was flushed just before, or has not been at all.
        let luck = supply.below(4);
        let mut pick = |versions: usize| match luck {
            0 => 0,
            1 => versions,
            _ => supply.below(versions as u64 + 1) as usize,
        };
        if let Some(n) = pick(self.lengths.len()).checked_sub(1) {
            self.durable.resize(self.lengths[n], 0);
        }
        for (sector, versions) in &self.sectors {
            if let Some(n) = pick(versions.len()).checked_sub(1) {
                let start = (sector * SECTOR).min(self.durable.len());
                let end = (start + versions[n].len()).min(self.durable.len());
                self.durable[start..end].copy_from_slice(&versions[n][..end - start]);
            }
        }
        &self.durable
    }
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().visible.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let start = offset as usize;
        let bytes = state.visible.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(|content| content.set_len(len as usize))
    }
    fn sync_data(&self) -> io::Result<()> {
        // If the power goes here, nothing is certain.
        self.operate(|_| ())?;
        if !self.power.supply().lies {
            self.state.lock().unwrap().sync();
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(|content| content.write(offset as usize, data))
    }
    fn close(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if !std::mem::replace(&mut state.is_closed, true) {
            let left = state.survivors(&mut self.power.supply());
            self.file.set_len(left.len() as u64)?;
            self.file.write_all_at(left, 0)?;
        }
        Ok(())
    }
    fn try_lock_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<bool, BackendError> {
        Err(BackendError::Unsupported)
    }
}
