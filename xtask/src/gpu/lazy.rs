//! Static import libraries that load the real CUDA library at the first call.
//!
//! candle's cudarc links the driver, cuBLAS, cuRAND and NVRTC by name. Against the real libraries the program would not
//! even start on a machine without a driver; against these it starts anywhere, and a call without the library gives the
//! status code that says so. The functions are those that cudarc's own bindings name.

use crate::run::{Result, output, read, write};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// One library to stand in for.
struct Library {
    /// What the linker calls it.
    name: &'static str,
    /// The real library, loaded at the first call.
    soname: &'static str,
    /// The folder of cudarc's bindings.
    bindings: &'static str,
    /// How its functions' names start.
    prefix: &'static str,
    /// The status of a call when the library is missing, and when it lacks the function.
    missing: [u16; 2],
}

const LIBRARIES: [Library; 6] = [
    // CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NOT_FOUND.
    Library { name: "cuda", soname: "libcuda.so.1", bindings: "driver", prefix: "cu", missing: [34, 500] },
    // CUBLAS_STATUS_NOT_INITIALIZED, CUBLAS_STATUS_NOT_SUPPORTED.
    Library { name: "cublas", soname: "libcublas.so.13", bindings: "cublas", prefix: "cublas", missing: [1, 15] },
    Library { name: "cublasLt", soname: "libcublasLt.so.13", bindings: "cublaslt", prefix: "cublas", missing: [1, 15] },
    // CURAND_STATUS_INITIALIZATION_FAILED, CURAND_STATUS_INTERNAL_ERROR.
    Library { name: "curand", soname: "libcurand.so.10", bindings: "curand", prefix: "curand", missing: [203, 999] },
    // NVRTC_ERROR_INTERNAL_ERROR.
    Library { name: "nvrtc", soname: "libnvrtc.so.13", bindings: "nvrtc", prefix: "nvrtc", missing: [11, 11] },
    // ncclSystemError, ncclInvalidUsage. Nobody calls it, but CubeCL asks the linker for it.
    Library { name: "nccl", soname: "libnccl.so.2", bindings: "nccl", prefix: "nccl", missing: [2, 5] },
];

const LOOKUP: &str = include_str!("lazy/lookup.c");
const ENTRIES: &str = include_str!("lazy/entries.S");

/// All that decides what [`make`] makes of given bindings.
pub fn recipe() -> String {
    let libraries: Vec<_> =
        LIBRARIES.iter().map(|l| format!("{} {} {} {} {:?}", l.name, l.soname, l.bindings, l.prefix, l.missing)).collect();
    format!("{LOOKUP}\n{ENTRIES}\n{}", libraries.join("\n"))
}

/// Writes the import libraries into `into`, from the bindings in cudarc's sources.
pub fn make(cudarc: &Path, into: &Path, scratch: &Path) -> Result<()> {
    for library in &LIBRARIES {
        let bindings = read(&cudarc.join("src").join(library.bindings).join("sys/mod.rs"))?;
        let entries = entries(&bindings, library.prefix);
        if entries.is_empty() {
            return Err(format!("cudarc's bindings of {} name no function: {}", library.name, cudarc.display()));
        }
        compile(library, &entries, into, scratch)?;
    }
    Ok(())
}

fn compile(library: &Library, entries: &str, into: &Path, scratch: &Path) -> Result<()> {
    let list = scratch.join(format!("{}.entries", library.name));
    write(&list, entries)?;
    let mut objects: Vec<PathBuf> = Vec::new();
    for (file, text) in [("lookup.c", LOOKUP), ("entries.S", ENTRIES)] {
        let source = scratch.join(file);
        let object = scratch.join(format!("{}-{file}.o", library.name));
        write(&source, text)?;
        let [no_library, no_function] = library.missing;
        let mut compiler = Command::new("cc");
        compiler.args(["-c", "-O2", "-fPIC", "-o"]).arg(&object).arg(&source);
        compiler.args([
            format!("-DENTRIES=\"{}\"", list.display()),
            format!("-DLIBRARY=\"{}\"", library.soname),
            format!("-DPREFIX(name)=lazy_{}_##name", library.name),
            format!("-DMISSING_LIBRARY={no_library}"),
            format!("-DMISSING_FUNCTION={no_function}"),
        ]);
        output(&mut compiler)?;
        objects.push(object);
    }
    let archive = into.join(format!("lib{}.a", library.name));
    output(Command::new("ar").arg("rcsD").arg(&archive).args(&objects))?;
    Ok(())
}

