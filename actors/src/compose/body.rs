//! A service as Docker takes it: the body of the call that creates a container, with the labels that Docker Compose writes.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountImageOptions,
    MountTmpfsOptions, MountType, MountVolumeOptions, PortBinding, ResourcesBlkioWeightDevice, ResourcesUlimits,
    RestartPolicy, RestartPolicyNameEnum, ThrottleDevice,
};
use sha2::{Digest, Sha256};

use super::file::Project;
use super::file::decode::Scalar;
use super::file::forms::{Attachment, BlockIo, Device, DeviceRequest, Grant, Rate, Restart, VolumeMount};
use super::file::model::{Content, Service};

/// The labels that both tools read.
pub(crate) mod label {
    pub(crate) const PROJECT: &str = "com.docker.compose.project";
    pub(crate) const SERVICE: &str = "com.docker.compose.service";
    pub(crate) const NUMBER: &str = "com.docker.compose.container-number";
    pub(crate) const ONEOFF: &str = "com.docker.compose.oneoff";
    pub(crate) const HASH: &str = "com.docker.compose.config-hash";
    pub(crate) const VERSION: &str = "com.docker.compose.version";
    pub(crate) const DEPENDS_ON: &str = "com.docker.compose.depends_on";
    pub(crate) const IMAGE: &str = "com.docker.compose.image";
    pub(crate) const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
    pub(crate) const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
    pub(crate) const NETWORK: &str = "com.docker.compose.network";
    pub(crate) const VOLUME: &str = "com.docker.compose.volume";
}

/// Which Compose wrote the same labels.
const COMPOSE_VERSION: &str = "2.40.3";

/// A file that is put into a container before it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Copied {
    pub(crate) path: String,
    pub(crate) content: String,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
}

/// A container that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) create: ContainerCreateBody,
    /// Networks that it is connected to after it was made: Docker before 25 takes one only when it makes it.
    pub(crate) later: Vec<(String, EndpointSettings)>,
    pub(crate) files: Vec<Copied>,
    /// Directories of the host that are made where they are missing: Docker refuses to mount what is not there.
    pub(crate) directories: Vec<String>,
}

fn restart_policy(restart: Restart) -> RestartPolicy {
    let (name, maximum_retry_count) = match restart {
        Restart::No => (RestartPolicyNameEnum::NO, None),
        Restart::Always => (RestartPolicyNameEnum::ALWAYS, None),
        Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        Restart::OnFailure(times) => (RestartPolicyNameEnum::ON_FAILURE, times),
    };
    RestartPolicy { name: Some(name), maximum_retry_count }
}

/// The name of a container.
pub(crate) fn container_name(project: &Project, service: &str, number: usize) -> String {
    let own = project.services.get(service).and_then(|service| service.container_name.clone());
    own.unwrap_or_else(|| format!("{}-{service}-{number}", project.name))
}

/// What a service's containers are made of, as one number: another number, another container.
pub(crate) fn config_hash(project: &Project, name: &str) -> String {
    let body = body(project, name, 0, "", &|service| format!("service:{service}"));
    let files: Vec<_> =
        body.files.iter().map(|file| (&file.path, &file.content, file.mode, file.uid, file.gid)).collect();
    let later: BTreeMap<_, _> = body.later.iter().map(|(name, endpoint)| (name, endpoint)).collect();
    let service = &project.services[name];
    // Files that are mounted count by what is in them: a new text is a new container.
    let mounted: Vec<_> = service
        .secrets
        .0
        .iter()
        .map(|grant| (grant, project.secrets.get(&grant.source)))
        .chain(service.configs.0.iter().map(|grant| (grant, project.configs.get(&grant.source))))
        .filter_map(|(_, content)| content?.file.as_ref().map(|file| std::fs::read(&file.0)))
        .map(Result::unwrap_or_default)
        .collect();
    let mut digest = Sha256::new();
    let json = serde_json::json!([body.create, later, files, mounted]);
    digest.update(sorted(&json).to_string());
    hex::encode(digest.finalize())
}

