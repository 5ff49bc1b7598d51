#include "docker_private.h"

#include "base/clock.h"
#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/* A vmm that is itself a container of the engine it drives: a folder of ours is not at the same
 * path where the engine mounts from. The engine knows what lies behind our mounts, so it is asked,
 * and named volumes need no path of the host in any configuration. */

#define ASK_MS     10000
#define ID_LEN     64
#define MOUNTS_MAX (4 << 20)

/* An engine mounts a container's /etc/hostname from the folder that it keeps for it, which is named
 * by the id. */
static bool id_in_root(const char *root, size_t len, char ret_id[ID_LEN + 1])
{
    size_t run = 0;

    for (size_t i = 0; i <= len; i++) {
        unsigned char c = i < len ? (unsigned char)root[i] : '/';
        if (c != '/') {
            run++;
            continue;
        }
        size_t hex = 0;
        while (hex < run && isxdigit((unsigned char)root[i - run + hex]))
            hex++;
        if (run == ID_LEN && hex == run) {
            memcpy(ret_id, root + i - run, ID_LEN);
            ret_id[ID_LEN] = '\0';
            return true;
        }
        run = 0;
    }
    return false;
}

bool docker_own_id(const char *mountinfo, char ret_id[ID_LEN + 1])
{
    const char *line = mountinfo;

    while (line && *line) {
        int root = 0, root_end = 0, at = 0, at_end = 0;
        /* 36 35 98:0 /root/in/its/file/system /mounted/at options ... */
        sscanf(line, "%*d %*d %*s %n%*s%n %n%*s%n", &root, &root_end, &at, &at_end);
        if (at_end - at == (int)strlen("/etc/hostname") &&
            strncmp(line + at, "/etc/hostname", strlen("/etc/hostname")) == 0)
            return id_in_root(line + root, (size_t)(root_end - root), ret_id);
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return false;
}

char *docker_behind_mounts(const json_t *container, const char *path)
{
    const json_t *one;
    const char *source = NULL;
    size_t i, best = 0;

    json_array_foreach(json_object_get(container, "Mounts"), i, one)
    {
        const char *to = json_string_value(json_object_get(one, "Destination"));
        const char *from = json_string_value(json_object_get(one, "Source"));
        size_t len = to ? strlen(to) : 0;
        while (len > 0 && to[len - 1] == '/')
            len--;
        if (!to || !from || len == 0 || len < best || strncmp(path, to, len) != 0)
            continue;
        if (path[len] != '/' && path[len] != '\0')
            continue;
        best = len;
        source = from;
    }
    return source ? xasprintf("%s%s", source, path + best) : NULL;
}

int docker_engine_path(struct backend *b, char **ret, struct error *err)
{
    const char *path = b->cfg->docker_volume_path, *given = b->cfg->docker_host_volume_path;
    cleanup_free char *mounts = NULL;
    char id[ID_LEN + 1];
    struct error why = ERROR_INIT;
    json_t *doc = NULL;
    size_t len;

    *ret = xstrdup(given);
    if (strcmp(path, given) != 0 ||
        read_file("/proc/self/mountinfo", MOUNTS_MAX, &mounts, &len) < 0 ||
        !docker_own_id(mounts, id))
        return 0;
    cleanup_free char *ask = xasprintf("/containers/%s/json", id);
    int rc = engine_get(b->engine, ask, clock_mono_ms() + ASK_MS, -1, &doc, &why);
    if (rc == -ENOENT)
        return 0; /* a container, but not of this engine */
    if (rc == 0) {
        char *behind = docker_behind_mounts(doc, path);
        json_decref(doc);
        if (!behind)
            return err_set(
                err, ERR_PERMANENT, ENOTSUP,
                "docker_volume_path = %s lies in this container's own file system, where "
                "the engine cannot mount it from; put a volume there",
                path);
        free(*ret);
        *ret = behind;
        return 0;
    }
    if (err)
        *err = why;
    return rc;
}
