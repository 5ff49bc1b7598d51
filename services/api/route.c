#include "services/api/route.h"

#include "base/mem.h"
#include "base/name.h"

#include <stdio.h>
#include <string.h>

#define SEGMENTS_MAX 64

struct segments {
    struct route_param seg[SEGMENTS_MAX];
    size_t ct;
    size_t whole; /* bytes of the path */
};

static unsigned method_bit(const char *m, size_t len)
{
    static const struct {
        const char *name;
        unsigned bit;
    } methods[] = {{"GET", ROUTE_GET},
                   {"POST", ROUTE_POST},
                   {"PUT", ROUTE_PUT},
                   {"HEAD", ROUTE_HEAD},
                   {"DELETE", ROUTE_DELETE}};

    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        if (len == strlen(methods[i].name) && memcmp(m, methods[i].name, len) == 0)
            return methods[i].bit;
    }
    return 0;
}

/* Of more than SEGMENTS_MAX the last one holds the rest. One trailing slash is dropped. */
static void split(const char *path, size_t len, struct segments *out)
{
    const char *at = path, *end = path + len;

    out->ct = 0;
    out->whole = len;
    if (at < end && *at == '/')
        at++;
    if (at < end && end[-1] == '/')
        end--;
    for (;;) {
        const char *slash = out->ct + 1 < SEGMENTS_MAX ? memchr(at, '/', (size_t)(end - at)) : NULL;

        out->seg[out->ct++] = (struct route_param){at, (size_t)((slash ? slash : end) - at)};
        if (!slash)
            return;
        at = slash + 1;
    }
}

static bool segment_is(struct route_param s, const char *pattern, size_t len)
{
    return s.len == len && memcmp(s.at, pattern, len) == 0;
}

static bool param_ok(struct route_param p, const char *kind, size_t kind_len)
{
    if (kind[kind_len - 1] == '?')
        return true;
    if (p.len == 0)
        return false;
    if (kind_len == strlen(":digits") && memcmp(kind, ":digits", kind_len) == 0) {
        for (size_t i = 0; i < p.len; i++) {
            if (p.at[i] < '0' || p.at[i] > '9')
                return false;
        }
    }
    return true;
}

static bool is_greedy(const char *kind, size_t len, bool image_is)
{
    const char *want = image_is ? ":image" : ":key";

    return len >= strlen(want) && memcmp(kind, want, strlen(want)) == 0;
}

static bool match(const char *pattern, const struct segments *s, struct route_match *ret)
{
    bool image_is = strstr(pattern, ":image");
    size_t want = 0, spare, i = 0;

    for (const char *at = pattern; *at; at++)
        want += *at == '/';
    if (s->ct < want || (!pattern[1] && s->whole > 1))
        return false;
    spare = s->ct - want;
    ret->param_ct = 0;
    for (const char *at = pattern + 1;;) {
        size_t len = strcspn(at, "/");
        struct route_param p = s->seg[i++];

        if (*at == ':') {
            if (is_greedy(at, len, image_is)) {
                const struct route_param *last = &s->seg[i - 1 + spare];

                p.len = (size_t)(last->at + last->len - p.at);
                i += spare;
                spare = 0;
            }
            if (!param_ok(p, at, len) || ret->param_ct == ROUTE_PARAMS)
                return false;
            ret->param[ret->param_ct++] = p;
        } else if (!segment_is(p, at, len)) {
            return false;
        }
        at += len;
        if (!*at)
            break;
        at++;
    }
    return spare == 0;
}

int route_find(const struct route *routes, size_t route_ct, const char *method, size_t method_len,
               const char *path, size_t path_len, struct route_match *ret)
{
    const char *query = memchr(path, '?', path_len);
    struct segments segments;
    int status = 404;

    ret->route = NULL;
    ret->allowed = 0;
    ret->method = method_bit(method, method_len);
    split(path, query ? (size_t)(query - path) : path_len, &segments);
    for (size_t i = 0; i < route_ct; i++) {
        if (!match(routes[i].pattern, &segments, ret))
            continue;
        ret->route = &routes[i];
        ret->allowed |= routes[i].methods;
        if (routes[i].methods & ret->method)
            return 200;
        status = 405;
    }
    return status;
}

bool route_is_versioned(const char *path, size_t len, unsigned *ret_version)
{
    size_t i = 2;
    unsigned n = 0;

    if (len < 3 || path[0] != '/' || path[1] != 'v' || path[2] < '0' || path[2] > '9')
        return false;
    for (; i < len && i < 8 && path[i] >= '0' && path[i] <= '9'; i++)
        n = n * 10 + (unsigned)(path[i] - '0');
    *ret_version = n;
    return i == len || path[i] == '/' || path[i] == '?';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

long route_decode(struct route_param p, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < p.len; i++) {
        char c = p.at[i];

        if (c == '%') {
            int hi = i + 2 < p.len ? hex_value(p.at[i + 1]) : -1;
            int lo = hi >= 0 ? hex_value(p.at[i + 2]) : -1;

            if (lo < 0)
                return -1;
            c = (char)(hi << 4 | lo);
            i += 2;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return utf8_valid(out, n) ? (long)n : -1;
}

const char *route_methods(unsigned methods, char text[ROUTE_METHODS_TEXT])
{
    static const char *const names[] = {"GET", "POST", "PUT", "HEAD", "DELETE"};
    size_t len = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (methods & 1u << i)
            len += (size_t)snprintf(text + len, ROUTE_METHODS_TEXT - len, "%s%s", len ? ", " : "",
                                    names[i]);
    return text;
}
