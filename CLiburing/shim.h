// What Swift imports of liburing, and what older headers of it lack.
// Compiles against liburing 2.3 and newer; nothing here decides what the running kernel can do.
#ifndef SWIFT_IOCP_CLIBURING_SHIM_H
#define SWIFT_IOCP_CLIBURING_SHIM_H

// liburing.h defines _GNU_SOURCE, which changes fd_set; these two first keep one fd_set beside Swift's Glibc module.
#include <sys/select.h>
#include <sys/socket.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/capability.h>

// swift-system's own C module includes the kernel's <linux/io_uring.h>, where the structures of the same names may be
// of another age, and defines functions called io_uring_enter, io_uring_register and so on that return something else.
// The compiler refuses a program that sees both definitions of a structure, and might bind a call to the wrong one of
// two functions. So within this module the structures and enumerations have names of their own, and so have the
// declarations of the four bare system calls, which are not used: iou_enter and iou_register stand in for them.
// Only names of types change; the functions of liburing keep theirs, and with them their symbols.
#define io_uring_msg_ring_flags iou_msg_ring_flags
#define io_uring_op iou_op
#define io_uring_register_op iou_register_op
#define io_uring_register_pbuf_ring_flags iou_register_pbuf_ring_flags
#define io_uring_register_restriction_op iou_register_restriction_op
#define io_uring_socket_op iou_socket_op
#define io_uring_sqe_flags_bit iou_sqe_flags_bit
#define io_uring_zcrx_area_flags iou_zcrx_area_flags
#define io_wq_type iou_wq_type
#define zcrx_ctrl_op iou_zcrx_ctrl_op
#define zcrx_features iou_zcrx_features
#define zcrx_reg_flags iou_zcrx_reg_flags
#define io_cqring_offsets iou_cqring_offsets
#define io_sqring_offsets iou_sqring_offsets
#define io_uring_attr_pi iou_attr_pi
#define io_uring_buf iou_buf
#define io_uring_buf_reg iou_buf_reg
#define io_uring_buf_ring iou_buf_ring
#define io_uring_buf_status iou_buf_status
#define io_uring_clock_register iou_clock_register
#define io_uring_clone_buffers iou_clone_buffers
#define io_uring_cqe iou_cqe
#define io_uring_file_index_range iou_file_index_range
#define io_uring_files_update iou_files_update
#define io_uring_getevents_arg iou_getevents_arg
#define io_uring_mem_region_reg iou_mem_region_reg
#define io_uring_napi iou_napi
#define io_uring_notification_register iou_notification_register
#define io_uring_notification_slot iou_notification_slot
#define io_uring_params iou_params
#define io_uring_probe iou_probe
#define io_uring_probe_op iou_probe_op
#define io_uring_recvmsg_out iou_recvmsg_out
#define io_uring_reg_wait iou_reg_wait
#define io_uring_region_desc iou_region_desc
#define io_uring_restriction iou_restriction
#define io_uring_rsrc_register iou_rsrc_register
#define io_uring_rsrc_update iou_rsrc_update
#define io_uring_rsrc_update2 iou_rsrc_update2
#define io_uring_sqe iou_sqe
#define io_uring_sync_cancel_reg iou_sync_cancel_reg
#define io_uring_task_restriction iou_task_restriction
#define io_uring_zcrx_area_reg iou_zcrx_area_reg
#define io_uring_zcrx_cqe iou_zcrx_cqe
#define io_uring_zcrx_ifq_reg iou_zcrx_ifq_reg
#define io_uring_zcrx_offsets iou_zcrx_offsets
#define io_uring_zcrx_rqe iou_zcrx_rqe
#define zcrx_ctrl iou_zcrx_ctrl
#define zcrx_ctrl_export iou_zcrx_ctrl_export
#define zcrx_ctrl_flush_rq iou_zcrx_ctrl_flush_rq
#define io_uring_setup iou_lib_setup
#define io_uring_enter iou_lib_enter
#define io_uring_enter2 iou_lib_enter2
#define io_uring_register iou_lib_register

#include <liburing.h>

