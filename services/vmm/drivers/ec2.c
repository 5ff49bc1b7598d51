/* The ec2 driver: the ssh driver's hosts, rented. All that happens on a host is the ssh driver's;
 * here is when there is to be one, and of which image and type.
 *
 *            a job waits, no room             host key known, ssh connected
 *   vacant --------------------> asked for ------------------------------------> up
 *     ^                              |                                            |
 *     |   no capacity, no rights ... | (all places are quiet for a while)         |
 *     +------------------------------+---- idle, old, lost, or another image -----+
 *                                                    is waited for: ended
 *
 * An instance serves the jobs of its own image only. Its name as an image's digest is the AMI, with
 * "+TYPE" where a job wants that type. */

#include "services/vmm/drivers/ec2_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define IMAGES_MS     60000 /* so long what was asked about images holds */
#define OPEN_MS       20000
#define LAST_MS       45000 /* longer than a throttled account is left alone */
#define LOOK_MS       1000  /* a wish may have come to nothing meanwhile */
#define QUIET_BASE_MS 2000
#define QUIET_CAP_MS  60000
#define CHECK_MS      5000

/* ---- images ---- */

static void images_done(struct ec2_image *list, size_t ct)
{
    for (size_t i = 0; i < ct; i++) {
        free(list[i].name);
        free(list[i].ami);
        free(list[i].created);
    }
    free(list);
}

struct image_list {
    struct ec2_image *list;
    size_t ct;
};

/* Of two with one name the newer. */
static void add_image(struct image_list *l, const char *name, const struct xml *x)
{
    const char *created = xml_text(x, "creationDate"), *ami = xml_text(x, "imageId");
    struct ec2_image *at = NULL;

    if (!name[0] || !ami[0] || strlen(ami) + 49 > EC2_DIGEST_MAX ||
        strspn(ami, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(ami))
        return;
    for (size_t i = 0; i < l->ct && !at; i++)
        if (strcmp(l->list[i].name, name) == 0)
            at = &l->list[i];
    if (at && strcmp(at->created, created) >= 0)
        return;
    if (at) {
        free(at->name);
        free(at->ami);
        free(at->created);
    } else {
        l->list = xrealloc(l->list, (l->ct + 1) * sizeof(*l->list));
        at = &l->list[l->ct++];
    }
    *at = (struct ec2_image){xstrdup(name), xstrdup(ami), xstrdup(created)};
}

static const char *name_tag(const struct xml *image)
{
    for (const struct xml *t = xml_find(image, "tagSet/item"); t; t = xml_next(t))
        if (strcmp(xml_text(t, "key"), "Name") == 0)
            return xml_text(t, "value");
    return "";
}

/* `account`: whose they are. */
static int ask_images(struct ec2 *e, int64_t deadline, struct image_list *ret, char account[32],
                      struct error *err)
{
    char next[1024] = "";

    do {
        struct buf form cleanup_buf = BUF_INIT(0);
        struct xml *x = NULL;

        ec2_form(&form, "DescribeImages");
        ec2_param(&form, "self", "Owner.1");
        if (next[0])
            ec2_param(&form, next, "NextToken");
        int r = ec2_call(e->api, &form, deadline, &x, NULL, err);
        if (r < 0)
            return r;
        for (const struct xml *i = xml_find(x, "imagesSet/item"); i; i = xml_next(i))
            if (strcmp(xml_text(i, "imageState"), "available") == 0) {
                const char *owner = xml_text(i, "imageOwnerId");
                snprintf(account, 32, "%.31s", owner[0] ? owner : "self");
                add_image(ret, name_tag(i), i);
            }
        snprintf(next, sizeof(next), "%s", xml_text(x, "nextToken"));
        xml_free(x);
    } while (next[0]);
    return 0;
}

static int look_images(struct ec2 *e, struct error *err)
{
    struct image_list l = {0};
    char account[32] = "";

    pthread_mutex_lock(&e->b->set.lock);
    bool fresh = e->images_at > 0 && clock_mono_ms() - e->images_at < IMAGES_MS;
    pthread_mutex_unlock(&e->b->set.lock);
    if (fresh)
        return 0;
    int r = ask_images(e, clock_mono_ms() + OPEN_MS, &l, account, err);
    if (r == 0) {
        pthread_mutex_lock(&e->b->set.lock);
        struct image_list old = {e->images, e->image_ct};
        e->images = l.list;
        e->image_ct = l.ct;
        e->images_at = clock_mono_ms();
        memcpy(e->account, account, sizeof(e->account));
        pthread_mutex_unlock(&e->b->set.lock);
        if (account[0] && e->sweeps) /* before that, what is there is to be taken over first */
            ec2_ledger_account(e->ledger, account);
        l = old;
    }
    images_done(l.list, l.ct);
    return r;
}

static int ec2_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                      void *arg, struct error *err)
{
    struct ec2 *e = b->provided;
    char type[48];

    int r = look_images(e, err);
    pthread_mutex_lock(&b->set.lock);
    if (e->images_at > 0)
        r = 0; /* the last known ones */
    for (size_t i = 0; i < e->image_ct; i++) {
        each(arg, &(struct image_entry){e->images[i].name, e->images[i].ami});
        for (size_t t = 0; ec2_item(e->cfg->ec2_types, t, type, sizeof(type)); t++) {
            cleanup_free char *name = xasprintf("%s+%s", e->images[i].name, type);
            cleanup_free char *digest = xasprintf("%s+%s", e->images[i].ami, type);
            each(arg, &(struct image_entry){name, digest});
        }
    }
    pthread_mutex_unlock(&b->set.lock);
    return r;
}

