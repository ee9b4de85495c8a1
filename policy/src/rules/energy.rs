//! "Report per-event energy only with data; otherwise label it `no_data`." A sum with a part that is not known is not
//! known, and energy is never interpolated between shapes: sampling gates hold for the calls that were measured.

use phase_core::{Energy, Joules, MacroMethod, NoData};

/// The energy to report of a call, by the source document's rule: per event only where its sensor covered it; else the mean
/// of a macro window; else, where only bounds of one event are known, those; else nothing, with the window's reason.
///
/// ```
/// use phase_core::{Energy, Joules, MacroMethod, NoData};
/// let short = Energy::NoData { reason: NoData::TooFewUpdates };
/// let [joules, low, high] = [20.0, 19.0, 21.0].map(Joules);
/// let window = Energy::MacroWindow { joules, low, high, replays: 100, windows: 5, method: MacroMethod::Replay };
/// assert_eq!(phase_policy::reported_energy(&short, &window), window);
/// let covered = Energy::Measured { joules, low, high };
/// assert_eq!(phase_policy::reported_energy(&covered, &window), covered);
/// ```
pub fn reported_energy(single: &Energy, window: &Energy) -> Energy {
    match (single, window) {
        (Energy::Measured { .. }, _) => single.clone(),
        (_, Energy::MacroWindow { .. } | Energy::Measured { .. }) => window.clone(),
        (Energy::Interpolated { .. }, _) => single.clone(),
        _ => window.clone(),
    }
}

/// Energy of a request of one prefill and `steps` decode steps, from the energy of one call of each. A part that was
/// not measured at this shape is `None`.
///
/// The sum is what its weakest part is: `measured` when all parts are, `interpolated` when one is no more, and
/// `macro_window`, a mean in warm back-to-back state, when one is that. The response energy of an isolated call includes what
/// the device does afterwards, and is added to nothing but its like.
pub(crate) fn request(prefill: Option<&Energy>, decode: Option<&Energy>, steps: f64) -> Energy {
    let mut sum: Option<Energy> = None;
    for (energy, times) in [(prefill, 1.0), (decode, steps)].into_iter().filter(|(_, times)| *times > 0.0) {
        let Some(energy) = energy else { return Energy::NoData { reason: NoData::NotRecorded } };
        let part = repeat_energy(energy, times);
        sum = Some(sum.map_or_else(|| part.clone(), |sum| add_energies(&sum, &part)));
    }
    sum.unwrap_or(Energy::NoData { reason: NoData::NotRecorded })
}

/// The energy of `times` calls of `energy` each, in a row; of a part of one where `times` is less than 1.
#[must_use]
pub fn repeat_energy(energy: &Energy, times: f64) -> Energy {
    let times = |j: Joules| Joules(j.0 * times);
    match energy.clone() {
        Energy::Measured { joules, low, high } => Energy::Measured { joules: times(joules), low: times(low), high: times(high) },
        Energy::Interpolated { joules, low, high } => Energy::Interpolated { joules: times(joules), low: times(low), high: times(high) },
        Energy::MacroWindow { joules, low, high, replays, windows, method } => {
            Energy::MacroWindow { joules: times(joules), low: times(low), high: times(high), replays, windows, method }
        }
        Energy::NoData { reason } => Energy::NoData { reason },
        _ => Energy::NoData { reason: NoData::Unsupported },
    }
}

/// Middle and bounds, and the replays, windows and method of a mean.
type Parts = ([f64; 3], Option<(u32, u32, MacroMethod)>);

fn parts(energy: &Energy) -> Result<Parts, NoData> {
    match energy {
        Energy::Measured { joules, low, high } | Energy::Interpolated { joules, low, high } => Ok(([joules.0, low.0, high.0], None)),
        Energy::MacroWindow { joules, low, high, replays, windows, method } => {
            Ok(([joules.0, low.0, high.0], Some((*replays, *windows, *method))))
        }
        Energy::NoData { reason } => Err(*reason),
        _ => Err(NoData::Unsupported),
    }
}

