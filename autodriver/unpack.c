#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens the directory `name` (of `len` bytes) in `parent`, making it when it is missing. Takes
 * `parent`. fd, or -1 with errno. */
static int enter_dir(const struct unpack *u, int parent, const char *name, size_t len,
                     unsigned mode)
{
    char part[UNTAR_NAME_MAX + 1];
    int fd = -1;
    int made;
    int saved;

    memcpy(part, name, len);
    part[len] = '\0';
    made = mkdirat(parent, part, 0700);
    if (made == 0 || errno == EEXIST)
        fd = openat(parent, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && made == 0 && (fchmod(fd, mode) < 0 || fchown(fd, u->uid, u->gid) < 0)) {
        saved = errno;
        close(fd);
        fd = -1;
        errno = saved;
    }
    saved = errno;
    close(parent);
    errno = saved;
    return fd;
}

/* The directory that holds the last component of `path`, which *ret_name is set to. fd, or -1 with
 * errno. */
static int enter_parent(const struct unpack *u, const char *path, const char **ret_name)
{
    int fd = fcntl(u->root_fd, F_DUPFD_CLOEXEC, 3);
    const char *slash;

    while (fd >= 0 && (slash = strchr(path, '/')) != NULL) {
        fd = enter_dir(u, fd, path, (size_t)(slash - path), 0755);
        path = slash + 1;
    }
    *ret_name = path;
    return fd;
}

static int failed(struct why *why, const char *path)
{
    return why_set(why, "unpacking %.120s: %s", path, strerror(errno));
}

static int sink_dir(void *arg, const char *path, unsigned mode, struct why *why)
{
    struct unpack *u = arg;
    const char *name;
    int fd = enter_parent(u, path, &name);

    /* The owner may always enter and write: what is in the directory comes after it. */
    if (fd >= 0)
        fd = enter_dir(u, fd, name, strlen(name), mode | 0700);
    if (fd < 0)
        return failed(why, path);
    close(fd);
    return 0;
}

static int sink_file(void *arg, const char *path, unsigned mode, uint64_t size, struct why *why)
{
    struct unpack *u = arg;
    const char *name;
    int parent = enter_parent(u, path, &name);

    (void)size; /* a disk that is too small says so itself, and a limit is the file system's */
    if (parent < 0)
        return failed(why, path);
    u->file_fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    u->file_mode = mode;
    if (u->file_fd < 0) {
        int saved = errno;

        close(parent);
        errno = saved;
        return failed(why, path);
    }
    close(parent);
    return 0;
}

static int sink_data(void *arg, const void *data, size_t len, struct why *why)
{
    struct unpack *u = arg;
    int rc = write_all(u->file_fd, data, len);

    return rc < 0 ? why_set(why, "unpacking: %s", strerror(-rc)) : 0;
}

static int sink_file_end(void *arg, struct why *why)
{
    struct unpack *u = arg;
    int rc = 0;

    if (fchmod(u->file_fd, u->file_mode) < 0 || fchown(u->file_fd, u->uid, u->gid) < 0)
        rc = why_set(why, "unpacking: %s", strerror(errno));
    if (close(u->file_fd) < 0 && rc == 0)
        rc = why_set(why, "unpacking: %s", strerror(errno));
    u->file_fd = -1;
    return rc;
}

void unpack_init(struct unpack *u, int root_fd, uid_t uid, gid_t gid, struct untar_sink *ret_sink)
{
    *u = (struct unpack){.root_fd = root_fd, .uid = uid, .gid = gid, .file_fd = -1};
    *ret_sink = (struct untar_sink){
        .arg = u,
        .dir = sink_dir,
        .file = sink_file,
        .data = sink_data,
        .file_end = sink_file_end,
    };
}

void unpack_done(struct unpack *u)
{
    if (u->file_fd >= 0)
        close(u->file_fd);
    u->file_fd = -1;
}