#undef io_uring_msg_ring_flags
#undef io_uring_op
#undef io_uring_register_op
#undef io_uring_register_pbuf_ring_flags
#undef io_uring_register_restriction_op
#undef io_uring_socket_op
#undef io_uring_sqe_flags_bit
#undef io_uring_zcrx_area_flags
#undef io_wq_type
#undef zcrx_ctrl_op
#undef zcrx_features
#undef zcrx_reg_flags
#undef io_cqring_offsets
#undef io_sqring_offsets
#undef io_uring_attr_pi
#undef io_uring_buf
#undef io_uring_buf_reg
#undef io_uring_buf_ring
#undef io_uring_buf_status
#undef io_uring_clock_register
#undef io_uring_clone_buffers
#undef io_uring_cqe
#undef io_uring_file_index_range
#undef io_uring_files_update
#undef io_uring_getevents_arg
#undef io_uring_mem_region_reg
#undef io_uring_napi
#undef io_uring_notification_register
#undef io_uring_notification_slot
#undef io_uring_params
#undef io_uring_probe
#undef io_uring_probe_op
#undef io_uring_recvmsg_out
#undef io_uring_reg_wait
#undef io_uring_region_desc
#undef io_uring_restriction
#undef io_uring_rsrc_register
#undef io_uring_rsrc_update
#undef io_uring_rsrc_update2
#undef io_uring_sqe
#undef io_uring_sync_cancel_reg
#undef io_uring_task_restriction
#undef io_uring_zcrx_area_reg
#undef io_uring_zcrx_cqe
#undef io_uring_zcrx_ifq_reg
#undef io_uring_zcrx_offsets
#undef io_uring_zcrx_rqe
#undef zcrx_ctrl
#undef zcrx_ctrl_export
#undef zcrx_ctrl_flush_rq
#undef io_uring_setup
#undef io_uring_enter
#undef io_uring_enter2
#undef io_uring_register

// Constants newer than the oldest supported header. These are macros in every header that has them, so #ifndef works.

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1U << 14)
#endif
#ifndef IORING_SETUP_REGISTERED_FD_ONLY
#define IORING_SETUP_REGISTERED_FD_ONLY (1U << 15)
#endif
#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1U << 16)
#endif

// Constants that are enumerators in the headers that have them. #ifndef cannot see an enumerator, a macro of the same
// name would break the newer header, and swift-system's module has them too, so all of these carry names of our own.

#define IOU_OP_MSG_RING 40
#define IOU_OP_FTRUNCATE 55
#define IOU_OP_BIND 56
#define IOU_OP_LISTEN 57
#define IOU_REGISTER_BUFFERS 0
#define IOU_UNREGISTER_BUFFERS 1
#define IOU_REGISTER_FILES 2
#define IOU_UNREGISTER_FILES 3
#define IOU_REGISTER_FILES_UPDATE 6
#define IOU_REGISTER_PROBE 8
#define IOU_REGISTER_ENABLE_RINGS 12
#define IOU_REGISTER_FILES2 13
#define IOU_REGISTER_BUFFERS2 15
#define IOU_REGISTER_BUFFERS_UPDATE 16
#define IOU_REGISTER_IOWQ_MAX_WORKERS 19
#define IOU_REGISTER_PBUF_RING 22
#define IOU_UNREGISTER_PBUF_RING 23
#define IOU_REGISTER_SYNC_CANCEL 24
#define IOU_REGISTER_PBUF_STATUS 26
#define IOU_REGISTER_SEND_MSG_RING 31

// MARK: The two queues
//
// The ring is driven from several threads, and liburing's own submit and wait helpers keep unsynchronised state in
// struct io_uring. So the indices shared with the kernel are read and written here, with the orderings the kernel
// expects: an index is loaded with acquire before what it covers is touched, and stored with release after.

static inline uint32_t iou_load_acquire(const unsigned *index) {
    return __atomic_load_n(index, __ATOMIC_ACQUIRE);
}

static inline uint32_t iou_load_relaxed(const unsigned *index) {
    return __atomic_load_n(index, __ATOMIC_RELAXED);
}

