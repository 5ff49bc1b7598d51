/* milonga-dispatcher: which job goes where next (dispatcher.h). The main thread waits for signals,
 * the others are told to end, and the lease is given up so that a standby goes on at once. Nothing
 * has to be saved. */

#include "base/clock.h"
#include "base/config.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/notify.h"
#include "services/dispatcher/chores.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/duty.h"
#include "services/dispatcher/ids.h"
#include "services/dispatcher/outbox.h"
#include "services/dispatcher/retain.h"

#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* A thread may be inside a call to a disk or a Redis that hangs: then the process ends without it.
 */
#define STOP_MAX_S 4

static void on_message(const char *channel, const char *data, size_t len, void *arg)
{
    struct dispatcher *d = arg;

    (void)channel; /* there is one */
    if (len == 4 && memcmp(data, "lead", 4) == 0) {
        lead_look(d->lead);
        return;
    }
    if (!lead_is_ours(d->lead))
        return;
    duty_look(d->duty, false);
    outbox_look(d->outbox);
}

static void on_up(void *arg)
{
    struct dispatcher *d = arg;

    log_event(LOG_INFO_, "redis.up", NULL);
    lead_gap(d->lead);
    dispatcher_lead_changed(d);
}

static void on_down(const char *why, void *arg)
{
    struct dispatcher *d = arg;

    log_event(LOG_WARN_, "redis.down", "reason", why, NULL);
    lead_gap(d->lead);
    duty_look(d->duty, true);
}

static int open_store(const struct config *cfg, struct store **ret, struct error *err)
{
    struct store_options o = {.where = cfg->store};

    if (strncmp(cfg->store, "http://", 7) == 0 || strncmp(cfg->store, "https://", 8) == 0)
        return err_set(
            err, ERR_PERMANENT, ENOTSUP,
            "store = %s: the dispatcher keeps the ids in the store and collects it, so it needs "
            "the directory itself (the same volume as the api)",
            cfg->store);
    return store_open(&o, ret, err);
}

static int start(struct dispatcher *d, struct error *err)
{
    static const char *const channels[] = {"wake", NULL};
    struct rlink_options o = {
        .url = d->cfg->redis_url,
        .prefix = d->cfg->redis_prefix,
        .timeout_ms = (unsigned)d->cfg->redis_timeout_ms,
        .channels = channels,
        .on_message = on_message,
        .on_up = on_up,
        .on_down = on_down,
        .arg = d,
    };
    int rc = open_store(d->cfg, &d->store, err);

    if (rc < 0)
        return rc;
    d->lead = lead_new(d);
    d->duty = duty_new(d);
    d->ids = ids_new(d);
    d->chores = chores_new(d);
    d->outbox = outbox_new(d);
    d->retain = retain_new(d);
    rc = rlink_start(&o, &d->link, err);
    if (rc == 0)
        rc = outbox_start(d->outbox, err);
    if (rc < 0)
        return rc; /* no thread of ours runs yet */
    duty_start(d->duty);
    ids_start(d->ids);
    chores_start(d->chores);
    retain_start(d->retain);
    lead_start(d->lead);
    return 0;
}

static void out_of_patience(int sig)
{
    (void)sig;
    _exit(0);
}

static void release(struct dispatcher *d)
{
    rlink_stop(d->link);
    lead_free(d->lead);
    duty_free(d->duty);
    ids_free(d->ids);
    chores_free(d->chores);
    outbox_free(d->outbox);
    retain_free(d->retain);
    store_close(d->store);
}

static void stop(struct dispatcher *d)
{
    signal(SIGALRM, out_of_patience);
    alarm(STOP_MAX_S);
    outbox_stop(d->outbox);
    lead_stop(d->lead);
    duty_stop(d->duty);
    ids_stop(d->ids);
    chores_stop(d->chores);
    retain_stop(d->retain);
    release(d);
}

static int wait_for_signal(const sigset_t *set)
{
    cleanup_close int fd = signalfd(-1, set, SFD_CLOEXEC);
    struct signalfd_siginfo info;
    ssize_t n;

    if (fd < 0)
        return -errno;
    do
        n = read(fd, &info, sizeof(info));
    while (n < 0 && errno == EINTR);
    return n == sizeof(info) ? (int)info.ssi_signo : -EIO;
}

int main(int argc, char **argv)
{
    struct config *cfg = config_main(argc, argv, "dispatcher");
    struct dispatcher d = {.cfg = cfg};
    struct error err = ERROR_INIT;
    sigset_t set;
    int sig, status = 0;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    if (start(&d, &err) == 0) {
        log_event(LOG_INFO_, "dispatcher.started", "version", MILONGA_VERSION, NULL);
        notify_state("READY=1");
        sig = wait_for_signal(&set);
        notify_state("STOPPING=1");
        log_event(LOG_INFO_, "dispatcher.stopping", "signal", LOG_NUM(sig), NULL);
        stop(&d);
    } else {
        fprintf(stderr, "milonga-dispatcher: %s\n", err.msg);
        release(&d);
        status = 1;
    }
    curl_global_cleanup();
    config_free(cfg);
    return status;
}
