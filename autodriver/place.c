#include "place.h"

#include "account.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Whether the account itself may write there: we are root, for whom a try proves nothing. */
static bool may_write(int fd, const struct account *account)
{
    struct statvfs fs;
    struct stat st;

    if (fstat(fd, &st) < 0 || fstatvfs(fd, &fs) < 0 || (fs.f_flag & ST_RDONLY))
        return false;
    if (st.st_uid == account->uid)
        return (st.st_mode & 0300) == 0300;
    for (int i = 0; i < account->group_ct; i++)
        if (account->groups[i] == st.st_gid)
            return (st.st_mode & 0030) == 0030;
    return (st.st_mode & 0003) == 0003;
}

static int open_home(const struct account *account)
{
    int fd;

    if (account->home[0] == '\0')
        return -1;
    fd = open(account->home, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && !may_write(fd, account)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A fresh home in the first place that takes one; places where nothing can be executed come last,
 * since a job compiles. */
static int make_home(struct place *p, const struct account *account)
{
    static const char *const places[] = {"/tmp", "/var/tmp", "/run", "/dev/shm"};
    const size_t ct = sizeof(places) / sizeof(places[0]);

    for (size_t i = 0; i < 2 * ct; i++) {
        const char *base = places[i % ct];
        struct statvfs fs;
        int fd;

        if (statvfs(base, &fs) < 0 || (i < ct) != !(fs.f_flag & ST_NOEXEC))
            continue;
        snprintf(p->home, sizeof(p->home), "%s/milonga-home.XXXXXX", base);
        if (!mkdtemp(p->home))
            continue;
        fd = open(p->home, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && fchmod(fd, 0755) == 0 && fchown(fd, account->uid, account->gid) == 0)
            return fd;
        if (fd >= 0)
            close(fd);
    }
    return -1;
}

/* Makes HOME/dir afresh. fd, or -1 with errno. */
static int make_dir(int home_fd, const char *dir)
{
    if (mkdirat(home_fd, dir, 0700) < 0) {
        if (errno != EEXIST || tree_remove(home_fd, dir) < 0 || mkdirat(home_fd, dir, 0700) < 0)
            return -1;
    }
    return openat(home_fd, dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int place_make(struct place *p, const struct account *account, const char *dir, struct why *why)
{
    int home_fd = open_home(account);

    snprintf(p->home, sizeof(p->home), "%s", account->home);
    p->dir_fd = home_fd < 0 ? -1 : make_dir(home_fd, dir);
    if (p->dir_fd < 0) {
        if (home_fd >= 0)
            close(home_fd);
        home_fd = make_home(p, account);
        if (home_fd < 0)
            return why_set(why, "no place for the job's files: neither its home nor a temporary "
                                "directory can be written");
        p->dir_fd = make_dir(home_fd, dir);
    }
    close(home_fd);
    if (p->dir_fd < 0)
        return why_set(why, "making the job's directory: %s", strerror(errno));
    return 0;
}

int place_give(struct place *p, const struct account *account, struct why *why)
{
    if (fchmod(p->dir_fd, 0755) < 0 || fchown(p->dir_fd, account->uid, account->gid) < 0)
        return why_set(why, "giving the directory to the job: %s", strerror(errno));
    return 0;
}

void place_done(struct place *p)
{
    if (p->dir_fd >= 0)
        close(p->dir_fd);
    p->dir_fd = -1;
}
