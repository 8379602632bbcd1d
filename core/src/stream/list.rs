//! Doubly linked lists through the slots of a table: O(1) to add and to take out anywhere, no
//! storage of their own, so they cannot overflow.

const NIL: u32 = u32::MAX;

/// One membership of one entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    prev: u32,
    next: u32,
    linked: bool,
}

impl Link {
    pub(crate) const NONE: Link = Link { prev: NIL, next: NIL, linked: false };

    pub(crate) fn is_linked(&self) -> bool {
        self.linked
    }
}

/// A table whose entries carry links; `which` tells several lists through one entry apart.
pub(crate) trait Linked {
    fn link(&mut self, slot: u32, which: usize) -> &mut Link;
    fn link_ref(&self, slot: u32, which: usize) -> &Link;
}

/// The ends of one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    pub(crate) const EMPTY: List = List { head: NIL, tail: NIL, len: 0 };

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NIL
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    pub(crate) fn next(&self, table: &impl Linked, which: usize, slot: u32) -> Option<u32> {
        let next = table.link_ref(slot, which).next;
        (next != NIL).then_some(next)
    }

    /// Adds `slot` at the end unless it is in the list.
    pub(crate) fn push_back(&mut self, table: &mut impl Linked, which: usize, slot: u32) {
        let tail = self.tail;
        let link = table.link(slot, which);
        if link.linked {
            return;
        }
        *link = Link { prev: tail, next: NIL, linked: true };
        if tail == NIL {
            self.head = slot;
        } else {
            table.link(tail, which).next = slot;
        }
        self.tail = slot;
        self.len += 1;
    }

    /// Takes `slot` out if it is in the list.
    pub(crate) fn remove(&mut self, table: &mut impl Linked, which: usize, slot: u32) {
        let link = table.link(slot, which);
        if !link.linked {
            return;
        }
        let Link { prev, next, .. } = core::mem::replace(link, Link::NONE);
        if prev == NIL {
            self.head = next;
        } else {
            table.link(prev, which).next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            table.link(next, which).prev = prev;
        }
        self.len -= 1;
    }

    pub(crate) fn pop_front(&mut self, table: &mut impl Linked, which: usize) -> Option<u32> {
        let slot = self.front()?;
        self.remove(table, which, slot);
        Some(slot)
    }

    /// Moves the first entry to the end.
    pub(crate) fn rotate(&mut self, table: &mut impl Linked, which: usize) {
        if self.head != self.tail
            && let Some(slot) = self.pop_front(table, which)
        {
            self.push_back(table, which, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    struct Table([[Link; 2]; 6]);

    impl Linked for Table {
        fn link(&mut self, slot: u32, which: usize) -> &mut Link {
            &mut self.0[slot as usize][which]
        }
        fn link_ref(&self, slot: u32, which: usize) -> &Link {
            &self.0[slot as usize][which]
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_queue(ops in prop::collection::vec((0u8..4, 0u32..6, 0usize..2), 0..200)) {
            let mut table = Table([[Link::NONE; 2]; 6]);
            let mut lists = [List::EMPTY; 2];
            let mut models: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
            for (op, slot, which) in ops {
                let (list, model) = (&mut lists[which], &mut models[which]);
                match op {
                    0 => {
                        list.push_back(&mut table, which, slot);
                        if !model.contains(&slot) {
                            model.push(slot);
                        }
                    }
                    1 => {
                        list.remove(&mut table, which, slot);
                        model.retain(|s| *s != slot);
                    }
                    2 => {
                        let first = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(list.pop_front(&mut table, which), first);
                    }
                    _ => {
                        list.rotate(&mut table, which);
                        if !model.is_empty() {
                            model.rotate_left(1);
                        }
                    }
                }
                let mut walked = Vec::new();
                let mut at = list.front();
                while let Some(slot) = at {
                    walked.push(slot);
                    at = list.next(&table, which, slot);
                }
                prop_assert_eq!(&walked, &*model);
                prop_assert_eq!(list.len() as usize, model.len());
            }
        }
    }
}