// Turns a published entry into a no-op. The kernel, which may be reading it, reads this byte once and before the rest.
static inline void iou_make_nop(struct iou_sqe *entry) {
    __atomic_store_n(&entry->opcode, IORING_OP_NOP, __ATOMIC_SEQ_CST);
}

static inline void iou_store_release(unsigned *index, uint32_t value) {
    __atomic_store_n(index, value, __ATOMIC_RELEASE);
}

// A full barrier, for the one store-then-load pair of the protocol: the tail is published, then the polling thread's
// "wake me" flag is read.
static inline void iou_full_barrier(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// Without IORING_SETUP_NO_SQARRAY the kernel finds entries through an array of indices. Entry n always sits in slot
// n & mask here, so the array is filled once and never again.
static inline void iou_identity_map(struct io_uring *ring, unsigned entries) {
    for (unsigned index = 0; index < entries; index++)
        ring->sq.array[index] = index;
}

// MARK: System calls
//
// These answer with a negated errno, like liburing's.

static inline int iou_setup(unsigned entries, struct iou_params *parameters) {
    long result = syscall(__NR_io_uring_setup, entries, parameters);
    return result < 0 ? -errno : (int)result;
}

static inline int iou_register(int fd, unsigned operation, const void *argument, unsigned count) {
    long result = syscall(__NR_io_uring_register, fd, operation, argument, count);
    return result < 0 ? -errno : (int)result;
}

// One io_uring_enter(2). A negative timeout means none; otherwise it is relative, in nanoseconds.
static inline int iou_enter(int fd, uint32_t submit, uint32_t complete, uint32_t flags, int64_t timeout) {
    long result;
    if (timeout < 0) {
        result = syscall(__NR_io_uring_enter, fd, submit, complete, flags & ~IORING_ENTER_EXT_ARG, NULL, 0);
    } else {
        struct __kernel_timespec time = {.tv_sec = timeout / 1000000000, .tv_nsec = timeout % 1000000000};
        struct iou_getevents_arg argument;
        memset(&argument, 0, sizeof(argument));
        argument.ts = (uint64_t)(uintptr_t)&time;
        result = syscall(__NR_io_uring_enter, fd, submit, complete, flags | IORING_ENTER_EXT_ARG, &argument,
                         sizeof(argument));
    }
    return result < 0 ? -errno : (int)result;
}

// MARK: Entries

// One submission entry from the fields nearly all operations use. The names of these union members exist in every
// supported header; the per-operation names do not.
static inline struct iou_sqe iou_entry(uint8_t opcode, int fd, uint64_t offset, uint64_t address, uint32_t length,
                                            uint32_t operationFlags) {
    struct iou_sqe entry;
    memset(&entry, 0, sizeof(entry));
    entry.opcode = opcode;
    entry.fd = fd;
    entry.off = offset;
    entry.addr = address;
    entry.len = length;
    entry.rw_flags = (__kernel_rwf_t)operationFlags;
    return entry;
}

// MARK: Registration

// io_uring_enable_rings is declared in every supported header, but liburing 2.3 does not export it.
static inline int iou_enable(int fd) {
    return iou_register(fd, IOU_REGISTER_ENABLE_RINGS, NULL, 0);
}

// IORING_REGISTER_SYNC_CANCEL. A negative timeout means none; otherwise it is relative, in nanoseconds.
static inline int iou_sync_cancel(int fd, uint64_t userData, int target, uint32_t flags, int64_t timeout) {
    struct iou_sync_cancel_reg request;
    memset(&request, 0, sizeof(request));
    request.addr = userData;
    request.fd = target;
    request.flags = flags;
    request.timeout.tv_sec = timeout < 0 ? -1 : timeout / 1000000000;
    request.timeout.tv_nsec = timeout < 0 ? -1 : timeout % 1000000000;
    return iou_register(fd, IOU_REGISTER_SYNC_CANCEL, &request, 1);
}

// IORING_REGISTER_SEND_MSG_RING: posts a completion to another ring without owning one.
static inline int iou_send_message(int target, uint64_t userData, uint32_t result) {
    struct iou_sqe entry = iou_entry(IOU_OP_MSG_RING, target, userData, 0 /* IORING_MSG_DATA */, result, 0);
    return iou_register(-1, IOU_REGISTER_SEND_MSG_RING, &entry, 1);
}

// The arguments of the registrations of buffer rings. Defined here because the fields that hold the flags and the head
// are missing or called padding in older headers.

struct iou_buffer_registration {
    uint64_t address;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
};

struct iou_buffer_status {
    uint32_t group;
    uint32_t head;
    uint32_t reserved[8];
};

/* Puts a descriptor into the table of registered files of a ring, or empties the place with -1. Returns 0 or -errno. */
static inline int iou_update_file(int ring, uint32_t place, int descriptor) {
    /* io_uring_files_update, whose declaration depends on the headers' age. */
    struct { uint32_t offset, reserved; uint64_t descriptors; } update = { place, 0, (uint64_t)(uintptr_t)&descriptor };
    int result = iou_register(ring, IOU_REGISTER_FILES_UPDATE, &update, 1);
    return result < 0 ? result : 0;
}

static inline int iou_register_buffer_ring(int fd, void *memory, uint32_t entries, uint16_t group, uint16_t flags) {
    struct iou_buffer_registration request = {(uint64_t)(uintptr_t)memory, entries, group, flags, {0, 0, 0}};
    return iou_register(fd, IOU_REGISTER_PBUF_RING, &request, 1);
}

static inline int iou_unregister_buffer_ring(int fd, uint16_t group) {
    struct iou_buffer_registration request = {0, 0, group, 0, {0, 0, 0}};
    return iou_register(fd, IOU_UNREGISTER_PBUF_RING, &request, 1);
}

// The index of the next buffer the kernel will take, or a negated errno.
static inline int iou_buffer_ring_head(int fd, uint16_t group) {
    struct iou_buffer_status status;
    memset(&status, 0, sizeof(status));
    status.group = group;
    int result = iou_register(fd, IOU_REGISTER_PBUF_STATUS, &status, 1);
    return result < 0 ? result : (int)(status.head & 0xFFFF);
}

// Which operations the kernel knows, as bits; the array is of 256 bits. Zero or a negated errno.
static inline int iou_probe(int fd, uint64_t operations[4]) {
    struct {
        uint8_t last;
        uint8_t count;
        uint16_t reserved;
        uint32_t reserved2[3];
        struct {
            uint8_t operation;
            uint8_t reserved;
            uint16_t flags;
            uint32_t reserved2;
        } operations[256];
    } probe;
    memset(&probe, 0, sizeof(probe));
    memset(operations, 0, 4 * sizeof(operations[0]));
    int result = iou_register(fd, IOU_REGISTER_PROBE, &probe, 256);
    if (result < 0)
        return result;
    for (unsigned index = 0; index < probe.count; index++) {
        unsigned operation = probe.operations[index].operation;
        if (probe.operations[index].flags & IO_URING_OP_SUPPORTED)
            operations[operation / 64] |= (uint64_t)1 << (operation % 64);
    }
    return 0;
}

// MARK: Rings of provided buffers
//
// An array of descriptions of 16 bytes each. The tail, of 16 bits, lies in the last two bytes of the first one, so a
// description is never written as a whole.

struct iou_provided_buffer {
    uint64_t address;
    uint32_t length;
    uint16_t identifier;
    uint16_t tail;
};

static inline void iou_buffer_ring_set(struct iou_provided_buffer *ring, uint32_t index, void *address, uint32_t length,
                                       uint16_t identifier) {
    ring[index].address = (uint64_t)(uintptr_t)address;
    ring[index].length = length;
    ring[index].identifier = identifier;
}

static inline void iou_buffer_ring_publish(struct iou_provided_buffer *ring, uint16_t tail) {
    __atomic_store_n(&ring->tail, tail, __ATOMIC_RELEASE);
}

// MARK: The process

// Whether the kernel holds this process to RLIMIT_MEMLOCK.
static inline int iou_locked_memory_limited(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return 0;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};
    if (syscall(SYS_capget, &header, data) != 0)
        return 1;
    return (data[CAP_IPC_LOCK / 32].effective & (1U << (CAP_IPC_LOCK % 32))) == 0;
}

#endif
