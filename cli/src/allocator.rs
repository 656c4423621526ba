//! How the C library's allocator treats what is freed: pages that go back to the kernel come again one fault at a time,
//! zeroed, and in a virtual machine perhaps from its host.

/// Longer blocks are mapped, and unmapped when they are freed: a frame's payload (1 MiB) and most records are not.
#[cfg(target_env = "gnu")]
const BLOCK_BYTES_MAX: i32 = 16 << 20;
/// What a heap may have free at its end.
#[cfg(target_env = "gnu")]
const FREE_BYTES_MAX: i32 = 32 << 20;

/// Keeps what buffers leave for the next ones, where the allocator is glibc's. At the start, while there is one thread.
#[expect(unsafe_code, reason = "nobody has wrapped it")]
#[cfg(target_env = "gnu")]
pub fn keep_freed() {
    let set = |what, to| {
        // SAFETY: sets a number of malloc's own, with its lock held
        let known = unsafe { libc::mallopt(what, to) };
        debug_assert_eq!(known, 1, "malloc knows no {what}, or not {to}");
    };
    // either ends that malloc changes both as it goes: to twice the longest block that was freed, 2 MiB with frames
    set(libc::M_MMAP_THRESHOLD, BLOCK_BYTES_MAX);
    set(libc::M_TRIM_THRESHOLD, FREE_BYTES_MAX);
}
#[cfg(not(target_env = "gnu"))]
pub fn keep_freed() {}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;
    use nix::sys::resource::{UsageWho, getrusage};

    fn faults() -> i64 {
        getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults()
    }

    #[test]
    fn buffers_of_frames_come_again_without_faults() {
        keep_freed();
        let fill = || drop([(); 16].map(|()| std::hint::black_box(vec![1u8; 1 << 20])));
        fill();
        let before = faults();
        (0..100).for_each(|_| fill());
        // a page each time would be 400,000 and more
        let more = faults() - before;
        assert!(more < 10_000, "{more} faults");
    }
}
