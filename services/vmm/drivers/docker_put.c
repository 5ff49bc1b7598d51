#include "docker_private.h"

#include "../pipe.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"

#include <archive.h>
#include <archive_entry.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* One tar of one file is both the image that a container can be made of where there may be no other
 * (import), and what goes into the volume (PUT archive). The image lives no longer than that; the
 * volume stays, and each new connection reads it back. */

#define AUTODRIVER_MAX (64 << 20)
#define MOUNT_AT       "/.milonga"
#define PROGRAM        "autodriver"
#define HEX            16 /* digits of the digest in names */
#define ASK_MS         15000
#define COPY_MS        60000
#define PROOF_MS       30000

struct docker_put {
    char hex[SHA256_HEX + 1]; /* of the program */
    int tar_fd;
    int64_t tar_len;
    char *who; /* unlike any other vmm's */
    char *volume;
    char *image; /* with its tag */
    char *tag;
};

static int64_t soon(int64_t ms)
{
    return clock_mono_ms() + ms;
}

/* ---- the tar ---- */

static int write_tar(int fd, const char *data, size_t len)
{
    struct archive *a = archive_write_new();
    struct archive_entry *e = archive_entry_new();

    archive_write_set_format_ustar(a);
    archive_entry_set_pathname(e, PROGRAM);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0755);
    archive_entry_set_size(e, (la_int64_t)len);
    bool ok =
        archive_write_open_fd(a, fd) == ARCHIVE_OK && archive_write_header(a, e) == ARCHIVE_OK &&
        archive_write_data(a, data, len) == (la_ssize_t)len && archive_write_close(a) == ARCHIVE_OK;
    int rc = ok ? 0 : -(archive_errno(a) > 0 ? archive_errno(a) : EIO);
    archive_entry_free(e);
    archive_write_free(a);
    return rc;
}

/* Does the archive hold the program as it is to be? */
static bool is_program(const struct buf *tar, const char *hex)
{
    struct archive *a = archive_read_new();
    struct archive_entry *e = NULL;
    char there[SHA256_HEX + 1] = "";

    archive_read_support_format_tar(a);
    if (tar->len > 0 && archive_read_open_memory(a, tar->data, tar->len) == ARCHIVE_OK &&
        archive_read_next_header(a, &e) == ARCHIVE_OK && archive_entry_size(e) > 0 &&
        archive_entry_size(e) <= AUTODRIVER_MAX && (archive_entry_perm(e) & 0111) == 0111) {
        size_t len = (size_t)archive_entry_size(e);
        cleanup_free char *data = xcalloc(1, len);
        if (archive_read_data(a, data, len) == (la_ssize_t)len)
            digest_hex(DIGEST_SHA256, data, len, there);
    }
    archive_read_free(a);
    return strcmp(there, hex) == 0;
}

void docker_put_free(struct docker_put *p)
{
    if (!p)
        return;
    if (p->tar_fd >= 0)
        close(p->tar_fd);
    free(p->who);
    free(p->volume);
    free(p->image);
    free(p->tag);
    free(p);
}

int docker_put_new(struct backend *b, struct error *err)
{
    cleanup_free char *from = NULL, *data = NULL;
    cleanup_free char *id = xasprintf("%s/%s", b->cfg->deployment, b->cfg->vmm_name);
    char hex[SHA256_HEX + 1];
    size_t len = 0;
    int rc = machine_autodriver(b->cfg, &from, err);

    if (rc < 0)
        return rc;
    rc = read_file(from, AUTODRIVER_MAX, &data, &len);
    if (rc < 0)
        return err_set_errno(err, ERR_PERMANENT, -rc, "autodriver %s", from);
    struct docker_put *p = xcalloc(1, sizeof(*p));
    b->put = p;
    digest_hex(DIGEST_SHA256, data, len, p->hex);
    digest_hex(DIGEST_SHA256, id, strlen(id), hex);
    p->who = xstrndup(hex, HEX);
    p->volume = xasprintf("milonga-%s-%.*s", p->who, HEX, p->hex);
    p->tag = xasprintf("%s-%.*s", p->who, HEX, p->hex);
    p->image = xasprintf(DOCKER_PUT_IMAGE ":%s", p->tag);
    b->bind = xasprintf("%s:%s:ro", p->volume, MOUNT_AT);
    b->elsewhere = true;
    p->tar_fd = memfd_create("autodriver.tar", MFD_CLOEXEC);
    rc = p->tar_fd < 0 ? -errno : write_tar(p->tar_fd, data, len);
    if (rc < 0)
        return err_set_errno(err, ERR_PERMANENT, -rc, "autodriver's tar");
    p->tar_len = lseek(p->tar_fd, 0, SEEK_END);
    return 0;
}

