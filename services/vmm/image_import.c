#include "services/vmm/image_private.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/name.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

/* An archive of images is a tar of blobs and of JSON that names them, in any order. Its blobs are
 * spooled to numbered files first (no name of the archive becomes a path), then the JSON is
 * followed. */

#define SPOOL_MAX 20000

struct blob {
    char *name; /* in the archive, cleaned */
    char *link; /* another name, or NULL */
    int number;
    uint64_t size;
};

struct spool {
    struct blob *blob;
    size_t count, cap;
    int fd; /* directory */
};

/* What the JSON says about the image that was asked for. */
struct plan {
    char *config_digest; /* hex of the config blob, which is the image's id */
    char **blobs;        /* names in the archive, lowest first */
    char **diff_ids;     /* hex */
    size_t count;
};

enum archive_kind { KIND_ROOTFS, KIND_DOCKER, KIND_OCI };

/* "./a/../b//c" -> "b/c": names are compared, never opened. */
static char *clean_name(const char *dir, size_t dir_len, const char *in)
{
    cleanup_free char *joined = xasprintf("%.*s/%s", (int)dir_len, dir, in);
    char *out = xcalloc(1, strlen(joined) + 1);
    size_t len = 0;

    for (char *save = NULL, *p = strtok_r(joined, "/", &save); p != NULL;
         p = strtok_r(NULL, "/", &save)) {
        if (strcmp(p, ".") == 0)
            continue;
        if (strcmp(p, "..") == 0) {
            while (len > 0 && out[--len] != '/')
                continue;
            continue;
        }
        if (len > 0)
            out[len++] = '/';
        memcpy(out + len, p, strlen(p));
        len += strlen(p);
    }
    out[len] = '\0';
    return out;
}

struct archive *image_archive_open(int fd, struct error *err)
{
    struct archive *a = archive_read_new();

    archive_read_support_filter_gzip(a);
    archive_read_support_filter_bzip2(a);
    archive_read_support_filter_xz(a);
    archive_read_support_filter_zstd(a);
    archive_read_support_format_tar(a);
    if (lseek(fd, 0, SEEK_SET) < 0 || archive_read_open_fd(a, fd, 65536) != ARCHIVE_OK) {
        err_set(err, ERR_REFUSED, EBADMSG, "not a tar archive: %s", archive_error_string(a));
        archive_read_free(a);
        return NULL;
    }
    return a;
}

/* By the names at the top; a docker archive may be an OCI layout too, and its own form then says
 * more. */
