//! Installing a filter of system calls.

use std::io;

/// One instruction of a classic BPF program.
pub type Instruction = libc::sock_filter;

/// Puts `program` in front of every later system call of this process and its
/// children, for good. Needs `CAP_SYS_ADMIN` or `no_new_privs`.
///
/// # Errors
/// Also when the program is longer than the kernel takes (4096 instructions).
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let mut program = program.to_vec();
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, whose length and pointer are of
    // one live vector.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
