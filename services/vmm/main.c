/* The vmm's main: everything is made before the first thread, threads start in an order in which
 * nobody calls what is not there, and stop in the reverse. Signals: TERM or INT drains (what runs
 * is finished, nothing new is taken); a second one hands back what runs, uncharged, and leaves;
 * with stop_hands_back the first one does. HUP does nothing, so that a closed terminal does not end
 * jobs. */

#include "agent.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/notify.h"
#include "builds.h"
#include "fleet.h"
#include "health.h"
#include "pool.h"
#include "reaper.h"
#include "slot.h"
#include "sync.h"
#include "vmm.h"
#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define SETTLE_MS     20000 /* for the hosts' first connections */
#define REAP_BASE_MS  500
#define REAP_CAP_MS   15000
#define EARLY_MS      3000  /* to end what was begun before there was anything to serve */
#define LEAVE_MS      4000  /* to hand back what runs, before it is left to its own */
#define TIDY_HURRY_MS 12000 /* to put away what no job needs, when it was to be quick */
#define TIDY_MS       60000

static int signals_open(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* True when a signal came before the deadline. */
static bool signal_wait(int fd, int64_t deadline)
{
    struct signalfd_siginfo info;
    if (!event_wait(fd, deadline))
        return false;
    return read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info);
}

