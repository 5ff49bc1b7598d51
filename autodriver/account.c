#include "account.h"

#include "util.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Over what a real image has by far; what is beyond it is not seen. */
#define ETC_FILE_MAX (1024 * 1024)
#define FIELDS_MAX   7

static int parse_id(const char *text, uint32_t *ret)
{
    uint64_t n = 0;

    if (*text == '\0')
        return -EINVAL;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        n = n * 10 + (uint64_t)(*text - '0');
        if (n >= UINT32_MAX) /* (uid_t)-1 means "leave as it is" to setresuid */
            return -EINVAL;
    }
    *ret = (uint32_t)n;
    return 0;
}

/* Splits at colons in place; fields that are not there are empty. */
static void split_fields(char *line, char *fields[FIELDS_MAX])
{
    static char empty[1];

    for (int i = 0; i < FIELDS_MAX; i++) {
        fields[i] = line ? line : empty;
        if (line && (line = strchr(line, ':')) != NULL)
            *line++ = '\0';
    }
}

static int passwd_line(char *line, const char *name, struct account *ret)
{
    char *fields[FIELDS_MAX];
    uint32_t uid, gid;

    split_fields(line, fields);
    if (strcmp(fields[0], name) != 0)
        return -ENOENT;
    if (parse_id(fields[2], &uid) < 0 || parse_id(fields[3], &gid) < 0)
        return -EINVAL;
    account_fixed(name, uid, ret);
    ret->gid = gid;
    ret->groups[0] = gid;
    if (fields[5][0] == '/' && strlen(fields[5]) < sizeof(ret->home))
        strcpy(ret->home, fields[5]);
    return 0;
}

static int list_has(char *list, const char *name)
{
    char *rest = list, *item;

    while ((item = strsep(&rest, ",")) != NULL)
        if (strcmp(item, name) == 0)
            return 1;
    return 0;
}

static void group_line(char *line, struct account *acct)
{
    char *fields[FIELDS_MAX];
    uint32_t gid;

    split_fields(line, fields);
    if (!list_has(fields[3], acct->name) || parse_id(fields[2], &gid) < 0)
        return;
    for (int i = 0; i < acct->group_ct; i++)
        if (acct->groups[i] == gid)
            return;
    if (acct->group_ct < ACCOUNT_GROUPS_MAX)
        acct->groups[acct->group_ct++] = gid;
}

/* The file's content, or NULL; the caller frees it. */
static char *etc_read(const char *etc, const char *name)
{
    char path[512];
    char *text = malloc(ETC_FILE_MAX);

    snprintf(path, sizeof(path), "%s/%s", etc, name);
    if (text && read_file(path, text, ETC_FILE_MAX) < 0) {
        free(text);
        return NULL;
    }
    return text;
}

int account_find(const char *etc, const char *name, struct account *ret)
{
    char *text = etc_read(etc, "passwd");
    char *rest = text, *line;
    int rc = -ENOENT;

    if (*name == '\0' || strlen(name) >= sizeof(ret->name)) {
        free(text);
        return -ENOENT;
    }
    while (rc == -ENOENT && rest && (line = strsep(&rest, "\n")) != NULL)
        rc = passwd_line(line, name, ret);
    free(text);
    if (rc < 0)
        return rc;

    text = etc_read(etc, "group");
    rest = text;
    while (rest && (line = strsep(&rest, "\n")) != NULL)
        group_line(line, ret);
    free(text);
    return 0;
}

void account_fixed(const char *name, uid_t id, struct account *ret)
{
    memset(ret, 0, sizeof(*ret));
    snprintf(ret->name, sizeof(ret->name), "%s", name);
    ret->uid = id;
    ret->gid = id;
    ret->groups[0] = id;
    ret->group_ct = 1;
}
