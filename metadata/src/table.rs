//! A map from numbers that are drawn in sequence (inodes, chunk handles) to records: pages of slots, copied on write.
//!
//! Drawn numbers are dense, so a page costs its records and little else (a B-tree filled in order is half empty, a
//! hash table up to half). Pages are shared by clones, so that a checkpoint works on a clone of the state that cost a
//! reference count per page, while operations go on.
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// More make a clone cheaper, and the first change of a page after it dearer: 112 KiB of inodes are copied.
const SLOTS: u64 = 1024;

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Table<V> {
    pages: BTreeMap<u64, Arc<Page<V>>>,
    len: u64,
}

#[derive(Clone, PartialEq, Debug)]
struct Page<V> {
    slots: Box<[Option<V>]>,
    used: u32,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self {
            pages: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<V: Clone> Table<V> {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn get(&self, key: u64) -> Option<&V> {
        self.pages.get(&(key / SLOTS))?.slots[(key % SLOTS) as usize].as_ref()
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let page = self.pages.get_mut(&(key / SLOTS))?;
        // no copy of a shared page for a slot that is empty
        page.slots[(key % SLOTS) as usize].as_ref()?;
        Arc::make_mut(page).slots[(key % SLOTS) as usize].as_mut()
    }

    pub fn insert(&mut self, key: u64, value: V) -> Option<V> {
        let page = self.pages.entry(key / SLOTS).or_insert_with(|| {
            let slots = std::iter::repeat_with(|| None).take(SLOTS as usize).collect();
            Arc::new(Page { slots, used: 0 })
        });
        let page = Arc::make_mut(page);
        let old = page.slots[(key % SLOTS) as usize].replace(value);
        if old.is_none() {
            page.used += 1;
            self.len += 1;
        }
        old
    }

    pub fn remove(&mut self, key: u64) -> Option<V> {
        let page = self.pages.get_mut(&(key / SLOTS))?;
        page.slots[(key % SLOTS) as usize].as_ref()?;
        let page = Arc::make_mut(page);
        let old = page.slots[(key % SLOTS) as usize].take();
        page.used -= 1;
        self.len -= 1;
        if page.used == 0 {
            self.pages.remove(&(key / SLOTS));
        }
        old
    }

    /// In ascending order of the keys above `key`.
    pub fn after(&self, key: u64) -> impl Iterator<Item = (u64, &V)> {
        let first = key.saturating_add(1);
        self.pages
            .range((Bound::Included(first / SLOTS), Bound::Unbounded))
            .flat_map(|(number, page)| {
                let base = number * SLOTS;
                page.slots
                    .iter()
                    .enumerate()
                    .filter_map(move |(i, slot)| Some((base + i as u64, slot.as_ref()?)))
            })
            .skip_while(move |(key, _)| *key < first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_map_and_clones_do_not_see_later_changes() {
        let mut table = Table::default();
        let mut map = BTreeMap::new();
        for i in 0..1000u64 {
            let key = 1 + (i * 7919) % 613;
            if i % 3 == 0 {
                assert_eq!(table.remove(key), map.remove(&key));
            } else {
                assert_eq!(table.insert(key, i), map.insert(key, i));
            }
            assert_eq!(table.len(), map.len() as u64);
        }
        let before = table.clone();
        let all: Vec<_> = before.after(0).map(|(k, v)| (k, *v)).collect();
        assert_eq!(all, map.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
        for (key, _) in &all {
            *table.get_mut(*key).unwrap() += 1;
        }
        assert!(all.iter().all(|(k, v)| before.get(*k) == Some(v)));
        assert_eq!(
            table.after(100).next().map(|(k, _)| k),
            map.range(101..).next().map(|(k, _)| *k)
        );
        for (key, _) in &all {
            table.remove(*key);
        }
        assert_eq!(table, Table::default());
    }
}
