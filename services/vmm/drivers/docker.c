#include "docker_private.h"

#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Containers of Docker's engine, or of Podman's under Docker's API: a machine is a container whose
 * program is the autodriver, lent by a read-only bind mount, and its pipe is the attached stream.
 * Nothing is copied and nothing is executed in it from outside.
 *
 *     create -> attach -> start ... -> delete
 *
 * Attached before it starts, or what it says first could be lost: an engine gives a stream to
 * nobody when nobody is there (Podman sets a created container up when it is attached to). */

#define LABEL_DEPLOYMENT "milonga.deployment"
#define LABEL_VMM        "milonga.vmm"
#define LABEL_MACHINE    "milonga.machine"

#define OWN_PIDS 16 /* runtime and autodriver, beside the job's */
#define MOUNT_AT "/.milonga"
#define ASK_MS   10000 /* calls that have no deadline of their caller's */
#define INFO_MS  30000 /* Podman counts all it has for it */
#define GRACE_MS 5000  /* for a create that is cancelled */
#define GOING_MS 500   /* for an autodriver to end by itself */
#define STATE_MS 3000  /* for a container to come to a state that it is on its way to */

struct docker_machine {
    char id[80];
    bool has_job; /* as far as the bound on its disk knows */
    struct engine_demux demux;
};

static int64_t soon(int64_t ms)
{
    return clock_mono_ms() + ms;
}

/* ---- opening ---- */

/* Where the engine finds the autodriver. */
static int lay_out(struct backend *b, struct error *err)
{
    cleanup_free char *folder = NULL, *seen = NULL;
    int rc = docker_lay_out(b->cfg, &folder, &b->layout_fd, err);

    if (rc == 0)
        rc = docker_engine_path(b, &seen, err);
    if (rc < 0)
        return rc;
    b->bind = xasprintf("%s/%s:%s:ro", seen, folder, MOUNT_AT);
    return 0;
}

static bool host_swaps(void)
{
    cleanup_free char *text = NULL;
    size_t len = 0;

    if (read_file("/proc/swaps", 1 << 20, &text, &len) < 0)
        return true;
    const char *first = strchr(text, '\n'); /* behind the titles */
    return first && first[1] != '\0';
}

static bool says(const json_t *info, const char *key, const char *other)
{
    return json_is_true(json_object_get(info, key)) || json_is_true(json_object_get(info, other));
}

static bool has_seccomp(const json_t *info)
{
    const json_t *list = json_object_get(info, "SecurityOptions"), *one;
    size_t i;

    json_array_foreach(list, i, one)
    {
        const char *text = json_string_value(one);
        if (text && strncmp(text, "name=seccomp", 12) == 0)
            return true;
    }
    return false;
}

/* The ID alone is a file below /etc/docker, which hosts made from one disk image have in common,
 * and engines of one host. */
static void note_identity(struct backend *b, const json_t *info)
{
    static const char *const keys[] = {"ID", "Name", "DockerRootDir"};
    char text[sizeof(b->identity)];
    size_t at = 0;

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const char *one = json_string_value(json_object_get(info, keys[i]));
        if (!one || !one[0])
            return; /* then it cannot be told */
        int n = snprintf(text + at, sizeof(text) - at, "%s ", one);
        if (n < 0 || at + (size_t)n >= sizeof(text))
            return;
        at += (size_t)n;
    }
    memcpy(b->identity, text, at + 1);
}

/* Every layer that a machine counts on (invariant 7). */
static int check_layers(struct backend *b, struct error *err)
{
    json_t *info = NULL;
    int rc = engine_get(b->engine, "/info", soon(INFO_MS), -1, &info, err);

    if (rc < 0)
        return rc;
    const char *lack = NULL;
    if (!says(info, "MemoryLimit", "MemoryLimit"))
        lack = "limit memory; enable the memory cgroup (cgroup_enable=memory)";
    else if (!says(info, "SwapLimit", "SwapLimit") && (b->elsewhere || host_swaps()))
        lack = "limit swap; boot with swapaccount=1, or turn swap off";
    else if (!says(info, "PidsLimit", "PidsLimit"))
        lack = "limit processes; enable the pids cgroup";
    else if (!says(info, "CpuCfsQuota", "CPUCfsQuota"))
        lack = "limit CPU time; enable CONFIG_CFS_BANDWIDTH and the cpu cgroup";
    else if (!has_seccomp(info))
        lack = "filter system calls; enable seccomp in the kernel and the engine";
    note_identity(b, info);
    json_decref(info);
    if (lack)
        return err_set(err, ERR_PERMANENT, ENOTSUP, "the engine at %s cannot %s", b->url, lack);
    return 0;
}

