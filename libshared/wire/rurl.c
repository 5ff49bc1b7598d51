#include "wire/rurl.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

#define REDIS_PORT    6379
#define SENTINEL_PORT 26379
#define REDIS_DB_MAX  65535
/* sun_path of a unix socket */
#define PATH_BYTES_MAX 107
#define HOST_BYTES_MAX 255

static int refuse(struct error *err, const char *what)
{
    return err_set(err, ERR_PERMANENT, EINVAL,
                   "Redis URL %s; write unix:///path[?db=N], redis://[user:pass@]host:port[/db] or "
                   "redis+sentinel://[user:pass@]host:port,host:port/NAME[/db]",
                   what);
}

static int number_parse(const char *s, size_t len, int max, int *ret)
{
    int n = 0;

    if (len == 0)
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -EINVAL;
        n = n * 10 + (s[i] - '0');
        if (n > max)
            return -EINVAL;
    }
    *ret = n;
    return 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* NULL when an escape is malformed or hides a NUL. */
static char *percent_decode(const char *s, size_t len)
{
    char *out = xmalloc(len + 1);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        int hi, lo;

        if (s[i] != '%') {
            out[n++] = s[i];
            continue;
        }
        if (len - i < 3 || (hi = hex_value(s[i + 1])) < 0 || (lo = hex_value(s[i + 2])) < 0 ||
            hi + lo == 0) {
            free(out);
            return NULL;
        }
        out[n++] = (char)(hi << 4 | lo);
        i += 2;
    }
    out[n] = '\0';
    return out;
}

/* "user:pass@" at the start of *s, up to `end`; moves *s behind it. */
static int userinfo_parse(const char **s, const char *end, struct rurl *u)
{
    const char *at = memrchr(*s, '@', (size_t)(end - *s));
    const char *colon;

    if (!at)
        return 0;
    colon = memchr(*s, ':', (size_t)(at - *s));
    if (!colon) /* a password alone is ":pass", so that it can not be taken for a user */
        return -EINVAL;
    if (colon > *s && !(u->user = percent_decode(*s, (size_t)(colon - *s))))
        return -EINVAL;
    if (!(u->password = percent_decode(colon + 1, (size_t)(at - colon - 1))))
        return -EINVAL;
    *s = at + 1;
    return 0;
}

static int unix_parse(const char *s, struct rurl *u, struct error *err)
{
    const char *query = strchrnul(s, '?');

    /* A path may hold '@': user and password end before its first slash. */
    if (userinfo_parse(&s, strchrnul(s, '/'), u) < 0)
        return refuse(err, "has a bad user or password");
    if (*s != '/' || query - s < 2)
        return refuse(err, "needs an absolute path behind unix://");
    if (query - s > PATH_BYTES_MAX)
        return refuse(err, "has a path of more than 107 bytes, which no unix socket can have");
    if (*query && (strncmp(query, "?db=", 4) != 0 ||
                   number_parse(query + 4, strlen(query + 4), REDIS_DB_MAX, &u->db) < 0))
        return refuse(err, "has something else than ?db=N behind the path");
    u->path = xstrndup(s, (size_t)(query - s));
    return 0;
}

/* "host[:port]" up to `end`. */
static int host_parse(const char *s, const char *end, int port, struct rurl_host *ret,
                      struct error *err)
{
    const char *host_end, *port_text = NULL;

    if (s >= end)
        return refuse(err, "has no host");
    if (*s == '[') {
        s++;
        host_end = memchr(s, ']', (size_t)(end - s));
        if (!host_end)
            return refuse(err, "has an address without its closing bracket");
        if (host_end + 1 < end) {
            if (host_end[1] != ':')
                return refuse(err, "has something else than a port behind the address");
            port_text = host_end + 2;
        }
    } else {
        host_end = memchr(s, ':', (size_t)(end - s));
        if (host_end)
            port_text = host_end + 1;
        else
            host_end = end;
    }
    if (host_end == s || host_end - s > HOST_BYTES_MAX)
        return refuse(err, "has no host, or one of more than 255 bytes");
    if (port_text &&
        (number_parse(port_text, (size_t)(end - port_text), 65535, &port) < 0 || port == 0))
        return refuse(err, "has a port that is not 1..65535");
    *ret = (struct rurl_host){.host = xstrndup(s, (size_t)(host_end - s)), .port = port};
    return 0;
}

