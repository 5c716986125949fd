//! Memory stays flat over many cycles of everything that is made and freed. One test, so that the process is its own.
//! XHYBRID_LEAK_CYCLES: how many; 300 when it is not set.
use xhybrid::serde_json::json;
use xhybrid::{Checkpoint, Job, Model, Runtime, Sampler};
use xhybrid_sdk_tests::{models, question};

/// What may be left: the allocator's own bookkeeping. 10,000 cycles that lose 200 bytes each lose more.
const MOST_GROWTH: usize = 1 << 20;

fn resident_bytes() -> usize {
    let pages: usize = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn cycle(i: usize) {
    let runtime = Runtime::builder().device("cpu").threads(1).log(|_, _, _| {}).open().unwrap();
    let model = Model::load(&runtime, models().join("a.xhy")).unwrap();
    let mut session = model.session().unwrap();
    session.feed(&question(&model)).unwrap();
    session.sampler(&Sampler::greedy().max_tokens(2)).unwrap();
    assert_eq!(session.tokens().count(), 2);
    if i % 8 == 0 {
        rest(&runtime, &model);
    }
}

/// What is used less often: forks, snapshots, batches, checkpoints, jobs, errors.
fn rest(runtime: &Runtime, model: &Model) {
    let mut session = model.session().unwrap();
    session.feed(&question(model)).unwrap();
    let snapshot = session.snapshot().unwrap();
    session.fork().unwrap().restore(&snapshot).unwrap();
    let mut batch = model.batch(2).unwrap();
    batch.put(0, &session).unwrap();
    assert!(batch.step().unwrap()[0].is_some());
    let checkpoint = Checkpoint::open(runtime, models().join("a.xhy")).unwrap();
    assert!(checkpoint.tensor("nothing").is_err());
    assert!(checkpoint.tensor("model.norm.weight").unwrap().iter_f64().unwrap().count() > 0);
    let recipe = json!({"models": [models().join("a.xhy")], "dry_run": true});
    let mut job = Job::open(runtime, "merge", &recipe).unwrap();
    let canceller = job.canceller();
    job.run().unwrap();
    drop(job);
    canceller.cancel();
}

#[test]
fn memory_is_flat_over_cycles_of_load_generate_and_free() {
    let cycles: usize = std::env::var("XHYBRID_LEAK_CYCLES").map_or(300, |text| text.parse().unwrap());
    let warm = (cycles / 10).max(100);
    let start = std::time::Instant::now();
    (0..warm).for_each(cycle);
    let before = resident_bytes();
    (0..cycles).for_each(cycle);
    let after = resident_bytes();
    println!("{cycles} cycles in {:.0?}: {before} bytes resident before, {after} after", start.elapsed());
    assert!(after <= before + MOST_GROWTH, "{cycles} cycles grew from {before} to {after} bytes");
}
