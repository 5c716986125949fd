//! Where the tests find models and data, and the question they all ask.
use std::path::PathBuf;

use xhybrid::{Message, Model, Runtime, Session};

/// The directory of teacher.xhy, a.xhy and b.xhy: a teacher and two students of a few steps.
pub fn models() -> PathBuf {
    from_environment("XHYBRID_TEST_MODELS")
}

/// The directory of math.test.jsonl and the rest of the example data.
pub fn data() -> PathBuf {
    from_environment("XHYBRID_TEST_DATA")
}

fn from_environment(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run these tests by run.sh")).into()
}

/// An empty directory of this name.
pub fn empty_directory(name: &str) -> PathBuf {
    let path = models().join("tests").join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

pub fn runtime() -> Runtime {
    Runtime::builder().device("cpu").threads(1).open().unwrap()
}

pub fn student(runtime: &Runtime) -> Model {
    Model::load(runtime, models().join("a.xhy")).unwrap()
}

/// The ids of "What is 7 times 5?", as a chat.
pub fn question(model: &Model) -> Vec<i32> {
    let prompt = model.chat(&[Message::user("What is 7 times 5?")], true).unwrap();
    model.encode(&prompt, true).unwrap()
}

/// A session that has read the question.
pub fn asked(model: &Model) -> Session {
    let mut session = model.session().unwrap();
    session.feed(&question(model)).unwrap();
    session
}
