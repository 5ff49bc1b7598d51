#include "client/sse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void sse_init(struct sse *s)
{
    memset(s, 0, sizeof(*s));
    buf_init(&s->line, SSE_LINE_MAX);
    buf_init(&s->data, SSE_LINE_MAX);
}

void sse_done(struct sse *s)
{
    buf_free(&s->line);
    buf_free(&s->data);
}

void sse_restart(struct sse *s)
{
    buf_clear(&s->line);
    buf_clear(&s->data);
    s->event[0] = '\0';
    s->after_cr = false;
    s->has_data = false;
}

static int dispatch(struct sse *s, int (*take)(void *, const char *, const char *), void *arg)
{
    int r = 0;

    if (s->has_data)
        r = take(arg, s->event[0] != '\0' ? s->event : "message",
                 s->data.data != NULL ? s->data.data : "");
    buf_clear(&s->data);
    s->has_data = false;
    s->event[0] = '\0';
    return r;
}

static int take_line(struct sse *s, int (*take)(void *, const char *, const char *), void *arg)
{
    char *line = s->line.data;
    char *value;

    if (s->line.len == 0)
        return dispatch(s, take, arg);
    value = strchr(line, ':');
    if (value == line)
        return 0; /* a comment */
    if (value != NULL)
        *value++ = '\0';
    else
        value = line + s->line.len;
    if (*value == ' ')
        value++;
    if (strcmp(line, "event") == 0) {
        snprintf(s->event, sizeof(s->event), "%s", value);
    } else if (strcmp(line, "id") == 0) {
        snprintf(s->id, sizeof(s->id), "%s", value);
    } else if (strcmp(line, "data") == 0) {
        if ((s->has_data && buf_append(&s->data, "\n", 1) < 0) || buf_appends(&s->data, value) < 0)
            return -EMSGSIZE;
        s->has_data = true;
    }
    return 0;
}

int sse_feed(struct sse *s, const char *bytes, size_t len,
             int (*take)(void *arg, const char *event, const char *data), void *arg)
{
    for (size_t i = 0; i < len;) {
        size_t run = 0;
        int r;

        if (s->after_cr && bytes[i] == '\n') {
            s->after_cr = false;
            i++;
            continue;
        }
        s->after_cr = false;
        while (i + run < len && bytes[i + run] != '\n' && bytes[i + run] != '\r')
            run++;
        if (buf_append(&s->line, bytes + i, run) < 0)
            return -EMSGSIZE;
        i += run;
        if (i == len)
            return 0;
        s->after_cr = bytes[i++] == '\r';
        r = take_line(s, take, arg);
        buf_clear(&s->line);
        if (r != 0)
            return r;
    }
    return 0;
}
