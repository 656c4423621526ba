//! What the master says of a replica (protocol R7, R8, R11, and promise 7): small decisions, as tables.
use crate::ChunkInfo;
use cairn_types::{DiskId, Version};

/// What a server reported of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    pub disk: DiskId,
    pub version: Version,
    pub suspect: bool,
    /// Its header is unreadable, or blocks of it are known to be bad.
    pub damaged: bool,
    /// Being filled, untrusted.
    pub joining: bool,
}

/// The answer to a report (R7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Serves reads, and is not writable until it is installed anew (R8).
    Current,
    /// Serves nothing, and will be deleted.
    Stale,
    /// The log does not have the chunk (any more): serves nothing, will be deleted after the grace.
    Unknown,
    /// Serves nothing for now: a reconfiguration is under way, or needed ([`needs_reconfiguration`]).
    Wait,
}

/// The verdict on `replica`, where `chunk` is what the log has of it and `under_way` says that a reconfiguration of it
/// is: one that has not been logged.
pub fn verdict(chunk: Option<&ChunkInfo>, replica: &Replica, under_way: bool) -> Verdict {
    let Some(chunk) = chunk else { return Verdict::Unknown };
    let member = chunk.members.contains(&replica.disk);
    if under_way || replica.version > chunk.version {
        // above the logged version it was fenced, not installed: not current, not garbage (R11)
        Verdict::Wait
    } else if replica.joining && !member {
        // a fill that was forgotten with an earlier master or registration
        Verdict::Stale
    } else if !member || replica.version < chunk.version {
        Verdict::Stale
    } else if replica.suspect || replica.damaged {
        Verdict::Wait
    } else {
        Verdict::Current
    }
}

/// A [`Verdict::Wait`] for which nothing is under way: the chunk is to be reconfigured, since until then this member
/// serves nothing.
pub fn needs_reconfiguration(chunk: &ChunkInfo, replica: &Replica, under_way: bool) -> bool {
    let member = chunk.members.contains(&replica.disk);
    !under_way && member && verdict(Some(chunk), replica, under_way) == Verdict::Wait
}

/// Whether a server may unlink the replica of version `version` on `disk` (promise 7: asked again before the deed).
/// `drawn`: the handle is of this log ([`crate::State::was_drawn`]); `wanted`: a reconfiguration or a fill that is
/// under way uses this disk; `unreadable`: its server says that the header is damaged, so that nothing is served or
/// copied from it whatever its version.
pub fn may_delete(
    chunk: Option<&ChunkInfo>,
    drawn: bool,
    disk: DiskId,
    version: Version,
    unreadable: bool,
    wanted: bool,
) -> bool {
    match chunk {
        _ if wanted || !drawn => false,
        Some(chunk) if unreadable => version <= chunk.version,
        None => true,
        Some(chunk) if chunk.members.contains(&disk) => version < chunk.version,
        Some(chunk) => version <= chunk.version,
    }
}

/// What to do with a complaint of a client that wants to write (R8, R12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// The chunk has another version by now: answer with it.
    AnswerCurrent,
    /// Answer when the reconfiguration that is under way is over.
    Wait,
    Reconfigure,
}

/// A complaint that names the logged version forces exactly one reconfiguration (R8).
pub fn complaint(logged: Version, named: Version, under_way: bool) -> Complaint {
    if under_way {
        Complaint::Wait
    } else if named == logged {
        Complaint::Reconfigure
    } else {
        Complaint::AnswerCurrent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::{ChunkHandle, Inode};

    const V: Version = Version::new(5, 7);

    fn disk(n: u128) -> DiskId {
        DiskId::from_bits(n)
    }

    fn chunk() -> ChunkInfo {
        ChunkInfo {
            handle: ChunkHandle(1),
            version: V,
            members: vec![disk(1), disk(2)],
            inode: Inode(2),
            index: 0,
            goal: 2,
            references: 1,
            granted: false,
            committed: true,
            from_suspect: None,
        }
    }

    fn replica(n: u128, version: Version) -> Replica {
        Replica {
            disk: disk(n),
            version,
            suspect: false,
            damaged: false,
            joining: false,
        }
    }

    #[test]
    fn r7_current_is_the_same_version_a_member_not_suspect_and_nothing_under_way() {
        let chunk = chunk();
        let of = |r: &Replica, under_way| verdict(Some(&chunk), r, under_way);
        let good = replica(1, V);
        assert_eq!(of(&good, false), Verdict::Current);
        assert_eq!(of(&good, true), Verdict::Wait);
        assert_eq!(of(&Replica { suspect: true, ..good }, false), Verdict::Wait);
        assert_eq!(of(&Replica { damaged: true, ..good }, false), Verdict::Wait);
        assert_eq!(of(&replica(1, Version::new(5, 6)), false), Verdict::Stale);
        assert_eq!(of(&replica(3, V), false), Verdict::Stale);
        assert_eq!(verdict(None, &good, false), Verdict::Unknown);
        assert!(needs_reconfiguration(&chunk, &Replica { suspect: true, ..good }, false));
        assert!(!needs_reconfiguration(&chunk, &good, false));
    }

    #[test]
    fn r11_a_replica_above_the_logged_version_is_neither_current_nor_garbage() {
        let chunk = chunk();
        for n in [1, 3] {
            let above = replica(n, Version::new(6, 1));
            assert_eq!(verdict(Some(&chunk), &above, false), Verdict::Wait);
            assert!(!may_delete(Some(&chunk), true, above.disk, above.version, false, false));
            assert!(!may_delete(Some(&chunk), true, above.disk, above.version, true, false));
        }
        assert!(needs_reconfiguration(&chunk, &replica(1, Version::new(6, 1)), false));
    }

    #[test]
    fn p7_only_what_the_log_has_moved_past_may_be_deleted() {
        let chunk = chunk();
        let lower = Version::new(5, 6);
        assert!(may_delete(None, true, disk(1), V, false, false));
        assert!(
            !may_delete(None, false, disk(1), V, false, false),
            "another log's chunk"
        );
        assert!(!may_delete(None, true, disk(1), V, false, true), "wanted");
        assert!(!may_delete(Some(&chunk), true, disk(1), V, false, false), "a member");
        assert!(
            may_delete(Some(&chunk), true, disk(1), lower, false, false),
            "a stale member"
        );
        assert!(may_delete(Some(&chunk), true, disk(3), V, false, false), "no member");
        assert!(
            !may_delete(Some(&chunk), true, disk(3), lower, false, true),
            "being filled"
        );
        assert!(
            may_delete(Some(&chunk), true, disk(1), V, true, false),
            "a header is bad"
        );
        assert!(!may_delete(Some(&chunk), true, disk(1), V, true, true), "wanted");
    }

    #[test]
    fn r8_a_complaint_that_names_the_logged_version_forces_exactly_one_reconfiguration() {
        assert_eq!(complaint(V, V, false), Complaint::Reconfigure);
        assert_eq!(complaint(V, V, true), Complaint::Wait);
        assert_eq!(complaint(Version::new(5, 8), V, false), Complaint::AnswerCurrent);
    }
}
