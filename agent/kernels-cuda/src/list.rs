//! Lists that the host gives kernels in each step: token ids, positions, slots, block tables.
//!
//! They travel as parameters of a small kernel, in the order of the stream: nothing waits for a copy,
//! and no memory of the host has to outlive the call. A list that is already there, as between the
//! layers of a step, is not sent again.

#![expect(unsafe_code, reason = "a kernel is started")]

use std::sync::Arc;

use realm_kernels::backend::BackendError;

use crate::device::{Device, Grid, Kernel, Memory};

/// Words of a `Words` in rows.cu: with the other parameters they fit into the 4 KiB of a launch.
const WORDS: usize = 960;

/// A list on the device.
pub(crate) struct List {
    memory: Memory,
    /// What is there.
    held: Vec<u32>,
    words_max: usize,
}

impl List {
    /// Room for so many words.
    pub(crate) fn new(device: &Arc<Device>, words_max: usize) -> Result<Self, BackendError> {
        let memory = device.allocate(words_max.saturating_mul(size_of::<u32>()))?;
        Ok(Self { memory, held: Vec::with_capacity(words_max), words_max })
    }

    /// Where it begins, for kernels.
    pub(crate) const fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Makes the list be `words`.
    pub(crate) fn put(
        &mut self,
        by: (&Device, &Kernel),
        op: &'static str,
        words: &[u32],
    ) -> Result<(), BackendError> {
        self.send(by, op, words, |word| word)
    }

    /// Makes the list be floats.
    pub(crate) fn put_floats(
        &mut self,
        by: (&Device, &Kernel),
        op: &'static str,
        floats: &[f32],
    ) -> Result<(), BackendError> {
        self.send(by, op, floats, f32::to_bits)
    }

    fn send<T: Copy>(
        &mut self,
        (device, put_words): (&Device, &Kernel),
        op: &'static str,
        list: &[T],
        word: impl Fn(T) -> u32,
    ) -> Result<(), BackendError> {
        let (need, have) = (list.len(), self.words_max);
        if need > have {
            return Err(BackendError::Shape { op, what: "words of a list", need, have });
        }
        if list.iter().map(|item| word(*item)).eq(self.held.iter().copied()) {
            return Ok(());
        }
        // Until all of it is there, it is not known what is.
        self.held.clear();
        for (index, part) in list.chunks(WORDS).enumerate() {
            let mut packed = [0_u32; WORDS];
            packed.iter_mut().zip(part).for_each(|(to, item)| *to = word(*item));
            let to = self.memory.address() + (index * WORDS * size_of::<u32>()) as u64;
            let count = u32::try_from(part.len()).unwrap_or(0);
            let grid = Grid { blocks: (1, 1, 1), threads: 256 };
            // SAFETY: put_words(u32* to, Words words, u32 count) writes `count` words from `to` on, and
            // the chunks of `words` lie one after the other within the list.
            unsafe { device.launch(op, put_words, grid, &[&to, &packed, &count]) }?;
        }
        self.held.extend(list.iter().map(|item| word(*item)));
        Ok(())
    }
}
