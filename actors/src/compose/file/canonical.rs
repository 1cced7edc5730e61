//! What is rewritten in the tree before it is read into types.

use super::interpolate::Variables;
use super::merge::build;
use super::node::{Node, Value};
use super::paths::absolute;

/// Gives names without a value in `environment` and `build.args` the value that a variable has.
///
/// This is done for each file with its own variables: an included one may have others.
pub(super) fn environment(document: &mut Node, variables: &Variables) {
    for service in services(document) {
        let Some(service) = service.as_map_mut() else { continue };
        if let Some(environment) = service.get_mut("environment") {
            fill(environment, variables);
        }
        let build = service.get_mut("build").and_then(Node::as_map_mut);
        if let Some(args) = build.and_then(|build| build.get_mut("args")) {
            fill(args, variables);
        }
    }
}

fn services(document: &mut Node) -> impl Iterator<Item = &mut Node> {
    section(document, "services")
}

fn section<'n>(document: &'n mut Node, name: &str) -> impl Iterator<Item = &'n mut Node> {
    let section = document.as_map_mut().and_then(|map| map.get_mut(name)).and_then(Node::as_map_mut);
    section.into_iter().flat_map(|map| map.iter_mut().map(|(_, _, node)| node))
}

fn fill(node: &mut Node, variables: &Variables) {
    match &mut node.value {
        Value::Map(map) => {
            for (name, _, node) in map.iter_mut() {
                if node.tag.is_none()
                    && node.is_null()
                    && let Some(value) = variables.get(name)
                {
                    node.value = Value::Text(value.clone());
                }
            }
        }
        Value::List(items) => {
            for item in items {
                if let Value::Text(name) = &mut item.value
                    && let Some(value) = variables.get(name.as_str())
                {
                    *name = format!("{name}={value}");
                }
            }
        }
        _ => {}
    }
}

/// Writes out what has a short form for which there is no type, and what is relative to its file.
pub(super) fn write_out(root: &mut Node) {
    for service in services(root) {
        let Some(service) = service.as_map_mut() else { continue };
        let Some(node) = service.get_mut("build").filter(|node| !node.is_null()) else { continue };
        *node = build(node.clone());
        let at = node.at.clone();
        if let Some(map) = node.as_map_mut()
            && map.get("context").is_none_or(Node::is_null)
        {
            map.remove("context");
            map.push("context".into(), at.clone(), Node::new(Value::Text(".".into()), at));
        }
    }
    for volume in section(root, "volumes") {
        let options = volume.as_map_mut().and_then(|volume| volume.get_mut("driver_opts")).and_then(Node::as_map_mut);
        if let Some(device) = options.and_then(|options| options.get_mut("device"))
            && let Value::Text(path) = &mut device.value
            && path.starts_with('.')
        {
            *path = absolute(&device.at.file.directory, path).to_string_lossy().into_owned();
        }
    }
}