/// The same with the keys of every object in order, which maps of the Docker client do not keep.
fn sorted(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let ordered: BTreeMap<_, _> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            ordered.into_iter().collect()
        }
        serde_json::Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

fn scalars(map: &BTreeMap<String, Scalar>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

fn filled<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The body for one container; `namespace` says whose namespaces `service:…` means.
pub(crate) fn body(
    project: &Project,
    name: &str,
    number: usize,
    image_id: &str,
    namespace: &dyn Fn(&str) -> String,
) -> Body {
    let service = &project.services[name];
    let mode = |mode: &Option<String>| {
        mode.as_ref().map(|mode| match mode.strip_prefix("service:") {
            Some(service) => namespace(service),
            None => mode.clone(),
        })
    };
    let container = container_name(project, name, number);
    let mut endpoints: Vec<(String, EndpointSettings)> = super::file::attachments(service)
        .into_iter()
        .filter_map(|(key, attachment)| {
            let network = project.networks.get(&key)?.name.clone()?;
            Some((network, endpoint(name, &container, number, service, attachment)))
        })
        .collect();
    let first = (!endpoints.is_empty()).then(|| endpoints.remove(0));
    let (mounts, files) = mounts(project, service);
    let mut host = host_config(service);
    host.mounts = filled(mounts);
    host.network_mode = mode(&service.network_mode).or_else(|| first.as_ref().map(|(network, _)| network.clone()));
    host.ipc_mode = mode(&service.ipc);
    host.pid_mode = mode(&service.pid);
    host.volumes_from = filled(
        service
            .volumes_from
            .iter()
            .map(|from| match from.strip_prefix("container:") {
                Some(own) => own.to_owned(),
                None => {
                    let (service, access) = from.split_once(':').unwrap_or((from, "rw"));
                    let container = namespace(service);
                    format!("{}:{access}", container.strip_prefix("container:").unwrap_or(&container))
                }
            })
            .collect(),
    );
    let targets = service.ports.0.iter().map(|port| format!("{}/{}", port.target, port.protocol));
    let exposed =
        service.expose.iter().map(|port| if port.0.contains('/') { port.0.clone() } else { format!("{}/tcp", port.0) });
    let anonymous = service.volumes.iter().filter(|mount| mount.kind == "volume" && mount.source.is_none());
    let create = ContainerCreateBody {
        hostname: service.hostname.clone(),
        domainname: service.domainname.clone(),
        user: service.user.as_ref().map(|user| user.0.clone()),
        exposed_ports: filled(targets.chain(exposed).collect()),
        tty: Some(service.tty),
        open_stdin: Some(service.stdin_open),
        env: filled(service.environment.filled().iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: service.command.as_ref().map(|words| words.0.clone()),
        healthcheck: health(service),
        image: service.image.clone(),
        volumes: filled(anonymous.map(|mount| mount.target.clone()).collect()),
        working_dir: service.working_dir.clone(),
        entrypoint: service
            .entrypoint
            .as_ref()
            .map(|words| if words.0.is_empty() { vec![String::new()] } else { words.0.clone() }),
        labels: Some(labels(project, name, number, image_id)),
        stop_signal: service.stop_signal.clone(),
        stop_timeout: service.stop_grace_period.map(|grace| grace.0.max(0).div_euclid(1_000_000_000)),
        host_config: Some(host),
        networking_config: first.map(|(network, endpoint)| bollard::models::NetworkingConfig {
            endpoints_config: Some(HashMap::from([(network, endpoint)])),
        }),
        ..ContainerCreateBody::default()
    };
    let directories = service
        .volumes
        .iter()
        .filter(|mount| mount.create_host_path)
        .filter_map(|mount| mount.source.clone())
        .collect();
    Body { create, later: endpoints, files, directories }
}

fn labels(project: &Project, name: &str, number: usize, image_id: &str) -> HashMap<String, String> {
    let service = &project.services[name];
    let mut labels: HashMap<String, String> = service.labels.filled().into_iter().collect();
    let depends_on = service
        .depends_on
        .0
        .iter()
        .map(|(name, dependency)| format!("{name}:{}:{}", dependency.condition, dependency.restart))
        .collect::<Vec<_>>()
        .join(",");
    let directory = project.directory.display();
    for (key, value) in [
        (label::PROJECT, project.name.clone()),
        (label::SERVICE, name.to_owned()),
        (label::NUMBER, number.to_string()),
        (label::ONEOFF, "False".into()),
        (label::VERSION, COMPOSE_VERSION.into()),
        (label::DEPENDS_ON, depends_on),
        (label::WORKING_DIR, directory.to_string()),
        (label::CONFIG_FILES, format!("{directory}/compose.yaml")),
        (label::IMAGE, image_id.to_owned()),
    ] {
        labels.insert(key.into(), value);
    }
    labels
}

/// The labels of a network (`label::NETWORK`) or volume (`label::VOLUME`).
pub(crate) fn resource_labels(
    project: &Project,
    kind: &str,
    name: &str,
    own: &super::file::forms::Pairs,
) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = own.filled().into_iter().collect();
    labels.insert(label::PROJECT.into(), project.name.clone());
    labels.insert(kind.into(), name.into());
    labels.insert(label::VERSION.into(), COMPOSE_VERSION.into());
    labels
}

fn endpoint(name: &str, container: &str, number: usize, service: &Service, attachment: Attachment) -> EndpointSettings {
    let mut aliases = vec![name.to_owned()];
    if number > 0 {
        aliases.insert(0, container.to_owned());
    }
    aliases.extend(attachment.aliases);
    let addresses =
        attachment.ipv4_address.is_some() || attachment.ipv6_address.is_some() || !attachment.link_local_ips.is_empty();
    let links = service.links.iter().map(|link| {
        let (service, alias) = link.split_once(':').unwrap_or((link, link));
        format!("{service}:{alias}")
    });
    // Within a network a service is found by its name already: only an alias needs a link.
    let links = links.filter(|link| link.split_once(':').is_some_and(|(service, alias)| service != alias));
    let external = service.external_links.iter().map(|link| match link.split_once(':') {
        Some(_) => link.clone(),
        None => format!("{link}:{link}"),
    });
    let mut driver_opts = scalars(&attachment.driver_opts);
    if let Some(name) = &attachment.interface_name {
        driver_opts.insert("com.docker.network.endpoint.ifname".into(), name.clone());
    }
    EndpointSettings {
        aliases: Some(aliases),
        links: filled(links.chain(external).collect()),
        mac_address: attachment.mac_address.or_else(|| service.mac_address.clone()),
        driver_opts: (!driver_opts.is_empty()).then_some(driver_opts),
        gw_priority: attachment.gw_priority,
        ipam_config: addresses.then_some(EndpointIpamConfig {
            ipv4_address: attachment.ipv4_address,
            ipv6_address: attachment.ipv6_address,
            link_local_ips: filled(attachment.link_local_ips),
        }),
        ..EndpointSettings::default()
    }
}

fn health(service: &Service) -> Option<HealthConfig> {
    let health = service.healthcheck.as_ref()?;
    if health.disable {
        return Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() });
    }
    Some(HealthConfig {
        test: health.test.as_ref().map(|test| test.0.clone()),
        interval: health.interval.map(|nanos| nanos.0),
        timeout: health.timeout.map(|nanos| nanos.0),
        retries: health.retries,
        start_period: health.start_period.map(|nanos| nanos.0),
        start_interval: health.start_interval.map(|nanos| nanos.0),
    })
}

