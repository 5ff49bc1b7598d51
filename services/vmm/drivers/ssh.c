/* The ssh driver: machines on other hosts, reached by OpenSSH. What a connection is made of is in
 * ssh_private.h, what runs at its other end in hostdriver/host.h.
 *
 * A machine is a session of a host's master whose command is `hostdriver machine`: our pipes are
 * passed on to the autodriver, and stderr is the hostdriver's own, on which it says that the
 * machine is up, or why not, and in the end how it ended.
 *
 * Room: a host has so many slots, and a machine has one from before it is made until it is known to
 * be gone, warm or not; so an exclusive host never has two. A host on which machines fail in a row,
 * or one cannot be removed, is given up and connected to anew, which sweeps it. */

#include "services/vmm/drivers/ssh_private.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>

#define FAILURES_MAX  3     /* of machines in a row: then the host is out */
#define UP_MS         20000 /* for a machine to say that it is up */
#define END_MS        3000  /* for the last word of one whose pipe is closed */
#define LAG_MS        2000  /* over that before its session is cut */
#define REAP_MS       15000
#define FIRST_MS      20000 /* in open, for the first connections */
#define TICK_MS       1000  /* a warm machine may have come in the way meanwhile */
#define SOCKET_SUFFIX 48    /* "/host.life.lane" and what ssh adds while it makes one */

struct ssh_machine {
    struct ssh_host *host;
    uint64_t life;
    unsigned lane;
    bool placed; /* counted in the host's and the lane's numbers */
    struct ssh_child child;
    struct ssh_lines said;
    bool ended; /* its last word was heard: */
    bool oom, clean;
};

/* ---- a machine's own word ---- */

/* The next line of ours; what else is said there is kept as a reason. */
static int next_word(struct ssh_machine *s, int64_t deadline, int cancel_fd, char other[200],
                     char **ret)
{
    for (;;) {
        char *line = NULL;
        int r = ssh_line(&s->said, s->child.err_fd, deadline, cancel_fd, &line);
        if (r < 0)
            return r;
        if (strncmp(line, "milonga: ", 9) == 0) {
            *ret = line + 9;
            return 0;
        }
        if (other)
            snprintf(other, 200, "%.199s", line);
    }
}

static void hear_end(struct ssh_machine *s, int64_t deadline)
{
    int oom = 0, clean = 0;
    char *word = NULL;

    while (!s->ended && next_word(s, deadline, -1, NULL, &word) == 0)
        if (sscanf(word, "end oom=%d clean=%d", &oom, &clean) == 2) {
            s->ended = true;
            s->oom = oom != 0;
            s->clean = clean != 0;
        }
}

/* ---- making one ---- */

static void begin_command(const struct ssh_start *start, const char *verb, struct ssh_words *w)
{
    const char *base = start->host->spec->dir;

    ssh_word(w, "exec");
    if (start->sudo) {
        ssh_word(w, "sudo");
        ssh_word(w, "-n");
        ssh_word(w, "--");
    }
    ssh_word(w, "%s/%s", base, start->hostdriver);
    ssh_word(w, "%s", verb);
    ssh_word(w, "%s", base);
}

static char *join(struct ssh_words *w)
{
    struct buf b = BUF_INIT(8192);

    for (size_t i = 0; i < w->ct; i++)
        ssh_quote(&b, w->v[i]);
    ssh_words_done(w);
    return buf_detach(&b);
}

char *ssh_hold_command(const struct ssh_start *start)
{
    struct ssh_words w = {0};

    begin_command(start, "hold", &w);
    ssh_word(&w, "%s", start->epoch);
    return join(&w);
}

