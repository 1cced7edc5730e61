//! The real Docker, by its own command line: what tests compare with, and what happens from outside.

use std::process::Command;

/// The image that `test.sh` makes of busybox.
pub const IMAGE: &str = "dxflow-test:1";

/// Runs `docker` and returns what it says.
///
/// # Panics
/// When it fails; tests of workflows need a Docker Engine.
#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("docker is installed");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A project's name that no other test has; what is left of it goes when it is dropped.
#[derive(Debug)]
pub struct Project(String);

impl Project {
    /// A name that begins with `prefix`.
    pub fn new(prefix: &str) -> Self {
        let random = actors::ids::WorkflowId::generate();
        Self(format!("it-{prefix}-{}", &random.as_str()[..6]))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The name of one of its containers.
    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.0)
    }

    /// What is there of one kind: `container`, `network` or `volume`.
    pub fn left(&self, kind: &str) -> Vec<String> {
        let label = format!("label=com.docker.compose.project={}", self.0);
        let all: &[&str] =
            if kind == "container" { &["ls", "-a", "-q", "--filter"] } else { &["ls", "-q", "--filter"] };
        let list = docker(&[&[kind], all, &[label.as_str()]].concat());
        list.lines().map(str::to_owned).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let label = format!("label=com.docker.compose.project={}", self.0);
        for (kind, list, remove) in [
            ("container", &["ls", "-a", "-q"][..], &["rm", "-f", "-v"][..]),
            ("network", &["ls", "-q"], &["rm"]),
            ("volume", &["ls", "-q"], &["rm", "-f"]),
        ] {
            let listed = Command::new("docker").arg(kind).args(list).args(["--filter", &label]).output();
            let ids = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                let _ = Command::new("docker").arg(kind).args(remove).args(&ids).output();
            }
        }
    }
}