/* Slots, warm machines and their pipes take descriptors; as many as the hard limit has. */
static void raise_nofile(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

static int fail(const char *what, const struct error *err)
{
    log_event(LOG_ERROR_, "vmm.not_started", "what", what, "reason", err->msg, NULL);
    return 1;
}

static int store_open_configured(const struct config *c, struct store **ret, struct error *err)
{
    cleanup_free char *dir = xasprintf("%s/store", c->data_dir);
    cleanup_free char *cache = xasprintf("%s/cache", c->data_dir);
    struct store_options opt = {
        .where = c->store && c->store[0] ? c->store : dir,
        .key = c->store_key,
        .cache_dir = cache,
        .cache_bytes = (uint64_t)c->store_cache_bytes,
    };
    return store_open(&opt, ret, err);
}

/* Machines of an earlier life go before anything is registered. Waits for a backend that is away.
 * False when a signal ended the wait; it is not taken, for it is early_main's, too. */
static bool reap_earlier(const struct vmm *v, int signal_fd)
{
    for (unsigned tries = 0;; tries++) {
        struct error err = ERROR_INIT;
        if (reaper_sweep_all(v, &err) >= 0)
            return true;
        log_event(LOG_WARN_, "vmm.waits_for_backend", "reason", err.msg, NULL);
        int64_t delay = clock_backoff_ms(tries < 16 ? tries : 16, REAP_BASE_MS, REAP_CAP_MS);
        if (event_wait(signal_fd, clock_mono_ms() + delay))
            return false;
    }
}

/* Until there is somebody who hears signals: what is under way then (a sweep of an engine that
 * hangs, a connection that is being made) is given a moment, and what it leaves is the next life's.
 */
struct early {
    pthread_t thread;
    int signal_fd;
    int done_fd;
};

static void *early_main(void *arg)
{
    const struct early *e = arg;
    struct pollfd fds[2] = {{.fd = e->done_fd, .events = POLLIN},
                            {.fd = e->signal_fd, .events = POLLIN}};
    while (!fds[0].revents && !fds[1].revents)
        poll(fds, 2, -1);
    if (!event_wait(e->done_fd, clock_mono_ms() + EARLY_MS)) {
        log_event(LOG_WARN_, "vmm.untidy", "after_ms", LOG_NUM(EARLY_MS), NULL);
        _exit(0);
    }
    return NULL;
}

static void early_begin(struct early *e, int signal_fd)
{
    e->signal_fd = signal_fd;
    e->done_fd = event_new();
    e->thread = thread_start(early_main, e);
}

static void early_end(struct early *e)
{
    if (e->done_fd < 0)
        return;
    event_signal(e->done_fd);
    pthread_join(e->thread, NULL);
    close(e->done_fd);
    e->done_fd = -1;
}

static void on_message(const char *channel, const char *data, size_t len, void *arg)
{
    agent_on_message(arg, channel, data, len);
}

static void on_up(void *arg)
{
    agent_on_up(arg);
}

static void on_down(const char *why, void *arg)
{
    agent_on_down(arg, why);
}

static int link_start(struct vmm *v, struct error *err)
{
    cleanup_free char *channel = xasprintf("v:%s", v->name);
    const char *const channels[] = {channel, NULL};
    struct rlink_options opt = {
        .url = v->cfg->redis_url,
        .prefix = v->cfg->redis_prefix,
        .timeout_ms = (unsigned)v->cfg->redis_timeout_ms,
        .channels = channels,
        .on_message = on_message,
        .on_up = on_up,
        .on_down = on_down,
        .arg = v->agent,
    };
    return rlink_start(&opt, &v->link, err);
}

static void make_parts(struct vmm *v)
{
    v->fleet = fleet_new(v);
    v->reaper = reaper_new(v);
    v->health = health_new(v);
    v->watch = watch_new(v);
    v->pool = pool_new(v);
    v->builds = builds_new(v);
    v->slots = slots_new(v);
    v->agent = agent_new(v);
}

static void free_parts(struct vmm *v)
{
    agent_free(v->agent);
    slots_free(v->slots);
    builds_free(v->builds);
    pool_free(v->pool);
    watch_free(v->watch);
    health_free(v->health);
    reaper_free(v->reaper);
    fleet_free(v->fleet);
}

/* Until what runs has ended, or a signal says that it is to be handed back: then true. */
static bool drain_wait(struct agent *a, int signal_fd)
{
    struct pollfd fds[2] = {{.fd = signal_fd, .events = POLLIN},
                            {.fd = agent_idle_fd(a), .events = POLLIN}};
    while (!agent_is_idle(a)) {
        poll(fds, 2, -1);
        event_clear(agent_idle_fd(a));
        if (signal_wait(signal_fd, 0))
            return true;
    }
    return false;
}

/* Every slot hands back what it has. One that does not come to it in time (a store that does not
 * answer, an engine that hangs) is not waited for: Redis is told that the vmm is down, which hands
 * back the rest, and the machines end with their pipes and are the next life's to remove. */
static void leave(struct vmm *v)
{
    int64_t deadline = clock_mono_ms() + LEAVE_MS;
    agent_leave(v->agent);
    while (!agent_is_idle(v->agent)) {
        if (!event_wait(agent_idle_fd(v->agent), deadline)) {
            log_event(LOG_WARN_, "vmm.leaves_late", "after_ms", LOG_NUM(LEAVE_MS), NULL);
            agent_stop(v->agent);
            _exit(0);
        }
        event_clear(agent_idle_fd(v->agent));
    }
}

/* What follows the last job is tidying: machines are removed, an image may still be taken in, an
 * engine that hangs is asked. Each of it has a bound, and all of it together has this one, after
 * which the rest is the next life's. */
struct tidying {
    pthread_t thread;
    bool begun;
    int done_fd;
    int64_t most_ms;
};

static void *tidying_main(void *arg)
{
    const struct tidying *t = arg;
    if (!event_wait(t->done_fd, clock_mono_ms() + t->most_ms)) {
        log_event(LOG_WARN_, "vmm.untidy", "after_ms", LOG_NUM(t->most_ms), NULL);
        _exit(0);
    }
    return NULL;
}

static void tidying_begin(struct tidying *t, int64_t most_ms)
{
    t->done_fd = event_new();
    t->most_ms = most_ms;
    t->begun = true;
    t->thread = thread_start(tidying_main, t);
}

static void tidying_end(struct tidying *t)
{
    if (!t->begun)
        return;
    event_signal(t->done_fd);
    pthread_join(t->thread, NULL);
    close(t->done_fd);
}

/* From registered to unregistered. */
static void serve(struct vmm *v, int signal_fd, struct tidying *t)
{
    bool hand_back = v->cfg->stop_hands_back;
    reaper_start(v->reaper);
    slots_start(v->slots);
    watch_start(v->watch);
    pool_start(v->pool);
    builds_start(v->builds);
    agent_start(v->agent);
    log_event(LOG_INFO_, "vmm.up", "vmm", v->name, "driver", v->driver->name, "slots",
              LOG_NUM(v->slot_ct), NULL);
    notify_state("READY=1");
    while (!signal_wait(signal_fd, CLOCK_NEVER))
        ;
    notify_state("STOPPING=1");
    log_event(LOG_INFO_, hand_back ? "vmm.leaves" : "vmm.drains", NULL);
    if (!hand_back) {
        agent_drain(v->agent);
        hand_back = drain_wait(v->agent, signal_fd);
    }
    if (hand_back)
        leave(v);
    tidying_begin(t, hand_back ? TIDY_HURRY_MS : TIDY_MS);
    slots_stop(v->slots);
    agent_stop(v->agent);
    builds_stop(v->builds); /* which may still take an image in */
    pool_stop(v->pool);
    health_stop(v->health);
    watch_stop(v->watch);
    reaper_stop(v->reaper);
}

/* So that what is told at the start is true. A signal is not taken: the next who looks has it. */
static void settle(const struct driver *d, struct backend *b, int signal_fd)
{
    if (d->settle)
        d->settle(b, clock_mono_ms() + SETTLE_MS, signal_fd);
}

static unsigned count_slots(const struct vmm *v)
{
    if (v->cfg->slots > 0)
        return (unsigned)v->cfg->slots;
    if (v->driver->slots)
        return v->driver->slots(v->backend);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 0 ? (unsigned)cores : 1;
}

static int run(const struct config *c, int signal_fd)
{
    struct error err = ERROR_INIT;
    struct vmm v = {.cfg = c};
    struct tidying tidying = {.done_fd = -1};
    struct early early = {.done_fd = -1};
    char host[256] = "vmm";
    v.driver = driver_find(c->driver);
    if (!v.driver) {
        err_set(&err, ERR_PERMANENT, ENOENT, "there is no driver %s; see --help for `driver`",
                c->driver);
        return fail("driver", &err);
    }
    gethostname(host, sizeof(host) - 1);
    v.name = c->vmm_name && c->vmm_name[0] ? c->vmm_name : host;
    /* First of all: a driver may move the whole process into a mount namespace of its own, which
     * only a process of one thread can do. */
    if (v.driver->open(c, &v.backend, &err) < 0)
        return fail(c->driver, &err);
    int status = 0;
    early_begin(&early, signal_fd);
    settle(v.driver, v.backend, signal_fd);
    v.slot_ct = count_slots(&v);
    if (store_open_configured(c, &v.store, &err) < 0) {
        status = fail("store", &err);
    } else if (reap_earlier(&v, signal_fd)) {
        early_end(&early);
        make_parts(&v);
        if (link_start(&v, &err) < 0) {
            status = fail("redis", &err);
        } else {
            serve(&v, signal_fd, &tidying);
            rlink_stop(v.link);
        }
        free_parts(&v);
    }
    if (v.store)
        store_close(v.store);
    v.driver->close(v.backend);
    early_end(&early);
    tidying_end(&tidying);
    log_event(LOG_INFO_, "vmm.down", NULL);
    return status;
}

/* ---- --check-hosts ---- */

static void tell_host(void *arg, const char *name, const char *why)
{
    unsigned *bad = arg;

    printf("%s: %s\n", name, why ? why : "ok");
    *bad += why != NULL;
}

/* What a start would do up to the first word to Redis: whether each host can be used, and why not.
 * The log says the same in its own form. */
static int check_hosts(const struct config *c, int signal_fd)
{
    const struct driver *driver = driver_find(c->driver);
    struct error err = ERROR_INIT;
    struct backend *b = NULL;
    unsigned bad = 0;

    if (!driver || driver->open(c, &b, &err) < 0) {
        printf("%s: %s\n", c->driver, driver ? err.msg : "there is no such driver");
        return 1;
    }
    settle(driver, b, signal_fd);
    if (driver->hosts)
        driver->hosts(b, tell_host, &bad);
    else
        tell_host(&bad, c->driver, driver->health(b, &err) < 0 ? err.msg : NULL);
    driver->close(b);
    return bad ? 1 : 0;
}

/* Out of argv, the rest of which is every service's. */
static bool take_flag(int *argc, char **argv, const char *flag)
{
    int kept = 1, was = *argc;

    for (int i = 1; i < was; i++)
        if (strcmp(argv[i], flag) != 0)
            argv[kept++] = argv[i];
    argv[kept] = NULL;
    *argc = kept;
    return kept < was;
}

int main(int argc, char **argv)
{
    bool check = take_flag(&argc, argv, "--check-hosts");
    struct config *c = config_main(argc, argv, "vmm");
    int signal_fd = signals_open();
    raise_nofile();
    int status = check ? check_hosts(c, signal_fd) : run(c, signal_fd);
    close(signal_fd);
    config_free(c);
    return status;
}