/// Both together: bounds add, what is not known stays so, and the sum is what its weaker part is: `measured` when both are,
/// `interpolated` when one is no more, `macro_window` when one is a mean over replays. The response energy of an isolated call
/// includes what the device does afterwards, and is added to nothing but its like.
#[must_use]
pub fn add_energies(a: &Energy, b: &Energy) -> Energy {
    let ((x, mean_a), (y, mean_b)) = match (parts(a), parts(b)) {
        (Ok(x), Ok(y)) => (x, y),
        (Err(reason), _) | (_, Err(reason)) => return Energy::NoData { reason },
    };
    let [joules, low, high] = [0, 1, 2].map(|i| Joules(x[i] + y[i]));
    let isolated = |mean: Option<(u32, u32, MacroMethod)>| mean.is_some_and(|(.., method)| method == MacroMethod::GuardedShot);
    if isolated(mean_a) != isolated(mean_b) {
        return Energy::NoData { reason: NoData::Unsupported };
    }
    match (mean_a, mean_b) {
        (Some((r, w, m)), Some((r2, w2, m2))) => {
            let method = if m == m2 { m } else { MacroMethod::Replay };
            Energy::MacroWindow { joules, low, high, replays: r.min(r2), windows: w.min(w2), method }
        }
        (Some((replays, windows, method)), None) | (None, Some((replays, windows, method))) => {
            Energy::MacroWindow { joules, low, high, replays, windows, method }
        }
        (None, None) if matches!((a, b), (Energy::Measured { .. }, Energy::Measured { .. })) => Energy::Measured { joules, low, high },
        (None, None) => Energy::Interpolated { joules, low, high },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Energy = Energy::NoData { reason: NoData::NoSource };

    fn measured(j: f64) -> Energy {
        Energy::Measured { joules: Joules(j), low: Joules(j / 2.0), high: Joules(j * 2.0) }
    }

    fn between(j: f64) -> Energy {
        Energy::Interpolated { joules: Joules(j), low: Joules(j / 2.0), high: Joules(j * 2.0) }
    }

    fn mean(j: f64, replays: u32, method: MacroMethod) -> Energy {
        Energy::MacroWindow { joules: Joules(j), low: Joules(j / 2.0), high: Joules(j * 2.0), replays, windows: 5, method }
    }

    #[test]
    fn one_unknown_part_makes_the_sum_unknown() {
        let one = measured(1.0);
        assert_eq!(request(Some(&one), Some(&one), 3.0), measured(4.0));
        assert_eq!(request(Some(&one), Some(&NONE), 3.0), NONE);
        assert_eq!(request(Some(&NONE), Some(&mean(1.0, 9, MacroMethod::Replay)), 3.0), NONE);
        assert_eq!(request(Some(&one), Some(&NONE), 0.0), one);
        assert_eq!(request(None, Some(&one), 3.0), Energy::NoData { reason: NoData::NotRecorded });
    }

    #[test]
    fn a_sum_is_what_its_weakest_part_is() {
        let replayed = |j, replays| mean(j, replays, MacroMethod::Replay);
        assert_eq!(request(Some(&measured(1.0)), Some(&between(1.0)), 3.0), between(4.0));
        assert_eq!(request(Some(&replayed(2.0, 100)), Some(&replayed(0.5, 40)), 4.0), replayed(4.0, 40));
        assert_eq!(request(Some(&measured(2.0)), Some(&replayed(0.5, 40)), 4.0), replayed(4.0, 40));
        assert_eq!(request(Some(&replayed(2.0, 40)), Some(&between(0.5)), 4.0), replayed(4.0, 40));
    }

    #[test]
    fn the_response_of_an_isolated_call_is_added_to_nothing_else() {
        let shot = mean(2.0, 1, MacroMethod::GuardedShot);
        let unsupported = Energy::NoData { reason: NoData::Unsupported };
        assert_eq!(request(Some(&shot), Some(&mean(1.0, 40, MacroMethod::Replay)), 4.0), unsupported);
        assert_eq!(request(Some(&shot), Some(&measured(1.0)), 4.0), unsupported);
        assert_eq!(request(Some(&shot), None, 0.0), shot);
    }

    #[test]
    fn per_event_energy_is_reported_only_where_it_is_covered() {
        let window = mean(2.0, 40, MacroMethod::Replay);
        let short = Energy::NoData { reason: NoData::TooFewUpdates };
        let locked = Energy::NoData { reason: NoData::SensorLocked };
        assert_eq!(reported_energy(&measured(2.1), &window), measured(2.1));
        assert_eq!(reported_energy(&between(2.1), &window), window, "bounds of one event are no measurement");
        assert_eq!(reported_energy(&short, &window), window);
        assert_eq!(reported_energy(&between(2.1), &locked), between(2.1));
        assert_eq!(reported_energy(&measured(2.1), &locked), measured(2.1));
        assert_eq!(reported_energy(&short, &locked), locked, "the reason is that of the wider net");
    }
}
