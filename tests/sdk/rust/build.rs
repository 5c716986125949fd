//! The half in C of the comparison in bin/overhead.rs.
fn main() {
    println!("cargo:rerun-if-env-changed=XHYBRID_DIR");
    let root = std::env::var("XHYBRID_DIR").expect("XHYBRID_DIR: run these tests by run.sh");
    cc::Build::new()
        .file("src/through_c.c")
        .include(format!("{root}/include"))
        .opt_level(2)
        .warnings(true)
        .compile("through_c");
}
