#include "services/vmm/image_private.h"

#include "base/clock.h"
#include "base/image_name.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/name.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

/* ---- directories ---- */

static int rmtree_fd(int dir_fd, const char *name, dev_t dev, int depth)
{
    struct stat st;
    int fd, r = 0;
    DIR *d;

    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || st.st_dev != dev || depth > 2 * IMAGE_DEPTH_MAX) {
        close(fd);
        return -EXDEV;
    }
    d = fdopendir(fd);
    if (d == NULL) {
        r = -errno;
        close(fd);
        return r;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        int each;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        each = rmtree_fd(fd, e->d_name, dev, depth + 1);
        if (r == 0)
            r = each;
    }
    closedir(d);
    if (unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && r == 0)
        r = -errno;
    return r;
}

int image_rmtree(int dir_fd, const char *name)
{
    struct stat st;

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    return rmtree_fd(dir_fd, name, st.st_dev, 0);
}

/* 0700: what layers hold (set-uid programs of other people) is nobody else's on this host. */
static int open_dir(int at, const char *path, struct error *err)
{
    int fd;

    if (mkdirat(at, path, 0700) < 0 && errno != EEXIST)
        return err_set_errno(err, ERR_PERMANENT, errno, "image store: cannot make %s", path);
    fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "image store: cannot open %s", path);
    return fd;
}

int image_store_open(const char *data_dir, struct image_store **ret, struct error *err)
{
    struct image_store *s = xcalloc(1, sizeof(*s));

    s->dir_fd = s->layers_fd = s->names_fd = s->tmp_fd = -1;
    s->path = xasprintf("%s/images", data_dir);
    s->dir_fd = open_dir(AT_FDCWD, s->path, err);
    if (s->dir_fd >= 0)
        s->layers_fd = open_dir(s->dir_fd, "layers", err);
    if (s->layers_fd >= 0)
        s->names_fd = open_dir(s->dir_fd, "names", err);
    if (s->names_fd >= 0)
        s->tmp_fd = open_dir(s->dir_fd, "tmp", err);
    if (s->tmp_fd < 0) {
        image_store_close(s);
        return err != NULL ? -err->code : -EIO;
    }
    *ret = s;
    return 0;
}

void image_store_close(struct image_store *s)
{
    int fds[] = {s->dir_fd, s->layers_fd, s->names_fd, s->tmp_fd};

    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(s->path);
    free(s);
}

int image_store_lock(struct image_store *s, int how, struct error *err)
{
    int fd = openat(s->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "image store: cannot open %s/lock",
                             s->path);
    do
        r = flock(fd, how);
    while (r < 0 && errno == EINTR);
    if (r < 0) {
        r = err_set_errno(err, ERR_TEMPORARY, errno, "image store: cannot lock %s", s->path);
        close(fd);
        return r;
    }
    return fd;
}

int image_work_begin(struct image_store *s, struct image_work *w, struct error *err)
{
    cleanup_close int lock = image_store_lock(s, LOCK_SH, err);
    unsigned long long rnd = 0;

    if (lock < 0)
        return lock;
    if (getrandom(&rnd, sizeof(rnd), 0) != sizeof(rnd))
        return err_set_errno(err, ERR_TEMPORARY, errno, "image store: no random number");
    snprintf(w->name, sizeof(w->name), "w-%016llx", rnd);
    w->fd = open_dir(s->tmp_fd, w->name, err);
    if (w->fd < 0)
        return w->fd;
    if (flock(w->fd, LOCK_EX | LOCK_NB) < 0) {
        close(w->fd);
        return err_set_errno(err, ERR_TEMPORARY, errno, "image store: cannot lock tmp/%s", w->name);
    }
    return 0;
}

void image_work_end(struct image_store *s, struct image_work *w)
{
    image_rmtree(s->tmp_fd, w->name);
    close(w->fd);
}

/* ---- records ---- */

void image_info_done(struct image_info *i)
{
    for (size_t n = 0; n < i->layer_ct; n++)
        free(i->layers[n]);
    free(i->layers);
    free(i->name);
    free(i->digest);
    memset(i, 0, sizeof(*i));
}

static bool is_hex(const char *s)
{
    return strlen(s) == SHA256_HEX && strspn(s, "0123456789abcdef") == SHA256_HEX;
}

