//! Where images live, and copying between those places.
