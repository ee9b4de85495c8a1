//! Captures the machine's facts. Linux; elsewhere each fact is unknown, with that reason.

use crate::{Layer, StackInfo};
use std::fs;

/// Processor, cores, memory, kernel and governor of this machine, as the operating system tells them now.
pub fn machine() -> StackInfo {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").map_err(|e| format!("/proc/cpuinfo: {e}"));
    let mut stack = StackInfo::new().with(Layer::Machine, "os", std::env::consts::OS).with(Layer::Machine, "arch", std::env::consts::ARCH);
    for (key, name) in [("cpu", "model name"), ("cpu_family", "cpu family"), ("cpu_model", "model"), ("cpu_stepping", "stepping")] {
        stack = put(stack, key, cpuinfo.as_deref().map_err(Clone::clone).and_then(|text| field(text, name)));
    }
    stack = put(
        stack,
        "cpu_features",
        cpuinfo.as_deref().map_err(Clone::clone).and_then(|text| field(text, "flags")).map(|flags| vector_features(&flags)),
    );
    stack = put(stack, "cores", std::thread::available_parallelism().map(|n| n.to_string()).map_err(|e| e.to_string()));
    stack = put(stack, "memory_gib", read("/proc/meminfo").and_then(|text| field(&text, "MemTotal")).and_then(|kib| gib(&kib)));
    stack = put(stack, "kernel", read("/proc/sys/kernel/osrelease"));
    // No governor to read is itself a fact about the machine (virtual machines have none), not a failure to look.
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").unwrap_or_else(|_| "none".to_owned());
    stack.with(Layer::Machine, "governor", governor)
}

/// Bytes that the system can still give without swapping, as Linux estimates them (`MemAvailable`): to refuse what would not fit
/// before it is touched. `None` where nobody tells.
pub fn available_memory_bytes() -> Option<u64> {
    let text = read("/proc/meminfo").and_then(|text| field(&text, "MemAvailable")).ok()?;
    text.strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

fn put(stack: StackInfo, key: &str, value: Result<String, String>) -> StackInfo {
    match value {
        Ok(v) => stack.with(Layer::Machine, key, v),
        Err(why) => stack.with_unknown(Layer::Machine, key, why),
    }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map(|s| s.trim().to_owned()).map_err(|e| format!("{path}: {e}"))
}

fn field(text: &str, name: &str) -> Result<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .ok_or_else(|| format!("no field `{name}`"))
}

/// The features that change which kernels run; the whole list differs between kernel versions for no reason of ours.
fn vector_features(flags: &str) -> String {
    const RELEVANT: [&str; 12] = [
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "amx_tile",
    ];
    let have: Vec<_> = RELEVANT.into_iter().filter(|f| flags.split(' ').any(|g| g == *f)).collect();
    have.join(" ")
}

fn gib(kib: &str) -> Result<String, String> {
    let n: u64 = kib.trim_end_matches(" kB").parse().map_err(|_| format!("`{kib}` is not a number of kB"))?;
    // Whole GiB: the kernel's own reservation moves the exact figure from boot to boot.
    Ok(((n + (1 << 19)) >> 20).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_field_and_says_when_there_is_none() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\n";
        assert_eq!(field(text, "model name"), Ok("AMD EPYC".to_owned()));
        assert!(field(text, "flags").unwrap_err().contains("flags"));
    }

    #[test]
    fn memory_is_rounded_to_whole_gib() {
        assert_eq!(gib("24566212 kB"), Ok("23".to_owned()));
        assert!(gib("lots").is_err());
    }

    #[test]
    fn two_captures_agree() {
        assert_eq!(machine().differences(&machine(), Layer::Machine), []);
    }
}