static char *label_filter(const struct backend *b)
{
    json_t *filter = json_pack("{s:[s,s]}", "label", b->deployment_label, b->vmm_label);
    cleanup_free char *text = json_dumps(filter, JSON_COMPACT);
    char *escaped = curl_easy_escape(NULL, text, 0);
    char *query = xasprintf("/containers/json?all=1&filters=%s", escaped);

    curl_free(escaped);
    json_decref(filter);
    return query;
}

void docker_close(struct backend *b)
{
    disk_watch_free(b->disk);
    engine_free(b->engine);
    pthread_mutex_destroy(&b->import_lock);
    pthread_mutex_destroy(&b->before_lock);
    free(b->deployment_label);
    free(b->vmm_label);
    free(b->filter);
    free(b->bind);
    free(b->url);
    docker_put_free(b->put);
    if (b->layout_fd >= 0)
        close(b->layout_fd);
    free(b);
}

int docker_new(const struct config *cfg, const char *url, struct backend **ret, struct error *err)
{
    struct engine *engine = NULL;
    int rc = engine_new(url, &engine, err);

    if (rc < 0)
        return rc;
    struct backend *b = xcalloc(1, sizeof(*b));
    b->cfg = cfg;
    b->layout_fd = -1;
    b->engine = engine;
    b->url = xstrdup(url);
    b->deployment_label = xasprintf(LABEL_DEPLOYMENT "=%s", cfg->deployment);
    b->vmm_label = xasprintf(LABEL_VMM "=%s", cfg->vmm_name);
    b->filter = label_filter(b);
    b->disk = disk_watch_new(engine);
    pthread_mutex_init(&b->import_lock, NULL);
    pthread_mutex_init(&b->before_lock, NULL);
    *ret = b;
    return 0;
}

int docker_check(struct backend *b, struct error *err)
{
    int rc = engine_ping(b->engine, soon(ASK_MS), err);

    return rc == 0 ? check_layers(b, err) : rc;
}

static int docker_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    struct backend *b = NULL;
    int rc = docker_new(cfg, cfg->docker_url, &b, err);

    if (rc < 0)
        return rc;
    rc = docker_check(b, err);
    if (rc == 0)
        rc = lay_out(b, err);
    if (rc < 0) {
        docker_close(b);
        return rc;
    }
    *ret = b;
    return 0;
}

static int docker_health(struct backend *b, struct error *err)
{
    return engine_ping(b->engine, soon(ASK_MS), err);
}

/* ---- what a container is like ---- */

static json_t *ulimits(void)
{
    /* nproc counts all processes of a user on the whole host, machines beside this one included, so
     * it is only there for engines that want it given; the pids limit is what holds. File sizes are
     * left to the autodriver: a limit here would hold for its unpacking of the input, too. */
    return json_pack("[{s:s,s:i,s:i},{s:s,s:i,s:i},{s:s,s:i,s:i}]", "Name", "nofile", "Soft", 4096,
                     "Hard", 4096, "Name", "nproc", "Soft", 16384, "Hard", 16384, "Name", "core",
                     "Soft", 0, "Hard", 0);
}

