#include "docker_private.h"

#include "../image.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

/* A folder is in use as long as a vmm holds a shared lock on it, which ends with the process. Who
 * gets it exclusively may remove it; who waited for it meanwhile finds that it is gone, and makes
 * it anew. */

#define AUTODRIVER_MAX (64 << 20)
#define FOLDER         "autodriver-"
#define HEX            16 /* digits of the digest in a folder's name */
#define TRIES          100

static int make_dirs(const char *path, struct error *err)
{
    cleanup_free char *part = xstrdup(path);

    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char was = *p;
        *p = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return err_set_errno(err, ERR_PERMANENT, errno, "mkdir %s", part);
        *p = was;
        if (was == '\0')
            return 0;
    }
}

/* Makes and opens the folder, in use from here on. */
static int take_folder(const char *dir, int *ret_fd, struct error *err)
{
    for (int i = 0; i < TRIES; i++) {
        cleanup_close int fd = -1;
        struct stat st;
        int rc = make_dirs(dir, err);

        if (rc < 0)
            return rc;
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0 || flock(fd, LOCK_SH) < 0 || fstat(fd, &st) < 0)
            return err_set_errno(err, ERR_PERMANENT, errno, "%s", dir);
        if (st.st_nlink > 0) {
            *ret_fd = fd;
            fd = -1;
            return 0;
        }
    }
    return err_set(err, ERR_PERMANENT, EBUSY, "%s is removed again and again", dir);
}

static bool holds_program(const char *path, const char *hex)
{
    cleanup_free char *data = NULL;
    char there[SHA256_HEX + 1];
    size_t len = 0;

    if (read_file(path, AUTODRIVER_MAX, &data, &len) < 0 || access(path, X_OK) < 0)
        return false;
    digest_hex(DIGEST_SHA256, data, len, there);
    return strncmp(hex, there, HEX) == 0;
}

static int write_program(const char *dir, const char *data, size_t len, struct error *err)
{
    cleanup_free char *path = xasprintf("%s/autodriver", dir);
    cleanup_free char *temp = xasprintf("%s/.autodriver-%ld", dir, (long)getpid());

    unlink(temp);
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    if (fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "%s", temp);
    int rc = write_all(fd, data, len);
    if (rc == 0 && (fchmod(fd, 0755) < 0 || fsync(fd) < 0))
        rc = -errno;
    close(fd);
    if (rc == 0 && rename(temp, path) < 0)
        rc = -errno;
    if (rc == 0)
        return 0;
    unlink(temp);
    return err_set_errno(err, ERR_PERMANENT, -rc, "%s", path);
}

static bool is_folder_name(const char *name)
{
    return strncmp(name, FOLDER, strlen(FOLDER)) == 0 &&
           strspn(name + strlen(FOLDER), "0123456789abcdef") == HEX &&
           name[strlen(FOLDER) + HEX] == '\0';
}

/* What cannot be removed now is met again by the next vmm that starts. */
static void remove_unused(const char *where, const char *own)
{
    DIR *d = opendir(where);

    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!is_folder_name(e->d_name) || strcmp(e->d_name, own) == 0)
            continue;
        cleanup_close int fd =
            openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
            continue;
        int rc = image_rmtree(dirfd(d), e->d_name);
        log_event(rc < 0 ? LOG_WARN_ : LOG_INFO_,
                  rc < 0 ? "docker.folder_kept" : "docker.folder_removed", "folder", e->d_name,
                  "reason", rc < 0 ? strerror(-rc) : "no vmm uses it", NULL);
    }
    closedir(d);
}

int docker_lay_out(const struct config *cfg, char **ret_folder, int *ret_fd, struct error *err)
{
    cleanup_free char *from = NULL, *data = NULL;
    cleanup_close int fd = -1;
    char hex[SHA256_HEX + 1];
    size_t len = 0;
    int rc = machine_autodriver(cfg, &from, err);

    if (rc < 0)
        return rc;
    rc = read_file(from, AUTODRIVER_MAX, &data, &len);
    if (rc < 0)
        return err_set_errno(err, ERR_PERMANENT, -rc, "autodriver %s", from);
    digest_hex(DIGEST_SHA256, data, len, hex);
    hex[HEX] = '\0';
    cleanup_free char *name = xasprintf(FOLDER "%s", hex);
    cleanup_free char *dir = xasprintf("%s/%s", cfg->docker_volume_path, name);
    cleanup_free char *path = xasprintf("%s/autodriver", dir);
    rc = take_folder(dir, &fd, err);
    if (rc < 0)
        return err_wrap(err, "docker_volume_path = %s", cfg->docker_volume_path);
    rc = holds_program(path, hex) ? 0 : write_program(dir, data, len, err);
    if (rc < 0)
        return rc;
    remove_unused(cfg->docker_volume_path, name);
    *ret_folder = TAKE_PTR(name);
    *ret_fd = fd;
    fd = -1;
    return 0;
}
