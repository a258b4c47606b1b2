//! Compiles our .proto files without `protoc`: protox parses them, tonic's generator writes the Rust.

use std::error::Error;
use std::path::{Path, PathBuf};

/// Folders that hold .proto files, from this crate's root.
const ROOTS: [&str; 5] = ["google", "opencensus", "opentelemetry", "weir", "zipkin"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for root in ROOTS {
        println!("cargo:rerun-if-changed={root}");
        collect(Path::new(root), &mut files)?;
    }
    // The order of a folder is the file system's; the generated code should not depend on it.
    files.sort();
    let descriptors = protox::compile(&files, ["."])?;
    tonic_prost_build::configure()
        // Wrappers and timestamps as messages of their own: "absent" stays apart from "zero", and one crate fewer.
        .compile_well_known_types(true)
        // Maps in the order of their keys, so that what a test encodes is the same bytes each time.
        .btree_map(".")
        // Bodies stay slices of what came from the network.
        .bytes(".weir.link.v1.DataPart")
        .include_file("protocols.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
