#include "services/vmm/drivers/ssh_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/pipe.h"
#include "services/vmm/sync.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define BOOT_MS       30000 /* to log in, copy the programs and sweep */
#define PROOF_MS      20000
#define STARTS_MS     60000 /* for the sshd of a rented host to be there */
#define AGAIN_MS      1000
#define GREETINGS_MAX 200  /* lines that a login shell says before ours */
#define GONE_MS       2000 /* for a master to end by itself */
#define PROOF_NAME    "probe"

/* ---- what a master says ---- */

/* An error with what ssh had to say about it, which is mostly the reason itself. */
static int explain(struct ssh_host *h, int r, struct error *err)
{
    for (unsigned i = 0; i < h->lane_ct; i++)
        ssh_hear(&h->said, h->lanes[i].child.err_fd);
    cleanup_free char *said = ssh_last_words(h->said);
    if (said[0] && r != -ECANCELED) {
        struct error was = *err;
        err_set(err, was.class, was.code, "%.300s (%.100s)", said, was.msg);
    }
    return r;
}

static int lost(struct ssh_host *h, int r, const char *what, struct error *err)
{
    if (r == -EPIPE)
        err_set(err, ERR_TEMPORARY, EPIPE, "%s: the connection has ended", what);
    else if (r == -ETIMEDOUT)
        err_set(err, ERR_TEMPORARY, ETIMEDOUT, "%s: no answer in time", what);
    else
        err_set_errno(err, ERR_TEMPORARY, -r, "%s", what);
    return explain(h, r, err);
}

/* ---- connecting ---- */

static int start_lane(struct ssh_host *h, unsigned i, const char *command, struct error *err)
{
    struct ssh_lane *lane = &h->lanes[i];
    struct ssh_words words = {0};

    /* A socket of its own for each life: one that a killed vmm has left is in nobody's way. */
    lane->control =
        xasprintf("%s/%u.%llu.%u", h->b->set.dir, h->number, (unsigned long long)h->at.life, i);
    ssh_master_words(h->b->cfg, h->at.spec, &h->reach, lane->control, command, &words);
    int r = ssh_child_start(words.v, &lane->child, err);
    ssh_words_done(&words);
    return r;
}

static int say(struct ssh_child *c, const char *text)
{
    size_t len = strlen(text);
    ssize_t n = write(c->in_fd, text, len);

    return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EAGAIN;
}

/* From the login to the greeting of the dialogue; the architecture in arch. */
static int log_in(struct ssh_host *h, int64_t deadline, char arch[32], struct error *err)
{
    struct ssh_child *c = &h->lanes[0].child;
    char *line = NULL;

    for (unsigned i = 0; i < GREETINGS_MAX; i++) {
        int r = ssh_line(&h->lines, c->out_fd, deadline, h->b->set.stop_fd, &line);
        if (r < 0)
            return lost(h, r, i == 0 ? "log in" : "become root and begin", err);
        if (strcmp(line, "milonga-sudo") == 0 || strcmp(line, "milonga-root") == 0)
            h->sudo = line[8] == 's';
        else if (sscanf(line, "milonga-host %31s", arch) == 1)
            return 0;
    }
    return err_set(err, ERR_PERMANENT, EPROTO, "its login shell says too much and nothing of ours");
}

static int put_programs(struct ssh_host *h, const char *arch, int64_t deadline, struct error *err)
{
    static const char *const what[] = {"autodriver", "hostdriver"};
    char *const names[] = {h->autodriver, h->hostdriver};
    struct ssh_child *c = &h->lanes[0].child;

    for (size_t i = 0; i < ARRAY_SIZE(what); i++) {
        struct ssh_program p = {0};
        int r = ssh_program_load(h->b->cfg, what[i], arch, &p, err);
        if (r == 0)
            r = ssh_program_put(&p, c, &h->lines, deadline, h->b->set.stop_fd, err);
        snprintf(names[i], sizeof(h->autodriver), "%s", p.name);
        ssh_program_done(&p);
        if (r < 0)
            return explain(h, r, err);
    }
    cleanup_free char *run = xasprintf("run %s\n", h->hostdriver);
    int r = say(c, run);
    return r < 0 ? lost(h, r, "start the hostdriver", err) : 0;
}

