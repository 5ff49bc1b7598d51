/* One machine by hand, without Redis and without a vmm: what a driver's tests drive.
 *
 *     driver_probe DRIVER run IMAGE [key=value ...]   one life (or runs=N), times of its steps to
 * stderr driver_probe DRIVER images | list | health driver_probe DRIVER reap NAME NAME `all`:
 * whatever list says driver_probe DRIVER import PATH NAME
 *
 * Keys of run: id= runs= makefile=TEXT (\n and \t are understood) kill-after=init|ready|load|go (by
 * SIGKILL, all left as it is) cancel_ms= (the cancel descriptor becomes readable so long after the
 * start) deadline_ms= timeout_ms= cores= memory= pids= disk= network=1 header=LINES digest= wait=1
 * (for room). The configuration is the services' own: MILONGA_CONFIG and MILONGA_*. Exits 0 when
 * the last run had a final record. */

#include "base/clock.h"
#include "base/mem.h"
#include "services/vmm/machine.h"
#include "services/vmm/pipe.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

static const struct driver *driver;
static struct backend *backend;
static char **args; /* key=value ... */

static const char *arg(const char *key, const char *otherwise)
{
    size_t len = strlen(key);

    for (char **a = args; a && *a; a++)
        if (strncmp(*a, key, len) == 0 && (*a)[len] == '=')
            return *a + len + 1;
    return otherwise;
}

static unsigned long long number(const char *key, unsigned long long otherwise)
{
    const char *text = arg(key, NULL);

    return text ? strtoull(text, NULL, 10) : otherwise;
}

static int fail(const char *what, const struct error *err)
{
    fprintf(stderr, "probe.failed step=%s class=%s code=%s msg=%s\n", what,
            err_class_name(err->class), strerrorname_np(err->code), err->msg);
    return 1;
}

static void maybe_die(const char *step)
{
    if (strcmp(arg("kill-after", ""), step) == 0)
        kill(getpid(), SIGKILL);
}

/* ---- a tar of one Makefile ---- */

static size_t make_tar(const char *makefile, char out[4096])
{
    char *text = out + 512;
    size_t len = 0;
    unsigned sum = 0;

    memset(out, 0, 4096);
    for (const char *p = makefile; *p && len < 1500; p++) {
        if (p[0] == '\\' && (p[1] == 'n' || p[1] == 't'))
            text[len++] = *++p == 'n' ? '\n' : '\t';
        else
            text[len++] = *p;
    }
    strcpy(out, "Makefile");
    strcpy(out + 100, "0000644");
    strcpy(out + 108, "0000000");
    strcpy(out + 116, "0000000");
    snprintf(out + 124, 12, "%011zo", len);
    strcpy(out + 136, "00000000000");
    memset(out + 148, ' ', 8);
    out[156] = '0';
    memcpy(out + 257, "ustar\00000", 8);
    for (int i = 0; i < 512; i++)
        sum += (unsigned char)out[i];
    snprintf(out + 148, 8, "%06o", sum & 0777777);
    return 512 + (len + 511) / 512 * 512 + 1024;
}

/* ---- a life ---- */

struct times {
    int64_t init, ready, load, run, destroy;
};

