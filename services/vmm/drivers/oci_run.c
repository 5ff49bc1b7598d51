#include "services/vmm/drivers/oci_private.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LOG_FILE "crun.log"

/* ---- mounts ---- */

static bool is_threaded(void)
{
#if defined(__SANITIZE_THREAD__)
    const nlink_t own = 2; /* the sanitizer has one of its own, which no mount concerns */
#else
    const nlink_t own = 1;
#endif
    struct stat st;

    /* links of a task directory: itself, "..", and one a thread */
    return stat("/proc/self/task", &st) < 0 || st.st_nlink > 2 + own;
}

int oci_private_mounts(struct error *err)
{
    if (is_threaded())
        return err_set(err, ERR_BUG, EINVAL,
                       "oci: must be opened before the first thread is started");
    if (unshare(CLONE_NEWNS) < 0)
        return err_set_errno(
            err, ERR_PERMANENT, errno,
            "oci: cannot have a mount namespace of its own; run as root (in a container: "
            "privileged)");
    /* slave, not private: what the host unmounts must not live on here */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno,
                             "oci: cannot detach mounts from the host's");
    return 0;
}

int oci_hide(const char *path, struct error *err)
{
    if (umount2(path, MNT_DETACH) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot hide %s from crun", path);
    return 0;
}

static int make_dirs(int rw_fd, struct error *err)
{
    static const struct {
        const char *name;
        mode_t mode;
    } dirs[] = {{"upper", 0755}, {"work", 0700}, {"tmp", 01777}, {"vartmp", 01777}, {"shm", 01777}};

    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
        if (mkdirat(rw_fd, dirs[i].name, 0700) < 0 ||
            fchmodat(rw_fd, dirs[i].name, dirs[i].mode, 0) < 0)
            return err_set_errno(err, ERR_TEMPORARY, errno,
                                 "oci: cannot make %s in the machine's tmpfs", dirs[i].name);
    return 0;
}

/* Layers by descriptor: short, whatever the path, so that 127 of them fit the kernel's page of
 * options. */
static int mount_overlay(const char *target, int rw_fd, const int *layer_fds, size_t layer_ct,
                         struct error *err)
{
    struct buf o = BUF_INIT(4095);
    cleanup_close int upper = openat(rw_fd, "upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
    cleanup_close int work = openat(rw_fd, "work", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int r = upper < 0 || work < 0 ? -errno : buf_appends(&o, "lowerdir=");

    for (size_t i = layer_ct; i-- > 0 && r == 0;)
        r = buf_printf(&o, "/proc/self/fd/%d%s", layer_fds[i], i > 0 ? ":" : "");
    if (r == 0)
        r = buf_printf(&o, ",upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d", upper, work);
    if (r == 0 && mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, o.data) < 0)
        r = -errno;
    buf_free(&o);
    if (r < 0)
        return err_set_errno(err, ERR_TEMPORARY, -r,
                             "oci: cannot mount an overlay of %zu layers on %s", layer_ct, target);
    return 0;
}

int oci_mount(const struct oci_bundle *b, const int *layer_fds, size_t layer_ct,
              const struct oci_room *room, struct error *err)
{
    cleanup_free char *rw = xasprintf("%s/rw", b->path);
    cleanup_free char *rootfs = xasprintf("%s/rootfs", b->path);
    cleanup_close int rw_fd = -1;
    char options[96] = "mode=0711";
    int r;

    if (mkdirat(b->fd, "rw", 0700) < 0 || mkdirat(b->fd, "rootfs", 0700) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot make directories in %s",
                             b->path);
    if (room->bytes > 0)
        snprintf(options, sizeof(options), "mode=0711,size=%llu,nr_inodes=%llu",
                 (unsigned long long)room->bytes, (unsigned long long)room->inodes);
    if (mount("milonga", rw, "tmpfs", MS_NOSUID | MS_NODEV, options) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot mount a tmpfs (%s) on %s",
                             options, rw);
    rw_fd = open(rw, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = rw_fd < 0 ? err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot open %s", rw)
                  : make_dirs(rw_fd, err);
    if (r == 0)
        r = mount_overlay(rootfs, rw_fd, layer_fds, layer_ct, err);
    if (r < 0)
        oci_unmount(b->path);
    return r;
}

void oci_unmount(const char *bundle_path)
{
    cleanup_free char *rw = xasprintf("%s/rw", bundle_path);
    cleanup_free char *rootfs = xasprintf("%s/rootfs", bundle_path);

    umount2(rootfs, MNT_DETACH | UMOUNT_NOFOLLOW);
    umount2(rw, MNT_DETACH | UMOUNT_NOFOLLOW);
}

/* ---- processes ---- */

static _Noreturn void launch_fail(struct oci_launch *l, int code, const char *step)
{
    l->code = code;
    l->step = step;
    _exit(127);
}

/* Runs in a child that has our memory while we stand still: system calls only. */
static _Noreturn void launch_child(struct oci_launch *l)
{
    static const char *const env[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;
    int fd, r;

    for (int s = 1; s < _NSIG; s++)
        sigaction(s, &dfl, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != l->parent)
        launch_fail(l, ECHILD, "parent");
    setsid(); /* a terminal's ^C is not for machines */
    r = l->group != NULL ? cgroup_enter(l->group) : 0;
    if (r < 0)
        launch_fail(l, -r, "cgroup");
    /* autodriver and crun are the last to go when memory runs out, where we may say so; the
     * autodriver takes it from the job */
    fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && l->group != NULL)
        r = (int)write(fd, "-999", 4);
    if (dup2(l->in_fd, 0) < 0 || dup2(l->out_fd, 1) < 0 || dup2(l->err_fd, 2) < 0)
        launch_fail(l, errno, "dup2");
    syscall(SYS_close_range, 3, ~0U, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(l->path, (char *const *)l->argv, (char *const *)env);
    launch_fail(l, errno, "exec");
}

int oci_launch(struct oci_launch *l, pid_t *ret_pid, int *ret_pidfd, struct error *err)
{
    sigset_t all, old;
    pid_t pid;
    int fd;

    l->parent = getpid();
    l->code = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* no handler of ours may run in the child */
    pid = vfork();
    if (pid == 0)
        launch_child(l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pid < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot start %s", l->path);
    if (l->code != 0) {
        waitpid(pid, NULL, 0);
        return err_set_errno(err, ERR_TEMPORARY, l->code, "oci: cannot start %s (%s)", l->path,
                             l->step);
    }
    fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0) {
        int code = errno;

        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return err_set_errno(err, ERR_TEMPORARY, code, "oci: cannot watch %s", l->path);
    }
    *ret_pid = pid;
    *ret_pidfd = fd;
    return 0;
}

/* Waits for the process to end; whatever comes first, it is killed and reaped. */
static int wait_for(pid_t pid, int pidfd, int64_t deadline, int cancel_fd, int *ret_status)
{
    struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
    int r = 0, n;

    while (p[0].revents == 0 && r == 0) {
        n = poll(p, 2, clock_until_ms(deadline));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            r = n < 0 ? -errno : -ETIMEDOUT;
        else if (p[0].revents == 0 && p[1].revents != 0)
            r = -ECANCELED;
    }
    if (r < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
        continue;
    return r;
}

static char *read_log(const struct oci_bundle *b)
{
    cleanup_close int fd = openat(b->fd, LOG_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    char *text = xcalloc(1, 301);
    ssize_t n = fd >= 0 ? read(fd, text, 300) : 0;

    text[n > 0 ? n : 0] = '\0';
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    return text;
}

int oci_run(const char *crun, const struct oci_bundle *b, const char *name,
            const struct cgroup *group, int in_fd, int out_fd, int64_t deadline, int cancel_fd,
            struct error *err)
{
    cleanup_free char *root = xasprintf("--root=%s/state", b->path);
    cleanup_free char *log = xasprintf("--log=%s/" LOG_FILE, b->path);
    cleanup_free char *bundle = xasprintf("--bundle=%s", b->path);
    cleanup_free char *pid_file = xasprintf("--pid-file=%s/" OCI_PID_FILE, b->path);
    const char *argv[] = {
        "crun", "--cgroup-manager=disabled", root, log, "run", "--detach", pid_file, bundle, name,
        NULL};
    cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct oci_launch l = {crun, argv, group, in_fd, out_fd, null, 0, 0, NULL};
    cleanup_close int pidfd = -1;
    cleanup_free char *text = NULL;
    int status = 0, r;
    pid_t pid;

    if (null < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot open /dev/null");
    CRASHPOINT("oci", "spawn", "before");
    r = oci_launch(&l, &pid, &pidfd, err);
    CRASHPOINT("oci", "spawn", "after");
    if (r < 0)
        return r;
    r = wait_for(pid, pidfd, deadline, cancel_fd, &status);
    CRASHPOINT("oci", "crun", "after");
    if (r == -ECANCELED)
        return err_set(err, ERR_TEMPORARY, ECANCELED, "oci: cancelled");
    text = read_log(b);
    if (r < 0)
        return err_set_errno(err, ERR_TEMPORARY, -r, "oci: crun did not start the machine %s",
                             text);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(err, ERR_TEMPORARY, EIO, "oci: crun ended with %s %d: %s",
                       WIFEXITED(status) ? "status" : "signal",
                       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), text);
    return 0;
}

int oci_check_crun(const char *crun, struct error *err)
{
    const char *argv[] = {"crun", "--version", NULL};
    cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int fds[2], status = 0, r;
    cleanup_close int pidfd = -1;
    char text[2048] = "";
    pid_t pid;

    if (null < 0 || pipe2(fds, O_CLOEXEC) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot make a pipe");
    r = oci_launch(&(struct oci_launch){crun, argv, NULL, null, fds[1], null, 0, 0, NULL}, &pid,
                   &pidfd, err);
    close(fds[1]);
    if (r == 0) {
        r = wait_for(pid, pidfd, clock_mono_ms() + 5000, -1, &status);
        if (read(fds[0], text, sizeof(text) - 1) < 0 || r < 0 || status != 0)
            r = err_set(err, ERR_PERMANENT, EIO, "oci: %s --version failed", crun);
    }
    close(fds[0]);
    if (r < 0)
        return r;
    if (strstr(text, "+SECCOMP") == NULL || strstr(text, "+CAP") == NULL)
        return err_set(err, ERR_PERMANENT, ENOTSUP,
                       "oci: %s was built without seccomp or capabilities; apt-get install crun",
                       crun);
    return 0;
}
