//! Who enforces tenants' limits, as it is told.

use std::collections::BTreeMap;

use super::{Door, Each, Kind, PARTS, Shares, along::AlongDoor, even};
use crate::name::Name;

/// Who enforces a tenant's limits now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Doors that hold slices of them which differ.
    pub sliced: u32,
    /// The one of these with the most of any limit, and how many hundredths that is.
    pub largest: Option<(String, u32)>,
    /// Doors of an older release, which take an even part.
    pub older: u32,
}

impl Shares {
    /// Who enforces the limits of tenants now: of those of which some door has slices of their own,
    /// and of all others.
    pub fn applied(&self) -> (BTreeMap<Name, Applied>, Applied) {
        let even = even(self.count);
        let mut along: Vec<(&String, &Kind, AlongDoor<'_>)> =
            self.doors.iter().map(|(node, door)| (node, &door.kind, door.along(even))).collect();
        let of_tenant = |tenant: &Name| {
            let held = along.iter_mut().map(|(node, kind, door)| (*node, *kind, door.held(tenant)));
            (tenant.clone(), applied(held, even))
        };
        let named = self.named().into_iter().map(of_tenant).collect();
        let share = |door: &Door| match &door.kind {
            Kind::Sliced { held, .. } => [held.share; 4],
            Kind::Unheard | Kind::Even => [0; 4],
        };
        let others = self.doors.iter().map(|(node, door)| (node, &door.kind, share(door)));
        (named, applied(others, even))
    }
}

/// Who enforces limits of which each door holds that much.
fn applied<'a>(
    doors: impl Iterator<Item = (&'a String, &'a Kind, Each<u32>)>,
    even: u32,
) -> Applied {
    let mut applied = Applied::default();
    let mut differs = false;
    let mut largest: Option<(&String, u32)> = None;
    for (node, kind, parts) in doors {
        match kind {
            Kind::Unheard => {}
            Kind::Even => applied.older = applied.older.saturating_add(1),
            Kind::Sliced { .. } => {
                applied.sliced = applied.sliced.saturating_add(1);
                differs |= parts != [even; 4];
                let [a, b, c, d] = parts;
                let hundredths = hundredths(a.max(b).max(c).max(d));
                if largest.is_none_or(|(_, most)| most < hundredths) {
                    largest = Some((node, hundredths));
                }
            }
        }
    }
    if differs {
        let largest = largest.map(|(node, hundredths)| (node.clone(), hundredths));
        return Applied { largest, ..applied };
    }
    Applied { sliced: 0, ..applied }
}

/// How many hundredths of the whole so many parts are.
fn hundredths(parts: u32) -> u32 {
    let hundredths = u64::from(parts) * 100 / u64::from(PARTS);
    u32::try_from(hundredths).unwrap_or(100)
}
