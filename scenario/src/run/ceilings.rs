//! What the devices can do at most, kept in the run.

use super::Runner;
use crate::{Observer, Progress, ScenarioError, dir::CEILINGS};

/// Blocks of measuring before the run's first: a rate takes two.
const FIRST: u32 = 2;

impl Runner<'_> {
    pub(super) fn first_ceilings(&mut self, observer: &mut dyn Observer) -> Result<(), ScenarioError> {
        for (n, ceilings) in self.ceilings.iter().enumerate().filter(|_| !self.resumed) {
            self.dir.write_json(&format!("{CEILINGS}{n}.json"), ceilings)?;
        }
        let warmed = self.ceiling_meter.as_mut().map_or(Ok(()), crate::CeilingMeter::warm_up);
        warmed.or_else(|why| self.no_ceilings(&why, observer)).and_then(|()| self.measure_ceilings(FIRST, observer))
    }

    /// Measures and writes what was measured so far, so that a run that is killed has it.
    pub(super) fn measure_ceilings(&mut self, blocks: u32, observer: &mut dyn Observer) -> Result<(), ScenarioError> {
        let Some(meter) = &mut self.ceiling_meter else { return Ok(()) };
        let measured = (0..blocks).try_for_each(|_| meter.block(&self.clock)).and_then(|()| meter.ceilings());
        match measured {
            Ok(ceilings) => self.dir.write_json(&format!("{CEILINGS}{}.json", self.ceilings.len()), &ceilings),
            Err(why) => self.no_ceilings(&why, observer),
        }
    }

    /// A run is worth having without: its roofline then says that there are none.
    fn no_ceilings(&mut self, why: &ScenarioError, observer: &mut dyn Observer) -> Result<(), ScenarioError> {
        observer.progress(&Progress::NoCeilings { message: &why.to_string() });
        self.ceiling_meter = None;
        Ok(())
    }
}
