//! What `realm serve` serves when no folder is named: a tenant, the default model, a pipeline.

use std::{fs, io, path::Path};

use anyhow::Context as _;

use crate::keys::{KeyFile, NewKey};

/// The manifests by file name.
pub(crate) const MANIFESTS: [(&str, &str); 3] = [
    (MODEL_FILE, MODEL),
    ("pipeline-digest.yaml", include_str!("../../../deploy/samples/pipeline-digest.yaml")),
    ("tenant-sample.yaml", TENANT),
];

/// The file of the default model.
pub(crate) const MODEL_FILE: &str = "model-smollm2.yaml";

/// The default model.
pub(crate) const MODEL: &str = include_str!("../../../deploy/samples/model-smollm2.yaml");

/// The sample tenant.
pub(crate) const TENANT: &str = include_str!("../../../deploy/samples/tenant-sample.yaml");

/// The tenant's namespace and the Secret its manifest names.
pub(crate) const NAMESPACE: &str = "default";
pub(crate) const SECRET: &str = "sample-keys";

/// The name of the key that each start makes anew.
const KEY_NAME: &str = "serve";

/// Lays the sample out in `folder`, leaving files that are there as they are.
pub(crate) fn lay_out(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, text) in MANIFESTS {
        let path = folder.join(name);
        match fs::File::create_new(&path) {
            Ok(mut file) => io::Write::write_all(&mut file, text.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
        .with_context(|| format!("write {}", path.display()))?;
    }
    // Its keys come later, and a Secret that is not there would be the first thing complained of.
    if !folder.join(KeyFile::name(NAMESPACE, SECRET)).exists() {
        KeyFile::open(folder, NAMESPACE, SECRET)?.save()?;
    }
    Ok(())
}

/// Makes a key for the sample's tenant, in place of the one that the last start made: only digests
/// are kept, so that one cannot be shown again.
pub(crate) fn new_key(folder: &Path) -> anyhow::Result<NewKey> {
    let key = NewKey::generate()?;
    let mut file = KeyFile::open(folder, NAMESPACE, SECRET)?;
    file.replace(KEY_NAME, key.entry(None));
    file.save()?;
    Ok(key)
}
