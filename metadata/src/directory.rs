//! A directory's entries, in the order of a stable hash of their names: the hash is the readdir cookie, so that a
//! listing in pages neither skips nor repeats an entry that stays, whatever comes and goes meanwhile.
use cairn_types::Inode;
use std::cmp::Ordering;
use std::sync::Arc;

/// The cookie of a name ([`cairn_types::names::cookie`]).
pub(crate) fn hash_name(name: &[u8]) -> u64 {
    #[cfg(test)]
    if name.starts_with(b"collide") {
        return 4711;
    }
    cairn_types::names::cookie(name)
}

/// A page that is longer is cut in two. Longer pages make the copy of a large directory cheaper, and its changes dearer.
const PAGE_BYTES_MAX: usize = 8 << 10;
/// Of an entry without its name: hash and inode, little-endian, and the length of the name.
const HEAD_BYTES: usize = 17;
const _: () = assert!(cairn_types::limits::NAME_BYTES_MAX <= u8::MAX as usize);

/// Entries one behind the other, in pages that are shared by copies of the directory: each change makes one page anew.
/// So ten million names cost their bytes and little else, and a change of a directory that a checkpoint shares copies
/// a list of pages, not the entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    /// With a hash that is above all those of the pages before it and not above its own; 0 for the first. All entries
    /// of one hash are in one page, in the order of their names.
    pages: Vec<(u64, Arc<[u8]>)>,
    len: u64,
}

struct Entry<'a> {
    hash: u64,
    inode: Inode,
    name: &'a [u8],
}

impl Entry<'_> {
    fn size(&self) -> usize {
        HEAD_BYTES + self.name.len()
    }

    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.hash.to_le_bytes());
        to.extend_from_slice(&self.inode.0.to_le_bytes());
        to.push(self.name.len() as u8);
        to.extend_from_slice(self.name);
    }
}

/// Of a page, or a part of one that begins with an entry.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;
    fn next(&mut self) -> Option<Entry<'a>> {
        let (hash, rest) = self.0.split_first_chunk()?;
        let (inode, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first()?;
        let (name, rest) = rest.split_at_checked((*len).into())?;
        self.0 = rest;
        Some(Entry {
            hash: u64::from_le_bytes(*hash),
            inode: Inode(u64::from_le_bytes(*inode)),
            name,
        })
    }
}

impl PartialEq for Directory {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.after(0).eq(other.after(0))
    }
}

