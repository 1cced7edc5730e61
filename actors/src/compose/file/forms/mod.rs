//! The short and long forms that the keys of a compose file may take, each read into its long form.

mod build;
mod dependencies;
mod develop;
mod devices;
mod env_files;
mod grants;
mod health;
mod hooks;
mod mounts;
mod networks;
mod ports;
mod restart;
mod texts;

pub(crate) use self::build::{Build, is_remote};
pub(crate) use self::dependencies::{Dependencies, Dependency};
pub(crate) use self::develop::Develop;
pub(crate) use self::devices::{BlockIo, Device, DeviceRequest, Gpus, Rate};
pub(crate) use self::env_files::EnvFiles;
pub(crate) use self::grants::{External, Grant, Grants};
pub(crate) use self::health::{Healthcheck, Ulimit};
pub(crate) use self::hooks::Hook;
pub(crate) use self::mounts::VolumeMount;
pub(crate) use self::networks::{Attachment, Attachments};
pub(crate) use self::ports::Ports;
pub(crate) use self::restart::Restart;
pub(crate) use self::texts::{HostPath, HostPaths, Hosts, Pairs, Strings, Words};
