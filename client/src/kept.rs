//! Files that were closed here and that the master still takes for open, so that their next open need not ask it: it
//! tells this client of what others do to them as of any open file. NFSv4 lends such files out (delegations); here nothing
//! is lent, a close is only not told. It is told at once when the file has lost its last name or another client has changed
//! it, and after a while in any case. Of a file that was made and closed empty it is not told either, for some seconds,
//! that nothing will be written: who opens it to write has its first chunk already.
use crate::Location;
use crate::limits::KEPT_MAX;
use bytes::Bytes;
use cairn_types::Inode;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Kept {
    files: FxHashMap<Inode, Closed>,
    /// In the order in which they were closed.
    order: BTreeMap<u64, Inode>,
    /// Of them those that are unwritten.
    unwritten: BTreeMap<u64, Inode>,
    closes: u64,
    given_up: Vec<Inode>,
}

/// What an open needs, besides the attributes.
pub(crate) struct Closed {
    pub chunks: Vec<Arc<Location>>,
    pub name: Bytes,
    /// As long as its contents are of this generation the file is empty, and its only chunk this client's to write.
    pub unwritten: Option<u64>,
    since: Instant,
    number: u64,
}

impl Kept {
    pub fn put(&mut self, ino: Inode, chunks: Vec<Arc<Location>>, name: Bytes, unwritten: Option<u64>) {
        self.take(ino);
        self.closes += 1;
        self.order.insert(self.closes, ino);
        if unwritten.is_some() {
            self.unwritten.insert(self.closes, ino);
        }
        let closed = Closed {
            chunks,
            name,
            unwritten,
            since: Instant::now(),
            number: self.closes,
        };
        self.files.insert(ino, closed);
        if self.files.len() > KEPT_MAX
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            self.give_up(*oldest);
        }
    }

    pub fn has(&self, ino: Inode) -> bool {
        self.files.contains_key(&ino)
    }

    /// It is empty at this generation of its contents, and may be written.
    pub fn is_unwritten(&self, ino: Inode, generation: u64) -> bool {
        self.files
            .get(&ino)
            .is_some_and(|closed| closed.unwritten == Some(generation))
    }

    /// It is open again, or closed for good: the caller's to say to the master.
    pub fn take(&mut self, ino: Inode) -> Option<Closed> {
        let closed = self.files.remove(&ino)?;
        self.order.remove(&closed.number);
        self.unwritten.remove(&closed.number);
        Some(closed)
    }

    /// One that was closed before, and whose only chunk is from now on the master's to do with as it likes.
    pub fn next_to_give_back(&mut self, before: Instant) -> Option<Inode> {
        let first = self.unwritten.first_entry()?;
        let closed = self.files.get_mut(first.get())?;
        if closed.since >= before {
            return None;
        }
        closed.unwritten = None;
        Some(first.remove())
    }

    /// The master is to be told of its close. False: it is not here.
    pub fn give_up(&mut self, ino: Inode) -> bool {
        let here = self.take(ino).is_some();
        if here {
            self.given_up.push(ino);
        }
        here
    }

    pub fn give_up_all(&mut self) {
        self.order.clear();
        self.unwritten.clear();
        self.given_up.extend(self.files.drain().map(|(ino, _)| ino));
    }

    /// Those that were closed before.
    pub fn give_up_old(&mut self, before: Instant) {
        while let Some((_, ino)) = self.order.first_key_value().map(|(n, ino)| (*n, *ino))
            && self.files.get(&ino).is_some_and(|closed| closed.since < before)
        {
            self.give_up(ino);
        }
    }

    /// The master forgets that they are open: they are not declared to it.
    pub fn forget(&mut self) {
        *self = Self {
            closes: self.closes,
            ..Self::default()
        };
    }

    /// One whose close the master has to be told.
    pub fn next_given_up(&mut self) -> Option<Inode> {
        self.given_up.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn put(kept: &mut Kept, ino: u64) {
        kept.put(Inode(ino), Vec::new(), Bytes::new(), None);
    }

    fn given_up(kept: &mut Kept) -> Vec<u64> {
        std::iter::from_fn(|| kept.next_given_up()).map(|ino| ino.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_file_is_opened_once_or_given_up_once() {
        let mut kept = Kept::default();
        put(&mut kept, 1);
        put(&mut kept, 1);
        assert!(kept.has(Inode(1)) && kept.take(Inode(1)).is_some() && kept.take(Inode(1)).is_none());
        put(&mut kept, 2);
        assert!(kept.give_up(Inode(2)) && !kept.give_up(Inode(2)));
        assert_eq!(given_up(&mut kept), [2]);
        put(&mut kept, 3);
        put(&mut kept, 4);
        kept.give_up_all();
        assert!(!kept.has(Inode(3)) && kept.order.is_empty());
        assert_eq!(given_up(&mut kept).len(), 2);
        put(&mut kept, 5);
        kept.forget();
        assert!(!kept.has(Inode(5)) && given_up(&mut kept).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_closed_longest_ago_are_given_up_first() {
        let mut kept = Kept::default();
        for ino in 0..KEPT_MAX as u64 {
            put(&mut kept, ino);
        }
        put(&mut kept, 0);
        assert_eq!(given_up(&mut kept), [0; 0]);
        put(&mut kept, KEPT_MAX as u64);
        assert_eq!(given_up(&mut kept), [1]);
        assert_eq!((kept.files.len(), kept.order.len()), (KEPT_MAX, KEPT_MAX));

        let mut kept = Kept::default();
        put(&mut kept, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        put(&mut kept, 2);
        kept.give_up_old(Instant::now());
        assert_eq!(given_up(&mut kept), [1]);
        assert!(kept.has(Inode(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_written_is_given_back_after_a_while() {
        let mut kept = Kept::default();
        let unwritten = |kept: &Kept, ino| (kept.is_unwritten(Inode(ino), 7), kept.is_unwritten(Inode(ino), 8));
        for ino in 1..=4 {
            kept.put(Inode(ino), Vec::new(), Bytes::new(), (ino < 4).then_some(7));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(unwritten(&kept, 1), (true, false), "of that generation");
        assert_eq!(unwritten(&kept, 4), (false, false));
        assert!(kept.take(Inode(1)).is_some() && kept.unwritten.len() == 2);
        let second = Instant::now() - Duration::from_secs(2);
        assert_eq!(kept.next_to_give_back(second), Some(Inode(2)));
        assert_eq!(kept.next_to_give_back(second), None, "the third was closed later");
        assert_eq!(unwritten(&kept, 2), (false, false));
        assert!(kept.has(Inode(2)), "it stays open for the master");
        kept.give_up(Inode(3));
        assert_eq!(kept.next_to_give_back(Instant::now()), None);
    }
}
