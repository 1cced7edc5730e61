//! Variables and files: those that a compose file is read with, and those that its services get.

use std::collections::BTreeMap;
use std::path::Path;

use super::dotenv;
use super::interpolate::Variables;
use super::node::{At, Node, Source};
use super::paths::Roots;
use super::project::Project;
use super::report::{Report, Trail};

/// The variables for a project: of `.env`, then of the request, which wins.
pub(super) fn variables(
    name: &str,
    directory: &Path,
    given: &BTreeMap<String, String>,
    roots: &Roots,
    report: &mut Report,
) -> Option<Variables> {
    let mut outer: Variables = given.clone();
    outer.insert("COMPOSE_PROJECT_NAME".into(), name.into());
    let place = directory.join(".env");
    if std::fs::symlink_metadata(&place).is_err() {
        return Some(outer);
    }
    let file = Source::named(".env");
    let text = roots.read(&place).map_err(|reason| report.fault(&At::file(&file), ".env", reason)).ok()?;
    let entries = dotenv::parse(&text, &outer)
        .map_err(|(line, message)| report.fault(&At { file, line, column: 0 }, Trail::Root, message))
        .ok()?;
    let mut variables: Variables = entries.into_iter().collect();
    variables.extend(outer);
    Some(variables)
}

/// Reads the files that services name: variables into their environment, labels into their labels.
pub(super) fn files(project: &mut Project, variables: &Variables, roots: &Roots, root: &Node, report: &mut Report) {
    for (name, service) in &mut project.services {
        let mut environment = BTreeMap::new();
        let at = root.place(&["services", name, "env_file"]);
        let path = format!("services.{name}.env_file");
        for file in std::mem::take(&mut service.env_file.0) {
            let place = Path::new(&file.path.0);
            if !file.required && std::fs::symlink_metadata(place).is_err() {
                continue;
            }
            let entries = match file.raw {
                true => read(place, roots, &at, &path, report, |text| Ok(dotenv::raw(text))),
                false => read(place, roots, &at, &path, report, |text| dotenv::parse(text, variables)),
            };
            environment.extend(entries.into_iter().map(|(name, value)| (name, Some(value))));
        }
        environment.extend(std::mem::take(&mut service.environment.0));
        // A name without a value anywhere is not in the environment at all.
        environment.retain(|_, value| value.is_some());
        service.environment.0 = environment;

        let at = root.place(&["services", name, "label_file"]);
        let path = format!("services.{name}.label_file");
        let mut labels = BTreeMap::new();
        for file in std::mem::take(&mut service.label_file.0) {
            let entries =
                read(Path::new(&file.0), roots, &at, &path, report, |text| dotenv::parse(text, &Variables::new()));
            labels.extend(entries.into_iter().map(|(name, value)| (name, Some(value))));
        }
        labels.extend(std::mem::take(&mut service.labels.0));
        service.labels.0 = labels;
    }
}

fn read(
    place: &Path,
    roots: &Roots,
    at: &At,
    path: &str,
    report: &mut Report,
    parse: impl Fn(&str) -> Result<Vec<dotenv::Entry>, dotenv::Wrong>,
) -> Vec<dotenv::Entry> {
    let text = match roots.read(place) {
        Ok(text) => text,
        Err(reason) => {
            report.fault(at, path, reason);
            return Vec::new();
        }
    };
    parse(&text).unwrap_or_else(|(line, message)| {
        let file = Source::named(place.display().to_string());
        report.fault(&At { file, line, column: 0 }, path, message);
        Vec::new()
    })
}
