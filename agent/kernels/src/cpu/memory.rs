//! Memory as the system gives it: large pages where there are any, and locked where that is asked
//! for.

use crate::backend::BackendError;

/// Bytes of a page that saves looking up the many small ones in its place.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// An empty vector with room for `len` elements, if the machine has it, in large pages where whole
/// ones lie in it.
pub(crate) fn reserved<T>(len: usize) -> Result<Vec<T>, BackendError> {
    let mut out: Vec<T> = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    out.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory { bytes })?;
    let room = out.spare_capacity_mut();
    ask_for_huge_pages(Place::at(room.as_ptr().cast(), size_of_val(room)));
    Ok(out)
}

/// Where bytes lie that somebody owns.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    first: *const u8,
    bytes: usize,
}

impl Place {
    pub(crate) const fn at(first: *const u8, bytes: usize) -> Self {
        Self { first, bytes }
    }

    /// The pages of so many bytes that lie wholly within.
    #[cfg(target_os = "linux")]
    fn whole_pages(self, page: usize) -> Self {
        let skipped = self.first.align_offset(page).min(self.bytes);
        let bytes = (self.bytes - skipped) / page * page;
        Self { first: self.first.wrapping_add(skipped), bytes }
    }
}

/// Asks for large pages where whole ones lie in a place. A system that has none goes on with small
/// ones, which changes no result.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "advice on memory is a system call with an address")]
pub(crate) fn ask_for_huge_pages(place: Place) {
    let Place { first, bytes } = place.whole_pages(HUGE_PAGE);
    if bytes > 0 {
        let first = first.cast_mut().cast();
        // SAFETY: the range is page-aligned and lies within what its owner has. The advice changes
        // how memory is mapped and no byte of it.
        let _ = unsafe { rustix::mm::madvise(first, bytes, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn ask_for_huge_pages(_: Place) {}

/// Keeps the pages of a place in memory until [`unlock`], whatever else wants it.
///
/// # Errors
/// The system allows the process to lock less (`RLIMIT_MEMLOCK`), or knows no locking.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "locking memory is a system call with an address")]
pub(crate) fn lock(place: Place) -> Result<(), BackendError> {
    if place.bytes == 0 {
        return Ok(());
    }
    // SAFETY: a lock changes whether pages may be written to disk, and no byte of them. The system
    // checks the range; a wrong one is an error.
    let locked = unsafe { rustix::mm::mlock(place.first.cast_mut().cast(), place.bytes) };
    locked.map_err(|_| BackendError::NotLocked { bytes: place.bytes })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lock(place: Place) -> Result<(), BackendError> {
    Err(BackendError::NotLocked { bytes: place.bytes })
}

/// Ends [`lock`] for the pages that lie wholly within a place.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "locking memory is a system call with an address")]
pub(crate) fn unlock(place: Place) {
    let Place { first, bytes } = place.whole_pages(rustix::param::page_size());
    // SAFETY: as in `lock`.
    let _ = unsafe { rustix::mm::munlock(first.cast_mut().cast(), bytes) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unlock(_: Place) {}
