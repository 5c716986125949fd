//! Messages of the library reach a closure or the log crate. Opening a runtime says which plugins were loaded.
use std::sync::{Arc, Mutex};

use xhybrid::{LogLevel, Runtime};

#[test]
fn a_closure_hears_level_origin_and_text() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let inner = Arc::clone(&heard);
    let log =
        move |level, origin: &str, text: &str| inner.lock().unwrap().push((level, origin.to_owned(), text.to_owned()));
    let _runtime = Runtime::builder().log(log).open().unwrap();
    let heard = heard.lock().unwrap();
    assert!(heard
        .iter()
        .any(|(level, origin, text)| *level == LogLevel::Debug && origin == "core" && text.contains("xhybrid_cpu.so")));
}

#[test]
fn a_closure_that_panics_does_not_end_the_process() {
    let runtime = Runtime::builder().log(|_, _, _| panic!("a panic on purpose")).open().unwrap();
    assert!(!runtime.plugins().unwrap().is_empty());
}

struct Keeper(Mutex<Vec<String>>);

impl log::Log for Keeper {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        self.0.lock().unwrap().push(format!("{} {} {}", record.level(), record.target(), record.args()));
    }
    fn flush(&self) {}
}

static KEEPER: Keeper = Keeper(Mutex::new(Vec::new()));

#[test]
fn the_log_crate_hears_messages_by_their_origin() {
    log::set_logger(&KEEPER).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let _runtime = Runtime::builder().log_to_crate().open().unwrap();
    assert!(KEEPER
        .0
        .lock()
        .unwrap()
        .iter()
        .any(|line| line.starts_with("DEBUG xhybrid::core ") && line.contains("cpu")));
}