/* ---- need; all with the lock ---- */

/* Whether an instance got for `want` (AMI or AMI+TYPE) will do for a job of `digest`. */
static bool serves(const char *want, const char *digest)
{
    size_t len = strlen(digest);

    return digest[0] && strncmp(want, digest, len) == 0 && (want[len] == '\0' || want[len] == '+');
}

static bool closed(const struct ssh_host *h)
{
    const struct ec2 *e = h->b->provided;
    const struct ec2_place *p = h->lent;

    return p->taken || clock_mono_ms() - p->made_ms > e->cfg->ec2_max_age_s * 1000;
}

/* Rooms that there are, or will be. */
static unsigned supply(const struct backend *b, const char *digest)
{
    unsigned ct = 0;

    for (size_t i = 0; i < b->host_ct; i++) {
        const struct ssh_host *h = &b->hosts[i];
        const struct ec2_place *p = h->lent;
        unsigned slots = (unsigned)h->at.spec->slots;

        if (h->at.state == HOST_UP && host_has_image(&h->at, digest) && !closed(h))
            ct += slots - h->at.busy;
        else if (h->at.state != HOST_UP && (serves(p->want, digest) || serves(p->next, digest)))
            ct += slots;
    }
    return ct;
}

/* The AMI that is kept ready: the one last used, or before any is, that of ec2_warm_image. */
static const char *ready_image(const struct ec2 *e)
{
    for (size_t i = 0; i < e->image_ct && !e->recent[0]; i++)
        if (strcmp(e->images[i].name, e->cfg->ec2_warm_image) == 0)
            return e->images[i].ami;
    return e->recent;
}

/* Instances of it that there are, or will be, and that are not too old; and the rooms on them that
 * nobody has or waits for. */
static int64_t count_ready(const struct backend *b, const char *ami, int64_t *ret_free)
{
    int64_t ct = 0;

    *ret_free = supply(b, ami);
    for (const struct host_waiter *w = b->set.waiters; w; w = w->next)
        *ret_free -= serves(w->digest, ami);
    for (size_t i = 0; i < b->host_ct; i++) {
        const struct ec2_place *p = b->hosts[i].lent;
        ct += (serves(p->want, ami) || serves(p->next, ami)) &&
              !(b->hosts[i].at.state == HOST_UP && closed(&b->hosts[i]));
    }
    return ct;
}

/* What is to be had before anybody waits for it; NULL when there is enough. */
static const char *ahead(const struct backend *b)
{
    const struct ec2 *e = b->provided;
    const char *ami = ready_image(e);
    int64_t free_ct;

    if (!ami[0] || count_ready(b, ami, &free_ct) >= e->cfg->ec2_max)
        return NULL;
    return count_ready(b, ami, &free_ct) < e->cfg->ec2_min || free_ct < e->cfg->ec2_warm ? ami
                                                                                         : NULL;
}

/* An idle one that has to stay, for there would be too few without it. */
static bool is_kept(const struct ssh_host *h)
{
    const struct ec2 *e = h->b->provided;
    const struct ec2_place *p = h->lent;
    const char *ami = ready_image(e);
    int64_t free_ct;

    if (!ami[0] || !serves(p->want, ami))
        return false;
    return count_ready(h->b, ami, &free_ct) <= e->cfg->ec2_min ||
           free_ct - h->at.spec->slots < e->cfg->ec2_warm;
}

