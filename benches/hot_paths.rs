//! What happens for every request, key and chunk of output, each beside the floor that it stands on.

use std::time::Duration;

use actors::fs::ObjectPath;
use actors::live::Live;
use actors::output_log::OutputLog;
use actors::stats::{Settings, Stats};
use actors::supervision::{Strategy, Supervisor, SupervisorSpec};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A chunk of output as a PTY gives it at most.
const CHUNK: usize = 4096;

/// A chunk into the ring of shared memory and out again, beside the two copies that it cannot do without.
fn output_log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("output_log");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let chunk = vec![b'x'; CHUNK];
    let log = OutputLog::create(256 << 10).expect("shared memory");
    let mut read = Vec::with_capacity(CHUNK);
    group.bench_function("append_and_read", |bencher| {
        bencher.iter(|| {
            let at = log.committed();
            log.append(std::hint::black_box(&chunk));
            read.clear();
            log.read(at, CHUNK, &mut read).expect("it is still there");
            read.len()
        });
    });
    let mut ring = vec![0_u8; CHUNK];
    group.bench_function("floor_two_copies", |bencher| {
        bencher.iter(|| {
            ring.copy_from_slice(std::hint::black_box(&chunk));
            read.clear();
            read.extend_from_slice(std::hint::black_box(&ring));
            read.len()
        });
    });
    group.finish();
}

/// A call to a supervised actor through its handle, beside a channel there and one back.
fn call(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("call");
    let long = actors::units::Span(Duration::from_secs(3600));
    let stats = Stats::new(Live::new(Settings { interval: long, ..Settings::default() }));
    let spec = SupervisorSpec::new("bench", Strategy::OneForOne, vec![stats.child()]);
    let supervisor = runtime.block_on(Supervisor::spawn(spec)).expect("it starts");
    group.bench_function("supervised_actor", |bencher| {
        bencher.to_async(&runtime).iter(|| async { stats.ping().await.expect("it runs") });
    });
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<i64>>();
    runtime.spawn(async move {
        while let Some(reply) = receiver.recv().await {
            let _ = reply.send(1);
        }
    });
    group.bench_function("floor_channels", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let (reply, answer) = tokio::sync::oneshot::channel();
            sender.send(reply).expect("it runs");
            answer.await.expect("an answer")
        });
    });
    group.finish();
    runtime.block_on(supervisor.stop(Duration::from_secs(1)));
}

/// A client's name of an object, taken apart and checked.
fn object_path(criterion: &mut Criterion) {
    criterion.bench_function("object_path/parse", |bencher| {
        bencher
            .iter(|| ObjectPath::parse(std::hint::black_box("projects/2026/some report (final).pdf")).expect("good"));
    });
}

criterion_group!(benches, output_log, call, object_path);
criterion_main!(benches);
