//! Memory for weights: large pages where there are any, and locked where that is asked for.

use crate::backend::BackendError;

/// Bytes of a page that saves looking up the many small ones in its place.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// An empty vector with room for `len` elements, if the machine has it.
///
/// Weights are read from beginning to end for every token, so that each small page is looked up
/// anew each time. The system is asked for large ones.
pub(crate) fn reserved<T>(len: usize) -> Result<Vec<T>, BackendError> {
    let mut out: Vec<T> = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    out.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory { bytes })?;
    ask_for_huge_pages(&mut out);
    Ok(out)
}

/// Asks for large pages where whole ones lie in the vector. A system that has none goes on with
/// small ones, which changes no result.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "advice on memory is a system call with an address")]
fn ask_for_huge_pages<T>(vector: &mut Vec<T>) {
    let room = vector.spare_capacity_mut();
    let bytes = size_of_val(room);
    let start = room.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(HUGE_PAGE);
    let whole = bytes.saturating_sub(skipped) / HUGE_PAGE * HUGE_PAGE;
    if whole == 0 {
        return;
    }
    let first = start.wrapping_add(skipped).cast();
    // SAFETY: the range is page-aligned and lies within the vector's own allocation, which nobody
    // else sees. The advice changes how memory is mapped and no byte of it.
    let _ = unsafe { rustix::mm::madvise(first, whole, rustix::mm::Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages<T>(_: &mut Vec<T>) {}

/// Where values lie.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    first: *const u8,
    bytes: usize,
}

impl Place {
    pub(crate) const fn of<T>(values: &[T]) -> Self {
        Self { first: values.as_ptr().cast(), bytes: size_of_val(values) }
    }
}

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

/// Ends [`lock`] for the pages that lie wholly within a place; on the first and the last there may
/// be what somebody else has locked.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "locking memory is a system call with an address")]
pub(crate) fn unlock(place: Place) {
    let page = rustix::param::page_size();
    let skipped = place.first.align_offset(page);
    let whole = place.bytes.saturating_sub(skipped) / page * page;
    let first = place.first.wrapping_add(skipped);
    // SAFETY: as in `lock`.
    let _ = unsafe { rustix::mm::munlock(first.cast_mut().cast(), whole) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unlock(_: Place) {}
