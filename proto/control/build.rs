//! Generates the client and the server from control.proto. No protoc: protox is a compiler in Rust.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=control.proto");
    let descriptors = protox::compile(["control.proto"], ["."])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
