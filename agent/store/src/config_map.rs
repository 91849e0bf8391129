//! An entry of a ConfigMap: brought whole by whoever reads it for this node.

use realm_core::config_maps::{ConfigMaps, WantedEntry};

use crate::{
    error::SourceError,
    options::{Site, StoreOptions},
    partial::Partial,
    store::{Owner, Stored},
};

/// The way to ask, if the owner of an artifact has one.
pub(crate) fn way<'a>(
    owner: &'a Owner,
    options: &StoreOptions,
) -> Result<&'a ConfigMaps, SourceError> {
    owner.config_maps.as_ref().ok_or(SourceError::NotAllowed {
        why: match options.site {
            Site::OneMachine => "configmap:// is for a cluster; one machine has file://",
            Site::Cluster => "configmap:// is for programs of tenants",
        },
    })
}

/// Brings the entry that the source `text` names into `partial` and finishes it.
pub(crate) async fn fetch(
    text: &str,
    partial: &Partial,
    owner: &Owner,
    options: &StoreOptions,
) -> Result<Stored, SourceError> {
    let wanted = WantedEntry {
        namespace: owner.namespace.clone(),
        source: text.to_owned(),
        sha256: partial.expected(),
    };
    let read = way(owner, options)?.read(wanted).await;
    let content = read.map_err(SourceError::ConfigMap)?;
    let (bytes, bytes_max) = (content.len() as u64, options.bytes_max);
    if bytes > bytes_max {
        return Err(SourceError::TooLarge { bytes, bytes_max });
    }
    // It is whole, whatever another mirror had begun.
    partial.empty().await?;
    partial.append(content, None).await?;
    partial.finish().await
}