impl Directory {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, name: &[u8]) -> Option<Inode> {
        self.at(hash_name(name))
            .find(|(n, _)| *n == name)
            .map(|(_, inode)| inode)
    }

    /// Sets what `name` leads to, and gives what it led to.
    pub fn insert(&mut self, name: &[u8], inode: Inode) -> Option<Inode> {
        let hash = hash_name(name);
        if self.pages.is_empty() {
            self.pages = Vec::with_capacity(1);
            self.pages.push((0, Arc::default()));
        }
        let at = self.page_of(hash);
        let (offset, old) = self.find(at, hash, name);
        let page = &self.pages[at].1;
        let entry = Entry { hash, inode, name };
        let mut bytes = Vec::with_capacity(page.len() + entry.size());
        bytes.extend_from_slice(&page[..offset]);
        entry.encode(&mut bytes);
        let behind = offset + if old.is_some() { entry.size() } else { 0 };
        bytes.extend_from_slice(&page[behind..]);
        self.put(at, &bytes);
        self.len += u64::from(old.is_none());
        old
    }

    /// Adds entries behind all that are there, in the order in which [`Directory::after`] gives them: page by page, where
    /// inserting them would copy a page for each.
    pub fn append<'a>(&mut self, entries: impl Iterator<Item = (&'a [u8], Inode)>) -> Result<(), &'static str> {
        let (mut first, page) = self.pages.pop().unwrap_or_default();
        let mut before = Entries(&page).last().map_or(0, |entry| entry.hash);
        let mut bytes = page.to_vec();
        for (name, inode) in entries {
            let hash = hash_name(name);
            if hash < before {
                return Err("entries of a directory out of order");
            }
            let entry = Entry { hash, inode, name };
            if hash > before && bytes.len() + entry.size() > PAGE_BYTES_MAX {
                self.pages.push((first, bytes.as_slice().into()));
                bytes.clear();
                first = hash;
            }
            entry.encode(&mut bytes);
            (before, self.len) = (hash, self.len + 1);
        }
        self.pages.push((first, bytes.into()));
        Ok(())
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Inode> {
        let hash = hash_name(name);
        let at = self.page_of(hash);
        let (offset, old) = self.find(at, hash, name);
        let old = old?;
        let page = &self.pages[at].1;
        let behind = offset + HEAD_BYTES + name.len();
        let bytes = [&page[..offset], &page[behind..]].concat();
        self.put(at, &bytes);
        self.len -= 1;
        Some(old)
    }

    /// The entries whose cookie is above `cookie`, in the order of cookies.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], Inode)> {
        self.pages[self.page_of(cookie).min(self.pages.len())..]
            .iter()
            .flat_map(|(_, page)| Entries(page))
            .skip_while(move |entry| entry.hash <= cookie)
            .map(|entry| (entry.hash, entry.name, entry.inode))
    }

    /// The entries of one cookie.
    pub fn at(&self, cookie: u64) -> impl Iterator<Item = (&[u8], Inode)> {
        self.pages
            .get(self.page_of(cookie))
            .into_iter()
            .flat_map(|(_, page)| Entries(page))
            .skip_while(move |entry| entry.hash < cookie)
            .take_while(move |entry| entry.hash == cookie)
            .map(|entry| (entry.name, entry.inode))
    }

    /// Where the page is that entries of `hash` are in, if any are; 0 without pages.
    fn page_of(&self, hash: u64) -> usize {
        self.pages
            .partition_point(|(first, _)| *first <= hash)
            .saturating_sub(1)
    }

    /// In page `at`, where the entry begins or would, and what it leads to.
    fn find(&self, at: usize, hash: u64, name: &[u8]) -> (usize, Option<Inode>) {
        let mut offset = 0;
        for entry in self.pages.get(at).into_iter().flat_map(|(_, page)| Entries(page)) {
            match (entry.hash, entry.name).cmp(&(hash, name)) {
                Ordering::Less => offset += entry.size(),
                Ordering::Equal => return (offset, Some(entry.inode)),
                Ordering::Greater => break,
            }
        }
        (offset, None)
    }

    /// Page `at` is `bytes` from now on: cut in two when it is long, joined to the next when both are short.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some((cut, hash)) = middle(bytes) {
            let (left, right) = bytes.split_at(cut);
            self.pages[at].1 = left.into();
            self.pages.insert(at + 1, (hash, right.into()));
            return;
        }
        match self.pages.get(at + 1) {
            Some((_, next)) if bytes.len() + next.len() <= PAGE_BYTES_MAX / 4 => {
                let joined = [bytes, next].concat();
                self.pages[at].1 = joined.into();
                self.pages.remove(at + 1);
            }
            None if bytes.is_empty() => self.pages.truncate(at),
            _ => self.pages[at].1 = bytes.into(),
        }
    }
}

