#include "services/vmm/drivers/hosts.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>

#define TICK_MS   1000  /* a warm machine may have come in the way meanwhile */
#define IMAGES_MS 10000 /* so long what an engine told holds */
#define MAKE_MS   30000 /* of a deadline is kept for making the machine, or half of it */

/* ---- which host ---- */

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = list; (p = strstr(p, word)) != NULL; p += len)
        if ((p == list || p[-1] == ',') && (p[len] == '\0' || p[len] == ','))
            return true;
    return false;
}

bool host_has_labels(const struct host *h, const struct machine_spec *spec)
{
    for (size_t i = 0; i < spec->label_ct; i++) {
        const char *label = spec->labels[i];
        if (!has_word(h->set->cfg->labels, label) && !has_word(h->spec->labels, label) &&
            !(h->spec->exclusive && strcmp(label, "exclusive") == 0))
            return false;
    }
    return true;
}

bool host_has_image(const struct host *h, const char *digest)
{
    for (size_t i = 0; i < h->images.ct; i++)
        if (strcmp(h->images.list[i].digest, digest) == 0)
            return true;
    return false;
}

/* Those on which it failed just now are the last to be tried again, in another call. */
struct search {
    const struct machine_spec *spec;
    bool *failed; /* one a host */
    struct host *best;
    bool fits;  /* some host has what it takes, or may have; whatever its state */
    bool hopes; /* and one of these is in use, and did not fail */
    bool apart; /* there are hosts with the labels, and hosts with the image */
};

/* What an engine has is learned by connecting to it. */
static bool has_not_told(const struct host *h)
{
    return h->state == HOST_OUT && !h->images_fixed && !h->images_known;
}

/* With the lock. */
static void search(struct hosts *set, struct search *s)
{
    const struct machine_shape *shape = &s->spec->shape;
    bool labelled = false, somewhere = false;

    s->best = NULL;
    s->fits = s->hopes = false;
    if (set->supply && set->ct > 0 && host_has_labels(set->list[0], s->spec))
        s->fits = set->supply->could(set, shape->digest, &s->hopes);
    for (size_t i = 0; i < set->ct; i++) {
        struct host *h = set->list[i];
        unsigned slots = (unsigned)h->spec->slots;

        bool has = host_has_image(h, shape->digest);
        somewhere = somewhere || has;
        if (!host_has_labels(h, s->spec) || (set->kind->holds && !set->kind->holds(h, shape)))
            continue;
        labelled = true;
        if (!has && !has_not_told(h))
            continue;
        s->fits = true;
        if (h->state == HOST_OUT || s->failed[i] || (set->kind->closed && set->kind->closed(h)))
            continue;
        s->hopes = true;
        if (h->state == HOST_UP && h->busy < slots &&
            (!s->best || h->busy * (unsigned)s->best->spec->slots < s->best->busy * slots))
            s->best = h;
    }
    s->apart = labelled && somewhere;
}

/* With the lock. */
static void occupy(struct host *h, struct host_place *ret)
{
    h->busy++;
    *ret = (struct host_place){.host = h, .life = h->life};
    if (h->set->kind->occupied)
        h->set->kind->occupied(ret);
}

void hosts_vacate(const struct host_place *at)
{
    struct host *h = at->host;

    pthread_mutex_lock(&h->set->lock);
    if (h->life == at->life) {
        h->busy--;
        if (h->set->kind->vacated)
            h->set->kind->vacated(at);
        hosts_wake(h->set);
    }
    pthread_mutex_unlock(&h->set->lock);
}

void hosts_wake(struct hosts *s)
{
    for (struct host_waiter *w = s->waiters; w; w = w->next)
        event_signal(w->fd);
}

/* All reasons in a sentence; with the lock. */
static void say_why(const struct hosts *s, struct buf *out)
{
    for (size_t i = 0; i < s->ct; i++)
        if (s->list[i]->state != HOST_UP)
            buf_printf(out, "%s%s: %.150s", out->len ? "; " : "", s->list[i]->spec->name,
                       s->list[i]->why);
}

