#include "services/vmm/drivers/oci_private.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The built-in image `host`: this machine's programs, read-only, in a root directory of our own
 * with accounts and homes for a job and nothing of the machine's /etc, /home, /root or /var. Only
 * for usr-merged systems, where /bin and /lib are links into /usr: then one read-only bind is the
 * whole of it. */

static const char *const links[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};

/* What programs in /usr cannot do without. */
static const char *const binds[] = {"/usr", "/etc/alternatives", "/etc/ld.so.cache"};

static const struct {
    const char *name;
    const char *text;
} files[] = {
    {"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                   "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
                   "autolab:x:61233:61233:autolab:/home/autolab:/bin/sh\n"
                   "autograde:x:61234:61234:autograde:/home/autograde:/bin/sh\n"},
    {"etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\nautolab:x:61233:\nautograde:x:61234:\n"},
    {"etc/nsswitch.conf",
     "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"},
    {"etc/hostname", "milonga\n"},
    {"etc/hosts", ""},
    {"etc/resolv.conf", ""},
    {"etc/ld.so.cache", ""},
};

static const struct {
    const char *name;
    mode_t mode;
    uid_t owner;
} dirs[] = {
    {"usr", 0755, 0},
    {"etc", 0755, 0},
    {"etc/alternatives", 0755, 0},
    {"root", 0700, 0},
    {"home", 0755, 0},
    {"home/autolab", 0755, 61233},
    {"home/autograde", 0755, 61234},
    {"home/output", 0755, 61233},
    {"proc", 0755, 0},
    {"sys", 0755, 0},
    {"dev", 0755, 0},
    {"run", 0755, 0},
    {"var", 0755, 0},
    {"tmp", 01777, 0},
    {"var/tmp", 01777, 0},
};

int oci_put_file(int dir_fd, const char *name, const char *text, struct error *err)
{
    cleanup_close int fd = -1;
    int r;

    if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot replace %s", name);
    fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
    if (r == 0 && fchmod(fd, 0644) < 0)
        r = -errno;
    return r < 0 ? err_set_errno(err, ERR_TEMPORARY, -r, "oci: cannot write %s", name) : 0;
}

static int fill(int fd, struct error *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
        if (mkdirat(fd, dirs[i].name, 0755) < 0 ||
            fchmodat(fd, dirs[i].name, dirs[i].mode, 0) < 0 ||
            fchownat(fd, dirs[i].name, dirs[i].owner, dirs[i].owner, AT_SYMLINK_NOFOLLOW) < 0)
            return err_set_errno(err, ERR_PERMANENT, errno,
                                 "oci: cannot make /%s of the host image", dirs[i].name);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        int r = oci_put_file(fd, files[i].name, files[i].text, err);

        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
        cleanup_free char *path = xasprintf("/%s", links[i]);
        cleanup_free char *want = xasprintf("usr/%s", links[i]);
        char target[64];
        ssize_t n = readlink(path, target, sizeof(target) - 1);

        if (n < 0 && errno == ENOENT) /* not every architecture has each */
            continue;
        target[n > 0 ? n : 0] = '\0';
        if (strcmp(target[0] == '/' ? target + 1 : target, want) != 0)
            return err_set(
                err, ERR_PERMANENT, ENOTSUP,
                "oci: the host image needs a usr-merged system, but %s is no link to %s; set "
                "oci_host_image = no",
                path, want);
        if (symlinkat(want, fd, links[i]) < 0)
            return err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot make %s of the host image",
                                 path);
    }
    return 0;
}

int oci_host_make(int base_fd, const char *name, struct error *err)
{
    cleanup_close int fd = -1;
    int r = image_rmtree(base_fd, name);

    if (r < 0)
        return err_set_errno(err, ERR_PERMANENT, -r, "oci: cannot remove an old %s", name);
    if (mkdirat(base_fd, name, 0755) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot make %s", name);
    fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot open %s", name);
    return fill(fd, err);
}

void oci_host_mounts(json_t *mounts)
{
    for (size_t i = 0; i < ARRAY_SIZE(binds); i++)
        if (access(binds[i], F_OK) == 0)
            json_array_append_new(mounts, oci_bind(binds[i], binds[i], true, false));
}
