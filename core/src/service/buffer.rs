//! Bytes that are put in at one end and taken out at the other.

use alloc::vec::Vec;

/// What is taken leaves a gap at the front, which is closed when it is the larger part: each
/// byte is moved once at most for each byte that is taken.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Takes the first `n`, or all.
    pub(crate) fn advance(&mut self, n: usize) {
        self.start += n.min(self.len());
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.copy_within(self.start.., 0);
            self.bytes.truncate(self.len());
            self.start = 0;
        }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What was put in, behind what was taken before: to append to, and for nothing else.
    #[cfg(any(feature = "std", test))]
    pub(crate) fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Lets `write` put something of at most `room` bytes in; it says how many it needed.
    pub(crate) fn put_with<E>(
        &mut self,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let end = self.bytes.len();
        self.bytes.resize(end + room, 0);
        let written = write(&mut self.bytes[end..]);
        self.bytes.truncate(end + written.as_ref().map_or(0, |n| *n));
        written.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_were_put_in(
            calls in prop::collection::vec((0usize..40, 0usize..40), 0..60),
        ) {
            let (mut buffer, mut put, mut taken) = (Buffer::default(), 0usize, 0usize);
            for (n, m) in calls {
                let next: Vec<u8> = (put..put + n).map(|i| i as u8).collect();
                if n % 2 == 0 {
                    buffer.put(&next);
                } else {
                    let write = |out: &mut [u8]| {
                        out[..n].copy_from_slice(&next);
                        Ok::<usize, ()>(n)
                    };
                    prop_assert_eq!(buffer.put_with(n + 3, write), Ok(()));
                    prop_assert_eq!(buffer.put_with(5, |_| Err(())), Err(()));
                }
                put += n;
                buffer.advance(m);
                taken = put.min(taken + m);
                let left: Vec<u8> = (taken..put).map(|i| i as u8).collect();
                prop_assert_eq!(buffer.bytes(), &left[..]);
                prop_assert_eq!(buffer.len(), left.len());
                prop_assert!(buffer.start <= buffer.bytes.len() / 2);
            }
        }
    }
}
