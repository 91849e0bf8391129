//! What this node holds.

use realm_core::{
    desired::Stage,
    report::{
        Failure, MemoryFacts, ModelFacts, ModelPhase, ModelReport, Phase, PipelineReport, Report,
        SequenceBlocks, TenantReport,
    },
};
use realm_proto::link::{TEXT_BYTES_MAX, v1 as proto};

pub(crate) fn report_to(report: &Report) -> proto::Report {
    let Report { generation, models, tenants, pipelines } = report;
    proto::Report {
        generation: *generation,
        models: models.iter().map(model_to).collect(),
        tenants: tenants.iter().map(tenant_to).collect(),
        pipelines: pipelines.iter().map(pipeline_to).collect(),
    }
}

fn model_to(model: &ModelReport) -> proto::ModelReport {
    let ModelReport { name, phase, stage, kv_blocks, facts } = model;
    let stage = match stage {
        None => proto::Stage::Unspecified,
        Some(Stage::Inspect) => proto::Stage::Inspect,
        Some(Stage::Prefetch) => proto::Stage::Prefetch,
        Some(Stage::Load) => proto::Stage::Load,
    };
    let phase = match phase {
        ModelPhase::Pending => proto::model_report::Phase::Pending(proto::Pending {}),
        ModelPhase::Fetching { bytes_done, bytes_total } => {
            let (bytes_done, bytes_total) = (*bytes_done, *bytes_total);
            let fetching = proto::model_report::Fetching { bytes_done, bytes_total };
            proto::model_report::Phase::Fetching(fetching)
        }
        ModelPhase::Loading => proto::model_report::Phase::Loading(proto::model_report::Loading {}),
        ModelPhase::Ready => proto::model_report::Phase::Ready(proto::Ready {}),
        ModelPhase::Failed(failure) => proto::model_report::Phase::Failed(failure_to(failure)),
    };
    proto::ModelReport {
        name: name.as_str().to_owned(),
        phase: Some(phase),
        facts: facts.as_ref().map(facts_to),
        stage: stage.into(),
        kv_blocks: *kv_blocks,
    }
}

fn tenant_to(tenant: &TenantReport) -> proto::TenantReport {
    let TenantReport { name, phase, program } = tenant;
    let phase = match phase {
        Phase::Pending => proto::tenant_report::Phase::Pending(proto::Pending {}),
        Phase::Ready => proto::tenant_report::Phase::Ready(proto::Ready {}),
        Phase::Failed(failure) => proto::tenant_report::Phase::Failed(failure_to(failure)),
    };
    proto::TenantReport {
        name: name.as_str().to_owned(),
        phase: Some(phase),
        program_sha256: program.map(|digest| digest.0.to_vec()),
    }
}

fn pipeline_to(pipeline: &PipelineReport) -> proto::PipelineReport {
    let PipelineReport { name, phase } = pipeline;
    let phase = match phase {
        Phase::Pending => proto::pipeline_report::Phase::Pending(proto::Pending {}),
        Phase::Ready => proto::pipeline_report::Phase::Ready(proto::Ready {}),
        Phase::Failed(failure) => proto::pipeline_report::Phase::Failed(failure_to(failure)),
    };
    proto::PipelineReport { name: name.as_str().to_owned(), phase: Some(phase) }
}

pub(crate) fn failure_to(failure: &Failure) -> proto::Failure {
    let Failure { reason, message } = failure;
    proto::Failure { reason: (*reason).to_owned(), message: cut(message) }
}

fn facts_to(facts: &ModelFacts) -> proto::ModelFacts {
    let ModelFacts {
        architecture,
        parameters,
        format,
        context,
        licence,
        weights_bytes,
        sha256,
        memory,
    } = facts;
    proto::ModelFacts {
        // A file may say anything at any length.
        architecture: cut(architecture),
        parameters: *parameters,
        format: cut(format),
        context: *context,
        licence: licence.as_deref().map(cut),
        weights_bytes: *weights_bytes,
        sha256: sha256.map(|digest| digest.0.to_vec()),
        memory: memory.map(|memory| {
            let MemoryFacts { kv_bytes_per_block, activation_bytes, kv_blocks_per_sequence } =
                memory;
            let (kv_blocks_per_sequence, sequence_blocks) = held_to(kv_blocks_per_sequence);
            proto::MemoryFacts {
                kv_bytes_per_block,
                activation_bytes,
                kv_blocks_per_sequence,
                sequence_blocks,
            }
        }),
    }
}

/// What a sequence holds of its blocks: a number where all layers are alike, else the parts.
fn held_to(held: Option<SequenceBlocks>) -> (Option<u32>, Option<proto::SequenceBlocks>) {
    match held {
        None => (None, None),
        Some(SequenceBlocks { whole: 0, windowed_max, bands: _ }) => (Some(windowed_max), None),
        Some(SequenceBlocks { bands, whole, windowed_max }) => {
            (None, Some(proto::SequenceBlocks { bands, whole, windowed_max }))
        }
    }
}

/// As much of a text as the operator takes, in whole characters.
pub(super) fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use realm_core::name::{ModelName, PipelineName, TenantName};
    use realm_proto::link::AGENT_MESSAGE_BYTES_MAX;

    use super::*;

    #[test]
    fn a_text_is_cut_at_a_whole_character() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(600)), "é".repeat(512));
        assert_eq!(cut(&format!("x{}", "é".repeat(600))).len(), 1023);
    }

    #[test]
    fn a_thousand_tenants_that_have_all_failed_at_length_fit_in_a_message() {
        let long = "n".repeat(63);
        let name = |index: usize| format!("{long}/{index:0>63}");
        let failure = || Failure { reason: "ProgramFetchFailed", message: "é".repeat(4000) };
        let model = |index| ModelReport {
            name: ModelName::parse(&name(index)).unwrap(),
            phase: ModelPhase::Failed(failure()),
            stage: None,
            kv_blocks: None,
            facts: None,
        };
        let tenant = |index| TenantReport {
            name: TenantName::parse(&name(index)).unwrap(),
            phase: Phase::Failed(failure()),
            program: None,
        };
        let pipeline = |index| PipelineReport {
            name: PipelineName::parse(&name(index)).unwrap(),
            phase: Phase::Failed(failure()),
        };
        let report = Report {
            generation: u64::MAX,
            models: (0..200).map(model).collect(),
            tenants: (0..1000).map(tenant).collect(),
            pipelines: (0..100).map(pipeline).collect(),
        };
        let bytes = report_to(&report).encoded_len();
        assert!(bytes * 4 <= AGENT_MESSAGE_BYTES_MAX, "{bytes}");
    }
}