/* ---- calls ---- */

/* Anything but 2xx is an error, except `fine`. */
static int call(struct backend *b, const struct engine_call *c, long fine, struct buf *ret,
                const char *what, struct error *err)
{
    struct engine_reply r;
    int rc = engine_call(b->engine, c, &r, err);

    if (rc < 0)
        return rc;
    if (r.status / 100 != 2 && r.status != fine) {
        rc = engine_refusal(&r, err, "%s", what);
        if (err)
            err->class = ERR_TEMPORARY; /* of the host, whatever the engine thinks */
    }
    if (rc == 0 && ret)
        *ret = r.body;
    else
        engine_reply_done(&r);
    return rc;
}

static int simple(struct backend *b, const char *method, const char *path, const json_t *json,
                  long fine, const char *what, struct error *err)
{
    struct engine_call c = {
        .method = method, .path = path, .json = json, .deadline = soon(ASK_MS), .cancel_fd = -1};

    return call(b, &c, fine, NULL, what, err);
}

static int send_tar(struct backend *b, const char *method, const char *path, int stop_fd,
                    const char *what, struct error *err)
{
    struct engine_upload upload = {.fd = b->put->tar_fd, .len = b->put->tar_len};
    struct engine_call c = {.method = method,
                            .path = path,
                            .upload = &upload,
                            .deadline = soon(COPY_MS),
                            .cancel_fd = stop_fd};

    return call(b, &c, 0, NULL, what, err);
}

/* ---- the image, the container, the volume ---- */

static void remove_image(struct backend *b)
{
    cleanup_free char *path = xasprintf("/images/%s?force=1", b->put->image);

    simple(b, "DELETE", path, NULL, 404, "delete", NULL);
}

static int make_image(struct backend *b, int stop_fd, struct error *err)
{
    cleanup_free char *path =
        xasprintf("/images/create?fromSrc=-&repo=" DOCKER_PUT_IMAGE "&tag=%s", b->put->tag);
    cleanup_free char *look = xasprintf("/images/%s/json", b->put->image);

    remove_image(b); /* a life that ended in the middle */
    int rc = send_tar(b, "POST", path, stop_fd, "import of the autodriver", err);
    /* An import that fails on its way is answered with 200. */
    return rc < 0 ? rc : simple(b, "GET", look, NULL, 0, "import of the autodriver", err);
}

static int make_volume(struct backend *b, struct error *err)
{
    json_t *json =
        json_pack("{s:s, s:{s:s, s:s}}", "Name", b->put->volume, "Labels", "milonga.deployment",
                  b->cfg->deployment, "milonga.vmm", b->cfg->vmm_name);
    int rc = simple(b, "POST", "/volumes/create", json, 0, "create of the volume", err);

    json_decref(json);
    return rc;
}

/* Never started: only through a container can a volume be written to. */
static int make_container(struct backend *b, char ret_id[80], struct error *err)
{
    cleanup_free char *path =
        xasprintf("/containers/create?name=" DOCKER_PUT_NAME "%s", b->put->who);
    cleanup_free char *bind = xasprintf("%s:%s:nocopy", b->put->volume, MOUNT_AT);
    json_t *json = json_pack("{s:s, s:[s], s:{s:s, s:s}, s:{s:[s], s:s}}", "Image", b->put->image,
                             "Cmd", MOUNT_AT "/" PROGRAM, "Labels", "milonga.deployment",
                             b->cfg->deployment, "milonga.vmm", b->cfg->vmm_name, "HostConfig",
                             "Binds", bind, "NetworkMode", "none");
    struct engine_call c = {
        .method = "POST", .path = path, .json = json, .deadline = soon(ASK_MS), .cancel_fd = -1};
    struct buf body = {0};
    int rc = call(b, &c, 0, &body, "create of the container that fills the volume", err);

    json_decref(json);
    if (rc < 0)
        return rc;
    json_t *doc = json_loadb(body.len ? body.data : "", body.len, 0, NULL);
    const char *id = json_string_value(json_object_get(doc, "Id"));
    if (!id || strlen(id) >= 80)
        rc = err_set(err, ERR_TEMPORARY, EPROTO, "engine's answer to create has no Id");
    else
        snprintf(ret_id, 80, "%s", id);
    json_decref(doc);
    buf_free(&body);
    return rc;
}

