//! Who an agent is and what its node has.

use std::net::SocketAddr;

use realm_proto::link::{v1 as proto, versions::Versions};

use super::{ConvertError, all, named, required, text_from, unique};
use crate::link::supply::{
    Device, DeviceKind, HeldCalls, Hello, ModelLoad, Supply, TenantUse, Used,
};

pub(in crate::link) fn hello_from(hello: proto::Hello) -> Result<Hello, ConvertError> {
    let proto::Hello { node, agent_version, boot_id, generation, supply, link_oldest, link_newest } =
        hello;
    Ok(Hello {
        node: said("hello.node", node)?,
        agent_version: said("hello.agent_version", agent_version)?,
        boot_id: said("hello.boot_id", boot_id)?,
        generation,
        supply: supply_from(required("hello.supply", supply)?)?,
        link: Versions::said(link_oldest, link_newest),
    })
}

pub(in crate::link) fn supply_from(supply: proto::Supply) -> Result<Supply, ConvertError> {
    let proto::Supply {
        memory_bytes_total,
        memory_bytes_free,
        devices,
        door_address,
        peer_address,
        models,
        is_draining,
        held,
    } = supply;
    let devices = devices.into_iter().map(device_from).filter_map(Result::transpose);
    let devices: Vec<Device> = devices.collect::<Result<_, _>>()?;
    let models = all(models, load_from)?;
    let held = all(held, held_from)?;
    unique("supply.devices.name", devices.iter().map(|device| device.name.as_str()))?;
    unique("supply.models.model", models.iter().map(|load| &load.model))?;
    unique("supply.held.model", held.iter().map(|held| &held.model))?;
    let address = |field, text: Option<String>| text.map(|text| address_from(field, &text));
    Ok(Supply {
        memory_bytes_total,
        memory_bytes_free,
        devices,
        door: address("supply.door_address", door_address).transpose()?,
        peer: address("supply.peer_address", peer_address).transpose()?,
        is_draining,
        models,
        held,
    })
}

/// None where it is of a kind that this operator does not know: an agent of a newer one says what
/// it has before it knows to whom. Nothing is placed there, and nothing else is lost.
fn device_from(device: proto::Device) -> Result<Option<Device>, ConvertError> {
    let proto::Device { name, kind: value, product, memory_bytes_total, memory_bytes_free } =
        device;
    let field = "supply.devices.kind";
    let kind = match proto::DeviceKind::try_from(value) {
        Ok(proto::DeviceKind::Cpu) => DeviceKind::Cpu,
        Ok(proto::DeviceKind::Cuda) => DeviceKind::Cuda,
        Ok(proto::DeviceKind::Webgpu) => DeviceKind::WebGpu,
        Ok(proto::DeviceKind::Unspecified) => return Err(ConvertError::Missing { field }),
        Err(_) => return Ok(None),
    };
    Ok(Some(Device {
        name: said("supply.devices.name", name)?,
        kind,
        product: text_from("supply.devices.product", product)?,
        memory_bytes_total,
        memory_bytes_free,
    }))
}

fn load_from(load: proto::ModelLoad) -> Result<ModelLoad, ConvertError> {
    let proto::ModelLoad {
        model,
        sequences_queued,
        sequences_running,
        kv_blocks_used,
        kv_blocks_cached,
        kv_blocks_total,
        prompt_tokens_total,
        cached_tokens_total,
        generated_tokens_total,
        failed,
    } = load;
    Ok(ModelLoad {
        model: named("supply.models.model", &model)?,
        sequences_queued,
        sequences_running,
        kv_blocks_used,
        kv_blocks_cached,
        kv_blocks_total,
        prompt_tokens_total,
        cached_tokens_total,
        generated_tokens_total,
        failed,
    })
}

pub(in crate::link) fn uses_from(uses: proto::Uses) -> Result<Vec<TenantUse>, ConvertError> {
    let uses = all(uses.tenants, use_from)?;
    unique("uses.tenants.tenant", uses.iter().map(|of_tenant| &of_tenant.tenant))?;
    Ok(uses)
}

fn use_from(of_tenant: proto::TenantUse) -> Result<TenantUse, ConvertError> {
    let proto::TenantUse {
        tenant,
        epoch,
        prompt_tokens,
        cached_tokens,
        generated_tokens,
        device_ms,
        kv_block_ms,
        program_fuel,
    } = of_tenant;
    let used = Used {
        prompt_tokens,
        cached_tokens,
        generated_tokens,
        device_ms,
        kv_block_ms,
        program_fuel,
    };
    Ok(TenantUse { tenant: named("uses.tenants.tenant", &tenant)?, epoch, used })
}

fn held_from(held: proto::HeldCalls) -> Result<HeldCalls, ConvertError> {
    let proto::HeldCalls { model, calls } = held;
    if calls == 0 {
        return Err(ConvertError::Missing { field: "supply.held.calls" });
    }
    Ok(HeldCalls { model: named("supply.held.model", &model)?, calls })
}

/// A text that must be there.
fn said(field: &'static str, text: String) -> Result<String, ConvertError> {
    if text.is_empty() { Err(ConvertError::Missing { field }) } else { text_from(field, text) }
}

fn address_from(field: &'static str, text: &str) -> Result<SocketAddr, ConvertError> {
    text.parse().map_err(|source| ConvertError::Address { field, source })
}