static json_t *host_config(const struct backend *b, const struct machine_shape *s, bool quota)
{
    json_t *h =
        json_pack("{s:[s], s:s, s:[s], s:[s,s,s,s,s,s], s:[s], s:b, s:b, s:s, s:{s:s}, s:o}", //
                  "Binds", b->bind,                                                           //
                  "NetworkMode", s->network ? "bridge" : "none",                              //
                  "CapDrop", "ALL",                                                           //
                  "CapAdd", "CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID", "KILL",    //
                  "SecurityOpt", "no-new-privileges",                                         //
                  "Init", 0,                                                                  //
                  "AutoRemove", 0,                                                            //
                  "IpcMode", "private",                                                       //
                  "LogConfig", "Type", "none",                                                //
                  "Ulimits", ulimits());

    if (s->cores_milli > 0)
        json_object_set_new(h, "NanoCpus", json_integer((json_int_t)s->cores_milli * 1000000));
    if (s->memory_mb > 0) {
        json_int_t bytes = (json_int_t)s->memory_mb << 20;
        json_object_set_new(h, "Memory", json_integer(bytes));
        json_object_set_new(h, "MemorySwap", json_integer(bytes));
    }
    if (s->pids > 0)
        json_object_set_new(h, "PidsLimit", json_integer((json_int_t)s->pids + OWN_PIDS));
    if (quota) {
        char size[32];
        snprintf(size, sizeof(size), "%llu", (unsigned long long)s->disk_bytes);
        json_object_set_new(h, "StorageOpt", json_pack("{s:s}", "size", size));
    }
    return h;
}

static json_t *container(const struct backend *b, const struct machine_spec *spec, bool quota)
{
    /* An image's own health check would run inside the machine, beside the job. */
    return json_pack("{s:s, s:s, s:[s,s], s:[], s:b, s:b, s:b, s:b, s:b, s:b, s:{s:[s]}, "
                     "s:{s:s, s:s, s:s}, s:o}",
                     "Image", spec->shape.digest, "User", "0:0",                          //
                     "Entrypoint", MOUNT_AT "/autodriver", "--pipe", "Cmd",               //
                     "OpenStdin", 1, "StdinOnce", 1, "AttachStdin", 1, "AttachStdout", 1, //
                     "AttachStderr", 1, "Tty", 0,                                         //
                     "Healthcheck", "Test", "NONE",                                       //
                     "Labels", LABEL_DEPLOYMENT, b->cfg->deployment, LABEL_VMM,           //
                     b->cfg->vmm_name, LABEL_MACHINE, spec->name,                         //
                     "HostConfig", host_config(b, &spec->shape, quota));
}

/* ---- removing ---- */

/* Waits, not for long, until a container is "not-running" or "removed". */
static void await_state(struct backend *b, const char *id, const char *state, int64_t deadline)
{
    cleanup_free char *path = xasprintf("/containers/%s/wait?condition=%s", id, state);
    struct engine_call c = {
        .method = "POST", .path = path, .deadline = soon(STATE_MS), .cancel_fd = -1};
    struct engine_reply r;

    if (c.deadline > deadline)
        c.deadline = deadline;
    if (engine_call(b->engine, &c, &r, NULL) == 0)
        engine_reply_done(&r);
}

static int remove_container(struct backend *b, const char *id, int64_t deadline, struct error *err)
{
    cleanup_free char *path = xasprintf("/containers/%s?force=1&v=1", id);
    struct engine_call c = {
        .method = "DELETE", .path = path, .deadline = deadline, .cancel_fd = -1};
    struct engine_reply r;

    CRASHPOINT("docker", "delete", "before");
    int rc = engine_call(b->engine, &c, &r, err);
    CRASHPOINT("docker", "delete", "after");
    if (rc < 0)
        return rc;
    if (r.status == 409)
        await_state(b, id, "removed", deadline); /* somebody else is at it */
    else if (r.status != 204 && r.status != 200 && r.status != 404)
        rc = engine_refusal(&r, err, "delete %s", id);
    engine_reply_done(&r);
    return rc;
}

/* 1 with *ret_id when the container of that name is this vmm's, 0 when it is not or there is none.
 */
static int is_ours(struct backend *b, const char *name, int64_t deadline, char ret_id[80],
                   struct error *err)
{
    cleanup_free char *path = xasprintf("/containers/%s/json", name);
    struct error why = ERROR_INIT;
    json_t *doc = NULL;

