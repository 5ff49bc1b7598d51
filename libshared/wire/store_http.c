/* The http form: GET, HEAD and PUT <where>/store/<sha256> with "Authorization: Bearer <key>", over
 * the directory of store.c as a cache. What comes over the network is believed only when its digest
 * is right. Nothing is tried again here: errors say whether that makes sense, and the caller has a
 * deadline that we do not know. */

#include "wire/store_impl.h"

#include "base/mem.h"

#include <curl/curl.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define HANDLES_MAX        8 /* kept for their connections; more than these are made and closed */
#define CONNECT_TIMEOUT_MS 10000L
/* A transfer that is slower than this for so long has failed. */
#define SLOW_BYTES_S 1000L
#define SLOW_S       30L

struct store_http {
    char *where; /* without a slash at its end */
    struct curl_slist *headers;
    pthread_mutex_t lock;
    CURL *handles[HANDLES_MAX];
    size_t handle_ct;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void curl_begin(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static struct curl_slist *header_add(struct curl_slist *list, const char *header)
{
    list = curl_slist_append(list, header);
    if (!list)
        abort(); /* out of memory */
    return list;
}

int store_http_open(struct store *s, const char *where, const char *key, struct error *err)
{
    struct store_http *h;
    cleanup_free char *auth = NULL;
    size_t len = strlen(where);

    if (!key || !*key || strpbrk(key, "\r\n"))
        return err_set(err, ERR_PERMANENT, EINVAL,
                       "store %s needs a key; set store_key to the same secret as there", where);
    if (s->cache_bytes == 0)
        return err_set(err, ERR_PERMANENT, EINVAL, "store %s needs room for its cache", where);
    pthread_once(&curl_once, curl_begin);
    while (len > 0 && where[len - 1] == '/')
        len--;
    h = xcalloc(1, sizeof(*h));
    h->where = xstrndup(where, len);
    pthread_mutex_init(&h->lock, NULL);
    auth = xasprintf("Authorization: Bearer %s", key);
    h->headers = header_add(NULL, auth);
    h->headers = header_add(h->headers, "Content-Type: application/octet-stream");
    h->headers =
        header_add(h->headers, "Expect:"); /* else curl waits for a 100 that may not come */
    s->http = h;
    return 0;
}

void store_http_close(struct store_http *h)
{
    if (!h)
        return;
    for (size_t i = 0; i < h->handle_ct; i++)
        curl_easy_cleanup(h->handles[i]);
    curl_slist_free_all(h->headers);
    pthread_mutex_destroy(&h->lock);
    free(h->where);
    free(h);
}

static CURL *handle_take(struct store_http *h, const char *sha256)
{
    cleanup_free char *url = xasprintf("%s/store/%s", h->where, sha256);
    CURL *curl = NULL;

    pthread_mutex_lock(&h->lock);
    if (h->handle_ct > 0)
        curl = h->handles[--h->handle_ct];
    pthread_mutex_unlock(&h->lock);
    if (!curl && !(curl = curl_easy_init()))
        abort();           /* out of memory */
    curl_easy_reset(curl); /* connections stay */
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, h->headers);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*"); /* our own services, never by way of others */
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, SLOW_BYTES_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, SLOW_S);
    return curl;
}

static void handle_give(struct store_http *h, CURL *curl)
{
    pthread_mutex_lock(&h->lock);
    if (h->handle_ct < HANDLES_MAX) {
        h->handles[h->handle_ct++] = curl;
        curl = NULL;
    }
    pthread_mutex_unlock(&h->lock);
    if (curl)
        curl_easy_cleanup(curl);
}

/* Of a finished transfer: 0 for a 2xx, else why not. */
static int outcome(struct store_http *h, CURL *curl, CURLcode code, const char *verb,
                   const char *sha256, struct error *err)
{
    long status = 0;

    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK && code != CURLE_HTTP_RETURNED_ERROR)
        return err_set(err, ERR_TEMPORARY, EIO, "store %s: %s of %s: %s", h->where, verb, sha256,
                       curl_easy_strerror(code));
    if (status >= 200 && status < 300)
        return 0;
    switch (status) {
    case 404:
        return err_set(err, ERR_PERMANENT, ENOENT, "store %s has no file %s", h->where, sha256);
    case 401:
    case 403:
        return err_set(err, ERR_PERMANENT, EACCES,
                       "store %s refuses our key (%ld); set store_key to the same secret as there",
                       h->where, status);
    case 413:
        return err_set(err, ERR_PERMANENT, EFBIG, "store %s: %s is too large for it (413)",
                       h->where, sha256);
    default:
        return err_set(
            err, status >= 500 || status == 429 || status == 408 ? ERR_TEMPORARY : ERR_PERMANENT,
            EIO, "store %s: %s of %s was answered with status %ld", h->where, verb, sha256, status);
    }
}

