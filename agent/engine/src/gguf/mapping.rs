//! A model file mapped into memory.
#![expect(unsafe_code, reason = "a mapping is the one way to read a file larger than memory")]

use std::{fs::File, io};

use memmap2::Mmap;

#[derive(Debug)]
pub(super) struct Mapping(Mmap);

impl Mapping {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only, and sound as long as nobody changes the file under it.
        // Files of the store keep to that: it replaces them by rename and never writes into them.
        // A file that is used where an operator has put it may be changed by others, which nothing
        // here can prevent: who rewrites it meanwhile races with the reader, and who truncates it
        // ends the process with SIGBUS. That is the one condition this proof leaves to operators,
        // who must not change a model's file while it loads. After that it is theirs again:
        // weights are copied as they are loaded, and the mapping is gone once loading ends.
        // What a change can reach while it lasts is kept small: the header is copied out as it is
        // checked, nothing that was checked is read twice, and tensor bytes are read as `u8` and
        // have no invariant.
        unsafe { Mmap::map(file) }.map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
