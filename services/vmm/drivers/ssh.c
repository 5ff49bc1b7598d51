/* The ssh driver: machines on other hosts, reached by OpenSSH. What a connection is made of is in
 * ssh_private.h, what runs at its other end in hostdriver/host.h.
 *
 * A machine is a session of a host's master whose command is `hostdriver machine`: our pipes are
 * passed on to the autodriver, and stderr is the hostdriver's own, on which it says that the
 * machine is up, or why not, and in the end how it ended.
 *
 * A machine has its slot until it is known to be gone; so an exclusive host never has two. A host
 * where one cannot be removed is given up and connected to anew, which sweeps it. */

#include "services/vmm/drivers/ssh_private.h"

#include "base/clock.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define UP_MS         20000 /* for a machine to say that it is up */
#define END_MS        3000  /* for the last word of one whose pipe is closed */
#define LAG_MS        2000  /* over that before its session is cut */
#define REAP_MS       15000
#define SOCKET_SUFFIX 48 /* "/host.life.lane" and what ssh adds while it makes one */

struct ssh_machine {
    struct host_place at;
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
        if (strcmp(word, "oom 1") == 0) {
            s->oom = true;
        } else if (sscanf(word, "end oom=%d clean=%d", &oom, &clean) == 2) {
            s->ended = true;
            s->oom = oom != 0;
            s->clean = clean != 0;
        }
}

/* ---- making one ---- */

static void begin_command(const struct ssh_start *start, const char *verb, struct ssh_words *w)
{
    const char *base = start->at.host->spec->dir;

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
    const struct config_ssh_host *host = start->at.host->spec;
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
    const char *host = s->at.host->spec->name;
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

    struct backend *b = ssh_backend(start->at.host->set);

    *s = (struct ssh_machine){.at = start->at};
    ssh_lines_init(&s->said);
    ssh_session_words(b->cfg, start->at.host->spec, start->control, command, &words);
    int r = ssh_child_start(words.v, &s->child, err);
    ssh_words_done(&words);
    if (r < 0) {
        buf_free(&s->said.in);
        free(s);
        return r;
    }
    struct machine *m = machine_new(b->driver, b, spec);
    m->priv = s;
    r = wait_up(s, deadline, cancel_fd, err);
    m->in_fd = TAKE_FD(s->child.in_fd);
    m->out_fd = TAKE_FD(s->child.out_fd);
    m->made_ms = clock_mono_ms();
    if (r < 0) {
        ssh_machine_end(m, clock_mono_ms() + b->cfg->destroy_timeout_ms);
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
    int64_t until = clock_mono_ms() + END_MS;
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
        gone = ssh_host_ask(ssh_host(s->at.host), s->at.life, reap, NULL, NULL, REAP_MS, &err) == 0;
    }
    buf_free(&s->said.in);
    free(s);
    machine_free(m);
    return gone;
}

/* ---- which host ---- */

/* An engine's storage has a quota or not, and its client does not tell: so a bound of the job's own
 * is no promise that such a host could keep. */
static bool holds_disk(const struct host *h, const struct machine_shape *s)
{
    return strcmp(h->spec->mode, "direct") == 0 || s->disk_bytes == 0 ||
           (int64_t)s->disk_bytes == h->set->cfg->job_disk_bytes;
}

static bool closed(const struct host *at)
{
    const struct ssh_host *h = (const struct ssh_host *)(const void *)at;

    return h->b->provider && h->b->provider->closed(h);
}

static void touched(struct ssh_host *h)
{
    if (h->b->provider)
        h->b->provider->touched(h);
}

/* The lane with the most room. */
static void occupied(struct host_place *at)
{
    struct ssh_host *h = ssh_host(at->host);

    at->lane = 1;
    for (unsigned i = 2; i < h->lane_ct; i++)
        if (h->lanes[i].sessions < h->lanes[at->lane].sessions)
            at->lane = i;
    h->lanes[at->lane].sessions++;
    ssh_host_place(h, at->lane, (struct ssh_start *)(void *)at);
    touched(h);
}

static void vacated(const struct host_place *at)
{
    struct ssh_host *h = ssh_host(at->host);

    if (h->lanes[at->lane].sessions > 0) /* none when its connection has just ended */
        h->lanes[at->lane].sessions--;
    touched(h);
    if (h->b->provider && h->at.busy == 0)
        event_signal(h->at.wake_fd); /* it may be time to let it go */
}

static void came(struct host *at)
{
    struct ssh_host *h = ssh_host(at);

    for (unsigned i = 0; i < h->lane_ct; i++)
        h->lanes[i].sessions = 0;
    if (h->b->provider)
        h->b->provider->came(h);
}

static int make(struct host_place *at, const struct machine_spec *spec, int64_t deadline,
                int cancel_fd, struct machine **ret, struct error *err)
{
    struct ssh_host *h = ssh_host(at->host);
    int r = ssh_machine_make((struct ssh_start *)(void *)at, spec, deadline, cancel_fd, ret, err);

    if (r == 0) {
        pthread_mutex_lock(&at->host->set->lock);
        snprintf(h->good, sizeof(h->good), "%s", spec->shape.digest);
        pthread_mutex_unlock(&at->host->set->lock);
    }
    return r;
}

