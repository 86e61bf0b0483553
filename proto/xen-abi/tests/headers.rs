//! Compares this crate with the headers of Debian's libxen-dev: a C program prints sizes, offsets and numbers under
//! the headers' own names; each is compared with ours.
use bulkhead_xen_abi::{Shutdown, dm_op, domctl, ioctl, ioreq, memory, sysctl, vchan, xenstore};
use std::fmt::Write as _;
use std::mem::offset_of;
use std::process::Command;

const HEADERS: &str = "#include <sys/ioctl.h>\n#include <stdio.h>\n#include <stddef.h>\n#include <stdint.h>\n#define __XEN_TOOLS__ 1\n#include <xen/xen.h>\n#include <xen/memory.h>\n#include <xen/hvm/ioreq.h>\n#include <xen/hvm/hvm_op.h>\n#include <xen/hvm/dm_op.h>\n#include <xen/sched.h>\n#include <xen/io/xs_wire.h>\n#include <xen/sys/privcmd.h>\n#include <xen/sys/evtchn.h>\n#include <xen/sys/gntalloc.h>\n#include <xen/grant_table.h>\n#include <xen/sys/gntdev.h>\n#include <xen/domctl.h>\n#include <xen/sysctl.h>\n#include <xen/io/libxenvchan.h>\n";

