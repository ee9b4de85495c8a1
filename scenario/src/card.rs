//! The decision card.

use crate::{ReportOptions, Run};

pub(crate) fn card(_run: &Run, _options: &ReportOptions) -> String {
    "## Decision card\n".to_owned()
}
