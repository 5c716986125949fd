//! Finds libxhybrid: by `XHYBRID_DIR`, then by pkg-config. Builds and downloads nothing.
use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=XHYBRID_DIR");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("DOCS_RS").is_some() {
        return; // documentation needs no library
    }
    match env::var_os("XHYBRID_DIR") {
        Some(root) => link_from(Path::new(&root)),
        None => link_by_pkg_config(),
    }
}

fn link_from(root: &Path) {
    let Some(lib) = lib_dir(root) else {
        panic!(
            "XHYBRID_DIR is {}; expected: an installation with lib/libxhybrid.so (or lib64/, lib/<triplet>/) in it",
            root.display()
        );
    };
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=xhybrid");
    println!("cargo:libdir={}", lib.display()); // DEP_XHYBRID_LIBDIR in the build scripts of dependents
}

/// The directory of libxhybrid.so below an installation prefix or a build tree.
fn lib_dir(root: &Path) -> Option<PathBuf> {
    let triplet = format!("lib/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default());
    ["lib", "lib64", triplet.as_str()].iter().map(|dir| root.join(dir)).find(|dir| dir.join("libxhybrid.so").exists())
}

fn link_by_pkg_config() {
    match pkg_config::Config::new().atleast_version("0.1").probe("xhybrid") {
        Ok(library) => {
            for lib in library.link_paths {
                println!("cargo:libdir={}", lib.display());
            }
        }
        Err(error) => panic!(
            "libxhybrid was not found. Set XHYBRID_DIR to its installation, or PKG_CONFIG_PATH so that pkg-config \
             finds the package xhybrid.\n{error}"
        ),
    }
}
