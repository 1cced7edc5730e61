//! Compose workflows against a real Docker Engine.

use serde_json::{Value, json};

use crate::support::docker::{IMAGE, Project, docker};
use crate::support::{Engine, until};

/// A program that goes on until it is told to end.
const FOREVER: &str = "sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.1; done'";

async fn create(engine: &Engine, project: &Project, content: &str) -> Value {
    let body = json!({ "identity": project.name(), "content": content, "start": true });
    engine.post("/workflow/compose/", body).await.expect(201)
}

async fn state(engine: &Engine, project: &Project) -> String {
    let workflow = engine.get(&format!("/workflow/compose/{}/", project.name())).await.expect(200);
    workflow["state"].as_str().expect("text").to_owned()
}

async fn act(engine: &Engine, verb: &str, project: &Project) -> Value {
    engine.put(&format!("/workflow/compose/{verb}/"), json!({ "identity": project.name() })).await.expect(200)
}

#[tokio::test]
async fn a_workflow_lives_as_its_file_says() {
    let (engine, project) = (Engine::start().await, Project::new("life"));
    let file = format!(
        "services:\n  db:\n    image: {IMAGE}\n    command: {FOREVER}\n    volumes: ['data:/data']\n    healthcheck: {{test: \
         'true', interval: 1s}}\n  init:\n    image: {IMAGE}\n    command: sh -c 'echo made > /data/made'\n    volumes: \
         ['data:/data']\n  web:\n    image: {IMAGE}\n    command: {FOREVER}\n    scale: 2\n    environment: {{WHO: \
         '${{WHO:-nobody}}'}}\n    depends_on: {{db: {{condition: service_healthy}}, init: {{condition: \
         service_completed_successfully}}}}\nvolumes:\n  data:\n"
    );
    let body = json!({ "identity": project.name(), "content": file, "env": { "WHO": "me" } });
    let made = engine.post("/workflow/compose/", body).await.expect(201);
    assert_eq!(made["state"], "created");
    assert_eq!(made["containers"].as_array().map(Vec::len), Some(4));
    let started = act(&engine, "start", &project).await;
    assert_eq!(started["state"], "running", "{started}");
    // The labels are those that other tools know.
    let label = "{{index .Config.Labels \"com.docker.compose.depends_on\"}}";
    let depends = docker(&["inspect", "-f", label, &project.container("web")]);
    assert_eq!(depends, "db:service_healthy:false,init:service_completed_successfully:false");
    let identity = project.name();
    let execute =
        |service: &str, command: Value| json!({ "identity": identity, "service": service, "command": command });
    let said = engine.put("/workflow/compose/execute/", execute("web", json!("echo $WHO; echo no >&2; exit 7"))).await;
    assert_eq!(said.expect(200), json!({ "exit_code": 7, "stdout": "me\n", "stderr": "no\n" }));
    let said = engine.put("/workflow/compose/execute/", execute("db", json!(["cat", "/data/made"]))).await;
    assert_eq!(said.expect(200)["stdout"], "made\n");
    let missing = engine.put("/workflow/compose/execute/", execute("db", json!(["/no/such"]))).await.expect(200);
    assert!([126, 127].contains(&missing["exit_code"].as_i64().expect("a code")), "{missing}");
    engine.put("/workflow/compose/execute/", json!({ "identity": identity, "command": "true" })).await.refusal(400);

    // A repeated start keeps what runs.
    let before = docker(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &project.container("db")]);
    act(&engine, "start", &project).await;
    assert_eq!(docker(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", &project.container("db")]), before);
    let described = engine.get(&format!("/workflow/compose/{identity}/")).await.expect(200);
    assert_eq!((&described["plan"], &described["warnings"]), (&json!([]), &json!([])), "{described}");

    assert_eq!(act(&engine, "pause", &project).await["state"], "paused");
    engine.put("/workflow/compose/pause/", json!({ "identity": identity })).await.refusal(409);
    assert_eq!(act(&engine, "unpause", &project).await["state"], "running");
    engine.put("/workflow/compose/unpause/", json!({ "identity": identity })).await.refusal(409);
    assert_eq!(act(&engine, "restart", &project).await["state"], "running");
    assert_eq!(act(&engine, "stop", &project).await["state"], "stopped");
    engine.put("/workflow/compose/kill/", json!({ "identity": identity })).await.refusal(409);
    let listed = engine.get("/workflow/compose/").await.expect(200);
    assert!(listed.as_array().expect("a list").iter().all(|workflow| workflow["identity"] != identity), "{listed}");
    let listed = engine.get("/workflow/compose/?all").await.expect(200);
    assert!(listed.as_array().expect("a list").iter().any(|workflow| workflow["identity"] == identity), "{listed}");

    engine.delete("/workflow/compose/", json!({ "identity": identity })).await.expect(200);
    assert_eq!((project.left("container").len(), project.left("network").len()), (0, 0));
    assert_eq!(project.left("volume").len(), 1, "volumes stay unless it is said otherwise");
    engine.get(&format!("/workflow/compose/{identity}/")).await.refusal(404);
}

#[tokio::test]
async fn a_file_that_is_wrong_says_where() {
    let (engine, project) = (Engine::start().await, Project::new("wrong"));
    let body = json!({ "identity": project.name(), "content": "services:\n  a:\n    image: x\n    prots: []\n" });
    let refused = engine.post("/workflow/compose/", body).await;
    let text = refused.refusal(422);
    assert!(text.contains("compose.yaml:4:5") && text.contains("did you mean `ports`"), "{text}");
    let fault = &refused.expect(422)["errors"][0];
    assert_eq!((&fault["path"], &fault["line"], &fault["column"]), (&json!("services.a.prots"), &json!(4), &json!(5)));
    for (what, setting) in [
        ("privileged: true", "allow_privileged"),
        ("network_mode: host", "allow_host_namespaces"),
        ("volumes: ['/etc:/x']", "allow_binds"),
        ("volumes: ['/var/run/docker.sock:/var/run/docker.sock']", "allow_binds"),
    ] {
        let content = format!("services:\n  a:\n    image: {IMAGE}\n    {what}\n");
        let body = json!({ "identity": project.name(), "content": content });
        let text = engine.post("/workflow/compose/", body).await.refusal(422);
        assert!(text.contains(setting), "{text}");
    }
    let absent = json!({ "identity": project.name() });
    for verb in ["start", "stop", "restart", "pause", "unpause", "kill"] {
        engine.put(&format!("/workflow/compose/{verb}/"), absent.clone()).await.refusal(404);
    }
    assert_eq!(project.left("container").len(), 0);
}

#[tokio::test]
async fn a_failing_service_fails_what_waits_for_it_and_nothing_else() {
    let (engine, project) = (Engine::start().await, Project::new("fails"));
    let file = format!(
        "services:\n  bad: {{image: {IMAGE}, command: sh -c 'exit 3'}}\n  after:\n    image: {IMAGE}\n    command: \
         {FOREVER}\n    depends_on: {{bad: {{condition: service_completed_successfully}}}}\n  other: {{image: {IMAGE}, \
         command: {}}}\n",
        json!(["sleep", "1000"])
    );
    let made = create(&engine, &project, &file).await;
    let services = made["services"].as_array().expect("services");
    let of = |name: &str| services.iter().find(|service| service["service"] == name).expect("the service");
    assert!(of("after")["error"].as_str().expect("an error").contains("ended with 3"), "{made}");
    assert_eq!(of("other")["state"], "running");
    assert_eq!(made["state"], "partial");
    let refused = engine.put("/workflow/compose/start/", json!({ "identity": project.name() })).await;
    assert!(refused.refusal(502).contains("ended with 3"));
}

#[tokio::test]
async fn what_others_do_is_seen() {
    let (engine, project) = (Engine::start().await, Project::new("outside"));
    create(&engine, &project, &format!("services:\n  a: {{image: {IMAGE}, command: {}}}\n", json!(["sleep", "1000"])))
        .await;
    let container = project.container("a");
    for (command, expected) in [("pause", "paused"), ("unpause", "running"), ("kill", "stopped"), ("start", "running")]
    {
        docker(&[command, &container]);
        until(expected, || async { (state(&engine, &project).await == expected).then_some(()) }).await;
    }
    docker(&["rm", "-f", &container]);
    until("created", || async { (state(&engine, &project).await == "created").then_some(()) }).await;
    let described = engine.get(&format!("/workflow/compose/{}/", project.name())).await.expect(200);
    assert_eq!(described["plan"][0]["call"], "create container");
    assert_eq!(act(&engine, "start", &project).await["state"], "running");
}

#[tokio::test]
async fn projects_of_other_tools_are_handled_by_their_labels() {
    let (engine, project) = (Engine::start().await, Project::new("foreign"));
    let labels = [("project", project.name()), ("service", "a"), ("container-number", "1"), ("oneoff", "False")];
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("--label=com.docker.compose.{name}={value}")).collect();
    let container = project.container("a");
    let mut run = vec!["run", "-d", "--name", &container];
    run.extend(labels.iter().map(String::as_str));
    run.extend([IMAGE, "sleep", "1000"]);
    docker(&run);
    let described = engine.get(&format!("/workflow/compose/{}/", project.name())).await.expect(200);
    assert_eq!((&described["foreign"], &described["state"]), (&json!(true), &json!("running")));
    let taken = json!({ "identity": project.name(), "content": format!("services: {{a: {{image: {IMAGE}}}}}") });
    engine.post("/workflow/compose/", taken).await.refusal(409);
    let body = json!({ "identity": project.name(), "timeout": 0 });
    assert_eq!(engine.put("/workflow/compose/stop/", body).await.expect(200)["state"], "stopped");
    assert_eq!(act(&engine, "start", &project).await["state"], "running");
    let refused = json!({ "identity": project.name(), "stop": false });
    engine.delete("/workflow/compose/", refused).await.refusal(409);
    let batch = json!({ "identities": [project.name(), "no-such-workflow", "No"] });
    let removed = engine.delete("/workflow/compose/batch/", batch).await.expect(200);
    let removed: Vec<bool> = removed.as_array().expect("a list").iter().map(|one| one["removed"] == true).collect();
    assert_eq!(removed, [true, false, false]);
    assert_eq!(project.left("container").len(), 0);
}