    int rc = engine_get(b->engine, path, deadline, -1, &doc, &why);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0) {
        if (err)
            *err = why;
        return rc;
    }
    const json_t *labels = json_object_get(json_object_get(doc, "Config"), "Labels");
    const char *deployment = json_string_value(json_object_get(labels, LABEL_DEPLOYMENT));
    const char *vmm = json_string_value(json_object_get(labels, LABEL_VMM));
    const char *id = json_string_value(json_object_get(doc, "Id"));
    bool ours = id && deployment && vmm && strcmp(deployment, b->cfg->deployment) == 0 &&
                strcmp(vmm, b->cfg->vmm_name) == 0;
    if (ours)
        snprintf(ret_id, 80, "%s", id);
    json_decref(doc);
    return ours;
}

static int docker_reap(struct backend *b, const char *name, struct error *err)
{
    char id[80];

    /* A name may be somebody else's by now. */
    int rc = is_ours(b, name, soon(ASK_MS), id, err);
    if (rc <= 0)
        return rc;
    return remove_container(b, id, soon(ASK_MS), err);
}

static int docker_list(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
                       struct error *err)
{
    json_t *doc = NULL;
    const json_t *one, *name;
    size_t i, k;

    int rc = engine_get(b->engine, b->filter, soon(ASK_MS), -1, &doc, err);
    if (rc < 0)
        return rc;
    json_array_foreach(doc, i, one)
    {
        json_array_foreach(json_object_get(one, "Names"), k, name)
        {
            const char *text = json_string_value(name);
            if (!text)
                continue;
            text += text[0] == '/';
            if (strchr(text, '/')) /* a link's */
                continue;
            each(arg, text);
            break;
        }
    }
    json_decref(doc);
    return 0;
}

int docker_remove(struct backend *b, const char *id, int64_t deadline, struct error *err)
{
    return remove_container(b, id, deadline, err);
}

int docker_sweep(struct backend *b, struct error *err)
{
    json_t *doc = NULL;
    const json_t *one;
    size_t i;

    int rc = engine_get(b->engine, b->filter, soon(ASK_MS), -1, &doc, err);
    json_array_foreach(doc, i, one)
    {
        const char *id = json_string_value(json_object_get(one, "Id"));
        if (id && rc == 0)
            rc = remove_container(b, id, soon(ASK_MS), err);
    }
    json_decref(doc);
    return rc;
}

/* ---- making ---- */

/* What an engine that cannot hold a limit says beside 201. */
static int check_warnings(const json_t *doc, struct error *err)
{
    const json_t *one;
    size_t i;

    json_array_foreach(json_object_get(doc, "Warnings"), i, one)
    {
        const char *text = json_string_value(one);
        if (text && (strcasestr(text, "discarded") || strcasestr(text, "not support")))
            return err_set(err, ERR_REFUSED, ENOTSUP, "the engine cannot hold a limit: %.300s",
                           text);
    }
    return 0;
}

enum created { CREATED, NAME_TAKEN, NO_QUOTA };

/* One try: 0 with *ret_how, or an error. */
static int create_once(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                       int cancel_fd, char ret_id[80], enum created *ret_how, struct error *err)
{
    cleanup_free char *path = xasprintf("/containers/create?name=%s", spec->name);
    /* decided once: another slot may learn meanwhile that there are none */
    bool quota = spec->shape.disk_bytes > 0 && !b->no_quota;
    json_t *json = container(b, spec, quota);
    struct engine_call c = {.method = "POST",
                            .path = path,
                            .json = json,
                            .deadline = deadline,
                            .cancel_fd = cancel_fd,
                            .grace_ms = GRACE_MS};
    struct engine_reply r;

    if (!json)
        return err_set(err, ERR_REFUSED, EINVAL, "image %s: name or digest is not UTF-8",
                       spec->shape.image);
    CRASHPOINT("docker", "create", "before");
    int rc = engine_call(b->engine, &c, &r, err);
    CRASHPOINT("docker", "create", "after");
    json_decref(json);
    if (rc < 0)
        return rc;
    const char *text = r.body.len ? r.body.data : "";
    if (r.status == 201) {
        json_t *doc = json_loadb(text, r.body.len, 0, NULL);
        const char *id = json_string_value(json_object_get(doc, "Id"));
        if (!id || strlen(id) >= 80)
            rc = err_set(err, ERR_TEMPORARY, EPROTO, "engine's answer to create has no Id");
        else
            rc = check_warnings(doc, err);
        if (id)
            snprintf(ret_id, 80, "%s", id);
        *ret_how = CREATED;
        json_decref(doc);
    } else if (r.status == 409 || (r.status == 500 && strstr(text, "already in use"))) {
        *ret_how = NAME_TAKEN; /* Podman's is the 500 */
    } else if (quota && strcasestr(text, "storage")) {
        *ret_how = NO_QUOTA;
    } else {
        rc = engine_refusal(&r, err, "create %s", spec->name);
    }
    engine_reply_done(&r);
    return rc;
}

