#include "client/rest.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "client/sse.h"
#include "client/table.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_MAX     (64 * 1024 * 1024)
#define CONNECT_MS     10000
#define REQUEST_MS     60000
#define SILENCE_S      15 /* a stream says something every 5 s */
#define RETRY_BASE_MS  100
#define RETRY_CAP_MS   2000
#define PROGRESS_MS    200
#define UPLOAD_STALL_S 60

struct rest {
    CURL *curl;
    char *url;
    char *key;
    char *header; /* of the next request */
};

struct rest *rest_new(const char *url, const char *key)
{
    struct rest *r = xcalloc(1, sizeof(*r));

    curl_global_init(CURL_GLOBAL_DEFAULT);
    r->curl = curl_easy_init();
    if (r->curl == NULL)
        abort(); /* out of memory */
    r->url = xstrdup(url);
    r->key = key != NULL ? xstrdup(key) : NULL;
    return r;
}

void rest_free(struct rest *r)
{
    if (r == NULL)
        return;
    curl_easy_cleanup(r->curl);
    curl_global_cleanup();
    free(r->url);
    free(r->key);
    free(r->header);
    free(r);
}

void rest_header(struct rest *r, const char *text)
{
    free(r->header);
    r->header = xstrdup(text);
}

const char *rest_url(const struct rest *r)
{
    return r->url;
}

const char *rest_key(const struct rest *r)
{
    return r->key;
}

char *rest_quote(const char *segment)
{
    char *quoted = curl_easy_escape(NULL, segment, 0);
    char *copy = xstrdup(quoted != NULL ? quoted : "");

    curl_free(quoted);
    return copy;
}

/* ---- one exchange ---- */

struct exchange {
    struct rest *r;
    struct curl_slist *headers;
    struct buf answer;  /* JSON, or the text of a refusal */
    FILE *out;          /* where the bytes of a success go; NULL: answer */
    struct sse *events; /* where those of a stream go */
    int (*take)(void *arg, const char *event, const char *data);
    void *arg;
    int stopped;      /* what `take` returned */
    int64_t heard_at; /* mono: of the stream's last bytes, comments too; 0 none */
    bool progress;
    int64_t shown_at; /* mono: of the progress; the begin, while none was told */
    curl_off_t shown;
    char detail[CURL_ERROR_SIZE];
};

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    long status = 0;
    size_t len = size * count;

    curl_easy_getinfo(x->r->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status < 300 && x->events != NULL) {
        x->heard_at = clock_mono_ms();
        x->stopped = sse_feed(x->events, data, len, x->take, x->arg);
        return x->stopped == 0 ? len : 0;
    }
    if (status >= 200 && status < 300 && x->out != NULL)
        return fwrite(data, 1, len, x->out) == len ? len : 0;
    return buf_append(&x->answer, data, len) == 0 ? len : 0;
}

static void header(struct exchange *x, const char *text)
{
    struct curl_slist *more = curl_slist_append(x->headers, text);

    if (more == NULL)
        abort();
    x->headers = more;
}

