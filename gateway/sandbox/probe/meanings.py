"""What each probe proves, in a sentence for people. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ATTACKS", "BOMBS", "EGRESS"]

ATTACKS: Mapping[str, str] = MappingProxyType(
    {
        "no_network_interface": "there is no network interface but a loopback of its own",
        "no_connection": "neither the internet nor metadata services nor the host's loopback are reached",
        "no_name_resolution": "no name resolves, so nothing leaks by DNS",
        "no_host_abstract_socket": "abstract unix sockets of the host cannot be reached",
        "no_unusual_socket": "vsock, packet, crypto and audit sockets are refused",
        "no_host_files": "no file of the host or the gateway is there, but the read-only runtime",
        "no_other_workspace": "files of another session cannot be reached",
        "no_other_process": "only its own processes are visible",
        "no_signal_out": "the gateway cannot be signalled",
        "no_init_environment": "pid 1 has no environment to read secrets from",
        "no_foreign_environment": "it has only the variables it was given",
        "no_foreign_descriptor": "it has no descriptor but stdin, stdout and stderr",
        "unprivileged_uid": "it runs as an unprivileged user and cannot become another",
        "no_capabilities": "it has no capability and cannot gain one",
        "no_new_privileges": "set-uid programs give nothing",
        "system_call_filter": "a system call filter is active, for unknown calls as well",
        "tool_code_read_only": "a tool cannot change its own code or the runtime",
        "writes_only_where_allowed": "only the workspace, /tmp and /dev/shm can be written",
        "no_kernel_files": "no knob or memory of the kernel can be opened",
        "no_namespaces": "no namespace can be made or entered",
        "no_device_nodes": "no device node can be made",
        "no_tracing": "no process can be traced or read",
        "no_mounts": "nothing can be mounted",
        "no_keyctl": "kernel keys are out of reach",
        "no_bpf": "BPF is refused",
        "no_io_uring": "io_uring, which passes no filter, is refused",
        "no_userfaultfd": "userfaultfd is refused",
        "no_perf_events": "performance events are refused",
        "no_files_by_handle": "files cannot be opened by handle, past the mounts",
        "no_kernel_log": "the kernel log cannot be read",
        "no_modules": "no kernel module can be loaded",
        "no_reboot": "the machine cannot be restarted",
        "no_personality": "the execution domain cannot be changed",
    }
)

BOMBS: Mapping[str, str] = MappingProxyType(
    {
        "fork_bomb": "no more processes than the limit",
        "memory_bomb": "no more memory than the limit, and being killed for it is reported as such",
        "disk_fill": "no more bytes in the workspace than the limit",
        "scratch_fill": "no more bytes in /tmp and /dev/shm than their limits",
        "inode_fill": "no more files in the workspace than the limit",
        "open_files": "no more open files than the limit, which cannot be raised",
        "cpu_limit": "no more CPU time than the limit",
        "no_orphan": "no process outlives the program",
        "stderr_flood": "a flood on stderr is capped",
        "stdout_flood": "a flood on stdout waits, and can be ended",
        "pristine_reset": "nothing survives a reset",
    }
)

EGRESS: Mapping[str, str] = MappingProxyType(
    {
        "egress_granted": "a host that was granted is reached, through the gateway's proxy",
        "egress_refused": "no other host or address is reached by any spelling, and each attempt is recorded",
        "past_the_proxy": "plain sockets, UDP and DNS lead nowhere, and are recorded where they can be seen",
    }
)
