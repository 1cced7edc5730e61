use std::path::Path;

use super::*;

fn load_in(directory: &Path, content: &str, policy: &Policy) -> Result<Loaded, Vec<Fault>> {
    let variables = BTreeMap::from([("TAG".to_owned(), "1".to_owned())]);
    load(&Input {
        name: "shop",
        file: "compose.yaml",
        content,
        directory,
        variables: &variables,
        profiles: &[],
        policy,
    })
}

fn read(content: &str) -> Result<Loaded, Vec<Fault>> {
    let directory = tempfile::tempdir().expect("a directory");
    load_in(directory.path(), content, &Policy::default())
}

#[test]
fn a_file_is_read_into_its_long_form() {
    let loaded = read(
        "services:\n  web:\n    image: busybox:${TAG}\n    command: sh -c 'sleep 1'\n    ports: ['8080:80']\n    volumes: \
         ['data:/data']\n    depends_on: [db]\n    environment: [A=1, TAG, NONE]\n  db:\n    image: busybox\n    profiles: \
         []\nvolumes:\n  data:\n",
    )
    .expect("a project");
    let web = &loaded.project.services["web"];
    assert_eq!(web.image.as_deref(), Some("busybox:1"));
    assert_eq!(
        web.command.as_ref().map(|words| words.0.clone()),
        Some(vec!["sh".into(), "-c".into(), "sleep 1".into()])
    );
    let environment: Vec<_> = web.environment.0.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(environment, [("A", Some("1")), ("TAG", Some("1"))]);
    assert_eq!(loaded.project.volumes["data"].name.as_deref(), Some("shop_data"));
    assert_eq!(loaded.project.networks["default"].name.as_deref(), Some("shop_default"));
}

