/* A blob comes into being without a name, is made durable, and is linked to its place, so that at
 * its place it is whole, and one whose writer is killed is gone. Where the file system cannot do
 * that (NFS) it has a name in tmp/ and is renamed. Its directory is synced after the rename:
 * commit's caller may tell others that it is there. What tells a collector that a blob is in use is
 * its mtime: it is renewed by every commit and every store_has(). Nothing here waits for another
 * process. */

#include "wire/store_impl.h"

#include "base/crashpoint.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#define META_MAX_BYTES 65536
#define PLACE_TRIES    16

bool store_digest_ok(const char *sha256)
{
    return strlen(sha256) == SHA256_HEX && strspn(sha256, "0123456789abcdef") == SHA256_HEX;
}

void store_blob_path(const char *sha256, char path[BLOB_PATH])
{
    snprintf(path, BLOB_PATH, "%.2s/%.64s", sha256, sha256);
}

static int fail(const struct store *s, struct error *err, int code, const char *what)
{
    if (code == ENOSPC || code == EDQUOT)
        return err_set_errno(err, ERR_TEMPORARY, code,
                             "store %s: %s; make room there or move the store", s->root, what);
    return err_set_errno(err, ERR_TEMPORARY, code, "store %s: %s", s->root, what);
}

/* ---- Opening
 * ------------------------------------------------------------------------------------- */

static int mkdir_parents(const char *path)
{
    cleanup_free char *copy = xstrdup(path);

    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0700) < 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int dir_open(int at, const char *name, int *ret_fd)
{
    if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
        return -errno;
    *ret_fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? -errno : 0;
}

static int root_open(struct store *s)
{
    int r = mkdir_parents(s->root);

    if (r < 0)
        return r;
    s->root_fd = open(s->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->root_fd < 0)
        return -errno;
    if ((r = dir_open(s->root_fd, "blobs", &s->blobs_fd)) < 0 ||
        (r = dir_open(s->root_fd, "tmp", &s->tmp_fd)) < 0 ||
        (r = dir_open(s->root_fd, "meta", &s->meta_fd)) < 0)
        return r;
    return fsync(s->root_fd) < 0 ? -errno : 0;
}

int store_open(const struct store_options *opt, struct store **ret, struct error *err)
{
    bool http = strncmp(opt->where, "http://", 7) == 0 || strncmp(opt->where, "https://", 8) == 0;
    const char *root = http ? opt->cache_dir : opt->where;
    struct store *s;
    int r;

    if (!root || !*root)
        return err_set(err, ERR_PERMANENT, EINVAL,
                       http ? "store %s needs a directory for its cache"
                            : "store '%s' is no directory or URL",
                       opt->where);
    s = xcalloc(1, sizeof(*s));
    s->root = xstrdup(root);
    s->root_fd = s->blobs_fd = s->tmp_fd = s->meta_fd = -1;
    s->cache_bytes = opt->cache_bytes;
    pthread_mutex_init(&s->lock, NULL);
    r = root_open(s);
    if (r < 0)
        err_set_errno(
            err, ERR_PERMANENT, -r,
            "store %s can not be opened; it must be a directory that this service may write", root);
    else if (http)
        r = store_http_open(s, opt->where, opt->key, err);
    if (r < 0) {
        store_close(s);
        return r;
    }
    if (http)
        store_cache_trim(s);
    else {
        store_record_sweep(s);
        store_gone_back(s, NULL);
    }
    *ret = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    store_http_close(s->http);
    cleanup_closep(&s->root_fd);
    cleanup_closep(&s->blobs_fd);
    cleanup_closep(&s->tmp_fd);
    cleanup_closep(&s->meta_fd);
    pthread_mutex_destroy(&s->lock);
    free(s->root);
    free(s);
}

/* ---- Writing
 * ------------------------------------------------------------------------------------- */

int store_name_random(const char *prefix, char *name, size_t size)
{
    unsigned char random[STORE_RANDOM / 2];
    int n = snprintf(name, size, "%s", prefix);

    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return -EIO;
    for (size_t i = 0; i < sizeof(random); i++)
        n += snprintf(name + n, size - (size_t)n, "%02x", random[i]);
    return 0;
}

