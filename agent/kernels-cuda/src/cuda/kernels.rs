//! What was compiled, by its names.

use std::sync::Arc;

use realm_kernels::{backend::BackendError, format::Format};

use crate::device::{Kernel, Module};

/// Structures whose fields are the kernels of the same name.
macro_rules! kernels {
    ($($(#[$meta:meta])* $name:ident { $($kernel:ident),* $(,)? })*) => {$(
        $(#[$meta])*
        pub(super) struct $name {
            $(pub(super) $kernel: Kernel),*
        }

        impl $name {
            pub(super) fn of(module: &Arc<Module>) -> Result<Self, BackendError> {
                Ok(Self { $($kernel: module.kernel(stringify!($kernel))?),* })
            }
        }
    )*};
}

kernels! {
    /// rows.cu and activations.cu
    RowKernels {
        put_words, rms_norm, layer_norm, add, scale, soft_cap, gelu, gated_silu, gated_gelu, add_bias,
        add_rows, gather_rows, rope, round_q8, round_bf16, copy_f32, split_f16,
    }
    /// attention.cu
    AttentionKernels { kv_store, attention, merge }
    /// ceiling.cu
    CeilingKernels { s8, f16, bf16 }
}

/// blocks.cu or floats.cu
pub(super) struct WeightKernels {
    pub(super) embed: Kernel,
    pub(super) sum_parts: Kernel,
    few: [Kernel; 4],
    /// The rows of a tile, ascending, and the kernel for each.
    tile_rows: &'static [usize],
    many: Vec<Kernel>,
}

/// The most rows that are multiplied without tiles.
pub(super) const FEW_ROWS_MAX: usize = 8;
/// Outputs that a warp of a product with few rows computes.
pub(super) const FEW_OUTPUTS: usize = 2;
/// Warps of its blocks.
pub(super) const FEW_WARPS: usize = 8;

impl WeightKernels {
    pub(super) fn of(module: &Arc<Module>, format: Format) -> Result<Self, BackendError> {
        let (tile_rows, names): (&[usize], &[&'static str]) = match format {
            Format::F32 => (&[64], &["many_64"]),
            _ => (&[32, 64, 128], &["many_32", "many_64", "many_128"]),
        };
        let many = names.iter().map(|name| module.kernel(name));
        Ok(Self {
            embed: module.kernel("embed")?,
            sum_parts: module.kernel("sum_parts")?,
            few: [
                module.kernel("few_1")?,
                module.kernel("few_2")?,
                module.kernel("few_4")?,
                module.kernel("few_8")?,
            ],
            tile_rows,
            many: many.collect::<Result<_, _>>()?,
        })
    }

    /// For so many rows, at most [`FEW_ROWS_MAX`].
    pub(super) const fn few(&self, rows: usize) -> &Kernel {
        let [one, two, four, eight] = &self.few;
        match rows {
            0 | 1 => one,
            2 => two,
            3 | 4 => four,
            _ => eight,
        }
    }

    /// The rows of a tile, and the kernel for it: the largest that still gives every multiprocessor
    /// one, or the smallest that takes all rows at once.
    pub(super) fn many(&self, tiles: Tiles) -> Option<(usize, &Kernel)> {
        let chosen = tiles.choose(self.tile_rows)?;
        Some((*self.tile_rows.get(chosen)?, self.many.get(chosen)?))
    }
}

/// A product that is cut into tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    pub(super) rows: usize,
    pub(super) outputs: usize,
    /// Outputs of a tile.
    pub(super) tile_outputs: usize,
    pub(super) processors: usize,
}

impl Tiles {
    /// Which of the tiles, of so many rows each, to take.
    fn choose(self, sizes: &[usize]) -> Option<usize> {
        let fills = |rows: &usize| {
            let tiles = self.rows.div_ceil(*rows) * self.outputs.div_ceil(self.tile_outputs);
            *rows < 2 * self.rows && tiles >= self.processors
        };
        let filling = sizes.iter().rposition(fills);
        let whole = sizes.iter().position(|rows| *rows >= self.rows.min(64));
        filling.or(whole).or_else(|| sizes.len().checked_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_large_where_there_are_enough_and_no_larger_than_the_batch() {
        let choose = |rows, outputs| {
            let tiles = Tiles { rows, outputs, tile_outputs: 128, processors: 132 };
            tiles.choose(&[32, 64, 128]).unwrap()
        };
        assert_eq!(choose(9, 4096), 0);
        assert_eq!(choose(32, 128_256), 0);
        assert_eq!(choose(33, 128_256), 1);
        assert_eq!(choose(256, 4096), 0);
        assert_eq!(choose(512, 4096), 1);
        assert_eq!(choose(2048, 4096), 2);
        assert_eq!(choose(256, 14_336), 2);
        assert_eq!(choose(256, 33), 1);
        let tiles = Tiles { rows: 9, outputs: 1, tile_outputs: 64, processors: 1 };
        assert_eq!(tiles.choose(&[64]), Some(0));
    }
}
