//! A position in untrusted bytes: nothing is read that is not there.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use super::GgufError;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    fn left(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn truncated(&self, what: &'static str, needed: u64) -> GgufError {
        GgufError::Truncated { what, offset: self.at, needed, left: self.left().len() }
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let needed = u64::try_from(N).unwrap_or(u64::MAX);
        let chunk = *self.left().first_chunk().ok_or_else(|| self.truncated(what, needed))?;
        self.at = self.at.saturating_add(N);
        Ok(chunk)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that each take at least `bytes_min` bytes: no more than the limit, and
    /// no more than the rest of the file can hold, so that it may size an allocation.
    pub(super) fn count(
        &mut self,
        what: &'static str,
        max: u64,
        bytes_min: usize,
    ) -> Result<usize, GgufError> {
        let offset = self.at;
        let count = self.u64(what)?;
        if count > max {
            return Err(GgufError::TooMany { what, offset, count, max });
        }
        let fits = usize::try_from(count)
            .ok()
            .filter(|count| count.checked_mul(bytes_min).is_some_and(|n| n <= self.left().len()));
        fits.ok_or_else(|| {
            let needed = u64::try_from(bytes_min).map_or(u64::MAX, |n| n.saturating_mul(count));
            self.truncated(what, needed)
        })
    }

    /// A string with its length before it.
    pub(super) fn string(&mut self, what: &'static str, max: u64) -> Result<&'a str, GgufError> {
        let len = self.count(what, max, 1)?;
        let offset = self.at;
        let bytes = self.left().get(..len).unwrap_or_default();
        self.at = self.at.saturating_add(len);
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { what, offset })
    }
}
