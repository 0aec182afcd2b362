//! Names the shared library as programs ask for the driver. Its file has another name: cargo puts the folders that it builds in on
//! the library path, and a program run by cargo must not find this in place of a driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
