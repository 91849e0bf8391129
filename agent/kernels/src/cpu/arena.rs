//! Where weights lie: one matrix behind the other in large pages.
//!
//! Weights are read from beginning to end for every token, so that each page is looked up anew each
//! time. Most matrices of a small model are smaller than one large page, and by itself each of them
//! would get small ones: a token of such a model then takes some 5 to 10% longer.

#![expect(unsafe_code, reason = "many own pieces of one allocation, which no vector can give")]

use std::alloc::{Layout, alloc, dealloc};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::memory::{HUGE_PAGE, Place, ask_for_huge_pages, lock, unlock};
use crate::backend::BackendError;

/// Bytes of a chunk that many pieces share. Large pages that nobody has written to take no memory;
/// of the one that the last piece ends in the rest does, and a chunk of so many has few of those:
/// some 1% of it.
const CHUNK: usize = 128 << 20;

/// Bytes from which on a piece has a chunk of its own: enough of them that small pages at its end
/// are a fraction of it.
const ALONE_FROM: usize = 8 << 20;

/// Where pieces begin: at a cache line.
const ALIGN: usize = 64;

/// The largest page that is a system's smallest; chunks share none with anything else.
const PAGE_MAX: usize = 64 << 10;

/// Gives out memory, piece by piece.
#[derive(Default)]
pub(crate) struct Arena {
    /// What the next piece may go into. It lives for as long as any of its pieces.
    open: Weak<Chunk>,
    used: usize,
    /// Whether pieces stay in memory for as long as they live.
    pub(crate) locks: bool,
}

/// Values that were put down one by one.
pub(crate) struct Piece<T> {
    first: NonNull<T>,
    len: usize,
    room: usize,
    _chunk: Arc<Chunk>,
}

struct Chunk {
    first: NonNull<u8>,
    layout: Layout,
    is_locked: AtomicBool,
}

// SAFETY: a piece is the only one that reads or writes its part of the chunk, as a vector is with
// its allocation.
unsafe impl<T: Send> Send for Piece<T> {}
// SAFETY: as above; through a shared piece its values are only read.
unsafe impl<T: Sync> Sync for Piece<T> {}

// SAFETY: a chunk by itself only knows where its memory is, and gives it back once.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Arena {
    /// An empty piece with room for so many values.
    ///
    /// # Errors
    /// The machine has not got the memory, or may not lock it.
    pub(crate) fn piece<T: Copy>(&mut self, room: usize) -> Result<Piece<T>, BackendError> {
        const { assert!(align_of::<T>() <= ALIGN, "pieces begin at a cache line") };
        let too_large = BackendError::OutOfMemory { bytes: usize::MAX };
        let bytes = room.checked_mul(size_of::<T>()).ok_or(too_large)?;
        let (chunk, start) = self.place(bytes)?;
        if self.locks {
            chunk.lock(start, bytes)?;
        }
        // SAFETY: `place` has found `bytes` bytes from `start` on in the chunk.
        let first = unsafe { chunk.first.add(start) }.cast();
        Ok(Piece { first, len: 0, room, _chunk: chunk })
    }

    /// A chunk, and where so many of its bytes belong to nobody; they are not given out again.
    fn place(&mut self, bytes: usize) -> Result<(Arc<Chunk>, usize), BackendError> {
        if bytes >= ALONE_FROM {
            return Ok((Arc::new(Chunk::new(bytes)?), 0));
        }
        if let Some(chunk) = self.open.upgrade() {
            let start = self.used.next_multiple_of(ALIGN);
            if bytes <= CHUNK.saturating_sub(start) {
                self.used = start + bytes;
                return Ok((chunk, start));
            }
        }
        let chunk = Arc::new(Chunk::new(CHUNK)?);
        self.open = Arc::downgrade(&chunk);
        self.used = bytes;
        Ok((chunk, 0))
    }
}

impl Chunk {
    /// One of `bytes` bytes at least, of which there must be some.
    fn new(bytes: usize) -> Result<Self, BackendError> {
        let none = || BackendError::OutOfMemory { bytes };
        let whole = bytes.max(1).checked_next_multiple_of(PAGE_MAX).ok_or_else(none)?;
        let layout = Layout::from_size_align(whole, HUGE_PAGE).map_err(|_| none())?;
        // SAFETY: the layout is not empty.
        let first = NonNull::new(unsafe { alloc(layout) }).ok_or_else(none)?;
        let chunk = Self { first, layout, is_locked: AtomicBool::new(false) };
        ask_for_huge_pages(chunk.part(0, whole));
        Ok(chunk)
    }

    /// Where bytes of it lie; what is beyond its end is not among them.
    fn part(&self, start: usize, end: usize) -> Place {
        let end = end.min(self.layout.size());
        let start = start.min(end);
        Place::at(self.first.as_ptr().wrapping_add(start), end - start)
    }

