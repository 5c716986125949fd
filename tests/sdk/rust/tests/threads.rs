//! Who may call from where, with real threads.
use std::sync::{Arc, Mutex};

use xhybrid::{Checkpoint, Runtime, Sampler};
use xhybrid_sdk_tests::{asked, models, question, runtime, student};

#[test]
fn eight_threads_with_a_session_each_on_one_model_write_the_same() {
    let model = student(&runtime());
    let write = || {
        let mut session = asked(&model);
        session.sampler(&Sampler::greedy().max_tokens(24)).unwrap();
        session.tokens().map(|token| token.unwrap().id).collect::<Vec<_>>()
    };
    let alone = write();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), alone);
        }
    });
}

#[test]
fn threads_share_a_runtime_and_a_checkpoint() {
    let runtime = Arc::new(runtime());
    let checkpoint = Checkpoint::open(&runtime, models().join("a.xhy")).unwrap();
    let sum = || checkpoint.tensor("model.norm.weight").unwrap().iter_f64().unwrap().sum::<f64>();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| (sum(), student(&runtime).vocab_size()))).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == (sum(), 4096)));
    });
}

#[test]
fn a_session_moves_to_another_thread_and_is_dropped_there() {
    let model = student(&runtime());
    let mut session = asked(&model);
    let fork = session.fork().unwrap();
    let expected = session.generate().unwrap();
    drop(model);
    let written = std::thread::spawn(move || {
        let mut fork = fork;
        fork.generate().unwrap()
    });
    assert_eq!(written.join().unwrap(), expected);
}

#[test]
fn the_log_closure_lives_as_long_as_anything_that_may_call_it() {
    let alive = Arc::new(Mutex::new(Vec::new()));
    let inner = Arc::clone(&alive);
    let runtime = Runtime::builder()
        .device("cpu")
        .log(move |level, origin, text| inner.lock().unwrap().push(format!("{level:?} {origin} {text}")))
        .open()
        .unwrap();
    let model = student(&runtime);
    drop(runtime);
    assert_eq!(Arc::strong_count(&alive), 2);
    let session = asked(&model);
    drop(model);
    assert_eq!(question(&student(&self::runtime())).len(), session.position());
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(session);
    assert_eq!(Arc::strong_count(&alive), 1);
}