static char *machine_command(const struct ssh_start *start, const struct machine_spec *spec)
{
    const struct config_ssh_host *host = start->host->spec;
    const struct machine_shape *s = &spec->shape;
    struct ssh_words w = {0};
    uint64_t disk_bytes, disk_files;

    machine_room(s, &disk_bytes, &disk_files);
    begin_command(start, "machine", &w);
    ssh_word(&w, "name=%s", spec->name);
    ssh_word(&w, "epoch=%s", start->epoch);
    ssh_word(&w, "mode=%s", host->mode);
    ssh_word(&w, "program=%s", start->autodriver);
    ssh_word(&w, "memory_mb=%u", s->memory_mb);
    ssh_word(&w, "pids=%u", s->pids > 0 ? s->pids + 8 : 0); /* the autodriver, beside the job's */
    ssh_word(&w, "cores_milli=%u", s->cores_milli);
    ssh_word(&w, "disk_bytes=%llu", (unsigned long long)disk_bytes);
    ssh_word(&w, "disk_files=%llu", (unsigned long long)disk_files);
    ssh_word(&w, "network=%d", s->network);
    ssh_word(&w, "image=%s", s->digest ? s->digest : "");
    return join(&w);
}

static int wait_up(struct ssh_machine *s, int64_t deadline, int cancel_fd, struct error *err)
{
    const char *host = s->host->spec->name;
    char other[200] = "";
    char *word = NULL;
    int64_t until = clock_mono_ms() + UP_MS;

    if (until > deadline)
        until = deadline;
    int r = next_word(s, until, cancel_fd, other, &word);
    if (r == -ECANCELED)
        return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
    if (r < 0)
        return err_set_errno(err, ERR_TEMPORARY, -r, "host %s did not start the machine%s%s", host,
                             other[0] ? ": " : "", other);
    if (strncmp(word, "failed ", 7) == 0)
        return err_set(err, ERR_TEMPORARY, EIO, "host %s: %.400s", host, word + 7);
    return 0;
}

int ssh_machine_make(const struct ssh_start *start, const struct machine_spec *spec,
                     int64_t deadline, int cancel_fd, struct machine **ret, struct error *err)
{
    cleanup_free char *command = machine_command(start, spec);
    struct ssh_words words = {0};
    struct ssh_machine *s = xcalloc(1, sizeof(*s));

    *s = (struct ssh_machine){.host = start->host, .life = start->life, .lane = start->lane};
    ssh_lines_init(&s->said);
    ssh_session_words(start->host->b->cfg, start->host->spec, start->control, command, &words);
    int r = ssh_child_start(words.v, &s->child, err);
    ssh_words_done(&words);
    if (r < 0) {
        buf_free(&s->said.in);
        free(s);
        return r;
    }
    struct machine *m = machine_new(start->host->b->driver, start->host->b, spec);
    m->priv = s;
    r = wait_up(s, deadline, cancel_fd, err);
    m->in_fd = TAKE_FD(s->child.in_fd);
    m->out_fd = TAKE_FD(s->child.out_fd);
    m->made_ms = clock_mono_ms();
    if (r < 0) {
        ssh_machine_end(m, clock_mono_ms() + start->host->b->cfg->destroy_timeout_ms);
        return r;
    }
    *ret = m;
    return 0;
}

/* Its pipe ends, and it with it; the hostdriver then says how. When that does not come, the keeper
 * is asked to end it by its name. */
bool ssh_machine_end(struct machine *m, int64_t deadline)
{
    struct ssh_machine *s = m->priv;
    int64_t now = clock_mono_ms(), until = now + END_MS;
    struct error err = ERROR_INIT;

    if (m->in_fd >= 0)
        close(TAKE_FD(m->in_fd));
    if (m->out_fd >= 0)
        close(TAKE_FD(m->out_fd));
    hear_end(s, until < deadline ? until : deadline);
    ssh_child_end(&s->child, s->ended ? LAG_MS : 0);
    bool gone = s->ended && s->clean;
    if (!gone) {
        cleanup_free char *reap = xasprintf("reap %s", m->spec.name);
        gone = ssh_host_ask(s->host, s->life, reap, NULL, NULL, now + REAP_MS, &err) == 0;
    }
    buf_free(&s->said.in);
    free(s);
    machine_free(m);
    return gone;
}

