//! Which files a program will open next, and those files open before it asks.
//!
//! What goes through a tree (tar, cp -r, grep -r) opens the files of a directory in the order in which they were listed
//! and reads each from its start. As long as that is what happens, the files that follow are opened and their beginnings
//! read while the program is still busy with the one before. Few at a time are held ready, and not for long.
use cairn_types::Inode;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Files whose followers are known; about 40 bytes each. With more, all are forgotten.
const FOLLOWED_MAX: usize = 1 << 16;
/// Opens in order, and files that were read, that make it worth while; what goes on longer counts no more than the second.
const SIGNS_MIN: u8 = 2;
const SIGNS_MAX: u8 = 8;
/// Files held ready: a program is done with a small one before the next has come.
const READY_MAX: usize = 4;
/// What was made ready and not opened is let go after this.
const READY_FOR: Duration = Duration::from_secs(2);

/// `F`: an open file.
pub(crate) struct Following<F> {
    /// By the last listing of its directory.
    follower: BTreeMap<Inode, Inode>,
    expected: Option<Inode>,
    in_order: u8,
    read: u8,
    /// Oldest first.
    ready: VecDeque<(Inode, F, Instant)>,
    /// Somebody sees to it that what is ready is let go in time.
    watched: bool,
}

impl<F> Default for Following<F> {
    fn default() -> Self {
        Self {
            follower: BTreeMap::new(),
            expected: None,
            in_order: 0,
            read: 0,
            ready: VecDeque::new(),
            watched: false,
        }
    }
}

fn count(signs: &mut u8, good: bool) {
    *signs = if good { SIGNS_MAX.min(*signs + 1) } else { *signs / 2 };
}

impl<F> Following<F> {
    /// The files of a directory, in its order.
    pub fn listed(&mut self, files: impl Iterator<Item = Inode>) {
        if self.follower.len() > FOLLOWED_MAX {
            self.follower.clear();
        }
        let mut before = None;
        for file in files {
            if let Some(before) = before.replace(file) {
                self.follower.insert(before, file);
            }
        }
    }

    /// The file is opened for reading: those to make ready, if that is worth while.
    pub fn opened(&mut self, ino: Inode) -> Vec<Inode> {
        if self.expected.is_some() {
            count(&mut self.in_order, self.expected == Some(ino));
        }
        self.expected = self.follower.get(&ino).copied();
        if self.in_order < SIGNS_MIN || self.read < SIGNS_MIN {
            return Vec::new();
        }
        let next = std::iter::successors(self.expected, |ino| self.follower.get(ino).copied());
        let is_ready = |ino: &Inode| self.ready.iter().any(|(ready, _, _)| ready == ino);
        next.take(READY_MAX).filter(|ino| !is_ready(ino)).collect()
    }

    /// One that was open for reading is closed.
    pub fn closed(&mut self, was_read: bool) {
        count(&mut self.read, was_read);
    }

    /// What is ready instead of another one brings that back.
    pub fn put(&mut self, ino: Inode, file: F) -> Option<F> {
        self.ready.push_back((ino, file, Instant::now()));
        let (_, oldest, _) = (self.ready.len() > READY_MAX).then(|| self.ready.pop_front())??;
        Some(oldest)
    }

    pub fn take(&mut self, ino: Inode) -> Option<F> {
        let at = self.ready.iter().position(|(ready, _, _)| *ready == ino)?;
        let (_, file, _) = self.ready.remove(at)?;
        Some(file)
    }

    /// True: the caller is the one who sees to it that what is `due` is let go, until nothing is.
    pub fn watch(&mut self) -> bool {
        !self.ready.is_empty() && !std::mem::replace(&mut self.watched, true)
    }

    /// When the oldest that is ready has been so for too long. None: nothing is, and nobody watches any more.
    pub fn due(&mut self) -> Option<Instant> {
        let due = self.ready.front().map(|(_, _, since)| *since + READY_FOR);
        self.watched = due.is_some();
        due
    }