#[test]
fn every_fault_is_told_with_its_place() {
    let faults = read(
        "services:\n  web:\n    imgae: x\n    image: x\n    ports: ['x:y']\n    networks: [back]\n    depends_on: \
         {db: {condition: service_fine}}\n    build: .\n",
    )
    .expect_err("faults");
    let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    for expected in [
        "compose.yaml:3:5: services.web.imgae: unknown key `imgae`; did you mean `image`?",
        "services.web.ports[0]: `x:y`",
        "there is no network `back`",
        "there is no condition `service_fine`",
        "there is no service `db`",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

#[test]
fn cycles_and_missing_services_are_refused() {
    let cycle = "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [b]}\n";
    assert!(read(cycle).expect_err("a cycle")[0].message.contains("a cycle: b → c → b"));
    let optional = "services:\n  a: {image: x, depends_on: {b: {required: false}}}\n  b: {image: x, profiles: [p]}\n";
    assert!(read(optional).expect("optional").project.services["a"].depends_on.0.is_empty());
    let needed = "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, profiles: [p]}\n";
    assert!(read(needed).is_err());
}

#[test]
fn what_reaches_out_of_a_container_is_refused_by_its_key() {
    for (what, key) in [
        ("privileged: true", "allow_privileged"),
        ("cap_add: [SYS_ADMIN]", "allow_cap_add"),
        ("devices: ['/dev/sda:/dev/sda']", "allow_devices"),
        ("network_mode: host", "allow_host_namespaces"),
        ("pid: host", "allow_host_namespaces"),
        ("ipc: 'container:other'", "allow_host_namespaces"),
        ("security_opt: ['seccomp:unconfined']", "allow_privileged"),
        ("volumes: ['/:/host']", "allow_binds"),
        ("volumes: ['/var/run/docker.sock:/s']", "allow_binds"),
        ("volumes: ['../..:/up']", "allow_binds"),
        ("volumes: [{type: bind, source: /etc, target: /x}]", "allow_binds"),
        ("gpus: all", "allow_devices"),
        ("devices: [{source: /dev/sda}]", "allow_devices"),
        ("deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}", "allow_devices"),
        ("uts: host", "allow_host_namespaces"),
        ("post_start: [{command: x, privileged: true}]", "allow_privileged"),
        ("build: /etc", "allow_binds"),
        ("build: {context: ../..}", "allow_binds"),
        ("build: {dockerfile: ../../etc/passwd}", "allow_binds"),
        ("build: {additional_contexts: [x=/etc]}", "allow_binds"),
        ("build: https://example.com/x.git", "allow_remote"),
        ("build: {network: host}", "allow_host_namespaces"),
    ] {
        let faults = read(&format!("services:\n  a:\n    image: x\n    {what}\n")).expect_err(what);
        assert!(faults[0].message.contains(key) && faults[0].line > 0, "{what}: {faults:?}");
    }
    let network = |network: &str| format!("services:\n  a: {{image: x, networks: [n]}}\nnetworks:\n  n: {network}\n");
    for reaching in ["{name: host, external: true}", "{driver: host}", "{driver: macvlan}", "{name: 'container:x'}"] {
        let faults = read(&network(reaching)).expect_err(reaching);
        assert!(faults[0].message.contains("allow_host_namespaces"), "{reaching}: {faults:?}");
    }
    for options in ["{type: none, o: bind, device: /etc}", "{type: overlay, o: 'lowerdir=/etc', device: overlay}"] {
        let text =
            format!("services:\n  a: {{image: x, volumes: ['v:/v']}}\nvolumes:\n  v:\n    driver_opts: {options}\n");
        assert!(read(&text).is_err(), "{options}");
    }
}

#[test]
fn a_link_does_not_lead_a_bind_out() {
    let directory = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink("/etc", directory.path().join("link")).expect("a link");
    std::os::unix::fs::symlink("/nowhere/yet", directory.path().join("dangling")).expect("a link");
    std::fs::write(directory.path().join("x.env"), "A=from file\nB=b\n").expect("written");
    let file = |more: &str| format!("services:\n  a:\n    image: x\n    {more}\n");
    for outside in
        ["volumes: ['./link:/x']", "volumes: ['./link/ssl:/x']", "volumes: ['./dangling:/x']", "env_file: link/passwd"]
    {
        assert!(load_in(directory.path(), &file(outside), &Policy::default()).is_err(), "{outside}");
    }
    let inside = file("volumes: ['./new/place:/x']\n    env_file: x.env\n    environment: {A: own}");
    let project = load_in(directory.path(), &inside, &Policy::default()).expect("a project").project;
    let environment = project.services["a"].environment.filled();
    assert_eq!((environment["A"].as_str(), environment["B"].as_str()), ("own", "b"));
}

#[test]
fn secrets_are_masked_and_what_is_not_honoured_is_named() {
    let loaded = read(
        "version: '3'\nservices:\n  a:\n    image: x\n    build: {context: ., ssh: [default]}\n    secrets: [s]\n    deploy: {placement: {}}\nsecrets:\n  \
         s: {content: hush}\n",
    )
    .expect("a project");
    assert!(!serde_json::to_string(&loaded.project).expect("JSON").contains("hush"));
    let named: Vec<&str> = loaded.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(named, ["version", "services.a.build.ssh", "services.a.deploy.placement"]);
    for refused in ["extends: b", "provider: {type: x}", "use_api_socket: true"] {
        assert!(read(&format!("services:\n  a:\n    image: x\n    {refused}\n")).is_err(), "{refused}");
    }
}

/// Writes files into a directory of their own.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let place = directory.path().join(name);
        std::fs::create_dir_all(place.parent().expect("a parent")).expect("made");
        std::fs::write(place, text).expect("written");
    }
    directory
}

/// Loads the `compose.yaml` of a directory, with what overrides it.
fn load_at(directory: &Path) -> Result<Loaded, Vec<Fault>> {
    let (content, whole) = read_source(directory, "").expect("a source");
    load_in(&whole, &content, &Policy::default())
}

fn told(result: Result<Loaded, Vec<Fault>>) -> String {
    match result {
        Ok(loaded) => format!("read: {}", serde_json::to_string(&loaded.project).expect("JSON")),
        Err(faults) => faults.iter().map(|fault| format!("{fault}\n")).collect(),
    }
}

