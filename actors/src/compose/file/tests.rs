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
    ] {
        let faults = read(&format!("services:\n  a:\n    image: x\n    {what}\n")).expect_err(what);
        assert!(faults[0].message.contains(key) && faults[0].line > 0, "{what}: {faults:?}");
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
        "version: '3'\nservices:\n  a:\n    image: x\n    build: .\n    secrets: [s]\n    deploy: {placement: {}}\nsecrets:\n  \
         s: {content: hush}\n",
    )
    .expect("a project");
    assert!(!serde_json::to_string(&loaded.project).expect("JSON").contains("hush"));
    let named: Vec<&str> = loaded.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(named, ["version", "services.a.build", "services.a.deploy.placement"]);
    for refused in ["extends: b", "post_start: []", "gpus: all"] {
        assert!(read(&format!("services:\n  a:\n    image: x\n    {refused}\n")).is_err(), "{refused}");
    }
}
