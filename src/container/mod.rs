//! Runs one process in isolation.
