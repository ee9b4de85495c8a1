//! Matrix statistics, rules, router: pure, no I/O, no clock.
