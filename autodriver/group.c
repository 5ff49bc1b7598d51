#include "group.h"

#include "util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than any machine has: v1's way to say that there is no limit. */
#define NO_LIMIT (UINT64_C(1) << 60)

static bool get_text(const char *root, const char *file, char *text, size_t size)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", root, file);
    return read_file(path, text, size) > 0;
}

static bool get_number(const char *root, const char *file, uint64_t *ret)
{
    char text[64], *end;

    if (!get_text(root, file, text, sizeof(text)))
        return false;
    uint64_t value = strtoull(text, &end, 10); /* "max" is none */
    if (end == text)
        return false;
    *ret = value;
    return true;
}

/* The value behind "name " at the beginning of a line. */
static bool get_field(const char *root, const char *file, const char *name, uint64_t *ret)
{
    char text[1024];
    size_t len = strlen(name);

    if (!get_text(root, file, text, sizeof(text)))
        return false;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, name, len) == 0 && line[len] == ' ') {
            *ret = strtoull(line + len + 1, NULL, 10);
            return true;
        }
    return false;
}

void group_read(const char *root, struct group_figures *ret)
{
    uint64_t limit = NO_LIMIT;

    memset(ret, 0, sizeof(*ret));
    if (get_number(root, "memory.max", &limit)) { /* v2 */
        ret->known = get_field(root, "memory.events", "oom_kill", &ret->oom_kills);
        get_number(root, "memory.peak", &ret->peak_bytes);
    } else if (get_number(root, "memory/memory.limit_in_bytes", &limit) && limit < NO_LIMIT) {
        ret->known = get_field(root, "memory/memory.oom_control", "oom_kill", &ret->oom_kills);
        get_number(root, "memory/memory.max_usage_in_bytes", &ret->peak_bytes);
    }
}
