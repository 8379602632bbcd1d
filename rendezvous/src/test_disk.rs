//! A disk that can be made to fail, for tests.

use crate::store::{Opener, StoreError, open_with};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A disk that runs full, or whose sync fails although the data arrived.
#[derive(Debug)]
pub(crate) struct Disk {
    file: FileBackend,
    fault: Arc<Fault>,
}

#[derive(Debug, Default)]
pub(crate) struct Fault {
    /// Nothing can be written.
    pub(crate) full: AtomicBool,
    /// This sync, counted from now, reports an error (after doing its work).
    pub(crate) sync: AtomicU32,
    /// Opening fails.
    pub(crate) gone: AtomicBool,
}

impl Disk {
    /// Opens files on a disk with these faults.
    pub(crate) fn opener(fault: &Arc<Fault>) -> Opener {
        let fault = fault.clone();
        Arc::new(move |path| {
            if fault.gone.load(Ordering::SeqCst) {
                return Err(StoreError::io(path, io::Error::other("gone")));
            }
            open_with(path, 1 << 20, |file| {
                Ok(Disk { file: FileBackend::new(file)?, fault: fault.clone() })
            })
        })
    }

    fn room(&self) -> io::Result<()> {
        match self.fault.full.load(Ordering::SeqCst) {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        let left = self.fault.sync.load(Ordering::SeqCst);
        self.fault.sync.store(left.saturating_sub(1), Ordering::SeqCst);
        match left {
            1 => Err(io::Error::other("the controller lost its mind")),
            _ => Ok(()),
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, a: Bound<u64>, b: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(a, b)
    }
    fn try_lock_shared_range(&self, a: Bound<u64>, b: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(a, b)
    }
    fn lock_range(&self, a: Bound<u64>, b: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(a, b)
    }
    fn lock_shared_range(&self, a: Bound<u64>, b: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(a, b)
    }
    fn unlock_range(&self, a: Bound<u64>, b: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(a, b)
    }
    fn query_lock_range(&self, a: Bound<u64>, b: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(a, b)
    }
}
