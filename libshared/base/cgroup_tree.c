#include "base/cgroup_private.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char *const controller_names[CGROUP_CONTROLLERS] = {"memory", "pids", "cpu",
                                                                 "cpuacct"};

static bool has_word(const char *list, const char *word, const char *seps)
{
    size_t len = strlen(word);

    while (*list != '\0') {
        size_t n = strcspn(list, seps);

        if (n == len && memcmp(list, word, len) == 0)
            return true;
        list += n;
        list += strspn(list, seps);
    }
    return false;
}

/* \040 and the like in mountinfo. In place. */
static void unescape(char *s)
{
    char *to = s;

    for (; *s != '\0'; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] != '\0' && s[3] != '\0') {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

/* Splits "id parent dev root MOUNT opts ... - TYPE source SUPER". */
static bool parse_line(char *line, char **ret_mount, char **ret_type, char **ret_super)
{
    char *dash = strstr(line, " - ");
    char *save = NULL, *word = NULL;

    if (dash == NULL)
        return false;
    *dash = '\0';
    for (int i = 0; i < 5; i++)
        word = strtok_r(i == 0 ? line : NULL, " ", &save);
    if (word == NULL)
        return false;
    unescape(word);
    *ret_mount = word;
    *ret_type = strtok_r(dash + 3, " ", &save);
    if (strtok_r(NULL, " ", &save) == NULL)
        return false;
    *ret_super = strtok_r(NULL, " ", &save);
    return *ret_type != NULL && *ret_super != NULL;
}

static int tree_index(struct cgroup_tree *t, const char *mount, bool v2)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->trees[i].mount, mount) == 0)
            return (int)i;
    if (t->count == CGROUP_TREES_MAX)
        return -1;
    t->trees[t->count].mount = xstrdup(mount);
    t->trees[t->count].v2 = v2;
    t->trees[t->count].base_fd = -1;
    return (int)t->count++;
}