static int greet(struct ssh_host *h, int64_t deadline, struct error *err)
{
    const struct config *cfg = h->b->cfg;
    struct ssh_child *c = &h->lanes[0].child;
    int64_t lease = cfg->pipe_lease_ms + cfg->ssh_dead_ms; /* longer than we take to give it up */
    char *line = NULL;

    cleanup_free char *hello = xasprintf("hello %s %lld %s %s\n", h->b->id, (long long)lease,
                                         h->at.spec->mode, h->autodriver);
    int r = say(c, hello);
    if (r == 0)
        r = ssh_line(&h->lines, c->out_fd, deadline, h->b->set.stop_fd, &line);
    if (r < 0)
        return lost(h, r, "greet the hostdriver", err);
    if (strncmp(line, "busy ", 5) == 0)
        return err_set(err, ERR_TEMPORARY, EBUSY, "the host is used by %.200s", line + 5);
    if (strncmp(line, "fail ", 5) == 0)
        return err_set(err, ERR_TEMPORARY, EIO, "%.400s", line + 5);
    if (sscanf(line, "ready epoch=%23[0-9a-f]", h->epoch) != 1)
        return err_set(err, ERR_TEMPORARY, EPROTO, "the hostdriver said \"%.100s\"", line);
    log_event(LOG_INFO_, "host.keeps", "host", h->at.spec->name, "says", line, NULL);
    return 0;
}

/* The lanes of machines echo a line, and so are known to be there. */
static int open_lanes(struct ssh_host *h, int64_t deadline, struct error *err)
{
    struct ssh_start s;

    ssh_host_place(h, 0, &s);
    cleanup_free char *command = ssh_hold_command(&s);
    for (unsigned i = 1; i < h->lane_ct; i++) {
        struct ssh_lines lines;
        char *line = NULL;

        int r = start_lane(h, i, command, err);
        if (r < 0)
            return r;
        ssh_lines_init(&lines);
        r = say(&h->lanes[i].child, "milonga\n");
        for (unsigned k = 0; r == 0 && k < GREETINGS_MAX; k++) {
            r = ssh_line(&lines, h->lanes[i].child.out_fd, deadline, h->b->set.stop_fd, &line);
            if (r == 0 && strcmp(line, "milonga") == 0)
                break;
        }
        buf_free(&lines.in);
        if (r < 0)
            return lost(h, r, "open a further connection", err);
    }
    return 0;
}

static bool is_direct(const struct host *h)
{
    return strcmp(h->spec->mode, "direct") == 0;
}

/* A machine of nothing but the autodriver: what the host cannot give shows here, before a job is
 * sent there. An engine's needs an image, which is the jobs' own: one of which there was a machine
 * before. */
int ssh_host_prove(struct host *at, struct error *err)
{
    struct ssh_host *h = ssh_host(at);
    struct ssh_start s;
    char digest[sizeof(h->good)];
    struct machine_spec spec = {.shape = {.image = (char[]){"probe"},
                                          .digest = digest,
                                          .cores_milli = 1000,
                                          .memory_mb = 64,
                                          .pids = 16,
                                          .disk_bytes = 1 << 20},
                                .name = PROOF_NAME};
    /* no beat is sent meanwhile */
    int64_t deadline = clock_mono_ms() + h->b->cfg->pipe_lease_ms;
    struct machine *m = NULL;

    pthread_mutex_lock(&at->set->lock);
    snprintf(digest, sizeof(digest), "%s", is_direct(at) ? "" : h->good);
    bool could = is_direct(at) || host_has_image(at, digest);
    ssh_host_place(h, 1, &s);
    pthread_mutex_unlock(&at->set->lock);
    if (!could)
        return err_set(err, ERR_REFUSED, ENOENT, "there is no image of which one was made before");
    int r = ssh_machine_make(&s, &spec, deadline, at->set->stop_fd, &m, err);
    if (r < 0)
        return r;
    r = pipe_ready(m, deadline, at->set->stop_fd, err);
    if (!ssh_machine_end(m, deadline) && r == 0)
        r = err_set(err, ERR_TEMPORARY, EIO, "a machine that was made could not be removed");
    return r;
}

