//! Whatever is refused is an `Err` with code, message and origin, and what it was refused by goes on working.
use xhybrid::half::f16;
use xhybrid::serde_json::json;
use xhybrid::{Checkpoint, CheckpointOptions, Code, Error, Job, Model, Runtime, Sampler, SessionOptions};
use xhybrid_sdk_tests::{asked, data, empty_directory, models, question, runtime, student};

#[track_caller]
fn expect<T>(result: xhybrid::Result<T>, code: Code, part: &str) -> Error {
    let error = result.err().expect("refused");
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(part), "{error}");
    assert!(!error.message().contains('\n') && !error.origin().is_empty(), "{error}");
    error
}

#[test]
fn a_path_that_there_is_not() {
    let runtime = runtime();
    let error = expect(Checkpoint::open(&runtime, "/nowhere/a.xhy"), Code::NotFound, "/nowhere/a.xhy");
    assert_eq!(error.to_string(), format!("core: {}", error.message()));
    expect(Model::load(&runtime, "/nowhere/a.xhy"), Code::NotFound, "/nowhere/a.xhy");
}

#[test]
fn a_path_that_no_file_can_have() {
    let error = expect(Checkpoint::open(&runtime(), "a\0b"), Code::InvalidArgument, "NUL");
    assert_eq!(error.origin(), "rust");
}

#[test]
fn a_path_that_is_no_checkpoint() {
    assert!(Checkpoint::open(&runtime(), data()).is_err());
}

#[test]
fn a_damaged_checkpoint() {
    let directory = empty_directory("damaged").join("a.xhy");
    std::fs::create_dir(&directory).unwrap();
    for entry in std::fs::read_dir(models().join("a.xhy")).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if entry.file_name() != "manifest.xhy" {
            bytes[0] ^= 1;
        }
        std::fs::write(directory.join(entry.file_name()), bytes).unwrap();
    }
    let checkpoint = Checkpoint::open(&runtime(), &directory).unwrap();
    expect(checkpoint.verify(), Code::Corrupt, "");
}

#[test]
fn a_tensor_that_there_is_not() {
    let checkpoint = Checkpoint::open(&runtime(), models().join("a.xhy")).unwrap();
    expect(checkpoint.tensor("nothing"), Code::NotFound, "nothing");
}

#[test]
fn a_tensor_read_as_another_dtype() {
    let checkpoint = Checkpoint::open(&runtime(), models().join("a.xhy")).unwrap();
    let norm = checkpoint.tensor("model.norm.weight").unwrap();
    expect(norm.as_slice::<f16>(), Code::InvalidArgument, "f16");
    expect(norm.as_slice::<i32>(), Code::InvalidArgument, "i32");
}

#[test]
fn a_tensor_of_another_shape() {
    let checkpoint = Checkpoint::open(&runtime(), models().join("a.xhy")).unwrap();
    expect(checkpoint.tensor("model.norm.weight").unwrap().rows::<f32>(), Code::InvalidArgument, "[192]");
}

#[test]
fn a_snapshot_of_a_model_of_another_shape() {
    let runtime = runtime();
    let teacher = Model::load(&runtime, models().join("teacher.xhy")).unwrap();
    let snapshot = asked(&teacher).snapshot().unwrap();
    let model = student(&runtime);
    let mut session = asked(&model);
    let position = session.position();
    assert!(matches!(session.restore(&snapshot).unwrap_err().code(), Code::Incompatible | Code::Corrupt));
    assert!(session.restore(b"no snapshot").is_err());
    assert!(session.restore(b"").is_err());
    assert_eq!(session.position(), position); // it stays as it was
    assert!(!session.generate().unwrap().is_empty());
}

#[test]
fn an_option_that_there_is_not_or_of_the_wrong_kind_or_out_of_range() {
    let runtime = runtime();
    let model = student(&runtime);
    expect(model.session_with(&SessionOptions::new().set("depth", 1)), Code::InvalidArgument, "depth");
    expect(model.session_with(&SessionOptions::new().set("capacity", "many")), Code::InvalidArgument, "capacity");
    expect(asked(&model).sampler(&Sampler::new().top_p(2.0)), Code::InvalidArgument, "top_p");
    expect(model.batch(0), Code::InvalidArgument, "slots");
    let options = CheckpointOptions::new().load_mode("guess");
    expect(Checkpoint::open_with(&runtime, models().join("a.xhy"), &options), Code::InvalidArgument, "load_mode");
}