#[test]
fn a_service_extends_another_of_the_same_file_and_of_another_one() {
    let at = directory(&[
        (
            "compose.yaml",
            "services:\n  a:\n    extends: b\n    environment: {A: own}\n  b:\n    extends: {service: base, file: \
             lib/base.yaml}\n    labels: [x=1]\n",
        ),
        (
            "lib/base.yaml",
            "services:\n  base:\n    extends: root\n    volumes: ['./data:/data']\n    env_file: base.env\n  root:\n    \
             image: busybox:$TAG\n    environment: [A=base, B=base]\n",
        ),
        ("lib/base.env", "C=file\n"),
    ]);
    let project = load_at(at.path()).expect("a project").project;
    let a = &project.services["a"];
    assert_eq!(a.image.as_deref(), Some("busybox:1"));
    let environment = a.environment.filled();
    assert_eq!(["A", "B", "C"].map(|name| environment[name].as_str()), ["own", "base", "file"], "what is nearest wins");
    let source = at.path().canonicalize().expect("there").join("lib/data");
    assert_eq!(a.volumes[0].source.as_deref(), source.to_str(), "a path is relative to the file that says it");
    assert_eq!(a.labels.filled()["x"], "1");
}

#[test]
fn what_cannot_be_extended_says_where_and_why() {
    for (service, expected) in [
        ("extends: a", "a cycle: a → a"),
        ("extends: c", "there is no service `c`"),
        ("extends: {service: b, file: /etc/passwd}", "outside of what workflows may read"),
        ("extends: {service: b, file: ../x.yaml}", "outside of what workflows may read"),
        ("extends: {service: b, file: 'https://example.com/x.yaml'}", "nothing is fetched"),
        ("extends: {service: b, file: 'git@github.com:x/y.git'}", "nothing is fetched"),
        ("extends: {file: x.yaml}", "`service` is missing"),
        ("extends: {service: b, files: x}", "unknown key `files`"),
        ("extends: {service: b, file: none.yaml}", "cannot be read"),
        ("extends: {service: b, file: other.yaml}", "a cycle: a → b → b2 → b"),
        ("extends: [b]", "must be a name or a mapping"),
    ] {
        let at = directory(&[
            ("compose.yaml", &format!("services:\n  a:\n    image: x\n    {service}\n")),
            ("other.yaml", "services: {b: {extends: b2}, b2: {extends: b}}\n"),
        ]);
        let told = told(load_at(at.path()));
        assert!(told.contains(expected) && told.contains(".yaml:"), "{service}: {told}");
    }
}

#[test]
fn files_are_included_with_their_own_directories_and_variables() {
    let at = directory(&[
        (
            "compose.yaml",
            "include:\n  - lib/one.yaml\n  - path: [lib/two.yaml, lib/over.yaml]\n    project_directory: .\n    env_file: \
             two.env\nservices:\n  a: {image: x, depends_on: [one, two]}\n",
        ),
        ("lib/.env", "NAME=of one\n"),
        ("two.env", "NAME=of two\nTAG=ours wins\n"),
        (
            "lib/one.yaml",
            "include: [deep/three.yaml]\nservices:\n  one: {image: x, volumes: ['./d:/d'], environment: [NAME]}\n",
        ),
        ("lib/deep/three.yaml", "services:\n  three: {image: x, networks: [n]}\nnetworks: {n: }\n"),
        (
            "lib/two.yaml",
            "services:\n  two: {image: 'x:$TAG', volumes: ['./d:/d'], environment: {N: $NAME}, ports: ['1:1']}\n",
        ),
        ("lib/over.yaml", "services:\n  two: {ports: !override ['2:2']}\n"),
    ]);
    let whole = at.path().canonicalize().expect("there");
    let project = load_at(at.path()).expect("a project").project;
    let [one, two] = ["one", "two"].map(|name| &project.services[name]);
    assert_eq!(one.volumes[0].source.as_deref(), whole.join("lib/d").to_str());
    assert_eq!(two.volumes[0].source.as_deref(), whole.join("d").to_str());
    assert_eq!(
        (one.environment.filled()["NAME"].as_str(), two.environment.filled()["N"].as_str()),
        ("of one", "of two")
    );
    assert_eq!(two.image.as_deref(), Some("x:1"));
    assert_eq!(two.ports.0.iter().map(|port| port.target).collect::<Vec<_>>(), [2]);
    assert!(project.services.contains_key("three") && project.networks.contains_key("n"));
}

