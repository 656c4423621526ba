//! A directory's entries, in the order of a stable hash of their names: the hash is the readdir cookie, so that a
//! listing in pages neither skips nor repeats an entry that stays, whatever comes and goes meanwhile.
use cairn_types::Inode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The cookie of a name: stable for ever (it is on disk and in clients' hands), above 2, below 2^63.
pub(crate) fn hash_name(name: &[u8]) -> u64 {
    #[cfg(test)]
    if name.starts_with(b"collide") {
        return 4711;
    }
    // FNV-1a, then the finalizer of MurmurHash3, which spreads what FNV leaves in the low bits
    let mut h = name.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 33;
    // 1 and 2 are left for `.` and `..`; readdir offsets are signed
    (h >> 1).max(3)
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Directory {
    entries: BTreeMap<u64, Slot>,
    len: u64,
}

/// The entries of one hash: one, but for a collision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Slot {
    One(Box<[u8]>, Inode),
    /// Two or more, in the order of their names.
    Many(Vec<(Box<[u8]>, Inode)>),
}

impl Slot {
    fn iter(&self) -> impl Iterator<Item = (&[u8], Inode)> {
        let (one, many) = match self {
            Slot::One(name, inode) => (Some((&**name, *inode)), [].as_slice()),
            Slot::Many(all) => (None, all.as_slice()),
        };
        one.into_iter()
            .chain(many.iter().map(|(name, inode)| (&**name, *inode)))
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
        self.entries
            .get(&hash_name(name))?
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, inode)| inode)
    }

    /// Sets what `name` leads to, and gives what it led to.
    pub fn insert(&mut self, name: &[u8], inode: Inode) -> Option<Inode> {
        let hash = hash_name(name);
        let Some(slot) = self.entries.get_mut(&hash) else {
            self.entries.insert(hash, Slot::One(name.into(), inode));
            self.len += 1;
            return None;
        };
        let mut all: Vec<_> = slot.iter().map(|(n, i)| (n.into(), i)).collect();
        let old = match all.binary_search_by(|(n, _): &(Box<[u8]>, Inode)| (**n).cmp(name)) {
            Ok(at) => Some(std::mem::replace(&mut all[at].1, inode)),
            Err(at) => {
                all.insert(at, (name.into(), inode));
                self.len += 1;
                None
            }
        };
        *slot = shape(all);
        old
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Inode> {
        let hash = hash_name(name);
        let slot = self.entries.get_mut(&hash)?;
        let old = slot.iter().find(|(n, _)| *n == name).map(|(_, inode)| inode)?;
        let rest: Vec<_> = slot
            .iter()
            .filter(|(n, _)| *n != name)
            .map(|(n, i)| (n.into(), i))
            .collect();
        if rest.is_empty() {
            self.entries.remove(&hash);
        } else {
            *slot = shape(rest);
        }
        self.len -= 1;
        Some(old)
    }

    /// The entries whose cookie is above `cookie`, in the order of cookies.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], Inode)> {
        let from = (Bound::Excluded(cookie), Bound::Unbounded);
        self.entries
            .range(from)
            .flat_map(|(hash, slot)| slot.iter().map(|(name, inode)| (*hash, name, inode)))
    }

    /// The entries of one cookie.
    pub fn at(&self, cookie: u64) -> impl Iterator<Item = (&[u8], Inode)> {
        self.entries.get(&cookie).into_iter().flat_map(Slot::iter)
    }
}

fn shape(mut all: Vec<(Box<[u8]>, Inode)>) -> Slot {
    match all.pop() {
        Some((name, inode)) if all.is_empty() => Slot::One(name, inode),
        Some(last) => {
            all.push(last);
            Slot::Many(all)
        }
        None => Slot::Many(all),
    }
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
    fn cookies_never_change() {
        assert_eq!(hash_name(b""), hash_name(b""));
        let known = [hash_name(b"a"), hash_name(b"big.iso"), hash_name(&[0xff; 255])];
        assert_eq!(known, KNOWN);
        assert!(known.iter().all(|h| (3..1 << 63).contains(h)));
    }
    const KNOWN: [u64; 3] = [4706636184713914157, 6032534467920670831, 1029007805597636916];
}
