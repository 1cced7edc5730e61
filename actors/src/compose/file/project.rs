//! What a compose file comes to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::forms::{Attachment, Attachments};
use super::model::{Content, Network, Service, Volume};
use super::report::Warning;

/// A compose file as it is run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Project {
    /// Its name.
    pub(crate) name: String,
    /// What relative paths are relative to.
    pub(crate) directory: PathBuf,
    /// What runs, profiles applied.
    pub(crate) services: BTreeMap<String, Service>,
    /// The networks that the services use.
    pub(crate) networks: BTreeMap<String, Network>,
    /// The volumes that the services use.
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// What only it may read; without the values.
    #[serde(serialize_with = "masked")]
    pub(crate) secrets: BTreeMap<String, Content>,
    /// What it reads.
    pub(crate) configs: BTreeMap<String, Content>,
}

fn masked<S: serde::Serializer>(secrets: &BTreeMap<String, Content>, serializer: S) -> Result<S::Ok, S::Error> {
    let masked = secrets.iter().map(|(name, secret)| {
        let content = secret.content.as_ref().map(|_| "***".to_owned());
        (name, Content { content, ..secret.clone() })
    });
    serializer.collect_map(masked)
}

/// A project, and what in its file is not honoured.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The project.
    pub(crate) project: Project,
    /// What is not as one may think.
    pub(crate) warnings: Vec<Warning>,
}

impl Project {
    /// How many containers a service has.
    pub(crate) fn scale(&self, service: &str) -> usize {
        let scale = self.services.get(service).map_or(0, |service| {
            let deployed = service.deploy.as_ref().and_then(|deploy| deploy.replicas);
            service.scale.or(deployed).unwrap_or(1)
        });
        usize::try_from(scale).unwrap_or(0)
    }
}

/// The networks of a service by name; none where it has a mode of its own.
pub(crate) fn attachments(service: &Service) -> Vec<(String, Attachment)> {
    match (&service.network_mode, &service.networks) {
        (Some(_), _) => Vec::new(),
        (None, Some(Attachments(networks))) if !networks.is_empty() => {
            let mut list: Vec<_> = networks.iter().map(|(name, network)| (name.clone(), network.clone())).collect();
            // The first is the one that the container is created with.
            list.sort_by_key(|(_, network)| std::cmp::Reverse(network.priority.unwrap_or(0)));
            list
        }
        (None, _) => vec![("default".into(), Attachment::default())],
    }
}
