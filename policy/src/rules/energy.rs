//! "Report per-event energy only with data; otherwise label it `no_data`." A sum with a part that is not known is not
//! known, and energy is never interpolated: sampling gates hold for the calls that were measured, not between them.

use phase_core::{Energy, Joules, NoData};

/// Energy of a request of one prefill and `steps` decode steps, from the energy of one call of each. A part that was
/// not measured at this shape is `None`.
pub(crate) fn request(prefill: Option<&Energy>, decode: Option<&Energy>, steps: f64) -> Energy {
    let parts = [(prefill, 1.0), (decode, steps)];
    let (mut joules, mut low, mut high) = (0.0, 0.0, 0.0);
    for (energy, times) in parts.into_iter().filter(|(_, times)| *times > 0.0) {
        match energy {
            Some(Energy::Measured { joules: j, low: l, high: h }) => {
                joules += times * j.0;
                low += times * l.0;
                high += times * h.0;
            }
            Some(Energy::NoData { reason }) => return Energy::NoData { reason: *reason },
            _ => return Energy::NoData { reason: NoData::NotRecorded },
        }
    }
    Energy::Measured { joules: Joules(joules), low: Joules(low), high: Joules(high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unknown_part_makes_the_sum_unknown() {
        let one = Energy::Measured { joules: Joules(1.0), low: Joules(0.5), high: Joules(2.0) };
        let none = Energy::NoData { reason: NoData::NoSource };
        let sum = Energy::Measured { joules: Joules(4.0), low: Joules(2.0), high: Joules(8.0) };
        assert_eq!(request(Some(&one), Some(&one), 3.0), sum);
        assert_eq!(request(Some(&one), Some(&none), 3.0), none);
        assert_eq!(request(Some(&one), Some(&none), 0.0), one);
        assert_eq!(request(None, Some(&one), 3.0), Energy::NoData { reason: NoData::NotRecorded });
    }
}