#[test]
fn what_cannot_be_included_says_where_and_why() {
    for (include, expected) in [
        ("[compose.yaml]", "includes itself"),
        ("[loop.yaml]", "includes itself"),
        ("[/etc/passwd]", "outside of what workflows may read"),
        ("[link.yaml]", "outside of what workflows may read"),
        ("['oci://example.com/x']", "nothing is fetched"),
        ("['https://github.com/x/y.git']", "nothing is fetched"),
        ("[none.yaml]", "cannot be read"),
        ("[same.yaml]", "is there already and is included too"),
        ("[odd.yaml]", "unknown key `servces`; did you mean `services`?"),
        ("[{path: [], env_file: x}]", "`path` is missing"),
        ("[{path: other.yaml, env_file: /etc/passwd}]", "outside of what workflows may read"),
        ("[{paths: x}]", "unknown key `paths`"),
        ("x", "must be a list"),
        ("[broken.yaml]", "broken.yaml:3:1"),
    ] {
        let at = directory(&[
            ("compose.yaml", &format!("include: {include}\nservices: {{a: {{image: x}}}}\n")),
            ("loop.yaml", "include: [compose.yaml]\n"),
            ("same.yaml", "services: {a: {image: y}}\n"),
            ("odd.yaml", "servces: {b: {image: y}}\n"),
            ("other.yaml", "services: {b: {image: y}}\n"),
            ("broken.yaml", "services:\n  b: {image: y\n"),
        ]);
        std::os::unix::fs::symlink("/etc/hostname", at.path().join("link.yaml")).expect("a link");
        let told = told(load_at(at.path()));
        assert!(told.contains(expected), "{include}: {told}");
    }
}

#[test]
fn a_directory_is_its_file_and_the_one_that_overrides_it() {
    let at = directory(&[
        ("docker-compose.yml", "services:\n  a: {image: x, ports: ['1:1'], command: [a]}\n  b: {image: y}"),
        (
            "compose.override.yml",
            "# over\nservices:\n  a: {command: b, ports: ['2:2'], environment: {N: 1}}\n  b: !reset null\n",
        ),
    ]);
    let project = load_at(at.path()).expect("a project").project;
    let a = &project.services["a"];
    assert_eq!(a.ports.0.iter().map(|port| port.target).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(a.command.as_ref().map(|words| words.0.clone()), Some(vec!["b".to_owned()]));
    assert!(!project.services.contains_key("b"));
    let at = directory(&[
        ("compose.yaml", "services: {a: {image: x}}\n"),
        ("compose.override.yaml", "services:\n  a: {imag: x}\n"),
    ]);
    let told = told(load_at(at.path()));
    assert!(told.starts_with("compose.override.yaml:2:7: services.a.imag: unknown key"), "{told}");
}

#[test]
fn a_bomb_of_services_that_extend_each_other_is_refused() {
    let fat: String = (0..2000).map(|n| format!("      E{n}: x\n")).collect();
    let mut text = format!("services:\n  s0:\n    image: x\n    environment:\n{fat}");
    (1..5000).for_each(|n| text.push_str(&format!("  s{n}: {{extends: s0}}\n")));
    let told = told(read(&text));
    assert!(told.contains("too large once"), "{}", &told[..told.len().min(300)]);
    let mut text = String::from("services:\n  s0: {image: x}\n");
    (1..200).for_each(|n| text.push_str(&format!("  s{n}: {{extends: s{}}}\n", n + 1)));
    let told = self::told(read(&text));
    assert!(told.contains("too long a chain"), "{}", &told[..told.len().min(300)]);
}

#[test]
fn files_of_variables_and_labels_are_read() {
    let at = directory(&[
        (
            "compose.yaml",
            "services:\n  a:\n    image: x\n    env_file: [one.env, {path: raw.env, format: raw}, {path: none.env, required: \
             false}]\n    label_file: l\n    labels: {b: own}\n",
        ),
        ("one.env", "A='quoted $TAG'\nB=$TAG\n"),
        ("raw.env", "# no\nC='raw $TAG'\n"),
        ("l", "a=file\nb=file\n"),
    ]);
    let a = load_at(at.path()).expect("a project").project.services["a"].clone();
    let environment = a.environment.filled();
    assert_eq!(["A", "B", "C"].map(|name| environment[name].as_str()), ["quoted $TAG", "1", "'raw $TAG'"]);
    assert_eq!(["a", "b"].map(|name| a.labels.filled()[name].clone()), ["file", "own"]);
    let missing = read("services:\n  a:\n    image: x\n    env_file: none.env\n").expect_err("a missing file");
    assert_eq!((missing[0].line, missing[0].column), (4, 15), "{missing:?}");
}