static int connect_host(struct ssh_host *h, struct error *err)
{
    int64_t deadline = clock_mono_ms() + BOOT_MS;
    cleanup_free char *command = ssh_boot_command(h->at.spec->dir);
    char arch[32] = "";

    free(TAKE_PTR(h->said));
    int r = start_lane(h, 0, command, err);
    if (r == 0)
        r = log_in(h, deadline, arch, err);
    if (r == 0)
        r = put_programs(h, arch, deadline, err);
    if (r == 0)
        r = greet(h, deadline, err);
    if (r == 0)
        r = open_lanes(h, deadline, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&h->talk);
    h->open = true;
    pthread_mutex_unlock(&h->talk);
    r = host_ask_images(&h->at, err);
    return r == 0 && is_direct(&h->at) ? ssh_host_prove(&h->at, err) : r;
}

/* All of it, whatever is left. What runs there ends with the keeper's session. */
static void disconnect(struct ssh_host *h, bool kindly)
{
    for (unsigned i = 0; i < h->lane_ct && !kindly; i++)
        if (h->lanes[i].child.pid > 0)
            kill(h->lanes[i].child.pid, SIGKILL); /* ends a conversation, too */
    pthread_mutex_lock(&h->talk);
    h->open = false;
    for (unsigned i = 0; i < h->lane_ct; i++) {
        ssh_hear(&h->said, h->lanes[i].child.err_fd);
        ssh_child_end(&h->lanes[i].child, kindly ? GONE_MS : 0);
    }
    buf_free(&h->lines.in);
    ssh_lines_init(&h->lines);
    pthread_mutex_unlock(&h->talk);
    pthread_mutex_lock(&h->b->set.lock);
    for (unsigned i = 0; i < h->lane_ct; i++) {
        if (h->lanes[i].control)
            unlink(h->lanes[i].control);
        free(TAKE_PTR(h->lanes[i].control));
        h->lanes[i].sessions = 0;
    }
    pthread_mutex_unlock(&h->b->set.lock);
}

/* ---- talking ---- */

static int talk(struct ssh_host *h, const char *line, void (*each)(void *arg, const char *line),
                void *arg, int64_t deadline, struct error *err)
{
    struct ssh_child *c = &h->lanes[0].child;
    cleanup_free char *order = xasprintf("%s\n", line);
    char *got = NULL;

    int r = say(c, order);
    while (r == 0) {
        r = ssh_line(&h->lines, c->out_fd, deadline, -1, &got);
        if (r < 0)
            break;
        if (strncmp(got, "fail ", 5) == 0)
            return err_set(err, ERR_REFUSED, EIO, "%s: %.300s", h->at.spec->name, got + 5);
        if (strcmp(got, "end") == 0 || strcmp(got, "reaped") == 0 || strncmp(got, "alive ", 6) == 0)
            return 0;
        if (each)
            each(arg, got);
    }
    return err_set_errno(err, ERR_TEMPORARY, -r, "host %s does not answer \"%s\"", h->at.spec->name,
                         line);
}

/* With `talk`, which it gives back. */
static int converse(struct ssh_host *h, uint64_t life, const char *line,
                    void (*each)(void *arg, const char *line), void *arg, int64_t ms,
                    struct error *err)
{
    struct error why = ERROR_INIT;

