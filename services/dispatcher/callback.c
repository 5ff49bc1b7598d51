#include "services/dispatcher/callback.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/name.h"
#include "services/dispatcher/webhook.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#define REDIRECTS_MAX 10
/* What of an answer is read at most: nobody looks at it. */
#define ANSWER_MAX        (64 * 1024)
#define RETRY_AFTER_MAX_S 86400
#define BOUNDARY          32

struct callback {
    const struct config *cfg;
    CURL *easy;
    struct curl_slist *headers;
    char *url;
    char *host;
    struct buf body;
    int64_t deadline; /* mono, of all hops together */
    unsigned hops;
    size_t answer;
    bool cut; /* enough of the answer was read */
    char why[CURL_ERROR_SIZE];
};

/* ---- text ---- */

/* Length of the valid sequence at s, 0 when there is none (the table of the Unicode standard, 3-7).
 */
static size_t utf8_sequence(const unsigned char *s, size_t len)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t n;

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (len < n)
        return 0;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (s[i] < 0x80 || s[i] > 0xbf)
            return 0;
    return n;
}

size_t utf8_clean(char *s, size_t len)
{
    size_t out = 0;

    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence((const unsigned char *)s + i, len - i);

        memmove(s + out, s + i, n);
        out += n;
        i += n > 0 ? n : 1;
    }
    return out;
}

bool host_listed(const char *list, const char *host)
{
    size_t len = strlen(host);

    while (*list) {
        size_t n;

        list += strspn(list, ", \t");
        n = strcspn(list, ", \t");
        if (n == len && n > 0 && strncasecmp(list, host, n) == 0)
            return true;
        list += n;
    }
    return false;
}

/* ---- the form ---- */

static void boundary_make(char out[BOUNDARY + 1])
{
    unsigned char raw[BOUNDARY / 2] = {0};

    /* Without entropy it is still checked against the content. */
    if (getrandom(raw, sizeof(raw), GRND_NONBLOCK) != (ssize_t)sizeof(raw))
        memcpy(raw, &(int64_t){clock_mono_ms()}, sizeof(int64_t));
    for (size_t i = 0; i < sizeof(raw); i++)
        snprintf(out + 2 * i, 3, "%02x", raw[i]);
}

static void form_make(struct callback *c, const char *content, size_t len, char *boundary)
{
    do
        boundary_make(boundary);
    while (memmem(content, len, boundary, BOUNDARY));
    buf_init(&c->body, len + 512);
    buf_printf(&c->body,
               "--%s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\r\n",
               boundary);
    buf_append(&c->body, content, len);
    buf_printf(&c->body, "\r\n--%s--\r\n", boundary);
}

static void add_header(struct callback *c, char *line)
{
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '_'; /* names hold none; a header must not be ended by one in any case */
    c->headers = curl_slist_append(c->headers, line);
}

static void headers_make(struct callback *c, const char *output_file, const char *boundary)
{
    const char *slash = strrchr(output_file, '/');
    cleanup_free char *type = xasprintf("Content-Type: multipart/form-data; boundary=%s", boundary);
    cleanup_free char *name = xasprintf("Filename: %s", slash ? slash + 1 : output_file);
    char expect[] = "Expect:"; /* none: Rails answers at once or not at all */

    add_header(c, type);
    add_header(c, name);
    add_header(c, expect);
}

/* ---- where to ---- */

/* Takes url, of the caller, when it is good. */
static int set_url(struct callback *c, const char *url, struct error *err)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL;
    int rc = 0;

    if (!u || curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK) {
        rc = err_set(err, ERR_PERMANENT, EINVAL, "the callback URL is none");
    } else if (strcasecmp(scheme, "http") != 0 && strcasecmp(scheme, "https") != 0) {
        rc = err_set(err, ERR_PERMANENT, EINVAL, "the callback URL is neither http nor https");
    } else {
        free(c->url);
        free(c->host);
        c->url = xstrdup(url);
        c->host = xstrdup(host);
    }
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(u);
    return rc;
}

static size_t on_answer(char *data, size_t size, size_t ct, void *arg)
{
    struct callback *c = arg;

    (void)data;
    c->answer += size * ct;
    if (c->answer <= ANSWER_MAX)
        return size * ct;
    c->cut = true;
    return 0;
}

static void set_transfer(struct callback *c)
{
    bool verify = !host_listed(c->cfg->callback_insecure_hosts, c->host);
    int64_t left = c->deadline - clock_mono_ms();

    c->answer = 0;
    c->cut = false;
    c->why[0] = '\0';
    curl_easy_setopt(c->easy, CURLOPT_URL, c->url);
    curl_easy_setopt(c->easy, CURLOPT_SSL_VERIFYPEER, verify ? 1L : 0L);
    curl_easy_setopt(c->easy, CURLOPT_SSL_VERIFYHOST, verify ? 2L : 0L);
    curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, (long)(left > 1 ? left : 1));
}

static void set_fixed(struct callback *c)
{
    CURL *e = c->easy;

    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "Milonga/" MILONGA_VERSION);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(e, CURLOPT_POST, 1L);
    curl_easy_setopt(e, CURLOPT_POSTFIELDS, c->body.data);
    curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.len);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)c->cfg->callback_connect_timeout_ms);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->why);
    if (c->cfg->callback_ca_file[0])
        curl_easy_setopt(e, CURLOPT_CAINFO, c->cfg->callback_ca_file);
}

