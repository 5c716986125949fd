//! A tour of libxhybrid in Rust: a checkpoint's tensor, a streamed answer, an evaluation against the teacher, a merge.
//!
//!     tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED
//!
//! tour.c, tour.cc, tour.py and Tour.java are the same program and print the same bytes.
use std::io::{self, Write};
use std::process::ExitCode;

use xhybrid::serde_json::{json, Value};
use xhybrid::{Checkpoint, Job, Message, Model, Runtime, Sampler, Session, SessionOptions, TensorView};

const TENSOR: &str = "model.norm.weight";

/// The sum in double, in index order.
fn sum(tensor: &TensorView) -> xhybrid::Result<f64> {
    Ok(tensor.iter_f64()?.fold(0.0, |sum, value| sum + value))
}

fn show_tensor(runtime: &Runtime, path: &str) -> xhybrid::Result<()> {
    let checkpoint = Checkpoint::open(runtime, path)?;
    checkpoint.verify()?; // every byte of every file
    let tensor = checkpoint.tensor(TENSOR)?; // a view of the mapped file
    let shape = tensor.shape().iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    println!("tensor {TENSOR} {} [{shape}] sum {:.6}", tensor.dtype(), sum(&tensor)?);
    Ok(())
}

/// Prints token ids as they come and the text behind them.
fn stream(session: &mut Session) -> xhybrid::Result<()> {
    let mut text = String::new();
    print!("tokens");
    for token in session.tokens() {
        let token = token?;
        print!(" {}", token.id);
        let _ = io::stdout().flush();
        text += &token.piece;
    }
    println!("\ntext {}", text.replace('\n', "\\n"));
    Ok(())
}

fn answer(runtime: &Runtime, path: &str) -> xhybrid::Result<()> {
    let model = Model::load(runtime, path)?;
    let prompt = model.chat(&[Message::user("What is 7 times 5?")], true)?;
    let ids = model.encode(&prompt, true)?;
    println!("prompt {}", ids.iter().map(i32::to_string).collect::<Vec<_>>().join(" "));
    let mut session = model.session_with(&SessionOptions::new().capacity(512))?;
    session.feed(&ids)?;
    session.sampler(&Sampler::greedy().max_tokens(48))?;
    stream(&mut session)
}

fn evaluate(runtime: &Runtime, teacher: &str, student: &str, task: &str) -> xhybrid::Result<()> {
    let recipe = json!({"models": [teacher, student], "names": ["teacher", "student"], "tasks": [task], "limit": 16});
    let result = Job::open(runtime, "evaluate", &recipe)?.run()?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for model in list(&result["models"]) {
        for row in list(&model["tasks"]) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let accuracy = row["accuracy"].as_f64().unwrap_or(f64::NAN);
            println!("accuracy {} {} {accuracy:.6}", text(&model["name"]), text(&row["task"]));
        }
    }
    // The smallest share of the teacher's accuracy to be given up for the student to win or tie everywhere.
    println!("alpha* {:.6}", result["models"][1]["alpha_star"].as_f64().unwrap_or(f64::NAN));
    Ok(())
}

fn merge(runtime: &Runtime, a: &str, b: &str, output: &str) -> xhybrid::Result<()> {
    let recipe = json!({"models": [a, b], "method": "slerp", "options": {"t": 0.5}, "output": output, "replace": true});
    Job::open(runtime, "merge", &recipe)?.run()?;
    let merged = Checkpoint::open(runtime, output)?;
    println!("merged {} tensors, norm sum {:.6}", merged.tensor_count(), sum(&merged.tensor(TENSOR)?)?);
    Ok(())
}

fn tour(teacher: &str, a: &str, b: &str, task: &str, merged: &str) -> xhybrid::Result<()> {
    println!("xhybrid {}", xhybrid::release());
    let runtime = Runtime::open()?;
    show_tensor(&runtime, a)?;
    answer(&runtime, a)?;
    evaluate(&runtime, teacher, a, task)?;
    merge(&runtime, a, b, merged)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [teacher, a, b, task, merged] = &arguments[..] else {
        eprintln!("usage: tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED");
        return ExitCode::from(2);
    };
    match tour(teacher, a, b, task, merged) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}"); // origin: message
            ExitCode::FAILURE
        }
    }
}
