//! A model as protobuf and back: what it is, what it is beside, and how far to go with it.

use realm_core::{
    desired::{Accelerator, DesiredModel, KvCache, Stage},
    name::ModelName,
};
use realm_proto::link::v1 as proto;

use super::{ConvertError, artifact_from, artifact_to, named, required};

pub(super) fn model_to(model: &DesiredModel) -> proto::Model {
    let DesiredModel {
        name,
        artifact,
        secret,
        base,
        context,
        kv_blocks,
        kv_cache,
        accelerator,
        stage,
    } = model;
    let stage = match stage {
        Stage::Inspect => proto::Stage::Inspect,
        Stage::Prefetch => proto::Stage::Prefetch,
        Stage::Load => proto::Stage::Load,
    };
    let accelerator = match accelerator {
        Accelerator::Any => proto::Accelerator::Any,
        Accelerator::Cpu => proto::Accelerator::Cpu,
        Accelerator::Cuda => proto::Accelerator::Cuda,
        Accelerator::WebGpu => proto::Accelerator::Webgpu,
    };
    let kv_cache = match kv_cache {
        KvCache::F16 => proto::KvCache::F16,
        KvCache::Q8_0 => proto::KvCache::Q80,
    };
    proto::Model {
        name: name.as_str().to_owned(),
        artifact: Some(artifact_to(artifact)),
        context: *context,
        kv_blocks: *kv_blocks,
        stage: stage.into(),
        accelerator: accelerator.into(),
        secret: secret.clone(),
        kv_cache: kv_cache.into(),
        base: base.as_ref().map(|base| base.as_str().to_owned()),
    }
}

pub(super) fn model_from(model: proto::Model) -> Result<DesiredModel, ConvertError> {
    let proto::Model {
        name,
        artifact,
        context,
        kv_blocks,
        stage,
        accelerator,
        secret,
        kv_cache,
        base,
    } = model;
    Ok(DesiredModel {
        name: named("model.name", &name, ModelName::parse)?,
        artifact: artifact_from(required("model.artifact", artifact)?)?,
        secret,
        base: base.map(|base| named("model.base", &base, ModelName::parse)).transpose()?,
        context,
        kv_blocks,
        kv_cache: kv_cache_from(kv_cache)?,
        accelerator: accelerator_from(accelerator)?,
        stage: stage_from(stage)?,
    })
}

fn stage_from(value: i32) -> Result<Stage, ConvertError> {
    let field = "model.stage";
    match proto::Stage::try_from(value) {
        Ok(proto::Stage::Inspect) => Ok(Stage::Inspect),
        Ok(proto::Stage::Prefetch) => Ok(Stage::Prefetch),
        Ok(proto::Stage::Load) => Ok(Stage::Load),
        Ok(proto::Stage::Unspecified) => Err(ConvertError::Missing { field }),
        Err(prost::UnknownEnumValue(value)) => Err(ConvertError::UnknownValue { field, value }),
    }
}

fn accelerator_from(value: i32) -> Result<Accelerator, ConvertError> {
    let field = "model.accelerator";
    match proto::Accelerator::try_from(value) {
        Ok(proto::Accelerator::Any) => Ok(Accelerator::Any),
        Ok(proto::Accelerator::Cpu) => Ok(Accelerator::Cpu),
        Ok(proto::Accelerator::Cuda) => Ok(Accelerator::Cuda),
        Ok(proto::Accelerator::Webgpu) => Ok(Accelerator::WebGpu),
        Ok(proto::Accelerator::Unspecified) => Err(ConvertError::Missing { field }),
        Err(prost::UnknownEnumValue(value)) => Err(ConvertError::UnknownValue { field, value }),
    }
}

fn kv_cache_from(value: i32) -> Result<KvCache, ConvertError> {
    match proto::KvCache::try_from(value) {
        Ok(proto::KvCache::Unspecified | proto::KvCache::F16) => Ok(KvCache::F16),
        Ok(proto::KvCache::Q80) => Ok(KvCache::Q8_0),
        Err(prost::UnknownEnumValue(value)) => {
            Err(ConvertError::UnknownValue { field: "model.kv_cache", value })
        }
    }
}
