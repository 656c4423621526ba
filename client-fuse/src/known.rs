//! What the mount keeps of an inode, from when it matters until the kernel drops the inode (it says `forget`).
//!
//! Bounded: beyond the bound an inode that is not open is forgotten, and its next open finds no pages to keep. What may
//! carry setuid or setgid bits is kept whatever the bound, since not knowing of them would leave them in place.
use cairn_types::Inode;
use std::collections::BTreeMap;
use std::ops::Bound;

/// About 50 bytes each.
pub(crate) const KNOWN_MAX: usize = 1 << 18;
/// Inodes looked at for one that can be forgotten, each time that one more is known.
const LOOKED_AT_MAX: usize = 64;

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The generation that the kernel's pages are of.
    pages: Option<u64>,
    /// There may be setuid or setgid bits.
    set_id: bool,
    /// Opens that have not been released: while there are any the kernel may show its pages without asking.
    opens: u32,
}

#[derive(Debug)]
pub(crate) struct KnownInodes {
    all: BTreeMap<Inode, Known>,
    max: usize,
    /// The last one that was looked at for forgetting.
    hand: Inode,
}

impl KnownInodes {
    pub fn new(max: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            max,
            hand: Inode(0),
        }
    }

    /// Its mode has been seen.
    pub fn seen(&mut self, ino: Inode, set_id: bool) {
        if set_id {
            self.all.entry(ino).or_default().set_id = true;
        } else if let Some(known) = self.all.get_mut(&ino) {
            known.set_id = false;
        }
    }

    pub fn may_have_set_id(&self, ino: Inode) -> bool {
        self.all.get(&ino).is_some_and(|known| known.set_id)
    }

    /// It was opened at `generation`; whether the kernel's pages are of that one.
    pub fn opened(&mut self, ino: Inode, generation: u64) -> bool {
        let known = self.all.entry(ino).or_default();
        known.opens += 1;
        let kept = known.pages.replace(generation) == Some(generation);
        self.forget_some();
        kept
    }

    pub fn released(&mut self, ino: Inode) {
        if let Some(known) = self.all.get_mut(&ino) {
            known.opens = known.opens.saturating_sub(1);
        }
    }

    /// This mount changed it: the kernel's pages have the change in them.
    pub fn own_change(&mut self, ino: Inode, generation: u64) {
        if let Some(pages) = self.all.get_mut(&ino).and_then(|known| known.pages.as_mut()) {
            *pages = generation.max(*pages);
        }
    }

    /// Another client changed it, with `data` its contents.
    pub fn changed(&mut self, ino: Inode, data: bool) {
        if let Some(known) = self.all.get_mut(&ino) {
            known.set_id = true; // until its mode has been seen again
            if data {
                known.pages = None;
            }
        }
    }

    pub fn forget(&mut self, ino: Inode) {
        self.all.remove(&ino);
    }

    pub fn inodes(&self) -> Vec<Inode> {
        self.all.keys().copied().collect()
    }

    fn forget_some(&mut self) {
        for _ in 0..LOOKED_AT_MAX {
            if self.all.len() <= self.max {
                return;
            }
            let behind = (Bound::Excluded(self.hand), Bound::Unbounded);
            let Some((&ino, known)) = self.all.range(behind).next().or_else(|| self.all.iter().next()) else {
                return;
            };
            self.hand = ino;
            if known.opens == 0 && !known.set_id {
                self.all.remove(&ino);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_for_the_generation_that_they_are_of() {
        let mut known = KnownInodes::new(10);
        assert!(!known.opened(Inode(2), 5), "nothing is known of its pages");
        assert!(known.opened(Inode(2), 5));
        known.own_change(Inode(2), 6);
        assert!(known.opened(Inode(2), 6));
        assert!(!known.opened(Inode(2), 7), "somebody else's change");
        known.changed(Inode(2), false);
        assert!(known.opened(Inode(2), 7));
        known.changed(Inode(2), true);
        assert!(!known.opened(Inode(2), 7));
        known.forget(Inode(2));
        assert!(!known.opened(Inode(2), 7));
    }

    #[test]
    fn memory_is_bounded_and_what_must_be_known_stays_known() {
        const MAX: usize = 100;
        let mut known = KnownInodes::new(MAX);
        known.seen(Inode(2), true);
        assert!(!known.opened(Inode(3), 1));
        for ino in (4..50_000).map(Inode) {
            known.opened(ino, 1);
            known.released(ino);
            assert!(known.all.len() <= MAX, "{}", known.all.len());
        }
        assert!(known.may_have_set_id(Inode(2)));
        assert!(known.opened(Inode(3), 1), "it is open: the kernel may show its pages");
        assert!(
            !known.opened(Inode(4), 1),
            "forgotten: its pages are dropped by this open"
        );
        assert!(known.opened(Inode(49_999), 1), "the latest");
    }

    #[test]
    fn what_cannot_be_forgotten_does_not_make_every_open_slow() {
        let mut known = KnownInodes::new(10);
        for ino in (2..10_000).map(Inode) {
            known.opened(ino, 1);
        }
        assert_eq!(known.all.len(), 9_998);
        for ino in (2..10_000).map(Inode) {
            known.released(ino);
        }
        for ino in (10_000..10_400).map(Inode) {
            known.opened(ino, 1);
            known.released(ino);
        }
        assert!(known.all.len() <= 10, "{}", known.all.len());
    }
}
