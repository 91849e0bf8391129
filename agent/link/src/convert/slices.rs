//! What part of its tenants' limits this door may spend, and what they use of it.

use std::collections::{BTreeMap, btree_map::Entry};

use realm_core::{
    name::TenantName,
    slices::{Each, PARTS, Reached, Slices, Spends, Use},
};
use realm_proto::link::v1 as proto;

use super::{ConvertError, named, required};

pub(crate) fn slices_to(slices: &Slices) -> proto::Slices {
    let Slices { epoch, share, tenants } = slices;
    let tenant_to = |(name, parts): (&TenantName, &Each<u32>)| proto::TenantSlice {
        tenant: name.as_str().to_owned(),
        parts: Some(parts_to(*parts)),
    };
    let tenants = tenants.iter().map(tenant_to).collect();
    proto::Slices { epoch: *epoch, share: *share, tenants }
}

pub(crate) fn slices_from(slices: proto::Slices) -> Result<Slices, ConvertError> {
    let proto::Slices { epoch, share, tenants } = slices;
    let mut all = BTreeMap::new();
    for proto::TenantSlice { tenant, parts } in tenants {
        let parts = parts_from(required("slices.parts", parts)?)?;
        match all.entry(named("slices.tenant", &tenant, TenantName::parse)?) {
            Entry::Vacant(free) => free.insert(parts),
            Entry::Occupied(_) => {
                return Err(ConvertError::Duplicate { field: "slices.tenant", name: tenant });
            }
        };
    }
    Ok(Slices { epoch, share: within(share)?, tenants: all })
}

pub(crate) fn spends_to(spends: &Spends) -> proto::Spends {
    let Spends { epoch, tenants, reached } = spends;
    let tenant_to = |(name, it): (&TenantName, &Use)| {
        let Use { used, is_short, calls_over } = *it;
        proto::TenantSpend {
            tenant: name.as_str().to_owned(),
            used: Some(parts_to(used)),
            short: Some(proto::tenant_spend::Short {
                requests: is_short.requests,
                input_tokens: is_short.input_tokens,
                output_tokens: is_short.output_tokens,
                calls: is_short.calls,
            }),
            calls_over,
        }
    };
    let tenants = tenants.iter().map(tenant_to).collect();
    proto::Spends { epoch: *epoch, tenants, reached: Some(reached_to(reached)) }
}

fn reached_to(reached: &BTreeMap<TenantName, Reached>) -> proto::Reached {
    let tenant_to = |(name, it): (&TenantName, &Reached)| {
        let Reached { refused, kv_blocks, behind_others } = *it;
        let Each { requests, input_tokens, output_tokens, calls } = refused;
        proto::TenantReached {
            tenant: name.as_str().to_owned(),
            requests,
            input_tokens,
            output_tokens,
            calls,
            kv_blocks,
            behind_others,
        }
    };
    proto::Reached { tenants: reached.iter().map(tenant_to).collect() }
}

const fn parts_to(parts: Each<u32>) -> proto::Parts {
    let Each { requests, input_tokens, output_tokens, calls } = parts;
    proto::Parts { requests, input_tokens, output_tokens, calls }
}

fn parts_from(parts: proto::Parts) -> Result<Each<u32>, ConvertError> {
    let proto::Parts { requests, input_tokens, output_tokens, calls } = parts;
    Ok(Each {
        requests: within(requests)?,
        input_tokens: within(input_tokens)?,
        output_tokens: within(output_tokens)?,
        calls: within(calls)?,
    })
}

/// Nobody has more than all of a limit.
const fn within(parts: u32) -> Result<u32, ConvertError> {
    if parts > PARTS {
        return Err(ConvertError::TooMany { field: "slices.parts" });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(tenant: &str, requests: u32) -> proto::TenantSlice {
        let parts = proto::Parts { requests, ..proto::Parts::default() };
        proto::TenantSlice { tenant: tenant.to_owned(), parts: Some(parts) }
    }

    fn check(share: u32, tenants: Vec<proto::TenantSlice>, expected: &str) {
        let error = slices_from(proto::Slices { epoch: 1, share, tenants }).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
    }

    #[test]
    fn slices_name_each_tenant_once_and_are_at_most_all_of_a_limit() {
        check(PARTS.saturating_add(1), vec![], "`slices.parts` holds more than it may");
        check(
            1,
            vec![slice("a/b", PARTS.saturating_add(1))],
            "`slices.parts` holds more than it may",
        );
        check(1, vec![slice("acme", 1)], "`slices.tenant` holds no name");
        check(1, vec![slice("a/b", 1), slice("a/b", 2)], "`a/b` twice");
        let none = proto::TenantSlice { parts: None, ..slice("a/b", 1) };
        check(1, vec![none], "`slices.parts` is missing");
    }

    #[test]
    fn slices_read_back_as_they_were_said() {
        let said = proto::Slices { epoch: 7, share: 3, tenants: vec![slice("a/b", PARTS)] };
        assert_eq!(slices_to(&slices_from(said.clone()).unwrap()), said);
    }
}
