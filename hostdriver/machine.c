#include "machine.h"

#include "box.h"
#include "engine.h"
#include "host.h"
#include "run.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ENDING_MS 5000 /* for an engine's client whose stdin has ended */

struct machine {
    const char *name, *epoch, *mode, *program, *image;
    struct host host;
    struct cgroup *group; /* direct */
    struct container container;
    char *dir; /* DIR/m/NAME */
    char *autodriver;
    uint64_t disk_bytes, disk_files;
    struct cgroup_limits limits;
    bool network;
    bool made; /* the directory is */
    pid_t pid;
    int keeper; /* pidfd */
    int signals;
};

static const char *get(char **args, const char *key)
{
    size_t len = strlen(key);

    for (; *args; args++)
        if (strncmp(*args, key, len) == 0 && (*args)[len] == '=')
            return *args + len + 1;
    return "";
}

static uint64_t number(char **args, const char *key)
{
    return strtoull(get(args, key), NULL, 10);
}

static void say(const char *what, const char *text)
{
    char line[700];

    snprintf(line, sizeof(line) - 1, "milonga: %s %s", what, text);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
    strcat(line, "\n");
    write_all(2, line, strlen(line));
}

/* ---- making ---- */

static int take_order(struct machine *m, char **args, struct error *err)
{
    m->name = get(args, "name");
    m->epoch = get(args, "epoch");
    m->mode = get(args, "mode");
    m->program = get(args, "program");
    m->image = get(args, "image");
    m->disk_bytes = number(args, "disk_bytes");
    m->disk_files = number(args, "disk_files");
    m->limits =
        (struct cgroup_limits){(uint32_t)number(args, "cores_milli"),
                               number(args, "memory_mb") << 20, (uint32_t)number(args, "pids")};
    m->network = number(args, "network") != 0;
    if (!host_name_ok(m->name) || !host_name_ok(m->program))
        return err_set(err, ERR_BUG, EINVAL, "\"%s\" or \"%s\" is not a name", m->name, m->program);
    if (strcmp(m->mode, MODE_DIRECT) != 0 && (!mode_is_engine(m->mode) || m->image[0] == '-'))
        return err_set(err, ERR_BUG, EINVAL, "no mode %s, or no image %s", m->mode, m->image);
    return 0;
}

static int start_direct(struct machine *m, struct error *err)
{
    struct box box = {.dir = m->dir,
                      .autodriver = m->autodriver,
                      .disk_bytes = m->disk_bytes,
                      .disk_files = m->disk_files,
                      .network = m->network};

    int r = cgroup_new(m->host.groups, m->name, &m->limits, &m->group, err);
    if (r < 0)
        return r;
    box.group = m->group;
    return box_start(&box, &m->pid, err);
}

static int start_container(struct machine *m, struct error *err)
{
    m->container = (struct container){
        .engine = m->mode,
        .dir = m->host.path,
        .name = m->name,
        .image = m->image,
        .autodriver = m->autodriver,
        .cores_milli = m->limits.cores_milli,
        .memory_mb = (uint32_t)(m->limits.memory_bytes >> 20),
        .pids = m->limits.pids,
        .network = m->network,
    };
    return engine_start(&m->container, &m->pid, err);
}

static int make(struct machine *m, const char *dir, char **args, struct error *err)
{
    int r = take_order(m, args, err);
    bool direct = strcmp(m->mode, MODE_DIRECT) == 0;

    if (r == 0)
        r = host_open(dir, direct, &m->host, err);
    if (r < 0)
        return r;
    m->dir = xasprintf("%s/m/%s", dir, m->name);
    m->autodriver = xasprintf("%s/%s", dir, m->program);
    cleanup_close int gate = host_lock(&m->host, "gate", LOCK_SH, WAIT_MS, err);
    if (gate < 0)
        return gate;
    r = host_find_keeper(&m->host, m->epoch, &m->keeper, err);
    if (r < 0)
        return r;
    if (mkdirat(m->host.machines_fd, m->name, 0700) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "mkdir %s", m->dir);
    m->made = true;
    return direct ? start_direct(m, err) : start_container(m, err);
}

/* ---- ending ---- */

static int take_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The pipe is the child's alone from here, so that its end is the machine's. */
static void let_go_of_pipe(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
        close(null);
    }
}

static void wait_for_end(struct machine *m)
{
    cleanup_close int child = (int)syscall(SYS_pidfd_open, m->pid, 0);
    struct pollfd fds[3] = {{.fd = child, .events = POLLIN},
                            {.fd = m->keeper, .events = POLLIN},
                            {.fd = m->signals, .events = POLLIN}};

    while (child >= 0 && poll(fds, 3, -1) < 0 && errno == EINTR)
        ;
}

static bool clean_up(struct machine *m, bool *ret_oom)
{
    bool clean = true;
    int status;

    if (m->group) {
        clean = cgroup_kill(m->group, clock_mono_ms() + WAIT_MS, NULL) == 0;
        *ret_oom = cgroup_oom(m->group);
    } else if (m->container.engine) {
        if (m->pid > 0 && run_wait(m->pid, clock_mono_ms() + ENDING_MS, &status) == 0)
            m->pid = 0;
        *ret_oom = engine_oom(&m->container);
        if (*ret_oom)
            say("oom", "1"); /* at once: to remove it may take longer than the vmm listens */
        clean = engine_remove(m->container.engine, m->name, NULL) == 0;
    }
    if (m->pid > 0) {
        kill(m->pid, SIGKILL);
        waitpid(m->pid, &status, 0);
    }
    if (m->group) {
        clean = clean && cgroup_remove(m->group, clock_mono_ms() + WAIT_MS, NULL) == 0;
        cgroup_free(m->group);
    }
    if (m->made && unlinkat(m->host.machines_fd, m->name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        clean = false;
    return clean;
}

int machine_main(const char *dir, char **args)
{
    struct machine m = {.keeper = -1, .signals = take_signals()};
    struct error err = ERROR_INIT;
    bool oom = false;

    int r = make(&m, dir, args, &err);
    if (r == 0) {
        let_go_of_pipe();
        say("up", "");
        wait_for_end(&m);
    }
    bool clean = clean_up(&m, &oom);
    if (r < 0) {
        say("failed", err.msg);
        return 1;
    }
    cleanup_free char *text = xasprintf("oom=%d clean=%d", oom, clean);
    say("end", text);
    return 0;
}
