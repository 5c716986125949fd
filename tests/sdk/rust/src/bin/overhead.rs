//! What generating through Rust costs on top of C: overhead MODEL [ROUNDS].
//!
//! Both write the same 1,000 tokens, ten by turns. Of each ten the least processor time of all rounds counts: what they
//! need when nothing else disturbs them. The ratio is said, not asserted: how a machine is used decides on more than 2 %.
use std::ffi::{c_char, c_void, CString};

use xhybrid::{Model, Runtime, Sampler, Session};
use xhybrid_sdk_tests as _; // what build.rs compiled is linked with it

const TEXT: &str = "Once upon a time";
const TURNS: usize = 100;
const TOKENS: usize = 10;

extern "C" {
    fn through_c_open(path: *const c_char, text: *const c_char) -> *mut c_void;
    fn through_c_write(session: *mut c_void, tokens: i64) -> i64;
    fn through_c_free(session: *mut c_void);
}

fn sampler() -> Sampler {
    Sampler::greedy().max_tokens(100_000)
}

fn open(path: &str) -> xhybrid::Result<Session> {
    let runtime = Runtime::builder().device("cpu").threads(1).open()?;
    let model = Model::load(&runtime, path)?;
    let mut session = model.session()?;
    session.feed(&model.encode(TEXT, true)?)?;
    session.sampler(&sampler())?;
    Ok(session)
}

/// Writes ten tokens, also behind an end token; the bytes of their text.
fn write(session: &mut Session) -> xhybrid::Result<usize> {
    let (mut written, mut bytes) = (0, 0);
    while written < TOKENS {
        let mut finished = false;
        for token in session.tokens().take(TOKENS - written) {
            let token = token?;
            bytes += token.piece.len();
            written += 1;
            finished = token.finished;
        }
        if finished {
            session.sampler(&sampler())?;
        }
    }
    Ok(bytes)
}

fn processor_nanos() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Adds what `work` returns to `bytes` and keeps the least time it has taken.
fn measure(least: &mut i64, bytes: &mut usize, work: impl FnOnce() -> usize) {
    let start = processor_nanos();
    *bytes += work();
    *least = (*least).min(processor_nanos() - start);
}

fn main() -> xhybrid::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds: usize = arguments.get(2).map_or(8, |text| text.parse().expect("ROUNDS"));
    let (path, text) = (CString::new(arguments[1].as_str()).expect("MODEL"), CString::new(TEXT).expect("text"));
    let (mut c, mut rust) = ([i64::MAX; TURNS], [i64::MAX; TURNS]);
    let (mut c_bytes, mut rust_bytes) = (0, 0);
    for round in 0..rounds {
        // SAFETY: strings live for the call; the session is freed below.
        let through_c = unsafe { through_c_open(path.as_ptr(), text.as_ptr()) };
        let mut session = open(&arguments[1])?;
        for turn in 0..TURNS {
            let mut in_rust = || measure(&mut rust[turn], &mut rust_bytes, || write(&mut session).expect("tokens"));
            if round % 2 == 1 {
                in_rust(); // the first of two has the colder caches: each is it half of the time
            }
            // SAFETY: the session is alive.
            measure(&mut c[turn], &mut c_bytes, || unsafe { through_c_write(through_c, TOKENS as i64) } as usize);
            if round % 2 == 0 {
                in_rust();
            }
        }
        // SAFETY: the last use of it.
        unsafe { through_c_free(through_c) };
    }
    let (c, rust) = (c.iter().sum::<i64>() as f64 / 1e6, rust.iter().sum::<i64>() as f64 / 1e6);
    println!("1,000 tokens, {rounds} rounds: C {c:.2} ms, Rust {rust:.2} ms of processor, ratio {:.4}", rust / c);
    assert_eq!(c_bytes, rust_bytes, "C and Rust wrote different texts");
    Ok(())
}
