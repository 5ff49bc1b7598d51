/* The docker-hosts driver: engines on other machines, several of them behind one vmm. How one is
 * reached is docker_host.c's, which of them is used hosts.h's, what a machine is there
 * driver_docker's. */

#include "docker_hosts.h"

#include "../sync.h"
#include "base/mem.h"
#include "docker_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What this driver's `struct backend` is; that of driver_docker is one host's. */
struct docker_hosts {
    struct hosts set;
    struct docker_host *hosts;
    size_t host_ct;
};

static struct docker_hosts *hosts_of(struct backend *b)
{
    return (struct docker_hosts *)(void *)b;
}

struct hosts_machine {
    struct host_place at;
    struct machine
        *inner; /* driver_docker's; has the descriptors while it is called, and we else */
};

/* ---- machines ---- */

static struct machine *wrap(const struct host_place *at, struct machine *inner)
{
    struct hosts_machine *hm = xcalloc(1, sizeof(*hm));
    struct machine *m =
        machine_new(&driver_docker_hosts, (struct backend *)(void *)at->host->set, &inner->spec);

    *hm = (struct hosts_machine){.at = *at, .inner = inner};
    m->priv = hm;
    m->in_fd = inner->in_fd;
    m->out_fd = inner->out_fd;
    m->made_ms = inner->made_ms;
    return m;
}

/* The inner one as its caller has left the outer. */
static struct machine *inner_of(struct machine *m)
{
    struct hosts_machine *hm = m->priv;

    hm->inner->in_fd = m->in_fd;
    hm->inner->out_fd = m->out_fd;
    hm->inner->ready = m->ready;
    return hm->inner;
}

static int make(struct host_place *at, const struct machine_spec *spec, int64_t deadline,
                int cancel_fd, struct machine **ret, struct error *err)
{
    struct machine *inner = NULL;
    int r = driver_docker.initialize(docker_host(at->host)->engine, spec, deadline, cancel_fd,
                                     &inner, err);

    if (r == 0)
        *ret = wrap(at, inner);
    return r;
}

static int initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                      int cancel_fd, struct machine **ret, struct error *err)
{
    return hosts_initialize(&hosts_of(b)->set, spec, deadline, cancel_fd, ret, err);
}

static ssize_t read_machine(struct machine *m, void *data, size_t len)
{
    struct hosts_machine *hm = m->priv;
    ssize_t n = driver_docker.read(inner_of(m), data, len);

    if (n == 0)
        event_signal(hm->at.host->wake_fd); /* is the engine still there? */
    return n;
}

static void destroy(struct machine *m, int64_t deadline)
{
    struct hosts_machine *hm = m->priv;
    struct error err = ERROR_INIT;

    int r = docker_end(inner_of(m), deadline, &err);
    m->in_fd = m->out_fd = -1;
    if (r < 0) {
        cleanup_free char *why =
            xasprintf("machine %s could not be removed: %.300s", m->spec.name, err.msg);
        host_doom(hm->at.host, hm->at.life, why); /* to connect anew is to sweep */
    }
    hosts_vacate(&hm->at);
    free(hm);
    machine_free(m);
}

static enum machine_limit limit_hit(struct machine *m)
{
    struct machine *inner = inner_of(m);
    enum machine_limit limit = driver_docker.limit_hit(inner);

    m->in_fd = inner->in_fd;
    m->out_fd = inner->out_fd;
    return limit;
}

static bool fits(struct machine *m, const struct machine_spec *spec)
{
    const struct hosts_machine *hm = m->priv;

    return host_has_labels(hm->at.host, spec);
}

/* ---- what there is ---- */

static const struct host_kind kind = {
    .place_size = sizeof(struct host_place),
    .connect = docker_host_connect,
    .serve = docker_host_serve,
    .disconnect = docker_host_disconnect,
    .prove = docker_host_prove,
    .make = make,
    .ask_images = docker_host_images,
};

static unsigned count_slots(struct backend *b)
{
    return hosts_slots(&hosts_of(b)->set);
}

static void add_labels(struct backend *b, struct buf *out)
{
    hosts_labels(&hosts_of(b)->set, out);
}

static void tell_hosts(struct backend *b,
                       void (*each)(void *arg, const char *name, const char *why), void *arg)
{
    hosts_tell(&hosts_of(b)->set, each, arg);
}

static int health(struct backend *b, struct error *err)
{
    return hosts_health(&hosts_of(b)->set, err);
}

/* A host that is up has proved by a machine that it can make one. */
static int probe(struct backend *b, struct error *err)
{
    return hosts_health(&hosts_of(b)->set, err);
}

static int images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                  void *arg, struct error *err)
{
    (void)err;
    hosts_images(&hosts_of(b)->set, each, arg);
    return 0;
}

struct list_arg {
    void (*each)(void *arg, const char *name);
    void *arg;
};

