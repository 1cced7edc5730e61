//! Devices of the host: `devices`, `gpus`, the requests of `deploy`, and `blkio_config`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::decode::{Decode, section};
use super::super::node::{Node, Value};
use super::super::report::{Report, Trail};
use super::super::scalar::shorten;
use super::super::units::ByteSize;
use super::Pairs;

/// A device of the host in a container.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Device {
    /// Its path on the host, or its CDI name.
    pub(crate) source: String,
    /// Its path in the container.
    pub(crate) target: String,
    /// What may be done with it, of `r`, `w` and `m`.
    pub(crate) permissions: String,
}

section! {
    DeviceLong { source: String, target: Option<String>, permissions: Option<String> }
}

impl Decode for Device {
    const WHAT: &'static str = "a text such as `/dev/null:/dev/null:rw`, or a mapping";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let Some(text) = node.as_text() else {
            if node.as_map().is_none() {
                return Self::wrong(node, trail, report);
            }
            let long = DeviceLong::decode(node, trail, report)?;
            if long.source.is_empty() {
                report.fault(&node.at, trail, "`source` is missing");
            }
            return Some(Self {
                target: long.target.unwrap_or_else(|| long.source.clone()),
                source: long.source,
                permissions: long.permissions.unwrap_or_else(|| "rwm".into()),
            });
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, permissions) = match parts.as_slice() {
            [source] => (*source, "", "rwm"),
            [source, target] => (*source, *target, "rwm"),
            [source, target, permissions] => (*source, *target, *permissions),
            _ => {
                let message = format!("`{}` must be `source[:target[:permissions]]`", shorten(text));
                report.fault(&node.at, trail, message);
                return None;
            }
        };
        let target = if target.is_empty() { source } else { target };
        Some(Self { source: source.into(), target: target.into(), permissions: permissions.into() })
    }
}

/// Devices that a driver of Docker chooses.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct DeviceRequest {
    /// The driver; Docker finds one without.
    pub(crate) driver: Option<String>,
    /// How many; -1 for all.
    pub(crate) count: i64,
    /// Which, instead of a number.
    pub(crate) device_ids: Vec<String>,
    /// What they must be able to do.
    pub(crate) capabilities: Vec<String>,
    /// What the driver is told.
    pub(crate) options: BTreeMap<String, String>,
}

section! {
    RequestLong {
        capabilities: Vec<String>, count: Option<Count>, device_ids: Vec<String>, driver: Option<String>,
        options: Pairs,
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Count(i64);

impl Decode for Count {
    const WHAT: &'static str = "a whole number or `all`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.as_text() {
            Some(text) if text.eq_ignore_ascii_case("all") => Some(Self(-1)),
            _ => i64::decode(node, trail, report).map(Self),
        }
    }
}

impl Decode for DeviceRequest {
    const WHAT: &'static str = "a mapping";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let long = RequestLong::decode(node, trail, report)?;
        if long.capabilities.is_empty() {
            report.fault(&node.at, trail, "`capabilities` are missing");
        }
        Some(request(long, node, trail, report))
    }
}

fn request(long: RequestLong, node: &Node, trail: Trail<'_>, report: &mut Report) -> DeviceRequest {
    if long.count.is_some() && !long.device_ids.is_empty() {
        report.fault(&node.at, trail, "`count` and `device_ids` exclude each other");
    }
    let all = if long.device_ids.is_empty() { -1 } else { 0 };
    DeviceRequest {
        driver: long.driver,
        count: long.count.map_or(all, |count| count.0),
        device_ids: long.device_ids,
        capabilities: long.capabilities,
        options: long.options.filled(),
    }
}

/// `gpus`: `all`, or a list of requests.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Gpus(pub(crate) Vec<DeviceRequest>);

impl Decode for Gpus {
    const WHAT: &'static str = "`all` or a list of requests";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let mut requests = match &node.value {
            Value::Text(text) if text == "all" => vec![DeviceRequest { count: -1, ..DeviceRequest::default() }],
            Value::List(items) => {
                let mut requests = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let long = RequestLong::decode(item, trail.index(index), report)?;
                    requests.push(request(long, item, trail.index(index), report));
                }
                requests
            }
            _ => return Self::wrong(node, trail, report),
        };
        for request in &mut requests {
            if !request.capabilities.iter().any(|capability| capability == "gpu") {
                request.capabilities.push("gpu".into());
            }
        }
        Some(Self(requests))
    }
}

section! {
    /// How much a container may read from and write to block devices.
    BlockIo {
        device_read_bps: Vec<Rate>, device_read_iops: Vec<Rate>, device_write_bps: Vec<Rate>,
        device_write_iops: Vec<Rate>, weight: Option<i64>, weight_device: Vec<Weight>,
    }
}

section! {
    /// A limit for one device, in bytes or operations a second.
    Rate { path: String, rate: ByteSize }
}

section! {
    /// The weight of one device.
    Weight { path: String, weight: i64 }
}