fn host_config(service: &Service) -> HostConfig {
    let deploy = service.deploy.clone().unwrap_or_default();
    let resources = deploy.resources.unwrap_or_default();
    let blkio = service.blkio_config.clone().unwrap_or_default();
    let (limits, kept) = (resources.limits.unwrap_or_default(), resources.reservations.unwrap_or_default());
    let restart = service.restart.or_else(|| {
        let policy = deploy.restart_policy.as_ref()?;
        Some(match policy.condition.as_deref().unwrap_or("any") {
            "none" => Restart::No,
            "on-failure" => Restart::OnFailure(policy.max_attempts),
            _ => Restart::UnlessStopped,
        })
    });
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &service.ports.0 {
        let binding =
            PortBinding { host_ip: port.host_ip.clone(), host_port: Some(port.published.clone().unwrap_or_default()) };
        let key = format!("{}/{}", port.target, port.protocol);
        bindings.entry(key).or_default().get_or_insert_default().push(binding);
    }
    let tmpfs: HashMap<String, String> = service
        .tmpfs
        .0
        .iter()
        .map(|entry| entry.split_once(':').unwrap_or((entry, "")))
        .map(|(path, options)| (path.to_owned(), options.to_owned()))
        .collect();
    #[expect(clippy::cast_possible_truncation, reason = "processors are few")]
    let nanos = |cpus: f64| (cpus * 1e9) as i64;
    HostConfig {
        annotations: (!service.annotations.0.is_empty()).then(|| service.annotations.filled().into_iter().collect()),
        blkio_device_read_bps: throttles(service, |io| &io.device_read_bps),
        blkio_device_read_iops: throttles(service, |io| &io.device_read_iops),
        blkio_device_write_bps: throttles(service, |io| &io.device_write_bps),
        blkio_device_write_iops: throttles(service, |io| &io.device_write_iops),
        blkio_weight: blkio.weight.and_then(|weight| u16::try_from(weight).ok()),
        blkio_weight_device: filled(
            blkio
                .weight_device
                .iter()
                .map(|device| ResourcesBlkioWeightDevice {
                    path: Some(device.path.clone()),
                    weight: usize::try_from(device.weight).ok(),
                })
                .collect(),
        ),
        cap_add: filled(service.cap_add.clone()),
        cap_drop: filled(service.cap_drop.clone()),
        cgroupns_mode: match service.cgroup.as_deref() {
            Some("host") => Some(bollard::models::HostConfigCgroupnsModeEnum::HOST),
            Some("private") => Some(bollard::models::HostConfigCgroupnsModeEnum::PRIVATE),
            _ => None,
        },
        cgroup_parent: service.cgroup_parent.clone(),
        cpu_period: service.cpu_period.map(|micros| micros.0),
        cpu_quota: service.cpu_quota.map(|micros| micros.0),
        cpu_realtime_period: service.cpu_rt_period.map(|micros| micros.0),
        cpu_realtime_runtime: service.cpu_rt_runtime.map(|micros| micros.0),
        cpu_shares: service.cpu_shares,
        nano_cpus: service.cpus.or(limits.cpus).map(nanos),
        cpuset_cpus: service.cpuset.as_ref().map(|set| set.0.clone()),
        device_cgroup_rules: filled(service.device_cgroup_rules.clone()),
        device_requests: filled(device_requests(service, &kept.devices)),
        devices: filled(service.devices.iter().filter(|device| !is_cdi(device)).map(device).collect()),
        dns: filled(service.dns.0.clone()),
        dns_options: filled(service.dns_opt.clone()),
        dns_search: filled(service.dns_search.0.clone()),
        extra_hosts: filled(service.extra_hosts.0.clone()),
        group_add: filled(service.group_add.iter().map(|group| group.0.clone()).collect()),
        init: service.init,
        log_config: service.logging.as_ref().map(|logging| HostConfigLogConfig {
            typ: logging.driver.clone(),
            config: Some(scalars(&logging.options)),
        }),
        memory: service.mem_limit.or(limits.memory).map(|size| size.0),
        memory_reservation: service.mem_reservation.or(kept.memory).map(|size| size.0),
        memory_swap: service.memswap_limit.map(|size| size.0),
        memory_swappiness: service.mem_swappiness,
        oom_kill_disable: service.oom_kill_disable,
        oom_score_adj: service.oom_score_adj,
        pids_limit: service.pids_limit.or(limits.pids),
        port_bindings: (!bindings.is_empty()).then_some(bindings),
        privileged: Some(service.privileged),
        readonly_rootfs: Some(service.read_only),
        restart_policy: restart.map(restart_policy),
        runtime: service.runtime.clone(),
        security_opt: filled(service.security_opt.clone()),
        shm_size: service.shm_size.map(|size| size.0),
        storage_opt: (!service.storage_opt.is_empty()).then(|| scalars(&service.storage_opt)),
        sysctls: (!service.sysctls.0.is_empty()).then(|| service.sysctls.filled().into_iter().collect()),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        ulimits: filled(
            service
                .ulimits
                .iter()
                .map(|(name, limit)| ResourcesUlimits {
                    name: Some(name.clone()),
                    soft: Some(limit.soft),
                    hard: Some(limit.hard),
                })
                .collect(),
        ),
        userns_mode: service.userns_mode.clone(),
        uts_mode: service.uts.clone(),
        ..HostConfig::default()
    }
}

