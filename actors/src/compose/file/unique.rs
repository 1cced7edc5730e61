//! Lists in which the same is said twice, by a file and the one over it: the last stands in the place of the first.

use std::collections::HashMap;
use std::hash::Hash;

use super::project::Project;

/// Keeps one entry for each key.
fn unique<T, K: Eq + Hash>(list: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut places: HashMap<K, usize> = HashMap::new();
    let mut kept: Vec<T> = Vec::with_capacity(list.len());
    for item in list.drain(..) {
        match places.get(&key(&item)) {
            Some(place) => kept[*place] = item,
            None => {
                places.insert(key(&item), kept.len());
                kept.push(item);
            }
        }
    }
    *list = kept;
}

/// Makes every list of the services hold everything once.
pub(super) fn enforce(project: &mut Project) {
    let text = |text: &String| text.clone();
    // Options such as `timeout:2` and mounts such as `/run:size=1m` are one by what stands before their value.
    let name = |text: &String| text.split('=').next().unwrap_or("").to_owned();
    for service in project.services.values_mut() {
        unique(&mut service.volumes, |mount| mount.target.clone());
        unique(&mut service.devices, |device| device.target.clone());
        for list in [&mut service.cap_add, &mut service.cap_drop, &mut service.profiles, &mut service.links] {
            unique(list, text);
        }
        for list in [&mut service.dns.0, &mut service.dns_search.0, &mut service.dns_opt, &mut service.tmpfs.0] {
            unique(list, name);
        }
        unique(&mut service.expose, |port| port.0.clone());
        unique(&mut service.env_file.0, |file| file.path.0.clone());
        for (list, prefix) in [(&mut service.secrets.0, "/run/secrets/"), (&mut service.configs.0, "/")] {
            unique(list, |grant| match &grant.target {
                Some(target) if target.starts_with('/') => target.clone(),
                Some(target) => format!("{prefix}{target}"),
                None => format!("{prefix}{}", grant.source),
            });
        }
        if let Some(networks) = &mut service.networks {
            networks.0.values_mut().for_each(|network| unique(&mut network.aliases, text));
        }
    }
}
