#include "services/api/head.h"

#include <string.h>
#include <strings.h>

static const char *find_end(const char *data, size_t len)
{
    const char *at = data, *end = data + len;

    /* h2o takes a bare line feed for a line's end too */
    while ((at = memchr(at, '\n', (size_t)(end - at)))) {
        at++;
        if (end - at >= 1 && at[0] == '\n')
            return at + 1;
        if (end - at >= 2 && at[0] == '\r' && at[1] == '\n')
            return at + 2;
    }
    return NULL;
}

static bool is_name(struct head_text t, const char *name)
{
    return t.len == strlen(name) && strncasecmp(t.at, name, t.len) == 0;
}

static uint64_t parse_length(struct head_text v)
{
    uint64_t n = 0;

    if (v.len == 0)
        return UINT64_MAX;
    for (size_t i = 0; i < v.len; i++) {
        if (v.at[i] < '0' || v.at[i] > '9' || n > (UINT64_MAX - 9) / 10)
            return UINT64_MAX;
        n = n * 10 + (uint64_t)(v.at[i] - '0');
    }
    return n;
}

static void take_header(struct head *h, struct head_text name, struct head_text value)
{
    if (is_name(name, "content-length")) {
        uint64_t n = parse_length(value);

        if (h->content_length_ct++ && n != h->content_length)
            h->length_conflict = true;
        h->content_length = n;
    } else if (is_name(name, "transfer-encoding")) {
        h->chunked = true;
    } else if (is_name(name, "expect")) {
        h->expect = true;
    } else if (is_name(name, "authorization")) {
        h->authorization = value;
    }
}

static struct head_text trim(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    while (at < end && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
        end--;
    return (struct head_text){at, (size_t)(end - at)};
}

static int take_request_line(struct head *h, const char *at, const char *end)
{
    const char *sp = memchr(at, ' ', (size_t)(end - at)), *sp2;

    if (!sp || sp == at)
        return -1;
    sp2 = memchr(sp + 1, ' ', (size_t)(end - sp - 1));
    if (!sp2 || sp2 == sp + 1)
        return -1;
    h->method = (struct head_text){at, (size_t)(sp - at)};
    h->path = (struct head_text){sp + 1, (size_t)(sp2 - sp - 1)};
    return 0;
}

int head_scan(const char *data, size_t len, struct head *ret)
{
    const char *at = data, *end, *line;
    struct head h = {0};

    /* empty lines before a request are skipped, as h2o's parser does with one */
    while (at < data + len && (*at == '\r' || *at == '\n'))
        at++;
    if (len - (size_t)(at - data) > HEAD_MAX)
        end = find_end(at, HEAD_MAX);
    else
        end = find_end(at, len - (size_t)(at - data));
    if (!end)
        return len > HEAD_MAX ? -1 : 0;
    h.len = (size_t)(end - data);
    line = memchr(at, '\n', (size_t)(end - at));
    if (take_request_line(&h, at, line) < 0)
        return -1;
    for (at = line + 1; at < end; at = line + 1) {
        const char *colon;

        line = memchr(at, '\n', (size_t)(end - at));
        if (!line)
            break;
        colon = memchr(at, ':', (size_t)(line - at));
        if (colon)
            take_header(&h, (struct head_text){at, (size_t)(colon - at)}, trim(colon + 1, line));
    }
    *ret = h;
    return 1;
}
