/* The docker-hosts driver: engines on other machines, several of them behind one vmm. How one is
 * reached and when it is used is docker_host.c's, what a machine is there is driver_docker's.
 *
 * Room: a host has so many slots, and a machine has one from before it is made until it is gone,
 * warm or not. A job goes to the emptiest of the hosts that are up, have its image and its labels;
 * one on which it could not be made costs it nothing as long as there is another. */

#include "docker_hosts.h"

#include "../sync.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/mem.h"
#include "docker_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FAILURES_MAX 3     /* of machines in a row: then the host is out */
#define FIRST_MS     20000 /* in open, for the first connections */
#define TICK_MS      1000  /* a warm machine may have come in the way meanwhile */

/* What this driver's `struct backend` is; that of driver_docker is one host's. */
static struct docker_hosts *hosts_of(struct backend *b)
{
    return (struct docker_hosts *)(void *)b;
}

struct hosts_machine {
    struct docker_host *host;
    uint64_t life;
    struct machine
        *inner; /* driver_docker's; has the descriptors while it is called, and we else */
};

/* ---- which host ---- */

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = list; (p = strstr(p, word)) != NULL; p += len)
        if ((p == list || p[-1] == ',') && (p[len] == '\0' || p[len] == ','))
            return true;
    return false;
}

static bool has_labels(const struct docker_host *h, const struct machine_spec *spec)
{
    for (size_t i = 0; i < spec->label_ct; i++)
        if (!has_word(h->all->cfg->labels, spec->labels[i]) &&
            !has_word(h->spec->at.labels, spec->labels[i]))
            return false;
    return true;
}

static bool has_image(const struct docker_host *h, const char *digest)
{
    const char *name;
    json_t *value;

    json_object_foreach(h->images, name, value)
    {
        if (strcmp(json_string_value(value), digest) == 0)
            return true;
    }
    return false;
}

/* Those on which it failed just now are the last to be tried again, in another call. */
struct search {
    const struct machine_spec *spec;
    bool *failed; /* one a host */
    struct docker_host *best;
    bool fits;  /* some host has what it takes, whatever its state */
    bool hopes; /* and one of these is up, and did not fail */
};

/* With the lock. The emptiest by its share. */
static void search(struct docker_hosts *all, struct search *s)
{
    s->best = NULL;
    s->fits = s->hopes = false;
    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        unsigned slots = (unsigned)h->spec->at.slots;

        if (!has_labels(h, s->spec) || !has_image(h, s->spec->shape.digest))
            continue;
        s->fits = true;
        if (!h->up || s->failed[i])
            continue;
        s->hopes = true;
        if (h->busy < slots &&
            (!s->best || h->busy * (unsigned)s->best->spec->at.slots < s->best->busy * slots))
            s->best = h;
    }
}

static void vacate(struct docker_host *h, uint64_t life)
{
    pthread_mutex_lock(&h->all->lock);
    if (h->life == life) {
        h->busy--;
        docker_hosts_wake(h->all);
    }
    pthread_mutex_unlock(&h->all->lock);
}

/* All reasons in a sentence; with the lock. */
static void say_why(struct docker_hosts *all, struct buf *out)
{
    for (size_t i = 0; i < all->host_ct; i++)
        if (!all->hosts[i].up)
            buf_printf(out, "%s%s: %.150s", out->len ? "; " : "", all->hosts[i].spec->at.name,
                       all->hosts[i].why);
}

static int no_place(struct docker_hosts *all, const struct search *s, const struct error *last,
                    struct error *err)
{
    cleanup_buf struct buf why = BUF_INIT(400);

    if (!s->fits)
        return err_set(err, ERR_REFUSED, ENOENT,
                       "no host of this worker has image %s and all the labels",
                       s->spec->shape.image);
    if (last->code != 0) {
        if (err)
            *err = *last;
        return -last->code;
    }
    say_why(all, &why);
    return err_set(err, ERR_TEMPORARY, EAGAIN, "no host with image %s is up: %s",
                   s->spec->shape.image, why.len ? why.data : "");
}

