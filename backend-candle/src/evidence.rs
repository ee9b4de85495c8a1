//! What ran: how often each kind of kernel was called, counted where it is called.

use phase_core::Evidence;

/// Kinds of kernels, in the order they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Matmul,
    Matvec,
    Widen,
    Attention,
    AppendKv,
    Rotary,
    Norm,
    Activation,
}

impl Kernel {
    const ALL: [Self; 8] =
        [Self::Matmul, Self::Matvec, Self::Widen, Self::Attention, Self::AppendKv, Self::Rotary, Self::Norm, Self::Activation];

    const fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::Matvec => "matvec",
            Self::Widen => "widen",
            Self::Attention => "attention",
            Self::AppendKv => "append_kv",
            Self::Rotary => "rotary",
            Self::Norm => "norm",
            Self::Activation => "activation",
        }
    }
}

/// Calls of each kind of kernel since loading.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts([u64; Kernel::ALL.len()]);

impl Counts {
    pub(crate) fn add(&mut self, kernel: Kernel) {
        self.0[kernel as usize] += 1;
    }

    fn of(&self, kernel: Kernel) -> u64 {
        self.0[kernel as usize]
    }

    /// `weights` is the number format, `path` the instruction set.
    pub(crate) fn evidence(&self, weights: &str, path: &str) -> Evidence {
        let candle = self.of(Kernel::Matmul);
        let ours: u64 = Kernel::ALL.into_iter().map(|kernel| self.of(kernel)).sum::<u64>() - candle;
        let mut evidence = Evidence::new("calls counted where they are made");
        for (executor, calls) in [("candle Device::Cpu", candle), ("phase-kernels", ours)] {
            if calls > 0 {
                evidence = evidence.with_placement(executor, calls);
            }
        }
        for kernel in Kernel::ALL.into_iter().filter(|kernel| self.of(*kernel) > 0) {
            let (library, format) = match kernel {
                Kernel::Matmul => ("candle", "f32"),
                Kernel::Matvec | Kernel::Widen => ("phase-kernels", weights),
                Kernel::Attention | Kernel::AppendKv => ("phase-kernels", weights),
                Kernel::Rotary | Kernel::Norm | Kernel::Activation => ("phase-kernels", "f32"),
            };
            evidence = evidence.with_kernel(format!("{library} {} {format} {path}: {} calls", kernel.name(), self.of(kernel)));
        }
        evidence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_is_reported() {
        let mut counts = Counts::default();
        assert_eq!(counts.evidence("f16", "avx2"), Evidence::new("calls counted where they are made"));
        counts.add(Kernel::Matvec);
        counts.add(Kernel::Matvec);
        counts.add(Kernel::Norm);
        let evidence = counts.evidence("f16", "avx2");
        assert_eq!(evidence.kernels, ["phase-kernels matvec f16 avx2: 2 calls", "phase-kernels norm f32 avx2: 1 calls"]);
        assert_eq!((evidence.placement.len(), evidence.placement[0].nodes), (1, 3));
    }

    #[test]
    fn every_kind_has_its_own_counter() {
        for (index, kernel) in Kernel::ALL.into_iter().enumerate() {
            assert_eq!(kernel as usize, index);
        }
    }
}
