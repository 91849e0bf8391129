//! What part of its tenants' limits a door may spend, and what they use of it.

use std::collections::{BTreeMap, btree_map::Entry};

use realm_plan::{
    Name,
    reached::EachReached,
    shares::{Each, PARTS, Slices, Spends, Use},
};
use realm_proto::link::v1 as proto;

use super::{ConvertError, message, named, required};

pub(in crate::link) fn slices_to(slices: &Slices) -> proto::OperatorMessage {
    let Slices { epoch, share, tenants } = slices;
    let tenant_to = |(name, parts): (&Name, &Each<u32>)| {
        let [requests, input_tokens, output_tokens, calls] = *parts;
        let parts = proto::Parts { requests, input_tokens, output_tokens, calls };
        proto::TenantSlice { tenant: name.to_string(), parts: Some(parts) }
    };
    let tenants = tenants.iter().map(tenant_to).collect();
    let slices = proto::Slices { epoch: *epoch, share: *share, tenants };
    message(proto::operator_message::Message::Slices(slices))
}

pub(in crate::link) fn slices_from(slices: proto::Slices) -> Result<Slices, ConvertError> {
    let proto::Slices { epoch, share, tenants } = slices;
    let slice_from = |proto::TenantSlice { tenant, parts }| Ok((tenant, parts_from(parts)?));
    let tenants = each("holds.tenant", tenants, slice_from)?;
    Ok(Slices { epoch, share: within(share)?, tenants })
}

pub(in crate::link) fn spends_from(spends: proto::Spends) -> Result<Spends, ConvertError> {
    let proto::Spends { epoch, tenants, reached } = spends;
    let use_from = |proto::TenantSpend { tenant, used, short, calls_over }| {
        let proto::tenant_spend::Short { requests, input_tokens, output_tokens, calls } =
            required("spends.short", short)?;
        let is_short = [requests, input_tokens, output_tokens, calls];
        let calls_over = within(calls_over)?;
        Ok((tenant, Use { used: parts_from(used)?, is_short, calls_over }))
    };
    let tenants = each("spends.tenant", tenants, use_from)?;
    Ok(Spends { epoch, tenants, reached: reached.map(reached_from).transpose()? })
}

fn reached_from(reached: proto::Reached) -> Result<BTreeMap<Name, EachReached>, ConvertError> {
    let tenant_from = |it: proto::TenantReached| {
        let proto::TenantReached {
            tenant,
            requests,
            input_tokens,
            output_tokens,
            calls,
            kv_blocks,
            behind_others,
        } = it;
        Ok((tenant, [requests, input_tokens, output_tokens, calls, kv_blocks, behind_others]))
    };
    each("spends.reached.tenant", reached.tenants, tenant_from)
}

/// Each tenant once.
fn each<P, T>(
    field: &'static str,
    items: Vec<P>,
    convert: impl Fn(P) -> Result<(String, T), ConvertError>,
) -> Result<BTreeMap<Name, T>, ConvertError> {
    let mut all = BTreeMap::new();
    for item in items {
        let (name, item) = convert(item)?;
        match all.entry(named(field, &name)?) {
            Entry::Vacant(free) => free.insert(item),
            Entry::Occupied(_) => return Err(ConvertError::Duplicate { field, name }),
        };
    }
    Ok(all)
}

fn parts_from(parts: Option<proto::Parts>) -> Result<Each<u32>, ConvertError> {
    let proto::Parts { requests, input_tokens, output_tokens, calls } =
        required("slices.parts", parts)?;
    Ok([within(requests)?, within(input_tokens)?, within(output_tokens)?, within(calls)?])
}

/// Nobody has more than all of a limit.
const fn within(parts: u32) -> Result<u32, ConvertError> {
    if parts > PARTS {
        return Err(ConvertError::Parts { field: "slices.parts", parts });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(tenant: &str) -> proto::TenantSpend {
        proto::TenantSpend {
            tenant: tenant.to_owned(),
            used: Some(proto::Parts { requests: 1, input_tokens: 2, output_tokens: 3, calls: 4 }),
            short: Some(proto::tenant_spend::Short { calls: true, ..Default::default() }),
            calls_over: PARTS,
        }
    }

    fn said(tenants: Vec<proto::TenantSpend>) -> proto::Spends {
        proto::Spends { epoch: 7, tenants, reached: None }
    }

    #[test]
    fn what_is_used_is_read_limit_by_limit() {
        let spends = spends_from(said(vec![used("a/b")])).unwrap();
        let is_short = [false, false, false, true];
        let expected = Use { used: [1, 2, 3, 4], is_short, calls_over: PARTS };
        let tenant = Name::new("a", "b").unwrap();
        let tenants = [(tenant, expected)].into();
        assert_eq!(spends, Spends { epoch: 7, tenants, reached: None });
    }

    #[test]
    fn an_agent_that_tells_of_no_limit_is_not_one_that_says_none_is_reached() {
        let reached = |tenants| {
            let reached = Some(proto::Reached { tenants });
            spends_from(proto::Spends { reached, ..said(Vec::new()) }).map(|spends| spends.reached)
        };
        assert_eq!(spends_from(said(Vec::new())).unwrap().reached, None);
        assert_eq!(reached(Vec::new()).unwrap(), Some(BTreeMap::new()));
        let tenant = "a/b".to_owned();
        let it = proto::TenantReached { tenant, output_tokens: true, ..<_>::default() };
        let limits = [false, false, true, false, false, false];
        let expected = [(Name::new("a", "b").unwrap(), limits)].into();
        assert_eq!(reached(vec![it.clone()]).unwrap(), Some(expected));
        let error = reached(vec![it.clone(), it]).unwrap_err().to_string();
        assert!(error.contains("`spends.reached.tenant` holds `a/b` twice"), "{error}");
    }

    #[test]
    fn uses_that_say_nonsense_are_refused_by_their_field() {
        let check = |tenants: Vec<proto::TenantSpend>, expected: &str| {
            let error = spends_from(said(tenants)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
        };
        check(vec![used("b")], "not of the form namespace/name");
        check(vec![used("a/b"), used("a/b")], "`spends.tenant` holds `a/b` twice");
        check(vec![proto::TenantSpend { short: None, ..used("a/b") }], "`spends.short` is missing");
        let more = proto::TenantSpend { calls_over: PARTS.saturating_add(1), ..used("a/b") };
        check(vec![more], "1048577 parts of a limit, which has 1048576");
    }
}
