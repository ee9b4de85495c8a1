//! Energy sources and why they are absent; attribution comes with measured sources.