static void find_homes(struct cgroup_tree *t, char *mountinfo)
{
    cleanup_free char *v2 = NULL;
    char *save = NULL;

    for (char *line = strtok_r(mountinfo, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char *mount, *type, *super;

        if (!parse_line(line, &mount, &type, &super))
            continue;
        if (strcmp(type, "cgroup2") == 0 && v2 == NULL)
            v2 = xstrdup(mount);
        if (strcmp(type, "cgroup") != 0)
            continue;
        for (int c = 0; c < CGROUP_CONTROLLERS; c++)
            if (t->home[c] < 0 && has_word(super, controller_names[c], ","))
                t->home[c] = tree_index(t, mount, false);
    }
    t->mode = "v1";
    if (v2 != NULL) {
        cleanup_free char *path = xasprintf("%s/cgroup.controllers", v2);
        cleanup_free char *have = NULL;
        size_t v1_ct = t->count;

        if (cgroup_get(AT_FDCWD, path, 4096, &have) < 0)
            return;
        for (int c = 0; c < CGROUP_CPUACCT; c++)
            if (t->home[c] < 0 && has_word(have, controller_names[c], " \n"))
                t->home[c] = tree_index(t, v2, true);
        t->mode = v1_ct > 0 ? "hybrid" : "v2";
        if (v1_ct > 0)
            t->beside = TAKE_PTR(v2);
    }
}

/* v2 gives controllers to children only when no process is in the group itself. In a container
 * of our own that process is us: we move aside. */
static int enable(const struct cgroup_hierarchy *h, int dir, const char *what, struct error *err)
{
    int r = cgroup_put(dir, "cgroup.subtree_control", what);

    if (r == -EBUSY) {
        cleanup_close int aside = -1;

        mkdirat(dir, "milonga-vmm", 0755);
        aside = openat(dir, "milonga-vmm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (aside >= 0 && cgroup_put(aside, "cgroup.procs", "0") == 0)
            r = cgroup_put(dir, "cgroup.subtree_control", what);
    }
    if (r < 0)
        return err_set_errno(
            err, ERR_PERMANENT, -r,
            "cgroup: cannot give \"%s\" to groups below %s; delegate these controllers to "
            "the service (systemd: Delegate=yes) or move other processes out of that group",
            what, h->mount);
    return 0;
}

static int make_base(struct cgroup_tree *t, size_t i, struct error *err)
{
    struct cgroup_hierarchy *h = &t->trees[i];
    cleanup_free char *path = xstrdup(t->path);
    cleanup_close int dir = open(h->mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char what[64] = "";
    char *save = NULL;

    if (dir < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "cgroup: cannot open %s", h->mount);
    for (int c = 0; c < CGROUP_CPUACCT; c++)
        if (h->v2 && t->home[c] == (int)i) {
            strcat(what, what[0] != '\0' ? " +" : "+");
            strcat(what, controller_names[c]);
        }
    for (char *name = strtok_r(path, "/", &save); name != NULL; name = strtok_r(NULL, "/", &save)) {
        int next, r = h->v2 ? enable(h, dir, what, err) : 0;

        if (r < 0)
            return r;
        if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
            return err_set_errno(err, ERR_PERMANENT, errno,
                                 "cgroup: cannot make %s in %s; run as root with the cgroup mounts "
                                 "writable",
                                 t->path, h->mount);
        next = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (next < 0)
            return err_set_errno(err, ERR_PERMANENT, errno, "cgroup: cannot open %s in %s", t->path,
                                 h->mount);
        close(dir);
        dir = next;
    }
    if (h->v2) {
        int r = enable(h, dir, what, err);

        if (r < 0)
            return r;
    }
    h->base_fd = TAKE_FD(dir);
    return 0;
}

int cgroup_tree_open(const char *path, struct cgroup_tree **ret, struct error *err)
{
    struct cgroup_tree *t = xcalloc(1, sizeof(*t));
    cleanup_free char *mountinfo = NULL;
    int r;

    t->path = xstrdup(path);
    for (int c = 0; c < CGROUP_CONTROLLERS; c++)
        t->home[c] = -1;
    r = cgroup_get(AT_FDCWD, "/proc/self/mountinfo", 1u << 20, &mountinfo);
    if (r < 0) {
        err_set_errno(err, ERR_PERMANENT, -r, "cgroup: cannot read /proc/self/mountinfo");
        goto fail;
    }
    find_homes(t, mountinfo);
    for (int c = 0; c < CGROUP_CPUACCT; c++)
        if (t->home[c] < 0) {
            r = err_set(
                err, ERR_PERMANENT, ENOTSUP,
                "cgroup: no \"%s\" controller is mounted, so its limit could not be enforced; "
                "mount it (v1) or enable it in cgroup.controllers (v2)",
                controller_names[c]);
            goto fail;
        }
    for (size_t i = 0; i < t->count; i++) {
        r = make_base(t, i, err);
        if (r < 0)
            goto fail;
    }
    *ret = t;
    return 0;
fail:
    cgroup_tree_close(t);
    return r;
}

/* Only what is empty goes: rmdir of a group that is in use fails. */
static void remove_base(const struct cgroup_tree *t, const struct cgroup_hierarchy *h)
{
    cleanup_free char *path = xasprintf("%s/%s", h->mount, t->path);
    size_t floor = strlen(h->mount);

    while (strlen(path) > floor && rmdir(path) == 0)
        *strrchr(path, '/') = '\0';
}

void cgroup_tree_close(struct cgroup_tree *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->count; i++) {
        if (t->trees[i].base_fd >= 0) {
            close(t->trees[i].base_fd);
            remove_base(t, &t->trees[i]);
        }
        free(t->trees[i].mount);
    }
    free(t->beside);
    free(t->path);
    free(t);
}

const char *cgroup_tree_mode(const struct cgroup_tree *t)
{
    return t->mode;
}

const char *cgroup_tree_beside(const struct cgroup_tree *t)
{
    return t->beside;
}

int cgroup_tree_each(struct cgroup_tree *t, void (*each)(void *arg, const char *name), void *arg,
                     struct error *err)
{
    for (size_t i = 0; i < t->count; i++) {
        int fd = openat(t->trees[i].base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

        if (d == NULL) {
            int code = errno;

            if (fd >= 0)
                close(fd);
            return err_set_errno(err, ERR_TEMPORARY, code, "cgroup: cannot list %s/%s",
                                 t->trees[i].mount, t->path);
        }
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
            bool first = e->d_type == DT_DIR && e->d_name[0] != '.';

            /* a name is told once, by the first hierarchy that has it */
            for (size_t j = 0; j < i && first; j++)
                first = faccessat(t->trees[j].base_fd, e->d_name, F_OK, 0) < 0;
            if (first)
                each(arg, e->d_name);
        }
        closedir(d);
    }
    return 0;
}
