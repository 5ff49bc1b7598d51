#include "tree.h"

#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A descriptor a level; well below the usual limit of 1024. */
#define DEPTH_MAX 128

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static int open_dir(int dir_fd, const char *name)
{
    return openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ---- Removing ---- */

struct removal {
    int top_fd;
    bool owned_only;
    uid_t uid;
    unsigned long removed; /* in this pass */
    unsigned long hoisted; /* in this pass */
    unsigned long serial;  /* names what is hoisted */
    int error;             /* in this pass: the first */
};

static void note_error(struct removal *r, int error)
{
    if (r->error == 0 && error != ENOENT)
        r->error = error;
}

static void hoist(struct removal *r, int dir_fd, const char *name)
{
    char fresh[64];

    snprintf(fresh, sizeof(fresh), ".autodriver-%d-%lu", (int)getpid(), r->serial++);
    if (renameat(dir_fd, name, r->top_fd, fresh) == 0)
        r->hoisted++;
    else
        note_error(r, errno);
}

static void remove_entry(struct removal *r, int dir_fd, const char *name, unsigned depth);

/* Takes fd. */
static void remove_below(struct removal *r, int fd, unsigned depth)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;

    if (!dir) {
        note_error(r, errno);
        close(fd);
        return;
    }
    while ((entry = readdir(dir)) != NULL)
        if (!is_dots(entry->d_name))
            remove_entry(r, dirfd(dir), entry->d_name, depth);
    closedir(dir);
}

static void remove_entry(struct removal *r, int dir_fd, const char *name, unsigned depth)
{
    struct stat st;
    bool match;
    int fd;

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        note_error(r, errno);
        return;
    }
    match = !r->owned_only || st.st_uid == r->uid;
    if (S_ISDIR(st.st_mode) && depth == DEPTH_MAX) {
        if (match)
            hoist(r, dir_fd, name);
        return;
    }
    if (S_ISDIR(st.st_mode)) {
        fd = open_dir(dir_fd, name);
        if (fd < 0) {
            note_error(r, errno);
            return;
        }
        remove_below(r, fd, depth + 1);
    }
    if (!match)
        return;
    if (unlinkat(dir_fd, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) == 0)
        r->removed++;
    else
        note_error(r, errno);
}

/* Passes until one finds nothing more to do: what was hoisted is met at the top the next time, and
 * so is what a readdir left out because the directory changed under it. */
static int remove_passes(struct removal *r)
{
    do {
        int fd = open_dir(r->top_fd, ".");

        if (fd < 0)
            return -errno;
        r->removed = 0;
        r->hoisted = 0;
        r->error = 0;
        remove_below(r, fd, 0);
    } while (r->hoisted > 0 || (r->error != 0 && r->removed > 0));
    return -r->error;
}

