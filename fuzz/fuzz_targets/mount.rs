//! Mounts and ports: nothing panics, and each error says what to do.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::dockerfile::{mount, ports};

fuzz_target!(|text: &str| {
    match mount::parse(text) {
        Ok(_) => assert!(!mount::uses_variable_in_from(text)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(ports) = ports::parse(text) {
        assert!(ports.first <= ports.last);
    }
});