static int find_kind(int fd, enum archive_kind *ret, struct error *err)
{
    struct archive *a = image_archive_open(fd, err);
    struct archive_entry *e;
    size_t count = 0;
    int r;

    if (a == NULL)
        return -EBADMSG;
    *ret = KIND_ROOTFS;
    while ((r = archive_read_next_header(a, &e)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
        const char *raw = archive_entry_pathname(e);
        cleanup_free char *name = clean_name("", 0, raw != NULL ? raw : "");

        if (++count > IMAGE_ENTRIES_MAX)
            break;
        if (archive_entry_filetype(e) != AE_IFREG)
            continue;
        if (strcmp(name, "manifest.json") == 0) {
            *ret = KIND_DOCKER;
            break;
        }
        if (strcmp(name, "oci-layout") == 0)
            *ret = KIND_OCI;
    }
    if (r != ARCHIVE_EOF && r != ARCHIVE_OK && r != ARCHIVE_WARN)
        r = err_set(err, ERR_REFUSED, EBADMSG, "not a good tar archive: %s",
                    archive_error_string(a));
    else if (count == 0)
        r = err_set(err, ERR_REFUSED, EBADMSG, "the archive is empty");
    else
        r = 0;
    archive_read_free(a);
    return r;
}

/* ---- the spool ---- */

static void spool_done(struct spool *s)
{
    for (size_t i = 0; i < s->count; i++) {
        free(s->blob[i].name);
        free(s->blob[i].link);
    }
    free(s->blob);
}

static int spool_file(struct spool *s, struct archive *a, struct blob *b, uint64_t *room,
                      struct error *err)
{
    char file[32];
    cleanup_close int fd = -1;
    cleanup_free char *chunk = xmalloc(65536);
    la_ssize_t n;

    snprintf(file, sizeof(file), "b%d", b->number);
    fd = openat(s->fd, file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "cannot make a temporary file");
    while ((n = archive_read_data(a, chunk, 65536)) > 0) {
        int r = (uint64_t)n > *room ? -EFBIG : write_all(fd, chunk, (size_t)n);

        if (r < 0)
            return err_set_errno(err, r == -EFBIG ? ERR_REFUSED : ERR_TEMPORARY, -r,
                                 "cannot spool %s", b->name);
        *room -= (uint64_t)n;
        b->size += (uint64_t)n;
    }
    if (n < 0)
        return err_set(err, ERR_REFUSED, EBADMSG, "%s: %s", b->name, archive_error_string(a));
    return 0;
}

static int spool_fill(struct spool *s, int fd, struct error *err)
{
    struct archive *a = image_archive_open(fd, err);
    struct archive_entry *e;
    uint64_t room = IMAGE_BYTES_MAX;
    int r = 0, got;

    if (a == NULL)
        return -EBADMSG;
    while ((got = archive_read_next_header(a, &e)) == ARCHIVE_OK || got == ARCHIVE_WARN) {
        mode_t type = archive_entry_filetype(e);
        const char *hard = archive_entry_hardlink(e);
        struct blob *b;

        if (hard == NULL && type != AE_IFREG && type != AE_IFLNK)
            continue;
        if (archive_entry_pathname(e) == NULL || s->count >= SPOOL_MAX) {
            r = err_set(err, ERR_REFUSED, EFBIG, "more than %d files in the archive", SPOOL_MAX);
            break;
        }
        if (s->count == s->cap) {
            s->cap = s->cap > 0 ? 2 * s->cap : 64;
            s->blob = xrealloc(s->blob, s->cap * sizeof(*s->blob));
        }
        b = &s->blob[s->count];
        *b = (struct blob){.name = clean_name("", 0, archive_entry_pathname(e)),
                           .number = (int)s->count};
        s->count++;
        if (hard != NULL) {
            b->link = clean_name("", 0, hard);
        } else if (type == AE_IFLNK) {
            const char *slash = strrchr(b->name, '/');
            const char *to = archive_entry_symlink(e);

            b->link = clean_name(b->name, slash != NULL ? (size_t)(slash - b->name) : 0,
                                 to != NULL ? to : "");
        } else if ((r = spool_file(s, a, b, &room, err)) < 0) {
            break;
        }
    }
    if (r == 0 && got != ARCHIVE_EOF)
        r = err_set(err, ERR_REFUSED, EBADMSG, "not a good tar archive: %s",
                    archive_error_string(a));
    archive_read_free(a);
    return r;
}

static int spool_open(const struct spool *s, const char *raw, uint64_t *ret_size, struct error *err)
{
    cleanup_free char *name = clean_name("", 0, raw);
    const char *want = name;

    for (int hops = 0; hops < 8; hops++) {
        const struct blob *b = NULL;
        char file[32];
        int fd;

        for (size_t i = 0; i < s->count; i++)
            if (strcmp(s->blob[i].name, want) == 0)
                b = &s->blob[i];
        if (b == NULL)
            break;
        if (b->link != NULL) {
            want = b->link;
            continue;
        }
        snprintf(file, sizeof(file), "b%d", b->number);
        fd = openat(s->fd, file, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return err_set_errno(err, ERR_TEMPORARY, errno, "cannot open the spooled %s", want);
        if (ret_size != NULL)
            *ret_size = b->size;
        return fd;
    }
    return err_set(err, ERR_REFUSED, ENOENT, "the archive has no file \"%.200s\" that it refers to",
                   name);
}

/* Reads a JSON blob; hex (may be NULL) gets its hash, and `expect` (may be NULL) is what it must
 * be. */
static int spool_json(const struct spool *s, const char *name, const char *expect, char *hex,
                      json_t **ret, struct error *err)
{
    uint64_t size;
    cleanup_close int fd = spool_open(s, name, &size, err);
    cleanup_free char *text = NULL;
    char own[SHA256_HEX + 1];
    json_error_t je;

    if (fd < 0)
        return fd;
    if (size > IMAGE_JSON_MAX)
        return err_set(err, ERR_REFUSED, EFBIG, "%s: over %u bytes of JSON", name, IMAGE_JSON_MAX);
    text = xmalloc(size + 1);
    if (pread(fd, text, size, 0) != (ssize_t)size)
        return err_set(err, ERR_TEMPORARY, EIO, "cannot read %s", name);
    digest_hex(DIGEST_SHA256, text, size, own);
    if (expect != NULL && strcmp(own, expect) != 0)
        return err_set(err, ERR_REFUSED, EBADMSG, "%s: its SHA-256 is %s", name, own);
    if (hex != NULL)
        memcpy(hex, own, sizeof(own));
    *ret = json_loadb(text, size, JSON_REJECT_DUPLICATES, &je);
    if (*ret == NULL)
        return err_set(err, ERR_REFUSED, EBADMSG, "%s:%d: %s", name, je.line, je.text);
    return 0;
}

/* ---- what the JSON says ---- */

static void plan_done(struct plan *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->blobs[i]);
        free(p->diff_ids[i]);
    }
    free(p->blobs);
    free(p->diff_ids);
    free(p->config_digest);
}