/* Waits until something changed, or a tick. */
static int wait_room(struct docker_waiter *w, int64_t deadline, int cancel_fd)
{
    struct pollfd p[2] = {{.fd = w->fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
    int64_t tick = clock_mono_ms() + TICK_MS;

    poll(p, 2, clock_until_ms(tick < deadline ? tick : deadline));
    event_clear(w->fd);
    return p[1].revents ? -ECANCELED : 0;
}

static void link_waiter(struct docker_hosts *all, struct docker_waiter *w)
{
    struct docker_waiter **at = &all->waiters;

    w->fd = event_new();
    while (*at)
        at = &(*at)->next;
    *at = w;
}

static void unlink_waiter(struct docker_hosts *all, struct docker_waiter *w)
{
    struct docker_waiter **at = &all->waiters;

    if (w->fd < 0)
        return;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    close(w->fd);
}

static int find_place(struct docker_hosts *all, struct search *s, int64_t deadline, int cancel_fd,
                      const struct error *last, uint64_t *ret_life, struct error *err)
{
    struct docker_waiter me = {.fd = -1};
    int r = 1;

    pthread_mutex_lock(&all->lock);
    while (r > 0) {
        search(all, s);
        if (s->best && (s->spec->full || !all->waiters)) { /* a warm one is behind those who wait */
            s->best->busy++;
            *ret_life = s->best->life;
            r = 0;
        } else if (!s->hopes) {
            r = no_place(all, s, last, err);
        } else if (!s->spec->full) {
            r = err_set(err, ERR_TEMPORARY, EBUSY, "all slots of the hosts are taken");
        } else if (clock_mono_ms() >= deadline) {
            r = err_set(err, ERR_TEMPORARY, EAGAIN, "no slot of a host became free in time");
        } else {
            if (me.fd < 0)
                link_waiter(all, &me);
            pthread_mutex_unlock(&all->lock);
            s->spec->full(s->spec->full_arg);
            if (wait_room(&me, deadline, cancel_fd) < 0)
                r = err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
            pthread_mutex_lock(&all->lock);
        }
    }
    unlink_waiter(all, &me);
    docker_hosts_wake(all);
    pthread_mutex_unlock(&all->lock);
    return r;
}

/* ---- machines ---- */

/* Success clears a host's name, failures in a row cost it its connection. */
static void judge_host(struct docker_host *h, uint64_t life, bool made, const char *why)
{
    char text[400];

    pthread_mutex_lock(&h->all->lock);
    bool same = h->life == life;
    if (same)
        h->failures = made ? 0 : h->failures + 1;
    bool out = same && h->failures >= FAILURES_MAX;
    pthread_mutex_unlock(&h->all->lock);
    if (!out) {
        if (!made)
            docker_host_suspect(h);
        return;
    }
    snprintf(text, sizeof(text), "%d machines in a row failed: %.300s", FAILURES_MAX, why);
    docker_host_doom(h, life, text);
}

static struct machine *wrap(struct docker_hosts *all, struct docker_host *h, uint64_t life,
                            struct machine *inner)
{
    struct hosts_machine *hm = xcalloc(1, sizeof(*hm));
    struct machine *m =
        machine_new(&driver_docker_hosts, (struct backend *)(void *)all, &inner->spec);

    *hm = (struct hosts_machine){.host = h, .life = life, .inner = inner};
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

static int hosts_initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                            int cancel_fd, struct machine **ret, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    cleanup_free bool *failed = xcalloc(all->host_ct, sizeof(bool));
    struct search s = {.spec = spec, .failed = failed};
    struct error last = ERROR_INIT;

    for (;;) {
        struct machine *inner = NULL;
        uint64_t life = 0;
        int r = find_place(all, &s, deadline, cancel_fd, &last, &life, err);
        if (r < 0)
            return r;
        struct docker_host *h = s.best;
        r = driver_docker.initialize(h->engine, spec, deadline, cancel_fd, &inner, &last);
        if (r == 0) {
            judge_host(h, life, true, "");
            *ret = wrap(all, h, life, inner);
            return 0;
        }
        vacate(h, life);
        /* What the engine refuses is the job's, or an image that has just been taken away. */
        if (r != -ECANCELED && last.class != ERR_REFUSED)
            judge_host(h, life, false, last.msg);
        if (r == -ECANCELED || clock_mono_ms() >= deadline) {
            if (err)
                *err = last;
            return r;
        }
        failed[h - all->hosts] = true;
    }
}

static ssize_t hosts_read(struct machine *m, void *data, size_t len)
{
    struct hosts_machine *hm = m->priv;
    ssize_t n = driver_docker.read(inner_of(m), data, len);

    if (n == 0)
        docker_host_suspect(hm->host);
    return n;
}

static void hosts_destroy(struct machine *m, int64_t deadline)
{
    struct hosts_machine *hm = m->priv;

    driver_docker.destroy(inner_of(m), deadline);
    m->in_fd = m->out_fd = -1;
    vacate(hm->host, hm->life);
    free(hm);
    machine_free(m);
}

static enum machine_limit hosts_limit_hit(struct machine *m)
{
    struct machine *inner = inner_of(m);
    enum machine_limit limit = driver_docker.limit_hit(inner);

    m->in_fd = inner->in_fd;
    m->out_fd = inner->out_fd;
    return limit;
}

static bool hosts_fits(struct machine *m, const struct machine_spec *spec)
{
    const struct hosts_machine *hm = m->priv;

    return has_labels(hm->host, spec);
}

/* ---- what there is ---- */

static bool is_up(struct docker_host *h)
{
    pthread_mutex_lock(&h->all->lock);
    bool up = h->up;
    pthread_mutex_unlock(&h->all->lock);
    return up;
}

static unsigned hosts_slots(struct backend *b)
{
    struct docker_hosts *all = hosts_of(b);
    unsigned ct = 0;

    for (size_t i = 0; i < all->host_ct; i++)
        ct += (unsigned)all->hosts[i].spec->at.slots;
    return ct;
}

static void hosts_labels(struct backend *b, struct buf *out)
{
    struct docker_hosts *all = hosts_of(b);

    for (size_t i = 0; i < all->host_ct; i++) {
        cleanup_free char *labels = xstrdup(all->hosts[i].spec->at.labels);
        char *save = NULL;

        for (char *l = strtok_r(labels, ",", &save); l; l = strtok_r(NULL, ",", &save))
            if (!has_word(out->len > 0 ? out->data : "", l))
                buf_printf(out, "%s%s", out->len > 0 ? "," : "", l);
    }
}

static void hosts_hosts(struct backend *b,
                        void (*each)(void *arg, const char *name, const char *why), void *arg)
{
    struct docker_hosts *all = hosts_of(b);

    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; i < all->host_ct; i++)
        each(arg, all->hosts[i].spec->at.name, all->hosts[i].up ? NULL : all->hosts[i].why);
    pthread_mutex_unlock(&all->lock);
}

static int hosts_health(struct backend *b, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    cleanup_buf struct buf why = BUF_INIT(400);
    bool up = false;

    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; i < all->host_ct; i++)
        up = up || all->hosts[i].up;
    say_why(all, &why);
    pthread_mutex_unlock(&all->lock);
    return up ? 0
              : err_set(err, ERR_TEMPORARY, EHOSTUNREACH, "no host is up: %s",
                        why.len ? why.data : "none is listed");
}

