#include "services/vmm/drivers/ec2_api.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define API_VERSION "2016-11-15"
#define ANSWER_MAX  (16 << 20)
#define CONNECT_MS  5000
#define CALL_MS     20000
#define BACKOFF_MS  400
#define BACKOFF_CAP 20000
#define RENEW_MS    300000 /* before they expire */
#define TRIES_MAX   8

struct ec2_api {
    char *region, *url, *sigv4;
    int stop_fd;
    const struct ec2_pace *pace; /* NULL for none */
    pthread_mutex_t lock;
    struct ec2_keys keys;
    unsigned throttled; /* throttled answers in a row, of any call */
    int64_t quiet_until;
};

/* ---- forms ---- */

void ec2_form(struct buf *form, const char *action)
{
    buf_init(form, EC2_FORM_MAX);
    buf_printf(form, "Action=%s&Version=" API_VERSION, action);
}

void ec2_param(struct buf *form, const char *value, const char *fmt, ...)
{
    char *escaped = curl_easy_escape(NULL, value, (int)strlen(value)), *name = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (!escaped || vasprintf(&name, fmt, ap) < 0)
        abort();
    va_end(ap);
    buf_printf(form, "&%s=%s", name, escaped);
    free(name);
    curl_free(escaped);
}

/* ---- keys ---- */

static int lend_keys(struct ec2_api *a, int64_t deadline, struct ec2_keys *ret, struct error *err)
{
    int r = 0;

    pthread_mutex_lock(&a->lock);
    if (!a->keys.id ||
        (a->keys.until_ms != CLOCK_NEVER && a->keys.until_ms - RENEW_MS < clock_mono_ms())) {
        struct ec2_keys fresh = {0};
        r = ec2_keys_find(deadline, &fresh, err);
        if (r == 0) {
            ec2_keys_done(&a->keys);
            a->keys = fresh;
        } else if (a->keys.id && a->keys.until_ms > clock_mono_ms()) {
            r = 0; /* the old ones still hold */
        }
    }
    if (r == 0)
        *ret = (struct ec2_keys){xstrdup(a->keys.id), xstrdup(a->keys.secret),
                                 xstrdup(a->keys.token), a->keys.until_ms};
    pthread_mutex_unlock(&a->lock);
    return r;
}

static void forget_keys(struct ec2_api *a)
{
    pthread_mutex_lock(&a->lock);
    ec2_keys_done(&a->keys);
    pthread_mutex_unlock(&a->lock);
}

/* ---- one exchange ---- */

static bool only_asks(const struct buf *form)
{
    return strncmp(form->data, "Action=Run", 10) != 0 &&
           strncmp(form->data, "Action=Terminate", 16) != 0;
}

/* Until it is over, or we are to stop. */
static CURLcode perform(const struct ec2_api *a, CURL *c, bool stops)
{
    CURLM *multi = curl_multi_init();
    struct curl_waitfd stop = {.fd = a->stop_fd, .events = CURL_WAIT_POLLIN};
    CURLcode rc = CURLE_ABORTED_BY_CALLBACK;
    int running = 1, left;

    stops = stops && a->stop_fd >= 0;
    if (!multi || curl_multi_add_handle(multi, c) != CURLM_OK)
        abort(); /* memory */
    while (curl_multi_perform(multi, &running) == CURLM_OK && running && !stop.revents)
        if (curl_multi_poll(multi, &stop, stops ? 1 : 0, CALL_MS, NULL) != CURLM_OK)
            break;
    const CURLMsg *said = running ? NULL : curl_multi_info_read(multi, &left);
    if (said && said->msg == CURLMSG_DONE)
        rc = said->data.result;
    curl_multi_remove_handle(multi, c);
    curl_multi_cleanup(multi);
    return rc;
}

static size_t take(char *data, size_t size, size_t ct, void *arg)
{
    return buf_append(arg, data, size * ct) == 0 ? size * ct : 0;
}

/* curl 7.88 signs what it is given here and nothing else would be right: a POST with its body in
 * POSTFIELDS, all four parts of AWS_SIGV4, the token as its one further header. */