/* "sha256:HEX" -> HEX, NULL for anything else. */
static const char *hex_of(const char *digest)
{
    if (digest == NULL || strncmp(digest, "sha256:", 7) != 0 || strlen(digest) != 7 + SHA256_HEX ||
        strspn(digest + 7, "0123456789abcdef") != SHA256_HEX)
        return NULL;
    return digest + 7;
}

/* Takes the layers' blobs (strings or descriptors) and the config's diff ids, which must be as
 * many. */
static int plan_layers(struct plan *p, json_t *config, json_t *layers, struct error *err)
{
    json_t *ids = json_object_get(json_object_get(config, "rootfs"), "diff_ids");
    size_t ct = json_array_size(ids);

    if (ct == 0 || ct > IMAGE_LAYERS_MAX || json_array_size(layers) != ct)
        return err_set(err, ERR_REFUSED, EBADMSG,
                       "%zu layers and %zu diff ids; 1 to %d of each are expected",
                       json_array_size(layers), ct, IMAGE_LAYERS_MAX);
    p->blobs = xcalloc(ct, sizeof(char *));
    p->diff_ids = xcalloc(ct, sizeof(char *));
    p->count = ct;
    for (size_t i = 0; i < ct; i++) {
        json_t *l = json_array_get(layers, i);
        const char *diff = hex_of(json_string_value(json_array_get(ids, i)));
        const char *blob = hex_of(json_string_value(json_object_get(l, "digest")));

        if (diff == NULL || (!json_is_string(l) && blob == NULL))
            return err_set(err, ERR_REFUSED, EBADMSG, "layer %zu: bad digest; only sha256 is known",
                           i);
        p->diff_ids[i] = xstrdup(diff);
        p->blobs[i] =
            blob != NULL ? xasprintf("blobs/sha256/%s", blob) : xstrdup(json_string_value(l));
    }
    return 0;
}

static bool same_name(const char *tag, const char *name)
{
    size_t len = strlen(name);

    return tag != NULL && strncmp(tag, name, len) == 0 &&
           (tag[len] == '\0' || strcmp(tag + len, ":latest") == 0);
}

static int plan_docker(const struct spool *s, const char *name, struct plan *p, struct error *err)
{
    json_t *manifest = NULL, *config = NULL, *chosen;
    char hex[SHA256_HEX + 1];
    const char *path;
    int r = spool_json(s, "manifest.json", NULL, NULL, &manifest, err);

    if (r < 0)
        return r;
    chosen = json_array_get(manifest, 0);
    if (json_array_size(manifest) > 1) {
        chosen = NULL;
        for (size_t i = 0; i < json_array_size(manifest); i++) {
            json_t *tags = json_object_get(json_array_get(manifest, i), "RepoTags");

            for (size_t t = 0; t < json_array_size(tags); t++)
                if (same_name(json_string_value(json_array_get(tags, t)), name))
                    chosen = json_array_get(manifest, i);
        }
    }
    path = json_string_value(json_object_get(chosen, "Config"));
    if (path == NULL)
        r = err_set(err, ERR_REFUSED, ENOENT,
                    json_array_size(manifest) > 1
                        ? "the archive holds several images and none is named %s; save one of them"
                        : "manifest.json names no image to import as %s",
                    name);
    if (r == 0)
        r = spool_json(s, path, NULL, hex, &config, err);
    if (r == 0) {
        p->config_digest = xstrdup(hex);
        r = plan_layers(p, config, json_object_get(chosen, "Layers"), err);
    }
    json_decref(config);
    json_decref(manifest);
    return r;
}

