#include "header.h"

#include "output.h"
#include "wire/frame.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct source {
    const char *text;
    size_t len;
    struct why *why;
};

static int get_number(const struct source *s, const char *key, uint64_t max, uint64_t *ret)
{
    uint64_t n;
    int rc = frame_field_u64(s->text, s->len, key, &n);

    if (rc == -ENOENT)
        return 0;
    if (rc < 0 || n > max)
        return why_set(s->why, "header: bad %s", key);
    *ret = n;
    return 0;
}

/* Copies a value; an absent one leaves the default that is there. */
static int get_text(const struct source *s, const char *key, char *out, size_t cap)
{
    const char *value;
    int len = frame_field(s->text, s->len, key, &value);

    if (len < 0)
        return 0;
    if ((size_t)len >= cap || memchr(value, '\0', (size_t)len))
        return why_set(s->why, "header: bad %s", key);
    memcpy(out, value, (size_t)len);
    out[len] = '\0';
    return 0;
}

static int get_words(const struct source *s, const char *key, char *text, char **words)
{
    char *rest = text, *word;
    size_t ct = 0;

    if (get_text(s, key, text, HEADER_TEXT_MAX) < 0)
        return -1;
    if (text[0] == '\0')
        rest = NULL;
    while ((word = strsep(&rest, "\t")) != NULL) {
        if (ct == HEADER_WORDS_MAX)
            return why_set(s->why, "header: too many words in %s", key);
        words[ct++] = word;
    }
    words[ct] = NULL;
    return 0;
}

static int get_octal(const struct source *s, const char *key, mode_t *ret)
{
    char text[8] = "";
    char *end;
    unsigned long n;

    if (get_text(s, key, text, sizeof(text)) < 0)
        return -1;
    if (text[0] == '\0')
        return 0;
    n = strtoul(text, &end, 8);
    if (*end != '\0' || text[0] == '-' || n > 0777)
        return why_set(s->why, "header: bad %s", key);
    *ret = (mode_t)n;
    return 0;
}

/* One component, and not one that leads elsewhere. */
static bool is_name(const char *s)
{
    if (*s == '\0' || strcmp(s, ".") == 0 || strcmp(s, "..") == 0)
        return false;
    for (; *s != '\0'; s++)
        if (*s == '/' || (unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

static int check(const struct header *h, struct why *why)
{
    if (!is_name(h->user) || strchr(h->user, ':'))
        return why_set(why, "header: bad user");
    if (!is_name(h->dir))
        return why_set(why, "header: bad dir");
    if (!h->argv[0] || h->argv[0][0] == '\0')
        return why_set(why, "header: bad argv");
    for (char *const *e = h->env; *e; e++)
        if ((*e)[0] == '=' || !strchr(*e, '='))
            return why_set(why, "header: bad env");
    return 0;
}

int header_parse(struct header *h, const char *text, size_t len, struct why *why)
{
    const struct source s = {.text = text, .len = len, .why = why};
    const uint64_t ms_max = 366ULL * 24 * 3600 * 1000;
    uint64_t uid = 61234;

    memset(h, 0, sizeof(*h));
    h->umask = 022;
    strcpy(h->user, "autograde");
    strcpy(h->dir, "autolab");
    strcpy(h->tz, "UTC");
    strcpy(h->path, JOB_PATH);
    strcpy(h->argv_text, "make");

    if (get_number(&s, "timeout_ms", ms_max, &h->timeout_ms) < 0 ||
        get_number(&s, "lease_ms", ms_max, &h->lease_ms) < 0 ||
        get_number(&s, "output_bytes", OUTPUT_LIMIT_MAX, &h->output_bytes) < 0 ||
        get_number(&s, "fsize_bytes", INT64_MAX, &h->limits.fsize_bytes) < 0 ||
        get_number(&s, "nproc", INT32_MAX, &h->limits.nproc) < 0 ||
        get_number(&s, "nofile", INT32_MAX, &h->limits.nofile) < 0 ||
        get_number(&s, "core", INT64_MAX, &h->limits.core_bytes) < 0 ||
        get_number(&s, "uid", UINT32_MAX - 1, &uid) < 0)
        return -1;
    if (get_text(&s, "user", h->user, sizeof(h->user)) < 0 ||
        get_text(&s, "dir", h->dir, sizeof(h->dir)) < 0 ||
        get_text(&s, "tz", h->tz, sizeof(h->tz)) < 0 ||
        get_text(&s, "path", h->path, sizeof(h->path)) < 0 ||
        get_octal(&s, "umask", &h->umask) < 0 || get_words(&s, "argv", h->argv_text, h->argv) < 0 ||
        get_words(&s, "env", h->env_text, h->env) < 0)
        return -1;
    h->uid = (uid_t)uid;
    return check(h, why);
}

static char *format(const char *name, const char *value)
{
    char *text;

    if (asprintf(&text, "%s=%s", name, value) < 0)
        abort();
    return text;
}

char **env_build(const struct header *h, const char *user, const char *home)
{
    const char *const fixed[][2] = {
        {"HOME", home},    {"USER", user},      {"LOGNAME", user}, {"SHELL", "/bin/sh"},
        {"PATH", h->path}, {"LANG", "C.UTF-8"}, {"TZ", h->tz},
    };
    const size_t fixed_ct = sizeof(fixed) / sizeof(fixed[0]);
    char **env = calloc(fixed_ct + HEADER_WORDS_MAX + 1, sizeof(*env));
    size_t ct = 0;

    if (!env)
        abort();
    for (size_t i = 0; i < fixed_ct; i++) {
        size_t name_len = strlen(fixed[i][0]);
        bool replaced = false;

        for (char *const *e = h->env; *e; e++)
            replaced =
                replaced || (strncmp(*e, fixed[i][0], name_len) == 0 && (*e)[name_len] == '=');
        if (!replaced)
            env[ct++] = format(fixed[i][0], fixed[i][1]);
    }
    for (char *const *e = h->env; *e; e++)
        if (!(env[ct++] = strdup(*e)))
            abort();
    return env;
}

void env_done(char **env)
{
    for (char **e = env; e && *e; e++)
        free(*e);
    free(env);
}
