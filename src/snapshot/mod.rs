//! Root filesystems from layers, and the difference a step made.