/* ---- which host ---- */

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = list; (p = strstr(p, word)) != NULL; p += len)
        if ((p == list || p[-1] == ',') && (p[len] == '\0' || p[len] == ','))
            return true;
    return false;
}

static bool has_labels(const struct ssh_host *h, const struct machine_spec *spec)
{
    for (size_t i = 0; i < spec->label_ct; i++) {
        const char *label = spec->labels[i];
        if (!has_word(h->b->cfg->labels, label) && !has_word(h->spec->labels, label) &&
            !(h->spec->exclusive && strcmp(label, "exclusive") == 0))
            return false;
    }
    return true;
}

bool ssh_has_image(const struct ssh_host *h, const char *digest)
{
    for (size_t i = 0; i < h->images.ct; i++)
        if (strcmp(h->images.list[i].digest, digest) == 0)
            return true;
    return false;
}

/* An engine's storage has a quota or not, and its client does not tell: so a bound of the job's own
 * is no promise that such a host could keep. */
static bool holds_disk(const struct ssh_host *h, const struct machine_shape *s)
{
    return strcmp(h->spec->mode, "direct") == 0 || s->disk_bytes == 0 ||
           (int64_t)s->disk_bytes == h->b->cfg->job_disk_bytes;
}

/* With the lock. */
static bool is_closed(const struct ssh_host *h)
{
    return h->b->provider && h->b->provider->closed(h);
}

/* Those on which it failed just now are the last to be tried again, in another call. */
struct search {
    const struct machine_spec *spec;
    bool *failed; /* one a host */
    struct ssh_host *best;
    bool fits;  /* some host has what it takes, whatever its state */
    bool hopes; /* and one of these is up, or was not tried */
};

/* With the lock. The emptiest by its share. */
static void search(struct backend *b, struct search *s)
{
    s->best = NULL;
    s->fits = s->hopes = false;
    if (b->provider && has_labels(&b->hosts[0], s->spec))
        s->fits = b->provider->could(b, s->spec->shape.digest, &s->hopes);
    for (size_t i = 0; i < b->host_ct; i++) {
        struct ssh_host *h = &b->hosts[i];
        unsigned slots = (unsigned)h->spec->slots;

        if (!has_labels(h, s->spec) || !ssh_has_image(h, s->spec->shape.digest) ||
            !holds_disk(h, &s->spec->shape))
            continue;
        s->fits = true;
        if (!h->up || s->failed[i] || is_closed(h))
            continue;
        s->hopes = true;
        if (h->busy < slots &&
            (!s->best || h->busy * (unsigned)s->best->spec->slots < s->best->busy * slots))
            s->best = h;
    }
}

/* With the lock: a place on the host, and the lane with the most room. */
static void occupy(struct ssh_host *h, struct ssh_start *ret)
{
    unsigned lane = 1;

    for (unsigned i = 2; i < h->lane_ct; i++)
        if (h->lanes[i].sessions < h->lanes[lane].sessions)
            lane = i;
    h->busy++;
    h->lanes[lane].sessions++;
    if (h->b->provider)
        h->b->provider->touched(h);
    ssh_host_place(h, lane, ret);
}

void ssh_wake_waiters(struct backend *b)
{
    for (struct ssh_waiter *w = b->waiters; w; w = w->next)
        event_signal(w->fd);
}

static void vacate(struct ssh_host *h, uint64_t life, unsigned lane)
{
    pthread_mutex_lock(&h->b->lock);
    if (h->life == life) {
        h->busy--;
        h->lanes[lane].sessions--;
        if (h->b->provider)
            h->b->provider->touched(h);
        ssh_wake_waiters(h->b);
    }
    bool idle = h->busy == 0;
    pthread_mutex_unlock(&h->b->lock);
    if (idle)
        event_signal(h->wake_fd); /* it may be time to let it go */
}