/* A new file on the file system of tmp/, where that can be without a name. If not, its name is no
 * other's even on a volume that several hosts share. */
static int tmp_create(struct store *s, char *name, size_t size)
{
    int fd = -1, r;

    name[0] = '\0';
    if (access("/proc/self/fd", X_OK) == 0)
        fd = openat(s->tmp_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL))
        return fd < 0 ? -errno : fd;
    r = store_name_random("w-", name, size);
    if (r < 0)
        return r;
    fd = openat(s->tmp_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

static void tmp_drop(struct store *s, const char *name)
{
    if (name[0])
        unlinkat(s->tmp_fd, name, 0);
}

/* Gives it a name where there is none yet: -EEXIST. */
static int tmp_link(int fd, int dir_fd, const char *path)
{
    char self[32];

    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, self, dir_fd, path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int store_write_begin(struct store *s, struct store_writer **ret, struct error *err)
{
    struct store_writer *w = xcalloc(1, sizeof(*w));

    w->s = s;
    w->fd = tmp_create(s, w->tmp, sizeof(w->tmp));
    if (w->fd < 0) {
        int code = -w->fd;

        free(w);
        return fail(s, err, code, "making a temp file");
    }
    CRASHPOINT("store", "temp", "after");
    w->sha256 = digest_new(DIGEST_SHA256);
    w->md5 = digest_new(DIGEST_MD5);
    *ret = w;
    return 0;
}

int store_write(struct store_writer *w, const void *data, size_t len, struct error *err)
{
    int r = write_all(w->fd, data, len);

    CRASHPOINT("store", "write", "after");
    if (r < 0)
        return fail(w->s, err, -r, "writing a file");
    digest_update(w->sha256, data, len);
    digest_update(w->md5, data, len);
    w->size += len;
    return 0;
}

/* Frees all but the temp file, which has been given its place or is to go. */
static void writer_free(struct store_writer *w, bool placed)
{
    if (!placed)
        tmp_drop(w->s, w->tmp);
    digest_free(w->sha256);
    digest_free(w->md5);
    cleanup_closep(&w->fd);
    free(w);
}

void store_write_drop(struct store_writer *w)
{
    if (w)
        writer_free(w, false);
}

int store_writer_detach(struct store_writer *w)
{
    int fd = TAKE_FD(w->fd);

    lseek(fd, 0, SEEK_SET);
    writer_free(w, true);
    return fd;
}

int store_writer_seal(struct store_writer *w, struct store_info *ret, struct error *err)
{
    if (fsync(w->fd) < 0)
        return fail(w->s, err, errno, "syncing a file");
    CRASHPOINT("store", "fsync", "after");
    digest_final(TAKE_PTR(w->sha256), ret->sha256);
    digest_final(TAKE_PTR(w->md5), ret->md5);
    ret->size = w->size;
    return 0;
}

int store_stat(int dir_fd, const char *path, struct stat *ret)
{
    cleanup_close int fd = openat(dir_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    return fd < 0 || fstat(fd, ret) < 0 ? -errno : 0;
}

/* Renews the age. 0, -ENOENT, or another error. What is seen at its place after it was renewed, no
 * collector removes: see store_collect.c. */
static int blob_touch(struct store *s, const char *path)
{
    struct stat st;

    return utimensat(s->blobs_fd, path, NULL, 0) < 0 ? -errno : store_stat(s->blobs_fd, path, &st);
}

/* The directory of a blob, made and durable in its parent. */
static int shard_open(struct store *s, const char *sha256)
{
    char name[3] = {sha256[0], sha256[1], '\0'};
    int fd = openat(s->blobs_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r;

    if (fd >= 0 || errno != ENOENT)
        return fd < 0 ? -errno : fd;
    r = dir_open(s->blobs_fd, name, &fd);
    if (r == 0 && fsync(s->blobs_fd) < 0) {
        r = -errno;
        close(fd);
    }
    return r < 0 ? r : fd;
}

/* 0 when the blob is at its place and as new, whoever put it there. */
static int blob_place_once(struct store_writer *w, const char *path)
{
    struct store *s = w->s;
    int r = blob_touch(s, path);

    if (r == 0)
        tmp_drop(s, w->tmp);
    else if (r == -ENOENT && w->tmp[0])
        r = renameat(s->tmp_fd, w->tmp, s->blobs_fd, path) < 0 ? -errno : 0;
    else if (r == -ENOENT)
        r = tmp_link(w->fd, s->blobs_fd, path);
    return r;
}

int store_writer_place(struct store_writer *w, const struct store_info *info, struct error *err)
{
    struct store *s = w->s;
    char path[BLOB_PATH];
    cleanup_close int shard = shard_open(s, info->sha256);
    int r = -EEXIST;

    if (shard < 0)
        return fail(s, err, -shard, "making a directory for a file");
    store_blob_path(info->sha256, path);
    /* One that came to be there meanwhile may be an old one that was put back: to be renewed. */
    for (int tries = 0; r == -EEXIST && tries < PLACE_TRIES; tries++)
        r = blob_place_once(w, path);
    if (r < 0)
        return fail(s, err, -r, "giving a file its place");
    CRASHPOINT("store", "rename", "after");
    /* Also when it was there: whoever renamed it may not have come to this point. */
    if (fsync(shard) < 0)
        return fail(s, err, errno, "syncing a directory");
    CRASHPOINT("store", "sync_directory", "after");
    return 0;
}

int store_write_commit(struct store_writer *w, struct store_info *ret, struct error *err)
{
    struct store_info info;
    int r = store_writer_seal(w, &info, err);

    if (r == 0 && w->s->http)
        r = store_http_put(w->s, w->fd, &info, err);
    if (r == 0)
        r = store_writer_place(w, &info, err);
    writer_free(w, r == 0);
    if (r == 0)
        *ret = info;
    return r;
}

/* Most of what frontends upload is there already (the same handout for each student): then nothing
 * is written. True when it was so. */
static bool put_known(struct store *s, const void *data, size_t len, struct store_info *ret)
{
    struct store_info info = {.size = len};
    char path[BLOB_PATH];
    cleanup_close int shard = -1;

    if (s->http)
        return false;
    digest_hex(DIGEST_SHA256, data, len, info.sha256);
    store_blob_path(info.sha256, path);
    if (blob_touch(s, path) < 0)
        return false;
    shard = shard_open(s, info.sha256);
    if (shard < 0 || fsync(shard) < 0)
        return false;
    digest_hex(DIGEST_MD5, data, len, info.md5);
    *ret = info;
    return true;
}

int store_put(struct store *s, const void *data, size_t len, struct store_info *ret,
              struct error *err)
{
    struct store_writer *w;
    int r;

    if (put_known(s, data, len, ret))
        return 0;
    r = store_write_begin(s, &w, err);
    if (r < 0)
        return r;
    r = store_write(w, data, len, err);
    if (r < 0) {
        store_write_drop(w);
        return r;
    }
    return store_write_commit(w, ret, err);
}

/* ---- Reading
 * ------------------------------------------------------------------------------------- */

int store_blob_open(struct store *s, const char *sha256, bool touch, int *ret_fd,
                    uint64_t *ret_size)
{
    char path[BLOB_PATH];
    struct stat st;
    int fd;

    store_blob_path(sha256, path);
    fd = openat(s->blobs_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0) {
        close(fd);
        return -EIO;
    }
    if (touch)
        futimens(fd, NULL); /* a cache's order of use; nothing is lost when it fails */
    *ret_fd = fd;
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

int store_get(struct store *s, const char *sha256, int *ret_fd, uint64_t *ret_size,
              struct error *err)
{
    int r;

    if (!store_digest_ok(sha256))
        return err_set(err, ERR_PERMANENT, EINVAL, "'%.80s' is not a SHA-256 digest", sha256);
    r = store_blob_open(s, sha256, s->http, ret_fd, ret_size);
    for (bool again = true; r == -ENOENT && !s->http && again;) {
        again = store_gone_back(s, sha256);
        r = store_blob_open(s, sha256, false, ret_fd, ret_size);
    }
    if (r == -ENOENT && s->http)
        return store_http_get(s, sha256, ret_fd, ret_size, err);
    if (r == -ENOENT)
        return err_set(err, ERR_PERMANENT, ENOENT, "store %s has no file %s", s->root, sha256);
    return r < 0 ? fail(s, err, -r, "opening a file") : 0;
}

int store_has(struct store *s, const char *sha256)
{
    char path[BLOB_PATH];
    int r;

    if (!store_digest_ok(sha256))
        return -EINVAL;
    if (s->http)
        return store_http_has(s, sha256);
    store_blob_path(sha256, path);
    r = blob_touch(s, path);
    for (bool again = true; r == -ENOENT && again;) {
        again = store_gone_back(s, sha256);
        r = blob_touch(s, path);
    }
    return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}

/* ---- Small records
 * ------------------------------------------------------------------------------- */

static int meta_check(struct store *s, const char *name, struct error *err)
{
    size_t len = strlen(name);

    if (s->http)
        return err_set(err, ERR_PERMANENT, ENOTSUP,
                       "store record %.60s: an http store keeps no records; use a directory", name);
    if (len == 0 || len > 60 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != len)
        return err_set(err, ERR_BUG, EINVAL, "'%.60s' is not the name of a store record", name);
    return 0;
}

/* What has no name cannot replace another file in one step, so it has one of its own in between. No
 * lock: one who stands still with it would hold up everybody. Whoever opens the store may take such
 * a name away (store_record_sweep); then this fails, and is to be tried again. */
static int record_place(struct store *s, int fd, const char *name)
{
    char tmp[64];
    int r = store_name_random(STORE_RECORD_TMP, tmp, sizeof(tmp));

    if (r == 0)
        r = tmp_link(fd, s->tmp_fd, tmp);
    CRASHPOINT("store", "record_link", "after");
    if (r == 0 && renameat(s->tmp_fd, tmp, s->meta_fd, name) < 0)
        r = -errno;
    return r;
}

int store_meta_put(struct store *s, const char *name, const char *text, struct error *err)
{
    cleanup_close int fd = -1;
    char tmp[64];
    int r = meta_check(s, name, err);

    if (r < 0)
        return r;
    if (strlen(text) > META_MAX_BYTES)
        return err_set(err, ERR_BUG, EFBIG, "store record %s is longer than %d bytes", name,
                       META_MAX_BYTES);
    fd = tmp_create(s, tmp, sizeof(tmp));
    if (fd < 0)
        return fail(s, err, -fd, "making a temp file");
    CRASHPOINT("store", "record_temp", "after");
    r = write_all(fd, text, strlen(text));
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && !tmp[0])
        r = record_place(s, fd, name);
    else if (r == 0 && renameat(s->tmp_fd, tmp, s->meta_fd, name) < 0)
        r = -errno;
    if (r == 0 && fsync(s->meta_fd) < 0)
        r = -errno;
    if (r < 0) {
        tmp_drop(s, tmp);
        return fail(s, err, -r, "writing a record");
    }
    CRASHPOINT("store", "record", "after");
    return 0;
}

int store_meta_get(struct store *s, const char *name, char **ret, struct error *err)
{
    cleanup_free char *path = NULL;
    size_t len;
    int r = meta_check(s, name, err);

    if (r < 0)
        return r;
    path = xasprintf("%s/meta/%s", s->root, name);
    r = read_file(path, META_MAX_BYTES, ret, &len);
    if (r == -ENOENT)
        return err_set(err, ERR_PERMANENT, ENOENT, "store %s has no record %s", s->root, name);
    return r < 0 ? fail(s, err, -r, "reading a record") : 0;
}

int store_meta_list(struct store *s, const char *prefix, int (*fn)(void *arg, const char *name),
                    void *arg, struct error *err)
{
    struct dirent *e;
    int fd, r = meta_check(s, prefix, err);
    DIR *dir;

    if (r < 0)
        return r;
    fd = openat(s->meta_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        r = fail(s, err, errno, "reading the records");
        cleanup_closep(&fd);
        return r;
    }
    while (r == 0 && (errno = 0, e = readdir(dir)))
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
            r = fn(arg, e->d_name);
    if (r == 0 && errno)
        r = fail(s, err, errno, "reading the records");
    closedir(dir);
    return r;
}

int store_meta_drop(struct store *s, const char *name, struct error *err)
{
    int r = meta_check(s, name, err);

    if (r < 0)
        return r;
    return unlinkat(s->meta_fd, name, 0) < 0 && errno != ENOENT
               ? fail(s, err, errno, "removing a record")
               : 0;
}
