#include "base/cgroup_private.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PROCS_MAX        (1u << 20) /* bytes of one cgroup.procs that are read at a time */
#define CPU_PERIOD_US    100000
#define CPU_QUOTA_MIN_US 1000 /* the kernel takes no less */

int cgroup_put(int dir, const char *file, const char *text)
{
    cleanup_close int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return -errno;
    /* one write: the kernel parses each by itself */
    n = write(fd, text, strlen(text));
    return n < 0 ? -errno : 0;
}

int cgroup_get(int dir, const char *file, size_t max, char **ret)
{
    cleanup_close int fd = openat(dir, file, O_RDONLY | O_CLOEXEC);
    cleanup_free char *text = NULL;
    size_t len = 0;

    if (fd < 0)
        return -errno;
    text = xmalloc(max + 1);
    while (len < max) {
        ssize_t n = read(fd, text + len, max - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    *ret = TAKE_PTR(text);
    return 0;
}

static int get_number(int dir, const char *file, uint64_t *ret)
{
    cleanup_free char *text = NULL;
    char *end;
    int r = cgroup_get(dir, file, 64, &text);
    unsigned long long v;

    if (r < 0)
        return r;
    errno = 0;
    v = strtoull(text, &end, 10);
    if (errno != 0 || end == text)
        return -EINVAL;
    *ret = v;
    return 0;
}

/* The number behind `key` in a file of "key number" lines. */
static int get_keyed(int dir, const char *file, const char *key, uint64_t *ret)
{
    cleanup_free char *text = NULL;
    size_t len = strlen(key);
    int r = cgroup_get(dir, file, 16384, &text);

    if (r < 0)
        return r;
    for (char *line = text; line != NULL && *line != '\0';) {
        char *next = strchr(line, '\n');

        if (strncmp(line, key, len) == 0 && line[len] == ' ') {
            *ret = strtoull(line + len + 1, NULL, 10);
            return 0;
        }
        line = next != NULL ? next + 1 : NULL;
    }
    return -ENOENT;
}

static int home_dir(const struct cgroup *g, enum cgroup_controller c)
{
    int home = g->tree->home[c];

    return home < 0 ? -1 : g->dir[home];
}

static bool is_v2(const struct cgroup *g, enum cgroup_controller c)
{
    return g->tree->trees[g->tree->home[c]].v2;
}

static int put_number(const struct cgroup *g, enum cgroup_controller c, const char *file,
                      uint64_t v, struct error *err)
{
    char text[32];
    int r;

    snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    r = cgroup_put(home_dir(g, c), file, text);
    if (r < 0)
        return err_set_errno(err, ERR_PERMANENT, -r, "cgroup %s: cannot set %s to %s", g->name,
                             file, text);
    return 0;
}

/* Without a limit on swap a job would only be slowed by its memory limit, not stopped. */
static bool swap_is_on(void)
{
    cleanup_free char *text = NULL;
    size_t len;
    char *line;

    if (read_file("/proc/swaps", 65536, &text, &len) < 0)
        return false;
    line = strchr(text, '\n');
    return line != NULL && line[1] != '\0';
}

static int limit_memory(const struct cgroup *g, uint64_t bytes, struct error *err)
{
    const char *swap = is_v2(g, CGROUP_MEMORY) ? "memory.swap.max" : "memory.memsw.limit_in_bytes";
    uint64_t swap_limit = is_v2(g, CGROUP_MEMORY) ? 0 : bytes;
    int r =
        put_number(g, CGROUP_MEMORY,
                   is_v2(g, CGROUP_MEMORY) ? "memory.max" : "memory.limit_in_bytes", bytes, err);

    if (r < 0)
        return r;
    if (faccessat(home_dir(g, CGROUP_MEMORY), swap, W_OK, 0) == 0)
        return put_number(g, CGROUP_MEMORY, swap, swap_limit, err);
    if (swap_is_on())
        return err_set(
            err, ERR_PERMANENT, ENOTSUP,
            "cgroup %s: swap is on and the kernel cannot limit it; boot with swapaccount=1 "
            "or turn swap off",
            g->name);
    return 0;
}

static int limit_cpu(const struct cgroup *g, uint32_t cores_milli, struct error *err)
{
    uint64_t quota = (uint64_t)cores_milli * (CPU_PERIOD_US / 1000);
    char text[64];
    int r;

    if (quota < CPU_QUOTA_MIN_US)
        quota = CPU_QUOTA_MIN_US;
    if (!is_v2(g, CGROUP_CPU)) {
        r = put_number(g, CGROUP_CPU, "cpu.cfs_period_us", CPU_PERIOD_US, err);
        return r < 0 ? r : put_number(g, CGROUP_CPU, "cpu.cfs_quota_us", quota, err);
    }
    snprintf(text, sizeof(text), "%llu %d", (unsigned long long)quota, CPU_PERIOD_US);
    r = cgroup_put(home_dir(g, CGROUP_CPU), "cpu.max", text);
    if (r < 0)
        return err_set_errno(err, ERR_PERMANENT, -r, "cgroup %s: cannot set cpu.max to %s", g->name,
                             text);
    return 0;
}

static int set_limits(const struct cgroup *g, const struct cgroup_limits *limits, struct error *err)
{
    int r = 0;

    if (limits->memory_bytes > 0)
        r = limit_memory(g, limits->memory_bytes, err);
    if (r == 0 && limits->pids > 0)
        r = put_number(g, CGROUP_PIDS, "pids.max", limits->pids, err);
    if (r == 0 && limits->cores_milli > 0)
        r = limit_cpu(g, limits->cores_milli, err);
    return r;
}

static struct cgroup *group_alloc(struct cgroup_tree *t, const char *name)
{
    struct cgroup *g = xcalloc(1, sizeof(*g));

    g->tree = t;
    g->name = xstrdup(name);
    for (size_t i = 0; i < CGROUP_TREES_MAX; i++)
        g->dir[i] = g->procs[i] = -1;
    return g;
}

void cgroup_free(struct cgroup *g)
{
    if (g == NULL)
        return;
    for (size_t i = 0; i < CGROUP_TREES_MAX; i++) {
        if (g->dir[i] >= 0)
            close(g->dir[i]);
        if (g->procs[i] >= 0)
            close(g->procs[i]);
    }
    free(g->name);
    free(g);
}

static int open_in(struct cgroup *g, size_t i)
{
    g->dir[i] =
        openat(g->tree->trees[i].base_fd, g->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (g->dir[i] < 0)
        return -errno;
    g->procs[i] = openat(g->dir[i], "cgroup.procs", O_RDWR | O_CLOEXEC);
    return g->procs[i] < 0 ? -errno : 0;
}

int cgroup_new(struct cgroup_tree *t, const char *name, const struct cgroup_limits *limits,
               struct cgroup **ret, struct error *err)
{
    struct cgroup *g = group_alloc(t, name);
    int r = 0;
    size_t made = 0;

    for (; made < t->count && r == 0; made++) {
        if (mkdirat(t->trees[made].base_fd, name, 0755) < 0) {
            r = err_set_errno(err, ERR_TEMPORARY, errno, "cgroup %s: cannot make it in %s/%s", name,
                              t->trees[made].mount, t->path);
            break;
        }
        r = open_in(g, made);
        if (r < 0)
            err_set_errno(err, ERR_TEMPORARY, -r, "cgroup %s: cannot open it in %s/%s", name,
                          t->trees[made].mount, t->path);
    }
    if (r == 0)
        r = set_limits(g, limits, err);
    if (r < 0) {
        while (made-- > 0)
            unlinkat(t->trees[made].base_fd, name, AT_REMOVEDIR);
        cgroup_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

int cgroup_open(struct cgroup_tree *t, const char *name, struct cgroup **ret, struct error *err)
{
    struct cgroup *g = group_alloc(t, name);
    size_t found = 0;

    for (size_t i = 0; i < t->count; i++) {
        int r = open_in(g, i);

        if (r == 0)
            found++;
        else if (r != -ENOENT) {
            cgroup_free(g);
            return err_set_errno(err, ERR_TEMPORARY, -r, "cgroup %s: cannot open it in %s/%s", name,
                                 t->trees[i].mount, t->path);
        }
    }
    if (found == 0) {
        cgroup_free(g);
        return err_set(err, ERR_TEMPORARY, ENOENT, "cgroup %s: there is none", name);
    }
    *ret = g;
    return 0;
}

int cgroup_enter(const struct cgroup *g)
{
    for (size_t i = 0; i < g->tree->count; i++)
        if (write(g->procs[i], "0", 1) < 0)
            return -errno;
    return 0;
}

int cgroup_add(const struct cgroup *g, pid_t pid, struct error *err)
{
    char text[24];

    snprintf(text, sizeof(text), "%d", (int)pid);
    for (size_t i = 0; i < g->tree->count; i++)
        if (write(g->procs[i], text, strlen(text)) < 0)
            return err_set_errno(err, ERR_TEMPORARY, errno, "cgroup %s: cannot add process %s",
                                 g->name, text);
    return 0;
}

int cgroup_show_own(const struct cgroup *g)
{
    for (size_t i = 0; i < g->tree->count; i++) {
        /* by path: a descriptor from before the namespace is of the other one's mounts */
        cleanup_free char *path =
            xasprintf("%s/%s/%s", g->tree->trees[i].mount, g->tree->path, g->name);

        if (mount(path, g->tree->trees[i].mount, NULL, MS_BIND, NULL) < 0)
            return -errno;
    }
    return 0;
}

/* ---- ending what is in a group ---- */

struct pids {
    pid_t *pid;
    size_t count;
};

/* Any hierarchy will do, since a process enters all; the one that is there, then. */
static int read_pids(const struct cgroup *g, struct pids *ret)
{
    cleanup_free char *text = NULL;
    size_t count = 0;
    int dir = home_dir(g, CGROUP_PIDS);
    int r;

    ret->pid = NULL;
    ret->count = 0;
    for (size_t i = 0; dir < 0 && i < g->tree->count; i++)
        dir = g->dir[i];
    r = cgroup_get(dir, "cgroup.procs", PROCS_MAX, &text);
    if (r == -ENODEV || r == -ENOENT) /* removed meanwhile */
        return 0;
    if (r < 0)
        return r;
    for (const char *c = text; *c != '\0'; c++)
        count += *c == '\n';
    ret->pid = xcalloc(count + 1, sizeof(pid_t));
    for (char *at = text; ret->count < count; ret->count++)
        ret->pid[ret->count] = (pid_t)strtol(at, &at, 10);
    return 0;
}

static bool has_pid(const struct pids *p, pid_t pid)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->pid[i] == pid)
            return true;
    return false;
}

/* Signals what was in the group both before and after its pidfd was taken: a number that was given
 * to another process in between is not touched. Waits for each to be gone. */
static int kill_round(const struct cgroup *g, const struct pids *seen, int64_t deadline)
{
    cleanup_free int *fds = xcalloc(seen->count, sizeof(int));
    struct pids now;
    int r = 0;

    for (size_t i = 0; i < seen->count; i++)
        fds[i] = seen->pid[i] > 0 ? (int)syscall(SYS_pidfd_open, seen->pid[i], 0) : -1;
    r = read_pids(g, &now);
    for (size_t i = 0; i < seen->count && r == 0; i++)
        if (fds[i] >= 0 && has_pid(&now, seen->pid[i]))
            syscall(SYS_pidfd_send_signal, fds[i], SIGKILL, NULL, 0);
    for (size_t i = 0; i < seen->count; i++) {
        struct pollfd p = {.fd = fds[i], .events = POLLIN};
        siginfo_t info;

        if (fds[i] < 0)
            continue;
        if (r == 0 && has_pid(&now, seen->pid[i])) {
            int n;

            do
                n = poll(&p, 1, clock_until_ms(deadline));
            while (n < 0 && errno == EINTR && clock_until_ms(deadline) > 0);
            if (n <= 0)
                r = -ETIMEDOUT;
            else /* ours when we are init or were its parent; ECHILD otherwise */
                waitid(P_PIDFD, (id_t)fds[i], &info, WEXITED | WNOHANG);
        }
        close(fds[i]);
    }
    free(now.pid);
    return r;
}

int cgroup_kill(struct cgroup *g, int64_t deadline, struct error *err)
{
    int pids = home_dir(g, CGROUP_PIDS);

    /* No more forks, so that the rounds below end; then at once where the kernel can (v2, 5.14). */
    if (pids >= 0)
        cgroup_put(pids, "pids.max", "0");
    for (size_t i = 0; i < g->tree->count; i++)
        if (g->dir[i] >= 0 && g->tree->trees[i].v2)
            cgroup_put(g->dir[i], "cgroup.kill", "1");
    for (;;) {
        struct pids seen;
        int r = read_pids(g, &seen);

        if (r == 0 && seen.count == 0) {
            free(seen.pid);
            return 0;
        }
        if (r == 0)
            r = kill_round(g, &seen, deadline);
        free(seen.pid);
        if (r == 0 && clock_until_ms(deadline) == 0)
            r = -ETIMEDOUT;
        if (r < 0)
            return err_set_errno(err, ERR_TEMPORARY, -r, "cgroup %s: cannot end its processes",
                                 g->name);
    }
}

int cgroup_remove(struct cgroup *g, int64_t deadline, struct error *err)
{
    for (size_t i = 0; i < g->tree->count; i++)
        for (unsigned tries = 0;; tries++) {
            int64_t ms = clock_backoff_ms(tries, 2, 100);

            if (unlinkat(g->tree->trees[i].base_fd, g->name, AT_REMOVEDIR) == 0 || errno == ENOENT)
                break;
            /* the last process is gone, but the kernel may still be letting go of it: no event
             * tells */
            if (errno != EBUSY || clock_mono_ms() + ms > deadline)
                return err_set_errno(err, ERR_TEMPORARY, errno,
                                     "cgroup %s: cannot remove it from %s/%s", g->name,
                                     g->tree->trees[i].mount, g->tree->path);
            poll(NULL, 0, (int)ms);
        }
    return 0;
}

int cgroup_end(struct cgroup_tree *t, const char *name, int64_t deadline, struct error *err)
{
    struct error none = ERROR_INIT; /* that there is no group is no failure */
    struct cgroup *g;
    int r = cgroup_open(t, name, &g, &none);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return err_set(err, none.class, none.code, "%s", none.msg);
    r = cgroup_kill(g, deadline, err);
    if (r == 0)
        r = cgroup_remove(g, deadline, err);
    cgroup_free(g);
    return r;
}

/* ---- what it used ---- */

int cgroup_usage(const struct cgroup *g, uint64_t *ret_cpu_us, uint64_t *ret_peak_bytes)
{
    enum cgroup_controller acct = g->tree->home[CGROUP_CPUACCT] >= 0 ? CGROUP_CPUACCT : CGROUP_CPU;
    int mem = home_dir(g, CGROUP_MEMORY);
    uint64_t cpu = 0, peak = 0;
    int r;

    if (is_v2(g, acct)) {
        r = get_keyed(home_dir(g, acct), "cpu.stat", "usage_usec", &cpu);
    } else {
        r = get_number(home_dir(g, acct), "cpuacct.usage", &cpu);
        cpu /= 1000;
    }
    if (r < 0)
        return r;
    if (!is_v2(g, CGROUP_MEMORY))
        r = get_number(mem, "memory.max_usage_in_bytes", &peak);
    else if ((r = get_number(mem, "memory.peak", &peak)) == -ENOENT) /* since 5.19 */
        r = get_number(mem, "memory.current", &peak);
    if (r < 0)
        return r;
    if (ret_cpu_us != NULL)
        *ret_cpu_us = cpu;
    if (ret_peak_bytes != NULL)
        *ret_peak_bytes = peak;
    return 0;
}

bool cgroup_oom(const struct cgroup *g)
{
    uint64_t kills = 0;
    const char *file = is_v2(g, CGROUP_MEMORY) ? "memory.events" : "memory.oom_control";

    return get_keyed(home_dir(g, CGROUP_MEMORY), file, "oom_kill", &kills) == 0 && kills > 0;
}