int tree_remove(int dir_fd, const char *name)
{
    struct removal r = {0};
    int rc;

    if (unlinkat(dir_fd, name, 0) == 0)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    r.top_fd = open_dir(dir_fd, name);
    if (r.top_fd < 0)
        return -errno;
    rc = remove_passes(&r);
    close(r.top_fd);
    if (unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

int tree_remove_owned(int dir_fd, uid_t uid)
{
    struct removal r = {.top_fd = dir_fd, .owned_only = true, .uid = uid};

    return remove_passes(&r);
}

/* ---- Giving ---- */

/* Someone who may not read or own a file may still have linked it into a directory of his. */
static bool is_foreign_link(const struct stat *st, uid_t from)
{
    return S_ISREG(st->st_mode) && st->st_nlink > 1 && st->st_uid != from;
}

struct gift {
    uid_t from, uid;
    gid_t gid;
};

static int give_below(const struct gift *g, int fd, unsigned depth);

/* Looks and acts through one descriptor, so that what was looked at is what is given. */
static int give_entry(const struct gift *g, int dir_fd, const char *name, unsigned depth)
{
    struct stat st;
    int fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int rc = 0;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        rc = -errno;
    else if (is_foreign_link(&st, g->from))
        rc = -EPERM;
    else if (S_ISDIR(st.st_mode))
        rc = depth == DEPTH_MAX ? -ELOOP : give_below(g, fd, depth + 1);
    if (rc == 0 && fchownat(fd, "", g->uid, g->gid, AT_EMPTY_PATH) < 0)
        rc = -errno;
    close(fd);
    return rc;
}

static int give_below(const struct gift *g, int fd, unsigned depth)
{
    int listing = open_dir(fd, ".");
    DIR *dir = listing < 0 ? NULL : fdopendir(listing);
    struct dirent *entry;
    int rc = 0;

    if (!dir) {
        rc = -errno;
        if (listing >= 0)
            close(listing);
        return rc;
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (!is_dots(entry->d_name))
            rc = give_entry(g, fd, entry->d_name, depth);
    closedir(dir);
    return rc;
}

int tree_give(int dir_fd, uid_t from, uid_t uid, gid_t gid)
{
    const struct gift g = {.from = from, .uid = uid, .gid = gid};
    int rc = give_below(&g, dir_fd, 0);

    if (rc == 0 && fchown(dir_fd, uid, gid) < 0)
        rc = -errno;
    return rc;
}

/* ---- Moving ---- */

static int copy_bytes(int from, int to)
{
    char buf[65536];

    for (;;) {
        ssize_t n = read(from, buf, sizeof(buf));
        int rc;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        rc = write_all(to, buf, (size_t)n);
        if (rc < 0)
            return rc;
    }
}

static int move_file(int from_fd, const char *name, int to_fd, uid_t from)
{
    struct stat st;
    int in = openat(from_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int out = -1;
    int rc = 0;

    if (in < 0)
        return -errno;
    if (fstat(in, &st) < 0)
        rc = -errno;
    else if (!S_ISREG(st.st_mode))
        rc = -EINVAL;
    else if (is_foreign_link(&st, from))
        rc = -EPERM;
    if (rc == 0) {
        out = openat(to_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        rc = out < 0 ? -errno : copy_bytes(in, out);
    }
    if (rc == 0 && (fchmod(out, st.st_mode & 0777) < 0 || unlinkat(from_fd, name, 0) < 0))
        rc = -errno;
    close(in);
    if (out >= 0)
        close(out);
    return rc;
}

static int move_symlink(int from_fd, const char *name, int to_fd)
{
    char target[4096];
    ssize_t len = readlinkat(from_fd, name, target, sizeof(target) - 1);

    if (len < 0)
        return -errno;
    target[len] = '\0';
    if (symlinkat(target, to_fd, name) < 0 || unlinkat(from_fd, name, 0) < 0)
        return -errno;
    return 0;
}

static int move_entry(int from_fd, const char *name, int to_fd, uid_t from, unsigned depth);

static int move_dir(int from_fd, const char *name, int to_fd, uid_t from, unsigned depth)
{
    int in = open_dir(from_fd, name);
    int out = -1;
    DIR *dir = NULL;
    struct dirent *entry;
    struct stat st;
    int rc = 0;

    if (depth == DEPTH_MAX)
        rc = -ELOOP;
    else if (in < 0 || fstat(in, &st) < 0 || mkdirat(to_fd, name, 0700) < 0 ||
             (out = open_dir(to_fd, name)) < 0 || !(dir = fdopendir(in)))
        rc = -errno;
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (!is_dots(entry->d_name))
            rc = move_entry(in, entry->d_name, out, from, depth + 1);
    if (rc == 0 &&
        (fchmod(out, st.st_mode & 0777) < 0 || unlinkat(from_fd, name, AT_REMOVEDIR) < 0))
        rc = -errno;
    if (dir)
        closedir(dir);
    else if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return rc;
}

static int move_entry(int from_fd, const char *name, int to_fd, uid_t from, unsigned depth)
{
    struct stat st;

    if (renameat(from_fd, name, to_fd, name) == 0)
        return 0;
    if (errno != EXDEV)
        return -errno;
    if (fstatat(from_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return move_dir(from_fd, name, to_fd, from, depth);
    if (S_ISLNK(st.st_mode))
        return move_symlink(from_fd, name, to_fd);
    return move_file(from_fd, name, to_fd, from);
}

int tree_move(int from_fd, const char *name, int to_fd, uid_t from)
{
    return move_entry(from_fd, name, to_fd, from, 0);
}