#[test]
fn a_device_that_there_is_not() {
    expect(Runtime::builder().device("abacus").open(), Code::NotFound, "abacus");
}

#[test]
fn a_token_out_of_the_vocabulary() {
    let model = student(&runtime());
    let mut session = model.session().unwrap();
    expect(session.feed(&[1, i32::MAX]), Code::InvalidArgument, "2147483647");
    assert_eq!(session.position(), 0); // the whole call is refused
    assert!(model.decode(&[-1]).is_err());
    assert!(model.forward(&[-1], "logits").is_err());
    assert!(model.score(&[1, -1]).is_err());
}

#[test]
fn a_tap_that_there_is_not() {
    let model = student(&runtime());
    expect(model.forward(&question(&model), "hidden.99"), Code::InvalidArgument, "hidden.99");
}

#[test]
fn more_tokens_than_the_session_has_room_for() {
    let runtime = runtime();
    let teacher = Model::load(&runtime, models().join("teacher.xhy")).unwrap();
    let mut session = teacher.session_with(&SessionOptions::new().capacity(4)).unwrap();
    assert!(session.feed(&question(&teacher)).is_err());
    assert_eq!(session.position(), 0);
}

#[test]
fn writing_before_reading() {
    let model = student(&runtime());
    let mut session = model.session().unwrap();
    expect(session.next_token(), Code::InvalidState, "");
    expect(session.logits(), Code::InvalidState, "");
    assert_eq!(session.tokens().count(), 1); // the error, then no more
    expect(model.batch(1).unwrap().put(0, &session), Code::InvalidState, "has read no token");
}

#[test]
fn a_slot_that_the_batch_has_not() {
    let model = student(&runtime());
    let mut batch = model.batch(2).unwrap();
    expect(batch.put(2, &asked(&model)), Code::InvalidArgument, "2");
    expect(batch.remove(usize::MAX), Code::InvalidArgument, "");
}

#[test]
fn a_session_of_another_model_in_a_batch() {
    let runtime = runtime();
    let mut batch = student(&runtime).batch(1).unwrap();
    assert!(batch.put(0, &asked(&Model::load(&runtime, models().join("b.xhy")).unwrap())).is_err());
}

#[test]
fn a_job_of_an_unknown_kind_or_with_a_wrong_recipe() {
    let runtime = runtime();
    expect(Job::open(&runtime, "dance", &json!({})), Code::InvalidArgument, "dance");
    expect(Job::open(&runtime, "merge", &json!({"models": 3})), Code::InvalidArgument, "models");
    expect(Job::open(&runtime, "merge", &json!("text")), Code::InvalidArgument, "");
    expect(runtime.job_schema("dance"), Code::InvalidArgument, "dance");
}

#[test]
fn the_outcome_of_a_job_that_has_not_finished() {
    let runtime = runtime();
    let recipe = json!({"models": [models().join("a.xhy")], "method": "linear", "dry_run": true});
    let mut job = Job::open(&runtime, "merge", &recipe).unwrap();
    expect(job.result(), Code::InvalidState, "");
    assert_eq!(job.run().unwrap()["dry_run"], true);
    assert_eq!(job.next_event(), Ok(None)); // a finished job has no more events
    assert_eq!(job.events().count(), 0);
    assert_eq!(job.run().unwrap()["method"], "linear"); // and keeps its outcome
}

#[test]
fn a_job_that_failed_half_way() {
    let runtime = runtime();
    let recipe = json!({"models": [models().join("a.xhy"), "/nowhere"], "tasks": [data().join("math.test.jsonl")],
                        "limit": 1, "max_tokens": 1});
    let mut job = Job::open(&runtime, "evaluate", &recipe).unwrap();
    assert!(job.next_event().unwrap().is_some());
    let events: Vec<_> = job.events().collect();
    assert_eq!(events.len(), 1); // the error ends the events
    expect(events.into_iter().next().unwrap(), Code::NotFound, "/nowhere");
    expect(job.next_event(), Code::InvalidState, "");
    expect(job.result(), Code::InvalidState, "");
}
