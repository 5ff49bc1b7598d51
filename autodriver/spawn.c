#include "spawn.h"

#include "account.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STATUS_FD 3

static void fail(enum spawn_step step)
{
    struct spawn_failure failure = {.step = step, .error = errno};

    write_all(STATUS_FD, &failure, sizeof(failure));
    _exit(127);
}

/* Soft and hard, or the hard limit that we have where that is lower: stricter is what was asked. */
static int set_limit(int resource, uint64_t value)
{
    struct rlimit limit;

    if (getrlimit(resource, &limit) < 0)
        return -1;
    if (limit.rlim_max == RLIM_INFINITY || value < limit.rlim_max)
        limit.rlim_max = (rlim_t)value;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(resource, &limit);
}

static void apply_limits(const struct job_limits *limits)
{
    if (limits->nproc && set_limit(RLIMIT_NPROC, limits->nproc) < 0)
        fail(SPAWN_STEP_NPROC);
    if (limits->fsize_bytes && set_limit(RLIMIT_FSIZE, limits->fsize_bytes) < 0)
        fail(SPAWN_STEP_FSIZE);
    if ((limits->nofile && set_limit(RLIMIT_NOFILE, limits->nofile) < 0) ||
        set_limit(RLIMIT_CORE, limits->core_bytes) < 0)
        fail(SPAWN_STEP_LIMIT);
}

static void reset_signals(void)
{
    /* the kernel's own form, all zero: default, no flags, no mask; musl's sigaction refuses 32 to
     * 34, which a careless caller may have left ignored */
    static const unsigned long action[8];
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        syscall(SYS_rt_sigaction, sig, action, NULL,
                _NSIG / 8); /* fails for KILL and STOP, which have no handler anyway */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Leaving root clears them already, unless some securebit of the machine says otherwise: capset
 * makes it true in either case. The layout is the kernel's _LINUX_CAPABILITY_VERSION_3. */
static int drop_capabilities(void)
{
    struct {
        uint32_t version;
        int pid;
    } head = {.version = 0x20080522};
    struct {
        uint32_t effective, permitted, inheritable;
    } none[2];

    memset(none, 0, sizeof(none));
    return (int)syscall(SYS_capset, &head, none);
}

static void become(const struct account *account)
{
    if (setgroups((size_t)account->group_ct, account->groups) < 0)
        fail(SPAWN_STEP_GROUPS);
    if (setresgid(account->gid, account->gid, account->gid) < 0)
        fail(SPAWN_STEP_GID);
    if (setresuid(account->uid, account->uid, account->uid) < 0)
        fail(SPAWN_STEP_UID);
    if (drop_capabilities() < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail(SPAWN_STEP_CAPS);
}

/* Moves the three streams and the status pipe to 0..3 and closes the rest. The sources are all
 * above 2 (stdio_ensure) and the status pipe is moved last but kept out of the way first. */
static void arrange_fds(int out_fd, int status_fd)
{
    int high = fcntl(status_fd, F_DUPFD_CLOEXEC, 64);
    int null_fd;

    if (high < 0)
        _exit(127);
    if (dup2(out_fd, 1) < 0 || dup2(out_fd, 2) < 0 || dup3(high, STATUS_FD, O_CLOEXEC) < 0)
        _exit(127);
    close(0);
    null_fd = null_open(O_RDONLY);
    if (null_fd < 0 || (null_fd != 0 && dup2(null_fd, 0) < 0))
        fail(SPAWN_STEP_STDIO);
    close_from(STATUS_FD + 1);
}

/* execvpe without its fallback to a shell, and with the errno that tells most: a file that may not
 * be run is news, one that is not in the last directory of PATH is not. */
static void exec_search(const struct spawn_spec *spec)
{
    const char *name = spec->argv[0];
    const char *dir = spec->path;
    char file[1024];
    int best = ENOENT;

    if (strchr(name, '/')) {
        execve(name, spec->argv, spec->envp);
        return;
    }
    while (*dir != '\0') {
        size_t len = strcspn(dir, ":");

        if (len > 0 &&
            snprintf(file, sizeof(file), "%.*s/%s", (int)len, dir, name) < (int)sizeof(file)) {
            execve(file, spec->argv, spec->envp);
            if (errno != ENOENT && errno != ENOTDIR)
                best = errno;
        }
        dir += len + (dir[len] == ':');
    }
    errno = best;
}

static void child_main(const struct spawn_spec *spec, int status_fd, pid_t parent)
{
    int fd;

    setsid();
    if (fchdir(spec->dir_fd) < 0) {
        struct spawn_failure failure = {.step = SPAWN_STEP_DIR, .error = errno};

        write_all(status_fd, &failure, sizeof(failure));
        _exit(127);
    }
    arrange_fds(spec->out_fd, status_fd);
    reset_signals();

    /* Best effort: a machine without /proc still has the right order by size most of the time. */
    fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        write_all(fd, "500", 3);
        close(fd);
    }
    umask(spec->umask);
    apply_limits(&spec->limits);
    become(spec->account);

    /* After the change of ids, which clears it; and the parent may have died before. */
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent)
        _exit(127);
    exec_search(spec);
    fail(SPAWN_STEP_EXEC);
}

pid_t spawn(const struct spawn_spec *spec, int *ret_status_fd)
{
    int status[2];
    pid_t parent = getpid();
    pid_t pid;

    if (pipe2(status, O_CLOEXEC) < 0)
        return -errno;
    pid = fork();
    if (pid == 0) {
        child_main(spec, status[1], parent);
        _exit(127);
    }
    if (pid < 0) {
        int saved = errno;

        close(status[0]);
        close(status[1]);
        return -saved;
    }
    close(status[1]);
    *ret_status_fd = status[0];
    return pid;
}

int spawn_result(int status_fd, struct spawn_failure *ret)
{
    struct spawn_failure failure;
    ssize_t n;

    do
        n = read(status_fd, &failure, sizeof(failure));
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return -EAGAIN;
    if (n != (ssize_t)sizeof(failure))
        return 1;
    *ret = failure;
    return 0;
}
