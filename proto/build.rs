//! Generates the code of the .proto files without a protoc on the system.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=cairn");
    let files = ["common", "data", "session", "chunkserver", "admin"].map(|name| format!("cairn/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