/* A quota on the disk needs storage that has them (overlay2 on xfs with pquota, btrfs, zfs).
 * Without, the bound is held by looking (docker_disk.c), said loudly once. */
static void without_quota(struct backend *b)
{
    if (!atomic_exchange(&b->no_quota, true))
        log_event(LOG_WARN_, "docker.disk_watched", "url", b->url, "why",
                  "the engine's storage has no quotas, so disk limits are held by looking once a "
                  "second; put its data on xfs mounted with pquota for a hard limit",
                  NULL);
}

static int create(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                  int cancel_fd, char ret_id[80], struct error *err)
{
    enum created how = CREATED;
    char old[80];
    bool taken = false;

    for (;;) {
        int rc = create_once(b, spec, deadline, cancel_fd, ret_id, &how, err);
        if (rc < 0 || how == CREATED)
            return rc;
        if (how == NO_QUOTA) {
            without_quota(b);
        } else {
            /* Of an earlier life: ids come round again. */
            rc = taken ? 0 : is_ours(b, spec->name, deadline, old, err);
            taken = true;
            if (rc == 0)
                rc =
                    err_set(err, ERR_TEMPORARY, EEXIST,
                            "the name %s is taken by somebody else's container; set another prefix",
                            spec->name);
            else if (rc > 0)
                rc = remove_container(b, old, deadline, err);
        }
        if (rc < 0)
            return rc;
    }
}

static int start(struct backend *b, const struct machine_spec *spec, const char *id,
                 int64_t deadline, int cancel_fd, struct error *err)
{
    cleanup_free char *path = xasprintf("/containers/%s/start", id);
    struct engine_call c = {
        .method = "POST", .path = path, .deadline = deadline, .cancel_fd = cancel_fd};
    struct engine_reply r;

    int rc = engine_call(b->engine, &c, &r, err);
    if (rc < 0)
        return rc;
    if (r.status != 204 && r.status != 304)
        rc = engine_refusal(&r, err, "start %s", spec->name);
    engine_reply_done(&r);
    return rc;
}

static int docker_initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                             int cancel_fd, struct machine **ret, struct error *err)
{
    char id[80] = "";
    cleanup_close int fd = -1;

    int rc = create(b, spec, deadline, cancel_fd, id, err);
    if (rc == 0)
        rc = engine_attach(b->engine, id, deadline, cancel_fd, &fd, err);
    CRASHPOINT("docker", "attach", "after");
    if (rc == 0)
        rc = start(b, spec, id, deadline, cancel_fd, err);
    CRASHPOINT("docker", "start", "after");
    int in = rc == 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (rc == 0 && in < 0)
        rc = err_set_errno(err, ERR_TEMPORARY, errno, "dup");
    if (rc < 0) {
        if (id[0])
            remove_container(b, id, soon(b->cfg->destroy_timeout_ms),
                             NULL); /* or the reaper does */
        return rc;
    }
    struct docker_machine *d = xcalloc(1, sizeof(*d));
    snprintf(d->id, sizeof(d->id), "%s", id);
    struct machine *m = machine_new(&driver_docker, b, spec);
    m->priv = d;
    if (b->no_quota && spec->shape.disk_bytes > 0)
        disk_watch_add(b->disk, d->id, spec->shape.disk_bytes);
    m->in_fd = in;
    m->out_fd = TAKE_FD(fd);
    m->made_ms = clock_mono_ms();
    *ret = m;
    return 0;
}