/* With a URL and a handle; its body and headers are still to come. */
static int begin(const struct config *cfg, const char *url, struct callback **ret,
                 struct error *err)
{
    struct callback *c = xcalloc(1, sizeof(*c));
    int rc;

    c->cfg = cfg;
    rc = set_url(c, url, err);
    if (rc == 0 && !(c->easy = curl_easy_init()))
        rc = err_set(err, ERR_TEMPORARY, ENOMEM, "libcurl gives no handle");
    if (rc < 0) {
        callback_free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

static void ready(struct callback *c)
{
    c->deadline = clock_mono_ms() + c->cfg->callback_timeout_ms;
    set_fixed(c);
    set_transfer(c);
}

int callback_new(const struct config *cfg, const char *url, const char *output_file, char *content,
                 size_t len, struct callback **ret, struct error *err)
{
    cleanup_free char *owned = content;
    char boundary[BOUNDARY + 1];
    int rc = begin(cfg, url, ret, err);

    if (rc < 0)
        return rc;
    len = utf8_clean(owned, len);
    form_make(*ret, owned, len, boundary);
    headers_make(*ret, output_file, boundary);
    ready(*ret);
    return 0;
}

int callback_new_signed(const struct config *cfg, const struct job *job, const char *id,
                        const char *verdict, int64_t finished_ms, char *content, size_t len,
                        struct callback **ret, struct error *err)
{
    cleanup_free char *owned = content;
    char signature[WEBHOOK_SIGNATURE], line[160], message[40];
    int64_t now = clock_wall_ms();
    int rc = begin(cfg, job->callback_url, ret, err);

    if (rc < 0)
        return rc;
    len = utf8_clean(owned, len);
    buf_init(&(*ret)->body, SIZE_MAX);
    webhook_body(&(*ret)->body, job, id, verdict, owned, len, finished_ms);
    snprintf(message, sizeof(message), "job_%s", id);
    if (webhook_sign(job->callback_secret, message, now / 1000, (*ret)->body.data, (*ret)->body.len,
                     signature) < 0) {
        callback_free(*ret);
        return err_set(err, ERR_PERMANENT, EINVAL, "the secret of the callback is none");
    }
    snprintf(line, sizeof(line), "Content-Type: application/json");
    add_header(*ret, line);
    snprintf(line, sizeof(line), "webhook-id: %s", message);
    add_header(*ret, line);
    snprintf(line, sizeof(line), "webhook-timestamp: %lld", (long long)(now / 1000));
    add_header(*ret, line);
    snprintf(line, sizeof(line), "webhook-signature: %s", signature);
    add_header(*ret, line);
    snprintf(line, sizeof(line), "Expect:");
    add_header(*ret, line);
    ready(*ret);
    return 0;
}

void callback_free(struct callback *c)
{
    if (!c)
        return;
    curl_easy_cleanup(c->easy);
    curl_slist_free_all(c->headers);
    buf_free(&c->body);
    free(c->url);
    free(c->host);
    free(c);
}

CURL *callback_handle(struct callback *c, void *owner)
{
    curl_easy_setopt(c->easy, CURLOPT_PRIVATE, owner);
    return c->easy;
}

const char *callback_host(const struct callback *c)
{
    return c->host;
}

/* ---- what came of it ---- */

enum callback_how callback_judge(long status)
{
    if (status >= 200 && status < 300)
        return CALLBACK_SENT;
    if (status == 408 || status == 425 || status == 429 || status >= 500)
        return CALLBACK_RETRY;
    return CALLBACK_FAILED;
}

/* True when the answer sent us elsewhere and we go. */
static bool redirected(struct callback *c, long status, struct callback_result *ret)
{
    char *to = NULL;
    struct error err = ERROR_INIT;

    if (status != 301 && status != 302 && status != 303 && status != 307 && status != 308)
        return false;
    curl_easy_getinfo(c->easy, CURLINFO_REDIRECT_URL, &to);
    if (!to) {
        snprintf(ret->text, sizeof(ret->text), "status %ld without a place to go to", status);
        return false;
    }
    if (++c->hops > REDIRECTS_MAX) {
        snprintf(ret->text, sizeof(ret->text), "more than %d redirects", REDIRECTS_MAX);
        return false;
    }
    if (set_url(c, to, &err) < 0) {
        snprintf(ret->text, sizeof(ret->text), "redirected to what is not http");
        return false;
    }
    set_transfer(c);
    return true;
}

bool callback_ended(struct callback *c, CURLcode rc, struct callback_result *ret)
{
    long status = 0;
    curl_off_t after = 0;

    *ret = (struct callback_result){.how = CALLBACK_RETRY};
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (rc != CURLE_OK && !(c->cut && status != 0)) {
        snprintf(ret->text, sizeof(ret->text), "%.199s",
                 c->why[0] ? c->why : curl_easy_strerror(rc));
        return false;
    }
    if (redirected(c, status, ret))
        return true;
    ret->how = callback_judge(status);
    if (!ret->text[0])
        snprintf(ret->text, sizeof(ret->text), "status %ld", status);
    curl_easy_getinfo(c->easy, CURLINFO_RETRY_AFTER, &after);
    /* Tango's library honours it on any status that may be tried again; on 413 it is what makes it
     * one. */
    if (status == 413 && after > 0)
        ret->how = CALLBACK_RETRY;
    ret->retry_after_ms = (after < RETRY_AFTER_MAX_S ? after : RETRY_AFTER_MAX_S) * 1000;
    return false;
}
