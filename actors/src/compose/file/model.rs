//! The compose file as types: every key that is honoured, in its long form.

use std::collections::BTreeMap;

use super::decode::{OrNull, Scalar, section};
use super::forms::{
    Attachments, BlockIo, Build, Dependencies, Develop, Device, DeviceRequest, EnvFiles, External, Gpus, Grants,
    Healthcheck, Hook, HostPath, HostPaths, Hosts, Pairs, Ports, Restart, Strings, Ulimit, VolumeMount, Words,
};
use super::units::{ByteSize, Micros, Nanos};

section! {
    /// A compose file.
    Model {
        /// The project's name; the workflow's identity wins.
        name: Option<String>,
        /// What runs.
        services: BTreeMap<String, Service>,
        /// What connects it.
        networks: BTreeMap<String, OrNull<Network>>,
        /// What it keeps.
        volumes: BTreeMap<String, OrNull<Volume>>,
        /// What only it may read.
        secrets: BTreeMap<String, Content>,
        /// What it reads.
        configs: BTreeMap<String, Content>,
    } takes "version", "include", "models"
}

section! {
    /// A service: containers that are alike.
    Service {
        annotations: Pairs,
        blkio_config: Option<BlockIo>,
        build: Option<Box<Build>>,
        cap_add: Vec<String>,
        cap_drop: Vec<String>,
        cgroup: Option<String>,
        cgroup_parent: Option<String>,
        command: Option<Words>,
        configs: Grants,
        container_name: Option<String>,
        cpu_period: Option<Micros>,
        cpu_quota: Option<Micros>,
        cpu_rt_period: Option<Micros>,
        cpu_rt_runtime: Option<Micros>,
        cpu_shares: Option<i64>,
        cpus: Option<f64>,
        cpuset: Option<Scalar>,
        depends_on: Dependencies,
        deploy: Option<Deploy>,
        develop: Option<Box<Develop>>,
        device_cgroup_rules: Vec<String>,
        devices: Vec<Device>,
        dns: Strings,
        dns_opt: Vec<String>,
        dns_search: Strings,
        domainname: Option<String>,
        entrypoint: Option<Words>,
        env_file: EnvFiles,
        environment: Pairs,
        expose: Vec<Scalar>,
        external_links: Vec<String>,
        extra_hosts: Hosts,
        gpus: Gpus,
        group_add: Vec<Scalar>,
        healthcheck: Option<Healthcheck>,
        hostname: Option<String>,
        image: Option<String>,
        init: Option<bool>,
        ipc: Option<String>,
        label_file: HostPaths,
        labels: Pairs,
        links: Vec<String>,
        logging: Option<Logging>,
        mac_address: Option<String>,
        mem_limit: Option<ByteSize>,
        mem_reservation: Option<ByteSize>,
        mem_swappiness: Option<i64>,
        memswap_limit: Option<ByteSize>,
        network_mode: Option<String>,
        networks: Option<Attachments>,
        oom_kill_disable: Option<bool>,
        oom_score_adj: Option<i64>,
        pid: Option<String>,
        pids_limit: Option<i64>,
        platform: Option<String>,
        ports: Ports,
        post_start: Vec<Hook>,
        pre_stop: Vec<Hook>,
        privileged: bool,
        profiles: Vec<String>,
        pull_policy: Option<String>,
        read_only: bool,
        restart: Option<Restart>,
        runtime: Option<String>,
        scale: Option<i64>,
        secrets: Grants,
        security_opt: Vec<String>,
        shm_size: Option<ByteSize>,
        stdin_open: bool,
        stop_grace_period: Option<Nanos>,
        stop_signal: Option<String>,
        storage_opt: BTreeMap<String, Scalar>,
        sysctls: Pairs,
        tmpfs: Strings,
        tty: bool,
        ulimits: BTreeMap<String, Ulimit>,
        user: Option<Scalar>,
        userns_mode: Option<String>,
        uts: Option<String>,
        volumes: Vec<VolumeMount>,
        volumes_from: Vec<String>,
        working_dir: Option<String>,
    } takes "attach", "cpu_count", "cpu_percent", "credential_spec", "extends", "isolation", "models",
        "provider", "pull_refresh_after", "use_api_socket"
}

section! {
    /// How many, and what each may use.
    Deploy {
        mode: Option<String>,
        replicas: Option<i64>,
        labels: Pairs,
        resources: Option<Resources>,
        restart_policy: Option<RestartPolicy>,
    } takes "endpoint_mode", "placement", "update_config", "rollback_config"
}

section! {
    /// What containers may use, and what is kept for them.
    Resources { limits: Option<Limits>, reservations: Option<Limits> }
}

section! {
    /// Limits of resources.
    Limits {
        cpus: Option<f64>, memory: Option<ByteSize>, pids: Option<i64>, devices: Vec<DeviceRequest>,
    } takes "generic_resources"
}

section! {
    /// When an ended container is started again.
    RestartPolicy { condition: Option<String>, delay: Option<Nanos>, max_attempts: Option<i64>, window: Option<Nanos> }
}

section! {
    /// Where a container's output goes.
    Logging { driver: Option<String>, options: BTreeMap<String, Scalar> }
}

section! {
    /// A network.
    Network {
        name: Option<String>, driver: Option<String>, driver_opts: BTreeMap<String, Scalar>, ipam: Option<Ipam>,
        external: External, internal: bool, attachable: bool, enable_ipv4: Option<bool>, enable_ipv6: Option<bool>,
        labels: Pairs,
    }
}

section! {
    /// The addresses of a network.
    Ipam { driver: Option<String>, config: Vec<Pool>, options: BTreeMap<String, Scalar> }
}

section! {
    /// A range of addresses.
    Pool {
        subnet: Option<String>, ip_range: Option<String>, gateway: Option<String>, aux_addresses: BTreeMap<String, String>,
    }
}

section! {
    /// A volume.
    Volume {
        name: Option<String>, driver: Option<String>, driver_opts: BTreeMap<String, Scalar>, external: External,
        labels: Pairs,
    }
}

section! {
    /// A secret or config.
    Content {
        name: Option<String>, file: Option<HostPath>, environment: Option<String>, content: Option<String>,
        external: External, labels: Pairs,
    } takes "driver", "driver_opts", "template_driver"
}