/// `ENTRY(index, name, kind)` for each function whose name starts with `prefix`, in the order of their names.
fn entries(bindings: &str, prefix: &str) -> String {
    let mut functions: Vec<(&str, &str)> = bindings.split("pub ").filter_map(|text| function(text, prefix)).collect();
    functions.sort_unstable();
    // Each is declared once for every way of linking.
    functions.dedup_by_key(|(name, _)| *name);
    functions.iter().enumerate().fold(String::new(), |mut text, (index, (name, kind))| {
        let _ = writeln!(text, "ENTRY({index}, {name}, {kind})");
        text
    })
}

/// The name and the kind of result of the function that `text` starts with.
fn function<'a>(text: &'a str, prefix: &str) -> Option<(&'a str, &'static str)> {
    let text = text.strip_prefix("unsafe ").unwrap_or(text).strip_prefix("fn ")?;
    let name = &text[..text.find('(')?];
    if !name.starts_with(prefix) {
        return None;
    }
    let end = [text.find(";\n"), text.find("{\n")].into_iter().flatten().min()?;
    let result = text[..end].rsplit("->").next()?.trim();
    let kind = match result {
        "usize" => "size",
        pointer if pointer.starts_with('*') => "text",
        reference if reference.starts_with('&') => return None,
        _ => "status",
    };
    Some((name, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDINGS: &str = "
        pub fn cublasCreate_v2(handle: *mut cublasHandle_t) -> cublasStatus_t;
        pub fn cublasGetStatusString(status: cublasStatus_t) -> *const ::core::ffi::c_char;
pub unsafe fn cublasCreate_v2(
    handle: *mut cublasHandle_t,
) -> cublasStatus_t {
    #[cfg(feature = \"dynamic-loading\")]
pub unsafe fn culib() -> &'static ::libloading::Library {
pub unsafe fn cublasSetLogger(f: extern \"C\" fn(x: [u8; 4]) -> usize) -> cublasStatus_t {
pub unsafe fn cublasGetVersionSize() -> usize {
";

    #[test]
    fn functions_are_listed_once_with_what_they_give() {
        assert_eq!(
            entries(BINDINGS, "cu"),
            "ENTRY(0, cublasCreate_v2, status)\nENTRY(1, cublasGetStatusString, text)\nENTRY(2, cublasGetVersionSize, size)\n\
             ENTRY(3, cublasSetLogger, status)\n"
        );
    }

    /// Links a program against an import library and runs it: with the real library there, the call reaches it with all
    /// its arguments; without, it gives the code for that.
    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn calls_reach_the_real_library_or_say_that_it_is_missing() {
        let place = std::env::temp_dir().join(format!("phase-lazy-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let library = Library { name: "real", soname: "libphase-real.so", bindings: "", prefix: "real", missing: [34, 500] };
        let list = "ENTRY(0, realMix, status)\nENTRY(1, realName, text)\nENTRY(2, realNewer, status)\n";
        compile(&library, list, &place, &place).unwrap();
        let real = "int realMix(int a, int b, int c, int d, int e, int f, double x, double y, int g, int h) {
            return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + (int)(7 * x + 8 * y) + 9 * g + 10 * h; }
            const char *realName(int x) { return x == 3 ? \"three\" : \"other\"; }";
        let caller = "#include <stdio.h>
            int realMix(int, int, int, int, int, int, double, double, int, int); int realNewer(void); const char *realName(int);
            int main(void) { for (int i = 0; i < 2; i++) printf(\"%d %s %d;\", realMix(1, 2, 3, 4, 5, 6, 7.0, 8.0, 9, 10), realName(3), realNewer()); }";
        write(&place.join("real.c"), real).unwrap();
        write(&place.join("caller.c"), caller).unwrap();
        output(Command::new("cc").current_dir(&place).args(["-o", "caller", "caller.c", "-L.", "-lreal", "-ldl"])).unwrap();
        output(Command::new("cc").current_dir(&place).args(["-shared", "-fPIC", "-o", "libphase-real.so", "real.c"])).unwrap();
        let run = |folder: &Path| output(Command::new(place.join("caller")).env("LD_LIBRARY_PATH", folder)).unwrap();
        let missing = "34 libphase-real.so can't be loaded 34;";
        assert_eq!(run(Path::new("/nonexistent")), missing.repeat(2));
        assert_eq!(run(&place), "385 three 500;".repeat(2));
        std::fs::remove_dir_all(&place).unwrap();
    }
}
