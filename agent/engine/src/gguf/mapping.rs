//! A model file mapped into memory.
#![expect(unsafe_code, reason = "a mapping is the one way to read a file larger than memory")]

use std::{fs::File, io};

use memmap2::Mmap;

#[derive(Debug)]
pub(super) struct Mapping(Mmap);

impl Mapping {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private and read-only and its bytes are only ever read as `u8`,
        // for which every value is valid. Nothing that was checked is read twice: the header is
        // copied out as it is checked, and tensor bytes are data to which no invariant is
        // attached. Model files live in a content-addressed store that replaces files by rename
        // and never writes into them.
        unsafe { Mmap::map(file) }.map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
