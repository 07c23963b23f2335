//! Capability sets of the calling process, as bit masks: bit *n* is
//! capability number *n* of `linux/capability.h`.

use std::io;

/// The highest number a mask can hold.
const HIGHEST: u32 = 63;
/// `_LINUX_CAPABILITY_VERSION_3`: 64-bit sets.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `CAP_DAC_OVERRIDE`: modes of files keep nobody out.
pub const DAC_OVERRIDE: u64 = 1 << 1;

/// The permitted set.
pub fn permitted() -> io::Result<u64> {
    held(|data| data.permitted)
}

/// The effective set.
pub fn effective() -> io::Result<u64> {
    held(|data| data.effective)
}

fn held(set: impl Fn(&Data) -> u32) -> io::Result<u64> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data have the layout the kernel documents for
    // version 3 (one header, two data elements) and live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(set(&data[0])) | u64::from(set(&data[1])) << 32)
}

/// Makes `mask` the effective and permitted set; inheritable and ambient
/// become empty. Only of the calling thread.
pub fn set(mask: u64) -> io::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let part = |bits: u64| Data {
        effective: bits as u32,
        permitted: bits as u32,
        inheritable: 0,
    };
    let data = [part(mask & 0xffff_ffff), part(mask >> 32)];
    // SAFETY: as in `permitted`; the kernel only reads both.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: prctl with integers only.
    let done = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
            0,
            0,
            0,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes everything that is not in `mask` out of the bounding set.
pub fn limit_bounding(mask: u64) -> io::Result<()> {
    for number in 0..=HIGHEST {
        // SAFETY: prctl with integers only.
        let held =
            unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number), 0, 0, 0) };
        if held < 0 {
            // The first number that this kernel does not know.
            break;
        }
        if held == 0 || mask >> number & 1 == 1 {
            continue;
        }
        // SAFETY: prctl with integers only.
        let done =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sets_are_what_proc_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let shown = |name: &str| {
            let mut lines = status.lines();
            let mask = lines.find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap()
        };
        assert_eq!(super::permitted().unwrap(), shown("CapPrm:"));
        assert_eq!(super::effective().unwrap(), shown("CapEff:"));
    }
}
