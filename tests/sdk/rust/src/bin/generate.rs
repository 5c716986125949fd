//! generate MODEL TOKENS: writes so many tokens and prints the processor's and the wall's microseconds. generate.c does
//! the same through C; overhead.sh compares them.
use std::time::Instant;

use xhybrid::{Model, Runtime, Sampler, Session};

fn write(session: &mut Session, tokens: usize) -> xhybrid::Result<usize> {
    let (mut written, mut bytes) = (0, 0);
    while written < tokens {
        session.sampler(&Sampler::greedy().max_tokens(tokens - written))?; // an end token does not end it
        for token in session.tokens() {
            bytes += token?.piece.len();
            written += 1;
        }
    }
    Ok(bytes)
}

fn processor_micros() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

fn main() -> xhybrid::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let tokens: usize = arguments[2].parse().expect("TOKENS");
    let runtime = Runtime::builder().device("cpu").threads(1).open()?;
    let model = Model::load(&runtime, &arguments[1])?;
    let mut session = model.session()?;
    session.feed(&model.encode("Once upon a time", true)?)?;
    write(&mut session, 100)?; // warm
    let (wall, processor) = (Instant::now(), processor_micros());
    let bytes = write(&mut session, tokens)?;
    println!("{} {} {bytes}", processor_micros() - processor, wall.elapsed().as_micros());
    Ok(())
}
