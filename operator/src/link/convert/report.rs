//! What an agent holds, and what its ledger does not.

use realm_plan::{SequenceBlocks, desired::Stage};
use realm_proto::link::v1 as proto;

use super::{ConvertError, all, digest_from, named, reason_from, required, text_from, unique};
use crate::link::report::{
    Failure, MemoryFacts, ModelFacts, ModelPhase, ModelReport, Phase, PipelineReport, Refused,
    Report, TenantReport,
};

pub(in crate::link) fn report_from(report: proto::Report) -> Result<Report, ConvertError> {
    let proto::Report { generation, models, tenants, pipelines } = report;
    let models = all(models, model_from)?;
    let tenants = all(tenants, tenant_from)?;
    let pipelines = all(pipelines, pipeline_from)?;
    unique("report.models.name", models.iter().map(|model| &model.name))?;
    unique("report.tenants.name", tenants.iter().map(|tenant| &tenant.name))?;
    unique("report.pipelines.name", pipelines.iter().map(|pipeline| &pipeline.name))?;
    Ok(Report { generation, models, tenants, pipelines })
}

pub(in crate::link) fn refused_from(refused: proto::Refused) -> Result<Refused, ConvertError> {
    let proto::Refused { generation, reason, message } = refused;
    let failure = Failure {
        reason: reason_from("refused.reason", reason)?,
        message: text_from("refused.message", message)?,
    };
    Ok(Refused { generation, failure })
}

fn model_from(model: proto::ModelReport) -> Result<ModelReport, ConvertError> {
    let proto::ModelReport { name, phase, facts, stage, kv_blocks } = model;
    let phase = match required("report.models.phase", phase)? {
        proto::model_report::Phase::Pending(proto::Pending {}) => ModelPhase::Pending,
        proto::model_report::Phase::Fetching(proto::model_report::Fetching {
            bytes_done,
            bytes_total,
        }) => ModelPhase::Fetching { bytes_done, bytes_total },
        proto::model_report::Phase::Loading(proto::model_report::Loading {}) => ModelPhase::Loading,
        proto::model_report::Phase::Ready(proto::Ready {}) => ModelPhase::Ready,
        proto::model_report::Phase::Failed(failure) => ModelPhase::Failed(failure_from(failure)?),
    };
    Ok(ModelReport {
        name: named("report.models.name", &name)?,
        phase,
        stage: stage_from(stage)?,
        kv_blocks,
        facts: facts.map(facts_from).transpose()?,
    })
}

fn tenant_from(tenant: proto::TenantReport) -> Result<TenantReport, ConvertError> {
    let proto::TenantReport { name, phase, program_sha256 } = tenant;
    let phase = match required("report.tenants.phase", phase)? {
        proto::tenant_report::Phase::Pending(proto::Pending {}) => Phase::Pending,
        proto::tenant_report::Phase::Ready(proto::Ready {}) => Phase::Ready,
        proto::tenant_report::Phase::Failed(failure) => Phase::Failed(failure_from(failure)?),
    };
    let digest = |bytes: Vec<u8>| digest_from("report.tenants.program_sha256", &bytes);
    Ok(TenantReport {
        name: named("report.tenants.name", &name)?,
        phase,
        program: program_sha256.map(digest).transpose()?,
    })
}

fn pipeline_from(pipeline: proto::PipelineReport) -> Result<PipelineReport, ConvertError> {
    let proto::PipelineReport { name, phase } = pipeline;
    let phase = match required("report.pipelines.phase", phase)? {
        proto::pipeline_report::Phase::Pending(proto::Pending {}) => Phase::Pending,
        proto::pipeline_report::Phase::Ready(proto::Ready {}) => Phase::Ready,
        proto::pipeline_report::Phase::Failed(failure) => Phase::Failed(failure_from(failure)?),
    };
    Ok(PipelineReport { name: named("report.pipelines.name", &name)?, phase })
}

fn failure_from(failure: proto::Failure) -> Result<Failure, ConvertError> {
    let proto::Failure { reason, message } = failure;
    Ok(Failure {
        reason: reason_from("failure.reason", reason)?,
        message: text_from("failure.message", message)?,
    })
}

fn facts_from(facts: proto::ModelFacts) -> Result<ModelFacts, ConvertError> {
    let proto::ModelFacts {
        architecture,
        parameters,
        format,
        context,
        licence,
        weights_bytes,
        sha256,
        memory,
    } = facts;
    Ok(ModelFacts {
        architecture: text_from("facts.architecture", architecture)?,
        parameters,
        format: text_from("facts.format", format)?,
        context,
        licence: licence.map(|licence| text_from("facts.licence", licence)).transpose()?,
        weights_bytes,
        sha256: sha256.map(|bytes| digest_from("facts.sha256", &bytes)).transpose()?,
        memory: memory.map(memory_from).transpose()?,
    })
}

fn memory_from(memory: proto::MemoryFacts) -> Result<MemoryFacts, ConvertError> {
    let proto::MemoryFacts {
        kv_bytes_per_block,
        activation_bytes,
        kv_blocks_per_sequence,
        sequence_blocks,
    } = memory;
    let of_one_kind = |windowed_max| SequenceBlocks { bands: 1, whole: 0, windowed_max };
    let kv_blocks_per_sequence = match sequence_blocks {
        None => kv_blocks_per_sequence.map(of_one_kind),
        Some(proto::SequenceBlocks { bands, whole, windowed_max }) => {
            if whole == 0 || whole >= bands {
                return Err(ConvertError::Bands { whole, bands });
            }
            Some(SequenceBlocks { bands, whole, windowed_max })
        }
    };
    Ok(MemoryFacts { kv_bytes_per_block, activation_bytes, kv_blocks_per_sequence })
}

/// How far a node is; nothing before the first stage is reached.
fn stage_from(value: i32) -> Result<Option<Stage>, ConvertError> {
    match proto::Stage::try_from(value) {
        Ok(proto::Stage::Unspecified) => Ok(None),
        Ok(proto::Stage::Inspect) => Ok(Some(Stage::Inspect)),
        Ok(proto::Stage::Prefetch) => Ok(Some(Stage::Prefetch)),
        Ok(proto::Stage::Load) => Ok(Some(Stage::Load)),
        Err(_) => Err(ConvertError::UnknownValue { field: "report.models.stage", value }),
    }
}