static CURLcode exchange(struct ec2_api *a, const struct ec2_keys *k, const struct buf *form,
                         int64_t deadline, struct buf *answer, long *status)
{
    int left = clock_until_ms(deadline);
    const char *bundle = getenv("AWS_CA_BUNDLE");
    CURL *c = curl_easy_init();
    struct curl_slist *headers = NULL;

    if (k->token[0]) {
        cleanup_free char *header = xasprintf("X-Amz-Security-Token: %s", k->token);
        headers = curl_slist_append(NULL, header);
    }
    curl_easy_setopt(c, CURLOPT_URL, a->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_AWS_SIGV4, a->sigv4);
    curl_easy_setopt(c, CURLOPT_USERNAME, k->id);
    curl_easy_setopt(c, CURLOPT_PASSWORD, k->secret);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)form->len);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, form->data);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "milonga");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, left >= 0 && left < CALL_MS ? left + 1L : CALL_MS);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, answer);
    if (bundle && bundle[0])
        curl_easy_setopt(c, CURLOPT_CAINFO, bundle);
    CURLcode rc = perform(a, c, only_asks(form));
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, status);
    curl_easy_cleanup(c);
    curl_slist_free_all(headers);
    return rc;
}

/* ---- errors ---- */

/* "AuthFailure" of a clock that is wrong is the same as of a wrong key; its message is not. */
static const char *remedy(const char *code, const char *message)
{
    if (strcmp(code, "RequestExpired") == 0 || strstr(message, "not yet current") ||
        strstr(message, "Signature expired"))
        return "; this machine's clock is wrong, set it";
    if (strcmp(code, "UnauthorizedOperation") == 0)
        return "; give its IAM policy that action (docs/ec2.md)";
    if (strcmp(code, "AuthFailure") == 0 || strcmp(code, "SignatureDoesNotMatch") == 0 ||
        strcmp(code, "InvalidClientTokenId") == 0)
        return "; check the AWS keys";
    return "";
}

static void name_action(const struct buf *form, char out[64])
{
    const char *from = form->data + strlen("Action=");

    snprintf(out, 64, "%.*s", (int)strcspn(from, "&"), from);
}

static int judge(const struct buf *form, long status, const struct xml *x, char code_out[64],
                 enum ec2_trouble *trouble, struct error *err)
{
    static const struct {
        enum err_class class;
        int code;
    } kinds[] = {
        [EC2_CAPACITY] = {ERR_TEMPORARY, ENOSPC},  [EC2_GONE] = {ERR_TEMPORARY, ENOENT},
        [EC2_DENIED] = {ERR_PERMANENT, EACCES},    [EC2_AWAY] = {ERR_TEMPORARY, EIO},
        [EC2_DRY_RUN] = {ERR_TEMPORARY, EALREADY},
    };
    const char *code, *message;
    char action[64];

    name_action(form, action);
    ec2_error_parts(x, &code, &message);
    snprintf(code_out, 64, "%s", code);
    *trouble = ec2_trouble_of(code, status);
    return err_set(err, kinds[*trouble].class, kinds[*trouble].code, "%s: %s (%.260s)%s", action,
                   code[0] ? code : "no code", message, remedy(code, message));
}

static bool throttle(const char *code)
{
    return strcmp(code, "RequestLimitExceeded") == 0 || strncmp(code, "Throttling", 10) == 0;
}

/* `out->unsure` only ever becomes true. */
static int once(struct ec2_api *a, const struct buf *form, int64_t deadline, struct xml **ret,
                char code[64], struct ec2_outcome *out, struct error *err)
{
    struct buf answer cleanup_buf = BUF_INIT(ANSWER_MAX);
    struct ec2_keys k = {0};
    struct xml *x = NULL;
    char action[64];
    long status = 0;

    code[0] = '\0';
    int r = lend_keys(a, deadline, &k, err);
    if (r < 0) {
        out->trouble = err->class == ERR_PERMANENT ? EC2_DENIED : EC2_AWAY;
        return r;
    }
    CURLcode rc = exchange(a, &k, form, deadline, &answer, &status);
    ec2_keys_done(&k);
    out->trouble = EC2_AWAY;
    name_action(form, action);
    if (rc != CURLE_OK)
        out->unsure = true;
    if (rc != CURLE_OK)
        return err_set(err, ERR_TEMPORARY, EHOSTUNREACH, "%s: %s: %s", action, a->url,
                       curl_easy_strerror(rc));
    r = xml_parse(answer.data ? answer.data : "", answer.len, &x, err);
    if (r < 0) {
        out->unsure = true;
        return err_wrap(err, "%s: %s: status %ld", action, a->url, status);
    }
    if (status != 200) {
        r = judge(form, status, x, code, &out->trouble, err);
        out->unsure = out->unsure || (out->trouble == EC2_AWAY && !throttle(code));
        xml_free(x);
        return r;
    }
    out->trouble = EC2_NO_TROUBLE;
    *ret = x;
    return 0;
}

/* ---- calls ---- */

