//! Operations on the containers of a project, whoever made them: by their labels alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    KillContainerOptions, RemoveContainerOptions, RemoveVolumeOptions, StopContainerOptions,
};
use tokio::sync::mpsc;

use super::Progress;
use super::error::{WorkflowError, is_conflict, is_missing};
use super::hub::Hub;
use super::observe::{Seen, containers, observe};

/// How long a container may take to stop that does not say.
const GRACE: u64 = 600;
/// How often a network that Docker still thinks in use is tried to be removed.
const NETWORK_TRIES: u32 = 20;
/// The pause between two tries.
const NETWORK_PAUSE: Duration = Duration::from_millis(100);
/// How long a kill waits for the end that it asked for.
const KILL_ANSWER: Duration = Duration::from_secs(5);

/// One piece of work on one project.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) docker: Docker,
    pub(crate) hub: Hub,
    pub(crate) project: String,
    pub(crate) progress: mpsc::UnboundedSender<Progress>,
    /// How long a service is waited for that others wait for.
    pub(crate) patience: Duration,
}

impl Work {
    /// Tells whoever listens; nobody need.
    pub(crate) fn tell(&self, name: &str, service: &str, state: &str, error: Option<String>) {
        let progress = Progress { name: name.into(), service: service.into(), state: state.into(), error };
        let _ = self.progress.send(progress);
    }

    /// The containers of these services, or of all.
    pub(crate) async fn containers(&self, services: &[String]) -> Result<Vec<Seen>, WorkflowError> {
        let mut list = containers(&self.docker, &self.hub, Some(&self.project)).await?;
        for name in services {
            if !list.iter().any(|seen| seen.container.service == *name) {
                let reason = format!("workflow `{}` has no containers of a service `{name}`", self.project);
                return Err(WorkflowError::State { reason });
            }
        }
        list.retain(|seen| services.is_empty() || services.contains(&seen.container.service));
        Ok(list)
    }

    pub(crate) async fn stop_container(&self, seen: &Seen, timeout: Option<u32>) -> Result<(), WorkflowError> {
        if !seen.is(&["running", "restarting", "paused"]) {
            return Ok(());
        }
        let container = &seen.container;
        self.tell(&container.name, &container.service, "stopping", None);
        self.hub.mark(&container.id, true).await;
        let _turn = self.hub.turn().await?;
        let grace = timeout.map_or(GRACE, u64::from) + 30;
        let docker = self.docker.clone().with_timeout(Duration::from_secs(grace));
        let options = StopContainerOptions { signal: None, t: timeout.and_then(|timeout| i32::try_from(timeout).ok()) };
        match docker.stop_container(&container.id, Some(options)).await {
            Ok(()) => {}
            Err(error) if is_conflict(&error) || is_missing(&error) => {}
            Err(error) => return Err(WorkflowError::docker(format!("stop the container `{}`", container.name), error)),
        }
        self.tell(&container.name, &container.service, "stopped", None);
        Ok(())
    }

    pub(crate) async fn remove_container(&self, seen: &Seen, volumes: bool) -> Result<(), WorkflowError> {
        let container = &seen.container;
        let _turn = self.hub.turn().await?;
        let options = RemoveContainerOptions { v: volumes, force: true, link: false };
        match self.docker.remove_container(&container.id, Some(options)).await {
            Ok(()) => {}
            Err(error) if is_missing(&error) || is_conflict(&error) => {}
            Err(error) => {
                return Err(WorkflowError::docker(format!("remove the container `{}`", container.name), error));
            }
        }
        self.tell(&container.name, &container.service, "removed", None);
        Ok(())
    }

    /// Does something to every container, those that nothing waits for first; returns the first failure by service.
    async fn each<F, R>(&self, levels: Vec<Vec<Seen>>, act: F) -> BTreeMap<String, String>
    where
        F: Fn(Seen) -> R,
        R: Future<Output = Result<(), WorkflowError>>,
    {
        let mut failures = BTreeMap::new();
        for level in levels {
            let all = level.into_iter().map(|seen| {
                let (service, name) = (seen.container.service.clone(), seen.container.name.clone());
                let done = act(seen);
                async move { (service, name, done.await) }
            });
            for (service, name, done) in futures_util::future::join_all(all).await {
                if let Err(error) = done {
                    self.tell(&name, &service, "failed", Some(error.to_string()));
                    failures.entry(service).or_insert_with(|| error.to_string());
                }
            }
        }
        failures
    }

    pub(crate) async fn stop(
        &self,
        services: &[String],
        timeout: Option<u32>,
    ) -> Result<BTreeMap<String, String>, WorkflowError> {
        let list = self.containers(services).await?;
        let mut levels = levels(list);
        levels.reverse();
        Ok(self.each(levels, |seen| async move { self.stop_container(&seen, timeout).await }).await)
    }

    /// Starts what is there, whoever made it, in the order of dependencies.
    pub(crate) async fn start_present(&self, services: &[String]) -> Result<BTreeMap<String, String>, WorkflowError> {
        let list = self.containers(services).await?;
        let start = |seen: Seen| async move {
            if seen.is(&["paused"]) || seen.runs() {
                return Ok(());
            }
            self.start_container(&seen.container.id, &seen.container.name, &seen.container.service).await
        };
        Ok(self.each(levels(list), start).await)
    }