static int record_parse(const char *text, size_t len, struct image_info *ret)
{
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    const char *name = NULL, *digest = NULL;
    json_int_t bytes = 0, entries = 0, imported = 0;
    json_t *layers = NULL;
    size_t n, ct;
    json_t *each;

    if (root == NULL ||
        json_unpack(root, "{s:s,s:s,s:o,s?I,s?I,s?I}", "name", &name, "digest", &digest, "layers",
                    &layers, "bytes", &bytes, "entries", &entries, "imported_ms", &imported) < 0)
        goto bad;
    ct = json_array_size(layers);
    if (ct == 0 || ct > IMAGE_LAYERS_MAX)
        goto bad;
    json_array_foreach(layers, n, each) if (!json_is_string(each) ||
                                            !is_hex(json_string_value(each))) goto bad;
    ret->name = xstrdup(name);
    ret->digest = xstrdup(digest);
    ret->layers = xcalloc(ct, sizeof(char *));
    ret->layer_ct = ct;
    json_array_foreach(layers, n, each) ret->layers[n] = xstrdup(json_string_value(each));
    ret->bytes = (uint64_t)bytes;
    ret->entries = (uint64_t)entries;
    ret->imported_ms = imported;
    json_decref(root);
    return 0;
bad:
    json_decref(root);
    return -EBADMSG;
}

static int record_read(struct image_store *s, const char *file, struct image_info *ret)
{
    cleanup_close int fd = openat(s->names_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    cleanup_free char *text = NULL;
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size > 65536)
        return -EBADMSG;
    text = xmalloc((size_t)st.st_size + 1);
    n = pread(fd, text, (size_t)st.st_size, 0);
    if (n != st.st_size)
        return -EBADMSG;
    return record_parse(text, (size_t)n, ret);
}

static void record_file(const char *name, char file[SHA256_HEX + 1])
{
    digest_hex(DIGEST_SHA256, name, strlen(name), file);
}

static int record_write(struct image_store *s, struct image_work *w, const struct image_info *i,
                        struct error *err)
{
    json_t *layers = json_array();
    json_t *root;
    cleanup_free char *text = NULL;
    cleanup_close int fd = -1;
    char file[SHA256_HEX + 1];
    int r;

    for (size_t n = 0; n < i->layer_ct; n++)
        json_array_append_new(layers, json_string(i->layers[n]));
    root = json_pack("{s:i,s:s,s:s,s:o,s:I,s:I,s:I}", "version", 1, "name", i->name, "digest",
                     i->digest, "layers", layers, "bytes", (json_int_t)i->bytes, "entries",
                     (json_int_t)i->entries, "imported_ms", (json_int_t)i->imported_ms);
    text = root != NULL ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (text == NULL)
        return err_set(err, ERR_BUG, EINVAL, "image %s: cannot write its record", i->name);
    record_file(i->name, file);
    fd = openat(w->fd, "record", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && renameat(w->fd, "record", s->names_fd, file) < 0)
        r = -errno;
    if (r == 0 && fsync(s->names_fd) < 0)
        r = -errno;
    if (r < 0)
        return err_set_errno(err, ERR_TEMPORARY, -r, "image %s: cannot write its record", i->name);
    return 0;
}

