//! Who is in which chain, each list once: the chunks of a server are many, and the chains that they are in are few.
use crate::limits::CHAINS_KEPT_MAX;
use bytes::Bytes;
use cairn_proto::common::Member;
use rustc_hash::FxHashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Lists of members that replicas share.
#[derive(Default)]
pub struct Chains(Mutex<FxHashSet<Arc<[Member]>>>);

impl Chains {
    /// The list that equals `members`, as other replicas have it if any has.
    pub fn members(&self, members: &[Member]) -> Arc<[Member]> {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = lists.get(members) {
            return list.clone();
        }
        if lists.len() == CHAINS_KEPT_MAX {
            // those that no replica has are of no use; if all are used, there is little to share
            lists.retain(|list| Arc::strong_count(list) > 1);
            if lists.len() > CHAINS_KEPT_MAX / 2 {
                lists.clear();
            }
        }
        let list: Arc<[Member]> = members.iter().map(whole).collect();
        lists.insert(list.clone());
        list
    }
}

/// A copy that keeps nothing else: a member that came in a frame has its ids in that frame's header.
fn whole(member: &Member) -> Member {
    Member {
        server: Bytes::copy_from_slice(&member.server),
        disk: Bytes::copy_from_slice(&member.disk),
        address: member.address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: usize) -> Vec<Member> {
        let member = |address: String| Member {
            server: Bytes::from_static(&[1; 16]),
            disk: Bytes::from_static(&[2; 16]),
            address,
        };
        vec![member(format!("a:{n}")), member("b:1".into())]
    }

    #[test]
    fn equal_lists_are_one_and_others_are_not() {
        let chains = Chains::default();
        let (one, same, other) = (
            chains.members(&chain(1)),
            chains.members(&chain(1)),
            chains.members(&chain(2)),
        );
        assert!(Arc::ptr_eq(&one, &same));
        assert_eq!((&one[..], &other[..]), (&chain(1)[..], &chain(2)[..]));
    }

    #[test]
    fn as_many_are_kept_as_may_be() {
        let chains = Chains::default();
        let used = chains.members(&chain(0));
        for n in 0..2 * CHAINS_KEPT_MAX {
            assert_eq!(chains.members(&chain(n))[..], chain(n));
            assert!(chains.0.lock().unwrap().len() <= CHAINS_KEPT_MAX);
        }
        assert!(Arc::ptr_eq(&used, &chains.members(&chain(0))));
        let all: Vec<_> = (0..2 * CHAINS_KEPT_MAX).map(|n| chains.members(&chain(n))).collect();
        assert!(chains.0.lock().unwrap().len() <= CHAINS_KEPT_MAX);
        assert!((0..).zip(&all).all(|(n, list)| list[..] == chain(n)));
    }
}
