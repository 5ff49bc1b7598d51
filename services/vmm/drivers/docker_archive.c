#include "services/vmm/drivers/docker_archive.h"

#include "base/buf.h"
#include "base/mem.h"
#include "services/vmm/image_private.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct copy {
    struct archive *in, *out;
    uint64_t bytes, entries;
    bool has_manifest;
};

static int bad_in(const struct copy *c, struct error *err)
{
    return err_set(err, ERR_REFUSED, EBADMSG, "not a good tar archive: %s",
                   archive_error_string(c->in));
}

static int bad_out(const struct copy *c, struct error *err)
{
    int code = archive_errno(c->out);

    return err_set_errno(err, ERR_TEMPORARY, code > 0 ? code : EIO, "copy of the image's archive");
}

/* ---- what names images ---- */

/* manifest.json of `docker save`: a list of images. */
static int unname_manifest(json_t *doc, struct error *err)
{
    json_t *image;
    size_t i;

    if (json_array_size(doc) != 1)
        return err_set(err, ERR_REFUSED, EINVAL,
                       "the archive holds %zu images; give one that holds one",
                       json_array_size(doc));
    json_array_foreach(doc, i, image) json_object_set_new(image, "RepoTags", json_null());
    return 0;
}

/* index.json of an OCI layout: names are annotations. */
static void unname_index(json_t *doc)
{
    json_t *manifest;
    size_t i;

    json_object_del(doc, "annotations");
    json_array_foreach(json_object_get(doc, "manifests"), i, manifest)
        json_object_del(manifest, "annotations");
}

static int read_json(struct copy *c, json_t **ret, const char *name, struct error *err)
{
    struct buf text cleanup_buf = BUF_INIT(IMAGE_JSON_MAX);
    char piece[16384];
    la_ssize_t n;

    while ((n = archive_read_data(c->in, piece, sizeof(piece))) > 0)
        if (buf_append(&text, piece, (size_t)n) < 0)
            return err_set(err, ERR_REFUSED, EFBIG, "%s of the archive is over %u bytes", name,
                           IMAGE_JSON_MAX);
    if (n < 0)
        return bad_in(c, err);
    *ret = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, NULL);
    return *ret ? 0 : err_set(err, ERR_REFUSED, EBADMSG, "%s of the archive is no JSON", name);
}

static int copy_unnamed(struct copy *c, struct archive_entry *e, const char *name,
                        struct error *err)
{
    json_t *doc = NULL;
    int r = read_json(c, &doc, name, err);

    if (r == 0 && strcmp(name, "index.json") == 0)
        unname_index(doc);
    else if (r == 0)
        r = unname_manifest(doc, err);
    cleanup_free char *text = r == 0 ? json_dumps(doc, JSON_COMPACT) : NULL;
    json_decref(doc);
    if (r < 0)
        return r;
    size_t len = strlen(text);
    archive_entry_set_size(e, (la_int64_t)len);
    if (archive_write_header(c->out, e) < ARCHIVE_WARN ||
        archive_write_data(c->out, text, len) != (la_ssize_t)len)
        return bad_out(c, err);
    return 0;
}

/* ---- the rest ---- */

static int copy_data(struct copy *c, struct archive_entry *e, struct error *err)
{
    char piece[65536];
    la_ssize_t n;

    archive_entry_sparse_clear(e);
    if (archive_write_header(c->out, e) < ARCHIVE_WARN)
        return bad_out(c, err);
    while ((n = archive_read_data(c->in, piece, sizeof(piece))) > 0) {
        c->bytes += (uint64_t)n;
        if (c->bytes > IMAGE_BYTES_MAX)
            return err_set(err, ERR_REFUSED, EFBIG, "the archive holds over %llu bytes",
                           (unsigned long long)IMAGE_BYTES_MAX);
        if (archive_write_data(c->out, piece, (size_t)n) != n)
            return bad_out(c, err);
    }
    return n < 0 ? bad_in(c, err) : 0;
}

/* The engine finds these by their names, at the top. One elsewhere, or one that is a link, could be
 * a way to get another one there. */
static int copy_entry(struct copy *c, struct archive_entry *e, struct error *err)
{
    const char *raw = archive_entry_pathname(e);
    const char *top = raw;

    if (!raw)
        return err_set(err, ERR_REFUSED, EBADMSG, "a name in the archive is not ASCII");
    while (strncmp(top, "./", 2) == 0)
        top += 2;
    const char *slash = strrchr(top, '/'), *name = slash ? slash + 1 : top;
    bool manifest = strcmp(name, "manifest.json") == 0, names = strcmp(name, "repositories") == 0;

    if (++c->entries > IMAGE_ENTRIES_MAX)
        return err_set(err, ERR_REFUSED, EFBIG, "the archive has over %llu entries",
                       (unsigned long long)IMAGE_ENTRIES_MAX);
    if (!manifest && !names && strcmp(name, "index.json") != 0)
        return copy_data(c, e, err);
    if (slash || archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e))
        return err_set(err, ERR_REFUSED, EBADMSG,
                       "%.200s of the archive is not where, or what, `docker save` makes it", raw);
    c->has_manifest = c->has_manifest || !names;
    return names ? 0 : copy_unnamed(c, e, name, err);
}

static int copy_all(struct copy *c, struct error *err)
{
    struct archive_entry *e;
    int r;

    while ((r = archive_read_next_header(c->in, &e)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
        int rc = copy_entry(c, e, err);
        if (rc < 0)
            return rc;
    }
    if (r != ARCHIVE_EOF)
        return bad_in(c, err);
    if (!c->has_manifest)
        return err_set(err, ERR_REFUSED, EBADMSG,
                       "the archive has no manifest.json: it is not of `docker save`");
    return archive_write_close(c->out) == ARCHIVE_OK ? 0 : bad_out(c, err);
}

static int copy_open(struct copy *c, int from, int to, struct error *err)
{
    c->in = image_archive_open(from, err);
    if (!c->in)
        return -EBADMSG;
    c->out = archive_write_new();
    if (!c->out)
        abort(); /* out of memory */
    archive_write_add_filter_none(c->out);
    if (archive_write_set_format_pax_restricted(c->out) != ARCHIVE_OK ||
        archive_write_open_fd(c->out, to) != ARCHIVE_OK)
        return bad_out(c, err);
    return 0;
}

int docker_archive_unnamed(const char *path, const char *dir, int *ret_fd, struct error *err)
{
    cleanup_close int from = open(path, O_RDONLY | O_CLOEXEC);
    cleanup_close int to = from < 0 ? -1 : open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, (mode_t)0600);
    struct copy c = {.in = NULL};

    if (from < 0 || to < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s", from < 0 ? path : dir);
    int r = copy_open(&c, from, to, err);
    if (r == 0)
        r = copy_all(&c, err);
    archive_write_free(c.out);
    archive_read_free(c.in);
    if (r == 0 && lseek(to, 0, SEEK_SET) < 0)
        r = err_set_errno(err, ERR_TEMPORARY, errno, "%s", dir);
    if (r == 0)
        *ret_fd = TAKE_FD(to);
    return r;
}
