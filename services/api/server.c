#include "services/api/server.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/notify.h"
#include "services/api/call.h"
#include "services/api/conn.h"
#include "services/api/listen.h"
#include "services/api/sse.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define SPILL_BYTES (4u << 20)
/* h2o's limit would cover a whole body; ours are in conn.c */
#define H2O_REQUEST_MS (24 * 3600 * 1000ull)
#define OPEN_ANYWAY_MS 2000

struct handler {
    h2o_handler_t super;
    struct server *server;
};

static struct loop *loop_of(h2o_req_t *req)
{
    return H2O_STRUCT_FROM_MEMBER(struct loop, ctx, req->conn->ctx);
}

static int on_request(h2o_handler_t *self, h2o_req_t *req)
{
    (void)self;
    return call_begin(loop_of(req), req);
}

/* ---- Set-up ---- */

/* Bodies beyond SPILL_BYTES are unlinked files there. Before any thread: h2o reads these globals.
 */
static int spill_setup(const struct config *cfg, struct error *err)
{
    static h2o_buffer_mmap_settings_t *set = &h2o_socket_buffer_mmap_settings;
    int n;

    if (mkdir(cfg->data_dir, 0755) < 0 && errno != EEXIST)
        return err_set_errno(err, ERR_PERMANENT, errno, "data_dir %s", cfg->data_dir);
    n = snprintf(set->fn_template, sizeof(set->fn_template), "%s/tmp", cfg->data_dir);
    if (n < 0 || (size_t)n + sizeof("/body.XXXXXX") > sizeof(set->fn_template))
        return err_set(err, ERR_PERMANENT, ENAMETOOLONG, "data_dir is too long");
    if (mkdir(set->fn_template, 0700) < 0 && errno != EEXIST)
        return err_set_errno(err, ERR_PERMANENT, errno, "%s", set->fn_template);
    strcpy(set->fn_template + n, "/body.XXXXXX");
    set->threshold = SPILL_BYTES;
    return 0;
}

