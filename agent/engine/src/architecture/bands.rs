//! Which layers are cached together.

/// The bands that a model's layers are put in: equally many layers in each, and either all of them
/// attend a window or none does.
///
/// A block of the KV cache is of one band, so that all are equally large, and those of layers with
/// a window can be given back while those of others are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bands {
    /// Layers in a band. The last one of either kind may have fewer.
    pub(crate) layers: usize,
    /// Bands of layers that attend everything. They come first.
    pub(crate) whole: usize,
    pub(crate) windowed: usize,
}

/// One band less is worth this part of the cache left empty: for each there is a table to copy in
/// every step and a block to claim for the same tokens, which is little work and nearly as little
/// memory. At that price published models have two to thirteen bands and leave a twentieth of their
/// cache empty at most.
const BANDS_FOR_ALL: usize = 400;

impl Bands {
    /// The bands of so many layers of either kind that leave little empty and are few.
    pub(crate) fn of(whole: usize, windowed: usize) -> Self {
        let most = whole.max(windowed).max(1);
        let of_size = |layers: usize| Self {
            layers,
            whole: whole.div_ceil(layers),
            windowed: windowed.div_ceil(layers),
        };
        let price = |bands: &Self| {
            let count = bands.count();
            count * bands.layers * BANDS_FOR_ALL + count * (whole + windowed)
        };
        (1..=most).map(of_size).min_by_key(price).unwrap_or_else(|| of_size(most))
    }

    pub(crate) const fn count(&self) -> usize {
        self.whole + self.windowed
    }

    /// Where layer number `nth` of its kind lies: in which band, and as which of its layers.
    pub(crate) const fn place(&self, is_windowed: bool, nth: usize) -> Place {
        let first = if is_windowed { self.whole } else { 0 };
        Place { band: first + nth / self.layers, layer: nth % self.layers }
    }
}

/// Where a layer is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) band: usize,
    pub(crate) layer: usize,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layers_of_one_kind_are_one_band() {
        for layers in [1, 30, 62, 1024] {
            assert_eq!(Bands::of(layers, 0), Bands { layers, whole: 1, windowed: 0 });
            assert_eq!(Bands::of(0, layers), Bands { layers, whole: 0, windowed: 1 });
        }
    }

    #[test]
    fn published_models_have_few_bands_and_leave_little_of_them_empty() {
        // Gemma 2 of 2, 9 and 27 billion, Gemma 3 of 0.27, 1, 4, 12 and 27 billion parameters.
        let models = [
            ((13, 13), (13, 1, 1)),
            ((21, 21), (21, 1, 1)),
            ((23, 23), (23, 1, 1)),
            ((3, 15), (3, 1, 5)),
            ((4, 22), (2, 2, 11)),
            ((5, 29), (5, 1, 6)),
            ((8, 40), (8, 1, 5)),
            ((10, 52), (13, 1, 4)),
        ];
        for ((whole_layers, windowed_layers), (layers, whole, windowed)) in models {
            let bands = Bands::of(whole_layers, windowed_layers);
            assert_eq!(bands, Bands { layers, whole, windowed });
            let all = whole_layers + windowed_layers;
            assert!((bands.layers * bands.count() - all) * 20 <= all, "{bands:?} of {all}");
        }
    }

    proptest! {
        #[test]
        fn every_layer_has_a_place_of_its_own_among_those_of_its_kind(
            (whole, windowed) in (0..80_usize, 0..80_usize),
        ) {
            prop_assume!(whole + windowed > 0);
            let bands = Bands::of(whole, windowed);
            prop_assert!(bands.count() <= 64, "{bands:?}");
            let of_kind = |is_windowed, count| {
                (0..count).map(move |nth| (is_windowed, bands.place(is_windowed, nth)))
            };
            let mut taken = HashSet::new();
            for (is_windowed, place) in of_kind(false, whole).chain(of_kind(true, windowed)) {
                prop_assert_eq!(place.band >= bands.whole, is_windowed);
                prop_assert!(place.band < bands.count() && place.layer < bands.layers);
                prop_assert!(taken.insert((place.band, place.layer)));
            }
        }
    }
}
