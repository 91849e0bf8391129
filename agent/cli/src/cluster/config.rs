//! Which cluster, from the arguments, the kubeconfig, or the Pod that this runs in.

use std::{env, io, time::Duration};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::ClusterError;
use crate::args::ClusterArgs;

/// How long the API server may take to be connected to: many times a round trip across the world.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long it may take to answer: half of what it gives a request itself.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

pub(super) async fn find(args: &ClusterArgs) -> Result<Config, ClusterError> {
    let ClusterArgs { cluster: _, context, kubeconfig } = args;
    let read = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let mut config = match read {
        Ok(found) => of_kubeconfig(found, context.as_deref()).await?,
        // Inside a Pod there is no kubeconfig, and a ServiceAccount in its place.
        Err(error) if is_absent(&error) && kubeconfig.is_none() && context.is_none() => {
            Config::incluster().map_err(|_| ClusterError::NoKubeconfig { looked: looked() })?
        }
        Err(error) if is_absent(&error) => {
            let path = kubeconfig.as_ref().map(|path| path.display().to_string());
            return Err(ClusterError::NoKubeconfig { looked: path.unwrap_or_else(looked) });
        }
        Err(source) => return Err(ClusterError::Kubeconfig { source: Box::new(source) }),
    };
    config.connect_timeout = Some(CONNECT_WAIT_MAX);
    config.read_timeout = Some(ANSWER_WAIT_MAX);
    // Else the time that a connection lay unused would count.
    config.reset_reader_on_write = true;
    Ok(config)
}

async fn of_kubeconfig(
    kubeconfig: Kubeconfig,
    context: Option<&str>,
) -> Result<Config, ClusterError> {
    let mut known: Vec<String> =
        kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    known.sort();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let options =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| match error {
        KubeconfigError::CurrentContextNotSet => ClusterError::NoCurrentContext { known },
        KubeconfigError::LoadContext(context) => ClusterError::NoContext { context, known },
        source => ClusterError::Kubeconfig { source: Box::new(source) },
    })
}

fn is_absent(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.kind() == io::ErrorKind::NotFound,
        KubeconfigError::FindPath => true,
        _ => false,
    }
}

/// Where a kubeconfig was looked for.
fn looked() -> String {
    match env::var("KUBECONFIG") {
        Ok(paths) if !paths.is_empty() => paths,
        _ => "~/.kube/config".to_owned(),
    }
}