/* What the first of those waits for whom there will be no room. */
static const char *unmet(const struct backend *b)
{
    for (const struct host_waiter *w = b->set.waiters; w; w = w->next) {
        unsigned ahead = 0;
        for (const struct host_waiter *o = b->set.waiters; o != w; o = o->next)
            ahead += strcmp(o->digest, w->digest) == 0;
        if (ahead >= supply(b, w->digest))
            return w->digest;
    }
    return NULL;
}

static bool any_vacant(const struct ec2 *e)
{
    for (size_t i = 0; i < e->place_ct; i++)
        if (!e->places[i].want[0])
            return true;
    return false;
}

static bool is_quiet(const struct ec2 *e)
{
    return clock_mono_ms() < e->quiet_until;
}

static bool could(struct hosts *set, const char *digest, bool *ret_hopes)
{
    struct backend *b = ssh_backend(set);
    const struct ec2 *e = b->provided;
    size_t len = strcspn(digest, "+");
    bool known = false;

    for (size_t i = 0; i < e->image_ct && !known; i++)
        known = strlen(e->images[i].ami) == len && memcmp(e->images[i].ami, digest, len) == 0;
    *ret_hopes = known && (!is_quiet(e) || supply(b, digest) > 0); /* one may be on its way */
    return known;
}

static const char *tired(struct ssh_host *h)
{
    const struct ec2 *e = h->b->provided;
    struct ec2_place *p = h->lent;
    int64_t now = clock_mono_ms();

    if (p->taken)
        return "AWS takes it back";
    if (closed(h))
        return "it is as old as ec2_max_age_s";
    bool room = any_vacant(e) && !(e->capped && is_quiet(e));
    const char *wish = room ? NULL : unmet(h->b);
    if (wish && !host_has_image(&h->at, wish)) {
        snprintf(p->next, sizeof(p->next), "%s", wish);
        return "another image is waited for";
    }
    if (now - p->idle_ms > e->cfg->ec2_idle_s * 1000 && !is_kept(h))
        return "idle";
    return NULL;
}

static const char *why_not(struct hosts *set)
{
    const struct ec2 *e = ssh_backend(set)->provided;

    return e->why;
}

static void touched(struct ssh_host *h)
{
    struct ec2 *e = h->b->provided;
    struct ec2_place *p = h->lent;

    if (p->want[0])
        snprintf(e->recent, sizeof(e->recent), "%.*s", (int)strcspn(p->want, "+"), p->want);
    p->idle_ms = clock_mono_ms();
}

/* ---- a place ---- */

/* Until somebody waits for more than there is; what for is the place's `want` then. */
static int await_need(struct ec2 *e, struct ssh_host *h, struct error *err)
{
    struct ec2_place *p = h->lent;
    struct backend *b = e->b;
    struct pollfd fds[2] = {{.fd = b->set.stop_fd, .events = POLLIN},
                            {.fd = h->at.wake_fd, .events = POLLIN}};

    for (;;) {
        pthread_mutex_lock(&b->set.lock);
        h->at.tried = true; /* nobody is to wait for a vacant place at the start */
        if (p->next[0]) {
            memcpy(p->want, p->next, sizeof(p->want));
        } else if (!p->want[0] && !is_quiet(e)) { /* else it was taken over */
            const char *wish = unmet(b);
            if (!wish)
                wish = ahead(b);
            snprintf(p->want, sizeof(p->want), "%s", wish ? wish : "");
        }
        p->next[0] = '\0';
        bool wanted = p->want[0] != '\0';
        pthread_mutex_unlock(&b->set.lock);
        if (wanted)
            return 0;
        poll(fds, 2, LOOK_MS);
        if (fds[0].revents)
            return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
        event_clear(h->at.wake_fd);
    }
}

static int acquire(struct ssh_host *h, struct error *err)
{
    struct ec2 *e = h->b->provided;
    struct ec2_place *p = h->lent;

    int r = await_need(e, h, err);
    if (r < 0)
        return r;
    r = ec2_begin(e, h, err);
    if (r < 0)
        return r;
    size_t ami_len = strcspn(p->want, "+");
    cleanup_free char *ami = xstrndup(p->want, ami_len);
    cleanup_free char *typed = xasprintf("%s+%s", ami, p->type);
    pthread_mutex_lock(&e->b->set.lock);
    host_images_add(&h->at.images, ami, strlen(ami), ami);
    host_images_add(&h->at.images, typed, strlen(typed), typed);
    pthread_mutex_unlock(&e->b->set.lock);
    return 0;
}

