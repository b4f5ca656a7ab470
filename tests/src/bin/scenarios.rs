//! The scenario runner, linked statically so that it also runs in a guest that holds nothing else.

fn main() {
    println!("holdfast scenarios {}", env!("CARGO_PKG_VERSION"));
}
