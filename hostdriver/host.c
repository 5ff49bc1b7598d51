#include "host.h"

#include "base/clock.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define GROUPS   "milonga-host"
#define LOOK_MS  20 /* between two tries for a lock: flock(2) has no time-out */
#define NAME_LEN 159

bool mode_is_engine(const char *mode)
{
    return strcmp(mode, "docker") == 0 || strcmp(mode, "podman") == 0;
}

bool host_name_ok(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len <= NAME_LEN && name[0] != '.' && name[0] != '-' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == len;
}

/* Two directories on one host are two sets of machines, so their groups differ too. */
static char *groups_path(const char *dir)
{
    char *path = xasprintf(GROUPS "/%s", dir[0] == '/' ? dir + 1 : dir);

    for (char *p = path + strlen(GROUPS) + 1; *p != '\0'; p++)
        if (*p == '/' || (p[0] == '.' && p[1] == '.'))
            *p = '_';
    return path;
}

static int check_owned(int fd, const char *path, struct error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "%s", path);
    if (st.st_uid != 0 || (st.st_mode & 022) != 0)
        return err_set(err, ERR_PERMANENT, EPERM,
                       "%s belongs to uid %u with mode %o, so that others could put programs there "
                       "that run as root; chown root and chmod 711 it, or set ssh_dir",
                       path, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777);
    return 0;
}

int host_open(const char *path, bool direct, struct host *ret, struct error *err)
{
    struct host h = {.fd = -1, .machines_fd = -1};

    if (geteuid() != 0)
        return err_set(err, ERR_PERMANENT, EPERM,
                       "uid %u is not root; log in as root, or let the account use sudo without a "
                       "password",
                       (unsigned)geteuid());
    h.fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (h.fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "%s", path);
    int r = check_owned(h.fd, path, err);
    if (r == 0 && mkdirat(h.fd, "m", 0711) < 0 && errno != EEXIST)
        r = err_set_errno(err, ERR_TEMPORARY, errno, "mkdir %s/m", path);
    if (r == 0) {
        h.machines_fd = openat(h.fd, "m", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        r = h.machines_fd < 0 ? err_set_errno(err, ERR_PERMANENT, errno, "%s/m", path)
                              : check_owned(h.machines_fd, path, err);
    }
    if (r == 0 && direct) {
        cleanup_free char *groups = groups_path(path);

        r = cgroup_tree_open(groups, &h.groups, err);
    }
    if (r < 0) {
        if (h.machines_fd >= 0)
            close(h.machines_fd);
        close(h.fd);
        return r;
    }
    h.path = xstrdup(path);
    *ret = h;
    return 0;
}

int host_lock(const struct host *h, const char *name, int how, int64_t wait_ms, struct error *err)
{
    int64_t deadline = clock_mono_ms() + wait_ms;
    cleanup_close int fd =
        openat(h->fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, (mode_t)0600);

    if (fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s/%s", h->path, name);
    while (flock(fd, how | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_set_errno(err, ERR_TEMPORARY, errno, "flock %s/%s", h->path, name);
        if (clock_mono_ms() >= deadline)
            return err_set(err, ERR_TEMPORARY, EWOULDBLOCK, "%s/%s is locked", h->path, name);
        poll(NULL, 0, LOOK_MS);
    }
    return TAKE_FD(fd);
}

/* ---- owner ---- */

int host_read_owner(const struct host *h, struct owner *ret, struct error *err)
{
    cleanup_close int fd = openat(h->fd, "owner", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    char text[300];
    struct owner o;
    int pid = 0;

    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s/owner", h->path);
    text[n] = '\0';
    if (sscanf(text, "%16s %d %199s", o.epoch, &pid, o.id) != 3)
        return err_set(err, ERR_TEMPORARY, EPROTO, "%s/owner is not of our making", h->path);
    o.pid = pid;
    *ret = o;
    return 0;
}

int host_write_owner(const struct host *h, const struct owner *o, struct error *err)
{
    cleanup_free char *text = xasprintf("%s %d %s\n", o->epoch, (int)o->pid, o->id);
    cleanup_close int fd = openat(
        h->fd, ".owner", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, (mode_t)0600);
    int r = fd < 0 ? -errno : write_all(fd, text, strlen(text));

    if (r == 0 && renameat(h->fd, ".owner", h->fd, "owner") < 0)
        r = -errno;
    return r < 0 ? err_set_errno(err, ERR_TEMPORARY, -r, "%s/owner", h->path) : 0;
}

int host_find_keeper(const struct host *h, const char *epoch, int *ret_pidfd, struct error *err)
{
    struct error busy = ERROR_INIT;
    struct owner o;

    int r = host_read_owner(h, &o, err);
    if (r < 0)
        return r;
    if (strcmp(o.epoch, epoch) != 0)
        return err_set(err, ERR_TEMPORARY, ESTALE, "the host is used by %s now", o.id);
    cleanup_close int fd = (int)syscall(SYS_pidfd_open, o.pid, 0);
    int lock = host_lock(h, "lock", LOCK_SH, 0, &busy);
    if (lock >= 0)
        close(lock);
    if (lock != -EWOULDBLOCK || fd < 0)
        return err_set(err, ERR_TEMPORARY, ESTALE, "nobody keeps the host any more");
    *ret_pidfd = TAKE_FD(fd);
    return 0;
}

/* ---- machines ---- */

int host_end_machine(const struct host *h, const char *name, struct error *err)
{
    int r = h->groups ? cgroup_end(h->groups, name, clock_mono_ms() + WAIT_MS, err) : 0;

    if (r < 0)
        return r;
    if (unlinkat(h->machines_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return err_set_errno(err, ERR_TEMPORARY, errno, "rmdir %s/m/%s", h->path, name);
    return 0;
}

int host_each(const struct host *h, void (*each)(void *arg, const char *name), void *arg,
              struct error *err)
{
    int fd = openat(h->machines_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (!d) {
        int code = errno;

        if (fd >= 0)
            close(fd);
        return err_set_errno(err, ERR_TEMPORARY, code, "%s/m", h->path);
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (host_name_ok(e->d_name))
            each(arg, e->d_name);
    closedir(d);
    return h->groups ? cgroup_tree_each(h->groups, each, arg, err) : 0;
}