fn throttles(service: &Service, of: fn(&BlockIo) -> &Vec<Rate>) -> Option<Vec<ThrottleDevice>> {
    let limits = of(service.blkio_config.as_ref()?).iter();
    filled(limits.map(|limit| ThrottleDevice { path: Some(limit.path.clone()), rate: Some(limit.rate.0) }).collect())
}

fn device(device: &Device) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(device.source.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    }
}

/// Devices by the names of the Container Device Interface (`vendor.com/class=name`), which are nobody's paths.
fn is_cdi(device: &Device) -> bool {
    !device.source.starts_with('/') && device.source.contains('/') && device.source.contains('=')
}

fn device_requests(service: &Service, reserved: &[DeviceRequest]) -> Vec<bollard::models::DeviceRequest> {
    let cdi: Vec<String> =
        service.devices.iter().filter(|device| is_cdi(device)).map(|device| device.source.clone()).collect();
    let cdi = (!cdi.is_empty()).then(|| bollard::models::DeviceRequest {
        driver: Some("cdi".into()),
        device_ids: Some(cdi),
        ..bollard::models::DeviceRequest::default()
    });
    let requests = service.gpus.0.iter().chain(reserved).map(|request| bollard::models::DeviceRequest {
        driver: request.driver.clone(),
        count: Some(request.count),
        device_ids: filled(request.device_ids.clone()),
        capabilities: Some(vec![request.capabilities.clone()]),
        options: Some(request.options.clone().into_iter().collect()),
    });
    requests.chain(cdi).collect()
}