/* All reasons in a sentence; with the lock. */
static void say_why(struct backend *b, struct buf *out)
{
    for (size_t i = 0; i < b->host_ct; i++)
        if (!b->hosts[i].up)
            buf_printf(out, "%s%s: %.150s", out->len ? "; " : "", b->hosts[i].spec->name,
                       b->hosts[i].why);
}

static int no_place(struct backend *b, const struct search *s, const struct error *last,
                    struct error *err)
{
    struct buf why = BUF_INIT(400);

    if (!s->fits) {
        buf_free(&why);
        return err_set(
            err, ERR_REFUSED, ENOENT,
            "no host of this worker has image %s, all the labels, and what holds the limits "
            "that were asked for",
            s->spec->shape.image);
    }
    if (last->code != 0) {
        if (err)
            *err = *last;
        buf_free(&why);
        return -last->code;
    }
    if (b->provider)
        buf_appends(&why, b->provider->why(b));
    else
        say_why(b, &why);
    int r = err_set(err, ERR_TEMPORARY, EAGAIN, "no host is up: %s", why.len ? why.data : "");
    buf_free(&why);
    return r;
}

/* Waits until something changed. -ETIMEDOUT is not the deadline, but a tick. */
static int wait_room(struct ssh_waiter *w, int64_t deadline, int cancel_fd)
{
    struct pollfd p[2] = {{.fd = w->fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
    int64_t tick = clock_mono_ms() + TICK_MS;

    poll(p, 2, clock_until_ms(tick < deadline ? tick : deadline));
    event_clear(w->fd);
    return p[1].revents ? -ECANCELED : 0;
}

static void unlink_waiter(struct backend *b, struct ssh_waiter *w)
{
    struct ssh_waiter **at = &b->waiters;

    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
}

/* With the lock: there is need of a host, or of another one. */
static void wake_places(struct backend *b)
{
    for (size_t i = 0; i < b->host_ct && b->provider; i++)
        event_signal(b->hosts[i].wake_fd);
}

static int find_place(struct backend *b, struct search *s, int64_t deadline, int cancel_fd,
                      const struct error *last, struct ssh_start *ret, struct error *err)
{
    struct ssh_waiter me = {.fd = -1, .digest = s->spec->shape.digest};
    int r = 1;

    pthread_mutex_lock(&b->lock);
    while (r > 0) {
        search(b, s);
        if (s->best && (s->spec->full || !b->waiters)) { /* a warm one is behind those who wait */
            occupy(s->best, ret);
            r = 0;
        } else if (!s->hopes) {
            r = no_place(b, s, last, err);
        } else if (!s->spec->full) {
            r = err_set(err, ERR_TEMPORARY, EBUSY, "all slots of the hosts are taken");
        } else if (clock_mono_ms() >= deadline) {
            r = err_set(err, ERR_TEMPORARY, EAGAIN, "no slot of a host became free in time");
        } else {
            if (me.fd < 0) {
                struct ssh_waiter **at = &b->waiters;
                me.fd = event_new();
                while (*at)
                    at = &(*at)->next;
                *at = &me;
                wake_places(b);
            }
            pthread_mutex_unlock(&b->lock);
            s->spec->full(s->spec->full_arg);
            if (wait_room(&me, deadline, cancel_fd) < 0)
                r = err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
            pthread_mutex_lock(&b->lock);
        }
    }
    if (me.fd >= 0)
        unlink_waiter(b, &me);
    ssh_wake_waiters(b);
    pthread_mutex_unlock(&b->lock);
    if (me.fd >= 0)
        close(me.fd);
    return r;
}

/* ---- the driver ---- */

/* Success clears a host's name, failures in a row cost it its connection. */
static void judge_host(const struct ssh_start *s, bool made, const char *why)
{
    struct ssh_host *h = s->host;
    char text[400];

    pthread_mutex_lock(&h->b->lock);
    bool same = h->life == s->life;
    if (same)
        h->failures = made ? 0 : h->failures + 1;
    bool out = same && h->failures >= FAILURES_MAX;
    pthread_mutex_unlock(&h->b->lock);
    if (!out)
        return;
    snprintf(text, sizeof(text), "%d machines in a row failed: %.300s", FAILURES_MAX, why);
    ssh_host_doom(h, s->life, text);
}

int ssh_initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                   int cancel_fd, struct machine **ret, struct error *err)
{
    cleanup_free bool *failed = xcalloc(b->host_ct, sizeof(bool));
    struct search s = {.spec = spec, .failed = failed};
    struct error last = ERROR_INIT;

    for (;;) {
        struct ssh_start start;
        int r = find_place(b, &s, deadline, cancel_fd, &last, &start, err);
        if (r < 0)
            return r;
        r = ssh_machine_make(&start, spec, deadline, cancel_fd, ret, &last);
        if (r == 0) {
            struct ssh_machine *m = (*ret)->priv;
            m->placed = true;
            judge_host(&start, true, "");
            return 0;
        }
        vacate(start.host, start.life, start.lane);
        if (r != -ECANCELED)
            judge_host(&start, false, last.msg);
        /* a place that is rented anew is no other host: the next try is another attempt's */
        if (r == -ECANCELED || b->provider || clock_mono_ms() >= deadline) {
            if (err)
                *err = last;
            return r;
        }
        failed[start.host - b->hosts] = true;
    }
}

ssize_t ssh_read(struct machine *m, void *data, size_t len)
{
    ssize_t n = read(m->out_fd, data, len);

    return n < 0 ? -errno : n;
}

void ssh_destroy(struct machine *m, int64_t deadline)
{
    struct ssh_machine *s = m->priv;
    struct ssh_host *h = s->host;
    uint64_t life = s->life;
    unsigned lane = s->lane;
    cleanup_free char *name = xstrdup(m->spec.name);

    if (!ssh_machine_end(m, deadline)) {
        cleanup_free char *why = xasprintf("machine %s could not be removed", name);
        ssh_host_doom(h, life, why); /* to connect anew is to sweep */
    }
    vacate(h, life, lane);
}

/* The hostdriver tells it when the machine has ended: so this ends it. */
enum machine_limit ssh_limit_hit(struct machine *m)
{
    struct ssh_machine *s = m->priv;

    if (m->in_fd >= 0)
        close(TAKE_FD(m->in_fd));
    hear_end(s, clock_mono_ms() + END_MS);
    return s->oom ? MACHINE_LIMIT_MEMORY : MACHINE_LIMIT_NONE;
}

bool ssh_fits(struct machine *m, const struct machine_spec *spec)
{
    const struct ssh_machine *s = m->priv;

    pthread_mutex_lock(&s->host->b->lock);
    bool open = !is_closed(s->host);
    pthread_mutex_unlock(&s->host->b->lock);
    return open && has_labels(s->host, spec);
}

unsigned ssh_slots(struct backend *b)
{
    unsigned ct = 0;

    for (size_t i = 0; i < b->host_ct; i++)
        ct += (unsigned)b->hosts[i].spec->slots;
    return ct;
}

static void add_label(struct buf *out, const char *label)
{
    if (!has_word(out->len > 0 ? out->data : "", label))
        buf_printf(out, "%s%s", out->len > 0 ? "," : "", label);
}

static void ssh_labels(struct backend *b, struct buf *out)
{
    for (size_t i = 0; i < b->host_ct; i++) {
        cleanup_free char *labels = xstrdup(b->hosts[i].spec->labels);
        char *save = NULL;

        for (char *l = strtok_r(labels, ",", &save); l; l = strtok_r(NULL, ",", &save))
            add_label(out, l);
        if (b->hosts[i].spec->exclusive)
            add_label(out, "exclusive");
    }
}

static void ssh_hosts(struct backend *b, void (*each)(void *arg, const char *name, const char *why),
                      void *arg)
{
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->host_ct; i++)
        each(arg, b->hosts[i].spec->name, b->hosts[i].up ? NULL : b->hosts[i].why);
    pthread_mutex_unlock(&b->lock);
}

