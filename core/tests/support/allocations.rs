//! An allocator that counts: what a thread has allocated, and how much of it is held.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// Counts for each thread by itself, so that tests beside each other do not mix.
pub struct Counting;

fn note(count: u64, bytes: i64) {
    COUNT.with(|n| n.set(n.get() + count));
    HELD.with(|n| n.set(n.get() + bytes));
}

fn len(layout: Layout) -> i64 {
    i64::try_from(layout.size()).unwrap_or(i64::MAX)
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, len(layout));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, len(layout));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(0, -len(layout));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

/// How often this thread has allocated.
pub fn count() -> u64 {
    COUNT.with(Cell::get)
}

/// How many bytes this thread has allocated and not freed.
pub fn held() -> i64 {
    HELD.with(Cell::get)
}