fn mounts(project: &Project, service: &Service) -> (Vec<Mount>, Vec<Copied>) {
    let mut mounts = Vec::new();
    for mount in &service.volumes {
        let (typ, source) = match (mount.kind.as_str(), &mount.source) {
            ("bind", Some(source)) => (MountType::BIND, Some(source.clone())),
            ("tmpfs", _) => (MountType::TMPFS, None),
            ("image", Some(source)) => (MountType::IMAGE, Some(source.clone())),
            (_, Some(source)) => {
                (MountType::VOLUME, project.volumes.get(source).and_then(|volume| volume.name.clone()))
            }
            // Anonymous ones are Docker's own `Volumes`.
            (_, None) => continue,
        };
        mounts.push(Mount {
            target: Some(mount.target.clone()),
            source,
            typ: Some(typ),
            read_only: mount.read_only.then_some(true),
            bind_options: bind_options(mount),
            volume_options: volume_options(mount),
            image_options: mount
                .subpath
                .clone()
                .filter(|_| mount.kind == "image")
                .map(|subpath| MountImageOptions { subpath: Some(subpath) }),
            tmpfs_options: (mount.kind == "tmpfs").then(|| MountTmpfsOptions {
                size_bytes: mount.tmpfs_size,
                mode: mount.tmpfs_mode.map(i64::from),
                ..MountTmpfsOptions::default()
            }),
            ..Mount::default()
        });
    }
    let mut files = Vec::new();
    let mut grant = |grant: &Grant, content: Option<&Content>, prefix: &str| {
        let Some(content) = content else { return };
        let target = grant.target.clone().unwrap_or_else(|| grant.source.clone());
        let path = if target.starts_with('/') { target } else { format!("{prefix}{target}") };
        if let Some(file) = &content.file {
            mounts.push(Mount {
                target: Some(path),
                source: Some(file.0.clone()),
                typ: Some(MountType::BIND),
                read_only: Some(true),
                ..Mount::default()
            });
        } else if let Some(text) = &content.content {
            let id = |id: &Option<Scalar>| id.as_ref().and_then(|id| id.0.parse().ok()).unwrap_or(0);
            let mode = grant.mode.map_or(0o444, |mode| mode.0);
            files.push(Copied { path, content: text.clone(), mode, uid: id(&grant.uid), gid: id(&grant.gid) });
        }
    };
    for secret in &service.secrets.0 {
        grant(secret, project.secrets.get(&secret.source), "/run/secrets/");
    }
    for config in &service.configs.0 {
        grant(config, project.configs.get(&config.source), "/");
    }
    (mounts, files)
}