static void tell_machine(void *arg, const char *name)
{
    const struct list_arg *a = arg;

    if (strncmp(name, DOCKER_PUT_NAME, strlen(DOCKER_PUT_NAME)) != 0 &&
        strncmp(name, DOCKER_PROBE_NAME, strlen(DOCKER_PROBE_NAME)) != 0)
        a->each(a->arg, name);
}

/* On hosts that are up; what is on the others is swept before they are. */
static int list_machines(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
                         struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    struct list_arg a = {each, arg};

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        int r = host_is_up(&h->at) ? driver_docker.list(h->engine, tell_machine, &a, err) : 0;
        if (r < 0 && host_is_up(&h->at))
            return err_wrap(err, "host %s", h->spec->at.name);
    }
    return 0;
}

static int reap(struct backend *b, const char *name, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    int rc = 0;

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        struct error why = ERROR_INIT;
        if (host_is_up(&h->at) && driver_docker.reap(h->engine, name, &why) < 0 &&
            host_is_up(&h->at))
            rc = err_set(err, why.class, why.code, "host %s: %s", h->spec->at.name, why.msg);
    }
    return rc;
}

/* ---- images that come and go ---- */

/* Every host that is up gets it, so that each can run it. */
static int import(struct backend *b, const char *path, const char *name, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    unsigned ct = 0;

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        if (!host_is_up(&h->at))
            continue;
        if (docker_import(h->engine, path, name, err) < 0)
            return err_wrap(err, "host %s", h->spec->at.name);
        host_forget_images(&h->at);
        ct++;
    }
    return ct > 0 ? 0 : health(b, err);
}

/* From all of them: what a host that is out still has would be there again when it comes back. */
static int remove_image(struct backend *b, const char *name, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    int rc = 0;

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        struct error e = ERROR_INIT;
        if (!host_is_up(&h->at)) {
            rc = err_set(err, ERR_TEMPORARY, EHOSTUNREACH,
                         "host %s is out, and may have the image still", h->spec->at.name);
        } else if (docker_remove_image(h->engine, name, &e) < 0) {
            rc = err_set(err, e.class, e.code, "host %s: %s", h->spec->at.name, e.msg);
        }
        host_forget_images(&h->at);
    }
    return rc;
}

/* ---- opening ---- */

static void hosts_close(struct backend *b)
{
    struct docker_hosts *all = hosts_of(b);

    hosts_stop(&all->set);
    for (size_t i = 0; i < all->host_ct; i++)
        docker_host_done(&all->hosts[i]);
    hosts_done(&all->set);
    free(all->hosts);
    free(all);
}

static int open_hosts(struct docker_hosts *all, const struct config *cfg, struct error *err)
{
    size_t longest = 0;

    for (size_t i = 0; i < cfg->docker_host_ct; i++)
        if (strlen(cfg->docker_hosts[i].at.name) > longest)
            longest = strlen(cfg->docker_hosts[i].at.name);
    /* what ssh adds while it makes a socket, too */
    int r = hosts_open_dir(&all->set, "dh", longest + 20, err);
    for (size_t i = 0; i < cfg->docker_host_ct && r == 0; i++) {
        struct docker_host *h = &all->hosts[i];
        h->spec = &cfg->docker_hosts[i];
        r = hosts_add(&all->set, &h->at, &h->spec->at, err);
        if (r == 0)
            r = docker_host_new(h, cfg, all->set.dir, err);
    }
    return r < 0 ? r : hosts_start(&all->set, err);
}

static int hosts_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    if (cfg->docker_host_ct == 0)
        return err_set(err, ERR_PERMANENT, ENOENT,
                       "docker-hosts: there is no host; add a line docker_host = NAME URL");
    struct docker_hosts *all = xcalloc(1, sizeof(*all));
    struct backend *b = (struct backend *)(void *)all;

    all->hosts = xcalloc(cfg->docker_host_ct, sizeof(*all->hosts));
    all->host_ct = cfg->docker_host_ct;
    int r = hosts_init(&all->set, cfg, &kind, err);
    if (r == 0)
        r = open_hosts(all, cfg, err);
    if (r < 0) {
        hosts_close(b);
        return r;
    }
    *ret = b;
    return 0;
}

static void settle(struct backend *b, int64_t deadline, int cancel_fd)
{
    hosts_await_first(&hosts_of(b)->set, deadline, cancel_fd);
}

const struct driver driver_docker_hosts = {
    .name = "docker-hosts",
    .open = hosts_open,
    .settle = settle,
    .close = hosts_close,
    .health = health,
    .probe = probe,
    .images = images,
    .initialize = initialize,
    .read = read_machine,
    .destroy = destroy,
    .limit_hit = limit_hit,
    .list = list_machines,
    .reap = reap,
    .fits = fits,
    .slots = count_slots,
    .labels = add_labels,
    .hosts = tell_hosts,
    .import = import,
    .remove_image = remove_image,
};