static int converse(struct pipe *p, struct times *t, struct error *err)
{
    char tar[4096];
    size_t tar_len = make_tar(arg("makefile", "all:\\n\\t@id -un; pwd; echo it runs\\n"), tar);
    cleanup_free char *header =
        xasprintf("job=1\ntoken=1.1\ntimeout_ms=%llu\nlease_ms=5000\noutput_bytes=100000\n%s\n",
                  number("timeout_ms", 20000), arg("header", ""));
    int64_t deadline = clock_mono_ms() + (int64_t)number("deadline_ms", 60000);
    struct frame f;

    int rc = pipe_ready(p->m, deadline, -1, err);
    t->ready = clock_mono_ms();
    maybe_die("ready");
    if (rc == 0)
        rc = pipe_send(p, FRAME_HEADER, header, (uint32_t)strlen(header), deadline, err);
    pipe_beat(p, 1000);
    if (rc == 0)
        rc = pipe_send(p, FRAME_TAR, tar, (uint32_t)tar_len, deadline, err);
    if (rc == 0)
        rc = pipe_send(p, FRAME_TAR_END, NULL, 0, deadline, err);
    if (rc == 0)
        rc = pipe_next(p, deadline, &f, err);
    if (rc < 0)
        return rc;
    t->load = clock_mono_ms();
    maybe_die("load");
    if (f.type != FRAME_LOADED)
        return err_set(err, ERR_TEMPORARY, EPROTO, "instead of L came %c %.*s", f.type, (int)f.len,
                       (const char *)f.data);
    rc = pipe_send(p, FRAME_GO, NULL, 0, deadline, err);
    maybe_die("go");
    while (rc == 0) {
        rc = pipe_next(p, deadline, &f, err);
        if (rc < 0)
            break;
        if (f.type == FRAME_OUTPUT)
            fwrite(f.data, 1, f.len, stdout);
        else if (f.type == FRAME_ERROR)
            return err_set(err, ERR_TEMPORARY, EPROTO, "Q %.*s", (int)f.len, (const char *)f.data);
        if (f.type == FRAME_FINAL) {
            fflush(stdout);
            fprintf(stderr, "%.*s", (int)f.len, (const char *)f.data);
            break;
        }
    }
    t->run = clock_mono_ms();
    return rc;
}

static int live(struct machine_spec *spec, int cancel_fd)
{
    struct error err = ERROR_INIT;
    struct machine *m = NULL;
    struct times t = {0};
    struct pipe p;
    int64_t begin = clock_mono_ms();

    int rc = driver->initialize(backend, spec, begin + (int64_t)number("deadline_ms", 60000),
                                cancel_fd, &m, &err);
    t.init = clock_mono_ms();
    maybe_die("init");
    if (rc < 0) {
        fprintf(stderr, "probe.ms failed_after=%lld\n", (long long)(t.init - begin));
        return fail("initialize", &err);
    }
    pipe_init(&p, m, -1);
    rc = converse(&p, &t, &err);
    pipe_done(&p);
    if (rc < 0)
        rc = fail("pipe", &err);
    if (number("ask_limit", rc != 0))
        fprintf(stderr, "probe.limit %d\n", driver->limit_hit ? (int)driver->limit_hit(m) : 0);
    t.destroy = clock_mono_ms();
    driver->destroy(m, clock_mono_ms() + 10000);
    int64_t end = clock_mono_ms();
    fprintf(stderr, "probe.ms init=%lld ready=%lld load=%lld run=%lld destroy=%lld all=%lld\n",
            (long long)(t.init - begin), (long long)(t.ready - t.init),
            (long long)(t.load - t.ready), (long long)(t.run - t.load),
            (long long)(end - t.destroy), (long long)(end - begin));
    return rc;
}

/* ---- commands ---- */

static void *cancel_later(void *fd)
{
    struct timespec ts = {.tv_sec = (time_t)(number("cancel_ms", 0) / 1000),
                          .tv_nsec = (long)(number("cancel_ms", 0) % 1000) * 1000000};
    nanosleep(&ts, NULL);
    eventfd_write(*(int *)fd, 1);
    return NULL;
}

struct search {
    const char *name;
    char *digest;
};

static void match(void *to, const struct image_entry *e)
{
    struct search *s = to;

    if (strcmp(e->name, s->name) == 0 && !s->digest)
        s->digest = xstrdup(e->digest);
}

/* There is no warm machine here to give up. */
static void nothing_to_spare(void *unused)
{
    (void)unused;
}

