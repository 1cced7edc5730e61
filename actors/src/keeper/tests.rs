//! The actor against a keeper on a thread of the test.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::process::{self, Options};
use super::*;

/// How long a test waits for a state.
const PATIENCE: Duration = Duration::from_secs(20);

struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// A data directory, a keeper that serves it, and an engine's handle on it.
struct Bench {
    keeper: Keeper,
    engine: ActorCell,
    parent: ActorRef<()>,
    server: Option<std::thread::JoinHandle<std::io::Result<()>>>,
    directory: tempfile::TempDir,
}

fn serve(directory: &Path, options: Options) -> std::thread::JoinHandle<std::io::Result<()>> {
    let directory = directory.to_path_buf();
    std::thread::spawn(move || process::serve(&directory, process::lock(&directory)?, options, || {}))
}

fn options() -> Options {
    let linger = (PATIENCE, Duration::ZERO);
    Options { max_shells: 2000, linger, cgroups: true, own_process: false }
}

fn handle(directory: &Path) -> Keeper {
    let settings = Settings { program: Some(PathBuf::from("/nowhere/dxflow")), ..Settings::default() };
    Keeper::new(Live::new(settings), directory.into())
}

async fn begin(keeper: &Keeper) -> (ActorRef<()>, ActorCell) {
    let (parent, _) = Actor::spawn(None, Parent, ()).await.expect("a parent");
    let engine = (keeper.child().start)(parent.get_cell()).await.expect("a client");
    (parent, engine)
}

impl Bench {
    async fn new() -> Self {
        Self::with(options()).await
    }

    async fn with(options: Options) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let server = serve(directory.path(), options);
        // The file is there a moment before the keeper listens.
        let socket = directory.path().join("keeper.sock");
        until("the socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let keeper = handle(directory.path());
        let (parent, engine) = begin(&keeper).await;
        Self { keeper, engine, parent, server: Some(server), directory }
    }

    /// The engine dies and a new one comes.
    async fn restart_engine(&mut self) {
        self.engine.kill();
        self.parent.kill();
        self.keeper = handle(self.directory.path());
        (self.parent, self.engine) = begin(&self.keeper).await;
    }

    /// Ends the engine; the keeper must end too, because it holds nothing any more.
    async fn end(mut self) {
        assert_eq!(self.keeper.list().await.expect("a list"), [], "shells were left behind");
        self.engine.stop_and_wait(None, None).await.expect("it stops");
        let server = self.server.take().expect("not ended yet");
        until("the end of the keeper", || server.is_finished());
        server.join().expect("no panic").expect("no error");
        assert!(!self.directory.path().join("keeper.sock").exists());
    }

    async fn sh(&self, name: &str, script: &str) -> Adopted {
        self.keeper.spawn(spec(name, "/bin/sh", &["-c", script])).await.expect("it starts")
    }

    async fn remove(&self, name: &str) {
        self.keeper.remove(&id(name), Duration::from_millis(200)).await.expect("it goes");
    }

    /// The shell's record, once it has ended.
    async fn ended(&self, name: &str) -> Record {
        let until = Instant::now() + PATIENCE;
        loop {
            let record = self.keeper.adopt(&id(name)).await.expect("it is there").record;
            if !record.status.is_running() {
                return record;
            }
            assert!(Instant::now() < until, "`{name}` did not end");
            tokio::task::yield_now().await;
        }
    }
}

fn id(name: &str) -> ShellId {
    name.parse().expect("a name")
}

fn spec(name: &str, path: &str, args: &[&str]) -> SpawnSpec {
    SpawnSpec {
        id: id(name),
        path: path.into(),
        args: args.iter().map(|arg| (*arg).into()).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("DXFLOW_SHELL".into(), name.into())],
        cwd: "/".into(),
        columns: 80,
        rows: 24,
        log_capacity: 1 << 20,
        note: b"note".to_vec(),
        start: true,
        limits: None,
    }
}