static void begin(struct exchange *x, struct rest *r, const char *method, const char *path)
{
    cleanup_free char *url = xasprintf("%s%s", r->url, path);

    memset(x, 0, sizeof(*x));
    x->r = r;
    buf_init(&x->answer, ANSWER_MAX);
    curl_easy_reset(r->curl);
    curl_easy_setopt(r->curl, CURLOPT_URL, url);
    curl_easy_setopt(r->curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(r->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(r->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(r->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(r->curl, CURLOPT_ERRORBUFFER, x->detail);
    curl_easy_setopt(r->curl, CURLOPT_USERAGENT, "milonga/" MILONGA_VERSION);
    curl_easy_setopt(r->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(r->curl, CURLOPT_WRITEDATA, x);
    header(x, "Expect:");
    if (r->header != NULL) {
        cleanup_free char *once = TAKE_PTR(r->header);

        header(x, once);
    }
    if (r->key != NULL) {
        cleanup_free char *key = xasprintf("Authorization: Bearer %s", r->key);

        header(x, key);
    }
}

static void end(struct exchange *x)
{
    curl_slist_free_all(x->headers);
    buf_free(&x->answer);
}

/* ---- what a refusal says ---- */

static int code_of(long status)
{
    switch (status) {
    case 401:
    case 403:
        return EACCES;
    case 404:
        return ENOENT;
    case 409:
        return EBUSY;
    case 429:
    case 503:
        return EAGAIN;
    default:
        return status < 500 ? EINVAL : EIO;
    }
}

static void add_fields(const json_t *problem, struct buf *text)
{
    size_t i;
    json_t *e;

    json_array_foreach(json_object_get(problem, "errors"), i, e)
    {
        const char *pointer = "", *detail = "";

        json_unpack(e, "{s?s, s?s}", "pointer", &pointer, "detail", &detail);
        buf_printf(text, "%s%s: %s", i == 0 ? " (" : "; ", pointer, detail);
    }
    if (i > 0)
        buf_appends(text, ")");
}

static int refusal(const struct exchange *x, long status, struct error *err)
{
    enum err_class class = status < 500 ? ERR_REFUSED : ERR_TEMPORARY;
    json_t *problem =
        json_loadb(x->answer.data != NULL ? x->answer.data : "", x->answer.len, 0, NULL);
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    struct buf text = BUF_INIT(4096);

    if (status == 401)
        buf_printf(&text, "%s does not know this key; give one by MILONGA_KEY or --key", x->r->url);
    else if (detail != NULL)
        buf_appends(&text, detail);
    else
        buf_printf(&text, "%s answered %ld; is it a Milonga of this version?", x->r->url, status);
    add_fields(problem, &text);
    err_set(err, class, code_of(status), "%s", text.data);
    buf_free(&text);
    json_decref(problem);
    return err != NULL ? -err->code : -EIO;
}

static int perform(struct exchange *x, long *ret_status, struct error *err)
{
    CURLcode rc;

    curl_easy_setopt(x->r->curl, CURLOPT_HTTPHEADER, x->headers);
    rc = curl_easy_perform(x->r->curl);
    curl_easy_getinfo(x->r->curl, CURLINFO_RESPONSE_CODE, ret_status);
    if (rc == CURLE_COULDNT_CONNECT || rc == CURLE_COULDNT_RESOLVE_HOST)
        return err_set(
            err, ERR_TEMPORARY, ECONNREFUSED,
            "no Milonga answers at %s (%s); start it, or name another with --url or MILONGA_URL",
            x->r->url, x->detail[0] != '\0' ? x->detail : curl_easy_strerror(rc));
    if (rc != CURLE_OK)
        return err_set(err, ERR_TEMPORARY, EIO, "%s: %s", x->r->url,
                       x->detail[0] != '\0' ? x->detail : curl_easy_strerror(rc));
    return *ret_status >= 200 && *ret_status < 300 ? 0 : refusal(x, *ret_status, err);
}

static int take_json(struct exchange *x, json_t **ret, struct error *err)
{
    json_t *value = NULL;

    if (ret == NULL)
        return 0;
    if (x->answer.len > 0) {
        value = json_loadb(x->answer.data, x->answer.len, JSON_ALLOW_NUL, NULL);
        if (value == NULL)
            return err_set(err, ERR_PERMANENT, EPROTO,
                           "%s did not answer with JSON; is it a Milonga?", x->r->url);
    }
    *ret = value;
    return 0;
}

int rest_json(struct rest *r, const char *method, const char *path, const json_t *body,
              json_t **ret, long *ret_status, struct error *err)
{
    cleanup_free char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    struct exchange x;
    long status = 0;
    int rc;

    begin(&x, r, method, path);
    curl_easy_setopt(r->curl, CURLOPT_TIMEOUT_MS, (long)REQUEST_MS);
    if (text != NULL) {
        header(&x, "Content-Type: application/json");
        curl_easy_setopt(r->curl, CURLOPT_POSTFIELDS, text);
    } else if (strcmp(method, "POST") == 0) {
        curl_easy_setopt(r->curl, CURLOPT_POSTFIELDS, "");
    }
    rc = perform(&x, &status, err);
    if (rc == 0)
        rc = take_json(&x, ret, err);
    if (ret_status != NULL)
        *ret_status = status;
    end(&x);
    return rc;
}

/* ---- files up ---- */

static void put_progress(struct exchange *x, curl_off_t now, curl_off_t total)
{
    char done[HUMAN_MAX], all[HUMAN_MAX];

    x->shown = now;
    fprintf(stderr, "\r%s of %s (%d %%)\033[K%s", human_bytes(now, done), human_bytes(total, all),
            (int)(now * 100 / total), now == total ? "\n" : "");
}

static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t total,
                       curl_off_t now)
{
    struct exchange *x = arg;
    int64_t at = clock_mono_ms();

    (void)down_total;
    (void)down;
    /* what is up in no time needs no telling */
    if (x->progress && now < total && now != x->shown && at >= x->shown_at + PROGRESS_MS) {
        x->shown_at = at;
        put_progress(x, now, total);
    }
    return 0;
}

int rest_upload(struct rest *r, const char *path, FILE *in, uint64_t size, bool progress,
                json_t **ret, struct error *err)
{
    struct exchange x;
    long status = 0;
    int rc;

    begin(&x, r, "PUT", path);
    header(&x, "Content-Type: application/octet-stream");
    curl_easy_setopt(r->curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(r->curl, CURLOPT_READDATA, in); /* by fread */
    curl_easy_setopt(r->curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)size);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_TIME, (long)UPLOAD_STALL_S);
    curl_easy_setopt(r->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(r->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(r->curl, CURLOPT_XFERINFODATA, &x);
    x.progress = progress;
    x.shown_at = clock_mono_ms();
    rc = perform(&x, &status, err);
    if (x.shown != 0 && rc == 0)
        put_progress(&x, (curl_off_t)size, (curl_off_t)size);
    else if (x.shown != 0)
        fputc('\n', stderr);
    if (rc == 0)
        rc = take_json(&x, ret, err);
    end(&x);
    return rc;
}

int rest_bytes(struct rest *r, const char *path, const char *range, FILE *out, struct error *err)
{
    struct exchange x;
    long status = 0;
    int rc;

    begin(&x, r, "GET", path);
    x.out = out;
    if (range != NULL)
        curl_easy_setopt(r->curl, CURLOPT_RANGE, range);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_TIME, (long)UPLOAD_STALL_S);
    rc = perform(&x, &status, err);
    if (rc == 0 && (fflush(out) != 0 || ferror(out)))
        rc = err_set_errno(err, ERR_PERMANENT, errno, "cannot write the output");
    end(&x);
    return rc;
}

/* ---- events ---- */

struct taking {
    rest_event_fn *take;
    void *arg;
    struct error *err;
    int64_t last_at;  /* mono: of the last event */
    int64_t heard_at; /* and of the last bytes: comments tell that it lives, too */
};

static int on_event(void *arg, const char *event, const char *data)
{
    struct taking *t = arg;

    t->last_at = clock_mono_ms();
    return t->take(t->arg, event, data, t->err);
}

/* 1: done; 0: broke off, to be tried again; negative: over. */
static int stream(struct rest *r, const char *path, struct sse *sse, struct taking *t)
{
    struct exchange x;
    long status = 0;
    int rc;

    begin(&x, r, "GET", path);
    header(&x, "Accept: text/event-stream");
    if (sse->id[0] != '\0') {
        cleanup_free char *last = xasprintf("Last-Event-ID: %s", sse->id);

        header(&x, last);
    }
    x.events = sse;
    x.take = on_event;
    x.arg = t;
    sse_restart(sse);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_TIME, (long)SILENCE_S);
    rc = perform(&x, &status, t->err);
    if (x.heard_at != 0)
        t->heard_at = x.heard_at;
    if (x.stopped != 0)
        rc = x.stopped == -EMSGSIZE ? err_set(t->err, ERR_PERMANENT, EMSGSIZE,
                                              "%s sends an event that is too long", r->url)
                                    : x.stopped;
    else if (rc < 0 && status >= 400 && status != 429 && status < 500)
        ; /* no good will come of another try */
    else
        rc = 0;
    end(&x);
    return rc;
}

int rest_events(struct rest *r, const char *path, int64_t give_up_ms, rest_event_fn *take,
                void *arg, struct error *err)
{
    struct error why = ERROR_INIT;
    int64_t begun = clock_mono_ms();
    struct taking t = {take, arg, &why, begun, begun};
    struct sse sse;
    unsigned tries = 0;
    int rc;

    sse_init(&sse);
    while ((rc = stream(r, path, &sse, &t)) == 0) {
        int64_t now = clock_mono_ms();

        if (now - t.last_at < RETRY_CAP_MS)
            tries = 0;
        if (now - t.heard_at > give_up_ms) {
            rc = why.code != 0
                     ? -why.code
                     : err_set(&why, ERR_TEMPORARY, ETIMEDOUT, "%s says nothing any more", r->url);
            break;
        }
        poll(NULL, 0, (int)clock_backoff_ms(tries++, RETRY_BASE_MS, RETRY_CAP_MS));
    }
    sse_done(&sse);
    if (rc < 0 && err != NULL)
        *err = why;
    return rc < 0 ? rc : 0;
}