/* ---- using ---- */

static ssize_t docker_read(struct machine *m, void *data, size_t len)
{
    struct docker_machine *d = m->priv;
    ssize_t n = recv(m->out_fd, data, len, MSG_DONTWAIT);

    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    if (n == 0)
        return 0;
    /* A warm machine says nothing more until it gets a job. */
    if (m->ready && !d->has_job) {
        d->has_job = true;
        disk_watch_activate(m->backend->disk, d->id);
    }
    n = engine_strip(&d->demux, data, (size_t)n);
    return n == 0 ? -EAGAIN : n;
}

/* An autodriver whose stdin ends goes by itself, and to remove what has ended spares the engine a
 * kill (one more start of its runtime). */
static void let_go(struct machine *m, int64_t deadline)
{
    char dropped[4096];
    int64_t until = soon(GOING_MS);

    if (until > deadline)
        until = deadline;
    shutdown(m->out_fd, SHUT_WR);
    for (;;) {
        struct pollfd p = {.fd = m->out_fd, .events = POLLIN};
        int n = poll(&p, 1, clock_until_ms(until));
        if (n == 0 && clock_mono_ms() >= until)
            return;
        if (n > 0) {
            ssize_t got = recv(m->out_fd, dropped, sizeof(dropped), MSG_DONTWAIT);
            if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR) ||
                clock_mono_ms() >= until)
                return;
        }
    }
}

/* The engine tells it of a container that has ended, and not before: so this ends the machine. Its
 * word alone counts. Status 137 says only that somebody sent SIGKILL, which an engine does, too,
 * when it stops, or a host that shuts down: that is no limit, and the job is tried again. */
static bool memory_killed(struct machine *m)
{
    struct docker_machine *d = m->priv;
    cleanup_free char *path = xasprintf("/containers/%s/json", d->id);
    json_t *doc = NULL;

    if (m->spec.shape.memory_mb == 0)
        return false;
    if (m->out_fd >= 0)
        let_go(m, CLOCK_NEVER);
    await_state(m->backend, d->id, "not-running", CLOCK_NEVER);
    if (engine_get(m->backend->engine, path, soon(ASK_MS), -1, &doc, NULL) < 0)
        return false;
    bool oom = json_is_true(json_object_get(json_object_get(doc, "State"), "OOMKilled"));
    json_decref(doc);
    return oom;
}

static enum machine_limit docker_limit_hit(struct machine *m)
{
    const struct docker_machine *d = m->priv;

    if (disk_watch_over(m->backend->disk, d->id))
        return MACHINE_LIMIT_DISK;
    return memory_killed(m) ? MACHINE_LIMIT_MEMORY : MACHINE_LIMIT_NONE;
}

int docker_end(struct machine *m, int64_t deadline, struct error *err)
{
    struct docker_machine *d = m->priv;

    if (m->out_fd >= 0)
        let_go(m, deadline);
    if (m->in_fd >= 0)
        close(TAKE_FD(m->in_fd));
    if (m->out_fd >= 0)
        close(TAKE_FD(m->out_fd));
    disk_watch_remove(m->backend->disk, d->id);
    int r = remove_container(m->backend, d->id, deadline, err);
    free(d);
    machine_free(m);
    return r;
}

static void docker_destroy(struct machine *m, int64_t deadline)
{
    docker_end(m, deadline, NULL);
}

const struct driver driver_docker = {
    .name = "docker",
    .open = docker_open,
    .close = docker_close,
    .health = docker_health,
    .images = docker_images,
    .initialize = docker_initialize,
    .read = docker_read,
    .destroy = docker_destroy,
    .limit_hit = docker_limit_hit,
    /* usage: an engine takes a second over its figures, and the autodriver tells its own */
    .list = docker_list,
    .reap = docker_reap,
    .import = docker_import,
    .remove_image = docker_remove_image,
};
