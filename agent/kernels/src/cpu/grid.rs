//! Outputs that several threads write at once, each its own rectangle.
//!
//! [`over`] is the one way in which kernels share work: it asks for the place of every unit of work
//! before it starts, sees that no two places overlap, and hands each unit its place alone. That
//! check is what makes the kernels safe code.

#![expect(
    unsafe_code,
    reason = "rectangles of one slice, proven disjoint, go to different threads"
)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::{Apart, Pool};

/// A row-major output.
pub(crate) struct Grid<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: a grid stands for a `&mut [T]`, and hands out parts of it only through `over`, which
// gives no element to two threads.
unsafe impl<T: Send> Sync for Grid<'_, T> {}

impl<'a, T> Grid<'a, T> {
    /// The whole rows of `cols` elements that `data` holds.
    pub(crate) fn new(data: &'a mut [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self { start: data.as_mut_ptr(), rows, cols, data: PhantomData }
    }
}

/// Where a unit of work writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) grid: usize,
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
}

impl Place {
    /// Whether `next` lies behind this place in the order grid, rows, columns.
    fn is_before(&self, next: &Self) -> bool {
        self.grid < next.grid
            || (self.grid == next.grid
                && (self.rows.end <= next.rows.start
                    || (self.rows == next.rows && self.cols.end <= next.cols.start)))
    }
}

/// The rectangle that one unit may write.
pub(crate) struct Tile<'a, T> {
    start: *mut T,
    /// Elements from one row to the next.
    stride: usize,
    rows: usize,
    cols: usize,
    data: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// Row `row` of the rectangle.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the rectangle lies inside of its grid (checked by `over`), this row inside of the
        // rectangle, and the rectangle belongs to this tile alone, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.cols) }
    }
}

/// How the units of a job are divided among the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Division {
    /// The caller does them all: they are too few to be worth waking anybody.
    Alone,
    /// Whoever is free takes the next one: some may be far more work than others.
    One,
    /// Whoever is free takes a part of what is left, ever smaller ones, so that one which has come
    /// late or is held up by other work of the machine holds little of it.
    Parts,
}

impl Division {
    /// [`Division::Parts`] where that is worth it.
    pub(crate) const fn parts_if(is_worth_it: bool) -> Self {
        if is_worth_it { Self::Parts } else { Self::Alone }
    }

    /// How many units a thread, one of so many, takes of those that are left.
    pub(crate) fn take(self, left: usize, threads: usize) -> usize {
        match self {
            Self::Alone => left,
            Self::One => 1,
            Self::Parts => (left / (2 * threads)).max(1),
        }
    }
}

