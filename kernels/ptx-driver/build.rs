//! Gives the shared library the soname `libcuda.so`, under which programs ask for the driver. Its file has another name: cargo
//! puts its build folders on the library path, and a program that cargo runs must not find this library in place of a real
//! driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
