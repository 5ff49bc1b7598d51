#include "machine.h"

#include "base/mem.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* ---- names ---- */

/* What file and container names can hold everywhere. */
static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
}

void machine_name(char out[160], const char *prefix, uint32_t id, const char *image)
{
    snprintf(out, 160, "%s-%u-%s", prefix, id, image);
    for (char *p = out; *p; p++)
        if (!name_char(*p))
            *p = '_';
    /* Engines want a letter or a digit first. */
    if (out[0] == '_' || out[0] == '.' || out[0] == '-')
        out[0] = 'x';
}

/* ---- shapes ---- */

static bool text_equal(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

bool machine_shape_equal(const struct machine_shape *a, const struct machine_shape *b)
{
    /* What runs decides: two names of one digest are the same machine. */
    if (!text_equal(a->digest, b->digest))
        return false;
    if ((!a->digest || !a->digest[0]) && !text_equal(a->image, b->image))
        return false;
    return a->cores_milli == b->cores_milli && a->memory_mb == b->memory_mb && a->pids == b->pids &&
           a->fsize_bytes == b->fsize_bytes && a->disk_bytes == b->disk_bytes &&
           a->network == b->network;
}

void machine_shape_copy(struct machine_shape *to, const struct machine_shape *from)
{
    *to = *from;
    to->image = from->image ? xstrdup(from->image) : NULL;
    to->digest = from->digest ? xstrdup(from->digest) : NULL;
}

void machine_shape_done(struct machine_shape *s)
{
    free(s->image);
    free(s->digest);
    *s = (struct machine_shape){0};
}

#define INODE_BYTES 2048 /* what an empty file of a tmpfs costs in kernel memory, with its name */

void machine_room(const struct machine_shape *s, uint64_t *ret_bytes, uint64_t *ret_files)
{
    uint64_t memory = (uint64_t)s->memory_mb << 20;
    uint64_t keep = memory / 4 > (32ULL << 20) ? memory / 4 : 32ULL << 20;
    uint64_t bytes = s->disk_bytes, files = s->disk_bytes / 4096 + 1024;

    if (memory > 0) {
        if (keep > memory / 2)
            keep = memory / 2;
        if (bytes == 0 || bytes > memory - keep)
            bytes = memory - keep;
        files = bytes / 4096 + 1024;
        if (files > keep / 2 / INODE_BYTES)
            files = keep / 2 / INODE_BYTES;
    }
    *ret_bytes = bytes;
    *ret_files = files;
}

/* ---- machines ---- */

struct machine *machine_new(const struct driver *d, struct backend *b,
                            const struct machine_spec *spec)
{
    struct machine *m = xcalloc(1, sizeof(*m));

    m->driver = d;
    m->backend = b;
    m->spec = *spec;
    m->spec.labels = NULL; /* the caller's */
    m->spec.label_ct = 0;
    m->spec.full = NULL;
    machine_shape_copy(&m->spec.shape, &spec->shape);
    m->in_fd = -1;
    m->out_fd = -1;
    return m;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    if (m->in_fd >= 0)
        close(m->in_fd);
    if (m->out_fd >= 0)
        close(m->out_fd);
    machine_shape_done(&m->spec.shape);
    free(m);
}

/* ---- the autodriver's program ---- */

int machine_autodriver(const struct config *cfg, char **ret, struct error *err)
{
    static const char *const places[] = {"autodriver", "../libexec/milonga/autodriver"};
    char self[PATH_MAX];

    if (cfg->autodriver && cfg->autodriver[0]) {
        if (access(cfg->autodriver, X_OK) < 0)
            return err_set_errno(err, ERR_PERMANENT, errno, "autodriver = %s", cfg->autodriver);
        *ret = xstrdup(cfg->autodriver);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "/proc/self/exe; set autodriver");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        cleanup_free char *path = xasprintf("%s/%s", self, places[i]);
        if (access(path, X_OK) == 0) {
            *ret = TAKE_PTR(path);
            return 0;
        }
    }
    return err_set(
        err, ERR_PERMANENT, ENOENT,
        "no autodriver beside this program (%s) nor in ../libexec/milonga; set autodriver", self);
}
