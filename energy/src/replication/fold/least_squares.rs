//! Normal equations of a few unknowns, with their condition number.

/// More unknowns than this are not solved for.
pub(super) const MOST_UNKNOWNS: usize = 24;
/// Weight of the second difference of neighbours, as a share of the mean weight of an unknown: enough for what the equations
/// leave open, too little for what they say.
const SMOOTH: f64 = 1e-3;

/// Sums of many equations `row . x = y`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Equations {
    unknowns: usize,
    /// The first unknown of each part: neighbours in two of them need not be alike.
    parts: Vec<usize>,
    count: usize,
    /// `A'A`, by rows.
    square: Vec<f64>,
    /// `A'y`.
    right: Vec<f64>,
}

impl Equations {
    pub(super) fn new(unknowns: usize, parts: &[usize]) -> Self {
        Self { unknowns, parts: parts.to_vec(), count: 0, square: vec![0.0; unknowns * unknowns], right: vec![0.0; unknowns] }
    }

    pub(super) fn add(&mut self, row: &[f64], y: f64) {
        self.count += 1;
        for (i, a) in row.iter().enumerate() {
            self.right[i] += a * y;
            for (j, b) in row.iter().enumerate() {
                self.square[i * self.unknowns + j] += a * b;
            }
        }
    }

    pub(super) fn and(mut self, other: &Self) -> Self {
        self.count += other.count;
        self.square.iter_mut().zip(&other.square).for_each(|(a, b)| *a += b);
        self.right.iter_mut().zip(&other.right).for_each(|(a, b)| *a += b);
        self
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        let (square, right) = (less(&self.square, &other.square), less(&self.right, &other.right));
        Self { unknowns: self.unknowns, parts: self.parts.clone(), count: self.count - other.count, square, right }
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The matrix with what keeps neighbours alike.
    fn smoothed(&self) -> Vec<f64> {
        let n = self.unknowns;
        let mut matrix = self.square.clone();
        let trace: f64 = (0..n).map(|i| self.square[i * n + i]).sum();
        let weight = SMOOTH * trace / real(n.max(1));
        let within = |k: &usize| !self.parts.contains(&(k + 1)) && !self.parts.contains(&(k + 2));
        for k in (0..n.saturating_sub(2)).filter(within) {
            for (i, a) in [(k, 1.0), (k + 1, -2.0), (k + 2, 1.0)] {
                for (j, b) in [(k, 1.0), (k + 1, -2.0), (k + 2, 1.0)] {
                    matrix[i * n + j] += weight * a * b;
                }
            }
        }
        matrix
    }

    /// The unknowns; `None` where the equations do not settle them.
    pub(super) fn solve(&self) -> Option<Vec<f64>> {
        let (n, mut m, mut x) = (self.unknowns, self.smoothed(), self.right.clone());
        // Cholesky: the matrix is symmetric and, where it settles anything, positive.
        for i in 0..n {
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| m[i * n + k] * m[j * n + k]).sum();
                let left = m[i * n + j] - known;
                if i == j {
                    if left.is_nan() || left <= 0.0 {
                        return None;
                    }
                    m[i * n + i] = left.sqrt();
                } else {
                    m[i * n + j] = left / m[j * n + j];
                }
            }
        }
        for i in 0..n {
            let known: f64 = (0..i).map(|k| m[i * n + k] * x[k]).sum();
            x[i] = (x[i] - known) / m[i * n + i];
        }
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|k| m[k * n + i] * x[k]).sum();
            x[i] = (x[i] - known) / m[i * n + i];
        }
        Some(x)
    }

    /// Greatest over least singular value of the equations, without what keeps neighbours alike; infinite where they do not
    /// settle all of the unknowns.
    pub(super) fn condition(&self) -> f64 {
        let values = eigenvalues(self.square.clone(), self.unknowns);
        let (least, most) = values.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), v| (a.min(*v), b.max(*v)));
        if least > 0.0 { (most / least).sqrt() } else { f64::INFINITY }
    }
}

/// Eigenvalues of a symmetric matrix, by Jacobi's rotations.
fn eigenvalues(mut m: Vec<f64>, n: usize) -> Vec<f64> {
    const SWEEPS: usize = 30;
    for _ in 0..SWEEPS {
        for p in 0..n {
            for q in p + 1..n {
                let off = m[p * n + q];
                if off.abs() < 1e-300 {
                    continue;
                }
                let theta = (m[q * n + q] - m[p * n + p]) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                for k in 0..n {
                    let (a, b) = (m[k * n + p], m[k * n + q]);
                    m[k * n + p] = c * a - s * b;
                    m[k * n + q] = s * a + c * b;
                }
                for k in 0..n {
                    let (a, b) = (m[p * n + k], m[q * n + k]);
                    m[p * n + k] = c * a - s * b;
                    m[q * n + k] = s * a + c * b;
                }
            }
        }
    }
    (0..n).map(|i| m[i * n + i]).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a few unknowns")]
fn real(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_solved_and_their_condition_known() {
        let mut e = Equations::new(2, &[0]);
        e.add(&[3.0, 0.0], 6.0);
        e.add(&[0.0, 1.0], 5.0);
        let x = e.solve().unwrap();
        assert!((x[0] - 2.0).abs() < 1e-12 && (x[1] - 5.0).abs() < 1e-12, "{x:?}");
        assert!((e.condition() - 3.0).abs() < 1e-9);
        let mut values = eigenvalues(vec![2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0], 3);
        values.sort_by(f64::total_cmp);
        for (found, known) in values.iter().zip([2.0 - 2.0_f64.sqrt(), 2.0, 2.0 + 2.0_f64.sqrt()]) {
            assert!((found - known).abs() < 1e-9, "{values:?}");
        }
    }

    #[test]
    fn what_is_not_settled_is_not_solved() {
        let mut e = Equations::new(2, &[0]);
        e.add(&[1.0, 1.0], 1.0);
        assert!(e.condition() > 1e6);
        assert_eq!(Equations::new(3, &[0]).solve(), None);
        assert!(Equations::new(3, &[0]).condition().is_infinite());
        let mut more = e.clone();
        more.add(&[1.0, -1.0], 3.0);
        let x = more.solve().unwrap();
        assert!((x[0] - 2.0).abs() < 1e-12 && (x[1] + 1.0).abs() < 1e-12);
        assert_eq!(more.without(&e).and(&e).count(), 2);
    }
}