/* Until nobody is to call, by what all calls have met. False: stopped, or the deadline. */
static bool await_turn(struct ec2_api *a, int64_t deadline)
{
    for (;;) {
        int64_t told = a->pace ? a->pace->quiet(a->pace->arg) : 0;
        int64_t all = told > 0 ? clock_mono_ms() + told : 0;
        pthread_mutex_lock(&a->lock);
        int64_t until = all > a->quiet_until ? all : a->quiet_until;
        pthread_mutex_unlock(&a->lock);
        if (until <= clock_mono_ms())
            return true;
        if (until > deadline)
            return false;
        if (event_wait(a->stop_fd, until))
            return false;
    }
}

static void note_throttle(struct ec2_api *a, bool throttled)
{
    pthread_mutex_lock(&a->lock);
    unsigned times = a->throttled = throttled ? a->throttled + 1 : 0;
    pthread_mutex_unlock(&a->lock);
    if (!throttled)
        return;
    int64_t ms = a->pace ? a->pace->throttled(a->pace->arg, times) : 0;
    if (ms <= 0)
        ms = clock_backoff_ms(times, BACKOFF_MS, BACKOFF_CAP);
    pthread_mutex_lock(&a->lock);
    a->quiet_until = clock_mono_ms() + ms;
    pthread_mutex_unlock(&a->lock);
    log_event(LOG_WARN_, "ec2.throttled", "region", a->region, "quiet_ms", LOG_NUM(ms), NULL);
}

static bool expired(const char *code)
{
    return strcmp(code, "ExpiredToken") == 0 || strcmp(code, "RequestExpired") == 0 ||
           strcmp(code, "ExpiredTokenException") == 0;
}

int ec2_call(struct ec2_api *a, const struct buf *form, int64_t deadline, struct xml **ret,
             struct ec2_outcome *outcome, struct error *err)
{
    struct ec2_outcome o = {.trouble = EC2_AWAY};
    struct error why = ERROR_INIT;
    bool renewed = false;
    char code[64];
    int r = -ETIMEDOUT;

    err_set(&why, ERR_TEMPORARY, ETIMEDOUT, "EC2 is not to be called now: it throttles us");
    for (unsigned tries = 0; tries < TRIES_MAX && await_turn(a, deadline); tries++) {
        r = once(a, form, deadline, ret, code, &o, &why);
        note_throttle(a, r < 0 && throttle(code));
        if (r < 0 && expired(code) && !renewed) {
            forget_keys(a);
            renewed = true;
            continue;
        }
        if (r == 0 || o.trouble != EC2_AWAY)
            break;
        int64_t again = clock_mono_ms() + clock_backoff_ms(tries, BACKOFF_MS, BACKOFF_CAP);
        if (again >= deadline || (!throttle(code) && event_wait(a->stop_fd, again)))
            break;
    }
    o.unsure = o.unsure && r < 0;
    if (outcome)
        *outcome = o;
    if (r < 0 && err)
        *err = why;
    return r;
}

/* ---- life ---- */

static const char *first_env(const char *one, const char *other)
{
    const char *value = getenv(one);

    if (!value || !value[0])
        value = getenv(other);
    return value ? value : "";
}

int ec2_api_new(const char *region, struct ec2_api **ret, struct error *err)
{
    const char *url = first_env("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL");

    if (!region[0])
        region = first_env("AWS_REGION", "AWS_DEFAULT_REGION");
    if (!region[0] || strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(region))
        return err_set(err, ERR_PERMANENT, EINVAL,
                       "\"%.60s\" is not an AWS region; set ec2_region or AWS_REGION", region);
    struct ec2_api *a = xcalloc(1, sizeof(*a));
    curl_global_init(CURL_GLOBAL_DEFAULT);
    a->region = xstrdup(region);
    a->url = url[0] ? xstrdup(url)
                    : xasprintf("https://ec2.%s.amazonaws.com%s/", region,
                                strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
    a->sigv4 = xasprintf("aws:amz:%s:ec2", region);
    a->stop_fd = -1;
    pthread_mutex_init(&a->lock, NULL);
    *ret = a;
    return 0;
}

void ec2_api_free(struct ec2_api *a)
{
    if (!a)
        return;
    ec2_keys_done(&a->keys);
    pthread_mutex_destroy(&a->lock);
    free(a->region);
    free(a->url);
    free(a->sigv4);
    free(a);
}

const char *ec2_api_region(const struct ec2_api *a)
{
    return a->region;
}

void ec2_api_pace(struct ec2_api *a, const struct ec2_pace *pace)
{
    a->pace = pace;
}

void ec2_api_stop_fd(struct ec2_api *a, int fd)
{
    a->stop_fd = fd;
}