/* A host that is up has proved by a machine that it can make one. */
static int hosts_probe(struct backend *b, struct error *err)
{
    return hosts_health(b, err);
}

/* A name has one digest: that of the first host in the configuration which has it. */
static int hosts_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                        void *arg, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    json_t *names = json_object(), *value;
    const char *name;

    (void)err;
    for (size_t i = 0; i < all->host_ct; i++)
        docker_host_look_images(&all->hosts[i]); /* of one that is away, the last known */
    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; i < all->host_ct; i++)
        json_object_update_missing(names, all->hosts[i].images);
    pthread_mutex_unlock(&all->lock);
    json_object_foreach(names, name, value)
        each(arg, &(struct image_entry){name, json_string_value(value)});
    json_decref(names);
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
static int hosts_list(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
                      struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    struct list_arg a = {each, arg};

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        int r = is_up(h) ? driver_docker.list(h->engine, tell_machine, &a, err) : 0;
        if (r < 0 && is_up(h))
            return err_wrap(err, "host %s", h->spec->at.name);
    }
    return 0;
}

static int hosts_reap(struct backend *b, const char *name, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    int rc = 0;

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        struct error why = ERROR_INIT;
        if (is_up(h) && driver_docker.reap(h->engine, name, &why) < 0 && is_up(h))
            rc = err_set(err, why.class, why.code, "host %s: %s", h->spec->at.name, why.msg);
    }
    return rc;
}

/* ---- images that come and go ---- */

/* Every host that is up gets it, so that each can run it. */
static int hosts_import(struct backend *b, const char *path, const char *name, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);
    unsigned ct = 0;

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        if (!is_up(h))
            continue;
        if (docker_import(h->engine, path, name, err) < 0)
            return err_wrap(err, "host %s", h->spec->at.name);
        pthread_mutex_lock(&all->lock);
        h->images_at = 0;
        pthread_mutex_unlock(&all->lock);
        ct++;
    }
    return ct > 0 ? 0 : hosts_health(b, err);
}

static int hosts_remove_image(struct backend *b, const char *name, struct error *err)
{
    struct docker_hosts *all = hosts_of(b);

    for (size_t i = 0; i < all->host_ct; i++) {
        struct docker_host *h = &all->hosts[i];
        int r = is_up(h) ? docker_remove_image(h->engine, name, err) : 0;
        if (r < 0)
            return err_wrap(err, "host %s", h->spec->at.name);
        pthread_mutex_lock(&all->lock);
        h->images_at = 0;
        pthread_mutex_unlock(&all->lock);
    }
    return 0;
}

/* ---- opening ---- */

