//! What this node has.

use realm_core::{
    books::Used,
    engine::EngineLoad,
    supply::{Device, DeviceKind, HeldCalls, ModelLoad, Supply},
    uses::TenantUse,
};
use realm_proto::link::v1 as proto;

use super::report::cut;

pub(crate) fn supply_to(supply: &Supply) -> proto::Supply {
    let Supply {
        memory_bytes_total,
        memory_bytes_free,
        devices,
        door,
        peer,
        is_draining,
        models,
        held,
    } = supply;
    proto::Supply {
        memory_bytes_total: *memory_bytes_total,
        memory_bytes_free: *memory_bytes_free,
        devices: devices.iter().map(device_to).collect(),
        door_address: door.map(|address| address.to_string()),
        peer_address: peer.map(|address| address.to_string()),
        models: models.iter().map(load_to).collect(),
        is_draining: *is_draining,
        held: held.iter().map(held_to).collect(),
    }
}

fn device_to(device: &Device) -> proto::Device {
    let Device { name, kind, product, memory_bytes_total, memory_bytes_free } = device;
    let kind = match kind {
        DeviceKind::Cpu => proto::DeviceKind::Cpu,
        DeviceKind::Cuda => proto::DeviceKind::Cuda,
        DeviceKind::WebGpu => proto::DeviceKind::Webgpu,
    };
    proto::Device {
        name: cut(name),
        kind: kind.into(),
        product: cut(product),
        memory_bytes_total: *memory_bytes_total,
        memory_bytes_free: *memory_bytes_free,
    }
}

/// Nanoseconds of one millisecond.
const NS_PER_MS: u128 = 1_000_000;

/// What tenants have used, for the operator.
pub(crate) fn uses_to(uses: &[TenantUse]) -> proto::Uses {
    proto::Uses { tenants: uses.iter().map(use_to).collect() }
}

fn use_to(of_tenant: &TenantUse) -> proto::TenantUse {
    let TenantUse { tenant, epoch, used, fuel } = of_tenant;
    let Used { prompt_tokens, cached_tokens, generated_tokens, device_ns, block_ns } = *used;
    let ms = |ns: u128| u64::try_from(ns.div_euclid(NS_PER_MS)).unwrap_or(u64::MAX);
    proto::TenantUse {
        tenant: tenant.to_string(),
        epoch: *epoch,
        prompt_tokens,
        cached_tokens,
        generated_tokens,
        device_ms: ms(device_ns.into()),
        kv_block_ms: ms(block_ns),
        program_fuel: *fuel,
    }
}

fn load_to(load: &ModelLoad) -> proto::ModelLoad {
    let ModelLoad { model, load } = load;
    let EngineLoad {
        sequences_queued,
        sequences_running,
        kv_blocks_used,
        kv_blocks_cached,
        kv_blocks_total,
        prompt_tokens_total,
        cached_tokens_total,
        generated_tokens_total,
        failed,
    } = *load;
    proto::ModelLoad {
        model: model.as_str().to_owned(),
        sequences_queued,
        sequences_running,
        kv_blocks_used,
        kv_blocks_cached,
        kv_blocks_total,
        prompt_tokens_total,
        cached_tokens_total,
        generated_tokens_total,
        failed,
    }
}

fn held_to(held: &HeldCalls) -> proto::HeldCalls {
    let HeldCalls { model, calls } = held;
    proto::HeldCalls { model: model.as_str().to_owned(), calls: *calls }
}
