//! What must be true of every text: shared by the property tests here and the fuzz target `compose_file`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Input, Policy, load};

/// Reads a text, and a second file that it may name as `other.yaml`, beneath `directory`.
///
/// # Panics
/// When a project reaches out of its directory, or cannot be written.
pub(crate) fn compose_file(directory: &Path, text: &str, other: &str) {
    std::fs::write(directory.join("other.yaml"), other).expect("a file");
    let loaded = load(&Input {
        name: "fuzz",
        file: "compose.yaml",
        content: text,
        directory,
        variables: &BTreeMap::from([("A".to_owned(), "a".to_owned())]),
        profiles: &[],
        policy: &Policy::default(),
    });
    let Ok(loaded) = loaded else { return };
    serde_json::to_string(&loaded.project).expect("a project is JSON");
    let whole = directory.canonicalize().expect("it is there");
    for (name, service) in &loaded.project.services {
        assert!(!service.privileged && service.cap_add.is_empty(), "`{name}` is privileged");
        for mount in service.volumes.iter().filter(|mount| mount.kind == "bind") {
            let source = Path::new(mount.source.as_deref().expect("a bind has a source"));
            assert!(source.starts_with(&whole), "`{name}` binds {}", source.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of compose files, good and bad, which are put together at random.
    const PIECES: &[&str] = &[
        "include: [other.yaml]\n",
        "include: [../x.yaml]\n",
        "services:\n",
        "  a:\n",
        "  b: &b\n",
        "    image: x\n",
        "    <<: *b\n",
        "    extends: {service: b, file: other.yaml}\n",
        "    extends: a\n",
        "    volumes: ['./d:/d', '/etc:/e']\n",
        "    volumes: [./../d:/d]\n",
        "    volumes: !override [{type: bind, source: ., target: /x}]\n",
        "    build: .\n",
        "    privileged: ${A:-true}\n",
        "    cap_add: [${A}]\n",
        "    ports: !reset []\n",
        "    environment: [A, B=$A]\n",
        "    environment: {A: }\n",
        "    depends_on: [b]\n",
        "---\n",
        "--- # file: x\n",
        "volumes: {d: {driver_opts: {o: bind, device: /}}}\n",
        "networks: {n: {name: host}}\n",
        "secrets: {s: {file: /etc/passwd}}\n",
        "    env_file: other.yaml\n",
        "\t",
        "  - x\n",
    ];

    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(PIECES), 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_text_panics_or_reaches_out(text in text(), other in text(), noise in "\\PC{0,20}", at in any::<proptest::sample::Index>()) {
            let directory = tempfile::tempdir().expect("a directory");
            compose_file(directory.path(), &text, &other);
            let mut noisy = text.clone();
            let place = at.index(noisy.len() + 1);
            if noisy.is_char_boundary(place) {
                noisy.insert_str(place, &noise);
            }
            compose_file(directory.path(), &noisy, &other);
        }
    }
}