/* The architecture's name as images say it. */
static const char *own_arch(void)
{
    static struct utsname u;

    uname(&u);
    if (strcmp(u.machine, "x86_64") == 0)
        return "amd64";
    return strcmp(u.machine, "aarch64") == 0 ? "arm64" : u.machine;
}

static const char *pick_manifest(json_t *index, const char *name)
{
    json_t *manifests = json_object_get(index, "manifests");
    const char *only = NULL;
    size_t fit = 0;

    for (size_t i = 0; i < json_array_size(manifests); i++) {
        json_t *m = json_array_get(manifests, i);
        const char *arch =
            json_string_value(json_object_get(json_object_get(m, "platform"), "architecture"));
        const char *ref = json_string_value(json_object_get(json_object_get(m, "annotations"),
                                                            "org.opencontainers.image.ref.name"));
        const char *hex = hex_of(json_string_value(json_object_get(m, "digest")));

        if (hex == NULL || (arch != NULL && strcmp(arch, own_arch()) != 0))
            continue;
        if (same_name(ref, name))
            return hex;
        only = hex;
        fit++;
    }
    return fit == 1 ? only : NULL;
}

static int plan_oci(const struct spool *s, const char *name, struct plan *p, struct error *err)
{
    json_t *at = NULL, *config = NULL;
    int r = spool_json(s, "index.json", NULL, NULL, &at, err);

    /* an index may lead to an index (of platforms), and that to a manifest */
    for (int hops = 0; r == 0 && json_object_get(at, "manifests") != NULL; hops++) {
        const char *hex = hops < 4 ? pick_manifest(at, name) : NULL;
        cleanup_free char *path = xasprintf("blobs/sha256/%s", hex != NULL ? hex : "");
        json_t *next = NULL;

        if (hex == NULL)
            r = err_set(err, ERR_REFUSED, ENOENT,
                        "the layout has no single image for %s, and none with the ref name %s",
                        own_arch(), name);
        else
            r = spool_json(s, path, hex, NULL, &next, err);
        json_decref(at);
        at = next;
    }
    if (r == 0) {
        const char *hex =
            hex_of(json_string_value(json_object_get(json_object_get(at, "config"), "digest")));
        cleanup_free char *path = xasprintf("blobs/sha256/%s", hex != NULL ? hex : "");

        if (hex == NULL)
            r = err_set(err, ERR_REFUSED, EBADMSG,
                        "the manifest has no config with a sha256 digest");
        else
            r = spool_json(s, path, hex, NULL, &config, err);
        if (r == 0) {
            p->config_digest = xstrdup(hex);
            r = plan_layers(p, config, json_object_get(at, "layers"), err);
        }
    }
    json_decref(config);
    json_decref(at);
    return r;
}

/* ---- layers ---- */

static int unpack_into(struct image_work *w, const char *dir, int blob_fd,
                       struct layer_budget *budget, char hex[SHA256_HEX + 1], struct error *err)
{
    cleanup_close int dir_fd = -1;

    if (mkdirat(w->fd, dir, 0755) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "cannot make a layer's directory");
    dir_fd = openat(w->fd, dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir_fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "cannot open a layer's directory");
    return image_layer_unpack(dir_fd, blob_fd, budget, hex, err);
}

static int unpack_planned(struct image_store *s, struct image_work *w, const struct spool *spool,
                          const struct plan *p, struct layer_budget *budget, struct error *err)
{
    for (size_t i = 0; i < p->count; i++) {
        char hex[SHA256_HEX + 1];
        cleanup_close int fd = -1;
        int r;

        /* there already, in the store or, an image may repeat a layer, in this work */
        if (faccessat(s->layers_fd, p->diff_ids[i], F_OK, 0) == 0 ||
            faccessat(w->fd, p->diff_ids[i], F_OK, 0) == 0)
            continue;
        fd = spool_open(spool, p->blobs[i], NULL, err);
        if (fd < 0)
            return fd;
        r = unpack_into(w, p->diff_ids[i], fd, budget, hex, err);
        if (r == 0 && strcmp(hex, p->diff_ids[i]) != 0)
            r = err_set(err, ERR_REFUSED, EBADMSG,
                        "its SHA-256 is %s, not the %s that the config says", hex, p->diff_ids[i]);
        if (r < 0)
            return err_wrap(err, "layer %zu (%.200s)", i, p->blobs[i]);
    }
    return 0;
}

