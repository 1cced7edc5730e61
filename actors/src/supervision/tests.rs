//! Supervisors with children that panic, fail to start, hang and end cleanly, for each strategy and restart type.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{ChildSpec, Intensity, Restart, Strategy, SupervisionError, Supervisor, SupervisorHandle, SupervisorSpec};

/// What a child does when told.
#[derive(Clone, Copy, Debug)]
enum Do {
    Panic,
    Fail,
    End,
    Hang,
}

/// What all children of a test share.
#[derive(Clone, Default)]
struct World {
    /// Starts and stops, as they happened.
    log: Arc<Mutex<Vec<String>>>,
    live: Arc<AtomicUsize>,
    actors: Arc<Mutex<BTreeMap<String, ActorRef<Do>>>>,
    /// Children that do not start, and how many times more.
    broken: Arc<Mutex<BTreeMap<String, u32>>>,
}

struct Probe;

struct ProbeState {
    world: World,
    id: String,
}

impl Drop for ProbeState {
    fn drop(&mut self) {
        self.world.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Actor for Probe {
    type Msg = Do;
    type State = ProbeState;
    type Arguments = (World, String);

    async fn pre_start(
        &self,
        myself: ActorRef<Do>,
        (world, id): (World, String),
    ) -> Result<ProbeState, ActorProcessingErr> {
        if let Some(times) = world.broken.lock().expect("whole").get_mut(&id)
            && *times > 0
        {
            *times -= 1;
            return Err("told not to start".into());
        }
        world.log.lock().expect("whole").push(format!("+{id}"));
        world.live.fetch_add(1, Ordering::SeqCst);
        world.actors.lock().expect("whole").insert(id.clone(), myself);
        Ok(ProbeState { world, id })
    }

    async fn post_stop(&self, _: ActorRef<Do>, state: &mut ProbeState) -> Result<(), ActorProcessingErr> {
        state.world.log.lock().expect("whole").push(format!("-{}", state.id));
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Do>, told: Do, _: &mut ProbeState) -> Result<(), ActorProcessingErr> {
        match told {
            Do::Panic => panic!("told to panic"),
            Do::Fail => return Err("told to fail".into()),
            Do::End => myself.stop(None),
            Do::Hang => std::future::pending::<()>().await,
        }
        Ok(())
    }
}

impl World {
    fn child(&self, id: &str) -> ChildSpec {
        let (world, id) = (self.clone(), id.to_owned());
        let name: Arc<str> = id.as_str().into();
        ChildSpec::worker(name, move |supervisor| {
            let arguments = (world.clone(), id.clone());
            async move {
                let (actor, _) = Actor::spawn_linked(None, Probe, arguments, supervisor).await?;
                Ok(actor.get_cell())
            }
        })
    }

    fn tell(&self, id: &str, what: Do) {
        let actor = self.actors.lock().expect("whole")[id].clone();
        // One that has ended already cannot be told, and need not be.
        let _ = actor.send_message(what);
    }

    fn kill(&self, id: &str) {
        self.actors.lock().expect("whole")[id].kill();
    }

    fn break_start(&self, id: &str, times: u32) {
        self.broken.lock().expect("whole").insert(id.into(), times);
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().expect("whole").clone()
    }

    fn starts(&self, id: &str) -> usize {
        let start = format!("+{id}");
        self.log().into_iter().filter(|entry| *entry == start).count()
    }

    async fn until_started(&self, id: &str, times: usize) {
        until(&format!("{times} starts of {id}"), || self.starts(id) >= times).await;
    }
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let waited = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

async fn states(supervisor: &SupervisorHandle) -> Vec<(String, &'static str)> {
    supervisor.tree().await.into_iter().map(|child| (child.id.to_string(), child.state.name())).collect()
}

async fn supervise(strategy: Strategy, world: &World, ids: &[&str]) -> SupervisorHandle {
    let children = ids.iter().map(|id| world.child(id)).collect();
    Supervisor::spawn(SupervisorSpec::new("test", strategy, children)).await.expect("it starts")
}

#[tokio::test]
async fn children_start_in_order_and_stop_in_reverse() {
    let world = World::default();
    let supervisor = supervise(Strategy::OneForOne, &world, &["a", "b", "c"]).await;
    supervisor.stop(Duration::from_secs(5)).await;
    assert_eq!(world.log(), ["+a", "+b", "+c", "-c", "-b", "-a"]);
    assert_eq!(world.live.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_child_that_does_not_start_takes_those_before_it_along() {
    let world = World::default();
    world.break_start("c", 1);
    let children = ["a", "b", "c", "d"].map(|id| world.child(id)).to_vec();
    let started = Supervisor::spawn(SupervisorSpec::new("test", Strategy::OneForOne, children)).await;
    assert!(started.is_err());
    assert_eq!(world.log(), ["+a", "+b", "-b", "-a"]);
    until("nothing is left", || world.live.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn each_strategy_restarts_whom_it_names() {
    for (strategy, told) in [Do::Panic, Do::Fail].into_iter().flat_map(|told| {
        [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne].map(|strategy| (strategy, told))
    }) {
        let world = World::default();
        let supervisor = supervise(strategy, &world, &["a", "b", "c"]).await;
        world.tell("b", told);
        let expected: &[&str] = match strategy {
            Strategy::OneForOne => &["+b"],
            Strategy::OneForAll => &["-c", "-a", "+a", "+b", "+c"],
            Strategy::RestForOne => &["-c", "+b", "+c"],
        };
        until("the restart", || world.log().len() >= 3 + expected.len()).await;
        assert_eq!(world.log()[3..], *expected, "{strategy:?} {told:?}");
        until("all are shown as running", || world.live.load(Ordering::SeqCst) == 3).await;
        let infos = supervisor.tree().await;
        assert_eq!(infos[1].restarts, 1);
        assert!(infos[1].last_exit.as_deref().is_some_and(|exit| exit.contains("told to")), "{infos:?}");
        supervisor.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn each_restart_type_comes_back_when_it_should() {
    for (restart, told, back) in [
        (Restart::Permanent, Do::End, true),
        (Restart::Permanent, Do::Panic, true),
        (Restart::Transient, Do::End, false),
        (Restart::Transient, Do::Fail, true),
        (Restart::Temporary, Do::End, false),
        (Restart::Temporary, Do::Panic, false),
    ] {
        let world = World::default();
        let children = vec![world.child("a").restart(restart), world.child("b")];
        let supervisor =
            Supervisor::spawn(SupervisorSpec::new("test", Strategy::OneForOne, children)).await.expect("it starts");
        world.tell("a", told);
        if back {
            world.until_started("a", 2).await;
        } else {
            until("its end", || world.live.load(Ordering::SeqCst) == 1).await;
            // Whatever else the supervisor would do it has done once it has answered this.
            supervisor.start_child(world.child("c")).await.expect("it starts");
            assert_eq!(world.starts("a"), 1, "{restart:?} {told:?}");
            let known = states(&supervisor).await.iter().any(|(id, _)| id == "a");
            assert_eq!(known, restart == Restart::Transient, "a temporary child is forgotten");
        }
        supervisor.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_child_over_the_intensity_stops_its_supervisor_and_all_its_siblings() {
    let world = World::default();
    let children = vec![world.child("a"), world.child("b")];
    let spec = SupervisorSpec::new("inner", Strategy::OneForOne, children)
        .intensity(Intensity { max: 2, period: Duration::from_secs(60) });
    let outer_spec = ChildSpec::supervisor("inner", move |parent| {
        let spec = spec.clone();
        async move { Ok(Supervisor::spawn_linked(spec, parent).await?.cell()) }
    });
    let outer = Supervisor::spawn(SupervisorSpec::new("outer", Strategy::OneForOne, vec![outer_spec])).await;
    let outer = outer.expect("it starts");
    for start in 1..=3 {
        world.until_started("b", start).await;
        world.tell("b", Do::Panic);
    }
    // The outer supervisor starts the inner one anew, and with it both children.
    world.until_started("a", 2).await;
    world.until_started("b", 4).await;
    let tree = outer.tree().await;
    assert_eq!(tree[0].restarts, 1);
    assert!(tree[0].last_exit.as_deref().is_some_and(|exit| exit.contains('b')), "{tree:?}");
    outer.stop(Duration::from_secs(5)).await;
    until("nothing is left", || world.live.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_child_over_its_own_intensity_fails_alone() {
    let world = World::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let gave_up = {
        let told = Arc::clone(&told);
        Arc::new(move |id: &str, reason: &str| told.lock().expect("whole").push(format!("{id}: {reason}")))
    };
    let children = vec![world.child("a"), world.child("b")];
    let spec = SupervisorSpec::new("test", Strategy::OneForOne, children)
        .intensity(Intensity { max: 2, period: Duration::from_secs(60) })
        .per_child(gave_up);
    let supervisor = Supervisor::spawn(spec).await.expect("it starts");
    for start in 1..=3 {
        world.until_started("b", start).await;
        world.tell("b", Do::Panic);
    }
    until("it is told", || !told.lock().expect("whole").is_empty()).await;
    assert_eq!(states(&supervisor).await, [("a".to_owned(), "running"), ("b".to_owned(), "failed")]);
    assert_eq!(world.starts("a"), 1, "its sibling noticed nothing");
    supervisor.stop_child("b").await.expect("it can be forgotten");
    supervisor.start_child(world.child("b")).await.expect("and started anew");
    supervisor.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_restart_that_does_not_start_is_tried_again() {
    let world = World::default();
    let supervisor = supervise(Strategy::RestForOne, &world, &["a", "b"]).await;
    world.break_start("a", 2);
    world.tell("a", Do::Panic);
    world.until_started("a", 2).await;
    world.until_started("b", 2).await;
    until("all run", || world.live.load(Ordering::SeqCst) == 2).await;
    supervisor.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_at_its_deadline_and_holds_up_nobody_else() {
    let world = World::default();
    let supervisor = supervise(Strategy::OneForOne, &world, &["a"]).await;
    supervisor.start_child(world.child("b").shutdown(Duration::from_millis(50))).await.expect("it starts");
    world.tell("b", Do::Hang);
    supervisor.stop_child("b").await.expect("stopped by force");
    until("it is gone", || world.live.load(Ordering::SeqCst) == 1).await;
    assert!(!world.log().contains(&"-b".to_owned()), "without its post_stop");
    assert_eq!(states(&supervisor).await, [("a".to_owned(), "running")]);
    supervisor.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn ids_are_unique_and_a_failed_start_leaves_nothing() {
    let world = World::default();
    let supervisor = supervise(Strategy::OneForOne, &world, &["a"]).await;
    let twice = supervisor.start_child(world.child("a")).await;
    assert_eq!(twice.err(), Some(SupervisionError::Exists("a".into())));
    world.break_start("b", 1);
    let failed = supervisor.start_child(world.child("b")).await;
    assert!(matches!(failed, Err(SupervisionError::Start { .. })), "{failed:?}");
    supervisor.start_child(world.child("b")).await.expect("now it starts");
    assert_eq!(supervisor.stop_child("c").await, Err(SupervisionError::NotFound("c".into())));
    supervisor.stop(Duration::from_secs(5)).await;
    assert_eq!(supervisor.start_child(world.child("d")).await.err(), Some(SupervisionError::Gone));
}

#[tokio::test]
async fn a_caller_that_goes_away_changes_nothing() {
    let world = World::default();
    let supervisor = supervise(Strategy::OneForOne, &world, &["a"]).await;
    let asking = {
        let (supervisor, child) = (supervisor.clone(), world.child("b"));
        tokio::spawn(async move { supervisor.start_child(child).await })
    };
    asking.abort();
    supervisor.start_child(world.child("c")).await.expect("the supervisor goes on");
    supervisor.stop(Duration::from_secs(5)).await;
    until("nothing is left", || world.live.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn all_children_stop_and_start_on_request() {
    let world = World::default();
    let supervisor = supervise(Strategy::RestForOne, &world, &["a", "b"]).await;
    supervisor.stop_all().await.expect("stopped");
    assert_eq!(states(&supervisor).await, [("a".to_owned(), "stopped"), ("b".to_owned(), "stopped")]);
    supervisor.start_all().await.expect("started");
    assert_eq!(world.log(), ["+a", "+b", "-b", "-a", "+a", "+b"]);
    supervisor.stop(Duration::from_secs(5)).await;
}

/// What is done to one of four children.
#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize, Restart),
    Stop(usize),
    Tell(usize, Do),
    Kill(usize),
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let child = 0..4_usize;
    let restart = prop_oneof![Just(Restart::Permanent), Just(Restart::Transient), Just(Restart::Temporary)];
    let told = prop_oneof![Just(Do::Panic), Just(Do::Fail), Just(Do::End)];
    prop_oneof![
        3 => (child.clone(), restart).prop_map(|(child, restart)| Step::Start(child, restart)),
        1 => child.clone().prop_map(Step::Stop),
        3 => (child.clone(), told).prop_map(|(child, told)| Step::Tell(child, told)),
        1 => child.prop_map(Step::Kill),
    ]
}

/// Runs the steps against a supervisor and against a model of it: who runs, and how often each was started.
async fn run_steps(steps: Vec<Step>, side_by_side: bool) {
    let world = World::default();
    let mut spec = SupervisorSpec::new("test", Strategy::OneForOne, Vec::new())
        .intensity(Intensity { max: u32::MAX, period: Duration::from_secs(1) });
    if side_by_side {
        spec = spec.per_child(Arc::new(|id, reason| panic!("{id} gave up: {reason}")));
    }
    let supervisor = Supervisor::spawn(spec).await.expect("it starts");
    // Of each child that is known: how it is restarted, whether it runs, how often it was started.
    let mut model: [Option<(Restart, bool)>; 4] = [None; 4];
    let mut starts = [0; 4];
    for step in steps {
        match step {
            Step::Start(child, restart) => {
                let result = supervisor.start_child(world.child(&child.to_string()).restart(restart)).await;
                assert_eq!(result.is_ok(), model[child].is_none(), "{result:?}");
                if model[child].is_none() {
                    model[child] = Some((restart, true));
                    starts[child] += 1;
                }
            }
            Step::Stop(child) => {
                let result = supervisor.stop_child(&child.to_string()).await;
                assert_eq!(result.is_ok(), model[child].is_some(), "{result:?}");
                model[child] = None;
            }
            Step::Tell(child, _) | Step::Kill(child) => {
                let Some((restart, true)) = model[child] else { continue };
                let id = child.to_string();
                let clean = match step {
                    Step::Tell(_, told) => {
                        world.tell(&id, told);
                        matches!(told, Do::End)
                    }
                    // ractor reports a killed actor as one that terminated.
                    _ => {
                        world.kill(&id);
                        true
                    }
                };
                let again = match restart {
                    Restart::Permanent => true,
                    Restart::Transient => !clean,
                    Restart::Temporary => false,
                };
                if again {
                    starts[child] += 1;
                    world.until_started(&id, starts[child]).await;
                } else {
                    let live = model.iter().flatten().filter(|(_, runs)| *runs).count() - 1;
                    until("its end", || world.live.load(Ordering::SeqCst) == live).await;
                    model[child] = (restart == Restart::Transient).then_some((restart, false));
                }
                // The supervisor has been told of the end as well, once its tree shows it.
                until_shown(&supervisor, &model).await;
            }
        }
    }
    until_shown(&supervisor, &model).await;
    let running = model.iter().flatten().filter(|(_, runs)| *runs).count();
    assert_eq!(world.live.load(Ordering::SeqCst), running, "no actor is leaked");
    for (child, starts) in starts.iter().enumerate() {
        assert_eq!(world.starts(&child.to_string()), *starts, "starts of {child}");
    }
    supervisor.stop(Duration::from_secs(5)).await;
    until("nothing is left", || world.live.load(Ordering::SeqCst) == 0).await;
}

async fn until_shown(supervisor: &SupervisorHandle, model: &[Option<(Restart, bool)>; 4]) {
    let expected: BTreeMap<String, &str> = model
        .iter()
        .enumerate()
        .filter_map(|(child, known)| Some((child.to_string(), if (*known)?.1 { "running" } else { "stopped" })))
        .collect();
    let shown = async {
        while states(supervisor).await.into_iter().collect::<BTreeMap<_, _>>() != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), shown).await.is_err() {
        panic!("the tree is {:?}, not {expected:?}", states(supervisor).await);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_supervisor_does_what_its_model_does(steps in proptest::collection::vec(step(), 1..24), side_by_side: bool) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(run_steps(steps, side_by_side));
    }
}