/* 1 when it is there as it is to be, 0 when not. */
static int holds_program(struct backend *b, const char *id, int stop_fd, struct error *err)
{
    cleanup_free char *path = xasprintf("/containers/%s/archive?path=" MOUNT_AT "/" PROGRAM, id);
    struct engine_call c = {.method = "GET",
                            .path = path,
                            .deadline = soon(COPY_MS),
                            .cancel_fd = stop_fd,
                            .reply_max = AUTODRIVER_MAX + (1 << 20)};
    struct buf body = {0};
    int rc = call(b, &c, 404, &body, "read the autodriver back", err);

    if (rc < 0)
        return rc;
    rc = is_program(&body, b->put->hex);
    buf_free(&body);
    return rc;
}

static int fill(struct backend *b, const char *id, int stop_fd, struct error *err)
{
    cleanup_free char *path = xasprintf("/containers/%s/archive?path=" MOUNT_AT, id);
    int rc = holds_program(b, id, stop_fd, err);

    if (rc != 0)
        return rc < 0 ? rc : 0;
    rc = send_tar(b, "PUT", path, stop_fd, "copy of the autodriver", err);
    if (rc == 0)
        rc = holds_program(b, id, stop_fd, err);
    if (rc == 0)
        return err_set(err, ERR_TEMPORARY, EIO,
                       "the autodriver that was copied into volume %s is not there as it was sent; "
                       "is the disk there full?",
                       b->put->volume);
    if (rc > 0)
        log_event(LOG_INFO_, "docker.autodriver_put", "url", b->url, "volume", b->put->volume,
                  NULL);
    return rc < 0 ? rc : 0;
}

/* Those of other builds of ours. One that a machine still uses is kept by the engine. */
static void remove_others(struct backend *b)
{
    json_t *filter = json_pack("{s:[s,s]}", "label", b->deployment_label, b->vmm_label);
    cleanup_free char *text = json_dumps(filter, JSON_COMPACT);
    char *escaped = curl_easy_escape(NULL, text, 0);
    cleanup_free char *path = xasprintf("/volumes?filters=%s", escaped);
    json_t *doc = NULL;
    const json_t *one;
    size_t i;

    curl_free(escaped);
    json_decref(filter);
    if (engine_get(b->engine, path, soon(ASK_MS), -1, &doc, NULL) < 0)
        return;
    json_array_foreach(json_object_get(doc, "Volumes"), i, one)
    {
        const char *name = json_string_value(json_object_get(one, "Name"));
        if (!name || strncmp(name, "milonga-", 8) != 0 || strcmp(name, b->put->volume) == 0)
            continue;
        cleanup_free char *gone = xasprintf("/volumes/%s", name);
        simple(b, "DELETE", gone, NULL, 404, "delete", NULL);
    }
    json_decref(doc);
}

/* A machine of nothing but the autodriver. */
static int prove(struct backend *b, int stop_fd, struct error *err)
{
    struct machine_spec spec = {.shape = {.image = b->put->image,
                                          .digest = b->put->image,
                                          .cores_milli = 1000,
                                          .memory_mb = 64,
                                          .pids = 16}};
    int64_t deadline = soon(PROOF_MS);
    struct machine *m = NULL;

    snprintf(spec.name, sizeof(spec.name), DOCKER_PROBE_NAME "%s", b->put->who);
    int rc = driver_docker.initialize(b, &spec, deadline, stop_fd, &m, err);
    if (rc == 0) {
        rc = pipe_ready(m, deadline, stop_fd, err);
        driver_docker.destroy(m, soon(b->cfg->destroy_timeout_ms));
    }
    return rc < 0 ? err_wrap(err, "a machine made as a proof") : 0;
}

int docker_put(struct backend *b, int stop_fd, struct error *err)
{
    char id[80] = "";
    int rc = make_image(b, stop_fd, err);

    if (rc == 0)
        rc = make_volume(b, err);
    if (rc == 0)
        rc = make_container(b, id, err);
    if (rc == 0)
        rc = fill(b, id, stop_fd, err);
    if (id[0])
        docker_remove(b, id, soon(ASK_MS), NULL); /* or the sweep of the next connection does */
    if (rc == 0)
        rc = prove(b, stop_fd, err);
    remove_image(b);
    if (rc == 0)
        remove_others(b);
    return rc;
}