    pub(crate) async fn pause(
        &self,
        services: &[String],
        pause: bool,
    ) -> Result<BTreeMap<String, String>, WorkflowError> {
        let (from, to, verb) = if pause { ("running", "paused", "pause") } else { ("paused", "running", "unpause") };
        let mut list = self.containers(services).await?;
        list.retain(|seen| seen.is(&[from]));
        if list.is_empty() {
            let reason = format!("nothing of workflow `{}` is {from}", self.project);
            return Err(WorkflowError::State { reason });
        }
        let act = |seen: Seen| async move {
            let container = &seen.container;
            let _turn = self.hub.turn().await?;
            let done = if pause {
                self.docker.pause_container(&container.id).await
            } else {
                self.docker.unpause_container(&container.id).await
            };
            done.map_err(|error| WorkflowError::docker(format!("{verb} the container `{}`", container.name), error))?;
            self.tell(&container.name, &container.service, to, None);
            Ok(())
        };
        Ok(self.each(vec![list], act).await)
    }

    pub(crate) async fn kill(
        &self,
        services: &[String],
        signal: i32,
    ) -> Result<BTreeMap<String, String>, WorkflowError> {
        let mut list = self.containers(services).await?;
        list.retain(|seen| seen.is(&["running", "restarting", "paused"]));
        if list.is_empty() {
            let reason = format!("nothing of workflow `{}` is running", self.project);
            return Err(WorkflowError::State { reason });
        }
        let act = |seen: Seen| async move {
            let container = &seen.container;
            let ends = matches!(signal, libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGQUIT);
            if ends {
                self.hub.mark(&container.id, true).await;
            }
            let _turn = self.hub.turn().await?;
            let mut events = self.hub.events();
            let options = KillContainerOptions { signal: signal.to_string() };
            match self.docker.kill_container(&container.id, Some(options)).await {
                Ok(()) => {}
                Err(error) if is_conflict(&error) => return Ok(()),
                Err(error) => {
                    return Err(WorkflowError::docker(format!("kill the container `{}`", container.name), error));
                }
            }
            if signal == libc::SIGKILL {
                let ended = async {
                    loop {
                        match events.recv().await {
                            Ok(super::hub::DockerEvent::Container(happened))
                                if happened.id != container.id || happened.action != "die" => {}
                            _ => return,
                        }
                    }
                };
                let _ = tokio::time::timeout(KILL_ANSWER, ended).await;
            }
            self.tell(
                &container.name,
                &container.service,
                if signal == libc::SIGKILL { "killed" } else { "signalled" },
                None,
            );
            Ok(())
        };
        Ok(self.each(vec![list], act).await)
    }

    /// Removes containers and networks, and volumes if that is asked for.
    pub(crate) async fn remove(&self, volumes: bool, stop: bool) -> Result<BTreeMap<String, String>, WorkflowError> {
        let observed = observe(&self.docker, &self.hub, &self.project).await?;
        if !stop && observed.containers.iter().any(|seen| seen.is(&["running", "restarting", "paused"])) {
            let reason = format!("workflow `{}` is running; stop it first, or leave `stop` out", self.project);
            return Err(WorkflowError::State { reason });
        }
        let mut levels = levels(observed.containers);
        levels.reverse();
        let mut failures = self
            .each(levels, |seen| async move {
                self.stop_container(&seen, None).await?;
                self.remove_container(&seen, volumes).await
            })
            .await;
        for network in &observed.networks {
            if let Err(error) = self.remove_network(network).await {
                self.tell(network, "", "left", Some(error.to_string()));
                failures.insert(format!("network {network}"), error.to_string());
            }
        }
        for volume in observed.volumes.iter().filter(|_| volumes) {
            match self.docker.remove_volume(volume, None::<RemoveVolumeOptions>).await {
                Ok(()) => self.tell(volume, "", "removed", None),
                Err(error) if is_missing(&error) => {}
                Err(error) => {
                    let error = WorkflowError::docker(format!("remove the volume `{volume}`"), error);
                    failures.insert(format!("volume {volume}"), error.to_string());
                }
            }
        }
        Ok(failures)
    }

    /// Docker may think for a moment that a network of removed containers is in use.
    async fn remove_network(&self, network: &str) -> Result<(), WorkflowError> {
        let mut tries = 0;
        loop {
            match self.docker.remove_network(network).await {
                Ok(()) => {
                    self.tell(network, "", "removed", None);
                    return Ok(());
                }
                Err(error) if is_missing(&error) => return Ok(()),
                Err(error) if tries == NETWORK_TRIES => {
                    return Err(WorkflowError::docker(format!("remove the network `{network}`"), error));
                }
                Err(_) => tokio::time::sleep(NETWORK_PAUSE).await,
            }
            tries += 1;
        }
    }
}

/// Containers in the order of dependencies: each level waits only for those before it.
fn levels(mut list: Vec<Seen>) -> Vec<Vec<Seen>> {
    let mut levels = Vec::new();
    while !list.is_empty() {
        let left: BTreeSet<String> = list.iter().map(|seen| seen.container.service.clone()).collect();
        let (mut ready, rest): (Vec<Seen>, Vec<Seen>) = list.into_iter().partition(|seen| {
            !seen.depends_on.iter().any(|other| left.contains(other) && *other != seen.container.service)
        });
        list = rest;
        if ready.is_empty() {
            // Labels of others that make a circle: all at once.
            ready = std::mem::take(&mut list);
        }
        levels.push(ready);
    }
    levels
}
