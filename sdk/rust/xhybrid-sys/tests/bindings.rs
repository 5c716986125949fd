//! The committed bindings are those that bindgen writes from the header of the library that is tested against.
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_bindings_are_those_of_the_header() {
    if !has_bindgen() {
        println!("skipped: bindgen 0.72.1 is not on PATH");
        return;
    }
    let Some(header) = header() else {
        println!("skipped: no xhybrid.h in XHYBRID_DIR/include or in ../../../abi");
        return;
    };
    let written = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bindings.rs");
    let status = Command::new("bash").arg(format!("{CRATE}/bindings.sh")).arg(&header).arg(&written).status().unwrap();
    assert!(status.success(), "bindings.sh gave {status}");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let (committed, new) = (read(&Path::new(CRATE).join("src/bindings.rs")), read(&written));
    if let Some(line) = first_difference(&committed, &new) {
        panic!("src/bindings.rs is not what bindings.sh writes from {}, from line {line} on", header.display());
    }
}

/// Other versions write the same declarations in other words.
fn has_bindgen() -> bool {
    let version = Command::new("bindgen").arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == "bindgen 0.72.1")
}

fn header() -> Option<PathBuf> {
    let installed = env::var_os("XHYBRID_DIR").map(|root| Path::new(&root).join("include/xhybrid.h"));
    let beside = Path::new(CRATE).join("../../../abi/xhybrid.h");
    installed.into_iter().chain([beside]).find(|path| path.exists())
}

fn first_difference(a: &str, b: &str) -> Option<usize> {
    let longest = a.lines().count().max(b.lines().count());
    (0..longest).find(|&line| a.lines().nth(line) != b.lines().nth(line)).map(|line| line + 1)
}

#[test]
fn a_difference_is_found_by_its_line() {
    assert_eq!(first_difference("a\nb", "a\nb"), None);
    assert_eq!(first_difference("a\nb", "a\nc"), Some(2));
    assert_eq!(first_difference("a", "a\nb"), Some(2));
}
