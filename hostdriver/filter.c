#include "filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Those since Linux 5.0 have one number everywhere. */
#define COMMON                                                                                     \
    425 /* io_uring_setup */, 426, 427, 428 /* open_tree */, 429 /* move_mount */,                 \
        430 /* fsopen */, 431, 432, 433 /* fspick */, 440 /* process_madvise */,                   \
        442 /* mount_setattr */, 443 /* quotactl_fd */, 457 /* statmount */, 458 /* listmount */,  \
        467 /* open_tree_attr */

static const uint16_t native[] = {
    COMMON,
    /* mounts and roots */
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_name_to_handle_at,
    SYS_open_by_handle_at,
    SYS_fanotify_init,
    SYS_fanotify_mark,
    /* namespaces */
    SYS_setns,
    SYS_unshare,
    /* keys, which are not in any namespace */
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    /* large and young parts of the kernel */
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    /* the machine itself */
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_syslog,
    SYS_acct,
    SYS_quotactl,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_vhangup,
    SYS_set_mempolicy,
    SYS_mbind,
    SYS_migrate_pages,
    SYS_move_pages,
    SYS_sethostname,
    SYS_setdomainname,
#if defined(__x86_64__)
    SYS_iopl,
    SYS_ioperm,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
    SYS__sysctl,
#endif
};

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#define OTHER_ARCH  AUDIT_ARCH_I386
#define OTHER_CLONE 120
/* The same of i386, for 32-bit programs. */
static const uint16_t other[] = {
    COMMON, 21,  22,  52,  217, 61,  341, 342, 338, 339, 346, 310, 288, 286, 287, 357, 336,
    374,    283, 128, 350, 129, 88,  87,  115, 103, 51,  131, 79,  25,  264, 404, 124, 343,
    405,    111, 276, 274, 294, 317, 74,  121, 110, 101, 86,  62,  135, 149, 113, 166,
};
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "name this architecture and its 32-bit one, or calls of the latter pass the filter"
#endif

#define X32_BIT       0x40000000u
#define NEW_NAMESPACE 0x7e020080u /* all CLONE_NEW* */
#define CLONE3        435
#define ARRAY_CT(a)   (sizeof(a) / sizeof((a)[0]))
#define MOST          512

struct program {
    struct sock_filter code[MOST];
    unsigned short len;
};

static void put(struct program *p, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
    p->code[p->len++] = (struct sock_filter)BPF_JUMP(code, k, jt, jf);
}

static void load(struct program *p, size_t offset)
{
    put(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void deny_if(struct program *p, uint16_t test, uint32_t k, uint32_t code)
{
    put(p, BPF_JMP | test | BPF_K, k, 0, 1);
    put(p, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code, 0, 0);
}

/* The whole of one architecture: denied calls, then clone()'s flags, then yes. */
static void put_calls(struct program *p, const uint16_t *denied, size_t ct, uint32_t clone)
{
    load(p, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ct; i++)
        deny_if(p, BPF_JEQ, denied[i], EPERM);
    deny_if(p, BPF_JEQ, CLONE3, ENOSYS); /* its flags are out of sight; libc then uses clone */
    put(p, BPF_JMP | BPF_JEQ | BPF_K, clone, 1, 0);
    put(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    load(p, offsetof(struct seccomp_data, args[0])); /* the low half: both are little-endian */
    deny_if(p, BPF_JSET, NEW_NAMESPACE & ~0x80u, EPERM);
    put(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
}

int filter_install(void)
{
    static struct program p;
    struct sock_fprog prog;

    load(&p, offsetof(struct seccomp_data, arch));
#ifdef OTHER_ARCH
    struct program o = {.len = 0};

    put_calls(&o, other, ARRAY_CT(other), OTHER_CLONE);
    /* a jump reaches 255 instructions at most, so this one leaps by an unconditional one */
    put(&p, BPF_JMP | BPF_JEQ | BPF_K, OTHER_ARCH, 0, 1);
    put(&p, BPF_JMP | BPF_JA, 1, 0, 0);
    put(&p, BPF_JMP | BPF_JA, o.len, 0, 0);
    for (unsigned short i = 0; i < o.len; i++)
        p.code[p.len++] = o.code[i];
    load(&p, offsetof(struct seccomp_data, arch));
#endif
    put(&p, BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 1, 0);
    put(&p, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS, 0, 0);
#ifdef OTHER_ARCH
    load(&p, offsetof(struct seccomp_data, nr));
    deny_if(&p, BPF_JGE, X32_BIT, ENOSYS);
#endif
    put_calls(&p, native, ARRAY_CT(native), SYS_clone);
    prog = (struct sock_fprog){.len = p.len, .filter = p.code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) < 0 ? -errno : 0;
}