static void came(struct ssh_host *h)
{
    struct ec2 *e = h->b->provided;
    struct ec2_place *p = h->lent;

    e->failures = 0;
    p->life = h->at.life;
    memcpy(p->lived, p->instance, sizeof(p->lived));
    p->lived_spot = p->spot[0] != '\0';
    p->lived_taken = false;
    touched(h);
}

/* What one place has met the others would meet too. */
static void be_quiet(struct ec2 *e, const struct error *err)
{
    pthread_mutex_lock(&e->b->set.lock);
    int64_t ms = clock_backoff_ms(++e->failures, QUIET_BASE_MS, QUIET_CAP_MS);
    e->quiet_until = clock_mono_ms() + ms;
    e->capped = err->code == ENOSPC;
    snprintf(e->why, sizeof(e->why), "%s", err->msg);
    hosts_wake(&e->b->set);
    pthread_mutex_unlock(&e->b->set.lock);
    log_event(LOG_WARN_, "ec2.none", "region", ec2_api_region(e->api), "reason", err->msg,
              "again_ms", LOG_NUM(ms), NULL);
}

static void release(struct ssh_host *h, const struct error *err)
{
    if (err)
        be_quiet(h->b->provided, err);
    pthread_mutex_lock(&h->b->set.lock);
    host_images_done(&h->at.images);
    pthread_mutex_unlock(&h->b->set.lock);
    ec2_end(h->b->provided, h);
}

static const struct ssh_provider provider = {
    .acquire = acquire,
    .came = came,
    .release = release,
    .tired = tired,
    .closed = closed,
    .touched = touched,
    .excused = ec2_excused,
};

static const struct host_supply supply_of_hosts = {.could = could, .why = why_not};

/* ---- the driver ---- */

static int ec2_health(struct backend *b, struct error *err)
{
    const struct ec2 *e = b->provided;
    bool up = false; /* or on its way there */

    pthread_mutex_lock(&b->set.lock);
    for (size_t i = 0; i < b->host_ct; i++)
        up = up || b->hosts[i].at.state != HOST_OUT || e->places[i].instance[0];
    int r = up || !is_quiet(e) ? 0 : err_set(err, ERR_TEMPORARY, EAGAIN, "%s", e->why);
    pthread_mutex_unlock(&b->set.lock);
    return r;
}

/* Places that are vacant are no hosts; why there may be none stands under the region's name. */
static void ec2_hosts(struct backend *b, void (*each)(void *arg, const char *name, const char *why),
                      void *arg)
{
    const struct ec2 *e = b->provided;

    pthread_mutex_lock(&b->set.lock);
    for (size_t i = 0; i < b->host_ct; i++) {
        const struct host *h = &b->hosts[i].at;
        const struct ec2_place *p = &e->places[i];
        if (h->state != HOST_OUT)
            each(arg, h->spec->name, h->state == HOST_UP ? NULL : h->why);
        else if (p->want[0])
            each(arg, h->spec->name,
                 p->instance[0] ? "its instance is on its way" : "an instance is asked for");
    }
    if (is_quiet(e))
        each(arg, ec2_api_region(e->api), e->why);
    pthread_mutex_unlock(&b->set.lock);
}

static void free_ec2(struct ec2 *e)
{
    while (e->owed) {
        struct ec2_owed *o = e->owed;
        e->owed = o->next;
        free(o);
    }
    for (size_t i = 0; i < e->place_ct; i++)
        free(e->places[i].spec.name);
    free(e->places);
    images_done(e->images, e->image_ct);
    ec2_ledger_free(e->ledger);
    ec2_api_free(e->api);
    close(e->wake_fd);
    free(e);
}

/* The places have ended their instances; what was not known to them yet ends by a last look. */
static void ec2_close(struct backend *b)
{
    struct ec2 *e = b->provided;
    bool started = e->sweeps;

    event_signal(b->set.stop_fd);
    ec2_ledger_end(e->ledger);
    ec2_sweep_stop(e);
    hosts_stop(&b->set);
    ec2_api_stop_fd(e->api, -1);
    if (started && !ec2_settle(e, clock_mono_ms() + LAST_MS))
        log_event(LOG_WARN_, "ec2.unsettled", "after_ms", LOG_NUM(LAST_MS), NULL);
    ssh_close(b);
    free_ec2(e);
}