static int ssh_health(struct backend *b, struct error *err)
{
    struct buf why = BUF_INIT(400);
    bool up = false;

    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->host_ct; i++)
        up = up || b->hosts[i].up;
    say_why(b, &why);
    pthread_mutex_unlock(&b->lock);
    int r = up ? 0
               : err_set(err, ERR_TEMPORARY, EHOSTUNREACH, "no host is up: %s",
                         why.len ? why.data : "none is listed");
    buf_free(&why);
    return r;
}

/* A host that is up has proved by a machine that it can make one. */
static int ssh_probe(struct backend *b, struct error *err)
{
    return ssh_health(b, err);
}

static int ssh_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                      void *arg, struct error *err)
{
    (void)err;
    for (size_t i = 0; i < b->host_ct; i++)
        ssh_host_look_images(&b->hosts[i], NULL); /* of one that is away, the last known */
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->host_ct; i++)
        for (size_t k = 0; k < b->hosts[i].images.ct; k++) {
            const struct ssh_image *image = &b->hosts[i].images.list[k];
            bool first = true; /* a name has one digest: that of the first host which has it */

            for (size_t j = 0; j < i && first; j++)
                for (size_t l = 0; l < b->hosts[j].images.ct && first; l++)
                    first = strcmp(b->hosts[j].images.list[l].name, image->name) != 0;
            if (first)
                each(arg, &(struct image_entry){image->name, image->digest});
        }
    pthread_mutex_unlock(&b->lock);
    return 0;
}