/* ---- GET
 * ----------------------------------------------------------------------------------------- */

struct download {
    struct store_writer *w;
    uint64_t max;
    struct error *err;
    int code; /* of our own doing: why it was cut */
};

static size_t download_write(char *data, size_t size, size_t ct, void *arg)
{
    struct download *d = arg;
    size_t len = size * ct;

    if (len > d->max - d->w->size)
        d->code = err_set(d->err, ERR_PERMANENT, EFBIG,
                          "a file of the store is larger than the whole cache; raise "
                          "store_cache_bytes");
    else
        d->code = store_write(d->w, data, len, d->err);
    return d->code < 0 ? 0 : len;
}

static int download_run(struct store *s, struct download *d, const char *sha256)
{
    CURL *curl = handle_take(s->http, sha256);
    CURLcode code;
    int r;

    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, download_write);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, d);
    code = curl_easy_perform(curl);
    r = d->code < 0 ? d->code : outcome(s->http, curl, code, "GET", sha256, d->err);
    handle_give(s->http, curl);
    return r;
}

static void cache_grown(struct store *s, uint64_t bytes)
{
    bool full;

    pthread_mutex_lock(&s->lock);
    s->cached += bytes;
    full = s->cached > s->cache_bytes;
    pthread_mutex_unlock(&s->lock);
    if (full)
        store_cache_trim(s);
}

int store_http_get(struct store *s, const char *sha256, int *ret_fd, uint64_t *ret_size,
                   struct error *err)
{
    struct store_writer *w;
    struct store_info info;
    int r = store_write_begin(s, &w, err);
    struct download d = {.max = s->cache_bytes, .err = err};

    if (r < 0)
        return r;
    d.w = w;
    r = download_run(s, &d, sha256);
    if (r == 0)
        r = store_writer_seal(w, &info, err);
    if (r == 0 && strcmp(info.sha256, sha256) != 0)
        r = err_set(err, ERR_TEMPORARY, EBADMSG, "store %s gave other bytes for %s (%s)",
                    s->http->where, sha256, info.sha256);
    if (r == 0)
        r = store_writer_place(w, &info, err);
    if (r < 0) {
        store_write_drop(w);
        return r;
    }
    /* Opened by what was written, not by its name: the cache may be trimmed at any time. */
    *ret_fd = store_writer_detach(w);
    *ret_size = info.size;
    cache_grown(s, info.size);
    return 0;
}

/* ---- PUT and HEAD
 * -------------------------------------------------------------------------------- */

static size_t upload_read(char *data, size_t size, size_t ct, void *arg)
{
    ssize_t n;

    do
        n = read(*(const int *)arg, data, size * ct);
    while (n < 0 && errno == EINTR);
    return n < 0 ? CURL_READFUNC_ABORT : (size_t)n;
}

/* When a kept connection turns out to be closed, curl sends the request again on a new one. */
static int upload_seek(void *arg, curl_off_t offset, int origin)
{
    return lseek(*(const int *)arg, offset, origin) < 0 ? CURL_SEEKFUNC_FAIL : CURL_SEEKFUNC_OK;
}

static size_t body_ignore(char *data, size_t size, size_t ct, void *arg)
{
    (void)data;
    (void)arg;
    return size * ct;
}

int store_http_put(struct store *s, int fd, const struct store_info *info, struct error *err)
{
    CURL *curl;
    CURLcode code;
    int r;

    if (lseek(fd, 0, SEEK_SET) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "rewinding a temp file");
    curl = handle_take(s->http, info->sha256);
    curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)info->size);
    curl_easy_setopt(curl, CURLOPT_READFUNCTION, upload_read);
    curl_easy_setopt(curl, CURLOPT_READDATA, &fd);
    curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, upload_seek);
    curl_easy_setopt(curl, CURLOPT_SEEKDATA, &fd);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, body_ignore);
    code = curl_easy_perform(curl);
    r = outcome(s->http, curl, code, "PUT", info->sha256, err);
    handle_give(s->http, curl);
    if (r == 0)
        cache_grown(s, info->size);
    return r;
}

int store_http_has(struct store *s, const char *sha256)
{
    CURL *curl = handle_take(s->http, sha256);
    struct error err = ERROR_INIT;
    CURLcode code;
    int r;

    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    code = curl_easy_perform(curl);
    r = outcome(s->http, curl, code, "HEAD", sha256, &err);
    handle_give(s->http, curl);
    return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}
