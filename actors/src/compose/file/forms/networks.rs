//! `networks` of a service.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::decode::{Decode, OrNull, Scalar, section};
use super::super::node::{Node, Value};
use super::super::report::{Report, Trail};

section! {
    /// How a service takes part in a network.
    Attachment {
        aliases: Vec<String>, ipv4_address: Option<String>, ipv6_address: Option<String>,
        link_local_ips: Vec<String>, mac_address: Option<String>, driver_opts: BTreeMap<String, Scalar>,
        priority: Option<i64>, gw_priority: Option<i64>, interface_name: Option<String>,
    }
}

/// The networks of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Attachments(pub(crate) BTreeMap<String, Attachment>);

impl Decode for Attachments {
    const WHAT: &'static str = "a list or a mapping of networks";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::<String>::decode(node, trail, report)
                .map(|names| Self(names.into_iter().map(|name| (name, Attachment::default())).collect())),
            _ => BTreeMap::<String, OrNull<Attachment>>::decode(node, trail, report)
                .map(|map| Self(map.into_iter().map(|(name, network)| (name, network.0)).collect())),
        }
    }
}