struct list_arg {
    void (*each)(void *arg, const char *name);
    void *arg;
};

static void tell_machine(void *arg, const char *line)
{
    struct list_arg *a = arg;

    if (strncmp(line, "machine ", 8) == 0 && strcmp(line + 8, "probe") != 0)
        a->each(a->arg, line + 8);
}

/* On hosts that are up; what is on the others is swept before they are. */
int ssh_list(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
             struct error *err)
{
    struct list_arg a = {each, arg};

    for (size_t i = 0; i < b->host_ct; i++) {
        struct error why = ERROR_INIT;
        int r = ssh_host_ask(&b->hosts[i], 0, "list", tell_machine, &a, clock_mono_ms() + REAP_MS,
                             &why);
        if (r < 0 && why.class == ERR_REFUSED)
            return err_set(err, ERR_TEMPORARY, why.code, "%s", why.msg);
    }
    return 0;
}

int ssh_reap(struct backend *b, const char *name, struct error *err)
{
    cleanup_free char *order = xasprintf("reap %s", name);
    int rc = 0;

    for (size_t i = 0; i < b->host_ct; i++) {
        struct error why = ERROR_INIT;
        int r = ssh_host_ask(&b->hosts[i], 0, order, NULL, NULL, clock_mono_ms() + REAP_MS, &why);
        if (r < 0 && why.class == ERR_REFUSED)
            rc = err_set(err, ERR_TEMPORARY, why.code, "%s", why.msg);
    }
    return rc;
}

/* ---- opening ---- */

