/* Removal of what nobody needs, and of what a cache has no room for.
 *
 * Against a collector that has just found a blob to be old while somebody renews it: renewing is
 * done under a shared lock, and removing is looking at the age once more and unlinking, under an
 * exclusive one. So a blob whose presence was told (commit, store_has) stays for its grace, and one
 * that was removed first is told to be absent. */

#include "wire/store_impl.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#define SHARDS        256
#define TMP_MAX_AGE_S 86400

struct blob {
    char sha256[SHA256_HEX + 1];
    struct timespec mtime;
    uint64_t size;
};

struct blobs {
    struct blob *list;
    size_t ct, cap;
};

static DIR *dir_at(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d && fd >= 0)
        close(fd);
    return d;
}

static DIR *shard_at(struct store *s, unsigned shard)
{
    char name[8];

    snprintf(name, sizeof(name), "%02x", shard & (SHARDS - 1));
    return dir_at(s->blobs_fd, name);
}

static int64_t age_s(const struct stat *st)
{
    return (int64_t)time(NULL) - (int64_t)st->st_mtime;
}

static struct blob *blobs_add(struct blobs *b, const char *sha256)
{
    if (b->ct == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->list = xrealloc(b->list, b->cap * sizeof(*b->list));
    }
    b->list[b->ct] = (struct blob){{0}};
    memcpy(b->list[b->ct].sha256, sha256, SHA256_HEX);
    return &b->list[b->ct++];
}

/* ---- Collecting
 * ---------------------------------------------------------------------------------- */

/* The place of a blob in a round, which survives that others come and go: the first 32 bits of its
 * digest, in the order of which a round goes. */
static unsigned blob_place(const char *sha256)
{
    char head[9];

    memcpy(head, sha256, 8);
    head[8] = '\0';
    return (unsigned)strtoul(head, NULL, 16);
}

static int by_digest(const void *a, const void *b)
{
    return strcmp(((const struct blob *)a)->sha256, ((const struct blob *)b)->sha256);
}

static void shard_list(struct store *s, unsigned shard, unsigned from, struct blobs *ret)
{
    DIR *d = shard_at(s, shard);
    struct dirent *e;

    ret->ct = 0;
    if (!d)
        return;
    while ((e = readdir(d)))
        if (store_digest_ok(e->d_name) && blob_place(e->d_name) >= from)
            blobs_add(ret, e->d_name);
    closedir(d);
    if (ret->ct > 1)
        qsort(ret->list, ret->ct, sizeof(*ret->list), by_digest);
}

/* 1 when it went. */
static int blob_collect(struct store *s, const char *sha256,
                        int (*keep)(void *arg, const char *sha256), void *arg, int64_t grace_s)
{
    char path[BLOB_PATH];
    struct stat st;
    int lock, gone;

    store_blob_path(sha256, path);
    if (fstatat(s->blobs_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || age_s(&st) <= grace_s)
        return 0;
    if (keep(arg, sha256) != 0)
        return 0;
    lock = store_lock(s, LOCK_EX);
    gone = fstatat(s->blobs_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && age_s(&st) > grace_s &&
           unlinkat(s->blobs_fd, path, 0) == 0;
    cleanup_closep(&lock);
    return gone;
}

static void tmp_clean(struct store *s)
{
    DIR *d = dir_at(s->root_fd, "tmp");
    struct dirent *e;
    struct stat st;

    if (!d)
        return;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.' && fstatat(s->tmp_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            age_s(&st) > TMP_MAX_AGE_S)
            unlinkat(s->tmp_fd, e->d_name, 0);
    closedir(d);
}

void store_record_sweep(struct store *s)
{
    DIR *d = dir_at(s->root_fd, "tmp");
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (strncmp(e->d_name, STORE_RECORD_TMP, strlen(STORE_RECORD_TMP)) == 0)
            unlinkat(s->tmp_fd, e->d_name, 0);
    if (d)
        closedir(d);
}

int store_collect(struct store *s, int (*keep)(void *arg, const char *sha256), void *arg,
                  int64_t grace_s, int slice, unsigned *cursor, struct error *err)
{
    struct blobs blobs = {0};
    unsigned at = *cursor;
    int gone = 0, looked = 0;

    if (s->http)
        return err_set(err, ERR_PERMANENT, ENOTSUP,
                       "an http store is collected where its directory is");
    if (slice <= 0)
        return err_set(err, ERR_BUG, EINVAL, "a slice of %d files to collect", slice);
    if (at == 0)
        tmp_clean(s);
    for (unsigned shard = at >> 24; shard < SHARDS; shard++) {
        shard_list(s, shard, at, &blobs);
        for (size_t i = 0; i < blobs.ct; i++) {
            if (looked++ == slice) {
                at = blob_place(blobs.list[i].sha256);
                goto out;
            }
            gone += blob_collect(s, blobs.list[i].sha256, keep, arg, grace_s);
            /* of two in one place, the second has its turn when a round is cut elsewhere */
            at = blob_place(blobs.list[i].sha256) + 1;
        }
    }
    at = 0;
out:
    free(blobs.list);
    *cursor = at;
    return gone;
}

/* ---- The bound of a cache
 * ------------------------------------------------------------------------ */

static int by_age(const void *a, const void *b)
{
    const struct timespec *x = &((const struct blob *)a)->mtime;
    const struct timespec *y = &((const struct blob *)b)->mtime;

    if (x->tv_sec != y->tv_sec)
        return x->tv_sec < y->tv_sec ? -1 : 1;
    return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

static uint64_t cache_list(struct store *s, struct blobs *ret)
{
    uint64_t bytes = 0;

    for (unsigned shard = 0; shard < SHARDS; shard++) {
        DIR *d = shard_at(s, shard);
        struct dirent *e;
        struct stat st;

        while (d && (e = readdir(d))) {
            struct blob *b;

            if (!store_digest_ok(e->d_name) ||
                fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                continue;
            b = blobs_add(ret, e->d_name);
            b->mtime = st.st_mtim;
            b->size = (uint64_t)st.st_size;
            bytes += b->size;
        }
        if (d)
            closedir(d);
    }
    return bytes;
}

void store_cache_trim(struct store *s)
{
    struct blobs blobs = {0};
    /* A little under the bound, or each further file would have the whole cache looked at. */
    uint64_t bytes, goal = s->cache_bytes - s->cache_bytes / 10;

    tmp_clean(s);
    pthread_mutex_lock(&s->lock);
    bytes = cache_list(s, &blobs);
    if (bytes > s->cache_bytes) {
        qsort(blobs.list, blobs.ct, sizeof(*blobs.list), by_age);
        for (size_t i = 0; i < blobs.ct && bytes > goal; i++) {
            char path[BLOB_PATH];

            store_blob_path(blobs.list[i].sha256, path);
            if (unlinkat(s->blobs_fd, path, 0) == 0)
                bytes -= blobs.list[i].size;
        }
    }
    s->cached = bytes;
    pthread_mutex_unlock(&s->lock);
    free(blobs.list);
}
