//! Memory in large pages.

/// What the parts hold, one after the other, in memory of large pages where the system has them: with pages of
/// 4 KiB a decode waits for their translation, and takes a fifteenth longer.
pub(crate) fn joined<T: Copy>(parts: &[&[T]]) -> Vec<T> {
    let mut values = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    advise(&mut values);
    parts.iter().for_each(|part| values.extend_from_slice(part));
    values
}

/// So many zeros, in memory of large pages where the system has them: with pages of 4 KiB, whoever writes to fresh memory
/// waits for the system once a page.
pub(crate) fn zeros(bytes: usize) -> Vec<u8> {
    // What comes fresh from the system is zero and has not been touched.
    let mut zeros = vec![0; bytes];
    advise(&mut zeros);
    zeros
}

/// Asks for large pages under memory that was not touched yet. A system that has none goes on with small ones.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "advice on memory that we own")]
fn advise<T>(values: &mut Vec<T>) {
    /// What advice is given on.
    const PAGE: usize = 1 << 12;
    /// A large page.
    const LARGE: usize = 1 << 21;
    let (start, bytes) = (values.as_mut_ptr().cast::<u8>(), values.capacity() * size_of::<T>());
    if bytes >= LARGE {
        let skipped = start.align_offset(PAGE);
        let length = (bytes - skipped) & !(PAGE - 1);
        // SAFETY: the range lies within the vector's own allocation, and this advice changes no content.
        unsafe { libc::madvise(start.wrapping_add(skipped).cast::<libc::c_void>(), length, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise<T>(_: &mut Vec<T>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        let (first, second): (Vec<u32>, Vec<u32>) = ((0..700_001).collect(), (700_001..900_000).collect());
        assert_eq!(joined(&[&first, &second]), (0..900_000).collect::<Vec<_>>());
        assert!(joined::<f32>(&[&[]]).is_empty());
    }

    #[test]
    fn zeros_are_zeros() {
        for bytes in [0, 1, 5_000_001] {
            assert!(zeros(bytes) == vec![0; bytes]);
        }
    }
}