/* The sockets of masters. What a killed vmm has left there is nobody's: we hold the lock. */
static int open_sockets(struct backend *b, struct error *err)
{
    char hex[65];

    digest_hex(DIGEST_SHA256, b->id, strlen(b->id), hex);
    mkdir(b->cfg->data_dir, 0755);
    cleanup_free char *top = xasprintf("%s/ssh", b->cfg->data_dir);
    b->sockets = xasprintf("%s/%.8s", top, hex);
    if (strlen(b->sockets) + SOCKET_SUFFIX > sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(err, ERR_PERMANENT, ENAMETOOLONG,
                       "ssh: %s is too long for sockets; set a shorter data_dir", b->sockets);
    if ((mkdir(top, 0700) < 0 && errno != EEXIST) ||
        (mkdir(b->sockets, 0700) < 0 && errno != EEXIST))
        return err_set_errno(err, ERR_PERMANENT, errno, "ssh: cannot make %s", b->sockets);
    int fd = open(b->sockets, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "ssh: %s", b->sockets);
    b->lock_fd = fd;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, ERR_PERMANENT, EBUSY,
                       "ssh: another vmm uses %s; give each its own vmm_name or data_dir",
                       b->sockets);
    int at = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    DIR *d = at >= 0 ? fdopendir(at) : NULL;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            unlinkat(fd, e->d_name, 0);
    if (d)
        closedir(d);
    return 0;
}

static void await_first(struct backend *b)
{
    int64_t deadline = clock_mono_ms() + FIRST_MS;

    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->host_ct;)
        if (b->hosts[i].tried)
            i++;
        else if (!cond_wait_until(&b->tried, &b->lock, deadline))
            break;
    pthread_mutex_unlock(&b->lock);
}

void ssh_close(struct backend *b)
{
    event_signal(b->stop_fd);
    for (size_t i = 0; i < b->host_ct; i++)
        ssh_host_stop(&b->hosts[i]);
    free(b->hosts);
    if (b->lock_fd >= 0)
        close(b->lock_fd);
    close(b->stop_fd);
    pthread_cond_destroy(&b->tried);
    pthread_mutex_destroy(&b->lock);
    free(b->sockets);
    free(b->id);
    free(b);
}

int ssh_backend_new(const struct config *cfg, const struct driver *d, size_t host_ct,
                    struct backend **ret, struct error *err)
{
    struct backend *b = xcalloc(1, sizeof(*b));

    b->cfg = cfg;
    b->driver = d;
    b->lock_fd = -1;
    b->stop_fd = event_new();
    b->id = xasprintf("%s/%s", cfg->deployment, cfg->vmm_name);
    pthread_mutex_init(&b->lock, NULL);
    cond_init(&b->tried);
    int r = open_sockets(b, err);
    if (r < 0) {
        ssh_close(b);
        return r;
    }
    b->hosts = xcalloc(host_ct, sizeof(*b->hosts));
    b->host_room = host_ct;
    for (size_t i = 0; i < host_ct; i++) {
        b->hosts[i].b = b;
        b->hosts[i].number = (unsigned)i;
    }
    *ret = b;
    return 0;
}

void ssh_backend_start(struct backend *b)
{
    b->host_ct = b->host_room;
    for (size_t i = 0; i < b->host_ct; i++)
        ssh_host_prepare(&b->hosts[i]);
    for (size_t i = 0; i < b->host_ct; i++)
        ssh_host_start(&b->hosts[i]);
}

static int ssh_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    struct backend *b = NULL;

    if (cfg->ssh_host_ct == 0)
        return err_set(err, ERR_PERMANENT, ENOENT,
                       "ssh: there is no host; add a line ssh_host = NAME [USER@]ADDRESS");
    int r = ssh_backend_new(cfg, &driver_ssh, cfg->ssh_host_ct, &b, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < cfg->ssh_host_ct; i++)
        b->hosts[i].spec = &cfg->ssh_hosts[i];
    ssh_backend_start(b);
    await_first(b);
    *ret = b;
    return 0;
}

const struct driver driver_ssh = {
    .name = "ssh",
    .open = ssh_open,
    .close = ssh_close,
    .health = ssh_health,
    .probe = ssh_probe,
    .images = ssh_images,
    .initialize = ssh_initialize,
    .read = ssh_read,
    .destroy = ssh_destroy,
    .limit_hit = ssh_limit_hit,
    .list = ssh_list,
    .reap = ssh_reap,
    .fits = ssh_fits,
    .slots = ssh_slots,
    .labels = ssh_labels,
    .hosts = ssh_hosts,
};
