#include "box.h"

#include "filter.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <net/if.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define AT_RECURSIVE_ 0x8000
/* of <sys/mount.h>, which musl does not let stand beside <linux/mount.h> */
int mount(const char *, const char *, const char *, unsigned long, const void *);

#define ACCOUNT "autograde"

struct failure {
    int code;
    char step[200];
};

static _Noreturn void fail(int report, const char *step)
{
    struct failure f = {.code = errno};

    snprintf(f.step, sizeof(f.step), "%s", step);
    write_all(report, &f, sizeof(f));
    _exit(127);
}

/* ---- what is to be seen ---- */

/* Below the tmpfs by descriptor: what is mounted later may lie over its path. */
static void make_dir(int report, int tmpfs, const char *name, mode_t mode)
{
    if (mkdirat(tmpfs, name, 0700) < 0 || fchmodat(tmpfs, name, mode, 0) < 0)
        fail(report, name);
}

static void bind_dir(int report, int tmpfs, const char *name, const char *onto)
{
    cleanup_free char *path = xasprintf("/proc/self/fd/%d/%s", tmpfs, name);
    struct stat st;

    if (lstat(onto, &st) < 0 || !S_ISDIR(st.st_mode)) /* then nobody writes there either */
        return;
    if (mount(path, onto, NULL, MS_BIND, NULL) < 0)
        fail(report, onto);
}

/* The home of the account that jobs run as, where the host has one: empty, and its own. */
static void bind_home(int report, int tmpfs)
{
    FILE *f = fopen("/etc/passwd", "re");
    struct passwd *p;

    while (f && (p = fgetpwent(f)) != NULL) {
        if (strcmp(p->pw_name, ACCOUNT) != 0)
            continue;
        if (p->pw_dir[0] == '/' && p->pw_dir[1] != '\0' && strcmp(p->pw_dir, "/root") != 0) {
            if (fchownat(tmpfs, "home", p->pw_uid, p->pw_gid, 0) < 0)
                fail(report, "home");
            bind_dir(report, tmpfs, "home", p->pw_dir);
        }
        break;
    }
    if (f)
        fclose(f);
}

static void mount_all(int report, const struct box *b)
{
    struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID};
    char options[96] = "mode=0711";

    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        fail(report, "detach mounts from the host's");
    int r = cgroup_show_own(b->group);
    if (r < 0) {
        errno = -r;
        fail(report, "show its control group");
    }
    if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE_, &ro, sizeof(ro)) < 0)
        fail(report, "make the host's files read-only (mount_setattr; it needs Linux 5.12)");
    if (b->disk_bytes > 0)
        snprintf(options, sizeof(options), "mode=0711,size=%llu,nr_inodes=%llu",
                 (unsigned long long)b->disk_bytes, (unsigned long long)b->disk_files);
    if (mount("milonga", b->dir, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0)
        fail(report, "mount the machine's tmpfs");
    cleanup_close int tmpfs = open(b->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (tmpfs < 0)
        fail(report, b->dir);
    make_dir(report, tmpfs, "tmp", 01777);
    make_dir(report, tmpfs, "vartmp", 01777);
    make_dir(report, tmpfs, "shm", 01777);
    make_dir(report, tmpfs, "home", 0755);
    bind_dir(report, tmpfs, "tmp", "/tmp");
    bind_dir(report, tmpfs, "vartmp", "/var/tmp");
    bind_dir(report, tmpfs, "shm", "/dev/shm");
    bind_home(report, tmpfs);
    if (!b->network) { /* the host's are no business of one that has none */
        make_dir(report, tmpfs, "none", 0555);
        bind_dir(report, tmpfs, "none", "/sys/class/net");
    }
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        fail(report, "mount /proc");
}

static void loopback_up(int report)
{
    struct ifreq req = {.ifr_name = "lo"};
    cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &req) < 0)
        fail(report, "look at lo");
    req.ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &req) < 0)
        fail(report, "bring lo up");
}

/* ---- what may be done ---- */

/* What the autodriver needs to give files away, to become another and to kill: the same as in a
 * container of the docker driver. The job has none of them. */
static void drop_capabilities(int report)
{
    static const int kept[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER,
                               CAP_SETUID, CAP_SETGID,       CAP_KILL};

    for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++) {
        bool keep = false;

        for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
            keep = keep || kept[i] == cap;
        if (!keep && prctl(PR_CAPBSET_DROP, cap) < 0)
            fail(report, "drop a capability");
    }
}

static _Noreturn void box_main(const struct box *b, int report)
{
    static const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    const char *argv[] = {b->autodriver, "--pipe", NULL};
    int flags = CLONE_NEWNS | CLONE_NEWIPC | (b->network ? 0 : CLONE_NEWNET);
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int program = open(b->autodriver, O_PATH | O_CLOEXEC);
    if (program < 0)
        fail(report, b->autodriver);
    int r = cgroup_enter(b->group);
    if (r < 0) {
        errno = -r;
        fail(report, "enter the control group");
    }
    setsid();
    if (unshare(flags) < 0)
        fail(report, "make namespaces");
    mount_all(report, b);
    if (!b->network)
        loopback_up(report);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null < 0 || dup2(null, 2) < 0 || chdir("/") < 0)
        fail(report, "/dev/null");
    int adj = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (adj >= 0 && write(adj, "-999", 4) < 0)
        close(adj); /* the autodriver is then among what goes first; the vmm is told all the same */
    for (int s = 1; s < NSIG; s++)
        sigaction(s, &dfl, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    drop_capabilities(report);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(report, "no_new_privs");
    r = filter_install();
    if (r < 0) {
        errno = -r;
        fail(report, "filter system calls; the kernel needs CONFIG_SECCOMP_FILTER");
    }
    syscall(SYS_execveat, program, "", argv, env, AT_EMPTY_PATH);
    fail(report, b->autodriver);
}

int box_start(const struct box *b, pid_t *ret_pid, struct error *err)
{
    struct failure f;
    int report[2];

    if (unshare(CLONE_NEWPID) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "cannot make a pid namespace");
    if (pipe2(report, O_CLOEXEC) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "pipe");
    pid_t pid = fork();
    if (pid == 0)
        box_main(b, report[1]);
    close(report[1]);
    ssize_t n = pid < 0 ? -1 : read(report[0], &f, sizeof(f));
    close(report[0]);
    if (pid < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "fork");
    if (n == 0) {
        *ret_pid = pid;
        return 0;
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (n != (ssize_t)sizeof(f))
        return err_set(err, ERR_TEMPORARY, EIO, "the box ended while it was made");
    return err_set_errno(err, ERR_PERMANENT, f.code, "cannot make the box: %s", f.step);
}