/* The tunnels' sockets. What a killed vmm has left there is nobody's: we hold the lock. */
static int open_dir(struct docker_hosts *all, struct error *err)
{
    cleanup_free char *id = xasprintf("%s/%s", all->cfg->deployment, all->cfg->vmm_name);
    cleanup_free char *top = xasprintf("%s/dh", all->cfg->data_dir);
    char hex[SHA256_HEX + 1];

    digest_hex(DIGEST_SHA256, id, strlen(id), hex);
    mkdir(all->cfg->data_dir, 0755);
    all->dir = xasprintf("%s/%.8s", top, hex);
    for (size_t i = 0; i < all->cfg->docker_host_ct; i++)
        if (strlen(all->dir) + strlen(all->cfg->docker_hosts[i].at.name) + 20 >=
            sizeof(((struct sockaddr_un *)NULL)->sun_path))
            return err_set(
                err, ERR_PERMANENT, ENAMETOOLONG,
                "docker-hosts: %s/%s is too long for a socket; set a shorter data_dir, or "
                "give the host a shorter name",
                all->dir, all->cfg->docker_hosts[i].at.name);
    if ((mkdir(top, 0700) < 0 && errno != EEXIST) || (mkdir(all->dir, 0700) < 0 && errno != EEXIST))
        return err_set_errno(err, ERR_PERMANENT, errno, "docker-hosts: cannot make %s", all->dir);
    all->lock_fd = open(all->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (all->lock_fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "docker-hosts: %s", all->dir);
    if (flock(all->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, ERR_PERMANENT, EBUSY,
                       "docker-hosts: another vmm uses %s; give each its own vmm_name or data_dir",
                       all->dir);
    DIR *d = opendir(all->dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            unlinkat(all->lock_fd, e->d_name, 0);
    if (d)
        closedir(d);
    return 0;
}

static void await_first(struct docker_hosts *all)
{
    int64_t deadline = clock_mono_ms() + FIRST_MS;

    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; i < all->host_ct;)
        if (all->hosts[i].tried)
            i++;
        else if (!cond_wait_until(&all->tried, &all->lock, deadline))
            break;
    pthread_mutex_unlock(&all->lock);
}

static void hosts_close(struct backend *b)
{
    struct docker_hosts *all = hosts_of(b);

    event_signal(all->stop_fd);
    for (size_t i = 0; i < all->host_ct; i++)
        docker_host_stop(&all->hosts[i]);
    free(all->hosts);
    if (all->lock_fd >= 0)
        close(all->lock_fd);
    close(all->stop_fd);
    pthread_cond_destroy(&all->tried);
    pthread_mutex_destroy(&all->lock);
    free(all->dir);
    free(all);
}

static int make_hosts(struct docker_hosts *all, struct error *err)
{
    const struct config *cfg = all->cfg;
    int r = 0;

    all->hosts = xcalloc(cfg->docker_host_ct, sizeof(*all->hosts));
    for (size_t i = 0; i < cfg->docker_host_ct && r == 0; i++) {
        all->hosts[i] = (struct docker_host){.spec = &cfg->docker_hosts[i], .all = all};
        all->host_ct = i + 1;
        r = docker_host_new(&all->hosts[i], err);
    }
    return r;
}

static int hosts_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    struct docker_hosts *all = xcalloc(1, sizeof(*all));
    struct backend *b = (struct backend *)(void *)all;

    all->cfg = cfg;
    all->lock_fd = -1;
    all->stop_fd = event_new();
    pthread_mutex_init(&all->lock, NULL);
    cond_init(&all->tried);
    int r = cfg->docker_host_ct > 0
                ? open_dir(all, err)
                : err_set(err, ERR_PERMANENT, ENOENT,
                          "docker-hosts: there is no host; add a line docker_host = NAME URL");
    if (r == 0)
        r = make_hosts(all, err);
    if (r < 0) {
        hosts_close(b);
        return r;
    }
    for (size_t i = 0; i < all->host_ct; i++)
        docker_host_start(&all->hosts[i]);
    await_first(all);
    *ret = b;
    return 0;
}

const struct driver driver_docker_hosts = {
    .name = "docker-hosts",
    .open = hosts_open,
    .close = hosts_close,
    .health = hosts_health,
    .probe = hosts_probe,
    .images = hosts_images,
    .initialize = hosts_initialize,
    .read = hosts_read,
    .destroy = hosts_destroy,
    .limit_hit = hosts_limit_hit,
    .list = hosts_list,
    .reap = hosts_reap,
    .fits = hosts_fits,
    .slots = hosts_slots,
    .labels = hosts_labels,
    .hosts = hosts_hosts,
    .import = hosts_import,
    .remove_image = hosts_remove_image,
};
