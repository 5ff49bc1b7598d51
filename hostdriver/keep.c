#include "keep.h"

#include "engine.h"
#include "host.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define HELLO_MS 10000
#define LINE_LEN 1024

struct keeper {
    struct host host;
    char mode[16];
    int64_t lease_ms;
    struct owner owner;
    char autodriver[80];
    char in[LINE_LEN];
    size_t in_len;
};

/* ---- lines ---- */

/* The next line without its newline, in `line`. -EPIPE at the end, -ETIMEDOUT at the deadline. */
static int read_line(struct keeper *k, int64_t deadline, char line[LINE_LEN])
{
    for (;;) {
        char *end = memchr(k->in, '\n', k->in_len);
        if (end) {
            size_t len = (size_t)(end - k->in);
            memcpy(line, k->in, len);
            line[len] = '\0';
            k->in_len -= len + 1;
            memmove(k->in, end + 1, k->in_len);
            return 0;
        }
        if (k->in_len == sizeof(k->in))
            return -EPIPE; /* not one of ours */
        struct pollfd p = {.fd = 0, .events = POLLIN};
        int n = poll(&p, 1, clock_until_ms(deadline));
        if (n == 0)
            return -ETIMEDOUT;
        ssize_t got = n < 0 ? -1 : read(0, k->in + k->in_len, sizeof(k->in) - k->in_len);
        if (got == 0)
            return -EPIPE;
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return -EPIPE;
        if (got > 0)
            k->in_len += (size_t)got;
    }
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* One line; whatever it holds, no more than one. */
static void say(const char *fmt, ...)
{
    char line[LINE_LEN];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
    strcat(line, "\n");
    write_all(1, line, strlen(line)); /* one that is not read is found by the end of stdin */
}

/* ---- machines ---- */

static bool by_engine(const struct keeper *k)
{
    return mode_is_engine(k->mode);
}

struct each_arg {
    struct keeper *k;
    char **names;
    size_t ct;
};

static void collect(void *arg, const char *name)
{
    struct each_arg *a = arg;

    for (size_t i = 0; i < a->ct; i++)
        if (strcmp(a->names[i], name) == 0)
            return;
    a->names = xrealloc(a->names, (a->ct + 1) * sizeof(*a->names));
    a->names[a->ct++] = xstrdup(name);
}

static void names_free(struct each_arg *a)
{
    for (size_t i = 0; i < a->ct; i++)
        free(a->names[i]);
    free(a->names);
}

static int names_of(struct keeper *k, struct each_arg *a, struct error *err)
{
    *a = (struct each_arg){.k = k};
    int r = host_each(&k->host, collect, a, err);
    if (r == 0 && by_engine(k)) {
        cleanup_free char *text = NULL;
        char *save = NULL;

        r = engine_names(k->mode, k->host.path, &text, err);
        for (char *n = r == 0 ? strtok_r(text, "\n", &save) : NULL; n;
             n = strtok_r(NULL, "\n", &save))
            if (host_name_ok(n))
                collect(a, n);
    }
    return r;
}

static int end_machine(struct keeper *k, const char *name, struct error *err)
{
    if (by_engine(k)) {
        int r = engine_remove(k->mode, name, err);
        if (r < 0)
            return r;
    }
    return host_end_machine(&k->host, name, err);
}

/* Ends all that is there. The number, or an error when one could not be ended. */
static int end_all(struct keeper *k, struct error *err)
{
    struct each_arg a;
    int r = names_of(k, &a, err);
    int ct = (int)a.ct;

    for (size_t i = 0; i < a.ct; i++) {
        struct error e = ERROR_INIT;
        int one = end_machine(k, a.names[i], &e);
        if (one < 0 && r == 0)
            r = err_set(err, e.class, e.code, "machine %s: %s", a.names[i], e.msg);
    }
    names_free(&a);
    return r < 0 ? r : ct;
}

/* ---- beginning ---- */

static int take_host(struct keeper *k, const char *dir, int *ret_swept, struct error *err)
{
    struct owner other = {.id = "somebody"};
    unsigned char random[8];

    int r = host_open(dir, !by_engine(k), &k->host, err);
    if (r < 0)
        return r;
    int lock = host_lock(&k->host, "lock", LOCK_EX, 0, err); /* held until our end */
    if (lock == -EWOULDBLOCK) {
        host_read_owner(&k->host, &other, NULL);
        say("busy %s", other.id);
        return lock;
    }
    if (lock < 0)
        return lock;
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return err_set_errno(err, ERR_TEMPORARY, errno, "getrandom");
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(k->owner.epoch + 2 * i, 3, "%02x", random[i]);
    k->owner.pid = getpid();
    int gate = host_lock(&k->host, "gate", LOCK_EX, WAIT_MS, err);
    if (gate < 0)
        return gate;
    r = host_write_owner(&k->host, &k->owner, err);
    if (r == 0)
        r = end_all(k, err);
    close(gate);
    if (r < 0)
        return err_wrap(err, "cannot clear what an earlier vmm left");
    *ret_swept = r;
    return 0;
}

static bool is_program(const char *name)
{
    name += name[0] == '.'; /* one whose copying was cut off */
    return strncmp(name, "autodriver-", 11) == 0 || strncmp(name, "hostdriver-", 11) == 0;
}

static void remove_old_programs(const struct keeper *k)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    int fd = openat(k->host.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    self[n > 0 ? n : 0] = '\0';
    const char *own = strrchr(self, '/');
    for (struct dirent *e; d && own && (e = readdir(d)) != NULL;)
        if (is_program(e->d_name) && strcmp(e->d_name, own + 1) != 0 &&
            strcmp(e->d_name, k->autodriver) != 0)
            unlinkat(k->host.fd, e->d_name, 0);
    if (d)
        closedir(d);
}

static int begin(struct keeper *k, const char *dir)
{
    struct error err = ERROR_INIT;
    struct sysinfo info;
    char line[LINE_LEN];
    long long lease;
    int swept = 0;

    if (read_line(k, clock_mono_ms() + HELLO_MS, line) < 0)
        return -EPIPE;
    if (sscanf(line, "hello %199s %lld %15s %79s", k->owner.id, &lease, k->mode, k->autodriver) !=
            4 ||
        lease <= 0 || (strcmp(k->mode, MODE_DIRECT) != 0 && !by_engine(k))) {
        say("fail the greeting is not one of this version's");
        return -EPROTO;
    }
    k->lease_ms = lease;
    int r = take_host(k, dir, &swept, &err);
    if (r < 0) {
        if (r != -EWOULDBLOCK)
            say("fail %s", err.msg);
        return r;
    }
    remove_old_programs(k);
    sysinfo(&info);
    say("ready epoch=%s cores=%ld memory_mb=%llu swept=%d", k->owner.epoch,
        sysconf(_SC_NPROCESSORS_ONLN), (unsigned long long)info.totalram * info.mem_unit >> 20,
        swept);
    return 0;
}

/* ---- answering ---- */

static void answer_list(struct keeper *k)
{
    struct error err = ERROR_INIT;
    struct each_arg a;

    int r = names_of(k, &a, &err);
    for (size_t i = 0; r == 0 && i < a.ct; i++)
        say("machine %s", a.names[i]);
    if (r < 0)
        say("fail %s", err.msg);
    else
        say("end");
    names_free(&a);
}

static void answer_images(struct keeper *k)
{
    struct error err = ERROR_INIT;
    cleanup_free char *text = NULL;
    char *save = NULL;

    if (by_engine(k) && engine_images(k->mode, &text, &err) < 0) {
        say("fail %s", err.msg);
        return;
    }
    for (char *l = text ? strtok_r(text, "\n", &save) : NULL; l; l = strtok_r(NULL, "\n", &save))
        say("image %s", l);
    say("end");
}

static void answer_reap(struct keeper *k, const char *name)
{
    struct error err = ERROR_INIT;

    if (!host_name_ok(name))
        say("fail %s is not a machine's name", name);
    else if (end_machine(k, name, &err) < 0)
        say("fail %s", err.msg);
    else
        say("reaped");
}

static void count(void *arg, const char *name)
{
    (void)name;
    ++*(unsigned *)arg;
}

static void answer(struct keeper *k, const char *line)
{
    unsigned machines = 0;

    if (strcmp(line, "beat") == 0) {
        const struct host plain = {.path = k->host.path, .machines_fd = k->host.machines_fd};

        host_each(&plain, count, &machines, NULL);
        say("alive %u", machines);
    } else if (strcmp(line, "list") == 0) {
        answer_list(k);
    } else if (strcmp(line, "images") == 0) {
        answer_images(k);
    } else if (strncmp(line, "reap ", 5) == 0) {
        answer_reap(k, line + 5);
    } else {
        say("fail no such command");
    }
}

int keep_main(const char *dir)
{
    static struct keeper k;
    char line[LINE_LEN];

    if (begin(&k, dir) < 0)
        return 1;
    while (read_line(&k, clock_mono_ms() + k.lease_ms, line) == 0)
        answer(&k, line);
    end_all(&k, NULL); /* what cannot be ended now is swept by the next keeper */
    cgroup_tree_close(k.host.groups);
    return 0;
}
