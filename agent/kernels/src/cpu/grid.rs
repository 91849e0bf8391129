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

use super::pool::Pool;

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

/// Does `units` pieces of work, each with the tile at its place.
///
/// Threads claim `granule` units at a time, in order. Places must follow each other: to a later
/// grid, to later rows, or to later columns of the same rows. `place` must be a pure function: it is
/// asked once for the check and once for the work.
pub(crate) fn over<T: Send>(
    pool: &mut Pool,
    grids: &mut [Grid<'_, T>],
    (units, granule): (usize, usize),
    place: impl Fn(usize) -> Place + Sync,
    work: impl Fn(usize, Tile<'_, T>) + Sync,
) {
    let mut last: Option<Place> = None;
    for unit in 0..units {
        let place = place(unit);
        let grid = &grids[place.grid];
        assert!(place.rows.start <= place.rows.end && place.rows.end <= grid.rows);
        assert!(place.cols.start <= place.cols.end && place.cols.end <= grid.cols);
        assert!(last.is_none_or(|last| last.is_before(&place)), "places overlap");
        last = Some(place);
    }
    let grids = &*grids;
    let next = AtomicUsize::new(0);
    let granule = granule.max(1);
    let job = |_thread: usize| {
        loop {
            let first = next.fetch_add(granule, Ordering::Relaxed);
            if first >= units {
                return;
            }
            for unit in first..units.min(first + granule) {
                let Place { grid, rows, cols } = place(unit);
                let grid = &grids[grid];
                assert!(rows.end <= grid.rows && cols.end <= grid.cols);
                // SAFETY: the place was checked to lie in the grid, just now and as the one that
                // does not overlap with others above; each unit is claimed once.
                let start = unsafe { grid.start.add(rows.start * grid.cols + cols.start) };
                let (rows, cols) = (rows.len(), cols.len());
                let data = PhantomData;
                work(unit, Tile { start, stride: grid.cols, rows, cols, data });
            }
        }
    };
    if units <= granule { job(0) } else { pool.run(&job) }
}

/// The granule that gives each thread one share.
pub(crate) fn even(pool: &Pool, units: usize) -> usize {
    units.div_ceil(pool.threads())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

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
        over(&mut pool, &mut grids, (15, 2), at, |unit, mut tile| {
            for row in 0..2 {
                tile.row(row).fill(unit + 1);
            }
        });
        for (i, value) in data.iter().enumerate() {
            assert_eq!(*value, i / 20 * 5 + i % 10 / 2 + 1);
        }
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
                over(&mut pool, &mut grids, (2, 1), at, |_, mut tile| tile.row(0).fill(1));
            }));
            assert!(refused.is_err());
        }
        assert_eq!(data, [0; 12]);
    }
}
