//! What a router makes small.

use super::{Router, scale::Scale};
use phase_core::BackendId;

/// What counts.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Objective {
    /// Money: each backend's time, at the price of the machine it runs on.
    Cost {
        /// US dollars an hour of every backend of the policy.
        usd_per_hour: Vec<(BackendId, f64)>,
    },
    /// Energy, where it was measured on both. Intervals decide as they do for time.
    Energy,
    /// Time.
    #[default]
    Latency,
}

/// An objective that can't be followed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// A backend of the policy has no price.
    #[error("`{backend}` has no price")]
    NoPrice {
        /// The backend.
        backend: BackendId,
    },
    /// A price that is not positive and finite.
    #[error("`{backend}` costs {usd_per_hour} $/h: it must be positive")]
    Price {
        /// The backend.
        backend: BackendId,
        /// Its price.
        usd_per_hour: f64,
    },
}

impl Objective {
    pub(super) fn scale(&self, router: &Router) -> Result<Scale, ObjectiveError> {
        let backends = &router.tables.backends;
        let price = |backend: &BackendId, prices: &[(BackendId, f64)]| {
            let (_, usd_per_hour) =
                prices.iter().find(|(id, _)| id == backend).ok_or_else(|| ObjectiveError::NoPrice { backend: backend.clone() })?;
            let usd_per_hour = *usd_per_hour;
            let sane = usd_per_hour.is_finite() && usd_per_hour > 0.0;
            if sane { Ok(usd_per_hour) } else { Err(ObjectiveError::Price { backend: backend.clone(), usd_per_hour }) }
        };
        Ok(match self {
            Self::Latency => Scale::Time(vec![1.0; backends.len()]),
            Self::Energy => Scale::Energy,
            Self::Cost { usd_per_hour } => {
                let prices = backends.iter().map(|b| price(b, usd_per_hour)).collect::<Result<Vec<_>, _>>()?;
                Scale::Time(prices.iter().map(|usd| usd / prices[0]).collect())
            }
        })
    }
}