static int no_place(struct hosts *set, const struct search *s, const struct error *last,
                    struct error *err)
{
    cleanup_buf struct buf why = BUF_INIT(400);

    if (last->code != 0 && (s->fits || last->class != ERR_REFUSED)) {
        if (err)
            *err = *last;
        return -last->code;
    }
    /* An engine may be given the image, and another worker may have both. */
    if (!s->fits && s->apart)
        return err_set(err, ERR_TEMPORARY, EAGAIN,
                       "the hosts of this worker with all the labels do not have the image, which "
                       "others of its hosts have");
    if (!s->fits)
        return err_set(
            err, ERR_REFUSED, ENOENT,
            "no host of this worker has image %s, all the labels, and what holds the limits "
            "that were asked for",
            s->spec->shape.image);
    if (set->supply)
        buf_appends(&why, set->supply->why(set));
    else
        say_why(set, &why);
    return err_set(err, ERR_TEMPORARY, EAGAIN, "no host that has the image is up: %s",
                   why.len ? why.data : "");
}

/* ---- waiting for room ---- */

/* With the lock. Whoever supplies hosts is to know that there is need of one. */
static int link_waiter(struct hosts *s, struct host_waiter *w, struct error *err)
{
    struct host_waiter **at = &s->waiters;

    w->fd = event_try();
    if (w->fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, EAGAIN, "cannot wait for room on a host: %s",
                             strerror(-w->fd));
    while (*at)
        at = &(*at)->next;
    *at = w;
    for (size_t i = 0; i < s->ct && s->supply; i++)
        event_signal(s->list[i]->wake_fd);
    return 1;
}

static void unlink_waiter(struct hosts *s, struct host_waiter *w)
{
    struct host_waiter **at = &s->waiters;

    if (w->fd < 0)
        return;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    close(w->fd);
}

