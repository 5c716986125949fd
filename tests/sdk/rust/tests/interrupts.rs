//! A job that is stopped saves what it has, says how to go on, and goes on.
use xhybrid::serde_json::{json, Value};
use xhybrid::{Checkpoint, Code, Job, Runtime};
use xhybrid_sdk_tests::{data, empty_directory, models, runtime};

fn recipe(output: &std::path::Path) -> Value {
    json!({"teacher": models().join("teacher.xhy"), "student": {"window": 16}, "context": 16, "batch": 1,
           "data": [data().join("math.test.jsonl")], "output": output, "stages": [{"stage": "align", "steps": 3}]})
}

fn finished(runtime: &Runtime, recipe: &Value) -> Vec<u8> {
    Job::open(runtime, "distill", recipe).unwrap().run().unwrap();
    let output = std::path::Path::new(recipe["output"].as_str().unwrap()).join("student.xhy");
    let checkpoint = Checkpoint::open(runtime, output).unwrap();
    let name = checkpoint.tensor_names().find(|name| name.contains("xlstm")).unwrap().to_owned();
    checkpoint.tensor(&name).unwrap().bytes().to_vec()
}

#[test]
fn a_distillation_that_was_interrupted_ends_as_one_that_was_not() {
    let runtime = runtime();
    let (whole, parts) = (recipe(&empty_directory("whole").join("run")), recipe(&empty_directory("parts").join("run")));
    let mut job = Job::open(&runtime, "distill", &parts).unwrap();
    let canceller = job.canceller();
    let mut error = None;
    for event in job.events() {
        match event {
            Ok(event) if event["kind"] == "step" => {
                let canceller = canceller.clone();
                std::thread::spawn(move || canceller.cancel()).join().unwrap();
            }
            Ok(_) => {}
            Err(refused) => error = Some(refused),
        }
    }
    let error = error.expect("a job that was cancelled ends with an error");
    assert_eq!(error.code(), Code::Cancelled, "{error}");
    assert_eq!(job.result().unwrap_err().code(), Code::InvalidState);
    drop(job);
    assert_eq!(finished(&runtime, &parts), finished(&runtime, &whole));
}

#[test]
fn a_merge_that_is_cancelled_writes_nothing() {
    let runtime = runtime();
    let output = empty_directory("merge").join("merged.xhy");
    let recipe = json!({"models": [models().join("a.xhy"), models().join("b.xhy")], "method": "slerp", "options": {"t": 0.5}, "output": output});
    let mut job = Job::open(&runtime, "merge", &recipe).unwrap();
    assert!(job.next_event().unwrap().is_some());
    job.canceller().cancel();
    assert_eq!(job.next_event().unwrap_err().code(), Code::Cancelled);
    drop(job);
    assert!(!output.exists());
}

#[test]
fn cancelling_a_job_that_is_gone_does_nothing() {
    let recipe = json!({"models": [models().join("a.xhy")], "dry_run": true});
    let canceller = Job::open(&runtime(), "merge", &recipe).unwrap().canceller();
    canceller.cancel();
}
