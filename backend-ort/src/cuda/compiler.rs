//! NVIDIA's run-time compiler, loaded at run time: kernels are kept as source and become machine code of the device at
//! hand, once; what it made is kept in a folder.

use crate::error::OrtError;
use std::{
    ffi::{CString, c_char, c_int, c_void},
    fs,
    path::Path,
    ptr::{null, null_mut},
    sync::OnceLock,
};

const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

type Program = *mut c_void;

macro_rules! api {
    ($($name:ident = $symbol:literal ($($argument:ty),*);)+) => {
        struct Api {
            $($name: unsafe extern "C" fn($($argument),*) -> c_int,)+
        }

        impl Api {
            fn load(library: &libloading::Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        let name = concat!($symbol, "\0").as_bytes();
                        // SAFETY: the type is that of the compiler's header for this symbol.
                        let symbol = unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> c_int>(name) };
                        *symbol.map_err(|e| format!("no {}: {e}", $symbol))?
                    },)+
                })
            }
        }
    };
}

api! {
    version = "nvrtcVersion" (*mut c_int, *mut c_int);
    create = "nvrtcCreateProgram" (*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    compile = "nvrtcCompileProgram" (Program, c_int, *const *const c_char);
    destroy = "nvrtcDestroyProgram" (*mut Program);
    log_size = "nvrtcGetProgramLogSize" (Program, *mut usize);
    log = "nvrtcGetProgramLog" (Program, *mut c_char);
    code_size = "nvrtcGetCUBINSize" (Program, *mut usize);
    code = "nvrtcGetCUBIN" (Program, *mut c_char);
}

/// Machine code for a source text with these definitions, from `folder` or made now and put there.
///
/// # Errors
/// [`OrtError::Compiler`] when there is no compiler or it refuses; [`OrtError::Store`].
pub(crate) fn machine_code(source: &str, capability: u32, definitions: &[(&str, String)], folder: &Path) -> Result<Vec<u8>, OrtError> {
    let mut options = vec![format!("--gpu-architecture=sm_{capability}"), "--std=c++17".to_owned()];
    options.extend(definitions.iter().map(|(name, value)| format!("--define-macro={name}={value}")));
    let key = blake3::hash(format!("{source}\0{}\0{}", options.join("\0"), version()?).as_bytes()).to_hex();
    let file = folder.join(format!("kernels-{}.cubin", &key[..32]));
    if let Some(code) = kept(&file) {
        return Ok(code);
    }
    let code = compile(source, &options)?;
    fs::create_dir_all(folder).map_err(OrtError::store("create", folder))?;
    let mut unfinished = tempfile::NamedTempFile::new_in(folder).map_err(OrtError::store("create a file in", folder))?;
    let whole = [blake3::hash(&code).as_bytes().as_slice(), &code].concat();
    std::io::Write::write_all(&mut unfinished, &whole).map_err(OrtError::store("write", &file))?;
    unfinished.persist(&file).map_err(|e| OrtError::store("rename to", &file)(e.error))?;
    Ok(code)
}

/// What an earlier process made, if it is whole.
fn kept(file: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (hash, code) = bytes.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(code).as_bytes() == hash).then(|| code.to_vec())
}

/// The compiler's version.
///
/// # Errors
/// [`OrtError::Compiler`].
pub(crate) fn version() -> Result<String, OrtError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the places for the answers are valid.
    match unsafe { (api()?.version)(&raw mut major, &raw mut minor) } {
        0 => Ok(format!("{major}.{minor}")),
        status => Err(OrtError::Compiler { reason: format!("it gives no version: error {status}") }),
    }
}

fn api() -> Result<&'static Api, OrtError> {
    static API: OnceLock<Result<Api, String>> = OnceLock::new();
    let load = || {
        let mut reasons = Vec::new();
        for name in NAMES {
            // SAFETY: this is NVIDIA's compiler library, whose initialisers only set up its own state.
            match unsafe { libloading::Library::new(name) } {
                Ok(library) => {
                    let api = Api::load(&library).map_err(|e| format!("{name}: {e}"))?;
                    // The functions are kept for as long as the process lives, and so must the library.
                    std::mem::forget(library);
                    return Ok(api);
                }
                Err(e) => reasons.push(e.to_string()),
            }
        }
        Err(reasons.swap_remove(0))
    };
    API.get_or_init(load).as_ref().map_err(|reason| OrtError::Compiler { reason: reason.clone() })
}

/// A program, destroyed when it goes out of scope.
struct Owned(&'static Api, Program);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed once.
        unsafe { (self.0.destroy)(&raw mut self.1) };
    }
}

fn compile(source: &str, options: &[String]) -> Result<Vec<u8>, OrtError> {
    let api = api()?;
    let fail = |reason: String| OrtError::Compiler { reason };
    let text = |s: &str| CString::new(s).map_err(|e| fail(e.to_string()));
    let (source, name) = (text(source)?, text("kernels.cu")?);
    let mut program = null_mut();
    // SAFETY: both strings end in a zero; there are no headers.
    let status = unsafe { (api.create)(&raw mut program, source.as_ptr(), name.as_ptr(), 0, null(), null()) };
    if status != 0 {
        return Err(fail(format!("it takes no program: error {status}")));
    }
    let program = Owned(api, program);
    let options: Vec<_> = options.iter().map(|o| text(o)).collect::<Result<_, _>>()?;
    let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
    // SAFETY: the options are valid for the call.
    let status = unsafe { (api.compile)(program.1, count, pointers.as_ptr()) };
    if status != 0 {
        return Err(fail(format!("it refuses the kernels: {}", log(&program))));
    }
    let mut size = 0;
    // SAFETY: the place for the answer is valid.
    let sized = unsafe { (api.code_size)(program.1, &raw mut size) };
    let mut code = vec![0u8; size];
    // SAFETY: the buffer has the size that was told.
    let status = if sized == 0 { unsafe { (api.code)(program.1, code.as_mut_ptr().cast()) } } else { sized };
    if status == 0 && size > 0 { Ok(code) } else { Err(fail(format!("it gives no machine code: error {status}"))) }
}

fn log(program: &Owned) -> String {
    let Owned(api, program) = program;
    let mut size = 0;
    // SAFETY: the place for the answer is valid.
    if unsafe { (api.log_size)(*program, &raw mut size) } != 0 {
        return "it does not say why".to_owned();
    }
    let mut text = vec![0u8; size];
    // SAFETY: the buffer has the size that was told.
    unsafe { (api.log)(*program, text.as_mut_ptr().cast()) };
    String::from_utf8_lossy(&text).trim_end_matches('\0').trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compiler needs no device, so this runs wherever its library is.
    #[test]
    fn kernels_compile_once_and_damage_is_repaired() {
        if let Err(error) = version() {
            eprintln_skip(&error.to_string());
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let source = include_str!("../../kernels/pick.cu");
        let code = machine_code(source, 90, &[], folder.path()).unwrap();
        assert!(code.starts_with(b"\x7fELF"));
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(kept(&file), Some(code.clone()));
        fs::write(&file, b"damaged").unwrap();
        assert_eq!(machine_code(source, 90, &[], folder.path()).unwrap(), code);
        assert_eq!(kept(&file), Some(code), "a damaged file is written again");
    }

    #[test]
    fn a_refusal_says_what_the_compiler_said() {
        if version().is_err() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let error = machine_code("oops", 90, &[], folder.path()).unwrap_err().to_string();
        assert!(error.contains("kernels.cu(1)"), "{error}");
    }

    fn eprintln_skip(reason: &str) {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    }
}