/* Waits until something changed, or a tick; without the lock. */
static int wait_room(struct host_waiter *w, int64_t deadline, int cancel_fd, struct error *err)
{
    struct pollfd p[2] = {{.fd = w->fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
    int64_t tick = clock_mono_ms() + TICK_MS;

    poll(p, 2, clock_until_ms(tick < deadline ? tick : deadline));
    event_clear(w->fd);
    return p[1].revents ? err_set(err, ERR_TEMPORARY, ECANCELED, "stopped") : 1;
}

static int find_place(struct hosts *set, struct search *s, int64_t deadline, int cancel_fd,
                      const struct error *last, struct host_place *ret, struct error *err)
{
    struct host_waiter me = {.fd = -1, .digest = s->spec->shape.digest};
    int r = 1;

    pthread_mutex_lock(&set->lock);
    while (r > 0) {
        search(set, s);
        if (s->best && (s->spec->full || !set->waiters)) { /* a warm one is behind who waits */
            occupy(s->best, ret);
            r = 0;
        } else if (!s->hopes) {
            r = no_place(set, s, last, err);
        } else if (!s->spec->full) {
            r = err_set(err, ERR_TEMPORARY, EBUSY, "all slots of the hosts are taken");
        } else if (clock_mono_ms() >= deadline) {
            r = err_set(err, ERR_TEMPORARY, EAGAIN, "no slot of a host became free in time");
        } else if (me.fd >= 0 || (r = link_waiter(set, &me, err)) > 0) {
            pthread_mutex_unlock(&set->lock);
            s->spec->full(s->spec->full_arg);
            r = wait_room(&me, deadline, cancel_fd, err);
            pthread_mutex_lock(&set->lock);
        }
    }
    unlink_waiter(set, &me);
    hosts_wake(set);
    pthread_mutex_unlock(&set->lock);
    return r;
}

/* ---- making a machine ---- */

int hosts_initialize(struct hosts *set, const struct machine_spec *spec, int64_t deadline,
                     int cancel_fd, struct machine **ret, struct error *err)
{
    cleanup_free bool *failed = xcalloc(set->ct, sizeof(bool));
    cleanup_free struct host_place *at = xcalloc(1, set->kind->place_size);
    struct search s = {.spec = spec, .failed = failed};
    struct error last = ERROR_INIT; /* what the engine refuses counts only when all of them do */
    int64_t half = (deadline - clock_mono_ms()) / 2;
    int64_t room_until = deadline - (half < MAKE_MS ? half : MAKE_MS);

    for (;;) {
        struct error e = ERROR_INIT;
        int r = find_place(set, &s, room_until, cancel_fd, &last, at, err);
        if (r < 0)
            return r;
        int64_t began = clock_mono_ms();
        r = set->kind->make(at, spec, deadline, cancel_fd, ret, &e);
        if (r == 0) {
            host_judge(at, true, "");
            return 0;
        }
        hosts_vacate(at);
        /* What is refused is the job's, or an image that has just been taken away; and what another
         * host that hung has left of the time is no measure of this one. */
        if (r != -ECANCELED && e.class != ERR_REFUSED && (r != -ETIMEDOUT || began <= room_until))
            host_judge(at, false, e.msg);
        if (last.code == 0 || last.class == ERR_REFUSED || r == -ECANCELED)
            last = e;
        /* one that is had anew is no other host: the next try is another attempt's */
        if (r == -ECANCELED || set->supply || clock_mono_ms() >= deadline) {
            if (err)
                *err = last;
            return -last.code;
        }
        for (size_t i = 0; i < set->ct; i++)
            failed[i] = failed[i] || set->list[i] == at->host;
    }
}

/* ---- of struct driver ---- */

unsigned hosts_slots(const struct hosts *s)
{
    unsigned ct = 0;

    for (size_t i = 0; i < s->ct; i++)
        ct += (unsigned)s->list[i]->spec->slots;
    return ct;
}

static void add_label(struct buf *out, const char *label)
{
    if (!has_word(out->len > 0 ? out->data : "", label))
        buf_printf(out, "%s%s", out->len > 0 ? "," : "", label);
}

void hosts_labels(const struct hosts *s, struct buf *out)
{
    for (size_t i = 0; i < s->ct; i++) {
        cleanup_free char *labels = xstrdup(s->list[i]->spec->labels);
        char *save = NULL;

        for (char *l = strtok_r(labels, ",", &save); l; l = strtok_r(NULL, ",", &save))
            add_label(out, l);
        if (s->list[i]->spec->exclusive)
            add_label(out, "exclusive");
    }
}

void hosts_tell(struct hosts *s, void (*each)(void *arg, const char *name, const char *why),
                void *arg)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->ct; i++)
        each(arg, s->list[i]->spec->name, s->list[i]->state == HOST_UP ? NULL : s->list[i]->why);
    pthread_mutex_unlock(&s->lock);
}

int hosts_health(struct hosts *s, struct error *err)
{
    cleanup_buf struct buf why = BUF_INIT(400);
    bool up = false;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->ct; i++)
        up = up || s->list[i]->state != HOST_OUT;
    say_why(s, &why);
    pthread_mutex_unlock(&s->lock);
    return up ? 0
              : err_set(err, ERR_TEMPORARY, EHOSTUNREACH, "no host is up: %s",
                        why.len ? why.data : "none is listed");
}

static bool images_due(struct host *h)
{
    pthread_mutex_lock(&h->set->lock);
    bool due =
        h->state != HOST_OUT && (h->images_at == 0 || clock_mono_ms() - h->images_at >= IMAGES_MS);
    pthread_mutex_unlock(&h->set->lock);
    return due;
}

void hosts_images(struct hosts *s, void (*each)(void *arg, const struct image_entry *e), void *arg)
{
    json_t *seen = json_object();

    for (size_t i = 0; i < s->ct; i++) {
        struct error err = ERROR_INIT;
        if (images_due(s->list[i]) && host_ask_images(s->list[i], &err) < 0)
            log_event(LOG_WARN_, "host.images_unknown", "host", s->list[i]->spec->name, "reason",
                      err.msg, NULL);
    }
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->ct; i++)
        for (size_t k = 0; k < s->list[i]->images.ct; k++) {
            const struct host_image *image = &s->list[i]->images.list[k];
            if (json_object_get(seen, image->name))
                continue;
            json_object_set_new(seen, image->name, json_true());
            each(arg, &(struct image_entry){image->name, image->digest});
        }
    pthread_mutex_unlock(&s->lock);
    json_decref(seen);
}