static void make_places(struct ec2 *e, struct backend *b)
{
    static char none[] = "", direct[] = "direct";

    e->place_ct = (size_t)e->cfg->ec2_max;
    e->places = xcalloc(e->place_ct, sizeof(*e->places));
    for (size_t i = 0; i < e->place_ct; i++) {
        char *name = xasprintf("ec2-%zu", i + 1);
        e->places[i].spec = (struct config_ssh_host){.name = name,
                                                     .user = e->cfg->ec2_user,
                                                     .address = name,
                                                     .key = none,
                                                     .slots = (int)e->cfg->ec2_slots,
                                                     .labels = none,
                                                     .mode = direct,
                                                     .images = none,
                                                     .dir = e->cfg->ssh_dir};
        b->hosts[i].at.spec = &e->places[i].spec;
        b->hosts[i].lent = &e->places[i];
    }
}

/* What ssh itself would make of the key, since it is too late to say so when instances are paid
 * for. Its client and ssh-keygen come together. */
static int check_ssh(const struct config *cfg, struct error *err)
{
    char *const version[] = {cfg->ssh_program, (char[]){"-V"}, NULL};
    char *const show[] = {(char[]){"ssh-keygen"},
                          (char[]){"-y"},
                          (char[]){"-P"},
                          (char[]){""},
                          (char[]){"-f"},
                          cfg->ssh_key,
                          NULL};
    struct ssh_child c = SSH_CHILD_INIT;
    struct ssh_lines lines;
    char *line = NULL, *said = NULL;

    if (ssh_child_start(version, &c, err) < 0)
        return err_set(err, ERR_PERMANENT, ENOENT,
                       "ssh_program = %s cannot be run; install openssh-client", cfg->ssh_program);
    ssh_child_end(&c, CHECK_MS);
    if (ssh_child_start(show, &c, err) < 0)
        return err_set(err, ERR_PERMANENT, ENOENT,
                       "ssh-keygen cannot be run; install openssh-client");
    ssh_lines_init(&lines);
    int r = ssh_line(&lines, c.out_fd, clock_mono_ms() + CHECK_MS, -1, &line);
    if (r < 0)
        ssh_child_wait(&c, clock_mono_ms() + CHECK_MS);
    ssh_hear(&said, c.err_fd);
    ssh_child_end(&c, 0);
    cleanup_free char *why = ssh_last_words(said);
    free(said);
    buf_free(&lines.in);
    return r == 0 ? 0
                  : err_set(err, ERR_PERMANENT, EACCES,
                            "ssh_key = %s cannot be used: %.200s; it has to be a private key "
                            "without a passphrase that only this account can read",
                            cfg->ssh_key, why[0] ? why : "no key in it");
}

static int ec2_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    struct ec2 *e = xcalloc(1, sizeof(*e));
    struct error why = ERROR_INIT;

    e->cfg = cfg;
    e->wake_fd = event_new();
    int r = check_ssh(cfg, err);
    if (r == 0)
        r = ec2_api_new(cfg->ec2_region, &e->api, err);
    if (r == 0)
        r = ec2_ledger_new(cfg, ec2_api_region(e->api), e->wake_fd, &e->ledger, err);
    if (r == 0)
        r = ssh_backend_new(cfg, &driver_ec2, (size_t)cfg->ec2_max, &e->b, err);
    if (r < 0) {
        if (e->b)
            ssh_close(e->b);
        free_ec2(e);
        return r;
    }
    struct backend *b = e->b;
    b->provider = &provider;
    b->provided = e;
    b->set.supply = &supply_of_hosts;
    ec2_api_stop_fd(e->api, b->set.stop_fd);
    e->pace = (struct ec2_pace){ec2_ledger_quiet, ec2_ledger_throttled, e->ledger};
    ec2_api_pace(e->api, &e->pace);
    make_places(e, b);
    /* no rights, no keys: that does not pass by itself */
    if (look_images(e, &why) < 0 && why.class == ERR_PERMANENT) {
        if (err)
            *err = why;
        ec2_close(b);
        return -why.code;
    }
    ec2_adopt(e);
    r = ssh_backend_start(b, err);
    if (r < 0) {
        ec2_close(b);
        return r;
    }
    ec2_sweep_start(e);
    if (e->account[0])
        ec2_ledger_account(e->ledger, e->account);
    *ret = b;
    return 0;
}

const struct driver driver_ec2 = {
    .name = "ec2",
    .open = ec2_open,
    .close = ec2_close,
    .health = ec2_health,
    .probe = ec2_health,
    .images = ec2_images,
    .initialize = ssh_initialize,
    .read = ssh_read,
    .destroy = ssh_destroy,
    .limit_hit = ssh_limit_hit,
    .excused = ssh_excused,
    .list = ssh_list,
    .reap = ssh_reap,
    .fits = ssh_fits,
    .slots = ssh_slots,
    .hosts = ec2_hosts,
};