static void h2o_setup(struct server *s)
{
    h2o_hostconf_t *host;
    h2o_pathconf_t *path;
    struct handler *handler;

    h2o_config_init(&s->h2o);
    s->h2o.server_name = h2o_iovec_init(H2O_STRLIT("Milonga"));
    /* one more, since h2o refuses a chunked body of exactly the limit */
    s->h2o.max_request_entity_size = (size_t)s->cfg->max_body_bytes + 1;
    s->h2o.http1.req_timeout = H2O_REQUEST_MS;
    s->h2o.http1.upgrade_to_http2 = 0; /* not maintained in this version; a proxy may speak it */
    host = h2o_config_register_host(&s->h2o, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    path = h2o_config_register_path(host, "/", 0);
    handler = (struct handler *)h2o_create_handler(path, sizeof(*handler));
    handler->super.on_req = on_request;
    handler->server = s;
}

/* Another thread asks this loop to drain. */
static void on_control(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    struct loop *l = H2O_STRUCT_FROM_MEMBER(struct loop, control, receiver);

    while (!h2o_linklist_is_empty(messages)) {
        h2o_multithread_message_t *m =
            H2O_STRUCT_FROM_MEMBER(h2o_multithread_message_t, link, messages->next);

        h2o_linklist_unlink(&m->link);
        free(m);
    }
    conns_drain(l->conns);
}

/* Replicas come and go behind a balancer: who asks a new one in its first milliseconds waits for
 * its connection to Redis, and is not told that there is none yet. */
static void on_redis_tried(void *arg)
{
    struct loop *l = arg;

    conns_open(l->conns);
}

/* It may take long to learn that Redis cannot be reached, or its host's name not be found; then
 * callers are told so. */
static void open_anyway(void *arg)
{
    struct loop *l = arg;

    conns_open(l->conns);
}

static int loop_setup(struct server *s, struct loop *l, int listen_fd, struct error *err)
{
    int fd = fcntl(listen_fd, F_DUPFD_CLOEXEC, 0);

    h2o_context_init(&l->ctx, h2o_evloop_create(), &s->h2o);
    l->hloop = fd < 0 ? NULL : hloop_new(l->ctx.loop);
    if (!l->hloop)
        return err_set_errno(err, ERR_TEMPORARY, errno, "no descriptors left");
    work_gate_open(&l->gate, l->ctx.queue);
    h2o_multithread_register_receiver(l->ctx.queue, &l->control, on_control);
    l->core = core_new(&(struct core_env){.cfg = s->cfg,
                                          .store = s->store,
                                          .workers = s->workers,
                                          .gate = &l->gate,
                                          .meter = &s->meter,
                                          .ops = &hloop_ops,
                                          .loop = l->hloop,
                                          .on_tried = on_redis_tried,
                                          .arg = l});
    l->streams = streams_new(l);
    l->conns = conns_new(l, fd);
    hloop_timer_start(l->hloop, OPEN_ANYWAY_MS, open_anyway, l);
    return 0;
}

/* ---- Running ---- */

static void loop_turn(struct loop *l, int max_ms)
{
    h2o_evloop_run(l->ctx.loop, max_ms);
    conns_turn(l->conns);
}

/* How a thread tells that its loop is set up, or why not. */
struct launch {
    struct loop *loop;
    int listen_fd;
    int ret;
    struct error err;
    h2o_sem_t ready;
};

/* A loop is set up on its own thread: h2o's buffers remember the free list of the thread that made
 * them. */
static void *loop_thread(void *arg)
{
    struct launch *launch = arg;
    struct loop *l = launch->loop;
    bool good;

    launch->ret = loop_setup(l->server, l, launch->listen_fd, &launch->err);
    good = launch->ret == 0;
    h2o_sem_post(&launch->ready); /* launch is gone from here on */
    if (!good)
        return NULL;
    for (;;)
        loop_turn(l, INT32_MAX);
}

static int loop_launch(struct loop *l, int listen_fd, struct error *err)
{
    struct launch launch = {.loop = l, .listen_fd = listen_fd};
    int r;

    h2o_sem_init(&launch.ready, 0);
    r = pthread_create(&l->thread, NULL, loop_thread, &launch);
    if (r != 0)
        return err_set_errno(err, ERR_TEMPORARY, r, "no thread for an event loop");
    h2o_sem_wait(&launch.ready);
    h2o_sem_destroy(&launch.ready);
    if (launch.ret < 0 && err)
        *err = launch.err;
    return launch.ret;
}

int server_start(struct server *s, struct error *err)
{
    int fd, r = spill_setup(s->cfg, err);

    if (r < 0)
        return r;
    fd = listen_open(s->cfg, err);
    if (fd < 0)
        return fd;
    h2o_setup(s);
    s->started_ms = clock_mono_ms();
    s->loop_ct = (unsigned)s->cfg->api_threads;
    s->loops = xcalloc(s->loop_ct, sizeof(s->loops[0]));
    for (unsigned i = 0; i < s->loop_ct && r == 0; i++) {
        s->loops[i].server = s;
        r = i == 0 ? loop_setup(s, &s->loops[i], fd, err) : loop_launch(&s->loops[i], fd, err);
    }
    close(fd); /* each loop has its own */
    return r;
}

static void drain(struct server *s)
{
    if (atomic_exchange(&s->draining, true))
        return;
    notify_state("STOPPING=1");
    log_event(LOG_INFO_, "api.draining", "connections", LOG_NUM(atomic_load(&s->conn_ct)), NULL);
    for (unsigned i = 0; i < s->loop_ct; i++) {
        h2o_multithread_message_t *m = xcalloc(1, sizeof(*m));

        h2o_multithread_send_message(&s->loops[i].control, m);
    }
}

static void on_signal(h2o_socket_t *sock, const char *err)
{
    struct server *s = sock->data;
    struct signalfd_siginfo info;

    (void)err;
    while (read(h2o_socket_get_fd(sock), &info, sizeof(info)) == sizeof(info)) {
        if (atomic_load(&s->draining))
            _exit(1); /* asked twice */
        drain(s);
    }
}

int server_run(struct server *s, int signal_fd, unsigned grace_ms)
{
    struct loop *first = &s->loops[0];
    h2o_socket_t *signals =
        h2o_evloop_socket_create(first->ctx.loop, signal_fd, H2O_SOCKET_FLAG_DONT_READ);
    int64_t deadline;

    signals->data = s;
    h2o_socket_read_start(signals, on_signal);
    while (!atomic_load(&s->draining))
        loop_turn(first, INT32_MAX);
    deadline = clock_mono_ms() + grace_ms;
    while (atomic_load(&s->conn_ct) > 0 && clock_mono_ms() < deadline)
        loop_turn(first, 50);
    return atomic_load(&s->conn_ct) > 0 ? -EAGAIN : 0;
}