/* ---- the set ---- */

int hosts_init(struct hosts *s, const struct config *cfg, const struct host_kind *kind,
               struct error *err)
{
    *s = (struct hosts){.cfg = cfg, .kind = kind, .lock_fd = -1};
    pthread_mutex_init(&s->lock, NULL);
    s->stop_fd = event_try();
    s->tried_fd = event_try();
    return s->stop_fd < 0 || s->tried_fd < 0
               ? err_set_errno(err, ERR_TEMPORARY, EMFILE, "no descriptor for the hosts' threads")
               : 0;
}

/* What a killed vmm has left there is nobody's: we hold the lock. */
static void empty_dir(int fd)
{
    int at = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    DIR *d = at >= 0 ? fdopendir(at) : NULL;

    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            unlinkat(fd, e->d_name, 0);
    if (d)
        closedir(d);
    else if (at >= 0)
        close(at);
}

int hosts_open_dir(struct hosts *s, const char *name, size_t room, struct error *err)
{
    const struct config *cfg = s->cfg;
    cleanup_free char *id = xasprintf("%s/%s", cfg->deployment, cfg->vmm_name);
    cleanup_free char *top = xasprintf("%s/%s", cfg->data_dir, name);
    char hex[SHA256_HEX + 1];

    digest_hex(DIGEST_SHA256, id, strlen(id), hex);
    s->dir = xasprintf("%s/%.8s", top, hex);
    if (strlen(s->dir) + room >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(err, ERR_PERMANENT, ENAMETOOLONG,
                       "%s is too long for a socket; set a shorter data_dir, or give hosts shorter "
                       "names",
                       s->dir);
    mkdir(cfg->data_dir, 0755);
    if ((mkdir(top, 0700) < 0 && errno != EEXIST) || (mkdir(s->dir, 0700) < 0 && errno != EEXIST))
        return err_set_errno(err, ERR_PERMANENT, errno, "cannot make %s", s->dir);
    s->lock_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (s->lock_fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "%s", s->dir);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, ERR_PERMANENT, EBUSY,
                       "another vmm uses %s; give each its own vmm_name or data_dir", s->dir);
    empty_dir(s->lock_fd);
    return 0;
}

int hosts_add(struct hosts *s, struct host *h, const struct config_ssh_host *spec,
              struct error *err)
{
    h->set = s;
    h->spec = spec;
    h->wake_fd = event_try();
    snprintf(h->why, sizeof(h->why), "not connected yet");
    if (h->wake_fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, -h->wake_fd, "host %s", spec->name);
    s->list = xrealloc(s->list, (s->ct + 1) * sizeof(struct host *));
    s->list[s->ct++] = h;
    return 0;
}

int hosts_start(struct hosts *s, struct error *err)
{
    int r = 0;

    for (size_t i = 0; i < s->ct && r == 0; i++)
        r = host_start(s->list[i], err);
    return r;
}

void hosts_stop(struct hosts *s)
{
    event_signal(s->stop_fd);
    for (size_t i = 0; i < s->ct; i++)
        host_stop(s->list[i]);
    s->ct = 0;
}

void hosts_done(struct hosts *s)
{
    const int fds[] = {s->lock_fd, s->stop_fd, s->tried_fd};

    hosts_stop(s);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_mutex_destroy(&s->lock);
    free(s->list);
    free(s->dir);
}

static bool all_tried(struct hosts *s)
{
    bool all = true;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->ct; i++)
        all = all && s->list[i]->tried;
    pthread_mutex_unlock(&s->lock);
    return all;
}

void hosts_await_first(struct hosts *s, int64_t deadline, int cancel_fd)
{
    struct pollfd p[2] = {{.fd = s->tried_fd, .events = POLLIN},
                          {.fd = cancel_fd, .events = POLLIN}};

    while (!all_tried(s) && clock_mono_ms() < deadline) {
        poll(p, 2, clock_until_ms(deadline));
        if (p[1].revents)
            return;
        event_clear(s->tried_fd);
    }
}