/// Where a long page is cut, and the hash of the entry there: not between entries of one hash.
fn middle(bytes: &[u8]) -> Option<(usize, u64)> {
    if bytes.len() <= PAGE_BYTES_MAX {
        return None;
    }
    let mut offset = 0;
    let mut before = None;
    for entry in Entries(bytes) {
        if offset >= bytes.len() / 2 && before.is_some_and(|hash| hash != entry.hash) {
            return Some((offset, entry.hash));
        }
        offset += entry.size();
        before = Some(entry.hash);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_one_hash_are_kept_apart() {
        let mut d = Directory::default();
        for (i, name) in ["collide-b", "other", "collide-a", "collide-c"].iter().enumerate() {
            assert_eq!(d.insert(name.as_bytes(), Inode(i as u64)), None);
        }
        assert_eq!(d.len(), 4);
        assert_eq!(d.insert(b"collide-a", Inode(9)), Some(Inode(2)));
        assert_eq!(
            d.at(4711).map(|(n, _)| n).collect::<Vec<_>>(),
            [&b"collide-a"[..], b"collide-b", b"collide-c"]
        );
        assert_eq!(d.remove(b"collide-b"), Some(Inode(0)));
        assert_eq!(d.remove(b"collide-b"), None);
        assert_eq!(d.get(b"collide-c"), Some(Inode(3)));
        assert_eq!(d.remove(b"collide-c"), Some(Inode(3)));
        assert_eq!(d.get(b"collide-a"), Some(Inode(9)));
        assert_eq!(d.remove(b"collide-a"), Some(Inode(9)));
        assert_eq!(d.after(0).count(), 1);
        assert_eq!(d.len(), 1);
    }

    #[test]
    fn many_names_come_and_go_in_pages_and_copies_do_not_see_it() {
        use std::collections::BTreeMap;
        let mut d = Directory::default();
        let mut model: BTreeMap<(u64, Vec<u8>), Inode> = BTreeMap::new();
        let agrees = |d: &Directory, model: &BTreeMap<(u64, Vec<u8>), Inode>| {
            let all = model.iter().map(|((hash, name), inode)| (*hash, &name[..], *inode));
            assert!(d.after(0).eq(all));
            assert_eq!(d.len(), model.len() as u64);
            assert!(d.pages.iter().all(|(_, page)| page.len() <= PAGE_BYTES_MAX));
        };
        let name = |i: u64| match i % 10 {
            0 => format!("collide {i}").into_bytes(),
            _ => format!("{i}{}", "x".repeat((i % 97) as usize)).into_bytes(),
        };
        for i in 0..3000u64 {
            // few enough of one hash for a page
            let i = if i % 10 == 0 { i % 200 } else { i };
            let key = (hash_name(&name(i)), name(i));
            assert_eq!(d.insert(&name(i), Inode(i + 1)), model.insert(key, Inode(i + 1)));
        }
        agrees(&d, &model);
        assert!(d.pages.len() > 10);
        let (copy, before) = (d.clone(), model.clone());
        for i in 0..3000u64 {
            let key = (hash_name(&name(i)), name(i));
            assert_eq!(d.get(&name(i)), model.get(&key).copied());
            if i % 50 != 1 {
                assert_eq!(d.remove(&name(i)), model.remove(&key));
            }
            if i % 500 == 0 {
                agrees(&d, &model);
            }
        }
        agrees(&d, &model);
        agrees(&copy, &before);
        assert!(d.pages.len() < copy.pages.len() / 4, "short pages are joined");
        for cookie in model.keys().map(|(hash, _)| *hash) {
            let behind = model.keys().filter(|(hash, _)| *hash > cookie).count();
            assert_eq!(d.after(cookie).count(), behind);
        }
        for (_, name) in model.keys() {
            assert!(d.remove(name).is_some());
        }
        assert!(d.is_empty() && d.pages.len() <= 1);
        assert_eq!(d, Directory::default());
    }

    #[test]
    fn a_directory_is_put_together_from_its_entries_in_order() {
        let mut d = Directory::default();
        for i in 0..2000u64 {
            d.insert(
                format!("{}{i}", if i % 50 == 0 { "collide" } else { "" }).as_bytes(),
                Inode(i),
            );
        }
        let mut appended = Directory::default();
        let all: Vec<_> = d.after(0).map(|(_, name, inode)| (name, inode)).collect();
        for piece in all.chunks(300) {
            appended.append(piece.iter().copied()).unwrap();
        }
        assert_eq!(appended, d);
        assert!(all.iter().all(|(name, inode)| appended.get(name) == Some(*inode)));
        assert!(appended.pages.len() > 5 && appended.pages.len() <= d.pages.len());
        let first = all.iter().copied().take(1);
        assert!(appended.append(first).is_err());
    }

    /// More names of one hash than a page is meant for.
    #[test]
    fn names_of_one_hash_stay_in_one_page_however_many() {
        let mut d = Directory::default();
        let name = |i: usize| format!("collide {i:0200}").into_bytes();
        for i in 0..200 {
            d.insert(&name(i), Inode(i as u64));
            d.insert(format!("{i}").as_bytes(), Inode(0));
        }
        assert_eq!(d.at(4711).count(), 200);
        assert!((0..200).all(|i| d.get(&name(i)) == Some(Inode(i as u64))));
        assert_eq!(d.after(0).count(), 400);
    }
}