/* overlayfs refuses the same directory twice. Of a layer that is repeated the uppermost counts: it
 * covers all that the lower ones hold. */
static bool comes_again(const struct plan *p, size_t i)
{
    for (size_t n = i + 1; n < p->count; n++)
        if (strcmp(p->diff_ids[n], p->diff_ids[i]) == 0)
            return true;
    return false;
}

static void add_layer(struct image_info *i, const char *hex)
{
    i->layers = xrealloc(i->layers, (i->layer_ct + 1) * sizeof(char *));
    i->layers[i->layer_ct++] = xstrdup(hex);
}

static int import_archive(struct image_store *s, struct image_work *w, int fd,
                          enum archive_kind kind, struct image_info *info,
                          struct layer_budget *budget, struct error *err)
{
    struct spool spool = {.fd = w->fd};
    struct plan plan = {0};
    int r = spool_fill(&spool, fd, err);

    if (r == 0)
        r = kind == KIND_DOCKER ? plan_docker(&spool, info->name, &plan, err)
                                : plan_oci(&spool, info->name, &plan, err);
    if (r == 0)
        r = unpack_planned(s, w, &spool, &plan, budget, err);
    if (r == 0) {
        info->digest = xasprintf("sha256:%s", plan.config_digest);
        for (size_t i = 0; i < plan.count; i++)
            if (!comes_again(&plan, i))
                add_layer(info, plan.diff_ids[i]);
    }
    plan_done(&plan);
    spool_done(&spool);
    return r;
}

static int import_rootfs(struct image_work *w, int fd, struct image_info *info,
                         struct layer_budget *budget, struct error *err)
{
    char hex[SHA256_HEX + 1];
    int r = unpack_into(w, "rootfs", fd, budget, hex, err);

    if (r < 0)
        return r;
    if (renameat(w->fd, "rootfs", w->fd, hex) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "cannot rename a layer");
    info->digest = xasprintf("sha256:%s", hex);
    add_layer(info, hex);
    return 0;
}

static int import_fd(struct image_store *s, int fd, struct image_info *info, struct error *err)
{
    struct layer_budget budget = {.bytes = IMAGE_BYTES_MAX, .entries = IMAGE_ENTRIES_MAX};
    enum archive_kind kind;
    struct image_work w;
    int r = find_kind(fd, &kind, err);

    if (r < 0 || (r = image_work_begin(s, &w, err)) < 0)
        return r;
    r = kind == KIND_ROOTFS ? import_rootfs(&w, fd, info, &budget, err)
                            : import_archive(s, &w, fd, kind, info, &budget, err);
    info->bytes = IMAGE_BYTES_MAX - budget.bytes;
    info->entries = IMAGE_ENTRIES_MAX - budget.entries;
    info->imported_ms = clock_wall_ms();
    if (r == 0)
        r = image_commit(s, &w, info, err);
    image_work_end(s, &w);
    return r;
}

int image_import(struct image_store *s, const char *path, const char *name, struct image_info *ret,
                 struct error *err)
{
    const char *bad = name_check_image(name, strlen(name));
    struct image_info info = {0};
    cleanup_close int fd = -1;
    struct stat st;
    int r;

    if (bad != NULL)
        return err_set(err, ERR_REFUSED, EINVAL, "image name \"%.255s\" %s", name, bad);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set_errno(err, ERR_REFUSED, errno, "cannot open %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_REFUSED, EINVAL, "%s is not a regular file", path);
    image_sweep(s);
    info.name = xstrdup(name);
    r = import_fd(s, fd, &info, err);
    if (r < 0) {
        image_info_done(&info);
        return err_wrap(err, "import of %s", path);
    }
    image_sweep(s); /* the layers of an image that had this name */
    if (ret != NULL)
        *ret = info;
    else
        image_info_done(&info);
    return 0;
}