    pthread_mutex_lock(&h->b->set.lock);
    uint64_t now = h->at.life; /* changes only while it is not open */
    pthread_mutex_unlock(&h->b->set.lock);
    bool open = h->open && (life == 0 || life == now);
    int r =
        open ? talk(h, line, each, arg, clock_mono_ms() + ms, &why)
             : err_set(&why, ERR_TEMPORARY, ENOTCONN, "host %s is not connected", h->at.spec->name);
    pthread_mutex_unlock(&h->talk);
    if (r < 0 && open && why.class != ERR_REFUSED)
        host_doom(&h->at, now, why.msg);
    if (r < 0 && err)
        *err = why;
    return r;
}

int ssh_host_ask(struct ssh_host *h, uint64_t life, const char *line,
                 void (*each)(void *arg, const char *line), void *arg, int64_t ms,
                 struct error *err)
{
    pthread_mutex_lock(&h->talk);
    return converse(h, life, line, each, arg, ms, err);
}

/* What is asked already proves as much, or dooms the host; and a keeper that waits for its engine
 * answers nothing else meanwhile. Whether the host is there at all is found by ssh itself. */
static bool beat(struct ssh_host *h, int64_t ms)
{
    return pthread_mutex_trylock(&h->talk) != 0 ||
           converse(h, h->at.life, "beat", NULL, NULL, ms, NULL) == 0;
}

void ssh_host_place(struct ssh_host *h, unsigned lane, struct ssh_start *ret)
{
    *ret = (struct ssh_start){.at = {&h->at, h->at.life, lane}, .sudo = h->sudo};
    snprintf(ret->control, sizeof(ret->control), "%s", h->lanes[lane].control);
    memcpy(ret->epoch, h->epoch, sizeof(ret->epoch));
    memcpy(ret->hostdriver, h->hostdriver, sizeof(ret->hostdriver));
    memcpy(ret->autodriver, h->autodriver, sizeof(ret->autodriver));
}

/* ---- images ---- */

/* "image NAME:TAG ID". A job may leave ":latest" out, and "localhost/", which is podman's. */
static void each_image(void *arg, const char *line)
{
    const char *name = strncmp(line, "image ", 6) == 0 ? line + 6 : "";
    size_t len = strcspn(name, " ");
    const char *id = name + len + (name[len] == ' ');

    if (len == 0 || *id == '\0' || strchr(name, '<') || strpbrk(id, " ,"))
        return;
    if (strncmp(name, "localhost/", 10) == 0) {
        name += 10;
        len -= 10;
    }
    host_images_add(arg, name, len, id);
    if (len > 7 && strncmp(name + len - 7, ":latest", 7) == 0)
        host_images_add(arg, name, len - 7, id);
}

int ssh_host_images(struct host *h, struct host_images *ret, struct error *err)
{
    return ssh_host_ask(ssh_host(h), 0, "images", each_image, ret, BOOT_MS, err);
}

static void configured_images(struct ssh_host *h)
{
    cleanup_free char *names = xstrdup(h->at.spec->images[0] ? h->at.spec->images : "ssh");
    char *save = NULL;

    for (char *n = strtok_r(names, ",", &save); n; n = strtok_r(NULL, ",", &save)) {
        cleanup_free char *digest = xasprintf("ssh:%s", n);
        host_images_add(&h->at.images, n, strlen(n), digest);
    }
}

/* ---- the thread ---- */

/* Sleeps until it is time for the next beat; false when the connection is over. */
static bool watch(struct ssh_host *h, int64_t until)
{
    struct pollfd fds[2 + 2 * 16];
    nfds_t ct = 0;

    fds[ct++] = (struct pollfd){.fd = h->b->set.stop_fd, .events = POLLIN};
    fds[ct++] = (struct pollfd){.fd = h->at.wake_fd, .events = POLLIN};
    for (unsigned i = 0; i < h->lane_ct; i++) {
        fds[ct++] = (struct pollfd){.fd = h->lanes[i].child.pidfd, .events = POLLIN};
        fds[ct++] = (struct pollfd){.fd = h->lanes[i].child.err_fd, .events = POLLIN};
    }
    poll(fds, ct, clock_until_ms(until));
    event_clear(h->at.wake_fd);
    if (fds[0].revents)
        return false;
    for (unsigned i = 0; i < h->lane_ct; i++) {
        ssh_hear(&h->said, h->lanes[i].child.err_fd);
        if (fds[2 + 2 * i].revents) {
            struct error err = ERROR_INIT;
            lost(h, -EPIPE, "ssh", &err);
            host_doom(&h->at, h->at.life, err.msg);
        }
    }
    return host_is_good(&h->at);
}

