//! A process to whether it is in a container, by its control groups.

use std::fs;

use rustix::process::RawPid;

/// Whether a process of this host is in the container with this id. containerd names a container's
/// control group `ID` or `cri-containerd-ID.scope`, CRI-O `crio-ID.scope`; `crio-conmon-ID.scope`
/// is that of what watches it.
pub(in crate::cri) fn is_in(pid: RawPid, container: &str) -> bool {
    fs::read(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| names(&groups, container))
}

fn names(groups: &[u8], container: &str) -> bool {
    let is_container = |part: &[u8]| {
        let part = part.strip_suffix(b".scope").unwrap_or(part);
        let is_monitor = part.starts_with(b"crio-conmon-");
        let before = part.strip_suffix(container.as_bytes());
        !is_monitor && before.is_some_and(|before| before.is_empty() || before.ends_with(b"-"))
    };
    // A short id would fit too much.
    container.len() >= 12
        && groups.split(|byte| matches!(byte, b'\n' | b'/' | b':')).any(is_container)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn control_groups_of_containers_are_known() {
        for path in [
            format!("0::/kubepods/burstable/pod1/{ID}\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
            format!("0::/kubepods.slice/crio-{ID}.scope/container\n"),
            format!("5:memory:/k8s.io/{ID}\n4:pids:/\n0::/\n"),
            format!("0::/../../{ID}/init.scope"),
        ] {
            assert!(names(path.as_bytes(), ID), "{path}");
        }
        for path in [
            "0::/\n".to_owned(),
            "0::/kubepods/pod1/0123456789ab\n".to_owned(),
            format!("0::/kubepods.slice/crio-conmon-{ID}.scope\n"),
            format!("0::/x{ID}\n"),
            format!("0::/{ID}x\n"),
        ] {
            assert!(!names(path.as_bytes(), ID), "{path}");
        }
        assert!(!names(b"0::/a/", ""));
        assert!(!names(b"0::/a/b", "b"));
    }
}