static const struct host_kind kind = {
    .place_size = sizeof(struct ssh_start),
    .connect = ssh_host_connect,
    .serve = ssh_host_serve,
    .disconnect = ssh_host_disconnect,
    .prove = ssh_host_prove,
    .make = make,
    .ask_images = ssh_host_images,
    .holds = holds_disk,
    .closed = closed,
    .occupied = occupied,
    .vacated = vacated,
    .came = came,
};

/* ---- the driver ---- */

int ssh_initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                   int cancel_fd, struct machine **ret, struct error *err)
{
    return hosts_initialize(&b->set, spec, deadline, cancel_fd, ret, err);
}

ssize_t ssh_read(struct machine *m, void *data, size_t len)
{
    ssize_t n = read(m->out_fd, data, len);

    return n < 0 ? -errno : n;
}

void ssh_destroy(struct machine *m, int64_t deadline)
{
    struct ssh_machine *s = m->priv;
    struct host_place at = s->at;
    cleanup_free char *name = xstrdup(m->spec.name);

    if (!ssh_machine_end(m, deadline)) {
        cleanup_free char *why = xasprintf("machine %s could not be removed", name);
        host_doom(at.host, at.life, why); /* to connect anew is to sweep */
    }
    hosts_vacate(&at);
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

bool ssh_excused(struct machine *m)
{
    struct ssh_machine *s = m->priv;
    struct ssh_host *h = ssh_host(s->at.host);

    return h->b->provider && h->b->provider->excused(h, s->at.life);
}

bool ssh_fits(struct machine *m, const struct machine_spec *spec)
{
    const struct ssh_machine *s = m->priv;

    pthread_mutex_lock(&s->at.host->set->lock);
    bool open = !closed(s->at.host);
    pthread_mutex_unlock(&s->at.host->set->lock);
    return open && host_has_labels(s->at.host, spec);
}

unsigned ssh_slots(struct backend *b)
{
    return hosts_slots(&b->set);
}

static void ssh_labels(struct backend *b, struct buf *out)
{
    hosts_labels(&b->set, out);
}

static void ssh_hosts(struct backend *b, void (*each)(void *arg, const char *name, const char *why),
                      void *arg)
{
    hosts_tell(&b->set, each, arg);
}

static int ssh_health(struct backend *b, struct error *err)
{
    return hosts_health(&b->set, err);
}

/* A host that is up has proved by a machine that it can make one. */
static int ssh_probe(struct backend *b, struct error *err)
{
    return hosts_health(&b->set, err);
}

static int ssh_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                      void *arg, struct error *err)
{
    (void)err;
    hosts_images(&b->set, each, arg);
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
        int r = ssh_host_ask(&b->hosts[i], 0, "list", tell_machine, &a, REAP_MS, &why);
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
        int r = ssh_host_ask(&b->hosts[i], 0, order, NULL, NULL, REAP_MS, &why);
        if (r < 0 && why.class == ERR_REFUSED)
            rc = err_set(err, ERR_TEMPORARY, why.code, "%s", why.msg);
    }
    return rc;
}

/* ---- opening ---- */

void ssh_close(struct backend *b)
{
    hosts_stop(&b->set);
    for (size_t i = 0; i < b->host_ct; i++)
        ssh_host_done(&b->hosts[i]);
    hosts_done(&b->set);
    free(b->hosts);
    free(b->id);
    free(b);
}

int ssh_backend_new(const struct config *cfg, const struct driver *d, size_t host_ct,
                    struct backend **ret, struct error *err)
{
    struct backend *b = xcalloc(1, sizeof(*b));

    *ret = b;
    b->cfg = cfg;
    b->driver = d;
    b->id = xasprintf("%s/%s", cfg->deployment, cfg->vmm_name);
    b->hosts = xcalloc(host_ct, sizeof(*b->hosts));
    b->host_ct = host_ct;
    for (size_t i = 0; i < host_ct; i++) {
        b->hosts[i].b = b;
        b->hosts[i].number = (unsigned)i;
    }
    int r = hosts_init(&b->set, cfg, &kind, err);
    return r < 0 ? r : hosts_open_dir(&b->set, "ssh", SOCKET_SUFFIX, err);
}

int ssh_backend_start(struct backend *b, struct error *err)
{
    int r = 0;

    for (size_t i = 0; i < b->host_ct && r == 0; i++) {
        r = hosts_add(&b->set, &b->hosts[i].at, b->hosts[i].at.spec, err);
        ssh_host_prepare(&b->hosts[i]);
    }
    return r < 0 ? r : hosts_start(&b->set, err);
}

static int ssh_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    struct backend *b = NULL;

    if (cfg->ssh_host_ct == 0)
        return err_set(err, ERR_PERMANENT, ENOENT,
                       "ssh: there is no host; add a line ssh_host = NAME [USER@]ADDRESS");
    int r = ssh_backend_new(cfg, &driver_ssh, cfg->ssh_host_ct, &b, err);
    for (size_t i = 0; i < cfg->ssh_host_ct; i++)
        b->hosts[i].at.spec = &cfg->ssh_hosts[i];
    if (r == 0)
        r = ssh_backend_start(b, err);
    if (r < 0) {
        ssh_close(b);
        return r;
    }
    *ret = b;
    return 0;
}

static void ssh_settle(struct backend *b, int64_t deadline, int cancel_fd)
{
    hosts_await_first(&b->set, deadline, cancel_fd);
}

const struct driver driver_ssh = {
    .name = "ssh",
    .open = ssh_open,
    .settle = ssh_settle,
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