static int tcp_parse(const char *s, struct rurl *u, struct error *err)
{
    struct rurl_host at;
    const char *end;
    int r;

    if (userinfo_parse(&s, s + strlen(s), u) < 0)
        return refuse(err, "has a bad user or password");
    end = strchrnul(s, '/');
    if (*end && end[1] && number_parse(end + 1, strlen(end + 1), REDIS_DB_MAX, &u->db) < 0)
        return refuse(err, "has something else than a database number behind the host");
    r = host_parse(s, end, REDIS_PORT, &at, err);
    if (r < 0)
        return r;
    u->host = at.host;
    u->port = at.port;
    return 0;
}

/* What stands behind the '?'. */
static int sentinel_login(const char *s, struct rurl *u, struct error *err)
{
    static const char user[] = "sentinel_user=", password[] = "sentinel_password=";

    for (const char *end; *s; s = *end ? end + 1 : end) {
        char **to = NULL;
        const char *value = s;

        end = strchrnul(s, '&');
        if (strncmp(s, user, sizeof(user) - 1) == 0) {
            to = &u->sentinel_user;
            value += sizeof(user) - 1;
        } else if (strncmp(s, password, sizeof(password) - 1) == 0) {
            to = &u->sentinel_password;
            value += sizeof(password) - 1;
        }
        if (!to || *to || value > end || !(*to = percent_decode(value, (size_t)(end - value))))
            return refuse(err, "has something else than sentinel_user and sentinel_password "
                               "behind the ?");
    }
    if (u->sentinel_user && !u->sentinel_password)
        return refuse(err, "has a sentinel_user without a sentinel_password");
    return 0;
}

static int sentinel_parse(const char *s, struct rurl *u, struct error *err)
{
    const char *query = strchrnul(s, '?'), *hosts_end, *name_end;

    if (userinfo_parse(&s, query, u) < 0)
        return refuse(err, "has a bad user or password");
    hosts_end = memchr(s, '/', (size_t)(query - s));
    if (!hosts_end || hosts_end + 1 == query || hosts_end[1] == '/')
        return refuse(err, "does not name the master behind the Sentinels' hosts");
    for (const char *end; s < hosts_end; s = end + (end < hosts_end)) {
        int r;

        end = memchr(s, ',', (size_t)(hosts_end - s));
        if (!end)
            end = hosts_end;
        if (u->sentinel_ct == RURL_SENTINELS_MAX)
            return refuse(err, "names more than 15 Sentinels");
        r = host_parse(s, end, SENTINEL_PORT, &u->sentinels[u->sentinel_ct], err);
        if (r < 0)
            return r;
        u->sentinel_ct++;
    }
    if (u->sentinel_ct == 0)
        return refuse(err, "names no Sentinel");
    name_end = memchr(hosts_end + 1, '/', (size_t)(query - hosts_end - 1));
    if (name_end && name_end + 1 < query &&
        number_parse(name_end + 1, (size_t)(query - name_end - 1), REDIS_DB_MAX, &u->db) < 0)
        return refuse(err, "has something else than a database number behind the master's name");
    u->master = xstrndup(hosts_end + 1, (size_t)((name_end ? name_end : query) - hosts_end - 1));
    return *query ? sentinel_login(query + 1, u, err) : 0;
}

int rurl_parse(const char *url, struct rurl *ret, struct error *err)
{
    struct rurl u = {0};
    int r;

    if (strncmp(url, "unix://", 7) == 0)
        r = unix_parse(url + 7, &u, err);
    else if (strncmp(url, "redis://", 8) == 0)
        r = tcp_parse(url + 8, &u, err);
    else if (strncmp(url, "redis+sentinel://", 17) == 0)
        r = sentinel_parse(url + 17, &u, err);
    else
        r = refuse(err, "begins with none of unix://, redis:// and redis+sentinel://");
    if (r < 0) {
        rurl_done(&u);
        return r;
    }
    *ret = u;
    return 0;
}

void rurl_done(struct rurl *u)
{
    free(u->path);
    free(u->host);
    free(u->user);
    free(u->password);
    for (size_t i = 0; i < u->sentinel_ct; i++)
        free(u->sentinels[i].host);
    free(u->master);
    free(u->sentinel_user);
    free(u->sentinel_password);
    *u = (struct rurl){0};
}