#[tokio::test]
async fn logs_come_in_order_and_the_stream_form_tells_what_happens() {
    let (engine, project) = (Engine::start().await, Project::new("logs"));
    let file = format!(
        "services:\n  a: {{image: {IMAGE}, command: {}}}\n  b: {{image: {IMAGE}, command: {}, depends_on: {{a: {{condition: \
         service_completed_successfully}}}}}}\n",
        json!(["sh", "-c", "echo one; echo two >&2"]),
        json!(["echo", "three"])
    );
    let body = json!({ "identity": project.name(), "content": file, "start": true });
    let made = engine.master().post("/workflow/compose/").json(&body).stream().send().await;
    assert_eq!(made.status.as_u16(), 201);
    let parts = made.entities();
    let changes: Vec<&str> = parts.iter().filter_map(|part| part["state"].as_str()).collect();
    assert!(changes.contains(&"creating") && changes.contains(&"started"), "{changes:?}");
    assert_eq!(parts.last().expect("the outcome")["identity"], project.name());
    until("its end", || async { (state(&engine, &project).await == "exited").then_some(()) }).await;
    let logs = engine.get(&format!("/workflow/compose/logs/?identity={}", project.name())).await.expect(200);
    let mut lines: Vec<(&str, &str, &str)> = Vec::new();
    for line in logs.as_array().expect("lines") {
        let text = |name: &str| line[name].as_str().expect("text");
        assert!(text("time").starts_with("20"), "{line}");
        lines.push((text("service"), text("stream"), text("line")));
    }
    assert_eq!(lines.last(), Some(&("b", "stdout", "three")), "in the order of time");
    lines.sort_unstable();
    assert_eq!(lines, [("a", "stderr", "two"), ("a", "stdout", "one"), ("b", "stdout", "three")]);
    let tail = engine.get(&format!("/workflow/compose/logs/?identity={}&service=a&tail=1", project.name())).await;
    assert_eq!(tail.expect(200).as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_new_file_text_is_a_new_container_and_one_operation_runs_at_a_time() {
    let (engine, project) = (Engine::start().await, Project::new("change"));
    let place = engine.volume().join("app");
    std::fs::create_dir_all(place.join("data")).expect("made");
    let file = format!(
        "services:\n  a:\n    image: {IMAGE}\n    command: sleep 1000\n    stop_signal: KILL\n    env_file: a.env\n    volumes: \
         ['./data:/data']\n"
    );
    std::fs::write(place.join("compose.yaml"), file).expect("written");
    std::fs::write(place.join("a.env"), "WHO=one\n").expect("written");
    let body = json!({ "identity": project.name(), "source": "app", "start": true });
    let made = engine.post("/workflow/compose/", body).await.expect(201);
    assert_eq!(made["state"], "running", "{made}");
    let execute = json!({ "identity": project.name(), "command": "echo $WHO > /data/who" });
    engine.put("/workflow/compose/execute/", execute).await.expect(200);
    assert_eq!(std::fs::read_to_string(place.join("data/who")).expect("written"), "one\n");
    std::fs::write(place.join("a.env"), "WHO=two\n").expect("written");
    let described = engine.get(&format!("/workflow/compose/{}/", project.name())).await.expect(200);
    assert_eq!(described["plan"][0]["cause"], "its configuration changed");
    let before = docker(&["inspect", "-f", "{{.Id}}", &project.container("a")]);
    act(&engine, "start", &project).await;
    assert_ne!(docker(&["inspect", "-f", "{{.Id}}", &project.container("a")]), before);
    let execute = json!({ "identity": project.name(), "command": "echo $WHO" });
    assert_eq!(engine.put("/workflow/compose/execute/", execute).await.expect(200)["stdout"], "two\n");

    let slow = json!({ "identity": project.name(), "wait": false });
    let begun = engine.put("/workflow/compose/restart/", slow.clone()).await.expect(202);
    assert!(begun["operation"].is_string());
    until("the end of the operation", || async {
        let answer = engine.put("/workflow/compose/stop/", json!({ "identity": project.name() })).await;
        match answer.status.as_u16() {
            409 => None,
            _ => Some(answer.expect(200)),
        }
    })
    .await;
    assert_eq!(state(&engine, &project).await, "stopped");
}

#[tokio::test]
async fn without_docker_workflows_are_away_and_the_rest_works() {
    let options = Engine::options().config("[workflow]\ndocker = \"unix:///nowhere/docker.sock\"");
    let engine = options.start().await;
    let text = engine.get("/workflow/compose/").await.refusal(503);
    assert!(text.contains("Docker cannot be reached"), "{text}");
    let health = engine.get("/engine/healthcheck/").await.expect(200);
    assert_eq!(
        (&health["status"], &health["components"]["docker"]["status"]),
        (&json!("degraded"), &json!("degraded"))
    );
    engine.get("/shell/").await.expect(200);
}

#[tokio::test]
async fn an_update_changes_what_the_file_changes_and_can_be_taken_back() {
    let (engine, project) = (Engine::start().await, Project::new("update"));
    let identity = project.name();
    let file = |web: &str, more: &str| {
        format!(
            "services:\n  db:\n    image: {IMAGE}\n    command: {FOREVER}\n  web:\n    image: {IMAGE}\n    command: \
             {FOREVER}\n    environment: {{WHO: {web}}}\n{more}"
        )
    };
    let extra = format!("  extra:\n    image: {IMAGE}\n    command: {FOREVER}\n");
    create(&engine, &project, &file("one", "")).await;
    let id = |service: &str| docker(&["inspect", "-f", "{{.Id}}", &project.container(service)]);
    let (db, web) = (id("db"), id("web"));

    let bad = json!({ "identity": identity, "content": "services: {web: {imge: x}}" });
    engine.put("/workflow/compose/update/", bad).await.refusal(422);
    let body = json!({ "identity": identity, "content": file("two", &extra) });
    let updated = engine.put("/workflow/compose/update/", body).await.expect(200);
    assert_eq!((&updated["revision"], &updated["state"]), (&json!(2), &json!("running")), "{updated}");
    let plan = [
        json!({ "call": "create container", "resource": project.container("extra"), "cause": "there is none" }),
        json!({
            "call": "recreate container", "resource": project.container("web"), "cause": "its configuration changed"
        }),
    ];
    assert_eq!(updated["plan"], json!(plan), "{updated}");
    assert_eq!(updated["containers"].as_array().map(Vec::len), Some(3));
    assert_eq!(id("db"), db, "what did not change is left alone");
    let second = id("web");
    assert_ne!(second, web);

    let back = engine.put("/workflow/compose/rollback/", json!({ "identity": identity })).await.expect(200);
    assert_eq!((&back["revision"], &back["state"]), (&json!(3), &json!("running")), "{back}");
    assert_eq!(back["containers"].as_array().map(Vec::len), Some(2), "{back}");
    let said = json!({ "identity": identity, "service": "web", "command": "echo $WHO" });
    assert_eq!(engine.put("/workflow/compose/execute/", said).await.expect(200)["stdout"], "one\n");

    let described = engine.get(&format!("/workflow/compose/{identity}/")).await.expect(200);
    let revisions: Vec<(i64, bool)> = described["revisions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|revision| (revision["revision"].as_i64().expect("a number"), revision["current"] == true))
        .collect();
    assert_eq!(revisions, [(3, true), (2, false), (1, false)]);
    assert_eq!(described["plan"], json!([]), "{described}");
    for revision in [json!(9), json!(0), json!("1")] {
        let status = if revision == 9 { 404 } else { 400 };
        let body = json!({ "identity": identity, "revision": revision });
        engine.put("/workflow/compose/rollback/", body).await.refusal(status);
    }

    // One that is stopped is not started by an update.
    act(&engine, "stop", &project).await;
    let body = json!({ "identity": identity, "content": file("three", "") });
    let updated = engine.put("/workflow/compose/update/", body).await.expect(200);
    assert_eq!(updated["revision"], 4);
    assert_ne!(updated["state"], "running", "{updated}");
    assert_eq!(act(&engine, "start", &project).await["state"], "running");
    engine.delete("/workflow/compose/", json!({ "identity": identity })).await.expect(200);
    engine.put("/workflow/compose/update/", json!({ "identity": identity, "content": "x" })).await.refusal(404);
}