fn bind_options(mount: &VolumeMount) -> Option<MountBindOptions> {
    let propagation =
        mount.propagation.as_deref().and_then(|text| text.parse::<MountBindOptionsPropagationEnum>().ok());
    let recursive = mount.recursive.as_deref();
    (propagation.is_some() || recursive.is_some()).then(|| MountBindOptions {
        propagation,
        non_recursive: (recursive == Some("disabled")).then_some(true),
        read_only_non_recursive: (recursive == Some("writable")).then_some(true),
        read_only_force_recursive: (recursive == Some("readonly")).then_some(true),
        ..MountBindOptions::default()
    })
}

fn volume_options(mount: &VolumeMount) -> Option<MountVolumeOptions> {
    let subpath = mount.subpath.clone().filter(|_| mount.kind == "volume");
    let labels = (!mount.labels.0.is_empty()).then(|| mount.labels.filled().into_iter().collect());
    (mount.nocopy || subpath.is_some() || labels.is_some()).then(|| MountVolumeOptions {
        no_copy: mount.nocopy.then_some(true),
        labels,
        subpath,
        ..MountVolumeOptions::default()
    })
}

/// Files as a tar archive, for Docker to unpack in a container's root.
pub(crate) fn archive(files: &[Copied]) -> Vec<u8> {
    let mut out = Vec::new();
    for file in files {
        let name = file.path.trim_start_matches('/').as_bytes();
        let mut header = [0_u8; 512];
        // A ustar header has 100 bytes for a name; longer ones are split at a slash into its prefix.
        let split = if name.len() <= 100 {
            None
        } else {
            name.iter()
                .enumerate()
                .filter(|(at, b)| **b == b'/' && name.len() - at - 1 <= 100 && *at <= 155)
                .map(|(at, _)| at)
                .next()
        };
        let (prefix, short) = split.map_or((&name[..0], name), |at| (&name[..at], &name[at + 1..]));
        let short = &short[..short.len().min(100)];
        header[..short.len()].copy_from_slice(short);
        header[345..345 + prefix.len()].copy_from_slice(prefix);
        let mut number = |at: usize, width: usize, value: u64| {
            let text = format!("{value:0width$o}", width = width - 1);
            header[at..at + width - 1].copy_from_slice(&text.as_bytes()[text.len() - (width - 1)..]);
        };
        number(100, 8, u64::from(file.mode));
        number(108, 8, file.uid);
        number(116, 8, file.gid);
        number(124, 12, file.content.len() as u64);
        number(136, 12, 0);
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        header[263..265].copy_from_slice(b"00");
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(file.content.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}
