#include "base/log.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/name.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* A line is built on the stack and is at most PIPE_BUF bytes, which is what a pipe (a container
 * engine's, journald's) takes whole from several writers. What does not fit is left out, whole
 * pairs at a time, and the line says cut=yes. */

#define VALUE_MAX 512
#define NUM_BUFS  16

static const char *the_service = "milonga";
static enum log_level the_level = LOG_INFO_;
static bool the_json;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_setup(const char *service, enum log_level level, int json)
{
    the_service = service;
    the_level = level;
    the_json = json != 0;
}

enum log_level log_level_now(void)
{
    return the_level;
}

int log_level_parse(const char *text, enum log_level *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(level_names); i++)
        if (strcasecmp(text, level_names[i]) == 0) {
            *ret = (enum log_level)i;
            return 0;
        }
    return -EINVAL;
}

const char *log_num(long long v)
{
    static _Thread_local char bufs[NUM_BUFS][24];
    static _Thread_local unsigned next;
    char *buf = bufs[next++ % NUM_BUFS];

    snprintf(buf, sizeof(bufs[0]), "%lld", v);
    return buf;
}

struct line {
    char text[PIPE_BUF];
    size_t len;
    size_t max; /* below sizeof(text) while pairs are added, so that the end always fits */
    bool full;
};

static void put(struct line *l, const char *s, size_t len)
{
    if (l->full || len > l->max - l->len) {
        l->full = true;
        return;
    }
    memcpy(l->text + l->len, s, len);
    l->len += len;
}

static void puts_(struct line *l, const char *s)
{
    put(l, s, strlen(s));
}

static void put_escaped(struct line *l, const char *s, size_t len, bool json)
{
    char esc[8];

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') {
            put(l, c == '"' ? "\\\"" : "\\\\", 2);
        } else if (c == '\n') {
            put(l, "\\n", 2);
        } else if (c == '\t') {
            put(l, "\\t", 2);
        } else if (c < 0x20 || c == 0x7f) {
            snprintf(esc, sizeof(esc), json ? "\\u%04x" : "\\x%02x", c);
            puts_(l, esc);
        } else if (c < 0x80) {
            put(l, s + i, 1);
        } else {
            size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
            if (n <= len - i && utf8_valid(s + i, n)) {
                put(l, s + i, n);
                i += n - 1;
            } else {
                snprintf(esc, sizeof(esc), "\\x%02x", c);
                puts_(l, json ? "\\ufffd" : esc);
            }
        }
    }
}

static bool needs_quotes(const char *s, size_t len)
{
    if (len == 0)
        return true;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] <= ' ' || (unsigned char)s[i] >= 0x7f || s[i] == '"' ||
            s[i] == '\\' || s[i] == '=')
            return true;
    return false;
}

/* Whole or not at all, so that what is written always parses. */
static void put_pair(struct line *l, const char *key, const char *value)
{
    size_t before = l->len;
    const char *v = value ? value : "";
    size_t len = strnlen(v, VALUE_MAX);

    /* cut between characters, not within one */
    if (len == VALUE_MAX)
        while (len > VALUE_MAX - 4 && ((unsigned char)v[len] & 0xc0) == 0x80)
            len--;
    if (before > 0)
        puts_(l, the_json ? ", " : " ");
    if (the_json) {
        put(l, "\"", 1);
        puts_(l, key);
        put(l, "\": \"", 4);
        put_escaped(l, v, len, true);
        put(l, "\"", 1);
    } else {
        bool quoted = needs_quotes(v, len);
        puts_(l, key);
        put(l, quoted ? "=\"" : "=", quoted ? 2 : 1);
        put_escaped(l, v, len, false);
        put(l, "\"", quoted ? 1 : 0);
    }
    if (l->full)
        l->len = before;
}

static void put_time(struct line *l)
{
    int64_t now = clock_wall_ms();
    time_t t = (time_t)(now / 1000);
    struct tm tm = {0};
    char date[32], text[48];

    gmtime_r(&t, &tm);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof(text), "%s.%03dZ", date, (int)(now % 1000));
    put_pair(l, "time", text);
}

void log_event(enum log_level level, const char *event, ...)
{
    struct line l;
    int saved = errno;
    va_list ap;

    if (level < the_level)
        return;
    l.len = 0;
    l.full = false;
    l.max = sizeof(l.text) - 32;
    put_time(&l);
    put_pair(&l, "level", level_names[level]);
    put_pair(&l, "service", the_service);
    put_pair(&l, "event", event);
    va_start(ap, event);
    for (const char *key; !l.full && (key = va_arg(ap, const char *)) != NULL;) {
        const char *value = va_arg(ap, const char *);
        put_pair(&l, key, value);
    }
    va_end(ap);
    bool cut = l.full;
    l.full = false;
    l.max = sizeof(l.text);
    if (cut)
        put_pair(&l, "cut", "yes");
    if (the_json) {
        memmove(l.text + 1, l.text, l.len);
        l.text[0] = '{';
        l.len++;
        put(&l, "}", 1);
    }
    put(&l, "\n", 1);
    /* one write: a log that cannot be written has nobody to be told */
    while (write(STDERR_FILENO, l.text, l.len) < 0 && errno == EINTR)
        ;
    errno = saved;
}
