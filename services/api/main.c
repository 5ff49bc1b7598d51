/* The api: HTTP, keys, validation, the store, and how a job is pushed. */

#include "base/log.h"
#include "base/mem.h"
#include "base/notify.h"
#include "services/api/server.h"
#include "services/api/store_route.h"
#include "services/api/tango.h"
#include "services/api/ui.h"
#include "services/api/v1.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#define GRACE_MS         20000
#define WORK_WAITING_MAX 4096

static void die(const struct error *err)
{
    fprintf(stderr, "milonga-api: %s\n", err->msg);
    exit(1);
}

static struct store *open_store(const struct config *cfg)
{
    cleanup_free char *dir = xasprintf("%s/store", cfg->data_dir);
    cleanup_free char *cache = xasprintf("%s/cache", cfg->data_dir);
    struct error err = ERROR_INIT;
    struct store *store;

    if (store_open(&(struct store_options){.where = *cfg->store ? cfg->store : dir,
                                           .key = cfg->store_key,
                                           .cache_dir = cache,
                                           .cache_bytes = (uint64_t)cfg->store_cache_bytes},
                   &store, &err) < 0) {
        err_wrap(&err, "store");
        die(&err);
    }
    return store;
}

/* Room for max_connections, our files and Redis. */
static void raise_descriptors(int64_t connections)
{
    struct rlimit r;
    rlim_t want = (rlim_t)connections + 1024;

    if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur >= want)
        return;
    r.rlim_cur = r.rlim_max < want ? r.rlim_max : want;
    setrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_cur < want)
        log_event(LOG_WARN_, "api.few_descriptors", "limit", LOG_NUM(r.rlim_cur), "wanted",
                  LOG_NUM(want), NULL);
}

static struct route *all_routes(size_t *ret_ct)
{
    const struct {
        const struct route *routes;
        size_t ct;
    } tables[] = {{tango_routes, tango_route_ct},
                  {store_routes, store_route_ct},
                  {v1_routes, v1_route_ct},
                  {ui_routes, ui_route_ct}};
    struct route *all =
        xcalloc(tango_route_ct + store_route_ct + v1_route_ct + ui_route_ct, sizeof(*all));

    *ret_ct = 0;
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        memcpy(all + *ret_ct, tables[i].routes, tables[i].ct * sizeof(*all));
        *ret_ct += tables[i].ct;
    }
    return all;
}

static int take_signals(void)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

int main(int argc, char **argv)
{
    static struct server server;
    struct config *cfg = config_main(argc, argv, "api");
    struct error err = ERROR_INIT;
    int signals = take_signals(), r;

    if (cfg->key_ct == 0) {
        err_set(&err, ERR_PERMANENT, EINVAL,
                "no key: set `keys` (or RESTFUL_KEY) to what the frontend will show");
        die(&err);
    }
    raise_descriptors(cfg->max_connections);
    server.cfg = cfg;
    server.store = open_store(cfg);
    server.workers = workers_start((unsigned)cfg->api_workers, WORK_WAITING_MAX);
    server.routes = all_routes(&server.route_ct);
    if (signals < 0 || !server.workers) {
        err_set_errno(&err, ERR_TEMPORARY, errno, "no threads or descriptors left");
        die(&err);
    }
    if (server_start(&server, &err) < 0)
        die(&err);
    log_event(LOG_INFO_, "api.listening", "host", cfg->listen_host, "port", LOG_NUM(cfg->port),
              "threads", LOG_NUM(cfg->api_threads), "version", MILONGA_VERSION, NULL);
    notify_state("READY=1");
    r = server_run(&server, signals, GRACE_MS);
    log_event(LOG_INFO_, "api.stopped", "unanswered", r < 0 ? "yes" : "no", NULL);
    /* h2o's loops can not be taken down without leaks, and other threads still run theirs. */
    _exit(0);
}
