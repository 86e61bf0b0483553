//! A system call filter: a program of classic BPF, as build/main.rs has compiled it.
use seccompiler::sock_filter;

/// The instructions of a compiled filter.
pub(crate) fn program(filter: &[u8]) -> Vec<sock_filter> {
    let instruction = |bytes: &[u8]| match *bytes {
        [c0, c1, jt, jf, k0, k1, k2, k3] => {
            Some(sock_filter { code: u16::from_le_bytes([c0, c1]), jt, jf, k: u32::from_le_bytes([k0, k1, k2, k3]) })
        }
        _ => None,
    };
    filter.chunks_exact(8).filter_map(instruction).collect()
}

/// The build script's table, for its test.
#[cfg(test)]
#[path = "../build/arguments.rs"]
mod arguments;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::filter::arguments::{Width, width};
    use crate::{PROFILES, Profile};
    use bulkhead_plan::{Memory, Picture, kind};

    /// Whether a profile's filter lets a call pass: runs the program on the kernel's `struct seccomp_data`.
    #[allow(clippy::arithmetic_side_effects, reason = "a program that leads outside must panic here")]
    pub(crate) fn allows(profile: &Profile, call: libc::c_long, args: &[(usize, u64)]) -> bool {
        const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
        let mut data = [0u32; 16];
        data[0] = call as u32;
        data[1] = AUDIT_ARCH_X86_64;
        for (arg, value) in args {
            data[4 + 2 * arg] = *value as u32;
            data[5 + 2 * arg] = (*value >> 32) as u32;
        }
        let program = program(profile.filter);
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let i = &program[at];
            at += 1;
            // linux/bpf_common.h: class, then size and mode or operation and source.
            let taken = match i.code {
                0x20 => {
                    accumulator = data[i.k as usize / 4];
                    continue;
                }
                0x54 => {
                    accumulator &= i.k;
                    continue;
                }
                0x06 => return i.k == libc::SECCOMP_RET_ALLOW,
                0x05 => {
                    at += i.k as usize;
                    continue;
                }
                0x15 => accumulator == i.k,
                0x25 => accumulator > i.k,
                0x35 => accumulator >= i.k,
                code => panic!("{}: instruction {code:#x}", profile.role),
            };
            at += usize::from(if taken { i.jt } else { i.jf });
        }
    }

    #[test]
    fn no_profile_sends_to_an_address_wherever_it_lies() {
        for profile in PROFILES.iter().filter(|p| p.syscalls.contains(&"sendto")) {
            assert!(allows(profile, libc::SYS_sendto, &[]), "{}", profile.role);
            for bit in 0..64 {
                let address = 1u64 << bit;
                assert!(!allows(profile, libc::SYS_sendto, &[(4, address)]), "{}: {address:#x}", profile.role);
            }
            // The kernel takes the other arguments as they are, and of the flags only the lower half.
            assert!(allows(profile, libc::SYS_sendto, &[(0, 3), (1, u64::MAX), (2, 80), (3, u64::MAX), (5, 16)]));
        }
    }

    #[test]
    fn no_profile_makes_memory_executable_whatever_else_it_asks_for() {
        for profile in PROFILES {
            for (name, call) in [("mmap", libc::SYS_mmap), ("mprotect", libc::SYS_mprotect)] {
                if !profile.syscalls.contains(&name) {
                    continue;
                }
                for other in (0..64).map(|bit| 1u64 << bit) {
                    let prot = libc::PROT_EXEC as u64 | other;
                    assert!(!allows(profile, call, &[(2, prot)]), "{}: {name} {prot:#x}", profile.role);
                }
            }
        }
    }

    #[test]
    fn memory_is_mapped_in_the_shapes_that_a_role_needs_and_in_no_other() {
        const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
        const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        const SHARED_FIXED: i32 = libc::MAP_SHARED | libc::MAP_FIXED;
        const NOTHING: i32 = ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        for profile in PROFILES {
            let kind = kind::of_role(profile.role).unwrap();
            let (broker, granted) =
                (profile.role == kind::BROKER.role, kind.back_end.is_some() && kind.memory == Memory::Granted);
            let looks = kind.picture == Picture::Looks;
            for addr in [0u64, 0x1000, 1 << 32, 0x7000_0000_0000] {
                for prot in (0..16u64).chain([RW as u64 | 1 << 32, 1 << 24 | RW as u64, 1 << 63]) {
                    // MAP_TYPE, FIXED, ANONYMOUS, and one of the others.
                    let others = (12..20).map(|bit| 1u64 << bit).chain([0]);
                    for flags in others.flat_map(|other| (0..0x40).map(move |low| other | low)) {
                        let expected = match (prot as i32, flags as i32) {
                            _ if prot >> 32 != 0 => false,
                            (RW, ANONYMOUS) => addr == 0,
                            (RW, libc::MAP_SHARED) => addr == 0 && kind.memory.maps(),
                            (libc::PROT_READ, libc::MAP_SHARED) => addr == 0 && (broker || looks),
                            (RW, SHARED_FIXED) | (libc::PROT_NONE, NOTHING) => granted,
                            _ => false,
                        };
                        let allowed = allows(profile, libc::SYS_mmap, &[(0, addr), (2, prot), (3, flags)]);
                        assert_eq!(allowed, expected, "{}: {addr:#x} {prot:#x} {flags:#x}", profile.role);
                    }
                }
            }
            assert!(!allows(profile, libc::SYS_mmap, &[(2, RW as u64), (3, ANONYMOUS as u64 | 1 << 32)]));
            for flags in 0..16u64 {
                let allowed = allows(profile, libc::SYS_mremap, &[(3, flags)]);
                assert_eq!(allowed, flags == libc::MREMAP_MAYMOVE as u64, "{}: mremap {flags:#x}", profile.role);
            }
        }
    }

    #[test]
    fn no_profile_has_a_way_to_memory_that_no_limit_counts() {
        for profile in PROFILES {
            for name in
                ["mprotect", "madvise", "memfd_create", "memfd_secret", "shmget", "setsockopt", "mlock", "splice"]
            {
                assert!(!profile.syscalls.contains(&name), "{}: {name}", profile.role);
            }
            for (what, command) in [("F_SETPIPE_SZ", 1031), ("F_SETLK", 6), ("F_OFD_SETLK", 37), ("F_SETLEASE", 1024)] {
                assert!(!allows(profile, libc::SYS_fcntl, &[(1, command)]), "{}: {what}", profile.role);
            }
            // A memfd that is not sealed grows by a write.
            let grows = profile.limits.file_size > 0 && profile.descriptors.contains(&"memfd");
            assert!(!grows, "{} holds memfds that it can make larger", profile.role);
        }
    }

    #[test]
    fn an_argument_that_the_kernel_cuts_is_compared_as_the_kernel_sees_it() {
        let profile = crate::profile("ps2").unwrap();
        let garbage = 0xdead_beef_0000_0000;
        assert!(allows(profile, libc::SYS_fcntl, &[(1, garbage | libc::F_GETFL as u64)]));
        assert!(!allows(profile, libc::SYS_fcntl, &[(1, garbage | libc::F_SETFL as u64)]));
    }

    #[test]
    fn the_width_of_an_argument_is_known_or_the_build_ends() {
        assert_eq!((width("sendto", 4), width("sendto", 3)), (Some(Width::Whole), Some(Width::Half)));
        assert_eq!((width("fcntl", 1), width("mmap", 0)), (Some(Width::Half), Some(Width::Whole)));
        assert_eq!((width("sendto", 6), width("sendfile", 0), width("", 0)), (None, None, None));
    }
}
