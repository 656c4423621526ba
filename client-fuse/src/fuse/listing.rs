//! Directories that programs have open for listing.
//!
//! The kernel asks for as much as fits a program's buffer, the master is asked for a large page: what is left of it
//! answers the next requests. Names alone may be as old as the listing, which POSIX leaves open. With attributes the
//! kernel takes a name for what it then leads to: those are given only where that is known to be right.
use super::lock;
use crate::filesystem::{DirectoryItem, DirectoryListing, FileSystem};
use cairn_types::Inode;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Items with attributes that are made ready for one request: more than a program's buffer takes.
const WITH_ATTR_MAX: usize = 256;

/// By handle.
#[derive(Default)]
pub(super) struct Listings(Mutex<BTreeMap<u64, Arc<Listing>>>);

impl Listings {
    pub fn opened(&self, handle: u64) {
        lock(&self.0).insert(handle, Arc::default());
    }
    pub fn released(&self, handle: u64) {
        lock(&self.0).remove(&handle);
    }
    pub fn get(&self, handle: u64) -> Option<Arc<Listing>> {
        lock(&self.0).get(&handle).cloned()
    }
}

/// What is left of a page.
#[derive(Default)]
pub(super) struct Listing(Mutex<Option<Left>>);

struct Left {
    /// The last offset that was given to the kernel.
    after: u64,
    items: VecDeque<DirectoryItem>,
    end: bool,
}

impl Listing {
    /// What follows `offset` in `directory`, if it is here; with attributes as they are now, with `plus`, and how long ago
    /// that was proved. Empty: the end. It is taken: `keep` what was not given.
    pub fn take<F: FileSystem>(
        &self,
        fs: &F,
        directory: Inode,
        offset: u64,
        plus: bool,
    ) -> Option<(DirectoryListing, Duration)> {
        let Left { after, items, end } = lock(&self.0).take()?;
        if after != offset || (items.is_empty() && !end) {
            return None;
        }
        let mut items: Vec<DirectoryItem> = items.into();
        let mut oldest = Duration::ZERO;
        if plus {
            for item in items.iter_mut().take(WITH_ATTR_MAX) {
                let (attr, age) = match &item.name[..] {
                    b"." | b".." => fs.known_attr(item.attr.ino)?,
                    name => {
                        let (found, age) = fs.known_name(directory, name)?;
                        (found.filter(|attr| attr.ino == item.attr.ino)?, age)
                    }
                };
                item.attr = attr;
                oldest = oldest.max(age);
            }
        }
        Some((DirectoryListing { items, end }, oldest))
    }

    /// The kernel has got `fitted` items of what follows `offset`.
    pub fn keep(&self, offset: u64, mut listing: DirectoryListing, fitted: usize) {
        let fitted = fitted.min(listing.items.len());
        let left = Left {
            after: fitted.checked_sub(1).map_or(offset, |last| listing.items[last].offset),
            items: listing.items.drain(fitted..).collect(),
            end: listing.end,
        };
        *lock(&self.0) = Some(left);
    }
}

/// How many may be given to the kernel at once.
pub(super) fn at_once(listing: &DirectoryListing, plus: bool) -> &[DirectoryItem] {
    let most = if plus { WITH_ATTR_MAX } else { usize::MAX };
    &listing.items[..listing.items.len().min(most)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use cairn_client::{Attr, FileKind};

    const DIR: Inode = Inode(1000);
    const AGE: Duration = Duration::from_millis(300);

    /// Knows what names that are numbers lead to: below its number, to the inode of that number; the second is where
    /// another one now is.
    struct Knows(u64, Option<u64>);
    impl FileSystem for Knows {
        type Handle = ();
        fn known_name(&self, parent: Inode, name: &[u8]) -> Option<(Option<Attr>, Duration)> {
            assert_eq!(parent, DIR);
            let n: u64 = std::str::from_utf8(name).unwrap().parse().unwrap();
            let ino = if self.1 == Some(n) { 99 } else { n };
            (n < self.0).then(|| (Some(attr(Inode(ino), 7)), AGE))
        }
    }

    fn attr(ino: Inode, uid: u32) -> Attr {
        Attr {
            ino,
            kind: FileKind::Regular,
            mode: 0o644,
            uid,
            gid: 0,
            nlink: 1,
            size: 0,
            rdev: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            generation: 0,
            goal: 0,
            allocated_bytes: 0,
            no_xattrs: true,
            being_written: false,
        }
    }

    fn page(inodes: std::ops::Range<u64>, end: bool) -> DirectoryListing {
        let item = |n: u64| DirectoryItem {
            name: Bytes::from(n.to_string()),
            offset: 10 * n,
            attr: attr(Inode(n), 0),
        };
        DirectoryListing {
            items: inodes.map(item).collect(),
            end,
        }
    }

    #[test]
    fn what_did_not_fit_answers_the_next_request_and_the_end_is_known() {
        let (fs, listing) = (Knows(0, None), Listing::default());
        listing.keep(0, page(1..6, true), 2);
        let rest = listing.take(&fs, DIR, 20, false).unwrap().0;
        assert_eq!(rest.items[0].offset, 30);
        listing.keep(20, rest, 3);
        let rest = listing.take(&fs, DIR, 50, false).unwrap().0;
        assert!(rest.items.is_empty() && rest.end);
        listing.keep(50, rest, 0);
        assert!(listing.take(&fs, DIR, 50, false).is_some(), "asked once more");
    }

    #[test]
    fn another_place_and_the_end_of_a_page_are_asked_for() {
        let (fs, listing) = (Knows(0, None), Listing::default());
        listing.keep(0, page(1..6, true), 2);
        assert!(listing.take(&fs, DIR, 0, false).is_none(), "rewound: all anew");
        listing.keep(0, page(1..6, false), 5);
        assert!(listing.take(&fs, DIR, 50, false).is_none());
    }

    #[test]
    fn attributes_that_may_have_changed_are_asked_for_again() {
        let listing = Listing::default();
        listing.keep(0, page(1..6, true), 2);
        let (rest, age) = listing.take(&Knows(10, None), DIR, 20, true).unwrap();
        assert!(age == AGE && rest.items.iter().all(|item| item.attr.uid == 7));
        for fs in [Knows(5, None), Knows(10, Some(4))] {
            listing.keep(0, page(1..6, true), 2);
            assert!(listing.take(&fs, DIR, 20, true).is_none());
        }
    }
}