/// Their expression, our value.
fn table() -> Vec<(&'static str, u64)> {
    macro_rules! list { ($($theirs:literal = $ours:expr),* $(,)?) => { vec![$(($theirs, $ours as u64)),*] } }
    list![
        "sizeof(struct ioreq)" = size_of::<ioreq::Ioreq>(),
        "offsetof(struct ioreq, data)" = offset_of!(ioreq::Ioreq, data),
        "offsetof(struct ioreq, count)" = offset_of!(ioreq::Ioreq, count),
        "offsetof(struct ioreq, size)" = offset_of!(ioreq::Ioreq, size),
        "offsetof(struct ioreq, vp_eport)" = offset_of!(ioreq::Ioreq, vp_eport),
        "offsetof(struct ioreq, type)" = offset_of!(ioreq::Ioreq, kind),
        "sizeof(struct buf_ioreq)" = size_of::<ioreq::BufferedIoreq>(),
        "IOREQ_BUFFER_SLOT_NUM" = ioreq::BUFFERED_SLOTS,
        "offsetof(struct buffered_iopage, buf_ioreq)" = ioreq::BUFFERED_SLOTS_AT,
        "STATE_IOREQ_NONE" = ioreq::STATE_IOREQ_NONE,
        "STATE_IOREQ_READY" = ioreq::STATE_IOREQ_READY,
        "STATE_IOREQ_INPROCESS" = ioreq::STATE_IOREQ_INPROCESS,
        "STATE_IORESP_READY" = ioreq::STATE_IORESP_READY,
        "IOREQ_TYPE_PIO" = ioreq::IOREQ_TYPE_PIO,
        "IOREQ_TYPE_COPY" = ioreq::IOREQ_TYPE_COPY,
        "IOREQ_TYPE_PCI_CONFIG" = ioreq::IOREQ_TYPE_PCI_CONFIG,
        "IOREQ_TYPE_TIMEOFFSET" = ioreq::IOREQ_TYPE_TIMEOFFSET,
        "IOREQ_TYPE_INVALIDATE" = ioreq::IOREQ_TYPE_INVALIDATE,
        "IOREQ_READ" = ioreq::IOREQ_READ,
        "sizeof(struct xen_dm_op)" = size_of::<dm_op::DmOp>(),
        "sizeof(struct xen_dm_op_ioreq_server_range)" = size_of::<dm_op::IoRange>(),
        "offsetof(struct xen_dm_op_ioreq_server_range, start)" = offset_of!(dm_op::IoRange, start),
        "offsetof(struct xen_dm_op_create_ioreq_server, id)" = offset_of!(dm_op::CreateIoreqServer, id),
        "sizeof(struct xen_dm_op_get_ioreq_server_info)" = size_of::<dm_op::GetIoreqServerInfo>(),
        "offsetof(struct xen_dm_op_get_ioreq_server_info, bufioreq_port)" =
            offset_of!(dm_op::GetIoreqServerInfo, bufioreq_port),
        "sizeof(struct xen_dm_op_set_pci_intx_level)" = size_of::<dm_op::SetPciIntxLevel>(),
        "offsetof(struct xen_dm_op_set_pci_intx_level, level)" = offset_of!(dm_op::SetPciIntxLevel, level),
        "sizeof(struct xen_dm_op_modified_memory)" = size_of::<dm_op::ModifiedMemory>(),
        "offsetof(struct xen_dm_op_modified_memory, opaque)" = offset_of!(dm_op::ModifiedMemory, opaque),
        "sizeof(struct xen_dm_op_modified_memory_extent)" = size_of::<dm_op::Extent>(),
        "offsetof(struct xen_dm_op_modified_memory_extent, first_pfn)" = offset_of!(dm_op::Extent, first),
        "XEN_DMOP_modified_memory" = dm_op::MODIFIED_MEMORY,
        "sizeof(struct xen_dm_op_set_mem_type)" = size_of::<dm_op::SetMemType>(),
        "offsetof(struct xen_dm_op_set_mem_type, first_pfn)" = offset_of!(dm_op::SetMemType, first_pfn),
        "sizeof(struct xen_dm_op_relocate_memory)" = size_of::<dm_op::RelocateMemory>(),
        "offsetof(struct xen_dm_op_relocate_memory, dst_gfn)" = offset_of!(dm_op::RelocateMemory, dst_gfn),
        "sizeof(struct xen_dm_op_pin_memory_cacheattr)" = size_of::<dm_op::PinMemoryCacheattr>(),
        "offsetof(struct xen_dm_op_pin_memory_cacheattr, type)" = offset_of!(dm_op::PinMemoryCacheattr, kind),
        "sizeof(struct xen_dm_op_track_dirty_vram)" = size_of::<dm_op::TrackDirtyVram>(),
        "XEN_DMOP_create_ioreq_server" = dm_op::CREATE_IOREQ_SERVER,
        "XEN_DMOP_get_ioreq_server_info" = dm_op::GET_IOREQ_SERVER_INFO,
        "XEN_DMOP_map_io_range_to_ioreq_server" = dm_op::MAP_IO_RANGE,
        "XEN_DMOP_unmap_io_range_from_ioreq_server" = dm_op::UNMAP_IO_RANGE,
        "XEN_DMOP_set_ioreq_server_state" = dm_op::SET_IOREQ_SERVER_STATE,
        "XEN_DMOP_destroy_ioreq_server" = dm_op::DESTROY_IOREQ_SERVER,
        "XEN_DMOP_track_dirty_vram" = dm_op::TRACK_DIRTY_VRAM,
        "XEN_DMOP_set_pci_intx_level" = dm_op::SET_PCI_INTX_LEVEL,
        "XEN_DMOP_set_isa_irq_level" = dm_op::SET_ISA_IRQ_LEVEL,
        "XEN_DMOP_set_pci_link_route" = dm_op::SET_PCI_LINK_ROUTE,
        "XEN_DMOP_set_mem_type" = dm_op::SET_MEM_TYPE,
        "XEN_DMOP_remote_shutdown" = dm_op::REMOTE_SHUTDOWN,
        "XEN_DMOP_relocate_memory" = dm_op::RELOCATE_MEMORY,
        "XEN_DMOP_pin_memory_cacheattr" = dm_op::PIN_MEMORY_CACHEATTR,
        "XEN_DMOP_IO_RANGE_PORT" = dm_op::IO_RANGE_PORT,
        "XEN_DMOP_IO_RANGE_MEMORY" = dm_op::IO_RANGE_MEMORY,
        "XEN_DMOP_IO_RANGE_PCI" = dm_op::IO_RANGE_PCI,
        "XEN_DMOP_no_gfns" = dm_op::NO_GFNS,
        "XEN_DMOP_MEM_CACHEATTR_WB" = dm_op::CACHEATTR_WB,
        "HVM_IOREQSRV_BUFIOREQ_ATOMIC" = dm_op::BUFIOREQ_ATOMIC,
        "HVMMEM_ram_rw" = dm_op::HVMMEM_RAM_RW,
        "HVMMEM_ram_ro" = dm_op::HVMMEM_RAM_RO,
        "sizeof(struct xen_memory_reservation)" = size_of::<memory::MemoryReservation>(),
        "offsetof(struct xen_memory_reservation, domid)" = offset_of!(memory::MemoryReservation, domid),
        "__HYPERVISOR_memory_op" = memory::HYPERVISOR_MEMORY_OP,
        "XENMEM_populate_physmap" = memory::POPULATE_PHYSMAP,
        "XENMEM_resource_ioreq_server" = memory::RESOURCE_IOREQ_SERVER,
        "SHUTDOWN_poweroff" = Shutdown::PowerOff,
        "SHUTDOWN_reboot" = Shutdown::Reboot,
        "SHUTDOWN_crash" = Shutdown::Crash,
        "sizeof(struct xsd_sockmsg)" = size_of::<xenstore::Header>(),
        "XS_DIRECTORY" = xenstore::XS_DIRECTORY,
        "XS_WATCH" = xenstore::XS_WATCH,
        "XS_WATCH_EVENT" = xenstore::XS_WATCH_EVENT,
        "XS_READ" = xenstore::XS_READ,
        "XS_WRITE" = xenstore::XS_WRITE,
        "XS_ERROR" = xenstore::XS_ERROR,
        "XENSTORE_PAYLOAD_MAX" = xenstore::XENSTORE_PAYLOAD_MAX,
        "sizeof(privcmd_hypercall_t)" = size_of::<ioctl::Hypercall>(),
        "sizeof(privcmd_mmapbatch_v2_t)" = size_of::<ioctl::MmapBatchV2>(),
        "offsetof(privcmd_mmapbatch_v2_t, err)" = offset_of!(ioctl::MmapBatchV2, err),
        "sizeof(privcmd_dm_op_t)" = size_of::<ioctl::DmOpArg>(),
        "sizeof(privcmd_dm_op_buf_t)" = size_of::<ioctl::DmOpBuf>(),
        "sizeof(privcmd_mmap_resource_t)" = size_of::<ioctl::MmapResource>(),
        "offsetof(privcmd_mmap_resource_t, num)" = offset_of!(ioctl::MmapResource, num),
        "(unsigned)IOCTL_PRIVCMD_HYPERCALL" = ioctl::PRIVCMD_HYPERCALL,
        "(unsigned)IOCTL_PRIVCMD_MMAPBATCH_V2" = ioctl::PRIVCMD_MMAPBATCH_V2,
        "(unsigned)IOCTL_PRIVCMD_DM_OP" = ioctl::PRIVCMD_DM_OP,
        "(unsigned)IOCTL_PRIVCMD_RESTRICT" = ioctl::PRIVCMD_RESTRICT,
        "(unsigned)IOCTL_PRIVCMD_MMAP_RESOURCE" = ioctl::PRIVCMD_MMAP_RESOURCE,
        "(unsigned)IOCTL_EVTCHN_BIND_INTERDOMAIN" = ioctl::EVTCHN_BIND_INTERDOMAIN,
        "(unsigned)IOCTL_EVTCHN_BIND_UNBOUND_PORT" = ioctl::EVTCHN_BIND_UNBOUND_PORT,
        "(unsigned)IOCTL_GNTALLOC_ALLOC_GREF" = ioctl::GNTALLOC_ALLOC_GREF,
        "(unsigned)IOCTL_GNTDEV_MAP_GRANT_REF" = ioctl::GNTDEV_MAP_GRANT_REF,
        "(unsigned)IOCTL_GNTDEV_UNMAP_GRANT_REF" = ioctl::GNTDEV_UNMAP_GRANT_REF,
        "(unsigned)IOCTL_GNTDEV_GRANT_COPY" = ioctl::GNTDEV_GRANT_COPY,
        "offsetof(struct ioctl_gntdev_map_grant_ref, refs)" = size_of::<ioctl::GntdevMap>(),
        "offsetof(struct ioctl_gntdev_unmap_grant_ref, count)" = offset_of!(ioctl::GntdevUnmap, count),
        "offsetof(struct ioctl_gntdev_grant_copy, segments)" = offset_of!(ioctl::GntdevCopy, segments),
        "sizeof(struct ioctl_gntdev_grant_copy_segment)" = size_of::<ioctl::GntdevCopySegment>(),
        "offsetof(struct ioctl_gntdev_grant_copy_segment, dest)" = offset_of!(ioctl::GntdevCopySegment, dest),
        "offsetof(struct ioctl_gntdev_grant_copy_segment, dest.foreign.offset)" =
            offset_of!(ioctl::GntdevCopySegment, dest) + 4,
        "offsetof(struct ioctl_gntdev_grant_copy_segment, dest.foreign.domid)" =
            offset_of!(ioctl::GntdevCopySegment, dest) + 6,
        "offsetof(struct ioctl_gntdev_grant_copy_segment, status)" = offset_of!(ioctl::GntdevCopySegment, status),
        "GNTCOPY_source_gref" = ioctl::GNTCOPY_SOURCE_GREF,
        "GNTCOPY_dest_gref" = ioctl::GNTCOPY_DEST_GREF,
        "(unsigned)IOCTL_EVTCHN_UNBIND" = ioctl::EVTCHN_UNBIND,
        "GNTALLOC_FLAG_WRITABLE" = ioctl::GNTALLOC_WRITABLE,
        "sizeof(struct ioctl_gntalloc_alloc_gref)" = size_of::<ioctl::GntallocAllocGref>(),
        "offsetof(struct vchan_interface, left)" = vchan::LEFT,
        "offsetof(struct vchan_interface, right)" = vchan::RIGHT,
        "offsetof(struct vchan_interface, left_order)" = vchan::ORDERS,
        "offsetof(struct vchan_interface, cli_live)" = vchan::CLI_LIVE,
        "offsetof(struct vchan_interface, srv_live)" = vchan::SRV_LIVE,
        "offsetof(struct vchan_interface, cli_notify)" = vchan::CLI_NOTIFY,
        "offsetof(struct vchan_interface, srv_notify)" = vchan::SRV_NOTIFY,
        "VCHAN_NOTIFY_WRITE" = vchan::NOTIFY_WRITE,
        "VCHAN_NOTIFY_READ" = vchan::NOTIFY_READ,
        "__HYPERVISOR_domctl" = domctl::HYPERVISOR_DOMCTL,
        "XEN_DOMCTL_getdomaininfo" = domctl::GETDOMAININFO,
        "__HYPERVISOR_sysctl" = sysctl::HYPERVISOR_SYSCTL,
        "XEN_SYSCTL_sched_id" = sysctl::SCHED_ID,
        "XEN_SYSCTL_scheduler_op" = sysctl::SCHEDULER_OP,
        "XEN_SYSCTL_SCHEDOP_getinfo" = sysctl::SCHEDOP_GETINFO,
        "XEN_SCHEDULER_CREDIT" = sysctl::SCHEDULER_CREDIT,
        "XEN_SCHEDULER_CREDIT2" = sysctl::SCHEDULER_CREDIT2,
        "sizeof(struct xen_sysctl)" = size_of::<sysctl::Scheduler>(),
        "offsetof(struct xen_sysctl, u.sched_id.sched_id)" = offset_of!(sysctl::Scheduler, pool),
        "offsetof(struct xen_sysctl, u.scheduler_op.cpupool_id)" = offset_of!(sysctl::Scheduler, pool),
        "offsetof(struct xen_sysctl, u.scheduler_op.sched_id)" = offset_of!(sysctl::Scheduler, scheduler),
        "offsetof(struct xen_sysctl, u.scheduler_op.cmd)" = offset_of!(sysctl::Scheduler, op),
        "offsetof(struct xen_sysctl, u.scheduler_op.u.sched_credit2.ratelimit_us)" =
            offset_of!(sysctl::Scheduler, first),
        "offsetof(struct xen_sysctl, u.scheduler_op.u.sched_credit.ratelimit_us)" =
            offset_of!(sysctl::Scheduler, second),
        "XEN_DOMINF_dying" = domctl::DYING,
        "XEN_DOMINF_shutdown" = domctl::SHUTDOWN,
        "offsetof(struct xen_domctl, u.getdomaininfo.domain)" = offset_of!(domctl::GetDomainInfo, answer),
        "offsetof(struct xen_domctl, u.getdomaininfo.flags)" = offset_of!(domctl::GetDomainInfo, flags),
        "(unsigned)IOCTL_EVTCHN_NOTIFY" = ioctl::EVTCHN_NOTIFY,
        "(unsigned)IOCTL_EVTCHN_RESTRICT_DOMID" = ioctl::EVTCHN_RESTRICT_DOMID,
    ]
}

#[test]
fn everything_is_as_in_the_public_headers() {
    let table = table();
    let mut program = format!("{HEADERS}int main(void) {{\n");
    for (theirs, _) in &table {
        writeln!(program, "printf(\"%lu\\n\", (unsigned long)({theirs}));").unwrap();
    }
    program.push_str("return 0; }\n");
    let dir = tempfile::tempdir().unwrap();
    let (source, binary) = (dir.path().join("abi.c"), dir.path().join("abi"));
    std::fs::write(&source, program).unwrap();
    let compiled = Command::new("gcc").arg("-o").arg(&binary).arg(&source).output().unwrap();
    assert!(compiled.status.success(), "libxen-dev is needed:\n{}", String::from_utf8_lossy(&compiled.stderr));
    let text = String::from_utf8(Command::new(&binary).output().unwrap().stdout).unwrap();
    let theirs: Vec<u64> = text.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(theirs.len(), table.len());
    for ((name, ours), theirs) in table.iter().zip(theirs) {
        assert_eq!(theirs, *ours, "{name}");
    }
}