fn until(what: &str, state: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !state() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads the terminal into the log until `enough` says so of all that is kept, or nobody holds its other end.
fn read_until(adopted: &Adopted, enough: impl Fn(&str) -> bool) -> String {
    let pty = adopted.pty.as_ref().expect("a terminal");
    let end = Instant::now() + PATIENCE;
    loop {
        let mut kept = Vec::new();
        adopted.log.read(adopted.log.oldest(), usize::MAX, &mut kept).expect("no other reader");
        let kept = String::from_utf8_lossy(&kept).into_owned();
        if enough(&kept) {
            return kept;
        }
        assert!(Instant::now() < end, "waited in vain; there is {kept:?}");
        let mut poll = [rustix::event::PollFd::new(pty, rustix::event::PollFlags::IN)];
        let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        rustix::event::poll(&mut poll, Some(&tick)).expect("poll");
        match adopted.log.fill_from(pty.as_fd(), 4096) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return kept,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            Ok(_) => {}
        }
    }
}

fn read_all(adopted: &Adopted) -> String {
    read_until(adopted, |_| false)
}

fn alive(pid: i32) -> bool {
    super::tree::Process::of(pid).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_true_and_told() {
    let bench = Bench::new().await;
    let mut events = bench.keeper.events();
    for (name, script, status) in [
        ("zero", "exit 0", Status::Exited { code: 0 }),
        ("seven", "exit 7", Status::Exited { code: 7 }),
        ("term", "kill -TERM $$", Status::Signalled { signal: 15 }),
    ] {
        bench.sh(name, script).await;
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event");
        let KeeperEvent::Exited { id, generation, status: told, usage } = event else { panic!("{event:?}") };
        assert_eq!((id.as_str(), generation, &told), (name, 1, &status));
        assert!(usage.is_some_and(|usage| usage.memory_peak > 0));
        let record = bench.ended(name).await;
        assert_eq!((record.status, record.pid), (status, None));
        assert!(record.ended_at >= Some(record.created_at));
        bench.remove(name).await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_kept_while_no_engine_is_there() {
    let mut bench = Bench::new().await;
    bench.sh("waits", "read line; exit 9").await;
    let adopted = bench.keeper.adopt(&id("waits")).await.expect("it is there");
    bench.engine.kill();
    let pty = adopted.pty.expect("a terminal");
    rustix::io::write(&pty, b"\n").expect("room");
    bench.restart_engine().await;
    assert_eq!(bench.ended("waits").await.status, Status::Exited { code: 9 });
    bench.remove("waits").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_output_is_in_the_log() {
    let bench = Bench::new().await;
    let adopted = bench.sh("seq", "seq 1 100000").await;
    let expected: String = (1..=100_000).map(|n| format!("{n}\r\n")).collect();
    assert!(read_all(&adopted) == expected, "the log is not what `seq` wrote");
    bench.remove("seq").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_engine_goes_on_at_the_exact_byte() {
    let mut bench = Bench::new().await;
    let mut adopted = bench.sh("seq", "seq 1 50000").await;
    let expected: String = (1..=50_000).map(|n| format!("{n}\r\n")).collect();
    for part in 1..=5 {
        read_until(&adopted, |kept| kept.len() >= expected.len() / 6 * part);
        let committed = adopted.log.committed();
        drop(adopted);
        bench.restart_engine().await;
        let records = bench.keeper.list().await.expect("a list");
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].note, b"note");
        adopted = bench.keeper.adopt(&id("seq")).await.expect("it is there");
        assert_eq!(adopted.log.committed(), committed);
    }
    assert!(read_all(&adopted) == expected, "bytes were lost or came twice");
    bench.remove("seq").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_is_refused_in_words_and_leaves_nothing() {
    let bench = Bench::new().await;
    let with = |change: fn(&mut SpawnSpec)| {
        let mut spec = spec("bad", "/bin/sh", &[]);
        change(&mut spec);
        spec
    };
    for (spec, slug, words) in [
        (with(|spec| spec.path = "/no/such".into()), "cannot-start", "cannot start `/no/such`: no such file"),
        (with(|spec| spec.path = "no-such-program".into()), "cannot-start", "no such program in PATH"),
        (with(|spec| spec.path = "/etc/passwd".into()), "cannot-start", "permission denied"),
        (with(|spec| spec.path = "/tmp".into()), "cannot-start", "it is a directory"),
        (with(|spec| spec.path = String::new()), "invalid-shell", "empty"),
        (with(|spec| spec.cwd = "/no/such".into()), "cannot-start", "cannot start in `/no/such`: no such file"),
        (with(|spec| spec.cwd = "/etc/passwd".into()), "cannot-start", "not a directory"),
        (with(|spec| spec.cwd = "tmp".into()), "cannot-start", "not an absolute path"),
        (with(|spec| spec.args = vec!["a\0b".into()]), "invalid-shell", "NUL"),
        (with(|spec| spec.env = vec![("a=b".into(), "c".into())]), "invalid-shell", "environment variable"),
        (with(|spec| spec.columns = 0), "invalid-shell", "columns"),
        (with(|spec| spec.rows = 1001), "invalid-shell", "rows"),
        (with(|spec| spec.note = vec![0; MAX_NOTE + 1]), "invalid-shell", "note"),
        (with(|spec| spec.args = vec!["x".repeat(3 << 20)]), "cannot-start", "too long"),
        (with(|spec| spec.args = vec!["x".repeat(5 << 20)]), "invalid-shell", "too long"),
    ] {
        let error = bench.keeper.spawn(spec).await.expect_err(words);
        assert_eq!(crate::error::Failure::slug(&error), slug, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    for refused in [
        bench.keeper.adopt(&id("none")).await.map(drop),
        bench.keeper.start(&id("none")).await.map(drop),
        bench.keeper.resize(&id("none"), 1, 1).await,
        bench.keeper.signal(&id("none"), 15, Scope::Tree).await,
        bench.keeper.set_note(&id("none"), vec![]).await,
        bench.keeper.remove(&id("none"), Duration::ZERO).await,
    ] {
        assert!(matches!(refused, Err(KeeperError::NotFound { .. })), "{refused:?}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_taken_once_and_the_number_is_bounded() {
    let bench = Bench::with(Options { max_shells: 2, ..options() }).await;
    let created = SpawnSpec { start: false, ..spec("a", "/bin/sh", &["-c", "exit 3"]) };
    let adopted = bench.keeper.spawn(created.clone()).await.expect("it is made");
    assert!(adopted.pty.is_none());
    assert_eq!((adopted.record.status, adopted.record.generation), (Status::Created, 0));
    assert!(matches!(bench.keeper.spawn(created).await, Err(KeeperError::Exists { .. })));
    assert!(matches!(bench.keeper.signal(&id("a"), 15, Scope::Tree).await, Err(KeeperError::NotRunning { .. })));
    bench.keeper.resize(&id("a"), 132, 50).await.expect("for the terminal to come");
    bench.sh("b", "sleep 1000").await;
    assert!(matches!(bench.keeper.start(&id("b")).await, Err(KeeperError::Running { .. })));
    let third = bench.keeper.spawn(spec("c", "/bin/sh", &[])).await;
    assert!(matches!(third, Err(KeeperError::TooMany { limit: 2 })), "{third:?}");
    for generation in 1..=3 {
        let adopted = bench.keeper.start(&id("a")).await.expect("it starts");
        assert_eq!(adopted.record.generation, generation);
        assert!(adopted.pty.is_some());
        let record = bench.ended("a").await;
        assert_eq!((record.status, record.columns, record.rows), (Status::Exited { code: 3 }, 132, 50));
    }
    bench.keeper.set_note(&id("a"), b"other".to_vec()).await.expect("it is there");
    assert_eq!(bench.keeper.list().await.expect("a list")[0].note, b"other");
    bench.remove("a").await;
    bench.remove("b").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_size_is_seen_by_the_program() {
    let bench = Bench::new().await;
    let adopted =
        bench.sh("size", "stty size; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done").await;
    read_until(&adopted, |kept| kept == "24 80\r\nready\r\n");
    bench.keeper.resize(&id("size"), 132, 50).await.expect("it is there");
    assert_eq!(read_all(&adopted), "24 80\r\nready\r\n50 132\r\n");
    bench.remove("size").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_its_environment_and_terminal_and_nothing_else() {
    // What an engine may have: an open file that is not close-on-exec, ignored signals.
    let null = std::fs::File::open("/dev/null").expect("null");
    let leaky = rustix::io::dup(&null).expect("a descriptor");
    let bench = Bench::new().await;
    let script = "echo $(ls /proc/self/fd); env | sort | grep -v '^_=\\|^SHLVL=\\|^PWD='; \
                  grep '^Sig[BI]' /proc/self/status; tty; ps -o sid=,pgid=,tpgid= -p $$ | tr -s ' '; echo $$";
    let adopted = bench.sh("env", script).await;
    let output = read_all(&adopted);
    let lines: Vec<&str> = output.lines().collect();
    // The third is `ls` reading the directory.
    assert_eq!(lines[0], "0 1 2 3", "{output}");
    assert_eq!(lines[1..3], ["DXFLOW_SHELL=env", "PATH=/usr/bin:/bin"], "{output}");
    assert_eq!(lines[3], "SigBlk:\t0000000000000000", "{output}");
    assert_eq!(lines[4], "SigIgn:\t0000000000000000", "{output}");
    assert!(lines[5].starts_with("/dev/pts/"), "{output}");
    let pid = adopted.record.pid.expect("it ran").to_string();
    assert_eq!(lines[6].split_whitespace().collect::<Vec<_>>(), [pid.as_str(); 3], "{output}");
    assert_eq!(lines[7], pid);
    drop(leaky);
    bench.remove("env").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_c_interrupts_what_runs() {
    let bench = Bench::new().await;
    // One process: an interrupt that dash gets just before it starts a program waits for that program's end.
    let adopted = bench.sh("int", "echo ready; read -r line").await;
    read_until(&adopted, |kept| kept == "ready\r\n");
    rustix::io::write(adopted.pty.as_ref().expect("a terminal"), b"\x03").expect("room");
    assert_eq!(bench.ended("int").await.status, Status::Signalled { signal: 2 });
    bench.remove("int").await;
    let adopted = bench.sh("hup", "echo ready; sleep 1000").await;
    read_until(&adopted, |kept| kept == "ready\r\n");
    bench.keeper.signal(&id("hup"), 10, Scope::Foreground).await.expect("it runs");
    assert_eq!(bench.ended("hup").await.status, Status::Signalled { signal: 10 });
    let odd = bench.keeper.signal(&id("hup"), 99, Scope::Tree).await;
    assert!(matches!(odd, Err(KeeperError::Invalid { .. })));
    bench.remove("hup").await;
    bench.end().await;
}

/// Starts a shell with all sorts of descendants that ignore hang-ups, and gives their numbers.
async fn grove(bench: &Bench, name: &str) -> (Adopted, Vec<i32>) {
    let script = "trap '' HUP TERM; sleep 1001 & echo $!; setsid sleep 1002 & echo $!; \
                  setsid sh -c 'echo $$; (sleep 1003 & echo $!; setsid sleep 1004 & echo $!) & wait; sleep 1007' & \
                  (setsid sh -c 'sleep 1005 & echo $!; exec sleep 1006' & echo $!) ; sleep 0.2; echo ready; wait; sleep 1000";
    let adopted = bench.sh(name, script).await;
    let output = read_until(&adopted, |kept| kept.contains("ready"));
    let pids: Vec<i32> = output.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(pids.len(), 7, "{output}");
    assert!(pids.iter().all(|pid| alive(*pid)));
    (adopted, pids)
}

async fn killing_means_the_tree(cgroups: bool) {
    if !cgroups {
        // What the keeper process does for itself.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a prctl");
    }
    let bench = Bench::with(Options { cgroups, ..options() }).await;
    let (_adopted, pids) = grove(&bench, "removed").await;
    bench.remove("removed").await;
    assert!(pids.iter().all(|pid| !alive(*pid)), "something outlived the removal");
    let (_adopted, pids) = grove(&bench, "killed").await;
    let (_other, others) = grove(&bench, "other").await;
    bench.keeper.signal(&id("killed"), 9, Scope::Tree).await.expect("it runs");
    assert_eq!(bench.ended("killed").await.status, Status::Signalled { signal: 9 });
    until("the end of the tree", || pids.iter().all(|pid| !alive(*pid)));
    assert!(others.iter().all(|pid| alive(*pid)), "another shell was hit");
    bench.remove("killed").await;
    // What a shell leaves behind when it ends goes with its removal.
    bench.keeper.signal(&id("other"), 9, Scope::Shell).await.expect("it runs");
    bench.ended("other").await;
    assert!(others.iter().any(|pid| alive(*pid)));
    bench.remove("other").await;
    assert!(others.iter().all(|pid| !alive(*pid)), "something outlived the removal");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_means_the_tree_with_cgroups_where_there_are_any() {
    killing_means_the_tree(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_means_the_tree_without_cgroups() {
    killing_means_the_tree(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_refused_where_they_cannot_be_enforced() {
    let bench = Bench::with(Options { cgroups: false, ..options() }).await;
    let limits = Some(Limits { memory: Some(1 << 30), ..Limits::default() });
    let refused = bench.keeper.spawn(SpawnSpec { limits, ..spec("limited", "/bin/sh", &[]) }).await;
    assert!(matches!(&refused, Err(KeeperError::Limits { reason }) if reason.contains("cgroup")), "{refused:?}");
    let none = Some(Limits::default());
    bench.keeper.spawn(SpawnSpec { limits: none, ..spec("free", "/bin/sh", &[]) }).await.expect("nothing is limited");
    bench.remove("free").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_cannot_be_had_is_told_in_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let keeper = handle(directory.path());
    let (_parent, engine) = begin(&keeper).await;
    let error = keeper.list().await.expect_err("there is none");
    assert!(error.to_string().contains("/nowhere/dxflow"), "{error}");
    let mut events = keeper.events();
    // It is found when it comes.
    let server = serve(directory.path(), options());
    let end = Instant::now() + PATIENCE;
    while let Err(error) = keeper.list().await {
        assert!(Instant::now() < end, "{error}");
    }
    assert!(events.try_recv().is_err(), "the first connection is no reconnection");
    engine.stop_and_wait(None, None).await.expect("it stops");
    until("the end of the keeper", || server.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_garbage_do_not_disturb() {
    use std::io::{Read, Write};
    let bench = Bench::new().await;
    let sock = bench.directory.path().join("keeper.sock");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&sock).expect("it is there").permissions().mode() & 0o777, 0o600);
    let talk = |bytes: &[u8]| {
        let mut socket = std::os::unix::net::UnixStream::connect(&sock).expect("it listens");
        socket.write_all(bytes).expect("room");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let newer = protocol::encode(&protocol::Request::Hello { version: 99 }, 0).expect("short");
    assert!(talk(&newer).contains("this keeper speaks version 1"));
    let early = protocol::Request::Ask { id: 1, command: Command::List { after: None } };
    assert!(talk(&protocol::encode(&early, 0).expect("short")).contains("the first word is hello"));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[255; 64], b"\x02\0\0\0\0\0\0\0{}"] {
        assert_eq!(talk(garbage), "");
    }
    // The engine's own connection has not noticed.
    bench.sh("fine", "sleep 1000").await;
    bench.remove("fine").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_shells_are_made_listed_and_removed_at_once() {
    let bench = Bench::new().await;
    let count = 200;
    let begun = Instant::now();
    let mut spawns = tokio::task::JoinSet::new();
    for number in 0..count {
        let keeper = bench.keeper.clone();
        let spec = SpawnSpec { note: vec![b'x'; MAX_NOTE], ..spec(&format!("s{number}"), "/bin/sleep", &["1000"]) };
        spawns.spawn(async move { keeper.spawn(spec).await.expect("it starts") });
    }
    let adopted = spawns.join_all().await;
    println!("{count} shells in {:?}", begun.elapsed());
    assert_eq!(bench.keeper.list().await.expect("a list").len(), count);
    let begun = Instant::now();
    let mut removals = tokio::task::JoinSet::new();
    for shell in &adopted {
        let (keeper, id) = (bench.keeper.clone(), shell.record.id.clone());
        removals.spawn(async move { keeper.remove(&id, Duration::from_secs(5)).await.expect("it goes") });
    }
    removals.join_all().await;
    println!("and gone in {:?}", begun.elapsed());
    bench.end().await;
}