/* Calls each() for every good record until it returns other than 0. */
static int each_record(struct image_store *s, int (*each)(void *arg, const struct image_info *i),
                       void *arg)
{
    int fd = openat(s->names_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    int r = 0;

    if (d == NULL) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    for (struct dirent *e; r == 0 && (e = readdir(d)) != NULL;) {
        struct image_info i = {0};

        if (!is_hex(e->d_name))
            continue;
        if (record_read(s, e->d_name, &i) < 0) {
            log_event(LOG_WARN_, "image.bad_record", "file", e->d_name, NULL);
            continue;
        }
        r = each(arg, &i);
        image_info_done(&i);
    }
    closedir(d);
    return r;
}

struct list_arg {
    void (*each)(void *arg, const struct image_info *i);
    void *arg;
};

static int list_one(void *arg, const struct image_info *i)
{
    struct list_arg *a = arg;

    a->each(a->arg, i);
    return 0;
}

int image_list(struct image_store *s, void (*each)(void *arg, const struct image_info *i),
               void *arg, struct error *err)
{
    struct list_arg a = {each, arg};
    int r = each_record(s, list_one, &a);

    if (r < 0)
        return err_set_errno(err, ERR_TEMPORARY, -r, "image store: cannot read %s/names", s->path);
    return 0;
}

/* ---- commit, sweep, remove ---- */

/* What had this name gets one of its own, since jobs may wait for it; a vmm, which can know whether
 * one does, removes it. */
static int keep_replaced(struct image_store *s, struct image_work *w, const struct image_info *next,
                         struct error *err)
{
    struct image_info old = {0};
    char file[SHA256_HEX + 1];
    int r = 0;

    record_file(next->name, file);
    if (record_read(s, file, &old) < 0) /* there is none, or none that could be used */
        return 0;
    if (strcmp(old.digest, next->digest) != 0) {
        free(old.name);
        old.name = image_name_kept(old.digest);
        r = record_write(s, w, &old, err);
    }
    image_info_done(&old);
    return r;
}

int image_commit(struct image_store *s, struct image_work *w, const struct image_info *i,
                 struct error *err)
{
    int r;

    cleanup_close int lock = -1;

    if (syncfs(w->fd) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "image %s: cannot sync", i->name);
    lock = image_store_lock(s, LOCK_EX, err);
    if (lock < 0)
        return lock;
    for (size_t n = 0; n < i->layer_ct; n++) {
        struct stat st;

        if (fstatat(s->layers_fd, i->layers[n], &st, AT_SYMLINK_NOFOLLOW) == 0)
            continue; /* another import was faster; ours goes with the work */
        if (renameat(w->fd, i->layers[n], s->layers_fd, i->layers[n]) < 0)
            return err_set_errno(err, ERR_TEMPORARY, errno,
                                 "image %s: layer %s was removed meanwhile; import it again",
                                 i->name, i->layers[n]);
    }
    if (fsync(s->layers_fd) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "image %s: cannot sync layers", i->name);
    r = keep_replaced(s, w, i, err);
    return r < 0 ? r : record_write(s, w, i, err);
}

struct wanted {
    char **hex;
    size_t count, cap;
};

static int want_layers(void *arg, const struct image_info *i)
{
    struct wanted *w = arg;

    for (size_t n = 0; n < i->layer_ct; n++) {
        if (w->count == w->cap) {
            w->cap = w->cap > 0 ? 2 * w->cap : 64;
            w->hex = xrealloc(w->hex, w->cap * sizeof(char *));
        }
        w->hex[w->count++] = xstrdup(i->layers[n]);
    }
    return 0;
}

static bool is_wanted(const struct wanted *w, const char *hex)
{
    for (size_t n = 0; n < w->count; n++)
        if (strcmp(w->hex[n], hex) == 0)
            return true;
    return false;
}

static int lock_dir(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void move_unwanted(struct image_store *s)
{
    struct wanted w = {0};
    int fd = openat(s->layers_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (d != NULL && each_record(s, want_layers, &w) == 0)
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
            int used;

            if (!is_hex(e->d_name) || is_wanted(&w, e->d_name))
                continue;
            used = lock_dir(s->layers_fd, e->d_name);
            if (used < 0)
                continue;
            renameat(s->layers_fd, e->d_name, s->tmp_fd, e->d_name);
            close(used);
        }
    if (d != NULL)
        closedir(d);
    else if (fd >= 0)
        close(fd);
    for (size_t n = 0; n < w.count; n++)
        free(w.hex[n]);
    free(w.hex);
}

#define SWEEP_MAX 64

void image_sweep(struct image_store *s)
{
    int lock = image_store_lock(s, LOCK_EX, NULL);
    char *names[SWEEP_MAX];
    int fds[SWEEP_MAX];
    size_t count = 0;
    int fd;
    DIR *d;

    if (lock < 0)
        return;
    move_unwanted(s);
    fd = openat(s->tmp_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    d = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *e; d != NULL && count < SWEEP_MAX && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        fds[count] = lock_dir(s->tmp_fd, e->d_name);
        if (fds[count] >= 0)
            names[count++] = xstrdup(e->d_name);
    }
    if (d != NULL)
        closedir(d);
    close(lock); /* what takes long is done without it: machines wait for this lock */
    for (size_t n = 0; n < count; n++) {
        image_rmtree(s->tmp_fd, names[n]);
        close(fds[n]);
        free(names[n]);
    }
}

struct sole {
    const struct image_info *of;
    bool shared[IMAGE_LAYERS_MAX];
};

static int mark_shared(void *arg, const struct image_info *i)
{
    struct sole *a = arg;

    if (strcmp(i->name, a->of->name) == 0)
        return 0;
    for (size_t n = 0; n < a->of->layer_ct; n++)
        for (size_t m = 0; m < i->layer_ct; m++)
            if (strcmp(a->of->layers[n], i->layers[m]) == 0)
                a->shared[n] = true;
    return 0;
}

static int remove_record(struct image_store *s, const char *file, const struct image_info *i,
                         struct error *err)
{
    struct sole sole = {.of = i};
    int r = each_record(s, mark_shared, &sole);

    if (r < 0)
        return err_set_errno(err, ERR_TEMPORARY, -r, "image store: cannot read %s/names", s->path);
    for (size_t n = 0; n < i->layer_ct; n++) {
        int fd;

        if (sole.shared[n])
            continue;
        fd = lock_dir(s->layers_fd, i->layers[n]);
        if (fd < 0 && errno == EWOULDBLOCK)
            return err_set(err, ERR_REFUSED, EBUSY,
                           "image %s is in use by a machine; try again when its jobs are done",
                           i->name);
        if (fd >= 0)
            close(fd);
    }
    if (unlinkat(s->names_fd, file, 0) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "image %s: cannot remove its record",
                             i->name);
    return 0;
}

int image_remove(struct image_store *s, const char *name, struct error *err)
{
    int lock = image_store_lock(s, LOCK_EX, err);
    struct image_info i = {0};
    char file[SHA256_HEX + 1];
    int r;

    if (lock < 0)
        return lock;
    record_file(name, file);
    r = record_read(s, file, &i);
    if (r == -ENOENT)
        r = err_set(err, ERR_REFUSED, ENOENT, "image %s: there is none; see `milonga image list`",
                    name);
    else if (r < 0)
        r = err_set_errno(err, ERR_PERMANENT, -r, "image %s: cannot read its record %s/names/%s",
                          name, s->path, file);
    else
        r = remove_record(s, file, &i, err);
    image_info_done(&i);
    close(lock);
    if (r == 0)
        image_sweep(s);
    return r;
}

/* ---- use ---- */

struct find_arg {
    struct image_store *s;
    const char *digest;
    struct image_use *use;
    struct error *err;
};

static int find_one(void *arg, const struct image_info *i)
{
    struct find_arg *a = arg;

    if (strcmp(i->digest, a->digest) != 0)
        return 0;
    a->use = xcalloc(1, sizeof(*a->use));
    a->use->layer_fds = xcalloc(i->layer_ct, sizeof(int));
    for (size_t n = 0; n < i->layer_ct; n++) {
        int fd =
            openat(a->s->layers_fd, i->layers[n], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0)
            return err_set_errno(a->err, ERR_TEMPORARY, errno, "image %s: cannot open layer %s",
                                 i->name, i->layers[n]);
        a->use->layer_fds[a->use->layer_ct++] = fd;
        if (flock(fd, LOCK_SH | LOCK_NB) < 0)
            return err_set_errno(a->err, ERR_TEMPORARY, errno,
                                 "image %s: layer %s is being removed", i->name, i->layers[n]);
    }
    return 1;
}

int image_acquire(struct image_store *s, const char *digest, struct image_use **ret,
                  struct error *err)
{
    struct find_arg a = {s, digest, NULL, err};
    int lock = image_store_lock(s, LOCK_SH, err);
    int r;

    if (lock < 0)
        return lock;
    r = each_record(s, find_one, &a);
    close(lock);
    if (r == 1) {
        *ret = a.use;
        return 0;
    }
    image_release(a.use);
    if (r == 0)
        return err_set(err, ERR_REFUSED, ENOENT,
                       "image %s is not in %s; import it with `milonga image import`", digest,
                       s->path);
    return a.use != NULL ? r
                         : err_set_errno(err, ERR_TEMPORARY, -r,
                                         "image store: cannot read %s/names", s->path);
}

void image_release(struct image_use *u)
{
    if (u == NULL)
        return;
    for (size_t n = 0; n < u->layer_ct; n++)
        close(u->layer_fds[n]);
    free(u->layer_fds);
    free(u);
}