/// Does `units` pieces of work, each with the tile at its place.
///
/// Threads claim units in order. Places must follow each other: to a later grid, to later rows, or to
/// later columns of the same rows. Each place is asked for once, and the one that was checked is the
/// one that is written to.
pub(crate) fn over<T: Send>(
    pool: &mut Pool,
    grids: &mut [Grid<'_, T>],
    (units, division): (usize, Division),
    place: impl FnMut(usize) -> Place,
    work: impl Fn(usize, Tile<'_, T>) + Sync,
) {
    let mut places = pool.take_places();
    places.extend((0..units).map(place));
    check(grids, &places);
    let (grids, claimed) = (&*grids, places.as_slice());
    let next = Apart(AtomicUsize::new(0));
    let threads = pool.threads();
    let job = || {
        while let Some(units) = claim(&next.0, units, |left| division.take(left, threads)) {
            for unit in units {
                let place = &claimed[unit];
                let grid = &grids[place.grid];
                let (rows, cols) = (place.rows.len(), place.cols.len());
                // A place without rows may lie behind the last one, where its columns are nowhere.
                let offset =
                    if rows == 0 { 0 } else { place.rows.start * grid.cols + place.cols.start };
                // SAFETY: `check` has seen this very place, and nothing can have changed it since:
                // it ends inside of its grid, so the offset of its first row is inside too.
                let start = unsafe { grid.start.add(offset) };
                // No other tile has any of this one's elements: `check` has seen that places do
                // not overlap, and `claim` gives each unit away once.
                work(unit, Tile { start, stride: grid.cols, rows, cols, data: PhantomData });
            }
        }
    };
    if division == Division::Alone || units <= 1 {
        job();
    } else {
        pool.run(&job);
    }
    pool.keep_places(places);
}

/// The next of `units` units, as many as `take` says of those that are left, at least one; `None`
/// once there are none. No unit is given away twice, whatever it says.
pub(crate) fn claim(
    next: &AtomicUsize,
    units: usize,
    take: impl Fn(usize) -> usize,
) -> Option<Range<usize>> {
    let mut first = next.load(Ordering::Relaxed);
    while first < units {
        let left = units - first;
        let end = first + take(left).clamp(1, left);
        match next.compare_exchange_weak(first, end, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(first..end),
            Err(now) => first = now,
        }
    }
    None
}

/// Panics unless every place lies in its grid and behind the one before.
fn check<T>(grids: &[Grid<'_, T>], places: &[Place]) {
    let mut last: Option<&Place> = None;
    for place in places {
        let grid = &grids[place.grid];
        assert!(place.rows.start <= place.rows.end && place.rows.end <= grid.rows);
        assert!(place.cols.start <= place.cols.end && place.cols.end <= grid.cols);
        assert!(last.is_none_or(|last| last.is_before(place)), "places overlap");
        last = Some(place);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;

    use super::*;

    fn place(rows: Range<usize>, cols: Range<usize>) -> Place {
        Place { grid: 0, rows, cols }
    }

    #[test]
    fn every_unit_writes_its_own_rectangle() {
        let mut pool = Pool::new(3);
        let mut data = vec![0; 6 * 10];
        let mut grids = [Grid::new(&mut data, 10)];
        let at =
            |unit: usize| place(unit / 5 * 2..unit / 5 * 2 + 2, unit % 5 * 2..unit % 5 * 2 + 2);
        over(&mut pool, &mut grids, (15, Division::Parts), at, |unit, mut tile| {
            for row in 0..2 {
                tile.row(row).fill(unit + 1);
            }
        });
        for (i, value) in data.iter().enumerate() {
            assert_eq!(*value, i / 20 * 5 + i % 10 / 2 + 1);
        }
    }

    #[test]
    fn threads_write_at_once_each_its_own_rectangle() {
        let mut pool = Pool::new(3);
        let all_at_work = Barrier::new(3);
        let mut data = vec![0; 3 * 8];
        let mut grids = [Grid::new(&mut data, 8)];
        let at = |unit: usize| place(unit..unit + 1, 0..8);
        over(&mut pool, &mut grids, (3, Division::One), at, |unit, mut tile| {
            all_at_work.wait();
            tile.row(0).fill(unit + 1);
        });
        assert!((0..24).all(|at| data[at] == at / 8 + 1), "{data:?}");
    }

    #[test]
    fn parts_are_of_what_is_left() {
        let next = AtomicUsize::new(0);
        let mut parts =
            std::iter::from_fn(|| claim(&next, 768, |left| Division::Parts.take(left, 3)));
        assert_eq!(parts.next(), Some(0..128));
        assert_eq!(parts.next(), Some(128..234));
        assert_eq!(parts.last(), Some(767..768));
    }

    #[test]
    fn no_unit_is_claimed_twice_by_who_takes_more_or_less_than_there_is() {
        for take in [0, 5, usize::MAX] {
            let next = AtomicUsize::new(0);
            let claims = std::iter::from_fn(|| claim(&next, 9, |_| take));
            assert_eq!(claims.flatten().collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_unit_is_claimed_once_however_they_are_divided() {
        for division in [Division::Alone, Division::One, Division::Parts] {
            for (units, threads) in [(0, 2), (1, 2), (9, 2), (24, 16), (768, 3)] {
                let next = AtomicUsize::new(0);
                let take = |left| division.take(left, threads);
                let claims: Vec<_> = std::iter::from_fn(|| claim(&next, units, take)).collect();
                let claimed: Vec<usize> = claims.iter().cloned().flatten().collect();
                assert_eq!(claimed, (0..units).collect::<Vec<_>>());
                let largest = claims.iter().map(ExactSizeIterator::len).max();
                let share = units.div_ceil(threads);
                assert!(division == Division::Alone || largest.unwrap_or(0) <= share);
            }
        }
    }

    #[test]
    fn the_place_that_was_checked_is_the_one_that_is_written() {
        let mut pool = Pool::new(2);
        let mut data = vec![0; 8];
        let mut asked = 0;
        let at = |unit: usize| {
            asked += 1;
            if asked <= 2 { place(unit..unit + 1, 0..4) } else { place(0..2, 0..4) }
        };
        let mut grids = [Grid::new(&mut data, 4)];
        over(&mut pool, &mut grids, (2, Division::One), at, |unit, mut tile| {
            assert_eq!(tile.rows, 1);
            tile.row(0).fill(unit + 1);
        });
        assert_eq!(data, [1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(asked, 2);
    }

    #[test]
    fn an_empty_place_behind_the_last_row_stays_inside_of_its_grid() {
        let mut pool = Pool::new(1);
        let mut data = vec![0; 4];
        let inside = data.as_ptr_range();
        let inside = inside.start as usize..=inside.end as usize;
        let mut grids = [Grid::new(&mut data, 4)];
        let at = |_: usize| place(1..1, 3..4);
        over(&mut pool, &mut grids, (1, Division::One), at, |_, tile| {
            assert_eq!(tile.rows, 0);
            assert!(inside.contains(&(tile.start as usize)));
        });
    }

    #[test]
    fn places_that_overlap_or_leave_the_grid_are_refused() {
        let mut pool = Pool::new(2);
        let mut data = vec![0; 12];
        let cases = [
            [place(0..2, 0..2), place(0..2, 0..2)],
            [place(0..2, 0..1), place(1..3, 0..1)],
            [place(0..1, 0..1), place(0..4, 1..2)],
            [place(0..1, 0..1), place(0..1, 3..5)],
        ];
        for places in cases {
            let at = |unit: usize| places[unit].clone();
            let mut grids = [Grid::new(&mut data, 4)];
            let refused = catch_unwind(AssertUnwindSafe(|| {
                over(&mut pool, &mut grids, (2, Division::One), at, |_, mut tile| {
                    tile.row(0).fill(1);
                });
            }));
            assert!(refused.is_err());
        }
        assert_eq!(data, [0; 12]);
    }
}