    /// One that has been ready for too long.
    pub fn let_go(&mut self) -> Option<F> {
        let (_, file, _) = self.ready.pop_front_if(|(_, _, since)| since.elapsed() >= READY_FOR)?;
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens and reads these; what was to be made ready at each.
    fn visit(following: &mut Following<u64>, files: &[u64], read: bool) -> Vec<Vec<u64>> {
        let visit = |ino: &u64| {
            let next = following.opened(Inode(*ino));
            following.closed(read);
            next.into_iter().map(|ino| ino.0).collect()
        };
        files.iter().map(visit).collect()
    }

    fn listed(files: impl Iterator<Item = u64>) -> Following<u64> {
        let mut following = Following::default();
        following.listed(files.map(Inode));
        following
    }

    const NONE: Vec<u64> = Vec::new();

    #[test]
    fn the_next_files_are_made_ready_for_who_reads_one_after_the_other() {
        let mut following = listed(1..=9);
        let next = visit(&mut following, &[1, 2, 3, 4], true);
        assert_eq!(next, [NONE, NONE, vec![4, 5, 6, 7], vec![5, 6, 7, 8]]);
        // not twice
        for ino in 5..=8 {
            assert_eq!(following.put(Inode(ino), ino), None);
        }
        assert_eq!(following.take(Inode(5)), Some(5));
        assert_eq!(visit(&mut following, &[5], true), [[9]]);
        assert_eq!(
            (following.put(Inode(9), 9), following.put(Inode(10), 10)),
            (None, Some(6))
        );
        assert_eq!(
            visit(&mut following, &[6, 7, 8, 9], true),
            [vec![], vec![], vec![], vec![]]
        );
        // it goes on in the next directory
        following.listed([11, 12].map(Inode).into_iter());
        assert_eq!(visit(&mut following, &[11], true), [[12]]);
    }

    #[test]
    fn nothing_is_made_ready_for_who_reads_here_and_there_or_not_at_all() {
        let none = vec![NONE; 6];
        assert_eq!(visit(&mut listed(1..=6), &[1, 2, 3, 4, 5, 6], false), none);
        assert_eq!(visit(&mut listed(1..=6), &[6, 5, 4, 3, 2, 1], true), none);
        assert_eq!(visit(&mut listed(1..=6), &[1, 3, 5, 1, 4, 6], true), none);
        // the habit ends
        let mut following = listed(1..=20);
        visit(&mut following, &(1..=10).collect::<Vec<_>>(), true);
        let next = visit(&mut following, &[3, 18, 5, 1], true);
        assert_eq!(next, [vec![4, 5, 6, 7], vec![19, 20], vec![], vec![]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ready_is_let_go_in_time() {
        let mut following = listed(1..=3);
        assert!(!following.watch());
        assert_eq!(following.put(Inode(1), 1), None);
        assert!(following.watch() && !following.watch());
        assert_eq!((following.take(Inode(2)), following.take(Inode(1))), (None, Some(1)));
        assert_eq!(following.due(), None);
        let start = Instant::now();
        following.put(Inode(2), 2);
        assert!(following.watch(), "who watched has gone");
        tokio::time::advance(READY_FOR / 2).await;
        following.put(Inode(3), 3);
        assert_eq!((following.due(), following.let_go()), (Some(start + READY_FOR), None));
        tokio::time::advance(READY_FOR / 2).await;
        assert_eq!((following.let_go(), following.let_go()), (Some(2), None));
        assert_eq!(following.due(), Some(start + READY_FOR * 3 / 2));
        tokio::time::advance(READY_FOR / 2).await;
        assert_eq!((following.let_go(), following.due()), (Some(3), None));
    }

    #[test]
    fn memory_is_bounded() {
        let mut following = listed(0..=FOLLOWED_MAX as u64 + 1);
        following.listed([1, 2].map(Inode).into_iter());
        assert_eq!(following.follower.len(), 1);
    }
}
