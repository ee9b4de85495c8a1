//! A source that replays readings, recorded or made up: everything above the sources is tested with it.

use super::{ReadError, Source, SourceId, Stamped};
use crate::ReadingKind;
use std::time::Duration;

/// Replays one scripted answer per read, in order. After the last it says [`ReadError::Gone`].
///
/// ```
/// use phase_energy::{Perimeter, ReadError, Reading, ReadingKind, Scripted, Source, SourceId};
/// let id = SourceId::new("device-0", "none", "script", Perimeter::GpuBoard);
/// let steps = vec![Ok(vec![Reading::Power { milliwatts: 70_000 }.into()]), Err(ReadError::Zero)];
/// let mut source = Scripted::new(id, ReadingKind::Power, steps);
/// let mut seen = 0;
/// assert!(source.read(&mut |_| seen += 1).is_ok());
/// assert_eq!((seen, source.read(&mut |_| ())), (1, Err(ReadError::Zero)));
/// ```
#[derive(Debug)]
pub struct Scripted {
    id: SourceId,
    kind: ReadingKind,
    refresh: Option<Duration>,
    steps: std::vec::IntoIter<Result<Vec<Stamped>, ReadError>>,
}

impl Scripted {
    /// A source of `kind` that answers with `steps`.
    pub fn new(id: SourceId, kind: ReadingKind, steps: Vec<Result<Vec<Stamped>, ReadError>>) -> Self {
        Self { id, kind, refresh: None, steps: steps.into_iter() }
    }

    /// The source with a refresh period it claims.
    #[must_use]
    pub fn with_refresh(mut self, refresh: Duration) -> Self {
        self.refresh = Some(refresh);
        self
    }
}

impl Source for Scripted {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn kind(&self) -> ReadingKind {
        self.kind
    }

    fn refresh(&self) -> Option<Duration> {
        self.refresh
    }

    fn read(&mut self, out: &mut dyn FnMut(Stamped)) -> Result<(), ReadError> {
        let readings = self.steps.next().unwrap_or(Err(ReadError::Gone))?;
        readings.into_iter().for_each(out);
        Ok(())
    }
}