/* A rented host without machines that is no longer wanted: from here on it gets none. */
static bool let_go(struct ssh_host *h)
{
    const struct ssh_provider *p = h->b->provider;

    if (!p)
        return false;
    pthread_mutex_lock(&h->b->set.lock);
    const char *why = h->at.state == HOST_UP && h->at.busy == 0 ? p->tired(h) : NULL;
    if (why) {
        h->at.state = HOST_OUT;
        snprintf(h->at.why, sizeof(h->at.why), "%s", why);
    }
    pthread_mutex_unlock(&h->b->set.lock);
    return why != NULL;
}

/* True: it was let go, and did nothing wrong. */
bool ssh_host_serve(struct host *at)
{
    struct ssh_host *h = ssh_host(at);
    int64_t every = h->b->cfg->ssh_dead_ms / 4, beat_at = clock_mono_ms() + every;

    while (watch(h, beat_at)) {
        if (let_go(h))
            return true;
        if (clock_mono_ms() < beat_at)
            continue;
        if (!beat(h, 3 * every))
            continue; /* doomed by it */
        beat_at = clock_mono_ms() + every;
    }
    return false;
}

/* A host that has only just got its address may fail in many ways; these do not pass. */
static bool boots_still(const struct error *err)
{
    static const char *const signs[] = {"Host key verification failed", "Permission denied"};

    for (size_t i = 0; i < ARRAY_SIZE(signs); i++)
        if (strstr(err->msg, signs[i]))
            return false;
    return err->class == ERR_TEMPORARY;
}

/* A rented host may need some tries, for it has only just begun. */
int ssh_host_connect(struct host *at, struct error *err)
{
    struct ssh_host *h = ssh_host(at);
    int64_t until = clock_mono_ms();
    int r = 0;

    if (h->b->provider) {
        r = h->b->provider->acquire(h, err);
        until = clock_mono_ms() + STARTS_MS;
    }
    for (; r == 0; host_begin_life(at)) {
        r = connect_host(h, err);
        if (r == 0 || !boots_still(err) || clock_mono_ms() >= until || host_is_stopping(&h->at))
            return r;
        disconnect(h, false);
        r = event_wait(h->b->set.stop_fd, clock_mono_ms() + AGAIN_MS) ? -ECANCELED : 0;
    }
    return r;
}

void ssh_host_disconnect(struct host *at, bool kindly, const struct error *why)
{
    struct ssh_host *h = ssh_host(at);

    disconnect(h, kindly);
    if (h->b->provider)
        h->b->provider->release(h, why);
}

void ssh_host_prepare(struct ssh_host *h)
{
    unsigned slots = (unsigned)h->at.spec->slots;

    h->lane_ct = 1 + (slots + SSH_LANE_MACHINES - 1) / SSH_LANE_MACHINES;
    h->lanes = xcalloc(h->lane_ct, sizeof(*h->lanes));
    for (unsigned i = 0; i < h->lane_ct; i++)
        h->lanes[i].child = (struct ssh_child)SSH_CHILD_INIT;
    pthread_mutex_init(&h->talk, NULL);
    ssh_lines_init(&h->lines);
    h->at.images_fixed = is_direct(&h->at);
    if (is_direct(&h->at) && !h->b->provider)
        configured_images(h);
}

void ssh_host_done(struct ssh_host *h)
{
    if (!h->lanes)
        return;
    free(h->lanes);
    free(h->said);
    buf_free(&h->lines.in);
    pthread_mutex_destroy(&h->talk);
}