static int run(const char *image, const char *prefix)
{
    struct error err = ERROR_INIT;
    struct search s = {image, NULL};
    cleanup_close int cancel_fd = eventfd(0, EFD_CLOEXEC);
    struct machine_spec spec = {.id = (uint32_t)number("id", 1000),
                                .full = number("wait", 0) ? nothing_to_spare : NULL};
    pthread_t thread;
    int rc = 0;

    if (driver->images(backend, match, &s, &err) < 0)
        return fail("images", &err);
    if (arg("digest", NULL)) {
        free(s.digest);
        s.digest = xstrdup(arg("digest", ""));
    }
    if (!s.digest) {
        err_set(&err, ERR_REFUSED, ENOENT, "no image %s", image);
        return fail("images", &err);
    }
    spec.shape = (struct machine_shape){.image = (char *)image,
                                        .digest = s.digest,
                                        .cores_milli = (uint32_t)number("cores", 1000),
                                        .memory_mb = (uint32_t)number("memory", 256),
                                        .pids = (uint32_t)number("pids", 100),
                                        .disk_bytes = number("disk", 0),
                                        .network = number("network", 0)};
    bool cancel = arg("cancel_ms", NULL) != NULL;
    if (cancel)
        pthread_create(&thread, NULL, cancel_later, &cancel_fd);
    for (unsigned long long i = 0; i < number("runs", 1); i++, spec.id++) {
        machine_name(spec.name, prefix, spec.id, image);
        rc = live(&spec, cancel ? cancel_fd : -1);
    }
    if (cancel)
        pthread_join(thread, NULL);
    free(s.digest);
    return rc;
}

static void print_image(void *to, const struct image_entry *e)
{
    (void)to;
    printf("%s %s\n", e->name, e->digest);
}

static void print_name(void *to, const char *name)
{
    (void)to;
    printf("%s\n", name);
}

static void reap_one(void *to, const char *name)
{
    struct error err = ERROR_INIT;

    if (driver->reap(backend, name, &err) < 0)
        *(int *)to = fail("reap", &err);
}

static int command(char **argv, const struct config *cfg)
{
    struct error err = ERROR_INIT;
    const char *verb = argv[0], *what = argv[0][0] && argv[1] ? argv[1] : "";
    int rc, bad = 0;

    if (strcmp(verb, "run") == 0 && what[0]) {
        args = argv + 2;
        return run(what, cfg->prefix);
    }
    if (strcmp(verb, "images") == 0)
        rc = driver->images(backend, print_image, NULL, &err);
    else if (strcmp(verb, "list") == 0)
        rc = driver->list(backend, print_name, NULL, &err);
    else if (strcmp(verb, "health") == 0)
        rc = driver->health(backend, &err);
    else if (strcmp(verb, "reap") == 0 && strcmp(what, "all") == 0)
        rc = driver->list(backend, reap_one, &bad, &err);
    else if (strcmp(verb, "reap") == 0)
        rc = driver->reap(backend, what, &err);
    else if (strcmp(verb, "import") == 0 && what[0] && argv[2] && driver->import)
        rc = driver->import(backend, what, argv[2], &err);
    else
        rc = err_set(&err, ERR_REFUSED, EINVAL, "no such command");
    return rc < 0 ? fail(verb, &err) : bad;
}

int main(int argc, char **argv)
{
    struct error err = ERROR_INIT;
    struct config *cfg = NULL;

    signal(SIGPIPE, SIG_IGN);
    driver = argc > 2 ? driver_find(argv[1]) : NULL;
    if (!driver) {
        fprintf(stderr,
                "usage: driver_probe DRIVER run IMAGE [key=value ...] | images | list | health | "
                "reap NAME | import PATH NAME\n");
        return 2;
    }
    if (config_load(getenv("MILONGA_CONFIG"), &cfg, &err) < 0)
        return fail("config", &err);
    int64_t begin = clock_mono_ms();
    int rc = driver->open(cfg, &backend, &err) < 0 ? fail("open", &err) : 0;
    if (rc == 0 && driver->settle)
        driver->settle(backend, clock_mono_ms() + 20000, -1);
    if (rc == 0) {
        if (number("runs", 1) > 1)
            fprintf(stderr, "probe.open ms=%lld\n", (long long)(clock_mono_ms() - begin));
        rc = command(argv + 2, cfg);
        driver->close(backend);
    }
    config_free(cfg);
    return rc;
}