    /// Locks the large pages that so many bytes from `start` on lie in: a page of which a part were
    /// locked would be taken apart.
    fn lock(&self, start: usize, bytes: usize) -> Result<(), BackendError> {
        // Set first: what is locked before one fails is let go as well.
        self.is_locked.store(true, Ordering::Relaxed);
        let end = (start + bytes).next_multiple_of(HUGE_PAGE);
        lock(self.part(start / HUGE_PAGE * HUGE_PAGE, end))
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if *self.is_locked.get_mut() {
            unlock(self.part(0, self.layout.size()));
        }
        // SAFETY: it was allocated with this layout, and no piece of it is left.
        unsafe { dealloc(self.first.as_ptr(), self.layout) };
    }
}

impl<T: Copy> Piece<T> {
    /// Puts a value behind the others, for which there must be room.
    pub(crate) fn push(&mut self, value: T) {
        let first = self.first.as_ptr().cast::<MaybeUninit<T>>();
        // SAFETY: so many values have room from there on, which are this piece's alone, and
        // whatever is there is a `MaybeUninit`.
        let room = unsafe { slice::from_raw_parts_mut(first, self.room) };
        room[self.len].write(value);
        self.len += 1;
    }
}

impl<T> Deref for Piece<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: so many values from there on were written by `push`.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a piece begins and where its values end.
    fn span<T>(piece: &Piece<T>) -> (usize, usize) {
        let range = piece.as_ptr_range();
        (range.start.addr(), range.end.addr())
    }

    fn filled<T: Copy>(arena: &mut Arena, values: &[T]) -> Piece<T> {
        let mut piece = arena.piece(values.len()).unwrap();
        for value in values {
            piece.push(*value);
        }
        piece
    }

    #[test]
    fn pieces_follow_each_other_and_keep_what_was_put_into_them() {
        let mut arena = Arena::default();
        let bytes = filled(&mut arena, &[1u8, 2, 3]);
        let words: Vec<Piece<u64>> = (0..50).map(|n| filled(&mut arena, &[n; 20])).collect();
        let floats = filled(&mut arena, &[0.5f32; 7]);
        assert_eq!(*bytes, [1, 2, 3]);
        assert!((0..).zip(&words).all(|(n, piece)| **piece == [n; 20]));
        assert_eq!(*floats, [0.5; 7]);
        let mut spans: Vec<_> = words.iter().map(span).collect();
        spans.extend([span(&bytes), span(&floats)]);
        spans.sort_unstable();
        assert!(spans.is_sorted_by(|before, after| before.1 <= after.0));
        assert!(spans.iter().all(|(start, _)| start % ALIGN == 0));
        assert!(spans[51].1 - spans[0].0 < 50 * 192 + 256, "one behind the other");
    }

    #[test]
    fn a_piece_outlives_its_arena_and_the_others_of_its_chunk() {
        let mut arena = Arena::default();
        let [early, kept] = [[1u32; 9], [2; 9]].map(|values| filled(&mut arena, &values));
        drop((early, arena));
        assert_eq!(*kept, [2; 9]);
    }

    #[test]
    fn what_no_longer_fits_opens_another_chunk_and_what_is_large_has_its_own() {
        const FIT: usize = CHUNK / (ALONE_FROM - ALIGN);
        let mut arena = Arena::default();
        let mut begins = |room: usize| {
            let piece: Piece<u8> = arena.piece(room).unwrap();
            let first = piece.as_ptr().addr();
            (piece, first)
        };
        let each = [(); FIT + 1].map(|()| begins(ALONE_FROM - ALIGN));
        let (_large, large) = begins(ALONE_FROM);
        let (_small, small) = begins(8);
        let from = |at: usize, of: usize| each[at].1.wrapping_sub(each[of].1);
        assert!((0..FIT).all(|at| from(at, 0) == at * (ALONE_FROM - ALIGN)), "so many fit");
        assert!(from(FIT, 0) >= CHUNK, "before or behind the first chunk");
        assert_eq!(small, each[FIT].1 + ALONE_FROM - ALIGN, "what is large opens none for others");
        assert_eq!([each[0].1, each[FIT].1, large].map(|first| first % HUGE_PAGE), [0; 3]);
    }

    #[test]
    fn a_chunk_ends_with_the_last_of_its_pieces() {
        let mut arena = Arena::default();
        let piece: Piece<u8> = arena.piece(10).unwrap();
        assert!(arena.open.upgrade().is_some());
        drop(piece);
        assert!(arena.open.upgrade().is_none());
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn more_than_there_is_room_for_is_not_put_down() {
        let mut piece = filled(&mut Arena::default(), &[1u16, 2]);
        piece.push(3);
    }

    #[test]
    fn more_than_a_machine_has_is_refused() {
        let refused = Arena::default().piece::<u64>(usize::MAX / 4);
        assert!(matches!(refused, Err(BackendError::OutOfMemory { .. })));
        let refused = Arena::default().piece::<u8>(usize::MAX / 2);
        assert!(matches!(refused, Err(BackendError::OutOfMemory { .. })));
    }
}
